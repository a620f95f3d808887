"""`/upstreams/keys`: callers keep their own keys at hosted providers, for routes with `key = "caller:NAME"`.

A key goes in and never comes out: what is listed is its name and its fingerprint.
"""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from retouch.accounts.keys import Account
from retouch.accounts.upstream_keys import UpstreamKeys
from retouch.errors import BodyTooLarge, InvalidRequest, NotFound
from retouch.protocols.http import Authenticator, credential_of

MAX_BODY_BYTES = 16 * 1024


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
        secret = await _key_in(request)
        fingerprint = await run_in_threadpool(keys.store, account.id, name, secret)
        return _json(200, {"name": name, "fingerprint": fingerprint})

    @router.delete("/{name}")
    async def forget(request: Request, name: str) -> Response:
        account = await caller(request)
        if not await run_in_threadpool(keys.forget, account.id, name):
            raise NotFound(f"There is no stored key '{name[:100]}'.")
        return _json(200, {"name": name, "deleted": True})

    return router


async def _key_in(request: Request) -> str:
    """The member `key` of the body. Raises InvalidRequest, which repeats nothing of it."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"A key's body may have {MAX_BODY_BYTES} bytes.", max_bytes=MAX_BODY_BYTES)
    try:
        members = orjson.loads(bytes(body))
    except orjson.JSONDecodeError:
        members = None
    secret = members.get("key") if isinstance(members, dict) else None
    if not isinstance(secret, str):
        raise InvalidRequest('The body must be {"key": "…"}.', field="key")
    return secret.strip()


def _json(status: int, content: object) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
