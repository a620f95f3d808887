"""The loop: one tick prepares one edit, takes one denoise step, continues one answer in words, or decodes one image.

Owns the states of the edits it runs and turns whatever goes wrong around one edit into that edit's
failure, so the others never notice. Does not know jobs, HTTP or how a model computes.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from retouch.edit import EditSpec, Notice
from retouch.engine.device_errors import DeviceLost, is_device_loss
from retouch.engine.pipeline import DenoiseState, Pipeline
from retouch.engine.scheduler import Action, ActionName, Place, Scheduler
from retouch.errors import InternalError, OutOfMemory, RetouchError
from retouch.images import Pixels

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """An edit that has just finished step `step` of `steps`."""

    edit_id: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished image, uint8 (height, width, 3), the seconds spent in `prepare`, `denoise`, `decode`, and what the
    model found worth saying."""

    edit_id: str
    pixels: Pixels
    timings: Mapping[str, float]
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """An edit that ended without an image."""

    edit_id: str
    error: RetouchError


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one tick did. A cancelled edit appears in no report. seconds: of a denoise step, for all its edits."""

    action: ActionName
    progressed: tuple[Progress, ...] = ()
    finished: tuple[Finished, ...] = ()
    failed: tuple[Failed, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class _Edit:
    """One edit from `add` to its report."""

    spec: EditSpec
    images: Sequence[Pixels]
    inputs: Any = None
    state: DenoiseState | None = None
    timings: dict[str, float] = field(default_factory=lambda: {"prepare": 0.0, "denoise": 0.0, "decode": 0.0})


@dataclass(slots=True)
class _Speech:
    """An answer of the language model that is not finished yet, and who waits for it."""

    words: Generator[None, None, Any]
    answer: Future[Any]


FIRST_TURN_S = 0.05
"""How long a language model speaks in one tick before any denoise step was measured."""


class Engine:
    """Runs edits on one pipeline, step by step in the order of their places.

    One thread calls `step`; everything else may be called from any thread.
    memory_bytes: what the states of all running edits may hold together, or None for no limit.
    """

    def __init__(self, pipeline: Pipeline, *, memory_bytes: int | None = None) -> None:
        self._pipeline = pipeline
        self._scheduler = Scheduler(memory_bytes, pipeline.shared_step_tokens)
        self._edits: dict[str, _Edit] = {}
        self._speeches: deque[_Speech] = deque()
        self._step_s = FIRST_TURN_S
        self._device_lost = False
        self._lock = threading.Condition()  # of a reentrant lock; notified when an edit arrives

    def stage(self, spec: EditSpec, images: Sequence[Pixels]) -> Any:
        """What the host can do for an edit beside the device's work, for `add`; see `Pipeline.stage`."""
        return self._pipeline.stage(spec, images)

    def add(
        self,
        spec: EditSpec,
        images: Sequence[Pixels],
        *,
        edit_id: str | None = None,
        place: Place = (),
        inputs: Any = None,
    ) -> str:
        """Let an edit wait for its turn; returns its id. `images`: uint8 (height, width, 3), original sizes.

        place: smaller ones go first, equal ones in the order they are added. inputs: what `stage` gave for it; without
        them the same is done in the edit's turn.
        """
        edit_id = edit_id or uuid.uuid4().hex
        with self._lock:
            assert edit_id not in self._edits, f"the edit {edit_id} is already here"
            self._edits[edit_id] = _Edit(spec, tuple(images), inputs)
            self._scheduler.add(edit_id, self._pipeline.memory_bytes(spec, len(images)), place)
            self._lock.notify_all()
        return edit_id

    def begun(self, edit_id: str) -> bool:
        """Whether it is prepared and not yet decoded; False for an id that is not, or no longer, known."""
        edit = self._edits.get(edit_id)
        return edit is not None and edit.state is not None

    def check_prompt(self, prompt: str) -> None:
        """Raise InvalidRequest for a prompt that the model cannot take; cheap, no turn is waited for."""
        self._pipeline.check_prompt(prompt)

    def interleave(self, words: Generator[None, None, T]) -> Future[T]:
        """Advance `words` in the thread that calls `step`, in turns between denoise steps; its result or its error.

        Cancelling the future closes the generator before its next turn.
        """
        answer: Future[T] = Future()
        with self._lock:
            self._speeches.append(_Speech(words, answer))
            self._scheduler.speaking = True
            self._lock.notify_all()
        return answer

    def cancel(self, edit_id: str) -> None:
        """Drop an edit before the next tick; an unknown or finished id is no error."""
        with self._lock:
            self._scheduler.remove(edit_id)
            self._edits.pop(edit_id, None)

    def lose_device(self) -> None:
        """Let the next `step` raise DeviceLost: whatever else uses the device has found it unusable."""
        with self._lock:
            self._device_lost = True
            self._lock.notify_all()

    @property
    def busy(self) -> bool:
        """Whether any edit waits or runs, or an answer is unfinished, or the loss of the device is to be raised."""
        return bool(self._edits or self._speeches or self._device_lost)

    def wait_for_work(self, timeout_s: float) -> bool:
        """Wait until there is anything to do; False when nothing came within `timeout_s`."""
        with self._lock:
            return self._lock.wait_for(lambda: self.busy, timeout_s)

    def preview(self, edit_id: str) -> Pixels | None:
        """A small image of where the edit stands, or None when it is unknown or has taken no step."""
        edit = self._edits.get(edit_id)
        if edit is None or edit.state is None or edit.state.velocity is None:
            return None
        try:
            return self._pipeline.preview(edit.state)
        except Exception as error:
            if is_device_loss(error):
                raise self._loss((edit_id,)) from error
            raise

    def step(self) -> StepReport:
        """One tick: the scheduler decides, the pipeline acts, the report says what was done.

        Raises DeviceLost, after which this engine, and this process, can run nothing more.
        """
        with self._lock:
            if self._device_lost:
                raise self._loss(())
            action = self._scheduler.next()
            edits = {edit_id: self._edits[edit_id] for edit_id in action.edit_ids}
        try:
            match action.name:
                case "prepare":
                    return self._prepare(edits)
                case "denoise":
                    return self._denoise(edits)
                case "decode":
                    return self._decode(edits)
                case "speak":
                    return self._speak()
                case "idle":
                    return StepReport("idle")
        except Exception as error:  # whatever goes wrong around one edit ends that edit alone
            if is_device_loss(error):
                raise self._loss(action.edit_ids) from error
            return StepReport(action.name, failed=self._fail(action, error))

    def _loss(self, at_work: Sequence[str]) -> DeviceLost:
        with self._lock:
            self._device_lost = True
            return DeviceLost(at_work, [edit_id for edit_id, edit in self._edits.items() if edit.state is not None])

    def _prepare(self, edits: Mapping[str, _Edit]) -> StepReport:
        [(edit_id, edit)] = edits.items()
        needed = self._pipeline.memory_bytes(edit.spec, len(edit.images))
        if not self._scheduler.fits(needed):
            size, given = f"{edit.spec.width} x {edit.spec.height}", self._scheduler.memory_bytes or 0
            raise OutOfMemory(
                f"An edit of {size} pixels with {len(edit.images)} input images does not fit this device: it needs "
                f"{needed / 1e9:.2f} GB between its steps, and there are {given / 1e9:.2f} GB."
            )
        with _timed("prepare", edits):
            state = self._pipeline.prepare(edit.spec, edit.images, edit.inputs)
        with self._lock:
            edit.state, edit.images, edit.inputs = state, (), None
            if edit_id in self._edits:
                self._scheduler.prepared(edit_id, state.key)
        return StepReport("prepare")

    def _denoise(self, edits: Mapping[str, _Edit]) -> StepReport:
        states = {edit_id: _state(edit) for edit_id, edit in edits.items()}
        began = time.perf_counter()
        with _timed("denoise", edits):
            self._pipeline.denoise(tuple(states.values()))
        self._step_s = time.perf_counter() - began
        progressed = []
        with self._lock:
            for edit_id, state in states.items():
                if edit_id in self._edits:
                    step, steps = state.step_index, state.spec.steps
                    self._scheduler.stepped(edit_id, done=step >= steps)
                    progressed.append(Progress(edit_id, step, steps))
        return StepReport("denoise", progressed=tuple(progressed), seconds=self._step_s)

    def _decode(self, edits: Mapping[str, _Edit]) -> StepReport:
        [(edit_id, edit)] = edits.items()
        with _timed("decode", edits):
            state = _state(edit)
            pixels = self._pipeline.decode(state)
        with self._lock:
            wanted = edit_id in self._edits
            self.cancel(edit_id)
        finished = (Finished(edit_id, pixels, edit.timings, state.notices),) if wanted else ()
        return StepReport("decode", finished=finished)

    def _speak(self) -> StepReport:
        """Continue the answer that waits longest, for about as long as the last denoise step took."""
        with self._lock:
            speech = self._speeches.popleft()
        until = time.perf_counter() + self._step_s
        finished = self._turn(speech)
        while not finished and time.perf_counter() < until:
            finished = self._turn(speech)
        with self._lock:
            if not finished:
                self._speeches.append(speech)
            self._scheduler.speaking = bool(self._speeches)
        return StepReport("speak")

    @staticmethod
    def _turn(speech: _Speech) -> bool:
        """One `next`; True when there is none after it."""
        if speech.answer.cancelled():
            speech.words.close()
            return True
        try:
            next(speech.words)
        except StopIteration as end:
            if speech.answer.set_running_or_notify_cancel():
                speech.answer.set_result(end.value)
            return True
        except Exception as error:  # noqa: BLE001 - belongs to the caller that waits for this answer alone
            if speech.answer.set_running_or_notify_cancel():
                speech.answer.set_exception(error)
            return True
        return False

    def _fail(self, action: Action, error: Exception) -> tuple[Failed, ...]:
        """End the edits of a failed tick; those that were cancelled meanwhile are not reported."""
        failed = []
        with self._lock:
            for edit_id in action.edit_ids:
                if edit_id in self._edits:
                    failed.append(Failed(edit_id, _as_ours(error, action.name, edit_id)))
                self.cancel(edit_id)
        return tuple(failed)


def _state(edit: _Edit) -> DenoiseState:
    assert edit.state is not None, "only a prepared edit takes steps"
    return edit.state


@contextmanager
def _timed(stage: str, edits: Mapping[str, _Edit]) -> Iterator[None]:
    """Add the seconds of the block to every edit's timings, shared equally between them."""
    started = time.perf_counter()
    yield
    elapsed = time.perf_counter() - started
    for edit in edits.values():
        edit.timings[stage] += elapsed / len(edits)


def _as_ours(error: Exception, action: ActionName, edit_id: str) -> RetouchError:
    if isinstance(error, RetouchError):
        return error
    names = {cls.__name__ for cls in type(error).__mro__}  # by name, because the engine must not import torch
    if names & {"OutOfMemoryError", "MemoryError"} or "can't allocate memory" in str(error):
        logger.warning("out of memory in %s of edit %s: %s", action, edit_id, error)
        return OutOfMemory("The device ran out of memory; try a smaller size or fewer input images.")
    logger.error("%s of edit %s failed", action, edit_id, exc_info=error)
    return InternalError("The edit failed because of an error of the server.")
