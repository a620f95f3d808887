"""Rows of submits, breakers and callers' keys, on both databases: what a row may become, and what is owed at the end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from retouch.accounts.tables import upstream_key
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.catalog import HOSTED
from retouch.database import Database
from retouch.errors import Failure, InvalidRequest
from retouch.jobs import attempts, breakers
from retouch.jobs.attempts import FROM, LATE, OPEN, Attempt, AttemptState
from retouch.jobs.breakers import BreakerState
from retouch.jobs.tables import attempt_tally
from retouch.service import Service
from tests.harness import ANNE, DELIVERY, OUTPUT, USAGE, Deployment, HandClock, an_edit

NOW = HandClock().now
TICKET = {"id": "job-1", "urls": {}}
RESULT = {"images": []}
NEEDS = {AttemptState.ACCEPTED: {"ticket": TICKET}, AttemptState.DONE: {"result": RESULT}}
HOLD, UNKNOWN = 30_000, 7_000


def an_attempt(job_id: str = "job", **changes: object) -> Attempt:
    plain = Attempt(
        id=str(uuid.uuid4()),
        job_id=job_id,
        account_id="anne",
        target="fal/edit",
        key="12345678",
        image=0,
        images=1,
        seed=7,
        body_hash="",
        hold_microusd=HOLD,
        unknown_microusd=UNKNOWN,
        planned_at=NOW,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def planned(database: Database, **changes: object) -> Attempt:
    new = an_attempt(**changes)
    with database.transaction() as connection:
        attempts.write(connection, new)
    return new


def move(database: Database, each: Attempt, to: AttemptState, **values: object) -> Attempt | None:
    with database.transaction() as connection:
        return attempts.move(connection, each.id, to, NOW, **{**NEEDS.get(to, {}), **values})


def test_a_row_keeps_what_is_written_to_it(database: Database) -> None:
    new = planned(database)
    sending = move(database, new, AttemptState.SENDING)
    assert sending == replace(new, state=AttemptState.SENDING, sent_at=NOW)
    accepted = move(database, new, AttemptState.ACCEPTED)
    assert accepted == replace(sending, state=AttemptState.ACCEPTED, accepted_at=NOW, ticket=TICKET)
    with database.read() as connection:
        assert attempts.find(connection, new.id) == accepted
        assert attempts.of_job(connection, "job") == (accepted,)
        assert attempts.find(connection, "nothing") is None


def test_the_database_refuses_a_second_open_submit_of_the_same_image(database: Database) -> None:
    first, second, hedge = planned(database), planned(database), planned(database, lane=1)
    move(database, first, AttemptState.SENDING)
    move(database, hedge, AttemptState.SENDING)
    with pytest.raises(IntegrityError):
        move(database, second, AttemptState.SENDING)
    move(database, first, AttemptState.REFUSED)
    assert move(database, second, AttemptState.SENDING) is not None


class AttemptLives(RuleBasedStateMachine):
    """One job and its attempts, beside a model of a page: only what the table of transitions allows, and every hold
    settled in the transaction that ends the job."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self.world = Deployment(folder, url, model=HOSTED, clock=HandClock())
        self.database = self.world.database
        self.service: Service = self.world.service
        self.service._dispatch = lambda *_: True
        self.job = self.service.submit(ANNE, an_edit(), DELIVERY).job
        lease = self.service.lease("w", [HOSTED.name], 10_000)
        while lease is not None and lease.job.id != self.job.id:
            self.service.fail(lease, Failure("internal_error", "Not this one."))
            lease = self.service.lease("w", [HOSTED.name], 10_000)
        assert lease is not None
        self.lease = lease
        self.rows: dict[str, AttemptState] = {}
        self.charges: dict[str, int | None] = {}
        self.images: dict[str, int] = {}
        self.ended = False
        self.tally_before = self.tally()

    def teardown(self) -> None:
        if not self.ended:
            self.service.fail(self.lease, Failure("internal_error", "Over."))
        self.world.close()

    def tally(self) -> int:
        with self.database.read() as connection:
            return sum(connection.execute(select(attempt_tally.c.charge_microusd)).scalars())

    @rule()
    def time_passes(self) -> None:
        self.world.clock.move(1)

    @precondition(lambda self: not self.ended)
    @rule(image=st.integers(0, 2))
    def plan(self, image: int) -> None:
        new = planned(self.database, job_id=self.job.id, image=image)
        self.rows[new.id], self.charges[new.id], self.images[new.id] = AttemptState.PLANNED, None, image

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 100), to=st.sampled_from(sorted(FROM)), charge=st.sampled_from([None, 0, 5, HOLD]))
    def change(self, which: int, to: AttemptState, charge: int | None) -> None:
        attempt_id = list(self.rows)[which % len(self.rows)]
        state = self.rows[attempt_id]
        if self.ended:
            charge = charge or 0
        values: dict[str, object] = {**NEEDS.get(to, {}), "charge_microusd": charge}
        allowed = state in FROM[to] and not self.ended
        allowed = allowed or (self.ended and state is AttemptState.UNKNOWN and to in LATE)
        opens = to in (AttemptState.SENDING, AttemptState.ACCEPTED)
        others = [
            each
            for each, its in self.rows.items()
            if its in (AttemptState.SENDING, AttemptState.ACCEPTED)
            and each != attempt_id
            and self.images[each] == self.images[attempt_id]
        ]
        if allowed and opens and others:
            with pytest.raises(IntegrityError), self.database.transaction() as connection:
                attempts.move(connection, attempt_id, to, NOW, **values)
            return
        with self.database.transaction() as connection:
            moved = attempts.move(connection, attempt_id, to, NOW, **values)
        assert (moved is not None) is allowed
        if allowed:
            self.rows[attempt_id], self.charges[attempt_id] = to, charge

    @precondition(lambda self: not self.ended)
    @rule(how=st.sampled_from(["finish", "fail", "cancel", "deadline"]))
    def end(self, how: str) -> None:
        if how == "finish":
            self.service.finish(self.lease, OUTPUT, USAGE, charges={})
        elif how == "fail":
            self.service.fail(self.lease, Failure("internal_error", "Broken."))
        elif how == "cancel":
            self.service.acknowledge_cancel(self.lease)
        else:
            self.world.clock.move(4000)
            self.service.sweep()
        self.ended = True
        for attempt_id, state in self.rows.items():
            charge = self.charges[attempt_id]
            if state is AttemptState.PLANNED:
                self.rows[attempt_id], self.charges[attempt_id] = AttemptState.ABANDONED, 0
            elif state in OPEN | {AttemptState.UNKNOWN}:
                self.rows[attempt_id] = AttemptState.UNKNOWN
                self.charges[attempt_id] = UNKNOWN if charge is None else charge
            else:
                self.charges[attempt_id] = charge if charge is not None else HOLD if state is AttemptState.DONE else 0

    @invariant()
    def the_rows_are_as_the_model_says_and_the_sum_is_what_is_owed(self) -> None:
        with self.database.read() as connection:
            rows = {each.id: each for each in attempts.of_job(connection, self.job.id)}
        assert {each.id: each.state for each in rows.values()} == self.rows
        assert {each.id: each.charge_microusd for each in rows.values()} == self.charges
        assert all((each.settled_at is not None) is self.ended for each in rows.values())
        if self.ended:
            assert self.tally() - self.tally_before == sum(charge or 0 for charge in self.charges.values())


