"""One call to one target, from its row to its images or to what is to be done instead.

The thread of a job goes through here from top to bottom: plan, send, wait, collect. Wherever another server or an
earlier life of this one has left the row, it goes on from there: what may have been taken is looked up, never submitted
again. What a fault leads to is read from `failure_rules.py`.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

import orjson
import structlog

from retouch.catalog.normalised import Normalised
from retouch.errors import GenerationTimeout, UpstreamOutcomeUnknown
from retouch.jobs.attempts import Attempt, AttemptState
from retouch.jobs.job import Clock, Lease
from retouch.secret import redact
from retouch.upstreams.attempt_book import AttemptBook, Judgement, lost_sight, result_of, ticket_of
from retouch.upstreams.delivery import goes_as_it_came
from retouch.upstreams.failure_rules import COUNTS, Phase, Rule, failure_of, rule_of
from retouch.upstreams.routes import Connection, GatewaySettings, Target
from retouch.upstreams.upstream import (
    Accepted,
    Call,
    Failed,
    Fault,
    FaultKind,
    Finished,
    Pending,
    PollOutcome,
    RemoteImage,
    RemoteState,
    Result,
    StoredResult,
    SubmitOutcome,
    Ticket,
    Unreadable,
)
from retouch.upstreams.waits import Cancelled, Dropped, Pace, Signals

logger = structlog.get_logger(__name__)

MOST_REPEATS = 2
"""Submits to the same target after the first one."""

BACK_OFF_S = 0.5
LONGEST_RETRY_AFTER_S = 60.0
LOOK_UP_S, LONGEST_LOOK_UP_S = 0.5, 10.0
"""First and longest pause between two looks into a provider's history."""

LOOK_BACK = timedelta(minutes=1)
"""How far clocks may differ."""

ENDING_S = 2.0
"""How long the end of a cancelled job is waited for, to learn whether it is charged."""

ALMOST_OVER_S = 0.5
"""A silence that ends so close to the deadline was ended by it."""

POLL_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Spot:
    """Which images of the job a call makes: from `image` on, `images` of them, with the seeds from `seed` on."""

    image: int
    images: int
    seed: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class MadeImage:
    stored: StoredResult
    unsafe: bool | None


@dataclass(frozen=True, slots=True)
class Made:
    """The images of one call, and what it cost."""

    attempt: Attempt
    spot: Spot
    normalised: Normalised
    images: tuple[MadeImage, ...]
    charge_microusd: int
    result: Result


@dataclass(frozen=True, slots=True)
class Next:
    """Another target is to be asked."""

    target: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class _Again:
    """The same target is to be asked again. attempt: with the same row, where that is the same job there."""

    rule: Rule
    fault: Fault
    attempt: Attempt


Verdict: TypeAlias = Made | Next
_Step: TypeAlias = Made | Next | _Again


@dataclass(frozen=True, slots=True)
class CallTools:
    """What every call of one job is made with. tell: a log line for the caller, or progress (step, steps).

    links: of the inputs, by field. deadline: of the job.
    """

    book: AttemptBook
    lease: Lease
    settings: GatewaySettings
    signals: Signals
    pace: Pace
    clock: Clock
    deadline: datetime
    links: Mapping[str, str]
    tell: Callable[[str], None]
    progress: Callable[[int, int], None]


