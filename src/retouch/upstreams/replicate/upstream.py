"""Replicate as an upstream: predictions with a deadline of their own, looked up when an answer is lost.

Inputs, outputs and logs are deleted there after an hour. A prediction that is stopped before it starts is free, one
that is stopped later is charged; the two end in different words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from retouch.upstreams.inputs import CannotSend, FilePart, FormBody, Inputs, JsonBody, StoredImage, once
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.replicate.webhooks import WebhookSecret
from retouch.upstreams.replies import (
    LogLines,
    ProviderError,
    fault_of,
    id_in,
    is_id,
    kind_of_text,
    malformed,
    said,
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
    ImageMode,
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

BASE_URL: Final = "https://api.replicate.com"

_LEAST_CANCEL_AFTER_S: Final = 5
_HISTORY_PAGES: Final = 5
_CLOCKS_DIFFER: Final = timedelta(seconds=60)
_WAITING: Final = {"starting": RemoteState.QUEUED, "processing": RemoteState.RUNNING}
_RESETS_IN: Final = re.compile(r"resets in ~?(\d{1,6})\s*s")


class ReplicateUpstream:
    """An account at Replicate. Endpoints are `owner/name`, `owner/name:version` or `deployments/owner/name`."""

    kind = "replicate"

    def __init__(self, options: UpstreamOptions) -> None:
        self._transport = options.transport(options.base_url or BASE_URL, "Bearer")
        self._downloads = options.downloads(self._transport)
        self._blobs = options.blobs
        upload = None if options.images in (ImageMode.LINK, ImageMode.INLINE) else once(self._upload)
        self._inputs = Inputs(options.blobs, options.images, upload)
        self._secret = WebhookSecret(self._transport)
        self._logs = LogLines()
        self.traits = Traits(
            paid=options.paid is not False,
            named=True,
            has_history=True,
            free_cancel=True,
            webhooks=True,
            polls_per_second=40.0,
        )

    def submit(self, call: Call) -> SubmitOutcome:
        path, version = _place(call.normalised.endpoint)
        events = {"webhook": call.webhook_url, "webhook_events_filter": ["start", "completed"]}
        try:
            envelope = {**version, "input": self._inputs.members(call), **(events if call.webhook_url else {})}
            body = JsonBody(envelope, self._blobs)
        except CannotSend as refused:
            return Failed(refused.fault)
        left_s = math.ceil((call.deadline - datetime.now(UTC)).total_seconds())
        headers = {"Cancel-After": f"{max(left_s, _LEAST_CANCEL_AFTER_S)}s"}
        with self._transport.ask(
            Request("POST", path, body, headers=headers, until=call.deadline, attempt=call.attempt_id)
        ) as reply:
            if isinstance(reply, Fault):
                return Failed(reply)
            if not reply.ok:
                return Failed(_fault(reply))
            number = reply.members.get("id")
            return Accepted(_ticket(number)) if is_id(number) else Failed(malformed(reply, "id"))

    def poll(self, ticket: Ticket) -> PollOutcome:
        with self._transport.ask(Request("GET", ticket.urls["status"])) as reply:
            if isinstance(reply, Fault):
                return Unreadable(reply)
            if reply.status == 404:
                return Failed(unknown_job())
            return self._outcome(ticket, reply) if reply.ok else Unreadable(_fault(reply))

    def cancel(self, ticket: Ticket) -> bool:
        with self._transport.ask(Request("POST", ticket.urls["cancel"])) as reply:
            return isinstance(reply, Reply) and reply.ok

    def find(self, call: Call, since: datetime) -> Ticket | None:
        path = "/v1/predictions"
        for _ in range(_HISTORY_PAGES):
            with self._transport.ask(Request("GET", path)) as reply:
                page = reply.members if isinstance(reply, Reply) and reply.ok else {}
            entries = page.get("results")
            for entry in entries if isinstance(entries, list) else ():
                if not isinstance(entry, dict) or _created_before(entry, since - _CLOCKS_DIFFER):
                    return None
                if is_id(entry.get("id")) and self._inputs.match(entry.get("input"), call):
                    return _ticket(entry["id"])
            following = self._transport.path_of(page.get("next"))
            if following is None:
                return None
            path = following
        return None

    def verify_webhook(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Ticket | None:  # noqa: ARG002
        if not self._secret.verified(headers, body):
            return None
        number = id_in(body)
        return None if number is None else _ticket(number)

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        return self._downloads.collect(image, reread)

    def abandon(self, attempt_id: str) -> bool:
        return self._transport.abandon(attempt_id)

    def close(self) -> None:
        self._transport.close()

    def _outcome(self, ticket: Ticket, reply: Reply) -> PollOutcome:
        state, members = reply.members.get("status"), reply.members
        if isinstance(state, str) and state in _WAITING:
            logs = members.get("logs")
            lines = [said(line, "") for line in logs.splitlines()] if isinstance(logs, str) else []
            return Pending(_WAITING[state], logs=self._logs.fresh(ticket.id, lines))
        if state == "succeeded":
            return self._finished(reply)
        words = said(members.get("error"), "")
        if state == "failed":
            message = words or "The provider's prediction failed without a word."
            return Failed(Fault(kind_of_text(words), message, code="failed"))
        if state in ("canceled", "aborted"):
            message = words or f"The prediction was {state} at the provider."
            return Failed(Fault(FaultKind.CANCELLED, message, code=state, charged=state == "canceled"))
        return Unreadable(malformed(reply, "status"))

    def _finished(self, reply: Reply) -> PollOutcome:
        output = reply.members.get("output")
        if output is None and reply.members.get("data_removed"):
            return Failed(Fault(FaultKind.LOST, "The provider has deleted the result, as it does after an hour."))
        images = self._downloads.images_in(reply, output if isinstance(output, list) else [output], wanted="output")
        if isinstance(images, Fault):
            return Failed(images)
        metrics = reply.members.get("metrics")
        seconds = metrics.get("predict_time") if isinstance(metrics, dict) else None
        timings = {"inference": float(seconds)} if isinstance(seconds, int | float) else {}
        return Finished(Result(images, timings=timings))

    def _upload(self, image: StoredImage) -> str | Fault:
        body = FormBody({"metadata": {}}, [FilePart("content", image, f"input.{image.suffix}")], self._blobs)
        with self._transport.ask(Request("POST", "/v1/files", body, ends_in_s=120)) as reply:
            if isinstance(reply, Fault):
                return reply
            if not reply.ok:
                return _fault(reply)
            urls = reply.members.get("urls")
            link = urls.get("get") if isinstance(urls, dict) else None
            return link if isinstance(link, str) else malformed(reply, "link to the file")


def _place(endpoint: str) -> tuple[str, dict[str, str]]:
    """Where a submit goes, and the version that it names where the address does not."""
    model, _, version = endpoint.partition(":")
    if version:
        return "/v1/predictions", {"version": version}
    kind = "" if model.startswith("deployments/") else "models/"
    return f"/v1/{kind}{model}/predictions", {}


def _ticket(number: str) -> Ticket:
    place = f"/v1/predictions/{number}"
    return Ticket(number, {"status": place, "cancel": f"{place}/cancel"})


def _fault(reply: Reply) -> Fault:
    """Errors come as problem details (RFC 7807); how long to wait stands in their text."""
    members = reply.members
    detail = members.get("detail")
    error = ProviderError(str(detail or members.get("title") or ""), ours="detail" in members or "title" in members)
    resets = _RESETS_IN.search(error.message)
    return fault_of(reply, error, charged=None, retry_after_s=float(resets[1]) if resets else None)


def _created_before(entry: Mapping[str, Any], moment: datetime) -> bool:
    """Whether the history, which is newest first, has come to what was made before."""
    try:
        made = datetime.fromisoformat(str(entry.get("created_at")).replace("Z", "+00:00"))
    except ValueError:
        return False
    return (made if made.tzinfo else made.replace(tzinfo=UTC)) < moment
