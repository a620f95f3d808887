"""One leased job through its targets: which is asked, what is still missing, and each way it can end.

It runs on a thread of its own (`gateway.py`). A job that this or another server has begun is taken up from its rows of
`attempt`. What happens at one target is `call_run.py`'s matter; states and money are written by the service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from queue import Empty, SimpleQueue

import structlog

from retouch.catalog.normalised import Normalised
from retouch.database import Database
from retouch.edit import EditOutput, EditRequest, Notice, OutputImage, Usage, seed_of_image
from retouch.errors import (
    AllProvidersExhausted,
    GenerationTimeout,
    InternalError,
    LeaseLost,
    RetouchError,
    Unavailable,
    UnknownJob,
    UpstreamOutcomeUnknown,
    UpstreamResultLost,
)
from retouch.jobs import breakers
from retouch.jobs.attempts import OPEN, Attempt, AttemptState
from retouch.jobs.breakers import BreakerState
from retouch.jobs.job import Clock, Lease
from retouch.service import Service
from retouch.storage.blobs import Blobs
from retouch.storage.caller_bucket import CallerBuckets
from retouch.upstreams.attempt_book import AttemptBook
from retouch.upstreams.call_run import CallRun, CallTools, Made, Spot, Verdict
from retouch.upstreams.delivery import Delivery
from retouch.upstreams.routes import Circumstances, Connection, Destination, Plan, Routes, Target, plan
from retouch.upstreams.waits import Cancelled, Dropped, Lost, Pace, Signals, Slots, Stopping

logger = structlog.get_logger(__name__)

LINK_LEEWAY_S = 3600.0
"""Life of the links that providers are given, beyond the deadline."""

OUTAGE_PAUSE_S = 2.0
FULL_PAUSE_S = 0.1
LOSER_S = 2.0
"""How long the images of a race's loser are waited for, once it is known that they are made."""

PROBE_S = 30.0
"""Beyond the deadline: how long a target stays half-open for the edit that tries it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every run of a process shares. routes: the file as it is now. account_name: of an account's id."""

    service: Service
    database: Database
    blobs: Blobs
    routes: Callable[[], Routes]
    delivery: Delivery
    account_name: Callable[[str], str]
    clock: Clock
    caller_buckets: CallerBuckets = field(default_factory=CallerBuckets)
    pace: Pace = field(default_factory=Pace)
    slots: Slots = field(default_factory=Slots)


class _Lane:
    """One target's calls in a race, on a thread of their own. outcome: once it has ended, and is in `ended`."""

    def __init__(
        self,
        calls: Sequence[CallRun],
        run: Callable[[Sequence[CallRun]], list[Verdict]],
        ended: SimpleQueue[_Lane],
    ) -> None:
        self.outcome: list[Verdict] | BaseException = []
        self._calls = calls
        self._run_all = run
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)
        self._thread.start()

    @property
    def made(self) -> bool:
        return isinstance(self.outcome, list) and all(isinstance(each, Made) for each in self.outcome)

    def drop(self) -> None:
        for call in self._calls:
            call.drop()

    def wait(self) -> None:
        """Until its rows tell what it costs, and a little longer for its images, whose pixels may correct that."""
        for call in self._calls:
            call.booked.wait()
        self._thread.join(LOSER_S)

    def _run(self) -> None:
        try:
            self.outcome = self._run_all(self._calls)
        except BaseException as error:  # noqa: BLE001 - handed to the thread of the job, which raises it
            self.outcome = error
        finally:
            self._ended.put(self)
            for call in self._calls:  # also one that was never begun
                call.booked.set()


