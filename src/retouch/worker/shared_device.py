"""One device under several models: loads them one after the other and says whose turn it is.

Each model has its own engine and its own worker; only the device is common. Turns are single ticks of an engine, and
models that have work get equal shares of the device's time, so a long edit of one does not hold up the other. Where the
weights of all do not fit together, those of the model whose turn it is are on the device, and a turn then lasts for as
long as bringing them there was worth it. Does not know jobs or edits; what fits is the memory plan's matter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from retouch.engine.pipeline import Pipeline

RECHECK_S: Final = 0.05
"""How late a seat may notice that another one has lost its work without having had a turn."""

WORTH: Final = 20
"""A model keeps the device for so many times what bringing its weights there took, while it has work: 5 % are lost."""


@dataclass(eq=False, slots=True)
class Seat:
    """One model at the device. busy: whether it has work now. used_s: device time, and what idle times are worth."""

    busy: Callable[[], bool]
    pipeline: Pipeline | None = None
    used_s: float = 0.0
    waiting: bool = False
    rests: bool = field(default=True)

    @property
    def active(self) -> bool:
        return self.waiting or self.busy()


class SharedDevice:
    """Safe from any thread; each seat is used by one.

    models: how many will load. swaps: whether only one of them may have its weights on the device at a time.
    """

    def __init__(self, models: int = 1, *, swaps: bool = False) -> None:
        self.models = models
        self.swaps = swaps
        self._seats: list[Seat] = []
        self._holder: Seat | None = None
        self._resident: Seat | None = None
        self._stays_until = 0.0
        self._began = 0.0
        self._to_load = models
        self._to_start = models
        self._running = 0
        self._loading = threading.Lock()
        self._changed = threading.Condition()

    def seat(self, busy: Callable[[], bool]) -> Seat:
        """A place for one model, taken before anything is loaded."""
        seat = Seat(busy)
        with self._changed:
            self._seats.append(seat)
        return seat

    def load(self, seat: Seat, load: Callable[[], Pipeline]) -> Pipeline:
        """Load one model while no other one loads, then wait until every one was tried. Raises what `load` raises."""
        try:
            with self._loading:
                seat.pipeline = load()
                if self.swaps:
                    seat.pipeline.leave_device()
        finally:
            with self._changed:
                self._to_load -= 1
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: self._to_load == 0)
        return seat.pipeline

    def started(self, *, running: bool) -> None:
        """A model can run edits now, or never will."""
        with self._changed:
            self._to_start -= 1
            self._running += running
            self._changed.notify_all()

    def others_run(self) -> bool:
        """Whether any model can run edits, once it is known of all."""
        with self._changed:
            self._changed.wait_for(lambda: self._to_start == 0)
            return self._running > 0

    def none_runs(self) -> bool:
        """Whether it is known of every model that it cannot run edits."""
        with self._changed:
            return self._to_start == 0 and self._running == 0

    @contextmanager
    def turn(self, seat: Seat, timeout_s: float | None = None) -> Iterator[bool]:
        """The device for the block; False, and not the device, when it was not there within `timeout_s`."""
        if not self._take(seat, timeout_s):
            yield False
            return
        try:
            self._bring(seat)
            yield True
        finally:
            with self._changed:
                seat.used_s += time.perf_counter() - self._began
                self._holder = None
                self._changed.notify_all()

    def _take(self, seat: Seat, timeout_s: float | None) -> bool:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            if seat.rests:  # idle time is not saved up
                others = [other.used_s for other in self._seats if other is not seat and other.active]
                seat.used_s = max(seat.used_s, min(others, default=seat.used_s))
            seat.waiting, seat.rests = True, False
            while not (self._holder is None and self._next() is seat):
                if until is not None and time.monotonic() >= until:
                    seat.waiting = False
                    return False
                self._changed.wait(RECHECK_S)
            seat.waiting = False
            self._holder, self._began = seat, time.perf_counter()
        return True

    def _next(self) -> Seat:
        """Who has used least of those that have work, though it may only be on its way back for the next turn."""
        for seat in self._seats:
            seat.rests = seat.rests or not seat.active
        active = [seat for seat in self._seats if seat.active]
        if self._resident in active and time.monotonic() < self._stays_until:
            assert self._resident is not None, "it is one of the seats"
            return self._resident
        return min(active, key=lambda seat: seat.used_s)

    def _bring(self, seat: Seat) -> None:
        """Have the seat's weights on the device, instead of another's."""
        if not self.swaps or self._resident is seat:
            return
        began = time.monotonic()
        if self._resident is not None and self._resident.pipeline is not None:
            self._resident.pipeline.leave_device()
        self._resident = seat
        assert seat.pipeline is not None, "a seat takes turns once its model is loaded"
        seat.pipeline.enter_device()
        now = time.monotonic()
        self._stays_until = now + WORTH * (now - began)
