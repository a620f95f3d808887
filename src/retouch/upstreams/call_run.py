"""One call to one target, from its row to its images or to what is to be done instead.

The thread of a job goes through here from top to bottom: plan, send, wait, collect. Wherever another server or an
earlier life of this one has left the row, it goes on from there: what may have been taken is looked up, never submitted
again. What a fault leads to is read from `failure_rules.py`.
"""

from __future__ import annotations

import hashlib
import random
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

import orjson
import structlog

from retouch.catalog.normalised import Normalised
from retouch.errors import GenerationTimeout, UpstreamOutcomeUnknown
from retouch.jobs.attempts import Attempt, AttemptState
from retouch.jobs.job import Clock, Lease
from retouch.secret import redact
from retouch.upstreams.attempt_book import LOST_SIGHT, AttemptBook, Judgement, result_of, ticket_of
from retouch.upstreams.delivery import goes_as_it_came
from retouch.upstreams.failure_rules import COUNTS, Phase, Rule, failure_of, rule_of
from retouch.upstreams.routes import Connection, GatewaySettings, Target
from retouch.upstreams.upstream import (
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
    Ticket,
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


@dataclass(frozen=True, slots=True)
class _Again:
    """The same target is to be asked again. same: the row to send once more, where that is the same job there."""

    rule: Rule
    fault: Fault
    same: Attempt | None = None


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

    attempt: an open row of an earlier life. drop: makes it end with Dropped at its next step. booked: set once its row
    tells what it costs, which may be before its images are here, and when it is over.
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
        self.booked = threading.Event()
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
        try:
            while True:
                self._check()
                step = self._begin() if attempt is None else self._go_on(attempt)
                if not isinstance(step, _Again):
                    return step
                pause_s = step.fault.retry_after_s
                if pause_s is None:
                    pause_s = BACK_OFF_S * 2**repeats * random.uniform(0.8, 1.2)  # noqa: S311
                if repeats == MOST_REPEATS or pause_s > min(LONGEST_RETRY_AFTER_S, self._left_s()):
                    return self._exhausted(step)
                repeats += 1
                attempt = step.same
                self._tools.signals.wait(pause_s, until_signal=True)
        finally:
            self.booked.set()

    # --- stations

    def _begin(self) -> _Step:
        """Write the row, then send. What the submit can cost is held from here on."""
        tools, spot, normalised, job = self._tools, self.spot, self._normalised, self._tools.lease.job
        images = [[image.blob, image.url] for image in normalised.images.images]
        content = [normalised.endpoint, dict(normalised.parameters), images, spot.seed]
        hold = self._price(spot.images, None, 0.0)
        planned = Attempt(
            id=str(uuid.uuid4()),
            job_id=job.id,
            account_id=job.account_id,
            target=self._target.name,
            key=self._connection.fingerprint,
            image=spot.image,
            images=spot.images,
            lane=spot.lane,
            seed=spot.seed,
            body_hash=hashlib.sha256(orjson.dumps(content, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            hold_microusd=hold,
            unknown_microusd=hold if tools.settings.keep_unknown_hold else 0,
            planned_at=tools.clock(),
        )
        self.booked.clear()
        # On the disk before the first byte leaves: a row that is found as `sending` may have been taken there.
        sending = tools.book.send(tools.lease, planned)
        logger.info("submit", job=sending.job_id, target=sending.target, attempt=sending.id)
        return self._submit(sending)

    def _go_on(self, attempt: Attempt) -> _Step:
        """Go on from the state the row is in. One of which nothing was sent is never seen here."""
        if attempt.state is AttemptState.SENDING:
            # Bytes may have left. Only where the same submit is the same job may it be sent again.
            return self._submit(attempt) if self._traits.idempotent else self._judge(Phase.SUBMIT, attempt, LOST_SIGHT)
        if attempt.state is AttemptState.ACCEPTED:
            return self._await(attempt, ticket_of(attempt))
        if attempt.state is AttemptState.DONE:
            assert attempt.result is not None, "a done attempt has a result"
            ticket = None if attempt.ticket is None else ticket_of(attempt)
            return self._take(attempt, result_of(attempt.result), ticket)
        return self._look_up(attempt, LOST_SIGHT)

    def _submit(self, attempt: Attempt) -> _Step:
        self._submitting = attempt.id
        try:
            outcome = self._upstream.submit(self._call(attempt))
        finally:
            self._submitting = None
        if isinstance(outcome, Failed):
            return self._judge(Phase.SUBMIT, attempt, outcome.fault)
        if isinstance(outcome, Finished):
            return self._finished(attempt, outcome.result, None)
        accepted = self._tools.book.accept(attempt, outcome.ticket)
        self._tools.tell(f"{self._target.name} has taken the edit.")
        if accepted is None:  # the job has ended meanwhile, so it is not wanted there
            self._upstream.cancel(outcome.ticket)
            raise Dropped
        return self._await(accepted, outcome.ticket)

    def _await(self, attempt: Attempt, ticket: Ticket) -> _Step:
        """Poll until it has ended there; what a poll cannot tell is asked again."""
        pause_s = self._traits.poll_s
        last: tuple[object, ...] = ()
        while True:
            if self._dropped or self._tools.signals.raised is Cancelled:
                outcome = self._stop_there(attempt, ticket)
                if isinstance(outcome, Finished):  # it was faster, and is paid
                    self._tools.book.done(attempt, outcome.result, self._charge(attempt, outcome.result))
                raise Dropped if self._dropped else Cancelled
            self._check()
            left_s = self._left_s()
            if left_s <= 0:
                # What has not begun is free where that can be cancelled, everything else may be owed.
                outcome = self._stop_there(attempt, ticket)
                if isinstance(outcome, Finished):
                    return self._finished(attempt, outcome.result, ticket)
                raise self._too_long()
            self._tools.signals.wait(min(pause_s + self._turn_s(), left_s))
            outcome = self._upstream.poll(ticket)
            if isinstance(outcome, Finished):
                return self._finished(attempt, outcome.result, ticket)
            if isinstance(outcome, Failed):
                fault = outcome.fault
                if fault.kind is FaultKind.TIMED_OUT and fault.charged is None and self._state is RemoteState.QUEUED:
                    fault = replace(fault, charged=False)  # it never began
                return self._judge(Phase.POLL, attempt, fault)
            if isinstance(outcome, Pending):
                last = self._show(outcome, last)
            pause_s = min(pause_s * POLL_GROWTH, self._traits.poll_cap_s)

    def _show(self, pending: Pending, last: tuple[object, ...]) -> tuple[object, ...]:
        """Pass on how far it is there, when that has changed."""
        self._state = pending.state
        for line in pending.logs:
            self._tools.tell(line)
        if pending.steps:
            now: tuple[object, ...] = (pending.step, pending.steps)
            if now != last:
                self._tools.progress(pending.step, pending.steps)
            return now
        now = (pending.state, pending.position)
        if now != last:
            ahead = "" if pending.position is None else f", {pending.position} before it"
            self._tools.tell(f"{self._target.name}: {pending.state.value}{ahead}")
        return now

    def _finished(self, attempt: Attempt, result: Result, ticket: Ticket | None) -> _Step:
        """The provider has made the images: they are on its bill, whatever becomes of them here."""
        job, emulation = self._tools.lease.job, self._normalised.emulation
        whole = job.delivery.retention_s is None and len(result.images) >= self.spot.images == job.request.num_images
        # With all its images here and nothing left to do with them, the job's end is written next.
        ends_now = whole and all(
            image.stored is not None and goes_as_it_came(image.stored, emulation) for image in result.images
        )
        sizes = [image.stored.width * image.stored.height for image in result.images if image.stored is not None]
        pixels = sum(sizes) if len(sizes) == len(result.images) else None
        # Written now, for the images may never come here: a race may be lost, or the job be over.
        done = self._tools.book.done(attempt, result, self._charge(attempt, result, pixels), ends_now=ends_now)
        if done is None or done.settled_at is not None:  # the job has ended meanwhile; what it cost is known now
            raise Dropped
        self.booked.set()
        return self._take(done, result, ticket)

    def _take(self, attempt: Attempt, result: Result, ticket: Ticket | None) -> _Step:
        """Bring the images here."""
        if not result.images:
            empty = Fault(FaultKind.MALFORMED, "It says that it is done, without an image.")
            return self._spoilt(attempt, result, empty)

        def reread(index: int) -> RemoteImage | None:
            """The image as the provider tells it now: its link may have been given anew."""
            self._check()
            again = None if ticket is None else self._upstream.poll(ticket)
            there = again.result.images if isinstance(again, Finished) else ()
            return there[index] if index < len(there) else None

        made: list[MadeImage] = []
        for index, image in enumerate(result.images[: self.spot.images]):
            got = self._upstream.collect(image, partial(reread, index))
            if isinstance(got, Fault):
                return self._spoilt(attempt, result, got)
            made.append(MadeImage(got, image.unsafe))
        pixels = sum(each.stored.width * each.stored.height for each in made)
        charge = self._charge(attempt, result, pixels)
        if charge != attempt.charge_microusd:  # by the pixel; paid too when these images are not the ones delivered
            self._tools.book.book(attempt, charge)
        return Made(attempt, self.spot, self._normalised, tuple(made), charge, result)

    # --- what else it can come to

    def _judge(self, phase: Phase, attempt: Attempt, fault: Fault) -> _Step:
        """It was not taken, or ended there without images; or nothing is known of it."""
        fault = replace(fault, message=redact(fault.message))  # providers echo keys
        rule, book = self._rule(phase, attempt, fault), self._tools.book
        if rule.has("S") and self._traits.idempotent and phase is Phase.SUBMIT:
            return _Again(rule, fault, attempt)
        if not (rule.has("L") or rule.has("U")):
            self._end(attempt, fault, rule)
            return self._after(rule, fault)
        row = book.read(attempt.id)
        if row is not None and row.state is AttemptState.ACCEPTED and phase is Phase.SUBMIT:
            return self._await(row, ticket_of(row))  # a webhook has named it before the answer was lost
        # It may have been taken, and may be charged: from here on this attempt is looked up, never sent again.
        book.end(attempt, AttemptState.UNKNOWN, fault, None, self._judgement(fault, rule))
        self._check()
        if rule.has("L"):
            return self._look_up(attempt, fault)
        if fault.kind is FaultKind.NO_ANSWER and self._left_s() <= ALMOST_OVER_S:
            raise self._too_long()
        return self._unresolved(attempt, fault, rule)

    def _spoilt(self, attempt: Attempt, result: Result, fault: Fault) -> _Step:
        """It was made, and cannot be delivered."""
        rule = self._rule(Phase.RESULT, attempt, fault)
        self._tools.book.spoil(attempt, fault, self._charge(attempt, result))
        return self._after(rule, fault)

    def _after(self, rule: Rule, fault: Fault) -> _Step:
        """What follows an attempt that is over."""
        if rule.has("S"):
            return _Again(rule, fault)
        if rule.has("N"):
            return Next()
        raise failure_of(fault)

    def _exhausted(self, step: _Again) -> Verdict:
        """The target was asked often enough."""
        rule, fault = step.rule, step.fault
        if step.same is not None:
            if rule.has("U"):
                self._tools.book.end(step.same, AttemptState.UNKNOWN, fault, None, self._judgement(fault, rule))
                raise self._unknown(fault)
            self._end(step.same, fault, rule)
        if rule.has("N"):
            return Next()
        raise self._unknown(fault) if rule.has("U") or rule.has("L") else failure_of(fault)

    def _end(self, attempt: Attempt, fault: Fault, rule: Rule) -> None:
        """It will not be done by this attempt. Where nothing says whether it is charged, the row says that, and holds
        what the operator has unknown charges booked as: nothing, or all that it can cost.
        """
        unsaid = rule.owed and fault.charged is None
        to = AttemptState.UNKNOWN if unsaid and self._traits.paid else AttemptState.REFUSED
        charge = attempt.hold_microusd if fault.charged else attempt.unknown_microusd if unsaid else 0
        self._tools.book.end(attempt, to, fault, charge, self._judgement(fault, rule))

    def _look_up(self, attempt: Attempt, fault: Fault) -> _Step:
        """Find out what became of a submit: its webhook or the provider's history may name it."""
        tools, rule = self._tools, Rule("L", owed=True)
        repeats = tools.settings.on_unknown == "repeat"
        left_s = self._left_s() / 2 if repeats else self._left_s()
        until = tools.clock() + timedelta(seconds=max(0.0, left_s))
        notified = self._traits.webhooks and tools.settings.public_url is not None
        pause_s = LOOK_UP_S
        while (self._traits.has_history or notified) and tools.clock() < until:
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
        return _Again(rule, fault)

    def _unknown(self, fault: Fault) -> UpstreamOutcomeUnknown:
        return UpstreamOutcomeUnknown(
            f"Whether '{self._target.name}' has taken the edit cannot be found out, so it was not sent again: "
            f"{fault.message}"
        )

    def _too_long(self) -> GenerationTimeout:
        seconds = self._tools.settings.deadline_s
        return GenerationTimeout(f"'{self._target.name}' did not end within the {seconds:g} seconds there were.")

    def _stop_there(self, attempt: Attempt, ticket: Ticket) -> PollOutcome:
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
        at_most = attempt.hold_microusd if fault.charged else attempt.unknown_microusd
        charge = 0 if free or not self._traits.paid else at_most
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

    def _charge(self, attempt: Attempt, result: Result, pixels: int | None = None) -> int:
        """What the provider says it costs, else by the target's sheet; of one that has not ended here, by now."""
        if result.cost_microusd is not None:
            return result.cost_microusd
        began = attempt.accepted_at or attempt.sent_at
        whole = timedelta() if began is None else (attempt.ended_at or self._tools.clock()) - began
        return self._price(len(result.images), pixels, whole.total_seconds())

    def _price(self, images: int, pixels: int | None, seconds: float) -> int:
        """By the target's sheet; pixels None: as many as were asked for, a megapixel each where none were."""
        sheet = self._normalised.sheet or self._target.sheet
        if sheet is None or not self._traits.paid:
            return 0
        if pixels is None:
            width, height = self._normalised.emulation.size or (1024, 1024)
            pixels = images * width * height
        return sheet.of(images, pixels, seconds, inputs=len(self._normalised.images.images))

    def _rule(self, phase: Phase, attempt: Attempt, fault: Fault) -> Rule:
        """What is to be done after a fault; it is logged."""
        own_key, pay_again = self._connection.own_key, self._tools.settings.pay_again
        rule = rule_of(phase, fault, self._traits, own_key=own_key, pay_again=pay_again)
        log = logger.error if rule.alarm else logger.warning
        about = {"job": attempt.job_id, "target": attempt.target, "attempt": attempt.id, "cause": fault.kind.value}
        log("upstream fault", **about, status=fault.status, then=rule.codes, message=fault.message)
        return rule

    def _judgement(self, fault: Fault, rule: Rule) -> Judgement:
        # A connection that this server has closed itself, for a cancel or a faster target, says nothing of this one.
        given_up = self._dropped or self._tools.signals.raised is not None
        if fault.kind not in COUNTS or (given_up and fault.kind in (FaultKind.INTERRUPTED, FaultKind.NO_ANSWER)):
            return None
        return "at_once" if rule.opens else "bad"

    def _left_s(self) -> float:
        return (self._tools.deadline - self._tools.clock()).total_seconds()

    def _turn_s(self) -> float:
        return self._tools.pace.turn_s(self._connection.fingerprint, self._traits.polls_per_second)

    def _check(self) -> None:
        self._tools.signals.check()
        if self._dropped:
            raise Dropped
