"""Which edit does what next on one device: the smallest place first, as many at once as memory allows.

The policy, in order of weight:

1. *decode* an edit that has all its steps: its caller waits for it and it holds memory;
2. *speak*, continue a language model's answer for about as long as a step takes, in every second tick: a job waits
   for it before it is an edit at all, and those that run lose at most half their speed for a few seconds;
3. *prepare* the waiting edit with the smallest place when it stands before every running one and there is memory for
   it beside them;
4. *denoise* the running edit with the smallest place, one step.

A place is given with the edit and never changes (`jobs/fair_queue.py` writes a job's), so equal edits end in the order
of submission, and a short one that was placed before a long one overtakes it at the next step. Turns would make all of
them late together. What does not fit waits until edits before it, or those that hold the memory, have ended; nothing
that stands behind it overtakes it. Edits share a step only where the pipeline says that it gains by it, and only when
their keys are equal. Knows no tensors and no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from retouch.engine.pipeline import BatchKey

ActionName: TypeAlias = Literal["prepare", "denoise", "decode", "speak", "idle"]

Place: TypeAlias = tuple[int, ...]
"""Smaller runs first; of edits with equal places the one that came first."""


@dataclass(frozen=True, slots=True)
class Action:
    """One tick's work. `edit_ids` holds one id, several only for a shared denoise step, none for speak and idle."""

    name: ActionName
    edit_ids: tuple[str, ...] = ()


IDLE = Action("idle")
SPEAK = Action("speak")


@dataclass(slots=True)
class _Turn:
    """What the scheduler remembers of one edit. key: None while it waits."""

    edit_id: str
    place: tuple[Place, int]
    memory_bytes: int
    key: BatchKey | None = None
    done: bool = False


@dataclass(slots=True)
class Scheduler:
    """The order of things on one device.

    memory_bytes: what all running edits may hold together, or None for no limit. shared_step_tokens: edits of at
    most so many tokens share a step when their keys are equal; 0 means never. speaking: whether a language model's
    answer waits to be continued.
    """

    memory_bytes: int | None = None
    shared_step_tokens: int = 0
    speaking: bool = False
    _waiting: dict[str, _Turn] = field(default_factory=dict)
    _running: dict[str, _Turn] = field(default_factory=dict)
    _arrivals: Iterator[int] = field(default_factory=itertools.count)
    _last: ActionName = "idle"

    def add(self, edit_id: str, memory_bytes: int, place: Place = ()) -> None:
        """Let an edit wait for admission; `memory_bytes` is what it will hold while it runs."""
        self._waiting[edit_id] = _Turn(edit_id, (place, next(self._arrivals)), memory_bytes)

    def fits(self, memory_bytes: int) -> bool:
        """Whether an edit of that size could run if it were alone."""
        return self.memory_bytes is None or memory_bytes <= self.memory_bytes

    def remove(self, edit_id: str) -> None:
        """Forget an edit wherever it is; unknown ids are no error."""
        self._running.pop(edit_id, None)
        self._waiting.pop(edit_id, None)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def running(self) -> int:
        """How many edits are between prepare and decode."""
        return len(self._running)

    def next(self) -> Action:
        """What to do now. The caller does it, then calls `prepared`, `stepped` or `remove`."""
        action = self._choose()
        self._last = action.name
        return action

    def _choose(self) -> Action:
        finished = _first(turn for turn in self._running.values() if turn.done)
        if finished is not None:
            return Action("decode", (finished.edit_id,))
        if self.speaking and self._last != "speak":
            return SPEAK
        newcomer, runner = _first(self._waiting.values()), _first(self._running.values())
        if newcomer is not None and self._admits(newcomer, runner):
            return Action("prepare", (newcomer.edit_id,))
        if runner is not None:
            if not self._shares(runner):
                return Action("denoise", (runner.edit_id,))
            return Action("denoise", tuple(turn.edit_id for turn in self._running.values() if turn.key == runner.key))
        return SPEAK if self.speaking else IDLE

    def _admits(self, newcomer: _Turn, runner: _Turn | None) -> bool:
        if runner is None:
            return True  # alone; what does not fit even so is refused when it is prepared, instead of waiting for ever
        held = sum(turn.memory_bytes for turn in self._running.values())
        fits = self.memory_bytes is None or held + newcomer.memory_bytes <= self.memory_bytes
        if newcomer.place < runner.place:
            return fits
        # It may turn out to have an equal key. One at a time, so that those that run take a step in between.
        return fits and self._shares(runner) and self._last != "prepare"

    def _shares(self, turn: _Turn) -> bool:
        assert turn.key is not None, "a running edit was prepared"
        return tokens(turn.key) <= self.shared_step_tokens

    def prepared(self, edit_id: str, key: BatchKey) -> None:
        """The edit that was to be prepared now runs."""
        turn = self._running[edit_id] = self._waiting.pop(edit_id)
        turn.key = key

    def stepped(self, edit_id: str, *, done: bool) -> None:
        """The edit has taken a step; `done` when it was its last."""
        self._running[edit_id].done = done


def _first(turns: Iterable[_Turn]) -> _Turn | None:
    return min(turns, key=lambda turn: turn.place, default=None)


def tokens(key: BatchKey) -> int:
    """Image tokens of one branch: the target's and all references'."""
    return sum(rows * columns for rows, columns in (key.target, *key.references))