def test_attempts_walk_only_where_they_may_and_settle_with_their_job(database_url: str, tmp_path: Path) -> None:
    run_state_machine_as_test(
        lambda: AttemptLives(database_url, tmp_path),
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            database=None,
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )


def test_a_late_answer_of_a_settled_unknown_attempt_corrects_what_is_owed(database: Database) -> None:
    new = planned(database)
    move(database, new, AttemptState.SENDING)
    with database.transaction() as connection:
        attempts.settle_job(connection, "job", NOW)
    late = move(database, new, AttemptState.DONE, charge_microusd=40_000)
    assert late is not None
    assert late.charge_microusd == 40_000
    with database.read() as connection:
        assert list(attempts.tally(connection)) == [("fal/edit", "done", 1, 40_000), ("fal/edit", "unknown", 0, 0)]
    assert move(database, new, AttemptState.REFUSED) is None


# Breakers.


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def ended(database: Database, clock: HandClock, *, good: bool) -> bool:
    """An attempt comes to its end; whether that opened or closed the breaker."""
    new = an_attempt(planned_at=clock.now, counts="good" if good else "bad")
    with database.transaction() as connection:
        attempts.write(connection, new)
        attempts.move(connection, new.id, AttemptState.SENDING, clock.now)
        to = AttemptState.DONE if good else AttemptState.REFUSED
        attempts.move(connection, new.id, to, clock.now, **NEEDS.get(to, {}))
        if good:
            return breakers.record_success(connection, new.target, new.key, clock.now, clock.now)
        return breakers.record_failure(connection, new.target, new.key, "server", clock.now, at_once=False)


