"""What every database must do with jobs; the whole suite runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from retouch.accounts.keys import Account
from retouch.accounts.ledger import Ledger
from retouch.accounts.tables import usage_entry
from retouch.edit import Bucket, Delivery, ImageInput, Notice
from retouch.engine.cost import Cost
from retouch.errors import (
    Failure,
    IdempotencyKeyReused,
    InvalidRequest,
    JobFinished,
    LeaseLost,
    QueueFull,
    RetouchError,
    UnknownJob,
    UnknownModel,
)
from retouch.jobs import fair_queue, sweep
from retouch.jobs.job import PRIORITY_LOW, PRIORITY_NORMAL, Idempotency, Job, JobState, Lease, Preview
from retouch.jobs.sweep import Swept
from retouch.jobs.tables import (
    caller_bucket,
    fair_share,
    idempotency,
    job,
    job_event,
    job_tally,
    webhook_outbox,
    worker,
)
from retouch.service import Service, ServiceSettings
from tests.harness import ANNE, BEN, DELIVERY, OUTPUT, USAGE, Deployment, an_edit

HOOKED = replace(DELIVERY, webhook_url="https://example.com/hook")
FAILURE = Failure("out_of_memory", "This size does not fit the device.")


# --- submit and read


def test_a_submitted_job_reads_back_as_it_was_written(world: Deployment) -> None:
    request = an_edit("café \x00 \U0001f600 \ud800", seed=3, num_images=2)
    submitted = world.service.submit(ANNE, request, HOOKED)
    assert not submitted.replayed
    read = world.job(submitted.job.id)
    assert read == submitted.job
    assert (read.state, read.queue, read.attempt, read.steps) == (JobState.QUEUED, "demo", 0, 8)
    assert read.request.prompt == request.prompt
    assert read.created_at.tzinfo is UTC


def test_a_job_is_invisible_to_another_account(world: Deployment) -> None:
    mine = world.submit(ANNE)
    assert world.service.get(ANNE, mine.id).id == mine.id
    for stranger in (lambda: world.service.get(BEN, mine.id), lambda: world.service.cancel(BEN, mine.id)):
        with pytest.raises(UnknownJob):
            stranger()
    assert world.service.recent(BEN, 10) == ()


@pytest.mark.parametrize("job_id", ["", "nonsense", "a\x00b", "ab\ud800", "x" * 5000])
def test_an_id_that_cannot_be_one_is_an_unknown_job(world: Deployment, job_id: str) -> None:
    with pytest.raises(UnknownJob):
        world.service.get(ANNE, job_id)
    with pytest.raises(UnknownJob):
        world.service.cancel(ANNE, job_id)
    assert world.service.events(job_id) == ()
    assert world.service.get_many([job_id]) == {}


def test_an_unknown_model_is_refused_before_anything_is_written(world: Deployment) -> None:
    with pytest.raises(UnknownModel):
        world.service.submit(ANNE, replace(an_edit(), model="none"), DELIVERY)
    assert world.count(job) == 0


@pytest.mark.parametrize(
    "delivery",
    [
        replace(DELIVERY, webhook_url="https://example.com/\x00"),
        replace(DELIVERY, webhook_url="https://exämple.com/"),
        replace(DELIVERY, retention_s=1e300),
        replace(DELIVERY, retention_s=-1.0),
        replace(DELIVERY, retention_s=float("nan")),
    ],
)
def test_a_delivery_that_would_keep_a_job_from_ending_is_refused(world: Deployment, delivery: Delivery) -> None:
    with pytest.raises(InvalidRequest):
        world.service.submit(ANNE, an_edit(), delivery)
    assert world.count(job) == 0


def test_recent_jobs_come_newest_first(world: Deployment) -> None:
    jobs = [world.submit(ANNE) for _ in range(3)]
    world.submit(BEN)
    assert [each.id for each in world.service.recent(ANNE, 2)] == [jobs[2].id, jobs[1].id]


# --- order


def run_order(world: Deployment) -> list[str]:
    """Prompts in the order in which one worker gets them."""
    prompts = []
    while (lease := world.service.lease("w1", ["demo"], 30)) is not None:
        prompts.append(lease.job.request.prompt)
        world.service.finish(lease, OUTPUT, USAGE)
    return prompts


def test_jobs_of_one_account_run_in_order_of_submission(world: Deployment) -> None:
    prompts = [f"edit {number}" for number in range(8)]
    for prompt in prompts:
        world.submit(prompt=prompt)
    assert run_order(world) == prompts


def test_a_heavy_account_cannot_starve_a_light_one(world: Deployment, strict_turns: None) -> None:
    vip = Account("vip", "vip", "key_vip", weight=2)
    for account, count in ((ANNE, 60), (BEN, 4), (vip, 8)):
        for _ in range(count):
            world.submit(account, prompt=account.name)
    world.check_the_line()
    served = run_order(world)
    assert served[:12] == ["anne", "ben", "vip", "vip"] * 3
    assert set(served[16:]) == {"anne"}


def test_time_without_jobs_is_not_saved_up(world: Deployment, strict_turns: None) -> None:
    for _ in range(10):
        world.submit(ANNE, prompt="anne")
    for _ in range(6):
        world.service.finish(world.lease(), OUTPUT, USAGE)
    for _ in range(4):
        world.submit(BEN, prompt="ben")
    assert run_order(world) == ["ben", "anne", "ben", "anne", "ben", "anne", "ben", "anne"]


def test_a_job_that_comes_back_does_not_turn_the_clock_back(world: Deployment, strict_turns: None) -> None:
    leases = [world.lease() for _ in [world.submit(ANNE) for _ in range(5)]]
    world.service.release(leases[0])
    assert world.lease().job.id == leases[0].job.id
    assert world.submit(BEN).fair_tag == leases[4].job.fair_tag > 0


def test_four_images_take_four_turns(world: Deployment, strict_turns: None) -> None:
    for _ in range(2):
        world.service.submit(ANNE, an_edit("anne", num_images=4), DELIVERY)
    for _ in range(5):
        world.submit(BEN, prompt="ben")
    assert run_order(world) == ["anne", "ben", "ben", "ben", "ben", "anne", "ben"]


def test_a_cancelled_job_gives_its_turn_back(world: Deployment, strict_turns: None) -> None:
    mistakes = [world.submit(ANNE) for _ in range(50)]
    for mistake in mistakes:
        world.service.cancel(ANNE, mistake.id)
    for _ in range(2):
        world.submit(BEN, prompt="ben")
    world.submit(ANNE, prompt="anne")
    assert run_order(world) == ["ben", "anne", "ben"]


def test_a_short_edit_stands_before_long_ones_of_every_account(world: Deployment) -> None:
    longs = [world.submit(ANNE, prompt="long", steps=40) for _ in range(10)]
    first = world.lease()
    shorts = [world.submit(account, prompt=f"{account.name}'s short", steps=2) for account in (ANNE, BEN)]
    assert all(each.quick for each in shorts)
    assert not any(each.quick for each in longs)
    assert [world.service.position(each) for each in shorts] == [0, 1]
    assert first.job.id == longs[0].id
    assert run_order(world) == ["anne's short", "ben's short", *["long"] * 9]


def test_the_shorter_an_edit_the_further_before_others_it_stands(world: Deployment) -> None:
    world.submit(steps=40)
    world.lease()
    jobs = {steps: world.submit(steps=steps) for steps in (9, 6, 3, 1)}
    assert [world.service.position(jobs[steps]) for steps in (1, 3, 6, 9)] == [0, 1, 2, 3]


def test_a_long_edit_waits_for_a_bounded_amount_of_short_ones(world: Deployment) -> None:
    for _ in range(5):
        world.submit(BEN, prompt="long", steps=40)
        world.service.finish(world.lease(), OUTPUT, USAGE)
    long = world.submit(BEN, prompt="long", steps=40)
    served, cost = 0, 0
    while True:
        world.submit(ANNE, prompt="short", steps=4)
        lease = world.lease()
        world.service.finish(lease, OUTPUT, USAGE)
        if lease.job.id == long.id:
            break
        served, cost = served + 1, cost + lease.job.cost
    assert served > 10, "short edits go first"
    assert cost < 2 * fair_queue.HEAD_START * long.cost, "but not for ever"


def test_a_flood_of_short_edits_of_one_account_does_not_hold_up_another_account_s(world: Deployment) -> None:
    world.submit(ANNE, steps=40)
    world.lease()
    for _ in range(50):
        world.submit(ANNE, prompt="anne", steps=2)
    assert world.service.position(world.submit(BEN, steps=2)) <= 1


def test_an_account_may_lie_behind_its_turn_by_the_allowance_and_no_further(world: Deployment) -> None:
    for account, count in ((ANNE, 60), (BEN, 4)):
        for _ in range(count):
            world.submit(account, prompt=account.name)
    served = run_order(world)
    assert served[: fair_queue.ALLOWANCE] == ["anne"] * fair_queue.ALLOWANCE
    assert served[: fair_queue.ALLOWANCE + 8].count("ben") == 4


def test_a_clock_that_jumps_changes_no_order(world: Deployment) -> None:
    def tags(jumps_s: tuple[int, ...]) -> list[int]:
        jobs = []
        for number in range(12):
            jobs.append(world.submit((ANNE, BEN)[number // 2 % 2], steps=(2, 40)[number % 2]))
            world.clock.move(jumps_s[number % len(jumps_s)])
        for each in jobs:
            world.service.cancel(Account(each.account_id, "", ""), each.id)
        return [each.fair_tag for each in jobs]

    assert tags((1,)) == tags((-3600, 86400, -7))


def test_what_a_device_was_measured_at_decides_what_is_short(world: Deployment) -> None:
    before = world.submit(steps=4)
    slow_steps = Cost({**Cost().coefficients, "denoise": (5.0, 0.0, 0.0)})
    world.service.keep_cost("demo", "a device", slow_steps)
    after = world.submit(steps=4)
    assert after.cost > 20 * before.cost
    assert after.cost == pytest.approx(4 * 5.0 * fair_queue.SECOND, rel=0.1)
    assert world.service.costs("demo") == {"a device": slow_steps}


def test_low_priority_waits_behind_everything_else(world: Deployment) -> None:
    low = world.submit(prompt="low", priority=PRIORITY_LOW)
    normal = world.submit(prompt="normal")
    high = world.submit(prompt="high", priority=PRIORITY_NORMAL - 1)
    assert [world.service.position(each) for each in (high, normal, low)] == [0, 1, 2]
    assert run_order(world) == ["high", "normal", "low"]


def test_low_priority_jobs_do_not_push_the_account_s_normal_ones_back(world: Deployment, strict_turns: None) -> None:
    for _ in range(20):
        world.submit(ANNE, prompt="low", priority=PRIORITY_LOW)
    for account in (BEN, ANNE, BEN, ANNE):
        world.submit(account, prompt=account.name)
    assert run_order(world)[:4] == ["ben", "anne", "ben", "anne"]


def test_only_a_waiting_job_has_jobs_before_it(world: Deployment) -> None:
    first, second = world.submit(), world.submit()
    assert (world.service.position(first), world.service.position(second)) == (0, 1)
    lease = world.lease()
    assert world.service.position(world.job(first.id)) == 0
    assert world.service.position(world.job(second.id)) == 0
    world.service.finish(lease, OUTPUT, USAGE)
    assert world.service.position(world.job(first.id)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_positions_stay_exact_whatever_happens_to_the_line(
    world: Deployment, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(fair_queue, "BLOCK_SIZE", 8)  # so that a hundred jobs cut and join many blocks
    dice = random.Random(seed)
    accounts = [Account(f"a{n}", f"a{n}", f"k{n}", weight=1 + n % 3) for n in range(5)]
    leases: list[Lease] = []
    for turn in range(160):
        waiting = world.waiting_in_order() if turn % 40 == 39 else []
        if waiting or dice.random() < 0.65:
            priority = dice.choice([0, 100, 100, PRIORITY_LOW])
            world.submit(dice.choice(accounts), priority=priority, steps=dice.choice([1, 2, 4, 30]))
        elif dice.random() < 0.3:
            some = world.service.recent(dice.choice(accounts), 5)
            queued = [each for each in some if each.state is JobState.QUEUED]
            if queued:
                account = Account(queued[0].account_id, "", "")
                world.service.cancel(account, dice.choice(queued).id)
        elif leases and dice.random() < 0.5:
            world.service.release(leases.pop(dice.randrange(len(leases))))
        elif (lease := world.service.lease("w", ["demo"], 1000)) is not None:
            leases.append(lease)
        if turn % 20 == 0:
            world.check_the_line()
        if turn % 50 == 0:
            with world.database.transaction() as connection:
                fair_queue.tidy(connection, "demo")
    world.check_the_line()
    expected = [each.id for each in world.waiting_in_order()]
    assert [world.lease(lease_s=1000).job.id for _ in expected] == expected
    with world.database.transaction() as connection:
        fair_queue.tidy(connection, "demo")
    world.check_the_line()


def test_a_job_comes_back_to_a_line_that_had_forgotten_its_account(world: Deployment, strict_turns: None) -> None:
    world.submit(ANNE)
    lease = world.lease()
    world.submit(BEN), world.submit(BEN)
    for _ in range(2):
        world.service.finish(world.lease(), OUTPUT, USAGE)
    with world.database.transaction() as connection:
        fair_queue.forget_idle_shares(connection)
    assert world.count(fair_share) == 1
    world.service.release(lease)
    world.check_the_line()
    world.submit(ANNE)
    assert world.lease().job.id == lease.job.id
    world.check_the_line()


def test_emptied_blocks_go(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "BLOCK_SIZE", 4)
    for _ in range(30):
        world.submit()
    run_order(world)
    with world.database.transaction() as connection:
        assert fair_queue.tidy(connection, "demo") >= 7
        assert len(connection.execute(fair_queue._BLOCKS, {"of_queue": "demo"}).all()) == 1
    world.submit()
    world.check_the_line()


# --- limits


def test_a_queue_length_the_caller_named_is_kept(world: Deployment) -> None:
    world.submit(max_queue_length=0)
    with pytest.raises(QueueFull):
        world.submit(max_queue_length=0)
    world.submit(max_queue_length=1)
    assert world.count(job) == 2


def test_a_full_account_is_refused_and_leaves_nothing_behind(world: Deployment) -> None:
    world.service = Service(
        world.database, world.blobs, world.catalog, world.wakeups, ServiceSettings(max_waiting_per_account=2)
    )
    key = Idempotency("k", "hash")
    world.submit(), world.submit()
    with pytest.raises(QueueFull):
        world.submit(idempotency=key)
    world.submit(BEN)
    assert (world.count(job), world.count(job_event), world.count(idempotency)) == (3, 3, 0)
    world.check_the_line()
    world.lease()
    assert world.submit(idempotency=key).state is JobState.QUEUED


# --- leases and fences


def test_no_job_no_lease(world: Deployment) -> None:
    assert world.service.lease("w1", ["demo", "other"], 30) is None
    world.submit()
    assert world.service.lease("w1", ["other"], 30) is None
    assert world.lease().job.state is JobState.RUNNING


STALE: dict[str, Callable[[Service, Lease], object]] = {
    "renew": lambda service, lease: service.renew(lease, 30),
    "progress": lambda service, lease: service.progress(lease, step=1, steps=4, logs=["late"]),
    "finish": lambda service, lease: service.finish(lease, OUTPUT, USAGE),
    "fail": lambda service, lease: service.fail(lease, FAILURE),
    "acknowledge_cancel": lambda service, lease: service.acknowledge_cancel(lease),
    "release": lambda service, lease: service.release(lease),
}


@pytest.mark.parametrize("verb", STALE)
def test_a_stale_lease_can_do_nothing(world: Deployment, verb: str) -> None:
    world.submit()
    stale = world.lease("w1")
    world.lose_the_worker()
    current = world.lease("w1")  # the same worker's name, back from the dead
    before = (world.job(stale.job.id), world.service.events(stale.job.id))
    with pytest.raises(LeaseLost):
        STALE[verb](world.service, stale)
    assert (world.job(stale.job.id), world.service.events(stale.job.id)) == before
    done = world.service.finish(current, OUTPUT, USAGE)
    with pytest.raises(LeaseLost):
        STALE[verb](world.service, stale)
    with pytest.raises(LeaseLost):
        STALE[verb](world.service, current)
    assert world.job(done.id) == done
    assert world.count(usage_entry) == 1


@pytest.mark.parametrize("verb", STALE)
def test_a_lease_that_was_given_back_is_stale_even_for_the_same_worker(world: Deployment, verb: str) -> None:
    world.submit()
    given_back = world.lease("w1")
    world.service.release(given_back)
    again = world.lease("w1")
    assert again.job.attempt == 1
    with pytest.raises(LeaseLost):
        STALE[verb](world.service, given_back)
    assert world.job(again.job.id).state is JobState.RUNNING


def test_a_late_worker_that_was_not_replaced_may_still_finish(world: Deployment) -> None:
    world.submit()
    lease = world.lease(lease_s=30)
    world.clock.move(60)
    assert world.service.renew(lease, 30) is False
    assert world.service.sweep() == Swept()
    assert world.service.finish(lease, OUTPUT, USAGE).state is JobState.SUCCEEDED


def test_renewing_keeps_the_lease(world: Deployment) -> None:
    world.submit()
    lease = world.lease(lease_s=30)
    for _ in range(5):
        world.clock.move(20)
        world.service.renew(lease, 30)
        assert world.service.sweep() == Swept()
    world.lose_the_worker()
    assert world.job(lease.job.id).state is JobState.QUEUED


def test_a_released_job_keeps_its_place_and_its_attempts(world: Deployment) -> None:
    first, *_ = [world.submit() for _ in range(3)]
    for _ in range(5):
        lease = world.lease()
        assert (lease.job.id, lease.job.attempt) == (first.id, 1)
        world.service.release(lease)
        back = world.job(first.id)
        assert (back.state, back.attempt, back.step, back.started_at) == (JobState.QUEUED, 0, 0, None)
        assert world.service.position(back) == 0
    world.check_the_line()


def test_a_job_whose_workers_all_die_fails_after_three_attempts(world: Deployment) -> None:
    lost = world.service.submit(ANNE, an_edit(), HOOKED).job
    for attempt in (1, 2):
        assert world.lease().job.attempt == attempt
        world.clock.move(31)
        assert world.service.sweep() == Swept(requeued=1)
    world.lease()
    world.clock.move(31)
    assert world.service.sweep() == Swept(worker_lost=1)
    ended = world.job(lost.id)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 3)
    assert ended.failure is not None
    assert ended.failure.code == "worker_lost"
    assert (world.count(webhook_outbox), world.count(usage_entry)) == (1, 0)
    assert world.service.sweep() == Swept()


# --- the end of a job


def test_finishing_writes_state_usage_and_webhook_together(world: Deployment) -> None:
    submitted = world.service.submit(ANNE, an_edit(), HOOKED).job
    notice = Notice("size", "converted", "Used 256x256.")
    done = world.service.finish(world.lease(), replace(OUTPUT, notices=(notice,)), USAGE)
    assert done == world.job(submitted.id)
    assert (done.state, done.finished_at, done.failure) == (JobState.SUCCEEDED, world.clock.now, None)
    assert done.output is not None
    assert done.output.notices == (notice,)
    price = world.catalog.route("qwen-image-edit").price_microusd(USAGE)
    assert price > 0
    assert done.usage == replace(USAGE, price_microusd=price)
    (entry,) = Ledger(world.database).entries(ANNE.id)
    assert (entry.job_id, entry.key_id, entry.model, entry.usage) == (
        done.id,
        "key_anne",
        "qwen-image-edit",
        done.usage,
    )
    with world.database.read() as connection:
        (owed,) = connection.execute(select(webhook_outbox)).all()
    assert (owed.job_id, owed.url, owed.attempts) == (done.id, HOOKED.webhook_url, 0)
    assert owed.next_attempt_at == world.clock.now


def test_what_the_submit_told_the_caller_is_told_again_with_the_result(world: Deployment) -> None:
    submitted = world.service.submit(ANNE, an_edit(guidance_scale=4.0), DELIVERY)
    assert [notice.parameter for notice in submitted.notices] == ["guidance_scale"]
    done = world.service.finish(world.lease(), OUTPUT, USAGE)
    assert done.output is not None
    assert done.output.notices == submitted.notices == submitted.job.notices


def test_a_finish_that_breaks_in_the_middle_leaves_nothing(world: Deployment) -> None:
    submitted = world.service.submit(ANNE, an_edit(), HOOKED).job
    lease = world.lease()
    with world.database.transaction() as connection:  # the second entry of a job is refused by the database
        entry = {"job_id": submitted.id, "account_id": "x", "key_id": "x", "model": "x", "created_at": world.clock.now}
        sums = dict.fromkeys(("images", "pixels", "steps", "device_ms", "price_microusd"), 0)
        connection.execute(insert(usage_entry).values(**entry, **sums))
    before = (world.job(submitted.id), world.service.events(submitted.id), world.count(job_tally))
    with pytest.raises(IntegrityError):
        world.service.finish(lease, OUTPUT, USAGE)
    assert (world.job(submitted.id), world.service.events(submitted.id), world.count(job_tally)) == before
    assert world.count(webhook_outbox) == 0
    world.service.renew(lease, 30)


def test_a_failed_job_says_why_and_costs_nothing(world: Deployment) -> None:
    world.service.submit(ANNE, an_edit(), HOOKED)
    failed = world.service.fail(world.lease(), replace(FAILURE, context={"max_pixels": 5, "words": ("a", "b")}))
    assert failed == world.job(failed.id)
    assert failed.failure is not None
    assert failed.failure.context == {"max_pixels": 5, "words": ("a", "b")}
    assert (world.count(usage_entry), world.count(webhook_outbox)) == (0, 1)


@pytest.mark.parametrize(
    "contradiction",
    [
        {"state": "succeeded"},
        {"state": "running"},
        {"state": "paused"},
        {"finished_at": "now"},
        {"failure": {"code": "x", "message": "x"}},
        {"lease_until": "now"},
        {"attempt": 1},
    ],
)
def test_the_database_refuses_a_row_that_contradicts_itself(
    world: Deployment, contradiction: dict[str, object]
) -> None:
    world.submit()
    values = {name: world.clock.now if value == "now" else value for name, value in contradiction.items()}
    with pytest.raises(IntegrityError), world.database.transaction() as connection:
        connection.execute(update(job).values(**values))


# --- cancel


def test_a_waiting_job_is_cancelled_at_once(world: Deployment) -> None:
    first, second = world.service.submit(ANNE, an_edit(), HOOKED).job, world.submit()
    cancelled = world.service.cancel(ANNE, first.id)
    assert (cancelled.state, cancelled.finished_at) == (JobState.CANCELLED, world.clock.now)
    assert world.service.position(second) == 0
    assert (world.count(webhook_outbox), world.count(usage_entry)) == (1, 0)
    assert world.lease().job.id == second.id
    with pytest.raises(JobFinished):
        world.service.cancel(ANNE, first.id)
    world.check_the_line()


def test_the_worker_of_a_running_job_is_asked_to_stop(world: Deployment) -> None:
    running = world.submit()
    lease = world.lease()
    assert world.service.renew(lease, 30) is False
    cancelling = world.service.cancel(ANNE, running.id)
    assert (cancelling.state, cancelling.cancel_requested) == (JobState.RUNNING, True)
    world.service.cancel(ANNE, running.id)
    assert world.service.renew(lease, 30) is True
    assert world.service.progress(lease, step=2, steps=4) is True
    assert world.service.acknowledge_cancel(lease).state is JobState.CANCELLED
    assert world.count(usage_entry) == 0
    with pytest.raises(JobFinished):
        world.service.cancel(ANNE, running.id)


def test_an_edit_that_was_done_before_the_worker_heard_stays_done(world: Deployment) -> None:
    running = world.submit()
    lease = world.lease()
    world.service.cancel(ANNE, running.id)
    assert world.service.finish(lease, OUTPUT, USAGE).state is JobState.SUCCEEDED


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_cancelled_job_is_not_run_again_when_its_worker_goes(world: Deployment, how: str) -> None:
    running = world.submit()
    lease = world.lease()
    world.service.cancel(ANNE, running.id)
    if how == "stops":
        world.service.release(lease)
    else:
        world.clock.move(31)
        assert world.service.sweep() == Swept(cancelled=1)
    assert world.job(running.id).state is JobState.CANCELLED


# --- idempotency


def test_the_same_key_and_body_join_the_first_job(world: Deployment) -> None:
    key = Idempotency("retry-1", "hash-a")
    first = world.service.submit(ANNE, an_edit(), DELIVERY, idempotency=key)
    again = world.service.submit(ANNE, an_edit(), DELIVERY, idempotency=key)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.job == first.job
    world.service.finish(world.lease(), OUTPUT, USAGE)
    assert world.service.submit(ANNE, an_edit(), DELIVERY, idempotency=key).job.state is JobState.SUCCEEDED
    assert world.count(job) == 1


def test_the_same_key_with_another_body_is_refused(world: Deployment) -> None:
    world.submit(idempotency=Idempotency("k", "hash-a"))
    with pytest.raises(IdempotencyKeyReused):
        world.submit(idempotency=Idempotency("k", "hash-b"))
    assert world.count(job) == 1


@pytest.mark.parametrize("key", ["", "k" * 100_000, "\x00", "ü \ud800"])
def test_any_text_can_be_a_key(world: Deployment, key: str) -> None:
    first = world.submit(idempotency=Idempotency(key, "hash"))
    assert world.submit(idempotency=Idempotency(key, "hash")).id == first.id


def test_keys_of_two_accounts_do_not_meet(world: Deployment) -> None:
    world.submit(ANNE, idempotency=Idempotency("k", "hash-a"))
    world.submit(BEN, idempotency=Idempotency("k", "hash-b"))
    assert world.count(job) == 2


def test_a_key_is_forgotten_after_a_day(world: Deployment) -> None:
    first = world.submit(idempotency=Idempotency("k", "hash-a"))
    world.clock.move(24 * 3600 - 1)
    assert world.submit(idempotency=Idempotency("k", "hash-a")).id == first.id
    world.clock.move(2)
    assert world.submit(idempotency=Idempotency("k", "hash-b")).id != first.id


def test_eight_submits_at_once_with_one_key_make_one_job(world: Deployment) -> None:
    barrier = threading.Barrier(8)

    def submit(_: int) -> str:
        barrier.wait()
        return world.submit(idempotency=Idempotency("k", "hash")).id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(submit, range(8)))) == 1
    assert world.count(job) == 1
    world.check_the_line()


# --- deadlines


def test_a_job_that_does_not_start_in_time_fails(world: Deployment) -> None:
    in_time = world.submit(start_timeout_s=10)
    late = world.submit(start_timeout_s=10)
    patient = world.submit()
    lease = world.lease()
    world.clock.move(11)
    assert world.service.lease("w2", ["demo"], 30).job.id == patient.id  # type: ignore[union-attr]
    assert world.service.sweep() == Swept(start_timeout=1)
    failed = world.job(late.id)
    assert failed.failure is not None
    assert failed.failure.code == "start_timeout"
    assert world.job(in_time.id).state is JobState.RUNNING
    world.service.release(lease)  # it has started once, so the deadline is over for good
    world.clock.move(100)
    assert world.service.sweep().start_timeout == 0
    world.check_the_line()


def test_a_job_no_worker_ever_takes_fails_in_the_end(world: Deployment) -> None:
    forgotten = world.submit()
    world.clock.move(7 * 24 * 3600 + 1)
    assert world.service.sweep() == Swept(start_timeout=1)
    assert world.job(forgotten.id).state is JobState.FAILED


def test_a_run_that_takes_too_long_is_failed_under_its_worker(world: Deployment) -> None:
    running = world.submit()
    lease = world.lease(lease_s=90)
    for _ in range(61):
        world.clock.move(60)
        if world.service.sweep().edit_timeout:
            break
        world.service.renew(lease, 90)
    failed = world.job(running.id)
    assert failed.failure is not None
    assert failed.failure.code == "edit_timeout"
    with pytest.raises(LeaseLost):
        world.service.renew(lease, 90)


# --- retention


def put(world: Deployment, folder: str) -> str:
    return world.blobs.put(b"image", "image/png", folder=folder)


def exists(world: Deployment, key: str) -> bool:
    try:
        world.blobs.get(key)
    except RetouchError:
        return False
    return True


def a_finished_job_with_files(world: Deployment, retention_s: float | None = None) -> tuple[Job, list[str], str]:
    """A finished job, the keys of the files that are its own, and the key of one that is its owner's."""
    own, owner_s, output, preview = (put(world, folder) for folder in ("uploads", "uploads", "outputs", "previews"))
    images = (ImageInput(blob=own, owned=True), ImageInput(blob=owner_s, field="images[1]"))
    delivery = replace(HOOKED, retention_s=retention_s)
    request = replace(an_edit(images=images), model="fal-ai/qwen-image-edit-plus")
    request = replace(request, output_format=type(request.output_format)("png"))
    key = Idempotency("k", "hash")
    submitted = world.service.submit(ANNE, request, delivery, idempotency=key).job
    lease = world.lease(lease_s=10_000)
    world.service.progress(lease, step=1, steps=4, logs=["a secret"], previews=[Preview(preview, 0, 1)])
    image = replace(OUTPUT.images[0], blob=output)
    world.service.finish(lease, replace(OUTPUT, images=(image,)), USAGE)
    return world.job(submitted.id), [own, output, preview], owner_s


