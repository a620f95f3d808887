"""Asks an OpenAI-compatible chat server for rewritten prompts: one request, bounded in time, bytes and trust.

The address is the operator's own setting, so it may be private; every other address is out of reach, and no redirect
is followed. What the server answers is in no log and no message. Which answer may be used: see `engine/rewrite.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import orjson

from retouch import images as image_files
from retouch.engine import rewrite
from retouch.errors import InvalidSetting, Unavailable
from retouch.images import Pixels
from retouch.storage.addresses import OpenedAddresses, plain_host
from retouch.storage.guard import guarded_client

TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 1_000_000
MAX_TOKENS = 512
MAX_IMAGE_PIXELS = 1_000_000
IMAGE_QUALITY = 85

NO_IMAGES = (400, 404, 415, 422)
"""What servers answer that read no images; they are asked once more without."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ChatRewriter:
    """A chat server; thread-safe, and nothing is shared between two requests.

    base_url: up to and with `/v1`. model: as the server calls it. key: sent as a bearer token. rules: the system
    message.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str | None = None,
        *,
        rules: str = rewrite.RULES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Raises InvalidSetting for an address that is none."""
        self._address = _checked(base_url)
        self._model = model
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._rules = rules
        self._timeout_s = timeout_s
        self.name = f"{base_url} {model} {rules}"

    def answer(
        self,
        prompt: str,
        images: Sequence[Pixels],
        cancelled: Callable[[], bool] = lambda: False,  # noqa: ARG002 - an exchange ends by its own time limit
    ) -> str:
        """What the model wrote. Raises Unavailable when there is no complete answer."""
        status, body = self._post(self._message(prompt, images))
        if status in NO_IMAGES:
            status, body = self._post(self._message(prompt, ()))
        if status != 200:
            raise Unavailable(f"the rewriter answered with status {status}")
        try:
            [choice] = orjson.loads(body)["choices"]
            finished, text = choice["finish_reason"], choice["message"]["content"]
        except (ValueError, KeyError, TypeError):
            raise Unavailable("the rewriter's answer is no chat completion") from None
        if finished != "stop" or not isinstance(text, str):
            raise Unavailable("the rewriter did not finish its answer")
        return text

    def _message(self, prompt: str, images: Sequence[Pixels]) -> bytes:
        content: list[dict[str, Any]] = []
        for number, image in enumerate(images, start=1):
            data = image_files.data_uri(image_files.encode(_reduced(image), "jpeg", IMAGE_QUALITY), "image/jpeg")
            content += [
                {"type": "text", "text": f"Picture {number}:"},
                {"type": "image_url", "image_url": {"url": data}},
            ]
        content.append({"type": "text", "text": rewrite.user_message(prompt)})
        return orjson.dumps(
            {
                "model": self._model,
                "messages": [
                    {"role": "system", "content": self._rules},
                    {"role": "user", "content": content if images else content[0]["text"]},
                ],
                "temperature": 0,
                "max_tokens": MAX_TOKENS,
                "n": 1,
                "stream": False,
            }
        )

    def _post(self, message: bytes) -> tuple[int, bytes]:
        """Status and body of one exchange, the body of 200 only. Raises Unavailable."""
        host, port = plain_host(self._address.host), self._address.port or _DEFAULT_PORTS[self._address.scheme]
        opened = OpenedAddresses(frozenset({(host, port)}))
        try:
            with (
                guarded_client(opened, timeout_s=self._timeout_s) as client,
                client.stream("POST", self._address, content=message, headers=self._headers) as answer,
            ):
                body = bytearray()
                for part in answer.iter_raw() if answer.status_code == 200 else ():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise Unavailable(f"the rewriter sent more than {MAX_ANSWER_BYTES} bytes")
                return answer.status_code, bytes(body)
        except httpx2.TimeoutException:
            raise Unavailable(f"the rewriter did not answer within {self._timeout_s:g} seconds") from None
        except httpx2.HTTPError:
            raise Unavailable("the rewriter could not be reached, or broke off") from None


def _reduced(image: Pixels) -> Pixels:
    """At most one megapixel, in its own shape."""
    height, width = image.shape[:2]
    share = (MAX_IMAGE_PIXELS / (width * height)) ** 0.5
    return image if share >= 1 else image_files.resize(image, (max(1, int(width * share)), max(1, int(height * share))))


def _checked(base_url: str) -> httpx2.URL:
    try:
        url = httpx2.URL(base_url.rstrip("/") + "/chat/completions")
    except (httpx2.InvalidURL, ValueError):
        raise InvalidSetting(f"--rewriter: {base_url[:100]!r} is not a valid URL.") from None
    if (
        any(character.isspace() for character in base_url)
        or url.scheme not in _DEFAULT_PORTS
        or not url.host
        or url.userinfo
        or url.query
        or url.fragment
    ):
        raise InvalidSetting(
            f"--rewriter: {base_url[:100]!r} must be off, auto, resident, or an http(s) address that ends in /v1, "
            "without a name, password or query; the key belongs in RETOUCH_REWRITER_KEY."
        )
    return url
