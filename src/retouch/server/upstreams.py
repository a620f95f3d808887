"""`/upstreams/…`: what callers and hosted providers say to the gateway, besides edits.

`/upstreams/keys`: callers keep their own keys at providers, for routes with `key = "caller:NAME"`. A key goes in and
never comes out: what is listed is its name and its fingerprint.

`POST /upstreams/webhooks/ATTEMPT`: a provider says that a job has changed. The address is given to it with the submit
and carries an id that cannot be guessed. What comes is never taken as a result: it makes the next look come sooner, and
names a job whose submit was never answered.
"""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from retouch.accounts.keys import Account
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.errors import BodyTooLarge, InvalidRequest, NotFound
from retouch.protocols.http import Authenticator, credential_of, read_body
from retouch.upstreams.gateway import Gateway, WebhookVerdict

MAX_KEY_BODY_BYTES = 16 * 1024
MAX_WEBHOOK_BYTES = 4 * 1024 * 1024
"""A webhook may carry a whole result, which is not read."""

_STATUSES = {WebhookVerdict.TAKEN: 200, WebhookVerdict.FORGED: 401, WebhookVerdict.UNKNOWN: 404}


def upstream_key_routes(keys: UpstreamKeys, authenticator: Authenticator) -> APIRouter:
    router = APIRouter(prefix="/upstreams/keys")

    async def caller(request: Request) -> Account:
        return await authenticator.authenticate(credential_of(request))

    @router.get("")
    async def list_keys(request: Request) -> Response:
        account = await caller(request)
        names = await run_in_threadpool(keys.names, account.id)
        return _json(200, {"keys": [{"name": name, "fingerprint": mark} for name, mark in names.items()]})

    @router.put("/{name}")
    async def store(request: Request, name: str) -> Response:
        account = await caller(request)
        try:
            body = await read_body(request, MAX_KEY_BODY_BYTES)
        except BodyTooLarge:
            message = f"A key's body may have {MAX_KEY_BODY_BYTES} bytes."
            raise BodyTooLarge(message, max_bytes=MAX_KEY_BODY_BYTES) from None
        try:
            members = orjson.loads(body)
        except orjson.JSONDecodeError:
            members = None
        secret = members.get("key") if isinstance(members, dict) else None
        if not isinstance(secret, str):  # nothing of the body is repeated
            raise InvalidRequest('The body must be {"key": "…"}.', field="key")
        fingerprint = await run_in_threadpool(keys.store, account.id, name, secret.strip())
        return _json(200, {"name": name, "fingerprint": fingerprint})

    @router.delete("/{name}")
    async def forget(request: Request, name: str) -> Response:
        account = await caller(request)
        if not await run_in_threadpool(keys.forget, account.id, name):
            raise NotFound(f"There is no stored key '{name[:100]}'.")
        return _json(200, {"name": name, "deleted": True})

    return router


def upstream_webhook_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.post("/upstreams/webhooks/{attempt_id}")
    async def hear(request: Request, attempt_id: str) -> Response:
        try:
            body = await read_body(request, MAX_WEBHOOK_BYTES)
        except BodyTooLarge:
            return _json(413, {"status": "too large"})
        headers = {name.lower(): value for name, value in request.headers.items()}
        verdict = await run_in_threadpool(gateway.webhook, attempt_id, headers, body)
        return _json(_STATUSES[verdict], {"status": verdict.value})

    return router


def _json(status: int, content: object) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
