"""What every hosted provider can be asked: submit, poll, cancel, find a lost submit. One folder a provider.

An outcome is a value, never an exception: whether a submit was taken decides whether another target may be asked, and a
flattened error is how a lost answer gets paid for twice. An upstream knows its wire format and nothing of jobs, the
database, the ledger or other targets; the runner knows those, and no wire format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeAlias

from retouch.catalog.normalised import Normalised


class FaultKind(StrEnum):
    """What went wrong, as far as it decides what may be done next."""

    UNREACHABLE = "unreachable"  #: name not found, refused, no connection in time; nothing was sent
    TLS = "tls"  #: the certificate is not believed; nothing was sent
    INTERRUPTED = "interrupted"  #: fewer bytes than the body has were sent
    NO_ANSWER = "no_answer"  #: all bytes were sent and no head of an answer came
    MALFORMED = "malformed"  #: an answer that cannot be read, where a job id or images were expected
    THROTTLED = "throttled"  #: too many requests, for now
    QUOTA = "quota"  #: allowance or balance used up
    AUTHENTICATION = "authentication"  #: key refused, account locked, model not allowed
    UNKNOWN_MODEL = "unknown_model"
    SERVER = "server"  #: the provider's own failure, in its own shape
    PROXY = "proxy"  #: 502, 503 or 504 from something before the provider
    REFUSED = "refused"  #: content policy; the caller's
    INVALID = "invalid"  #: a parameter or an image it does not take; the caller's
    CANCELLED = "cancelled"  #: ended there, not by us
    TIMED_OUT = "timed_out"  #: the provider's own limit of time
    LOST = "lost"  #: the images it made can no longer be had
    BAD_IMAGE = "bad_image"  #: what came is no image we can read
    UNKNOWN_JOB = "unknown_job"  #: it does not know the id (any more)


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure at a provider. message: a sentence without keys, data URIs or more than 300 characters of theirs.

    status: of HTTP, when there was one. code: the provider's own word. retry_after_s: as it asked for.
    charged: True or False where its rules say so, None where it is not known.
    """

    kind: FaultKind
    message: str
    status: int | None = None
    code: str = ""
    retry_after_s: float | None = None
    charged: bool | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job at a provider: what is needed to ask for it again after a restart. Holds no key."""

    id: str
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """An image a provider made, in our store. width, height: in pixels, as its header says."""

    blob: str
    media_type: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image a provider made: a link to fetch (`Upstream.collect`), or one that came in the answer and is stored.

    unsafe: the provider's verdict; None when it gives none.
    """

    url: str | None = None
    stored: StoredResult | None = None
    unsafe: bool | None = None


Reread: TypeAlias = Callable[[], RemoteImage | None]
"""Asks the provider again for an image whose link may have expired; None where it cannot be asked or does not tell."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a provider made. cost_microusd: as it reported itself, None when it did not; seed: the one it names."""

    images: tuple[RemoteImage, ...]
    cost_microusd: int | None = None
    seed: int | None = None
    prompt: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has taken the job and named it."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Finished:
    """The images are there; a synchronous provider's answer to a submit, or the end of a poll."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not be done. Of a submit: whether it was taken all the same says `fault.kind`."""

    fault: Fault


class RemoteState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Pending:
    """Not yet. position: jobs before it there; steps: 0 when it tells no steps. logs: new lines since the last poll."""

    state: RemoteState
    position: int | None = None
    step: int = 0
    steps: int = 0
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A poll that told nothing: no answer, or a broken one. The job goes on; ask again."""

    fault: Fault


SubmitOutcome: TypeAlias = Accepted | Finished | Failed
PollOutcome: TypeAlias = Pending | Finished | Failed | Unreadable


class ImageMode(StrEnum):
    """How a provider gets the input images (`inputs.py`).

    `auto` takes the first of the three that can be had: a link needs a public address, an upload a provider's.
    """

    AUTO = "auto"
    LINK = "link"
    UPLOAD = "upload"
    INLINE = "inline"


@dataclass(frozen=True, slots=True)
class Call:
    """One submit, which is one row of `attempt`.

    attempt_id: ours; it names the submit in the webhook's address and as idempotency key where there is one.
    seed: of this call's first image. links: address of each stored or linked input by its `field`, for providers that
    take links, absent where no public address is set. webhook_url: where the provider may say that it has ended.
    deadline: when the caller no longer waits.
    """

    attempt_id: str
    normalised: Normalised
    seed: int
    links: Mapping[str, str]
    webhook_url: str | None
    deadline: datetime


@dataclass(frozen=True, slots=True)
class Traits:
    """What is true of every target of a kind; the rules of repeating and of money read these, never its name.

    paid: a submit may cost money. named: a submit is answered with an id at once, so a lost answer is the
    only unknown. idempotent: a submit repeated with the same attempt id is the same job. has_history: a lost submit can
    be looked up. free_cancel: a job that has not begun is cancelled without charge. cancels: it can be told to stop.
    server_errors_charged: whether its own 5xx may be on the bill. repeats_server_errors: it has tried its own failures
    again itself before it tells one. webhooks: it calls `Call.webhook_url` when a job has ended. poll_s, poll_cap_s:
    first and longest pause between two polls of a job. polls_per_second: for all jobs of one key together.
    result_life_s: how long its links live.
    """

    paid: bool
    named: bool
    idempotent: bool = False
    has_history: bool = False
    free_cancel: bool = False
    cancels: bool = True
    server_errors_charged: bool | None = None
    repeats_server_errors: bool = False
    webhooks: bool = False
    poll_s: float = 0.5
    poll_cap_s: float = 5.0
    polls_per_second: float = 100.0
    result_life_s: float = 3600.0


class Upstream(Protocol):
    """A provider with one key and one address. Synchronous and thread-safe; nothing here repeats by itself."""

    kind: str
    traits: Traits

    def submit(self, call: Call) -> SubmitOutcome:
        """One request on the wire, or none when it could not connect."""

    def poll(self, ticket: Ticket) -> PollOutcome:
        """How the job is. Never submits."""

    def cancel(self, ticket: Ticket) -> bool:
        """Ask it to stop; True when it said that it will. The end is read by `poll` all the same."""

    def find(self, call: Call, since: datetime) -> Ticket | None:
        """The job of a submit whose answer was lost, by seed and links in the provider's history; None when it lists
        none, which is no proof that there is none."""

    def verify_webhook(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Ticket | None:
        """The job that a webhook speaks of, or None when it is forged, unreadable, or the kind has no webhooks.

        endpoint: that of the submit whose webhook it is. A kind that does not sign gives the job that is claimed. It is
        told nothing but to poll: the body is never taken as a result.
        """

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        """The image in our store: downloaded without the key, seen to be one, tried up to three times in all.

        reread: gives the image anew before each further try. The fault is LOST or BAD_IMAGE. Raises StorageUnavailable
        when our own store fails, and what `reread` raises.
        """

    def abandon(self, attempt_id: str) -> bool:
        """Close the connection of a submit under way, from another thread; True when there was one."""

    def close(self) -> None:
        """Close the connections that are kept. Nothing may be under way."""
