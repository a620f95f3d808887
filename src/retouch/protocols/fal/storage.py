"""fal's file storage: the calls of both clients that end in a link, single and in parts.

REST begins an upload and hands out tokens; the CDN takes the bytes. An upload's place is reserved before its first
byte, so that its address can be told at once. Parts are blobs with derived keys: any process of the server can put
them together, and what is never completed expires. Downloads go to the server's own signed links; only the addresses
of uploads in parts, which must have no query, are served here.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.accounts.tokens import Token
from retouch.errors import InvalidKey, UnknownFile, UnknownUrl
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.dump import NOTICES_HEADER, notices_header
from retouch.protocols.fal.errors import BadRequest, check_method
from retouch.protocols.fal.parse import parse_json, parse_lifecycle
from retouch.protocols.fal.routes import READ, REALTIME, face_url_of, files_origin_of
from retouch.protocols.fal.vendor_hosts import CDN_URL
from retouch.protocols.file_response import file_response
from retouch.protocols.http import account_of, body_chunks, credential_of, json_response, read_body
from retouch.storage.objects import part_key

MAX_UPLOAD_BYTES = 128 * 1024 * 1024
"""More than twice the largest image that an edit may have; a reader is sent a file from memory."""

MAX_PARTS = 10_000
WRITE_S = 3600.0
"""How long an upload may take from its announcement to its last byte."""

WRITE, BEGIN = "upload", "cdn"
"""Further purposes of tokens: to write one file; to begin any upload."""

CDN_TOKEN_S = 600.0
"""The vendor's client asks for another one when this is over."""

MAX_REALTIME_S, DEFAULT_REALTIME_S = 3600, 120

_CHUNK = 1024 * 1024


async def rest(dependencies: AppDependencies, request: Request) -> Response:
    """Every path under `rest`."""
    path = request.path_params["path"].strip("/")
    if path == ".well-known/jwks.json":
        check_method(request.method, request.url.path, "GET")
        return json_response(dependencies.signer.key_set, headers={"cache-control": "public, max-age=86400"})
    handler = _REST.get(path)
    if handler is None:
        raise UnknownUrl(f"Path /{path[:200]} not found")
    check_method(request.method, request.url.path, "POST")
    account = await account_of(dependencies.authenticator, request)
    body = parse_json(await read_body(request, _CHUNK))
    return await handler(dependencies, request, account, body)


async def _realtime_token(
    dependencies: AppDependencies, _: Request, account: Account, body: Mapping[str, Any]
) -> Response:
    """A token that may be shown to a browser: good for a few apps and a short time."""
    apps = body.get("allowed_apps")
    seconds = body.get("token_expiration", DEFAULT_REALTIME_S)
    if not isinstance(apps, list) or not apps or not all(isinstance(app, str) for app in apps) or len(apps) > 50:
        raise BadRequest("'allowed_apps' must be a list of app names.")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_REALTIME_S:
        raise BadRequest(f"'token_expiration' must be a number of seconds up to {MAX_REALTIME_S}.")
    return json_response(dependencies.tokens.issue(account, REALTIME, seconds, apps=apps))


async def _cdn_token(
    dependencies: AppDependencies, request: Request, account: Account, _: Mapping[str, Any]
) -> Response:
    ends = datetime.now(UTC) + timedelta(seconds=CDN_TOKEN_S)
    body = {
        "token": dependencies.tokens.issue(account, BEGIN, CDN_TOKEN_S),
        "token_type": "Bearer",
        "base_url": _cdn_url_of(dependencies, request),
        "expires_at": ends.isoformat(timespec="seconds"),
    }
    return json_response(body)


async def _initiate(
    dependencies: AppDependencies, request: Request, account: Account, body: Mapping[str, Any]
) -> Response:
    """Where the bytes go and where they will be read; the same for one piece and for parts."""
    content_type, name = (body.get(field) or default for field, default in _DEFAULT_FILE.items())
    if not isinstance(content_type, str) or not isinstance(name, str):
        raise BadRequest("'content_type' and 'file_name' must be strings.")
    upload, headers = await _begin(dependencies, request, account, content_type, name)
    answer = {
        "upload_url": f"{_cdn_url_of(dependencies, request)}/uploads/{upload.write_token}",
        "file_url": upload.link,
    }
    return json_response(answer, headers=headers)


