"""fal's queue as an upstream: submit, poll, cancel, history, uploads and signed webhooks.

`fal.run` is never used: it names no job, so that a lost answer could not be looked up. fal's own change of the model
behind an endpoint is switched off, and the time to start is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from retouch.upstreams.fal.errors import fault_of_result, fault_of_submit
from retouch.upstreams.fal.webhooks import WebhookKeys
from retouch.upstreams.inputs import BlobBody, Body, CannotSend, Inputs, JsonBody, StoredImage, Upload, once
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.replies import LogLines, is_id, malformed, said, seed_of, unknown_job
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

QUEUE: Final = "https://queue.fal.run"
REST: Final = "https://rest.fal.ai"
API: Final = "https://api.fal.ai"

_SCHEME: Final = "Key"
_HISTORY_PAGES: Final = 5


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a queue is, and what belongs to it: uploads and keys of webhooks, and the list of requests."""

    queue: str
    rest: str | None
    api: str | None

    @classmethod
    def of(cls, base_url: str | None) -> Addresses:
        """Of the vendor; or of a server that keeps all three below one path, as `…/queue`, `…/rest`, `…/api`."""
        if base_url is None or base_url.rstrip("/") == QUEUE:
            return cls(QUEUE, REST, API)
        root, _, last = base_url.rstrip("/").rpartition("/")
        return cls(f"{root}/queue", f"{root}/rest", f"{root}/api") if last == "queue" else cls(base_url, None, None)


