"""The image edits of OpenAI's API as an upstream: one multipart request whose answer is the result.

No answer names a job, so that one that got lost cannot be looked up; nothing here asks again. Closing the connection
is the only cancel there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx2

from retouch.errors import InvalidSetting
from retouch.upstreams.answers import Answer
from retouch.upstreams.inputs import CannotSend, FilePart, FormBody, Inputs, parameters_of
from retouch.upstreams.openai.errors import fault_of_answer, fault_of_event
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.replies import seed_of
from retouch.upstreams.transport import Reply, Request
from retouch.upstreams.upstream import (
    Call,
    Failed,
    Fault,
    FaultKind,
    Finished,
    PollOutcome,
    RemoteImage,
    Reread,
    Result,
    StoredResult,
    SubmitOutcome,
    Ticket,
    Traits,
)


@dataclass(frozen=True, slots=True)
class Flavour:
    """One server. base_url: None where an operator must say it. paid: a submit costs money.

    streams: it can answer in events, whose comments keep a long edit's connection open. cost_header, cost_member: where
    an answer tells its cost in US dollars. stops_when_closed: closing the connection stops the work, without charge.
    """

    base_url: str | None = None
    paid: bool = True
    streams: bool = False
    cost_header: str = ""
    cost_member: tuple[str, str] | None = None
    stops_when_closed: bool = False


FLAVOURS: Final[Mapping[str, Flavour]] = {
    "openai": Flavour("https://api.openai.com/v1", streams=True),
    "lumenfall": Flavour("https://api.lumenfall.ai/openai/v1", cost_member=("metadata", "cost")),
    "deepinfra": Flavour("https://api.deepinfra.com/v1/openai"),
    "litellm": Flavour(cost_header="x-litellm-response-cost"),
    "vllm-omni": Flavour(paid=False, stops_when_closed=True),
    "sglang": Flavour(paid=False),
}
"""What differs among the servers of this kind. Names and values of parameters are in the catalogue."""


class OpenAIUpstream:
    """A server of this kind. flavour: one of `FLAVOURS`. Raises InvalidSetting where a base_url is missing."""

    def __init__(self, options: UpstreamOptions, flavour: str = "openai") -> None:
        self.kind = flavour
        self._flavour = FLAVOURS[flavour]
        base_url = options.base_url or self._flavour.base_url
        if base_url is None:
            raise InvalidSetting(f"An upstream of kind '{flavour}' needs a base_url, such as http://HOST:PORT/v1.")
        self._transport = options.transport(base_url, "Bearer")
        self._downloads = options.downloads(self._transport)
        self._blobs = options.blobs
        self._inputs = Inputs(options.blobs)
        paid = self._flavour.paid if options.paid is None else options.paid
        self.traits = Traits(paid=paid, named=False, free_cancel=self._flavour.stops_when_closed, cancels=False)

    def submit(self, call: Call) -> SubmitOutcome:
        try:
            body = self._form(call)
        except CannotSend as refused:
            return Failed(refused.fault)
        left_s = (call.deadline - datetime.now(UTC)).total_seconds()
        accept = {"Accept": "application/json, text/event-stream"} if self._flavour.streams else {}
        request = Request(
            "POST", "/images/edits", body, headers=accept, ends_in_s=max(left_s, 1.0), attempt=call.attempt_id
        )
        with self._transport.ask(request) as reply:
            if isinstance(reply, Fault):
                return Failed(reply)
            if not reply.ok:
                return Failed(fault_of_answer(reply))
            return self._finished(reply)

    def poll(self, ticket: Ticket) -> PollOutcome:  # noqa: ARG002 - no ticket was ever given
        return Failed(Fault(FaultKind.UNKNOWN_JOB, "This provider has no jobs that could be asked for."))

    def cancel(self, ticket: Ticket) -> bool:  # noqa: ARG002
        return False

    def find(self, call: Call, since: datetime) -> Ticket | None:  # noqa: ARG002
        return None

    def verify_webhook(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Ticket | None:  # noqa: ARG002
        return None

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        return self._downloads.collect(image, reread)

    def abandon(self, attempt_id: str) -> bool:
        return self._transport.abandon(attempt_id)

    def close(self) -> None:
        self._transport.close()

    def _form(self, call: Call) -> FormBody:
        """One image as `image`, several as `image[]`, as the vendor's own client names them."""
        normalised = call.normalised
        fields: dict[str, Any] = {"model": normalised.endpoint, **parameters_of(call), **normalised.options}
        if self._flavour.streams and normalised.images_per_call == 1:
            fields["stream"] = True
        images = normalised.images
        several = len(images.images) > 1 and not images.name.endswith("[]")
        name = f"{images.name}[]" if several else images.name
        files = [self._file(name, image, f"image-{number}") for number, image in enumerate(images.images)]
        if normalised.mask is not None:
            files += [self._file(normalised.mask.name, image, "mask") for image in normalised.mask.images]
        return FormBody(fields, files, self._blobs)

    def _file(self, name: str, image: Any, stem: str) -> FilePart:
        stored = self._inputs.stored(image)
        return FilePart(name, stored, f"{stem}.{stored.suffix}")

    def _finished(self, reply: Reply) -> SubmitOutcome:
        entries = reply.members.get("data")
        members: Mapping[str, Any] = reply.members
        if isinstance(reply.value, list):
            events = [event for event in reply.value if isinstance(event, dict)]
            for event in events:
                if event.get("type") == "error" or event.get("error"):
                    return Failed(fault_of_event(event))
            entries = [event for event in events if str(event.get("type", "")).endswith(".completed")]
            members = entries[-1] if entries else {}
        found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        images = self._downloads.images_in(
            reply,
            [entry.get("b64_json") or self._link(reply.answer, entry.get("url")) for entry in found],
            [entry.get("has_nsfw_concepts") for entry in found],
        )
        if isinstance(images, Fault):
            return Failed(images)
        seed, prompt = found[0].get("seed"), found[0].get("revised_prompt")
        return Finished(
            Result(
                images,
                cost_microusd=self._cost(reply, members),
                seed=seed_of(seed),
                prompt=prompt if isinstance(prompt, str) and prompt else None,
            )
        )

    def _link(self, answer: Answer, link: object) -> object:
        """A relative link as an absolute one; some servers give their own paths."""
        if not isinstance(link, str) or answer.is_long(link) or not link.startswith("/"):
            return link
        return str(httpx2.URL(self._transport.base_url).join(link))

    def _cost(self, reply: Reply, members: Mapping[str, Any]) -> int | None:
        """What the answer says it cost; None when it says nothing, which is not the same as nothing."""
        reported: Any = reply.headers.get(self._flavour.cost_header) if self._flavour.cost_header else None
        if self._flavour.cost_member is not None:
            group, name = self._flavour.cost_member
            inner = members.get(group)
            reported = inner.get(name) if isinstance(inner, dict) else None
        try:
            cost = float(reported) if isinstance(reported, str | int | float) else None
        except ValueError:
            return None
        return None if cost is None or not 0 <= cost < 1e6 else round(cost * 1e6)
