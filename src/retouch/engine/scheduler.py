"""Which edit does what next: admission, turns, and who may share a denoise step.

The policy, in order of weight:

1. *decode* an edit that has all its steps: its caller waits for it and it holds memory;
2. *speak*, continue a language model's answer for about as long as a step takes, in every second tick: a job waits
   for it before it is an edit at all, and those that run lose at most half their speed for a few seconds;
3. *prepare* the oldest waiting edit when there is room, but never twice in a row while others could take
   a step, so that a burst of arrivals does not stop those that run;
4. *denoise* the running edit that has had the least device work so far, one step at a time. Work is
   counted by tokens, so a small edit gets more steps in the same time than a large one, and a short edit
   is through after its own share instead of after every edit before it. A newcomer starts at the least
   work of those that run: it neither waits for them to catch up nor owes them anything.

Admission is first come, first served: an edit that does not fit waits, and nothing overtakes it. Turns are
the default because a 1-megapixel step fills a GPU by itself; edits share a step only where the pipeline
says that it gains by it, and only when their keys are equal. Knows no tensors and no model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from retouch.engine.state import BatchKey

ActionName: TypeAlias = Literal["prepare", "denoise", "decode", "speak", "idle"]

ATTENTION_TOKENS = 18_430
"""At this many tokens attention costs as much as everything linear (Qwen-Image-Edit: 24 D^2 against 4 S D)."""


@dataclass(frozen=True, slots=True)
class Action:
    """One tick's work. `edit_ids` holds one id, several only for a shared denoise step, none for speak and idle."""

    name: ActionName
    edit_ids: tuple[str, ...] = ()


IDLE = Action("idle")
SPEAK = Action("speak")


@dataclass(slots=True)
class _Turn:
    """What the scheduler remembers of one running edit."""

    edit_id: str
    key: BatchKey
    memory_bytes: int
    work: float  # device work this edit has had, or was credited with on arrival
    done: bool = False


@dataclass(slots=True)
class Scheduler:
    """The order of things on one device.

    memory_bytes: what all running edits may hold together, or None for no limit. max_running: how many
    may be between prepare and decode. shared_step_tokens: edits of at most so many tokens share a step
    when their keys are equal; 0 means never. speaking: whether a language model's answer waits to be continued.
    """

    memory_bytes: int | None = None
    max_running: int = 8
    shared_step_tokens: int = 0
    speaking: bool = False
    _waiting: deque[tuple[str, int]] = field(default_factory=deque)
    _running: dict[str, _Turn] = field(default_factory=dict)
    _last: ActionName = "idle"

    def add(self, edit_id: str, memory_bytes: int) -> None:
        """Let an edit wait for admission; `memory_bytes` is what it will hold while it runs."""
        self._waiting.append((edit_id, memory_bytes))

    def fits(self, memory_bytes: int) -> bool:
        """Whether an edit of that size could run if it were alone."""
        return self.memory_bytes is None or memory_bytes <= self.memory_bytes

    def remove(self, edit_id: str) -> None:
        """Forget an edit wherever it is; unknown ids are no error."""
        self._running.pop(edit_id, None)
        self._waiting = deque(entry for entry in self._waiting if entry[0] != edit_id)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def next(self) -> Action:
        """What to do now. The caller does it, then calls `prepared`, `stepped` or `remove`."""
        action = self._choose()
        self._last = action.name
        return action

    def _choose(self) -> Action:
        finished = next((turn for turn in self._running.values() if turn.done), None)
        if finished is not None:
            return Action("decode", (finished.edit_id,))
        if self.speaking and self._last != "speak":
            return SPEAK
        if self._has_room() and not (self._running and self._last == "prepare"):
            return Action("prepare", (self._waiting[0][0],))
        if self._running:
            return Action("denoise", self._sharing_with(min(self._running.values(), key=lambda turn: turn.work)))
        return SPEAK if self.speaking else IDLE

    def _has_room(self) -> bool:
        if not self._waiting or len(self._running) >= self.max_running:
            return False
        if self.memory_bytes is None or not self._running:
            return True
        held = sum(turn.memory_bytes for turn in self._running.values())
        return held + self._waiting[0][1] <= self.memory_bytes

    def _sharing_with(self, turn: _Turn) -> tuple[str, ...]:
        if tokens(turn.key) > self.shared_step_tokens:
            return (turn.edit_id,)
        return tuple(other.edit_id for other in self._running.values() if other.key == turn.key)

    def prepared(self, edit_id: str, key: BatchKey) -> None:
        """The edit that was to be prepared now runs."""
        memory_bytes = next(held for waiting, held in self._waiting if waiting == edit_id)
        self._waiting = deque(entry for entry in self._waiting if entry[0] != edit_id)
        least = min((turn.work for turn in self._running.values()), default=0.0)
        self._running[edit_id] = _Turn(edit_id, key, memory_bytes, work=least)

    def stepped(self, edit_id: str, *, done: bool) -> None:
        """The edit has taken a step; `done` when it was its last."""
        turn = self._running[edit_id]
        turn.work += step_work(turn.key)
        turn.done = done


def tokens(key: BatchKey) -> int:
    """Image tokens of one branch: the target's and all references'."""
    return sum(rows * columns for rows, columns in (key.target, *key.references))


def step_work(key: BatchKey) -> float:
    """Relative device work of one denoise step: linear layers, attention, and both branches when guided."""
    count = tokens(key)
    branches = 2 if key.guided else 1
    return branches * count * (1 + count / ATTENTION_TOKENS)