_DEFAULT_FILE = {"content_type": "application/octet-stream", "file_name": "file"}

_REST: Mapping[str, Callable[[AppDependencies, Request, Account, Mapping[str, Any]], Awaitable[Response]]] = {
    "tokens": _realtime_token,
    "storage/auth/token": _cdn_token,
    "storage/upload/initiate": _initiate,
    "storage/upload/initiate-multipart": _initiate,
}


async def _begin(
    dependencies: AppDependencies, request: Request, account: Account, content_type: str, name: str
) -> tuple[Upload, Mapping[str, str]]:
    """Reserve a place for a file that lives as long as was asked, or as outputs do; and the headers of the answer."""
    ttl_s, notices = parse_lifecycle(request.headers)
    life_s = dependencies.link_ttl_s if ttl_s is None else ttl_s
    reserve, origin = dependencies.blobs.reserve, files_origin_of(dependencies, request)
    key = await run_in_threadpool(reserve, content_type, folder="uploads", name=name, ttl_s=life_s)
    upload = Upload(
        key,
        link=dependencies.blobs.link(key, ttl_s=life_s, base_url=origin),
        write_token=dependencies.tokens.issue(account, WRITE, min(life_s, WRITE_S), key=key),
        read_token=dependencies.tokens.issue(account, READ, life_s, key=key),
    )
    return upload, {NOTICES_HEADER: notices_header(notices)} if notices else {}


async def cdn(dependencies: AppDependencies, request: Request) -> Response:
    """Every path under `cdn`."""
    path = request.path_params["path"].strip("/")
    match path.split("/"):
        case ["files", "upload"]:
            return await _upload(dependencies, request, parts=False)
        case ["files", "upload", "multipart"]:
            return await _upload(dependencies, request, parts=True)
        case ["files", "m", token]:
            check_method(request.method, request.url.path, "GET")
            key = _right(dependencies, token, READ).claims["key"]
            return file_response(await run_in_threadpool(dependencies.blobs.get, key), request)
        case ["uploads", token]:
            check_method(request.method, request.url.path, "PUT")
            await _receive(dependencies, request, _right(dependencies, token, WRITE).claims["key"])
            return json_response({})
        case ["uploads", token, last] | ["files", "m", _, "multipart", token, last]:
            return await _part_or_end(dependencies, request, token, last)
    raise UnknownUrl(f"Path /{path[:200]} not found")


async def _upload(dependencies: AppDependencies, request: Request, *, parts: bool) -> Response:
    """The whole file in one call, or the begin of one in parts; for the holder of an upload token or of a key."""
    check_method(request.method, request.url.path, "POST")
    secret, account = credential_of(request), None
    if secret is not None and secret.count(".") == 2:
        with contextlib.suppress(InvalidKey):
            account = dependencies.tokens.read(secret, BEGIN).account
    account = account or await dependencies.authenticator.authenticate(secret)
    content_type = request.headers.get("content-type") or _DEFAULT_FILE["content_type"]
    name = request.headers.get("x-fal-file-name") or _DEFAULT_FILE["file_name"]
    upload, headers = await _begin(dependencies, request, account, content_type, name)
    if parts:
        # Not the signed link: the client appends paths to this address, so it must not have a query.
        address = f"{_cdn_url_of(dependencies, request)}/files/m/{upload.read_token}"
        return json_response({"access_url": address, "uploadId": upload.write_token}, headers=headers)
    await _receive(dependencies, request, upload.key)
    return json_response({"access_url": upload.link}, headers=headers)