class EditRun:
    """`run` blocks until the job has ended or is given back; the other methods are for other threads."""

    def __init__(self, parts: Parts, lease: Lease) -> None:
        self.lease = lease
        self.signals = Signals()
        self._parts = parts
        self._book = AttemptBook(parts.database, parts.clock)
        self._routes = parts.routes()
        self._calls: list[CallRun] = []
        self._lock = threading.Lock()
        self._notices: list[Notice] = []
        self._unused: list[Made] = []  # by the losers of races
        self._began = time.monotonic()

    @property
    def id(self) -> str:
        return self.lease.job.id

    @property
    def key(self) -> str:
        return f"{self.id}/{self.lease.claim}"

    def signal(self, what: type[Exception]) -> None:
        """Cancelled, Stopping or Lost."""
        self.signals.set(what)
        if what is Cancelled:
            self.hang_up()

    def hang_up(self, *, anyway: bool = False) -> None:
        """See `CallRun.hang_up`."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.hang_up(anyway=anyway)

    def run(self) -> None:
        service, lease = self._parts.service, self.lease
        try:
            self._make()
        except (LeaseLost, Lost, UnknownJob):
            logger.warning("lease lost; the edit is left to its new owner", job=self.id)
        except Cancelled:
            logger.info("job cancelled", job=self.id)
            self._tell_end(lambda: service.acknowledge_cancel(lease))
        except (Stopping, Dropped):
            self._tell_end(lambda: service.release(lease))
        except Unavailable as error:
            logger.warning("storage or database is away", job=self.id, reason=error.message)
            self.signals.wait(OUTAGE_PAUSE_S, until_signal=True)
            self._tell_end(lambda: service.release(lease))
        except RetouchError as error:
            logger.info("job failed", job=self.id, code=error.code)
            failure = error.failure
            self._tell_end(lambda: service.fail(lease, failure))
        except Exception:
            logger.exception("job failed by a bug", job=self.id)
            bug = InternalError("Something went wrong inside the server; it has been logged.").failure
            self._tell_end(lambda: service.fail(lease, bug))

    def _tell_end(self, verb: Callable[[], object]) -> None:
        """When it cannot be recorded, the lease runs out by itself, and the rows say how far it was."""
        try:
            verb()
        except (LeaseLost, UnknownJob, Unavailable) as error:
            logger.warning("the end of a job could not be recorded", job=self.id, reason=error.message)

    # --- making the images

    def _make(self) -> None:
        job = self.lease.job
        # Rows are written under a lease only: the first one finds none.
        known = () if self.lease.claim == 1 else self._book.of_job(job.id)
        tools = self._tools(known)
        made = self._resume(tools, known)
        tried = {each.target for each in known if each.state is AttemptState.REFUSED or _given_up(each)}
        self._ask(tools, made, tried)
        self._finish(made)

    def _tools(self, known: Sequence[Attempt]) -> CallTools:
        job, now, settings = self.lease.job, self._parts.clock(), self._routes.settings
        began = min((each.planned_at for each in known), default=now)
        deadline = began + timedelta(seconds=settings.deadline_s)
        if job.end_by is not None:
            deadline = min(deadline, job.end_by)
        if job.run_timeout_s is not None:
            deadline = min(deadline, began + timedelta(seconds=job.run_timeout_s))
        links = {image.field: image.url for image in job.request.inputs if image.url is not None}
        if settings.public_url is not None:
            ttl_s = settings.deadline_s + LINK_LEEWAY_S
            for image in job.request.inputs:
                if image.blob is not None:
                    links[image.field] = self._parts.blobs.link(image.blob, ttl_s=ttl_s, base_url=settings.public_url)
        return CallTools(
            book=self._book,
            lease=self.lease,
            settings=settings,
            signals=self.signals,
            pace=self._parts.pace,
            clock=self._parts.clock,
            deadline=deadline,
            links=links,
            tell=self._tell,
            progress=self._progress,
        )

    def _resume(self, tools: CallTools, known: Sequence[Attempt]) -> list[Made]:
        """Bring to an end what an earlier life of this job has begun; a fault there leaves images to be asked for."""
        begun = [each for each in known if each.state in OPEN | {AttemptState.DONE, AttemptState.UNKNOWN}]
        latest = {(each.image, each.lane): each for each in begun if each.state is not AttemptState.PLANNED}
        calls = []
        for attempt in latest.values():
            if _given_up(attempt):
                continue
            place = self._routes.sent_to(attempt.target, attempt.account_id)
            if place is None:
                raise UpstreamOutcomeUnknown(
                    f"'{attempt.target}' has been sent the edit and is no longer in the routes file of this server."
                )
            spot = Spot(attempt.image, attempt.images, attempt.seed, attempt.lane)
            calls.append(self._call(tools, place, spot, attempt=attempt))
        return [each for each in self._run_all(calls) if isinstance(each, Made)]

    def _ask(self, tools: CallTools, made: list[Made], tried: set[str]) -> None:
        """Ask one target after the other for the images that `made` misses yet."""
        request, wanted = self.lease.job.request, self.lease.job.request.num_images
        if not _missing(wanted, made):
            return
        chosen = self._plan(request)
        left = [target for target in chosen.targets if not target.local]
        # What failed in an earlier life of the job is asked again only where there is nothing else.
        left = [target for target in left if target.name not in tried] or left
        while missing := _missing(wanted, made):
            if not left:
                raise self._exhausted(chosen)
            if (tools.deadline - self._parts.clock()).total_seconds() <= 0:
                raise GenerationTimeout(f"No target made the edit within {tools.settings.deadline_s:g} seconds.")
            with self._slot(left, tools) as (target, connection):
                others = [each for each in left if each is not target]
                if chosen.rule.hedge_after_s is None or not others:
                    verdicts = self._run_all(self._calls_for(tools, (target, connection), missing, chosen))
                else:
                    verdicts = self._race(tools, (target, connection), others, missing, chosen)
            new = [each for each in verdicts if isinstance(each, Made)]
            made += new
            for each in new:
                if tools.settings.on_missing == "fail" and len(each.images) < each.spot.images:
                    raise UpstreamResultLost(
                        f"'{each.attempt.target}' made {len(each.images)} of {each.spot.images} images."
                    )
            if len(new) < len(verdicts) or not verdicts:
                left = [each for each in left if each is not target]

    def _plan(self, request: EditRequest) -> Plan:
        job, parts = self.lease.job, self._parts
        account = (job.account_id, parts.account_name(job.account_id))
        sizes = parts.delivery.sizes_of(request)
        now = Circumstances.now(self._routes, parts.database, account, request, sizes, parts.clock())
        chosen = plan(self._routes, request, now)
        if chosen is None or all(target.local for target in chosen.targets):
            raise AllProvidersExhausted(
                f"No target of the routes file takes an edit of '{request.model}' any more.", attempts=()
            )
        return chosen

    @contextmanager
    def _slot(self, left: Sequence[Target], tools: CallTools) -> Iterator[Destination]:
        """The first target with room, waited for when all are full; a half-open one is tried by one edit only."""
        while True:
            for target in left:
                connection = self._routes.connect(target.upstream, self.lease.job.account_id)
                if connection is None:
                    continue
                with self._parts.slots.take(target.upstream, connection.max_in_flight) as taken:
                    # The slot first: a target whose one try is taken is left alone by all other edits.
                    if taken and (len(left) == 1 or self._may_try(target, connection, tools)):
                        yield target, connection
                        return
            self.signals.check()
            if (tools.deadline - self._parts.clock()).total_seconds() <= 0:
                raise GenerationTimeout("No target had room for the edit in the time there was.")
            self.signals.wait(FULL_PAUSE_S)

    def _may_try(self, target: Target, connection: Connection, tools: CallTools) -> bool:
        now = self._parts.clock()
        key = (target.name, connection.fingerprint)
        with self._parts.database.read() as reading:
            row = breakers.read(reading, [key]).get(key)
        if row is None or row.state(now) is BreakerState.CLOSED:
            return True
        if row.state(now) is BreakerState.OPEN:
            return row.probe == self.id
        with self._parts.database.transaction() as writing:
            return breakers.take_probe(writing, row, self.id, now, tools.deadline + timedelta(seconds=PROBE_S))

    @contextmanager
    def _backup(self, others: Sequence[Target], tools: CallTools) -> Iterator[Destination | None]:
        """Who is asked as well, when the first target takes long; None when there is no such target just now.

        Only where what has not begun is cancelled free. It is an edit there like any other: it needs a slot, which is
        not waited for, and a half-open target is tried by one edit only.
        """
        for target in others:
            connection = self._routes.connect(target.upstream, self.lease.job.account_id)
            if connection is None or not connection.upstream.traits.free_cancel:
                continue
            with self._parts.slots.take(target.upstream, connection.max_in_flight) as taken:
                if taken and self._may_try(target, connection, tools):
                    yield target, connection
                    return
        yield None

    def _race(
        self,
        tools: CallTools,
        first: Destination,
        others: Sequence[Target],
        missing: Sequence[range],
        chosen: Plan,
    ) -> list[Verdict]:
        """Ask a backup as well after a while; the first to have made the images is taken, the other one cancelled."""
        ended: SimpleQueue[_Lane] = SimpleQueue()
        lanes = [_Lane(self._calls_for(tools, first, missing, chosen), self._run_all, ended)]
        with ExitStack() as slot:  # the backup's, until what it costs is known
            try:
                winner = ended.get(timeout=chosen.rule.hedge_after_s)
            except Empty:
                backup = slot.enter_context(self._backup(others, tools))
                if backup is not None:
                    self._tell(f"{first[0].name} takes long: {backup[0].name} is asked as well.")
                    lanes.append(_Lane(self._calls_for(tools, backup, missing, chosen, lane=1), self._run_all, ended))
                winner = ended.get()
                if backup is not None and not winner.made:
                    other = ended.get()
                    winner = other if other.made else winner
                for loser in lanes:
                    if loser is not winner:
                        loser.drop()
            finally:
                for each in lanes:
                    each.wait()
        for loser in lanes:
            if loser is not winner and not isinstance(loser.outcome, BaseException):
                self._unused += [each for each in loser.outcome if isinstance(each, Made)]
        if isinstance(winner.outcome, BaseException):
            raise winner.outcome
        return winner.outcome

    def _calls_for(
        self,
        tools: CallTools,
        at: Destination,
        missing: Sequence[range],
        chosen: Plan,
        *,
        lane: int = 0,
    ) -> list[CallRun]:
        """The calls that have one target make what is missing; none when it cannot take it."""
        request = self.lease.job.request
        calls: list[CallRun] = []
        for images in missing:
            seed = None if request.seed is None else seed_of_image(request.seed, images.start)
            part = replace(request, num_images=len(images), seed=seed)
            normalised = self._normalised(at[0], part, chosen)
            for index in range(normalised.calls):
                first = images.start + index * normalised.images_per_call
                count = min(normalised.images_per_call, images.stop - first)
                if count > 0:
                    spot = Spot(first, count, seed_of_image(normalised.seed, first - images.start), lane)
                    calls.append(self._call(tools, at, spot, normalised))
        return calls

    def _normalised(self, target: Target, request: EditRequest, chosen: Plan | None) -> Normalised:
        assert target.normalise is not None, "a hosted target has a normaliser"
        strict = request.strict or (chosen is not None and chosen.rule.strict)
        cut_prompt = chosen is not None and chosen.cut_prompt
        sizes = self._parts.delivery.sizes_of(request)
        return target.normalise(replace(request, strict=strict), sizes, cut_prompt=cut_prompt)

    def _call(
        self,
        tools: CallTools,
        at: Destination,
        spot: Spot,
        normalised: Normalised | None = None,
        attempt: Attempt | None = None,
    ) -> CallRun:
        target, connection = at
        if normalised is None:
            request = self.lease.job.request
            seed = None if request.seed is None else spot.seed  # with one given, a call of several would become many
            part = replace(request, num_images=spot.images, seed=seed, strict=False)
            normalised = replace(self._normalised(target, part, None), seed=spot.seed)
        call = CallRun(tools, target, connection, normalised, spot, attempt)
        with self._lock:
            self._calls.append(call)
        return call

    def _run_all(self, calls: Sequence[CallRun]) -> list[Verdict]:
        """Run calls side by side, the first one in this thread; raises what the first of them raised."""
        results: dict[int, Verdict] = {}
        errors: dict[int, BaseException] = {}

        def run(index: int) -> None:
            try:
                results[index] = calls[index].run()
            except BaseException as error:  # noqa: BLE001 - handed to the thread of the job, which raises it
                errors[index] = error

        others = [threading.Thread(target=run, args=(index,), name="call") for index in range(1, len(calls))]
        for thread in others:
            thread.start()
        if calls:
            run(0)
        for thread in others:
            thread.join()
        if errors:
            raise errors[min(errors)]
        return [results[index] for index in sorted(results)]

    # --- ending

    def _exhausted(self, chosen: Plan) -> RetouchError:
        rows = [each for each in self._book.of_job(self.id) if each.cause is not None]
        tried = tuple(f"{each.target}: {each.cause}, {_took(each):.1f} s: {each.detail}" for each in rows)
        short = "; ".join(f"{each.target}: {each.cause} after {_took(each):.1f} s" for each in rows)
        left_out = "".join(f" {name} was left out: {reason}" for name, reason in chosen.left_out.items())
        owed = any(each.charge_microusd or each.state is AttemptState.UNKNOWN for each in rows)
        hint = " One of them may charge for it, so the same edit again may be paid for twice." if owed else ""
        return AllProvidersExhausted(
            f"No provider could make the edit. {short}.{left_out}{hint}", attempts=tried, may_be_owed=owed
        )

    def _finish(self, made: Sequence[Made]) -> None:
        """Make the files the caller gets, then record the end; what was stored goes when that is refused."""
        job, parts, first = self.lease.job, self._parts, made[0]
        began = time.monotonic()
        outputs: dict[int, OutputImage] = {}
        raw = [image.stored.blob for each in self._unused for image in each.images]
        for each in made:
            for offset, image in enumerate(each.images):
                self.signals.check()
                index = each.spot.image + offset
                if index in outputs or index >= job.request.num_images:
                    raw.append(image.stored.blob)
                    continue
                kept = parts.delivery.deliver(image.stored, each.normalised, job.request, job.delivery.retention_s)
                if kept is not image.stored:
                    raw.append(image.stored.blob)
                seed = seed_of_image(each.spot.seed if each.result.seed is None else each.result.seed, offset)
                outputs[index] = OutputImage(
                    kept.blob, kept.width, kept.height, kept.media_type, kept.size_bytes, seed, image.unsafe
                )
        images = self._put_into_bucket(tuple(outputs[index] for index in sorted(outputs)))
        now = time.monotonic()
        output = EditOutput(
            images=images,
            prompt=first.result.prompt or job.request.prompt,
            timings={**first.result.timings, "inference": began - self._began, "stage_out": now - began},
            canvas=(images[0].width, images[0].height),
            notices=tuple(dict.fromkeys([*(n for each in made for n in each.normalised.notices), *self._notices])),
            applied={"provider": first.attempt.target},
        )
        usage = Usage(len(images), sum(image.width * image.height for image in images), steps=0, device_ms=0)
        charges = {each.attempt.id: each.charge_microusd for each in made}
        parts.service.finish(self.lease, output, usage, charges=charges)
        for key in raw:  # not before: until then another server may have to go on from it
            parts.blobs.delete(key)
        logger.info("job finished", job=self.id, target=first.attempt.target, charge_microusd=sum(charges.values()))

    def _put_into_bucket(self, images: tuple[OutputImage, ...]) -> tuple[OutputImage, ...]:
        """Each with its link in the caller's bucket, where one was given; what cannot be put there keeps ours."""
        bucket = self._parts.service.bucket_of(self.lease)
        if bucket is None:
            return images
        put: list[OutputImage] = []
        for number, image in enumerate(images, 1):
            data = self._parts.blobs.get(image.blob).data
            delivered, notices = self._parts.caller_buckets.deliver(bucket, self.id, number, image, data)
            put.append(delivered)
            self._notices += notices
        return tuple(put)

    # --- telling the caller

    def _tell(self, line: str) -> None:
        self._progress(self.lease.job.step, 0, (line,))

    def _progress(self, step: int, steps: int, logs: Sequence[str] = ()) -> None:
        if self._parts.service.progress(self.lease, step=step, steps=steps, logs=logs):
            self.signal(Cancelled)


def _missing(wanted: int, made: Iterable[Made]) -> list[range]:
    """The images that are not there yet, as ranges."""
    there = {each.spot.image + offset for each in made for offset in range(len(each.images))}
    ranges: list[range] = []
    for index in range(wanted):
        if index in there:
            continue
        if ranges and ranges[-1].stop == index:
            ranges[-1] = range(ranges[-1].start, index + 1)
        else:
            ranges.append(range(index, index + 1))
    return ranges


def _given_up(attempt: Attempt) -> bool:
    """Whether its outcome stays unknown and others were to be asked: what is owed for it is booked then."""
    return attempt.state is AttemptState.UNKNOWN and attempt.charge_microusd is not None


def _took(attempt: Attempt) -> float:
    return 0.0 if attempt.ended_at is None else (attempt.ended_at - attempt.planned_at).total_seconds()