def test_a_job_goes_with_its_files_when_its_time_is_over(world: Deployment) -> None:
    done, files, owner_s = a_finished_job_with_files(world, retention_s=3600)
    waiting = world.submit()
    world.service.sweep()
    world.clock.move(3599)
    world.service.sweep()
    assert world.job(done.id).expires_at is not None
    assert all(exists(world, key) for key in files)
    world.clock.move(61)
    assert world.service.sweep().deleted == 1
    with pytest.raises(UnknownJob):
        world.job(done.id)
    assert [exists(world, key) for key in (*files, owner_s)] == [False, False, False, True]
    assert [world.count(table) for table in (webhook_outbox, idempotency, usage_entry)] == [0, 0, 1]
    assert world.count(job_event) == 1
    assert world.job(waiting.id) == waiting


def test_a_caller_can_read_the_end_of_a_job_it_wants_forgotten_at_once(world: Deployment) -> None:
    done, _, _ = a_finished_job_with_files(world, retention_s=1)
    world.clock.move(599)
    world.service.sweep()
    assert world.job(done.id).output is not None


def test_a_forgotten_payload_is_gone_and_its_bill_is_not(world: Deployment) -> None:
    done, files, owner_s = a_finished_job_with_files(world)
    for _ in range(2):
        world.service.forget_payload(done.id)
    left = world.job(done.id)
    assert left.payload_deleted
    assert (left.request.prompt, left.request.images, left.output) == ("", (), None)
    assert (left.state, left.usage) == (JobState.SUCCEEDED, done.usage)
    assert [exists(world, key) for key in (*files, owner_s)] == [False, False, False, True]
    assert {event.kind for event in world.service.events(done.id)} == {"state", "step"}


