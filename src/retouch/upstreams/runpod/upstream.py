"""RunPod as an upstream: jobs by `run`, never `runsync`, which hides a job's id for as long as it waits.

A job cannot be looked up by anything but its id, so its life is bounded there (`policy.ttl`): a lost one ends by
itself. Its webhooks are not signed; they are taken as a hint to poll.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import orjson

from retouch.upstreams.inputs import CannotSend, Inputs, JsonBody
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.replies import (
    ProviderError,
    fault_of,
    id_in,
    is_id,
    kind_of_text,
    malformed,
    said,
    seed_of,
    unknown_job,
)
from retouch.upstreams.transport import Reply, Request
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
    Reread,
    Result,
    StoredResult,
    SubmitOutcome,
    Ticket,
    Traits,
    Unreadable,
)

BASE_URL: Final = "https://api.runpod.ai/v2"

MAX_BODY_BYTES: Final = 10 * 1024 * 1024
"""Of `run`, as its pages say; more is turned away after it was uploaded."""

_LEAST_TTL_S: Final = 10.0
_LEAST_EXECUTION_S: Final = 5.0
_WAITING: Final = {"IN_QUEUE": RemoteState.QUEUED, "IN_PROGRESS": RemoteState.RUNNING}
_IMAGE_MEMBERS: Final = ("image_url", "result", "image", "image_urls", "images", "results")


class RunPodUpstream:
    """An account at RunPod; the endpoint is each call's."""

    kind = "runpod"

    def __init__(self, options: UpstreamOptions) -> None:
        self._transport = options.transport(options.base_url or BASE_URL, "Bearer")
        self._downloads = options.downloads(self._transport)
        self._blobs = options.blobs
        self._inputs = Inputs(options.blobs, options.images)
        self._ttl_s = options.ttl_s
        self._execution_s = options.execution_s
        self._failure_charged = True if options.metered else False  # noqa: SIM210 - said as Fault says it
        self.traits = Traits(
            paid=options.paid is not False,
            named=True,
            free_cancel=True,
            server_errors_charged=self._failure_charged,
            webhooks=True,
        )

    def submit(self, call: Call) -> SubmitOutcome:
        left_s = (call.deadline - datetime.now(UTC)).total_seconds()
        ttl_s = max(min(self._ttl_s or left_s, left_s), _LEAST_TTL_S)
        execution_s = max(min(self._execution_s or ttl_s, ttl_s), _LEAST_EXECUTION_S)
        policy = {"executionTimeout": round(execution_s * 1000), "ttl": round(ttl_s * 1000)}
        webhook = {"webhook": call.webhook_url} if call.webhook_url else {}
        try:
            body = JsonBody({"input": self._inputs.members(call), "policy": policy, **webhook}, self._blobs)
        except CannotSend as refused:
            return Failed(refused.fault)
        if body.length > MAX_BODY_BYTES:
            message = (
                f"The request has {body.length} bytes; this provider takes {MAX_BODY_BYTES}. Set public_url for links."
            )
            return Failed(Fault(FaultKind.INVALID, message, 413, "body_too_large", charged=False))
        endpoint = call.normalised.endpoint
        with self._transport.ask(
            Request("POST", f"/{endpoint}/run", body, until=call.deadline, attempt=call.attempt_id)
        ) as reply:
            if isinstance(reply, Fault):
                return Failed(reply)
            if not reply.ok:
                return Failed(fault_of(reply, _error_of(reply), charged=self._failure_charged))
            number = reply.members.get("id")
            return Accepted(_ticket(endpoint, number)) if is_id(number) else Failed(malformed(reply, "id"))

    def poll(self, ticket: Ticket) -> PollOutcome:
        with self._transport.ask(Request("GET", ticket.urls["status"])) as reply:
            if isinstance(reply, Fault):
                return Unreadable(reply)
            if reply.status == 404:
                return Failed(unknown_job())
            if not reply.ok:
                return Unreadable(fault_of(reply, _error_of(reply), charged=None))
            return self._outcome(reply)

    def cancel(self, ticket: Ticket) -> bool:
        with self._transport.ask(Request("POST", ticket.urls["cancel"])) as reply:
            return isinstance(reply, Reply) and reply.ok

    def find(self, call: Call, since: datetime) -> Ticket | None:  # noqa: ARG002 - it has no history
        return None

    def verify_webhook(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Ticket | None:  # noqa: ARG002
        number = id_in(body)
        return None if number is None else _ticket(endpoint, number)

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        return self._downloads.collect(image, reread)

    def abandon(self, attempt_id: str) -> bool:
        return self._transport.abandon(attempt_id)

    def close(self) -> None:
        self._transport.close()

    def _outcome(self, reply: Reply) -> PollOutcome:
        state, output = reply.members.get("status"), reply.members.get("output")
        if isinstance(state, str) and state in _WAITING:
            members = output if isinstance(output, dict) else {}
            step, steps = members.get("step"), members.get("steps")
            if isinstance(step, int) and isinstance(steps, int):
                return Pending(_WAITING[state], step=step, steps=steps)
            return Pending(_WAITING[state])
        if state == "COMPLETED":
            return self._finished(reply, output)
        words = said(_error_text(reply.members.get("error")), "")
        if state == "FAILED":
            kind, message = kind_of_text(words), words or "The provider's job failed without a word."
        elif state == "TIMED_OUT":
            kind, message = FaultKind.TIMED_OUT, words or "The provider ended the job at its own limit of time."
        elif state == "CANCELLED":
            kind, message = FaultKind.CANCELLED, "The job was cancelled at the provider."
        else:
            return Unreadable(malformed(reply, "status"))
        return Failed(Fault(kind, message, code=state, charged=self._failure_charged))

    def _finished(self, reply: Reply, output: object) -> PollOutcome:
        members = output if isinstance(output, dict) else {}
        images = self._downloads.images_in(reply, _images_of(output), members.get("has_nsfw_concepts"))
        if isinstance(images, Fault):
            return Failed(images)
        cost, seed = members.get("cost"), members.get("seed")
        times = {"wait": reply.members.get("delayTime"), "inference": reply.members.get("executionTime")}
        return Finished(
            Result(
                images,
                cost_microusd=round(cost * 1e6) if isinstance(cost, int | float) and 0 <= cost < 1e6 else None,
                seed=seed_of(seed),
                timings={name: ms / 1000 for name, ms in times.items() if isinstance(ms, int | float)},
            )
        )


def _ticket(endpoint: str, number: str) -> Ticket:
    return Ticket(number, {"status": f"/{endpoint}/status/{number}", "cancel": f"/{endpoint}/cancel/{number}"})


def _error_of(reply: Reply) -> ProviderError:
    """HTTP errors of RunPod are not documented; a JSON object with a sentence is taken as its own."""
    words = reply.members.get("message") or reply.members.get("error") or reply.members.get("detail")
    return ProviderError(words if isinstance(words, str) else "", ours=bool(words))


def _error_text(error: object) -> str:
    """A worker's exception comes as JSON in a string, with a traceback that is of no use to callers."""
    text = error if isinstance(error, str) else ""
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return str(told.get("error_message") or "") if isinstance(told, dict) else text


_DEEPEST: Final = 4
"""Objects within objects that are looked into for an image."""


def _images_of(output: object, deep: int = 0) -> list[object]:
    """The links or base64 of an output, by whichever of the names that endpoints use comes first."""
    if isinstance(output, str):
        return [output]
    if isinstance(output, list):
        return [entry.get("image") or entry.get("url") if isinstance(entry, dict) else entry for entry in output]
    members = output if isinstance(output, dict) else {}
    for name in _IMAGE_MEMBERS:
        value = members.get(name)
        if value:
            return _images_of(value, deep + 1) if deep < _DEEPEST else []
    return []