class FalUpstream:
    """A queue of fal's protocol with one key."""

    kind = "fal"

    def __init__(self, options: UpstreamOptions, addresses: Addresses | None = None) -> None:
        places = addresses or Addresses.of(options.base_url)
        self._queue = options.transport(places.queue, _SCHEME)
        self._rest = None if places.rest is None else options.transport(places.rest, _SCHEME)
        self._api = None if places.api is None else options.transport(places.api, _SCHEME)
        self._webhook_keys = None if self._rest is None else WebhookKeys(self._rest)
        self._downloads = options.downloads(self._queue)
        self._uploads = options.uploads(self._queue)
        self._blobs = options.blobs
        self._inputs = Inputs(options.blobs, options.images, self._upload_for(options.images))
        self._unit_price = options.unit_price
        self._logs = LogLines()
        self.traits = self._traits(options)

    def submit(self, call: Call) -> SubmitOutcome:
        try:
            body = JsonBody(self._inputs.members(call), self._blobs)
        except CannotSend as refused:
            return Failed(refused.fault)
        endpoint = call.normalised.endpoint
        query = {"fal_webhook": call.webhook_url} if call.webhook_url else {}
        request = Request(
            "POST", f"/{endpoint}", body, query, self._headers(call), until=call.deadline, attempt=call.attempt_id
        )
        with self._queue.ask(request) as reply:
            if isinstance(reply, Fault):
                return Failed(reply)
            if not reply.ok:
                return Failed(fault_of_submit(reply))
            number = reply.members.get("request_id")
            if not isinstance(number, str) or not is_id(number):
                return Failed(malformed(reply, "request_id"))
            return Accepted(self._ticket(endpoint, number, reply.members))

    def poll(self, ticket: Ticket) -> PollOutcome:
        with self._queue.ask(Request("GET", ticket.urls["status"], query={"logs": "1"})) as reply:
            if isinstance(reply, Fault):
                return Unreadable(reply)
            state = reply.members.get("status")
            if reply.status == 404:
                return Failed(unknown_job())
            if not reply.ok or state not in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"):
                return Unreadable(fault_of_submit(reply) if not reply.ok else malformed(reply, "status"))
            if state != "COMPLETED":
                members, position = reply.members, reply.members.get("queue_position")
                entries = members.get("logs") or ()
                lines = [said(entry.get("message"), "") for entry in entries if isinstance(entry, dict)]
                step, steps = self._progress(lines)
                return Pending(
                    RemoteState.QUEUED if state == "IN_QUEUE" else RemoteState.RUNNING,
                    position=position if isinstance(position, int) else None,
                    step=step,
                    steps=steps,
                    logs=self._logs.fresh(ticket.id, lines),
                )
        return self._result(ticket)

    def cancel(self, ticket: Ticket) -> bool:
        with self._queue.ask(Request("PUT", ticket.urls["cancel"])) as reply:
            return isinstance(reply, Reply) and reply.ok

    def find(self, call: Call, since: datetime) -> Ticket | None:
        return self._find(call, since, by_links=True)

    def _find(self, call: Call, since: datetime, *, by_links: bool) -> Ticket | None:
        if self._api is None:
            return None
        query = {
            "endpoint_id": call.normalised.endpoint,
            "start": (since - timedelta(seconds=30)).astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "expand": "payloads",
            "limit": "50",
        }
        for _ in range(_HISTORY_PAGES):
            with self._api.ask(Request("GET", "/v1/models/requests/by-endpoint", query=query)) as reply:
                page = reply.members if isinstance(reply, Reply) and reply.ok else {}
            entries = page.get("items")
            for entry in entries if isinstance(entries, list) else ():
                number = entry.get("request_id") if isinstance(entry, dict) else None
                if is_id(number) and self._inputs.match(entry.get("json_input"), call, by_links=by_links):
                    return self._ticket(call.normalised.endpoint, number, {})
            cursor = page.get("next_cursor")
            if not cursor:
                break
            query["cursor"] = cursor
        return None

    def verify_webhook(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Ticket | None:
        number = None if self._webhook_keys is None else self._webhook_keys.verified(headers, body)
        return self._ticket(endpoint, number, {}) if number is not None and is_id(number) else None

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        return self._downloads.collect(image, reread)

    def abandon(self, attempt_id: str) -> bool:
        return self._queue.abandon(attempt_id)

    def close(self) -> None:
        for transport in (self._queue, self._rest, self._api):
            if transport is not None:
                transport.close()

    def _traits(self, options: UpstreamOptions) -> Traits:
        return Traits(
            paid=options.paid is not False,
            named=True,
            has_history=self._api is not None,
            free_cancel=True,
            server_errors_charged=False,
            repeats_server_errors=True,
            webhooks=True,
        )

    def _headers(self, call: Call) -> dict[str, str]:
        left_s = (call.deadline - datetime.now(UTC)).total_seconds()
        return {
            "X-Fal-Request-Timeout": str(max(2, math.ceil(left_s))),
            "x-app-fal-disable-fallback": "1",
        }

    def _ticket(self, endpoint: str, number: str, members: Mapping[str, Any]) -> Ticket:
        """The addresses that the answer names where they lie below ours, else those the protocol says."""
        base = f"/{'/'.join(endpoint.split('/')[:2])}/requests/{number}"
        given = {
            "status": self._queue.path_of(members.get("status_url")),
            "result": self._queue.path_of(members.get("response_url")),
            "cancel": self._queue.path_of(members.get("cancel_url")),
        }
        usual = {"status": f"{base}/status", "result": base, "cancel": f"{base}/cancel"}
        places = {name: given[name] or path for name, path in usual.items()}
        return Ticket(number, {**places, "endpoint": endpoint})

    def _progress(self, lines: list[str]) -> tuple[int, int]:  # noqa: ARG002 - a queue whose lines tell steps reads them
        return 0, 0

    def _result(self, ticket: Ticket) -> PollOutcome:
        with self._queue.ask(Request("GET", ticket.urls["result"])) as reply:
            if isinstance(reply, Fault):
                return Unreadable(reply)
            if reply.status == 400 and "still in progress" in str(reply.members.get("detail", "")):
                return Pending(RemoteState.RUNNING)
            if not reply.ok:
                fault = fault_of_result(reply)
                lost_on_the_way = fault.kind in (FaultKind.PROXY, FaultKind.THROTTLED, FaultKind.AUTHENTICATION)
                return Unreadable(fault) if lost_on_the_way else Failed(fault)
            if reply.value is None:
                return Unreadable(malformed(reply, "JSON"))
            return self._finished(reply, ticket)

    def _finished(self, reply: Reply, ticket: Ticket) -> PollOutcome:
        members = reply.members
        entries = members.get("images")
        links = [entry.get("url") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        images = self._downloads.images_in(reply, links, members.get("has_nsfw_concepts"), wanted="images")
        if isinstance(images, Fault):
            return Failed(images)
        timings = members.get("timings")
        return Finished(
            Result(
                images,
                cost_microusd=self._cost(reply, ticket),
                seed=seed_of(members.get("seed")),
                prompt=members["prompt"] if isinstance(members.get("prompt"), str) else None,
                timings={k: float(v) for k, v in timings.items() if isinstance(v, int | float)}
                if isinstance(timings, dict)
                else {},
            )
        )

    def _cost(self, reply: Reply, ticket: Ticket) -> int | None:
        """Units that the answer counts, at the price of one. None without either."""
        try:
            units = float(reply.headers.get("x-fal-billable-units", ""))
        except ValueError:
            return None
        price = self._unit_price(ticket.urls.get("endpoint", ""))
        return None if price is None or not 0 <= units < 1e6 else round(units * price)

    def _upload_for(self, mode: ImageMode) -> Upload | None:
        return None if self._rest is None or mode in (ImageMode.INLINE, ImageMode.LINK) else once(self._upload)

    def _upload(self, image: StoredImage) -> str | Fault:
        """Two steps: announce the file, then put its bytes where the answer says, with no key."""
        assert self._rest is not None, "only a queue with a store uploads"
        name = f"input.{image.suffix}"
        announced: Body = JsonBody({"content_type": image.media_type, "file_name": name}, self._blobs)
        begin = Request("POST", "/storage/upload/initiate", announced, {"storage_type": "fal-cdn-v3"})
        with self._rest.ask(begin) as reply:
            if isinstance(reply, Fault):
                return reply
            place, link = reply.members.get("upload_url"), reply.members.get("file_url")
            if not reply.ok:
                return fault_of_submit(reply)
            if not isinstance(place, str) or not isinstance(link, str):
                return malformed(reply, "upload_url")
        return self._uploads.put(place, BlobBody(image, self._blobs)) or link
