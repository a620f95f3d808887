"""fal's file storage: the calls of both clients that end in a link, single and in parts.

REST begins an upload and hands out tokens; the CDN takes the bytes. Downloads go to the server's own signed
links; only the addresses of uploads in parts are served here, by sending readers on to such a link.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from retouch.accounts.keys import Account
from retouch.errors import InvalidKey, UnknownUrl
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal import uploads
from retouch.protocols.fal.accept import REALTIME
from retouch.protocols.fal.errors import BadCall
from retouch.protocols.fal.exchange import (
    NOTICES_HEADER,
    account_of,
    allow,
    body_up_to,
    cdn_base_of,
    credential_of,
    files_base_of,
    json_response,
    read_body,
)
from retouch.protocols.fal.terms import parse_lifecycle
from retouch.protocols.fal.wire import dump_notices, parse_json

CDN_TOKEN_S = 600.0
"""The vendor's client asks for another one when this is over."""

MAX_REALTIME_S, DEFAULT_REALTIME_S = 3600, 120

_CHUNK = 1024 * 1024


async def rest(context: AppDependencies, request: Request) -> Response:
    """Every path under `rest`."""
    path = request.path_params["path"].strip("/")
    if path == ".well-known/jwks.json":
        allow(request, "GET")
        return json_response(context.signer.key_set, headers={"cache-control": "public, max-age=86400"})
    handler = _REST.get(path)
    if handler is None:
        raise UnknownUrl(f"Path /{path[:200]} not found")
    allow(request, "POST")
    account = await account_of(context, request)
    body = parse_json(await read_body(request, _CHUNK))
    return await handler(context, request, account, body)


async def _realtime_token(context: AppDependencies, _: Request, account: Account, body: Mapping[str, Any]) -> Response:
    """A token that may be shown to a browser: good for a few apps and a short time."""
    apps = body.get("allowed_apps")
    seconds = body.get("token_expiration", DEFAULT_REALTIME_S)
    if not isinstance(apps, list) or not apps or not all(isinstance(app, str) for app in apps) or len(apps) > 50:
        raise BadCall("'allowed_apps' must be a list of app names.")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_REALTIME_S:
        raise BadCall(f"'token_expiration' must be a number of seconds up to {MAX_REALTIME_S}.")
    return json_response(context.tokens.issue(account, REALTIME, seconds, apps=apps))


async def _cdn_token(context: AppDependencies, request: Request, account: Account, _: Mapping[str, Any]) -> Response:
    ends = datetime.now(UTC) + timedelta(seconds=CDN_TOKEN_S)
    body = {
        "token": context.tokens.issue(account, uploads.ANY, CDN_TOKEN_S),
        "token_type": "Bearer",
        "base_url": cdn_base_of(context, request),
        "expires_at": ends.isoformat(timespec="seconds"),
    }
    return json_response(body)


async def _initiate(context: AppDependencies, request: Request, account: Account, body: Mapping[str, Any]) -> Response:
    """Where the bytes go and where they will be read; the same for one piece and for parts."""
    kind, name = (body.get(field) or default for field, default in _DEFAULT_FILE.items())
    if not isinstance(kind, str) or not isinstance(name, str):
        raise BadCall("'content_type' and 'file_name' must be strings.")
    upload, headers = await _begin(context, request, account, kind, name)
    answer = {"upload_url": f"{cdn_base_of(context, request)}/uploads/{upload.write_token}", "file_url": upload.link}
    return json_response(answer, headers=headers)


_DEFAULT_FILE = {"content_type": "application/octet-stream", "file_name": "file"}

_REST: Mapping[str, Callable[[AppDependencies, Request, Account, Mapping[str, Any]], Awaitable[Response]]] = {
    "tokens": _realtime_token,
    "storage/auth/token": _cdn_token,
    "storage/upload/initiate": _initiate,
    "storage/upload/initiate-multipart": _initiate,
}


async def _begin(
    context: AppDependencies, request: Request, account: Account, kind: str, name: str
) -> tuple[uploads.Upload, Mapping[str, str]]:
    ttl_s, notices = parse_lifecycle(dict(request.headers))
    base = files_base_of(context, request)
    upload = await run_in_threadpool(
        uploads.begin, context, account, content_type=kind, name=name, ttl_s=ttl_s, files_base=base
    )
    return upload, {NOTICES_HEADER: dump_notices(notices)} if notices else {}


