"""The policy: decode first, prepare between steps, turns by work, admission in order."""

from __future__ import annotations

from retouch.engine.scheduler import Action, Scheduler, step_work
from retouch.engine.state import BatchKey

SMALL = BatchKey((16, 16), ((16, 16),), guided=False)
LARGE = BatchKey((64, 64), ((64, 64),), guided=True)


class Run:
    """Drives a scheduler as the engine does, with edits known by name, key and steps."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.keys: dict[str, BatchKey] = {}
        self.left: dict[str, int] = {}
        self.log: list[str] = []

    def add(self, name: str, key: BatchKey, steps: int, memory_bytes: int = 1) -> None:
        self.keys[name], self.left[name] = key, steps
        self.scheduler.add(name, memory_bytes)

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


def test_equal_edits_take_turns() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 3)
    run.add("b", SMALL, 3)
    steps = [entry for entry in run.finish() if entry.startswith("denoise")]
    assert steps == ["denoise a", "denoise a", "denoise b", "denoise a", "denoise b", "denoise b"]


def test_a_finished_edit_is_decoded_before_anything_else() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 1)
    run.add("b", SMALL, 1)
    assert run.finish() == ["prepare a", "denoise a", "decode a", "prepare b", "denoise b", "decode b", "idle"]


def test_a_burst_of_arrivals_does_not_stop_those_that_run() -> None:
    run = Run(Scheduler())
    run.add("a", SMALL, 9)
    run.tick()
    for name in "bcd":
        run.add(name, SMALL, 9)
    names = [run.tick().name for _ in range(6)]
    assert names == ["denoise", "prepare", "denoise", "prepare", "denoise", "prepare"]


def test_a_short_edit_that_comes_late_does_not_wait_for_a_long_one() -> None:
    run = Run(Scheduler())
    run.add("long", LARGE, 50)
    for _ in range(5):
        run.tick()
    run.add("short", SMALL, 4)
    while run.log[-1] != "decode short":
        run.tick()
    assert run.log[5:].count("denoise long") <= 1, "one step of the large edit is worth all of the small one's"


def test_a_newcomer_does_not_starve_those_before_it() -> None:
    run = Run(Scheduler())
    run.add("old", SMALL, 50)
    for _ in range(20):
        run.tick()
    run.add("new", SMALL, 20)
    for _ in range(11):
        run.tick()
    assert 4 <= run.log[20:].count("denoise old") <= 6


def test_work_not_steps_is_shared_equally() -> None:
    run = Run(Scheduler())
    run.add("large", LARGE, 1000)
    run.add("small", SMALL, 100_000)
    for _ in range(5000):
        run.tick()
    ratio = run.log.count("denoise small") / run.log.count("denoise large")
    assert abs(ratio / (step_work(LARGE) / step_work(SMALL)) - 1) < 0.05


def test_no_more_edits_run_than_allowed() -> None:
    run = Run(Scheduler(max_running=2))
    for name in "abc":
        run.add(name, SMALL, 3)
    log = run.finish()
    assert log.index("prepare c") > min(log.index("decode a"), log.index("decode b"))


def test_an_edit_waits_until_its_memory_is_free_and_nothing_overtakes_it() -> None:
    run = Run(Scheduler(memory_bytes=10))
    run.add("a", SMALL, 3, memory_bytes=6)
    run.add("b", SMALL, 3, memory_bytes=6)
    run.add("c", SMALL, 3, memory_bytes=1)
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