def test_the_payload_of_a_running_job_is_not_forgotten(world: Deployment) -> None:
    running = world.submit()
    world.lease()
    world.service.forget_payload(running.id)
    assert world.job(running.id).request.prompt == "make it red"


def test_more_jobs_than_one_batch_are_deleted_in_one_sweep(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BATCH", 10)
    for _ in range(23):
        world.service.cancel(ANNE, world.submit().id)
    world.service.sweep()
    world.clock.move(8 * 24 * 3600)
    assert world.service.sweep().deleted == 23
    assert world.count(job) == 0


def test_a_sweep_is_logged_only_when_it_moved_something(world: Deployment) -> None:
    world.submit()
    world.lease(lease_s=30)
    with capture_logs() as idle:
        world.service.sweep()
    world.clock.move(31)
    with capture_logs() as busy:
        world.service.sweep()
    assert idle == []
    assert busy == [{"event": "swept", "log_level": "info", "requeued": 1}]


def test_a_sweep_deletes_files_whose_own_time_is_over(world: Deployment) -> None:
    key = world.blobs.put(b"image", "image/png", folder="uploads", ttl_s=60)
    world.clock.move((datetime.now(UTC) - world.clock.now).total_seconds() + 7200)
    assert world.service.sweep() == Swept(files=1)
    assert not exists(world, key)


# --- events


def test_the_history_of_a_job_can_be_replayed_from_any_event(world: Deployment) -> None:
    submitted = world.submit()
    world.submit()
    lease = world.lease()
    world.service.progress(lease, step=1, steps=4, logs=["one", "two"])
    world.service.progress(lease, step=4, steps=4, previews=[Preview("previews/x", 0, 4)])
    world.service.finish(lease, OUTPUT, USAGE)
    history = world.service.events(submitted.id)
    assert [(event.kind, event.data) for event in history] == [
        ("state", {"state": "queued"}),
        ("state", {"state": "running", "attempt": 1}),
        ("log", {"level": "INFO", "message": "one"}),
        ("log", {"level": "INFO", "message": "two"}),
        ("step", {"step": 1, "steps": 4}),
        ("step", {"step": 4, "steps": 4}),
        ("preview", {"blob": "previews/x", "image": 0, "step": 4}),
        ("state", {"state": "succeeded"}),
    ]
    ids = [event.id for event in history]
    assert ids == sorted(set(ids))
    assert world.service.events(submitted.id, after=ids[3]) == history[4:]
    assert world.service.events_many({submitted.id: ids[5]}) == history[6:]
    assert world.job(submitted.id).step == 4


def test_the_news_of_many_jobs_come_in_one_reading(world: Deployment) -> None:
    jobs = [world.submit().id for _ in range(120)]
    first = {job_id: world.service.events(job_id)[0].id for job_id in jobs[:3]}
    news = world.service.events_many({job_id: first.get(job_id, 0) for job_id in jobs})
    assert [event.job_id for event in news] == jobs[3:]


# --- many at once


def at_once(threads: int, work: Callable[[int], object]) -> list[object]:
    barrier = threading.Barrier(threads)

    def begin(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def test_eight_workers_never_get_one_job_twice(world: Deployment) -> None:
    expected = {world.submit().id for _ in range(80)}

    def drain(number: int) -> list[str]:
        mine = []
        while (lease := world.service.lease(f"w{number}", ["demo"], 30)) is not None:
            mine.append(lease.job.id)
        return mine

    leased = [job_id for mine in at_once(8, drain) for job_id in mine]  # type: ignore[attr-defined]
    assert Counter(leased) == Counter(expected)


def test_the_line_stays_true_under_eight_threads(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "BLOCK_SIZE", 4)
    at_once(8, lambda number: _a_busy_caller(world, number))
    world.check_the_line()
    with world.database.transaction() as connection:
        fair_queue.tidy(connection, "demo")
    world.check_the_line()


def _a_busy_caller(world: Deployment, number: int) -> None:
    """Submits, leases, gives back, finishes, cancels and tidies, for a while."""
    dice = random.Random(number)
    account = Account(f"a{number % 3}", "", "", weight=1 + number % 2)
    for _ in range(20):
        mine = world.submit(account, priority=dice.choice([100, 200]))
        lease = world.service.lease(f"w{number}", ["demo"], 1000)
        if dice.random() < 0.3:
            try:
                world.service.cancel(account, mine.id)
            except JobFinished:
                assert world.job(mine.id).state.final
        if lease is not None and dice.random() < 0.4:
            world.service.release(lease)
        elif lease is not None and dice.random() < 0.5:
            world.service.finish(lease, OUTPUT, USAGE)
        if dice.random() < 0.2:
            with world.database.transaction() as connection:
                fair_queue.tidy(connection, "demo")
            with world.database.transaction() as connection:
                fair_queue.forget_idle_shares(connection)


def test_one_of_two_sweeps_rescues_a_job(world: Deployment) -> None:
    for number in range(10):
        world.submit()
        world.lease(f"w{number}")
    world.clock.move(31)
    swept = at_once(4, lambda _: world.service.sweep().requeued)
    assert sum(swept) == 10  # type: ignore[arg-type]
    world.check_the_line()


# --- readiness and metrics


def test_ready_says_what_is_missing(world: Deployment) -> None:
    assert world.service.ready() == "No worker serves 'demo'."
    world.service.beat("w1", ["demo"], "cpu", "loading")
    assert world.service.ready() == "The model 'demo' is loading."
    world.service.beat("w1", ["demo"], "cpu", "ready")
    assert world.service.ready() is None
    world.clock.move(16)
    assert world.service.ready() == "No worker serves 'demo'."
    world.clock.move(3600)
    world.service.sweep()
    assert world.count(worker) == 0


def test_statistics_count_by_queue_and_state(world: Deployment) -> None:
    for _ in range(5):
        world.submit()
    world.clock.move(20)
    lease = world.lease()
    world.clock.move(3)
    world.service.finish(lease, OUTPUT, USAGE)
    world.service.fail(world.lease(), FAILURE)
    world.lease()
    world.service.cancel(ANNE, world.service.recent(ANNE, 1)[0].id)
    world.service.beat("w1", ["demo"], "cpu", "ready")
    statistics = world.service.statistics()
    assert statistics.jobs == {"demo": dict.fromkeys(JobState, 1)}
    assert statistics.times["demo"] == (1, pytest.approx(20, abs=2), pytest.approx(3, abs=2))
    assert [alive.name for alive in statistics.workers] == ["w1"]


# --- cost


def plans_of(world: Deployment, verb: Callable[[], object]) -> list[str]:
    """How the database goes about each statement of a verb that touches the table of jobs or the blocks."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            statements.append((statement, parameters))

    engines = {world.database._backend.reader, world.database._backend.writer}
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    verb()
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
    plans = []
    with world.database.transaction() as connection:
        if world.database.dialect == "postgresql":
            for setting in ("enable_seqscan", "enable_bitmapscan"):  # on tables as small as these they would win
                connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        for statement, parameters in statements:
            explain = "EXPLAIN QUERY PLAN " if world.database.dialect == "sqlite" else "EXPLAIN "
            rows = connection.exec_driver_sql(explain + statement, parameters).all()
            plans.append("\n".join(str(row[-1]) for row in rows))
    return plans


def test_claims_and_positions_never_read_the_whole_line(world: Deployment) -> None:
    for _ in range(20):
        world.submit()
    last = world.submit()
    for verb in (world.lease, lambda: world.service.position(last), world.submit):
        for plan in plans_of(world, verb):
            assert "SCAN job" not in plan
            assert "SCAN queue_block" not in plan
            assert "Seq Scan on job" not in plan
            assert "Seq Scan on queue_block" not in plan
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan
    counting = plans_of(world, lambda: world.service.position(last))[-1]
    covering = {"sqlite": "COVERING INDEX ix_job_waiting", "postgresql": "Index Only Scan using ix_job_waiting"}
    assert counting.count(covering[world.database.dialect]) == 3


# --- failures: submitted as such, and retried


def fail_one(world: Deployment, **how: Any) -> Job:
    """A job of Anne's that ran and failed."""
    world.service.submit(ANNE, an_edit(), HOOKED, **how)
    return world.service.fail(world.lease(), FAILURE)


def test_a_job_can_be_submitted_as_failed_and_tells_its_webhook(world: Deployment) -> None:
    nothing = an_edit("", images=())
    made = world.service.submit_failed(ANNE, nothing, HOOKED, FAILURE)
    read = world.job(made.id)
    assert read == made
    assert (read.state, read.failure, read.attempt, read.started_at) == (JobState.FAILED, FAILURE, 0, None)
    assert [each.data["state"] for each in world.service.events(made.id)] == ["failed"]
    assert world.count(webhook_outbox) == 1
    assert world.service.lease("w1", ["demo"], 30) is None
    assert world.service.statistics().jobs["demo"][JobState.FAILED] == 1
    with pytest.raises(InvalidRequest, match="no input"):
        world.service.retry(ANNE, made.id)
    world.check_the_line()


def test_a_failed_job_is_retried_under_its_id_and_tells_its_webhook_again(
    world: Deployment, strict_turns: None
) -> None:
    failed = fail_one(world)
    with world.database.transaction() as connection:
        connection.execute(
            update(webhook_outbox).values(next_attempt_at=None, delivered_at=world.clock.now, attempts=1)
        )
    other = world.submit(BEN)
    world.clock.move(60)
    waiting = world.service.retry(ANNE, failed.id)
    assert waiting == world.job(failed.id)
    assert (waiting.state, waiting.failure, waiting.attempt, waiting.retries) == (JobState.QUEUED, None, 0, 1)
    assert (waiting.finished_at, waiting.expires_at, waiting.worker) == (None, None, None)
    assert waiting.queued_at == world.clock.now
    assert [each.data["state"] for each in world.service.events(failed.id)] == ["queued"]
    world.check_the_line()
    assert world.lease().job.id == other.id
    world.service.finish(world.lease(), OUTPUT, USAGE)
    assert world.job(failed.id).state is JobState.SUCCEEDED
    with world.database.read() as connection:
        owed = connection.execute(select(webhook_outbox).where(webhook_outbox.c.job_id == failed.id)).one()
    assert (owed.attempts, owed.next_attempt_at, owed.delivered_at) == (0, world.clock.now, None)
    world.check_the_line()


def test_a_retry_needs_no_second_connection(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = fail_one(world)
    minute_a_step = Cost({"prepare": (0.0,) * 3, "denoise": (60.0, 0.0, 0.0), "decode": (0.0, 0.0)})
    world.service.keep_cost("demo", "a device", minute_a_step)  # so that what is known of it is read anew
    monkeypatch.setattr(world.database, "read", lambda: pytest.fail("many retries at once would wait for each other"))
    assert world.service.retry(ANNE, failed.id).cost == fair_queue.cost_of(60.0 * failed.steps) > failed.cost


def test_a_late_worker_of_an_earlier_run_cannot_touch_a_retried_job(world: Deployment) -> None:
    world.submit(ANNE)
    first = world.lease("w1")
    world.service.fail(first, FAILURE)
    world.service.retry(ANNE, first.job.id)
    second = world.lease("w2")
    with pytest.raises(LeaseLost):
        world.service.finish(first, OUTPUT, USAGE)
    assert world.service.finish(second, OUTPUT, USAGE).state is JobState.SUCCEEDED


def test_only_a_failed_job_of_one_s_own_can_be_retried(world: Deployment) -> None:
    waiting = world.submit(ANNE)
    with pytest.raises(InvalidRequest, match="queued"):
        world.service.retry(ANNE, waiting.id)
    world.service.cancel(ANNE, waiting.id)
    with pytest.raises(InvalidRequest, match="cancelled"):
        world.service.retry(ANNE, waiting.id)
    with pytest.raises(UnknownJob):
        world.service.retry(BEN, fail_one(world).id)


def test_a_failed_job_whose_payload_was_forgotten_cannot_be_retried(world: Deployment) -> None:
    failed = fail_one(world)
    world.service.forget_payload(failed.id)
    with pytest.raises(InvalidRequest, match="no input"):
        world.service.retry(ANNE, failed.id)


# --- a caller's own deadlines


def test_a_run_ends_at_the_limit_its_caller_set(world: Deployment) -> None:
    world.service.submit(ANNE, an_edit(), DELIVERY, run_timeout_s=10)
    patient = world.submit(BEN)
    world.clock.move(100)  # waiting does not count
    lease, other = world.lease(lease_s=100), world.lease(lease_s=100)
    world.clock.move(9)
    assert world.service.sweep() == Swept()
    world.clock.move(1)
    assert world.service.sweep() == Swept(edit_timeout=1)
    ended = world.job(lease.job.id)
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.message) == ("edit_timeout", "The edit ran longer than 10 seconds.")
    assert other.job.id == patient.id
    assert world.job(patient.id).state is JobState.RUNNING
    with pytest.raises(LeaseLost):
        world.service.finish(lease, OUTPUT, USAGE)


def test_each_run_has_the_whole_limit(world: Deployment) -> None:
    world.service.submit(ANNE, an_edit(), DELIVERY, run_timeout_s=10)
    lease = world.lease(lease_s=100)
    world.clock.move(9)
    world.service.release(lease)
    again = world.lease(lease_s=100)
    world.clock.move(9)
    assert world.service.sweep() == Swept()
    assert world.service.finish(again, OUTPUT, USAGE).state is JobState.SUCCEEDED


def test_a_job_ends_with_the_life_its_caller_gave_it(world: Deployment) -> None:
    """While it runs, while it waits, and while it waits again after its worker was lost."""
    running = world.service.submit(ANNE, an_edit(), DELIVERY, life_s=50).job
    world.lease(lease_s=1000)
    rescued = world.service.submit(ANNE, an_edit(), DELIVERY, life_s=50).job
    world.service.release(world.lease(lease_s=1000))
    waiting = world.service.submit(ANNE, an_edit(), DELIVERY, life_s=50).job
    world.clock.move(49)
    assert world.service.sweep() == Swept()
    world.clock.move(1)
    assert world.service.sweep() == Swept(start_timeout=2, edit_timeout=1)
    assert [world.job(each.id).state for each in (running, rescued, waiting)] == [JobState.FAILED] * 3
    with pytest.raises(InvalidRequest, match="life"):
        world.service.retry(ANNE, running.id)
    world.check_the_line()


# --- emptying an endpoint's queue


def test_waiting_jobs_of_one_endpoint_are_cancelled_and_nothing_else(world: Deployment) -> None:
    mine = replace(DELIVERY, protocol="runpod", endpoint="qwen-image-edit")

    def submit(account: Account, delivery: Delivery) -> Job:
        return world.service.submit(account, an_edit(), delivery).job

    running = submit(ANNE, mine)
    world.lease(lease_s=1000)
    gone = [submit(ANNE, mine) for _ in range(120)]
    kept = [submit(ANNE, DELIVERY), submit(ANNE, replace(mine, endpoint="another")), submit(BEN, mine)]
    assert world.service.cancel_waiting(ANNE, "runpod", "qwen-image-edit") == 120
    assert {world.job(each.id).state for each in gone} == {JobState.CANCELLED}
    assert {world.job(each.id).state for each in kept} == {JobState.QUEUED}
    assert world.job(running.id).state is JobState.RUNNING
    assert world.service.cancel_waiting(ANNE, "runpod", "qwen-image-edit") == 0
    world.check_the_line()


def test_the_load_of_a_queue_counts_one_account_s_jobs_and_every_worker(world: Deployment) -> None:
    world.service.beat("w1", ["demo"], "cpu", "ready")
    world.service.beat("w2", ["demo"], "cpu", "loading")
    world.service.beat("w3", ["other"], "cpu", "ready")
    failed = fail_one(world)
    world.service.retry(ANNE, failed.id)
    world.lease("w1")
    world.submit(ANNE)
    world.submit(BEN)
    load = world.service.queue_load(ANNE, "demo")
    assert {state.value: count for state, count in load.jobs.items() if count} == {"running": 1, "queued": 1}
    assert (load.retried, load.ready_workers, load.loading_workers, load.busy_workers) == (1, 1, 1, 1)


# --- the bucket a caller wants the image in


def test_the_keys_to_a_bucket_are_the_worker_s_to_read_until_the_job_ends(world: Deployment) -> None:
    bucket = Bucket("https://s3.example.com", "pictures", "id", "a secret", "edits")
    submitted = world.service.submit(ANNE, an_edit(), HOOKED, bucket=bucket).job
    assert submitted.delivery.into_bucket
    lease = world.lease()
    assert world.service.bucket_of(lease) == bucket
    assert "a secret" not in repr((lease, bucket))
    world.service.fail(lease, FAILURE)
    assert world.service.bucket_of(lease) is None
    assert world.count(caller_bucket) == 0
    with pytest.raises(InvalidRequest, match="bucket"):
        world.service.retry(ANNE, submitted.id)
    world.submit(ANNE)
    assert world.service.bucket_of(world.lease()) is None


def test_a_job_is_deleted_at_the_end_of_the_life_its_caller_gave_it(world: Deployment) -> None:
    done = world.service.submit(ANNE, an_edit(), DELIVERY, life_s=100).job
    world.service.finish(world.lease(), OUTPUT, USAGE)
    waiting = world.service.submit(ANNE, an_edit(), DELIVERY, life_s=100).job
    world.clock.move(99)
    world.service.sweep()
    assert world.job(done.id).state is JobState.SUCCEEDED
    world.clock.move(2)
    world.service.sweep()
    world.clock.move(61)
    world.service.sweep()
    for ended in (done, waiting):
        with pytest.raises(UnknownJob):
            world.job(ended.id)