def state_of(database: Database, clock: HandClock) -> BreakerState:
    with database.read() as connection:
        (row,) = breakers.read(connection, [("fal/edit", "12345678")]).values() or (None,)
    return BreakerState.CLOSED if row is None else row.state(clock.now)


def test_a_breaker_opens_at_five_of_eight_and_not_at_one_of_one(database: Database, clock: HandClock) -> None:
    assert not ended(database, clock, good=False)
    assert state_of(database, clock) is BreakerState.CLOSED
    for good in (True, False, True, False, True, False):
        assert not ended(database, clock, good=good)
        clock.move(1)
    assert ended(database, clock, good=False)
    assert state_of(database, clock) is BreakerState.OPEN


def test_failures_of_a_minute_ago_and_many_successes_do_not_open_it(database: Database, clock: HandClock) -> None:
    for _ in range(4):
        ended(database, clock, good=False)
    clock.move(61)
    assert not ended(database, clock, good=False)
    for _ in range(10):
        ended(database, clock, good=True)
    for _ in range(5):
        assert not ended(database, clock, good=False)


def opened(database: Database, clock: HandClock) -> Iterator[breakers.Breaker]:
    for _ in range(5):
        ended(database, clock, good=False)
    while True:
        with database.read() as connection:
            yield from breakers.read_all(connection)


def test_a_half_open_target_takes_one_edit_whose_end_decides(database: Database, clock: HandClock) -> None:
    rows = opened(database, clock)
    assert next(rows).open_until == clock.now + timedelta(seconds=15)
    clock.move(15)
    row = next(rows)
    assert row.state(clock.now) is BreakerState.HALF_OPEN
    until = clock.now + timedelta(seconds=60)
    with database.transaction() as connection:
        assert breakers.take_probe(connection, row, "a", clock.now, until)
        assert not breakers.take_probe(connection, row, "b", clock.now, until)
    ended(database, clock, good=False)
    for pause_s in (30, 60, 120, 240, 300, 300):
        assert next(rows).open_until == clock.now + timedelta(seconds=pause_s)
        clock.move(pause_s)
        assert ended(database, clock, good=False)
    clock.move(300)
    assert ended(database, clock, good=True)
    assert next(rows).state(clock.now) is BreakerState.CLOSED
    assert not ended(database, clock, good=False), "what came before it closed is forgotten"


def test_a_probe_that_is_never_heard_of_again_makes_room_for_another(database: Database, clock: HandClock) -> None:
    rows = opened(database, clock)
    clock.move(20) if next(rows) else None
    with database.transaction() as connection:
        row = next(rows)
        assert breakers.take_probe(connection, row, "a", clock.now, clock.now + timedelta(seconds=60))
    assert next(rows).state(clock.now) is BreakerState.OPEN
    clock.move(61)
    with database.transaction() as connection:
        assert breakers.take_probe(connection, next(rows), "b", clock.now, clock.now + timedelta(seconds=60))


# Callers' keys.


def test_a_callers_key_is_read_back_by_its_account_alone_and_not_kept_in_clear(database: Database) -> None:
    keys = UpstreamKeys(database)
    fingerprint = keys.store("anne", "fal", "fk-very-secret")
    assert keys.read("anne", "fal") == UpstreamKeys(database).read("anne", "fal") == "fk-very-secret"
    assert keys.names("anne") == {"fal": fingerprint}
    assert keys.read("ben", "fal") is None
    with database.transaction() as connection:
        row = connection.execute(select(upstream_key)).one()
        assert "fk-very-secret" not in str(row)
        copied = upstream_key.insert().values(**{**row._mapping, "account_id": "ben"})
        connection.execute(copied)
    assert keys.read("ben", "fal") is None, "a row is bound to its account"
    assert keys.store("anne", "fal", "other") != fingerprint
    assert keys.read("anne", "fal") == "other"
    assert keys.forget("anne", "fal")
    assert not keys.forget("anne", "fal")
    assert keys.read("anne", "fal") is None


@pytest.mark.parametrize(
    ("name", "secret"), [("", "x"), ("fal", ""), ("fal", "a\nb"), ("fal", "ü"), ("fal", "x" * 1001)]
)
def test_a_key_that_no_header_may_hold_is_not_stored(database: Database, name: str, secret: str) -> None:
    with pytest.raises(InvalidRequest):
        UpstreamKeys(database).store("anne", name, secret)
