"""A server of OpenAI's image edits: one request, one answer, the cost where a flavour tells it."""

from __future__ import annotations

import base64
import json

from python_multipart.multipart import parse_options_header

from tests.upstreams.stubs.server import PRICE_MICROUSD, Says, Seen, StubProvider


class OpenAIStub(StubProvider):
    base = "/v1"

    def __init__(self) -> None:
        super().__init__()
        self.links = False  #: answer with links instead of base64
        self.streams = True

    def station(self, method: str, path: str) -> str:
        return "submit"

    def answer(self, request: Seen) -> Says:
        given = fields_of(request)
        job = self.new_job(given, images=int(given.get("n", "1")))
        links = self.results_of(job)
        if given.get("stream") == "true" and self.streams:
            return self._events()
        data = [{"url": link} if self.links else {"b64_json": self._base64(), "url": ""} for link in links]
        cost = PRICE_MICROUSD * len(data) / 1e6
        answer = {"created": 1, "data": data, "metadata": {"cost": cost}}
        return Says.json(200, answer, x_litellm_response_cost=str(cost))

    def _base64(self) -> str:
        return base64.b64encode(self.image).decode()

    def _events(self) -> Says:
        partial = {"type": "image_edit.partial_image", "b64_json": self._base64(), "partial_image_index": 0}
        completed = {"type": "image_edit.completed", "b64_json": self._base64(), "seed": 5}
        frames = [
            ": queued",
            *(f"event: {e['type']}\ndata: {json.dumps(e)}" for e in (partial, completed)),
            "data: [DONE]",
        ]
        return Says(200, ("\n\n".join(frames) + "\n\n").encode(), {"Content-Type": "text/event-stream"})


def fields_of(request: Seen) -> dict[str, str]:
    """The text fields of a form."""
    _, options = parse_options_header(request.headers["content-type"])
    found = {}
    for part in request.body.split(b"--" + options[b"boundary"])[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if b"filename=" not in head:
            name = head.partition(b'name="')[2].partition(b'"')[0].decode()
            found[name] = value.removesuffix(b"\r\n").decode()
    return found
