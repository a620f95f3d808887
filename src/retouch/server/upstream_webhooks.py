"""`POST /upstreams/webhooks/ATTEMPT`: hosted providers say that a job has changed.

The address is given to the provider with the submit and carries an id that cannot be guessed. What comes is never taken
as a result: it makes the next look come sooner, and names a job whose submit was never answered.
"""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from retouch.upstreams.gateway import Gateway, WebhookVerdict

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A webhook may carry a whole result, which is not read."""


def upstream_webhook_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.post("/upstreams/webhooks/{attempt_id}")
    async def hear(request: Request, attempt_id: str) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return _answer(413, "too large")
        headers = {name.lower(): value for name, value in request.headers.items()}
        verdict = await run_in_threadpool(gateway.webhook, attempt_id, headers, bytes(body))
        status = {WebhookVerdict.TAKEN: 200, WebhookVerdict.FORGED: 401, WebhookVerdict.UNKNOWN: 404}[verdict]
        return _answer(status, verdict.value)

    return router


def _answer(status: int, word: str) -> Response:
    return Response(orjson.dumps({"status": word}), status, media_type="application/json")