async def _part_or_end(dependencies: AppDependencies, request: Request, text: str, last: str) -> Response:
    if last == "complete":
        check_method(request.method, request.url.path, "POST")
        token = _right(dependencies, text, WRITE)
        parts = parse_parts(parse_json(await read_body(request, _CHUNK)))
        await run_in_threadpool(complete, dependencies, token, parts)
        return json_response({})
    check_method(request.method, request.url.path, "PUT")
    token = _right(dependencies, text, WRITE)
    if not last.isdecimal() or len(last) > 6:
        raise UnknownUrl(f"Path {request.url.path[:100]} not found")
    data = await read_body(request, dependencies.max_body_bytes)
    tag = await run_in_threadpool(put_part, dependencies, token, int(last), data)
    return json_response({"partNumber": int(last), "etag": tag}, headers={"ETag": tag})


async def _receive(dependencies: AppDependencies, request: Request, key: str) -> None:
    """Fill a reserved place with the body, in bounded memory; raises BodyTooLarge."""
    with tempfile.NamedTemporaryFile() as file:
        waiting = bytearray()
        async for chunk in body_chunks(request, MAX_UPLOAD_BYTES):
            waiting += chunk
            if len(waiting) >= _CHUNK:
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        file.write(waiting)
        file.flush()
        await run_in_threadpool(dependencies.blobs.fill, key, Path(file.name))


def _cdn_url_of(dependencies: AppDependencies, request: Request) -> str:
    """What the addresses of uploads begin with; raises InvalidRequest."""
    return request.scope.get(CDN_URL) or f"{face_url_of(dependencies, request)}/cdn"


# --- what an upload is


@dataclass(frozen=True, slots=True)
class Upload:
    """A reserved place. link: reads the file, later. write_token: its holder may send the bytes."""

    key: str
    link: str
    write_token: str
    read_token: str


def _right(dependencies: AppDependencies, text: str, purpose: str) -> Token:
    """The token of one file; raises UnknownFile, because its address leads to nothing then."""
    try:
        return dependencies.tokens.read(text, purpose)
    except InvalidKey as error:
        raise UnknownFile(f"There is no such upload: {error.message}") from None


def put_part(dependencies: AppDependencies, token: Token, number: int, data: bytes) -> str:
    """Store one part and return its tag, quoted as an ETag header has it."""
    if not 1 <= number <= MAX_PARTS:
        raise BadRequest(f"A part's number must be from 1 to {MAX_PARTS}, not {number}.")
    dependencies.blobs.fill(_part_key(token, number), data)
    return _tag_of(data)


def complete(dependencies: AppDependencies, token: Token, parts: Sequence[tuple[int, str]]) -> None:
    """Join the parts in the order of their numbers. Doing it again after success is no error.

    Raises BadRequest for a part that is missing, was sent differently, or makes the file too large.
    """
    key = str(token.claims["key"])
    with tempfile.NamedTemporaryFile() as joined:
        for number, tag in sorted(parts):
            try:
                data = dependencies.blobs.get(_part_key(token, number)).data
            except UnknownFile:
                with contextlib.suppress(UnknownFile):
                    dependencies.blobs.get(key)
                    return  # an earlier call has joined them already
                raise BadRequest(f"Part {number} of the upload has not arrived.") from None
            if tag.strip('"') != _tag_of(data).strip('"'):
                raise BadRequest(f"Part {number} of the upload has another tag.")
            joined.write(data)
            if joined.tell() > MAX_UPLOAD_BYTES:
                raise BadRequest(f"An upload may have at most {MAX_UPLOAD_BYTES} bytes.")
        joined.flush()
        dependencies.blobs.fill(key, Path(joined.name))
    for number, _ in parts:
        dependencies.blobs.delete(_part_key(token, number))


def parse_parts(body: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """The list both clients send; numbers in any order. Raises BadRequest."""
    listed = body.get("parts")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_PARTS:
        raise BadRequest(f"'parts' must be a list of 1 to {MAX_PARTS} parts.")
    parts = {}
    for part in listed:
        number, tag = (part.get("partNumber"), part.get("etag")) if isinstance(part, dict) else (None, None)
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(tag, str):
            raise BadRequest("Each part must have a 'partNumber' and an 'etag'.")
        parts[number] = tag
    return tuple(parts.items())


def _tag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _part_key(token: Token, number: int) -> str:
    return part_key(str(token.claims["key"]), number, datetime.fromtimestamp(token.expires_at, UTC))
