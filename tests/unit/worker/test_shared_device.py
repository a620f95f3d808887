"""Several models on one device: shares of its time, and whose weights are on it."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from retouch.engine.pipelines.null import NullPipeline
from retouch.worker.worker import Seat, SharedDevice
from tests.waiting import until


class Weights(NullPipeline):
    """Notes when its weights come and go."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def enter_device(self) -> None:
        self.log.append(f"{self.name} enters")

    def leave_device(self) -> None:
        self.log.append(f"{self.name} leaves")


class Model:
    """A thread that takes turns while it has work; each costs so many seconds of its own account."""

    def __init__(self, device: SharedDevice, name: str, log: list[str], cost: float, turns: int) -> None:
        self.name, self.log, self.cost, self.turns, self.left = name, log, cost, turns, 0
        self.device = device
        self.seat = device.seat(lambda: self.left > 0)
        self.thread = self._new_thread()

    def start_over(self) -> None:
        self.thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.left = self.turns
        while self.left:
            with self.device.turn(self.seat):
                self.log.append(self.name)
                self.left -= 1
                self.seat.used_s += self.cost


def run(*models: Model) -> None:
    first = models[0].device
    gate = first.seat(lambda: False)
    with first.turn(gate):  # so that all of them wait when the first turn is given
        for model in models:
            model.thread.start()
        until(lambda: all(model.seat.waiting for model in models))
    for model in models:
        model.thread.join(10)
        assert not model.thread.is_alive()


def test_models_with_work_get_equal_shares_of_the_time_whatever_a_turn_takes():
    device, log = SharedDevice(2), []
    run(Model(device, "slow", log, 1000.0, 4), Model(device, "quick", log, 100.0, 40))
    seconds = {"slow": 0.0, "quick": 0.0}
    for name in log:
        seconds[name] += 1000.0 if name == "slow" else 100.0
        if all(log.count(each) for each in seconds) and min(seconds.values()):
            assert abs(seconds["slow"] - seconds["quick"]) <= 1100.0


def test_time_without_work_is_not_saved_up():
    device, log = SharedDevice(2), []
    early, late = Model(device, "early", log, 10.0, 10), Model(device, "late", log, 10.0, 10)
    run(early)
    early.start_over()
    run(early, late)
    both = log[10:30]
    assert "late" in both[:3]
    assert both.count("early") >= 8


def test_a_model_that_has_the_device_to_itself_does_not_wait():
    device = SharedDevice(2)
    device.seat(lambda: False)
    own = device.seat(lambda: True)
    for _ in range(3):
        with device.turn(own, timeout_s=1.0) as mine:
            assert mine


def test_the_device_is_not_waited_for_longer_than_said():
    device = SharedDevice(2)
    busy, other = device.seat(lambda: True), device.seat(lambda: True)
    with device.turn(busy), device.turn(other, timeout_s=0.1) as mine:
        assert not mine


def test_weights_that_do_not_fit_together_come_and_go_with_the_turns():
    device, log = SharedDevice(2, swaps=True), []
    seats = {name: device.seat(lambda: False) for name in ("a", "b")}
    threads = [
        threading.Thread(target=device.load, args=(seat, lambda name=name: Weights(name, log)), daemon=True)
        for name, seat in seats.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(log) == ["a leaves", "b leaves"]
    log.clear()
    for name in ("a", "a", "b", "a"):
        with device.turn(seats[name]):
            log.append(name)
    assert log == ["a enters", "a", "a", "a leaves", "b enters", "b", "b leaves", "a enters", "a"]


def test_a_model_keeps_the_device_for_as_long_as_its_weights_were_worth_bringing(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    device, log = SharedDevice(2, swaps=True), []

    class Slow(Weights):
        def enter_device(self) -> None:
            super().enter_device()
            now[0] += 1.0

    seats = [Seat(lambda: True, Slow(name, log)) for name in ("a", "b")]
    device._seats += seats
    seats[0].waiting = seats[1].waiting = True
    device._bring(seats[0])
    seats[0].used_s = 5.0
    assert device._next() is seats[0]
    now[0] += 21.0
    assert device._next() is seats[1]


def test_models_load_one_after_the_other_and_run_when_all_were_tried():
    device = SharedDevice(2)
    spans: list[tuple[float, float]] = []

    def load() -> NullPipeline:
        began = time.perf_counter()
        until(lambda: time.perf_counter() > began + 0.01)
        spans.append((began, time.perf_counter()))
        return NullPipeline()

    def broken() -> NullPipeline:
        load()
        raise ValueError("no weights")

    def start(loader) -> None:
        seat = device.seat(lambda: False)
        try:
            device.load(seat, loader)
        except ValueError:
            device.started(running=False)
        else:
            assert len(spans) == 2
            device.started(running=True)

    threads = [threading.Thread(target=start, args=(loader,)) for loader in (load, broken)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert device.others_run()
    assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans)))
