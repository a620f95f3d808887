"""An answer counts as delivered when it has left whole to a caller who is still there."""

from __future__ import annotations

import contextlib

import pytest
from starlette.responses import Response
from starlette.types import Message

from retouch.protocols.http import DeliveredOnce, TrackedResponse

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": []}


class Connection:
    """A caller who hangs up after so many messages of the answer, or stays."""

    def __init__(self, leaves_after: int | None = None) -> None:
        self.sent: list[Message] = []
        self._leaves_after = leaves_after

    async def receive(self) -> Message:
        gone = self._leaves_after is not None and len(self.sent) >= self._leaves_after
        return {"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if self._leaves_after is not None and len(self.sent) > self._leaves_after:
            raise OSError("broken pipe")
        self.sent.append(message)


@pytest.mark.parametrize(("leaves_after", "delivered"), [(None, True), (0, False), (2, False), (3, False)])
async def test_whether_an_answer_was_delivered_is_reported_once(leaves_after: int | None, delivered: bool):
    reports: list[bool] = []

    async def sent(it_was: bool) -> None:
        reports.append(it_was)

    connection = Connection(leaves_after)
    try:
        await TrackedResponse(Response(b"answer"), sent)(SCOPE, connection.receive, connection.send)
    except OSError:
        assert not delivered
    assert reports == [delivered]
    if delivered:
        assert b"".join(message.get("body", b"") for message in connection.sent) == b"answer"


@pytest.mark.parametrize(("leaves_after", "forgotten"), [(None, 1), (2, 0)])
async def test_what_is_delivered_once_is_forgotten_once_it_is_delivered(leaves_after: int | None, forgotten: int):
    calls: list[None] = []
    connection = Connection(leaves_after)
    with contextlib.suppress(OSError):
        await DeliveredOnce(Response(b"x"), lambda: calls.append(None))(SCOPE, connection.receive, connection.send)
    assert len(calls) == forgotten
