"""Writes down what happens to a submit, each step in a transaction of its own, before or right after it happens.

What is written before bytes leave is fenced by the job's lease: who has lost it does not submit. What a provider has
answered is written whatever became of the lease, for it is true all the same. Breakers learn of every end that says
something about a target, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final, Literal

import structlog

from retouch.database import Database
from retouch.jobs import attempts, breakers, store
from retouch.jobs.attempts import Attempt, AttemptState, Counts
from retouch.jobs.job import Clock, Lease
from retouch.upstreams.upstream import Fault, FaultKind, RemoteImage, Result, StoredResult, Ticket

logger = structlog.get_logger(__name__)

Judgement = Literal["bad", "at_once"] | None
"""What an end says of its target: nothing, that it fails, or that nothing sent there can succeed."""

LOST_SIGHT: Final = Fault(FaultKind.NO_ANSWER, "The server stopped while the edit was being sent.")
"""The fault of a submit that was being sent when its server ended."""


class AttemptBook:
    """Thread-safe. Raises DatabaseUnavailable from every verb, LeaseLost where it says so."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def send(self, lease: Lease, new: Attempt) -> Attempt:
        """Write the row as `sending`: its bytes leave when this has returned, and it survives a power cut by then.

        In one commit, for nothing happens between planning an attempt and sending it. LeaseLost.
        """
        sending = replace(new, state=AttemptState.SENDING, sent_at=self._clock())
        with self._database.transaction() as connection:
            store.check_held(connection, lease)
            attempts.write(connection, sending)
        return sending

    def accept(self, attempt: Attempt, ticket: Ticket) -> Attempt | None:
        """The provider has it; None when the attempt has ended for us."""
        kept = {"id": ticket.id, "urls": dict(ticket.urls)}
        with self._database.transaction() as connection:
            return attempts.move(connection, attempt.id, AttemptState.ACCEPTED, self._clock(), ticket=kept)

    def done(self, attempt: Attempt, result: Result, charge_microusd: int, *, ends_now: bool = False) -> Attempt | None:
        """The provider has made the images. charge_microusd: as far as it can be known before they are here.

        ends_now: the job's end is written next, and goes to the disk with this. An attempt with a ticket need not
        survive a power cut before that either: `accepted` does, and its job is asked for again.
        """
        now, kept = self._clock(), result_to_json(result)
        values = {"result": kept, "counts": "good", "charge_microusd": charge_microusd}
        later = ends_now or attempt.ticket is not None
        with self._database.transaction(durability="eventual" if later else "immediate") as connection:
            moved = attempts.move(connection, attempt.id, AttemptState.DONE, now, **values)
            sent_at = attempt.sent_at or now
            if breakers.record_success(connection, attempt.target, attempt.key, sent_at, now):
                logger.info("breaker closed", target=attempt.target)
        return moved

    def end(
        self, attempt: Attempt, to: AttemptState, fault: Fault, charge_microusd: int | None, judgement: Judgement
    ) -> None:
        """It ended without images: refused, unknown or abandoned."""
        counts: Counts | None = None if judgement is None else "bad"
        values = {"counts": counts, "charge_microusd": charge_microusd, **_cause(fault)}
        now = self._clock()
        with self._database.transaction() as connection:
            attempts.move(connection, attempt.id, to, now, **values)
            if judgement is None:
                breakers.give_back_probe(connection, attempt.target, attempt.key, attempt.job_id)
            elif breakers.record_failure(
                connection, attempt.target, attempt.key, fault.kind.value, now, at_once=judgement == "at_once"
            ):
                logger.warning("breaker opened", target=attempt.target, cause=fault.kind.value)

    def spoil(self, attempt: Attempt, fault: Fault, charge_microusd: int) -> None:
        """What a done attempt has made cannot be had or used; it is paid all the same."""
        now = self._clock()
        with self._database.transaction() as connection:
            attempts.note(connection, attempt.id, counts="bad", charge_microusd=charge_microusd, **_cause(fault))
            breakers.record_failure(connection, attempt.target, attempt.key, fault.kind.value, now, at_once=False)

    def book(self, attempt: Attempt, charge_microusd: int) -> None:
        """What it costs, where that is decided before its job ends. It goes to the disk with what is written next."""
        with self._database.transaction(durability="eventual") as connection:
            attempts.book(connection, attempt.id, charge_microusd)

    def read(self, attempt_id: str) -> Attempt | None:
        with self._database.read() as connection:
            return attempts.find(connection, attempt_id)

    def of_job(self, job_id: str) -> tuple[Attempt, ...]:
        """Those of the job's present life, oldest first: what was settled belongs to an earlier one."""
        with self._database.read() as connection:
            return tuple(each for each in attempts.of_job(connection, job_id) if each.settled_at is None)


def ticket_of(attempt: Attempt) -> Ticket:
    assert attempt.ticket is not None, "an accepted attempt has a ticket"
    return Ticket(attempt.ticket["id"], dict(attempt.ticket["urls"]))


def result_to_json(result: Result) -> dict[str, Any]:
    images = [asdict(image) for image in result.images]
    return {**asdict(result), "images": images, "timings": dict(result.timings)}


def result_of(data: Mapping[str, Any]) -> Result:
    def image(values: Mapping[str, Any]) -> RemoteImage:
        stored = values["stored"]
        return RemoteImage(values["url"], None if stored is None else StoredResult(**stored), values["unsafe"])

    return Result(**{**data, "images": tuple(image(values) for values in data["images"])})


def _cause(fault: Fault) -> dict[str, Any]:
    return {"cause": fault.kind.value, "detail": fault.message[:500]}
