"""DashScope as an upstream: a call that answers with the images, or a task for the models that offer one.

A key belongs to one region's address. The list of an account's tasks tells no inputs, so a lost answer is not looked up
there: another caller's image could be taken for ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final

from retouch.upstreams.dashscope.errors import fault_of_answer, fault_of_task
from retouch.upstreams.inputs import (
    CannotSend,
    FilePart,
    FormBody,
    Inline,
    Inputs,
    JsonBody,
    StoredImage,
    once,
    parameters_of,
)
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.replies import is_id, malformed
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

BASE_URL: Final = "https://dashscope-intl.aliyuncs.com"

POLLS_PER_SECOND: Final = 15.0
"""Of all jobs of a key. The page of asynchronous tasks allows an account 20 requests a second, cancels included."""

_CALL: Final = "/api/v1/services/aigc/multimodal-generation/generation"
_TASK: Final = "/api/v1/services/aigc/image-generation/generation"
_WITH_TASKS: Final = ("qwen-image-3",)
"""How the names of the models begin that offer tasks; the others refuse them."""

_UPLOAD_FIELDS: Final = {
    "OSSAccessKeyId": "oss_access_key_id",
    "Signature": "signature",
    "policy": "policy",
    "x-oss-object-acl": "x_oss_object_acl",
    "x-oss-forbid-overwrite": "x_oss_forbid_overwrite",
}
_WAITING: Final = {
    "PENDING": RemoteState.QUEUED,
    "SUSPENDED": RemoteState.QUEUED,
    "RUNNING": RemoteState.RUNNING,
}


class DashScopeUpstream:
    """An account in one region, which the base_url names."""

    kind = "dashscope"

    def __init__(self, options: UpstreamOptions) -> None:
        self._transport = options.transport(options.base_url or BASE_URL, "Bearer")
        self._downloads = options.downloads(self._transport)
        self._uploads = options.uploads(self._transport)
        self._blobs = options.blobs
        self._inputs = Inputs(options.blobs, options.images)
        self._upload_for = lru_cache(64)(lambda model: once(partial(self._upload, model)))
        self._workspace = {"X-DashScope-WorkSpace": options.workspace} if options.workspace else {}
        self.traits = Traits(
            paid=options.paid is not False,
            named=False,
            server_errors_charged=False,
            polls_per_second=POLLS_PER_SECOND,
            result_life_s=24 * 3600.0,
        )

    def submit(self, call: Call) -> SubmitOutcome:
        as_task = call.normalised.endpoint.startswith(_WITH_TASKS)
        try:
            document, images = self._document(call)
        except CannotSend as refused:
            return Failed(refused.fault)
        headers = dict(self._workspace)
        if any(isinstance(image, str) and image.startswith("oss://") for image in images):
            headers["X-DashScope-OssResourceResolve"] = "enable"
        if as_task:
            headers["X-DashScope-Async"] = "enable"
        left_s = (call.deadline - datetime.now(UTC)).total_seconds()
        request = Request(
            "POST",
            _TASK if as_task else _CALL,
            JsonBody(document, self._blobs),
            headers=headers,
            ends_in_s=None if as_task else max(left_s, 1.0),
            until=call.deadline,
            attempt=call.attempt_id,
        )
        with self._transport.ask(request) as reply:
            if isinstance(reply, Fault):
                return Failed(reply)
            output = reply.members.get("output")
            number = output.get("task_id") if isinstance(output, dict) else None
            if as_task and reply.ok and is_id(number):
                task = f"/api/v1/tasks/{number}"
                # Also beside a code: a task that has a name may be charged.
                return Accepted(Ticket(number, {"status": task, "cancel": f"{task}/cancel"}))
            if not reply.ok or reply.members.get("code"):
                return Failed(fault_of_answer(reply))
            return Failed(malformed(reply, "task_id")) if as_task else self._finished(reply, output)

    def poll(self, ticket: Ticket) -> PollOutcome:
        with self._transport.ask(Request("GET", ticket.urls["status"], headers=self._workspace)) as reply:
            if isinstance(reply, Fault):
                return Unreadable(reply)
            output = reply.members.get("output")
            state = output.get("task_status") if isinstance(output, dict) else None
            if not reply.ok or state is None:
                return Unreadable(fault_of_answer(reply) if not reply.ok else malformed(reply, "task_status"))
            if isinstance(state, str) and state in _WAITING:
                return Pending(_WAITING[state])
            return self._finished(reply, output) if state == "SUCCEEDED" else Failed(_end_of(state, output))

    def cancel(self, ticket: Ticket) -> bool:
        with self._transport.ask(Request("POST", ticket.urls["cancel"], headers=self._workspace)) as reply:
            return isinstance(reply, Reply) and reply.ok and not reply.members.get("code")

    def find(self, call: Call, since: datetime) -> Ticket | None:  # noqa: ARG002 - see above
        return None

    def verify_webhook(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Ticket | None:  # noqa: ARG002
        return None

    def collect(self, image: RemoteImage, reread: Reread | None = None) -> StoredResult | Fault:
        return self._downloads.collect(image, reread)

    def abandon(self, attempt_id: str) -> bool:
        return self._transport.abandon(attempt_id)

    def close(self) -> None:
        self._transport.close()

    def _document(self, call: Call) -> tuple[dict[str, Any], list[str | Inline]]:
        """The request, and the images in it: one message, its images before its one text. Raises CannotSend."""
        normalised = call.normalised
        inputs = self._inputs
        if inputs.mode not in (ImageMode.LINK, ImageMode.INLINE):
            inputs = replace(inputs, upload=self._upload_for(normalised.endpoint))
        images = [inputs.value(call, image) for image in normalised.images.images]
        parameters = {**parameters_of(call), **normalised.options}
        text = parameters.pop("prompt", "")
        content = [*({normalised.images.name: image} for image in images), {"text": text}]
        document = {
            "model": normalised.endpoint,
            "input": {"messages": [{"role": "user", "content": content}]},
            "parameters": parameters,
        }
        return document, images

    def _finished(self, reply: Reply, output: Any) -> Finished | Failed:
        found = []
        choices = output.get("choices") if isinstance(output, dict) else None
        for choice in choices if isinstance(choices, list) else ():
            message = choice.get("message") if isinstance(choice, dict) else None
            content = message.get("content") if isinstance(message, dict) else None
            parts = content if isinstance(content, list) else ()
            found += [part.get("image") for part in parts if isinstance(part, dict)]
        images = self._downloads.images_in(reply, found)
        return Failed(images) if isinstance(images, Fault) else Finished(Result(images))

    def _upload(self, model: str, image: StoredImage) -> str | Fault:
        """To the store that the provider reads `oss://` from; where, and with which signed form, it says itself."""
        query = {"action": "getPolicy", "model": model}
        with self._transport.ask(Request("GET", "/api/v1/uploads", query=query, headers=self._workspace)) as reply:
            if isinstance(reply, Fault):
                return reply
            policy = reply.members.get("data")
            if not reply.ok:
                return fault_of_answer(reply)
            if not isinstance(policy, dict) or not all(policy.get(name) for name in ("upload_host", "upload_dir")):
                return malformed(reply, "upload policy")
        name = f"{policy['upload_dir']}/input.{image.suffix}"
        fields = {field: policy.get(member) for field, member in _UPLOAD_FIELDS.items()}
        body = FormBody(
            {**fields, "key": name, "success_action_status": "200"},
            [FilePart("file", image, f"input.{image.suffix}")],
            self._blobs,
        )
        return self._uploads.put(str(policy["upload_host"]), body, method="POST") or f"oss://{name}"


def _end_of(state: object, output: Any) -> Fault:
    """Of a task that has ended without images. UNKNOWN says that the task never was, or that its data has expired."""
    if state == "FAILED":
        return fault_of_task(output)
    if state == "CANCELED":
        return Fault(FaultKind.CANCELLED, "The task was cancelled at the provider.", charged=False)
    return Fault(FaultKind.UNKNOWN_JOB, "The provider does not know the task, or its data has expired.")