class CallRun:
    """`run` blocks until the call has come to something.

    attempt: an open row of an earlier life. drop: makes it end with Dropped at its next step.
    """

    def __init__(  # noqa: PLR0917 - what a call is made of
        self,
        tools: CallTools,
        target: Target,
        connection: Connection,
        normalised: Normalised,
        spot: Spot,
        attempt: Attempt | None = None,
    ) -> None:
        self._tools = tools
        self._target = target
        self._connection = connection
        self._upstream = connection.upstream
        self._traits = connection.upstream.traits
        self._normalised = normalised
        self.spot = spot
        self._attempt = attempt
        self._dropped = False
        self._submitting: str | None = None
        self._state = RemoteState.QUEUED

    def drop(self) -> None:
        self._dropped = True
        self.hang_up()
        self._tools.signals.wake()

    def hang_up(self, *, anyway: bool = False) -> None:
        """Do not wait for an answer that is the image itself. A job that gets a name is cancelled by that instead.

        anyway: nor for a name, because this process ends.
        """
        attempt_id = self._submitting
        if attempt_id is not None and (anyway or not self._traits.named):
            self._upstream.abandon(attempt_id)

    def run(self) -> Verdict:
        """Raises RetouchError when no other target is to be asked; Cancelled, Stopping, Lost, Dropped, LeaseLost."""
        attempt = self._attempt
        repeats = 0
        while True:
            self._check()
            step = self._begin() if attempt is None else self._go_on(attempt)
            if not isinstance(step, _Again):
                return step
            pause_s = self._pause_s(step.fault, repeats)
            if repeats == MOST_REPEATS or pause_s is None:
                return self._exhausted(step)
            repeats += 1
            attempt = step.attempt if step.attempt.state is AttemptState.SENDING else None
            self._pause(pause_s)

    # --- stations

    def _begin(self) -> _Step:
        sending = self._tools.book.send(self._tools.lease, self._planned())
        logger.info("submit", job=sending.job_id, target=sending.target, attempt=sending.id)
        return self._submitted(sending, self._submit(sending))

    def _planned(self) -> Attempt:
        tools, job = self._tools, self._tools.lease.job
        hold = self._price(self.spot.images, None, 0.0)
        return Attempt(
            id=str(uuid.uuid4()),
            job_id=job.id,
            account_id=job.account_id,
            target=self._target.name,
            key=self._connection.fingerprint,
            image=self.spot.image,
            images=self.spot.images,
            lane=self.spot.lane,
            seed=self.spot.seed,
            body_hash=self._body_hash(),
            hold_microusd=hold,
            unknown_microusd=hold if tools.settings.keep_unknown_hold else 0,
            planned_at=tools.clock(),
        )

    def _go_on(self, attempt: Attempt) -> _Step:
        """Go on from the state the row is in. One of which nothing was sent is never seen here."""
        if attempt.state is AttemptState.SENDING:
            if self._traits.idempotent:
                return self._submitted(attempt, self._submit(attempt))
            return self._judge(Phase.SUBMIT, attempt, lost_sight())
        if attempt.state is AttemptState.ACCEPTED:
            return self._await(attempt, ticket_of(attempt))
        if attempt.state is AttemptState.DONE:
            assert attempt.result is not None, "a done attempt has a result"
            ticket = None if attempt.ticket is None else ticket_of(attempt)
            return self._take(attempt, result_of(attempt.result), ticket)
        return self._look_up(attempt, lost_sight())

    def _submit(self, attempt: Attempt) -> SubmitOutcome:
        self._submitting = attempt.id
        try:
            return self._upstream.submit(self._call(attempt))
        finally:
            self._submitting = None

    def _submitted(self, attempt: Attempt, outcome: SubmitOutcome) -> _Step:
        if isinstance(outcome, Accepted):
            accepted = self._tools.book.accept(attempt, outcome.ticket)
            self._tools.tell(f"{self._target.name} has taken the edit.")
            if accepted is None:  # the job has ended meanwhile, so it is not wanted there
                self._upstream.cancel(outcome.ticket)
                raise Dropped
            return self._await(accepted, outcome.ticket)
        if isinstance(outcome, Finished):
            return self._finished(attempt, outcome.result, None)
        return self._judge(Phase.SUBMIT, attempt, outcome.fault)

    def _await(self, attempt: Attempt, ticket: Ticket) -> _Step:
        """Poll until it has ended there; what a poll cannot tell is asked again."""
        pause_s = self._traits.poll_s
        shown: tuple[object, ...] = ()
        while True:
            if self._dropped or self._tools.signals.raised is Cancelled:
                self._call_off(attempt, ticket)
            self._check()
            left_s = self._left_s()
            if left_s <= 0:
                return self._out_of_time(attempt, ticket)
            self._tools.signals.wait(min(pause_s + self._turn_s(), left_s))
            outcome = self._upstream.poll(ticket)
            if isinstance(outcome, Pending):
                shown = self._show(outcome, shown)
            elif not isinstance(outcome, Unreadable):
                return self._ended(attempt, ticket, outcome)
            pause_s = min(pause_s * POLL_GROWTH, self._traits.poll_cap_s)

    def _ended(self, attempt: Attempt, ticket: Ticket, outcome: Finished | Failed) -> _Step:
        if isinstance(outcome, Finished):
            return self._finished(attempt, outcome.result, ticket)
        fault = outcome.fault
        if fault.kind is FaultKind.TIMED_OUT and fault.charged is None and self._state is RemoteState.QUEUED:
            fault = replace(fault, charged=False)  # it never began
        return self._judge(Phase.POLL, attempt, fault)

    def _finished(self, attempt: Attempt, result: Result, ticket: Ticket | None) -> _Step:
        done = self._tools.book.done(attempt, result, result.cost_microusd, ends_now=self._ends_now(result))
        if done is None or done.settled_at is not None:  # the job has ended meanwhile; what it cost is known now
            raise Dropped
        return self._take(done, result, ticket)

    def _take(self, attempt: Attempt, result: Result, ticket: Ticket | None) -> _Step:
        """Bring the images here."""
        if not result.images:
            return self._spoilt(
                attempt, result, Fault(FaultKind.MALFORMED, "It says that it is done, without an image.")
            )
        made: list[MadeImage] = []
        for index, image in enumerate(result.images[: self.spot.images]):
            got = self._collect(image, index, ticket)
            if isinstance(got, Fault):
                return self._spoilt(attempt, result, got)
            made.append(MadeImage(got, image.unsafe))
        pixels = sum(each.stored.width * each.stored.height for each in made)
        charge = self._charge(attempt, result, pixels)
        return Made(attempt, self.spot, self._normalised, tuple(made), charge, result)

    def _collect(self, image: RemoteImage, index: int, ticket: Ticket | None) -> StoredResult | Fault:
        """The image in our store; where its link is dead, the provider may give a fresh one."""
        if image.stored is not None:
            return image.stored
        got = self._upstream.collect(image)
        if isinstance(got, Fault) and ticket is not None:
            self._check()
            again = self._upstream.poll(ticket)
            if isinstance(again, Finished) and index < len(again.result.images):
                got = self._upstream.collect(again.result.images[index])
        return got

    # --- what else it can come to

    def _judge(self, phase: Phase, attempt: Attempt, fault: Fault) -> _Step:
        fault = replace(fault, message=redact(fault.message))  # providers echo keys
        rule = self._rule(phase, fault)
        self._report(attempt, fault, rule)
        book, judgement = self._tools.book, self._judgement(fault, rule)
        same_job = self._traits.idempotent and phase is Phase.SUBMIT
        if rule.has("S") and same_job:
            return _Again(rule, fault, attempt)
        if rule.has("L") or rule.has("U"):
            row = book.read(attempt.id)
            if row is not None and row.state is AttemptState.ACCEPTED and phase is Phase.SUBMIT:
                return self._await(row, ticket_of(row))  # a webhook has named it before the answer was lost
            book.end(attempt, AttemptState.UNKNOWN, fault, None, judgement)
            self._check()
            if rule.has("L"):
                return self._look_up(attempt, fault)
            if fault.kind is FaultKind.NO_ANSWER and self._left_s() <= ALMOST_OVER_S:
                raise self._too_long()
            return self._unresolved(attempt, fault, rule)
        self._end(attempt, fault, rule)
        if rule.has("S"):
            return _Again(rule, fault, replace(attempt, state=AttemptState.REFUSED))
        if rule.has("N"):
            return Next(self._target.name, fault)
        raise failure_of(fault)

    def _end(self, attempt: Attempt, fault: Fault, rule: Rule) -> None:
        """It will not be done by this attempt; where it is not known whether it is charged, the row says so."""
        uncertain = rule.owed and fault.charged is None and self._traits.paid
        to = AttemptState.UNKNOWN if uncertain else AttemptState.REFUSED
        self._tools.book.end(attempt, to, fault, self._owed(attempt, fault, rule), self._judgement(fault, rule))

    def _exhausted(self, step: _Again) -> Verdict:
        """The target was asked often enough."""
        attempt, fault = step.attempt, step.fault
        if attempt.state is AttemptState.SENDING:  # a row that is kept for the same job
            if step.rule.has("U"):
                self._tools.book.end(attempt, AttemptState.UNKNOWN, fault, None, self._judgement(fault, step.rule))
                raise self._unknown(fault)
            self._end(attempt, fault, step.rule)
        if step.rule.has("N"):
            return Next(self._target.name, fault)
        raise self._unknown(fault) if step.rule.has("U") or step.rule.has("L") else failure_of(fault)

    def _spoilt(self, attempt: Attempt, result: Result, fault: Fault) -> _Step:
        """It was made, and cannot be delivered."""
        rule = self._rule(Phase.RESULT, fault)
        self._report(attempt, fault, rule)
        self._tools.book.spoil(attempt, fault, self._charge(attempt, result))
        if rule.has("S"):
            return _Again(rule, fault, replace(attempt, state=AttemptState.DONE))
        if rule.has("N"):
            return Next(self._target.name, fault)
        raise failure_of(fault)

    def _look_up(self, attempt: Attempt, fault: Fault) -> _Step:
        """Find out what became of a submit: its webhook or the provider's history may name it."""
        tools, rule = self._tools, Rule("L", owed=True)
        repeats = tools.settings.on_unknown == "repeat"
        left_s = self._left_s() / 2 if repeats else self._left_s()
        until = tools.clock() + timedelta(seconds=max(0.0, left_s))
        told = self._traits.webhooks and tools.settings.public_url is not None
        pause_s = LOOK_UP_S
        while (self._traits.has_history or told) and tools.clock() < until:
            self._check()
            row = tools.book.read(attempt.id)
            if row is not None and row.state is AttemptState.ACCEPTED:
                return self._await(row, ticket_of(row))
            if self._traits.has_history:
                ticket = self._upstream.find(self._call(attempt), (attempt.sent_at or tools.clock()) - LOOK_BACK)
                found = None if ticket is None else tools.book.accept(attempt, ticket)
                if found is not None and ticket is not None:
                    return self._await(found, ticket)
            left_s = (until - tools.clock()).total_seconds()
            tools.signals.wait(max(0.0, min(pause_s + self._turn_s(), left_s)))
            pause_s = min(pause_s * 2, LONGEST_LOOK_UP_S)
        return self._unresolved(attempt, fault, rule)

    def _unresolved(self, attempt: Attempt, fault: Fault, rule: Rule) -> _Step:
        tools = self._tools
        if tools.settings.on_unknown == "fail":
            raise self._unknown(fault)
        tools.book.book(attempt, attempt.hold_microusd)
        tools.tell(f"{self._target.name} may have made the edit once already: it is asked again, and both are booked.")
        return _Again(rule, fault, replace(attempt, state=AttemptState.UNKNOWN))

    def _unknown(self, fault: Fault) -> UpstreamOutcomeUnknown:
        return UpstreamOutcomeUnknown(
            f"Whether '{self._target.name}' has taken the edit cannot be found out, so it was not sent again: "
            f"{fault.message}"
        )

    def _out_of_time(self, attempt: Attempt, ticket: Ticket) -> _Step:
        """The deadline: what has not begun is free where that can be cancelled, everything else may be owed."""
        outcome = self._stop_there(attempt, ticket)
        if isinstance(outcome, Finished):
            return self._finished(attempt, outcome.result, ticket)
        raise self._too_long()

    def _too_long(self) -> GenerationTimeout:
        seconds = self._tools.settings.deadline_s
        return GenerationTimeout(f"'{self._target.name}' did not end within the {seconds:g} seconds there were.")

    def _call_off(self, attempt: Attempt, ticket: Ticket) -> None:
        """Stop it there on its owner's wish, or because another attempt was faster."""
        outcome = self._stop_there(attempt, ticket)
        if isinstance(outcome, Finished):
            self._tools.book.done(attempt, outcome.result, self._charge(attempt, outcome.result))
        raise Dropped if self._dropped else Cancelled

    def _stop_there(self, attempt: Attempt, ticket: Ticket) -> PollOutcome | None:
        """Cancel and read the end, which is booked unless it is Finished."""
        stops = self._traits.cancels and self._upstream.cancel(ticket)
        until = self._tools.clock() + timedelta(seconds=ENDING_S if stops else 0.0)
        while True:
            outcome = self._upstream.poll(ticket)
            now = self._tools.clock()
            if isinstance(outcome, Finished):
                return outcome
            if isinstance(outcome, Failed) or now >= until:
                break
            if isinstance(outcome, Pending):
                self._state = outcome.state
            self._tools.signals.wait(min(self._traits.poll_s, (until - now).total_seconds()), until_signal=True)
        fault = outcome.fault if isinstance(outcome, Failed) else Fault(FaultKind.TIMED_OUT, "Given up by this server.")
        free = fault.charged is False or (stops and self._state is RemoteState.QUEUED and self._traits.free_cancel)
        charge = 0 if free or not self._traits.paid else attempt.hold_microusd if fault.charged else None
        if charge is None:
            charge = attempt.unknown_microusd
        self._tools.book.end(attempt, AttemptState.ABANDONED, fault, charge, None)
        return outcome

    # --- small things

    def _call(self, attempt: Attempt) -> Call:
        public_url = self._tools.settings.public_url
        return Call(
            attempt_id=attempt.id,
            normalised=self._normalised,
            seed=attempt.seed,
            links=self._tools.links,
            webhook_url=None if public_url is None else f"{public_url}/upstreams/webhooks/{attempt.id}",
            deadline=self._tools.deadline,
        )

    def _ends_now(self, result: Result) -> bool:
        """Whether the job has all its images with this answer, and nothing is left to do with them."""
        job = self._tools.lease.job
        whole = job.delivery.retention_s is None and len(result.images) >= self.spot.images == job.request.num_images
        emulation = self._normalised.emulation
        return whole and all(
            image.stored is not None and goes_as_it_came(image.stored, emulation) for image in result.images
        )

    def _body_hash(self) -> str:
        """Names what was asked for; parameters and images, not their bytes."""
        normalised = self._normalised
        images = [[image.blob, image.url] for image in normalised.images.images]
        asked = [normalised.endpoint, dict(normalised.parameters), images, self.spot.seed]
        return hashlib.sha256(orjson.dumps(asked, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def _charge(self, attempt: Attempt, result: Result, pixels: int | None = None) -> int:
        """What the provider says it costs, else by the target's sheet."""
        if result.cost_microusd is not None:
            return result.cost_microusd
        return self._price(len(result.images), pixels, _seconds(attempt))

    def _price(self, images: int, pixels: int | None, seconds: float) -> int:
        """By the target's sheet; pixels None: as many as were asked for, a megapixel each where none were."""
        sheet = self._normalised.sheet or self._target.sheet
        if sheet is None or not self._traits.paid:
            return 0
        if pixels is None:
            width, height = self._normalised.emulation.size or (1024, 1024)
            pixels = images * width * height
        return sheet.of(images, pixels, seconds, inputs=len(self._normalised.images.images))

    def _rule(self, phase: Phase, fault: Fault) -> Rule:
        own_key, pay_again = self._connection.own_key, self._tools.settings.pay_again
        return rule_of(phase, fault, self._traits, own_key=own_key, pay_again=pay_again)

    def _judgement(self, fault: Fault, rule: Rule) -> Judgement:
        if fault.kind not in COUNTS:
            return None
        return "at_once" if rule.opens else "bad"

    def _owed(self, attempt: Attempt, fault: Fault, rule: Rule) -> int:
        if fault.charged:
            return attempt.hold_microusd
        return attempt.unknown_microusd if rule.owed and fault.charged is None else 0

    def _report(self, attempt: Attempt, fault: Fault, rule: Rule) -> None:
        log = logger.error if rule.alarm else logger.warning
        about = {"job": attempt.job_id, "target": attempt.target, "attempt": attempt.id, "cause": fault.kind.value}
        log("upstream fault", **about, status=fault.status, then=rule.codes, message=fault.message)

    def _show(self, pending: Pending, shown: tuple[object, ...]) -> tuple[object, ...]:
        """Pass on how far it is there, when that has changed."""
        self._state = pending.state
        for line in pending.logs:
            self._tools.tell(line)
        if pending.steps:
            now: tuple[object, ...] = (pending.step, pending.steps)
            if now != shown:
                self._tools.progress(pending.step, pending.steps)
            return now
        now = (pending.state, pending.position)
        if now != shown:
            ahead = "" if pending.position is None else f", {pending.position} before it"
            self._tools.tell(f"{self._target.name}: {pending.state.value}{ahead}")
        return now

    def _pause_s(self, fault: Fault, repeats: int) -> float | None:
        """Until the target is asked again; None when that is too long to wait for."""
        asked = fault.retry_after_s
        pause_s: float = BACK_OFF_S * 2**repeats * random.uniform(0.8, 1.2) if asked is None else asked  # noqa: S311
        return None if pause_s > min(LONGEST_RETRY_AFTER_S, self._left_s()) else pause_s

    def _pause(self, seconds: float) -> None:
        self._tools.signals.wait(seconds, until_signal=True)

    def _left_s(self) -> float:
        return (self._tools.deadline - self._tools.clock()).total_seconds()

    def _turn_s(self) -> float:
        return self._tools.pace.turn_s(self._connection.fingerprint, self._traits.polls_per_second)

    def _check(self) -> None:
        self._tools.signals.check()
        if self._dropped:
            raise Dropped


def _seconds(attempt: Attempt) -> float:
    if attempt.ended_at is None or attempt.sent_at is None:
        return 0.0
    return (attempt.ended_at - (attempt.accepted_at or attempt.sent_at)).total_seconds()
