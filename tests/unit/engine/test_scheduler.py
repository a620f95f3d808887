"""The policy: decode first, the smallest place next, as many at once as memory allows."""

from __future__ import annotations

from retouch.engine.pipeline import BatchKey
from retouch.engine.scheduler import Action, Scheduler

SMALL = BatchKey((16, 16), ((16, 16),), guided=False)
LARGE = BatchKey((64, 64), ((64, 64),), guided=True)


class Run:
    """Drives a scheduler as the engine does, with edits known by name, key and steps."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.keys: dict[str, BatchKey] = {}
        self.left: dict[str, int] = {}
        self.log: list[str] = []

    def add(self, name: str, key: BatchKey, steps: int, memory_bytes: int = 1, place: int = 0) -> None:
        self.keys[name], self.left[name] = key, steps
        self.scheduler.add(name, memory_bytes, (place,))

    def tick(self) -> Action:
        action = self.scheduler.next()
        self.log.append(" ".join((action.name, *action.edit_ids)))
        if action.name == "prepare":
            self.scheduler.prepared(action.edit_ids[0], self.keys[action.edit_ids[0]])
        for name in action.edit_ids if action.name == "denoise" else ():
            self.left[name] -= 1
            self.scheduler.stepped(name, done=self.left[name] == 0)
        if action.name == "decode":
            self.scheduler.remove(action.edit_ids[0])
        return action

    def finish(self) -> list[str]:
        while self.tick().name != "idle":
            pass
        return self.log


def test_one_edit_goes_from_prepare_to_decode() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 2)
    assert run.finish() == ["prepare a", "denoise a", "denoise a", "decode a", "idle"]


def test_equal_edits_end_in_the_order_they_came() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 3)
    run.add("b", SMALL, 3)
    steps = [entry for entry in run.finish() if entry.startswith("denoise")]
    assert steps == ["denoise a"] * 3 + ["denoise b"] * 3


def test_a_finished_edit_is_decoded_before_anything_else() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 1)
    run.add("b", SMALL, 1)
    assert run.finish() == ["prepare a", "denoise a", "decode a", "prepare b", "denoise b", "decode b", "idle"]


def test_arrivals_that_stand_behind_never_stop_the_one_that_runs() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 9)
    run.tick()
    for name in "bcd":
        run.add(name, SMALL, 9, place=1)
    assert [run.tick().name for _ in range(10)] == ["denoise"] * 9 + ["decode"]


def test_a_newcomer_with_a_smaller_place_runs_after_the_present_step() -> None:
    run = Run(Scheduler())
    run.add("long", LARGE, 50, place=100)
    for _ in range(5):
        run.tick()
    run.add("short", SMALL, 4, place=-3)
    assert [run.tick().name for _ in range(6)] == ["prepare", *["denoise"] * 4, "decode"]
    assert all("short" in entry for entry in run.log[5:])
    assert run.finish().count("denoise long") == 50


def test_the_images_of_one_job_are_made_one_after_the_other() -> None:
    scheduler = Scheduler()
    run = Run(scheduler)
    for image in range(3):
        run.keys[f"j/{image}"], run.left[f"j/{image}"] = SMALL, 2
        scheduler.add(f"j/{image}", 1, (100, 5, 7, image))
    run.keys["k"], run.left["k"] = SMALL, 2
    scheduler.add("k", 1, (100, 5, 8, 0))
    decoded = [entry for entry in run.finish() if entry.startswith("decode")]
    assert decoded == ["decode j/0", "decode j/1", "decode j/2", "decode k"]


def test_as_many_edits_are_held_at_once_as_memory_allows() -> None:
    scheduler = Scheduler(memory_bytes=60)
    run = Run(scheduler)
    for number in range(70):
        run.add(str(number), SMALL, 100, place=-number)
        run.tick(), run.tick()
    assert scheduler.running == 60
    assert run.finish().count("decode 3") == 1


def test_an_edit_waits_until_its_memory_is_free_and_nothing_behind_overtakes_it() -> None:
    run = Run(Scheduler(memory_bytes=10))
    run.add("a", SMALL, 3, memory_bytes=6, place=5)
    run.tick()
    run.add("b", SMALL, 3, memory_bytes=6, place=1)
    run.add("c", SMALL, 3, memory_bytes=1, place=2)
    log = run.finish()
    assert log.index("prepare b") > log.index("decode a")
    assert log.index("prepare c") > log.index("prepare b")


def test_an_edit_larger_than_the_device_is_let_through_alone_so_that_it_can_be_refused() -> None:
    scheduler = Scheduler(memory_bytes=10)
    assert not scheduler.fits(11)
    scheduler.add("a", 11)
    assert scheduler.next() == Action("prepare", ("a",))


def test_a_removed_edit_is_never_chosen_again() -> None:
    scheduler = Scheduler()
    scheduler.add("waiting", 1)
    scheduler.remove("waiting")
    assert not scheduler.busy
    scheduler.add("running", 1)
    scheduler.next()
    scheduler.prepared("running", SMALL)
    scheduler.remove("running")
    assert scheduler.next().name == "idle"


def test_edits_never_share_a_step_unless_the_pipeline_gains_by_it() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 3)
    run.add("b", SMALL, 3)
    assert all(len(entry.split()) <= 2 for entry in run.finish())


def test_small_edits_with_equal_keys_share_a_step_where_it_helps() -> None:
    run = Run(Scheduler(shared_step_tokens=1024))
    run.add("a", SMALL, 3)
    run.add("b", SMALL, 2)
    run.add("c", BatchKey((16, 16), ((16, 16),), guided=True), 3)
    log = run.finish()
    assert "denoise a b" in log
    assert all("c" not in entry.split() or len(entry.split()) == 2 for entry in log)


def test_large_edits_never_share_a_step() -> None:
    run = Run(Scheduler(shared_step_tokens=1024))
    run.add("a", LARGE, 2)
    run.add("b", LARGE, 2)
    assert all(len(entry.split()) <= 2 for entry in run.finish())


def test_words_and_steps_alternate_and_a_finished_edit_comes_first() -> None:
    run = Run(Scheduler(speaking=True))
    run.add("a", SMALL, 2)
    assert [run.tick().name for _ in range(7)] == ["speak", "prepare", "speak", "denoise", "speak", "denoise", "decode"]
    assert [run.tick().name for _ in range(2)] == ["speak", "speak"]
    run.scheduler.speaking = False
    assert run.tick().name == "idle"