async def cdn(context: AppDependencies, request: Request) -> Response:
    """Every path under `cdn`."""
    path = request.path_params["path"].strip("/")
    match path.split("/"):
        case ["files", "upload"]:
            return await _upload(context, request)
        case ["files", "upload", "multipart"]:
            return await _begin_parts(context, request)
        case ["files", "m", token]:
            return await _read(context, request, token)
        case ["uploads", token]:
            allow(request, "PUT")
            await _receive(context, request, uploads.write_right(context, token).claims["key"])
            return json_response({})
        case ["uploads", token, last] | ["files", "m", _, "multipart", token, last]:
            return await _part_or_end(context, request, token, last)
    raise UnknownUrl(f"Path /{path[:200]} not found")


async def _cdn_account(context: AppDependencies, request: Request) -> Account:
    """The owner of the upload token or of the key itself; raises InvalidKey."""
    secret = credential_of(request)
    if secret is not None and secret.count(".") == 2:
        with contextlib.suppress(InvalidKey):
            return context.tokens.read(secret, uploads.ANY).account
    return await context.authenticator.authenticate(secret)


async def _upload(context: AppDependencies, request: Request) -> Response:
    """The whole file in one call."""
    allow(request, "POST")
    account = await _cdn_account(context, request)
    upload, headers = await _begin(context, request, account, _kind(request), _name(request))
    await _receive(context, request, upload.key)
    return json_response({"access_url": upload.link}, headers=headers)


async def _begin_parts(context: AppDependencies, request: Request) -> Response:
    """The client appends paths to the address it gets here, so it must not have a query."""
    allow(request, "POST")
    account = await _cdn_account(context, request)
    upload, headers = await _begin(context, request, account, _kind(request), _name(request))
    address = f"{cdn_base_of(context, request)}/files/m/{upload.read_token}"
    return json_response({"access_url": address, "uploadId": upload.write_token}, headers=headers)


async def _part_or_end(context: AppDependencies, request: Request, text: str, last: str) -> Response:
    if last == "complete":
        allow(request, "POST")
        token = uploads.write_right(context, text)
        parts = uploads.parse_parts(parse_json(await read_body(request, _CHUNK)))
        await run_in_threadpool(uploads.complete, context, token, parts)
        return json_response({})
    allow(request, "PUT")
    token = uploads.write_right(context, text)
    if not last.isdecimal() or len(last) > 6:
        raise UnknownUrl(f"Path {request.url.path[:100]} not found")
    data = await read_body(request, context.max_body_bytes)
    tag = await run_in_threadpool(uploads.put_part, context, token, int(last), data)
    return json_response({"partNumber": int(last), "etag": tag}, headers={"ETag": tag})


async def _read(context: AppDependencies, request: Request, token: str) -> Response:
    allow(request, "GET")
    right = uploads.read_right(context, token)
    left_s = right.expires_at - datetime.now(UTC).timestamp()
    link = context.blobs.link(right.claims["key"], ttl_s=left_s, base_url=files_base_of(context, request))
    return RedirectResponse(link, 307)


async def _receive(context: AppDependencies, request: Request, key: str) -> None:
    async with _received(request, uploads.MAX_UPLOAD_BYTES) as path:
        await run_in_threadpool(context.blobs.fill, key, path)


@contextlib.asynccontextmanager
async def _received(request: Request, limit: int) -> AsyncIterator[Path]:
    """The body as a temporary file, in bounded memory; raises BodyTooLarge."""
    with tempfile.NamedTemporaryFile() as file:
        waiting = bytearray()
        async for chunk in body_up_to(request, limit):
            waiting += chunk
            if len(waiting) >= _CHUNK:
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        file.write(waiting)
        file.flush()
        yield Path(file.name)


def _kind(request: Request) -> str:
    return request.headers.get("content-type") or _DEFAULT_FILE["content_type"]


def _name(request: Request) -> str:
    return request.headers.get("x-fal-file-name") or _DEFAULT_FILE["file_name"]
