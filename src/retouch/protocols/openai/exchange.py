"""What one HTTP request says beside its body, and the plain answers: who, where, whether it is only asked.

No parameter of an edit is read here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from retouch.accounts.keys import Account
from retouch.errors import InvalidRequest
from retouch.protocols.dependencies import AppDependencies

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
MAX_NAMES_IN_HEADER = 40

_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:\d{1,5})?|\[[0-9a-fA-F:.]+\](:\d{1,5})?")
_HEADER_NAME_SAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_YES = frozenset({"true", "1", "yes", "on", ""})


async def authenticated(context: AppDependencies, request: Request) -> Account:
    """The account behind `Authorization: Bearer …`; raises InvalidKey."""
    header = request.headers.get("authorization", "").strip()
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer":
        secret = header
    return await context.authenticator.authenticate(secret.strip() or None)


def base_url_of(context: AppDependencies, request: Request) -> str:
    """This server as the caller sees it, for links in answers: the operator's name for it, or the request's."""
    if context.public_url is not None:
        return context.public_url
    host = request.headers.get("x-forwarded-host", "").partition(",")[0].strip() or request.headers.get("host", "")
    scheme = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip() or request.url.scheme
    if not _HOST.fullmatch(host) or scheme not in ("http", "https"):
        raise InvalidRequest("The Host header does not name a host.")
    return f"{scheme}://{host}"


def is_dry_run(request: Request) -> bool:
    """Whether only an estimate is wanted (`?dryRun=true`)."""
    for name in ("dryRun", "dry_run"):
        if name in request.query_params:
            return request.query_params[name].strip().lower() in _YES
    return False


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidRequest(f"The Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters.")
    return key


def retry_count(request: Request) -> str | None:
    """The official SDKs' count of tries before this one; None for any other client."""
    return request.headers.get("x-stainless-retry-count")


async def disconnected(request: Request) -> None:
    """Return when the caller has hung up; for a request whose body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def hashed(user: str | None) -> str | None:
    """A caller's name for its own user, as the log may keep it."""
    return None if user is None else hashlib.sha256(user.encode()).hexdigest()[:16]


def json_response(content: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), media_type="application/json", headers=headers)


def header_list(names: Sequence[str]) -> str:
    """Names a caller chose, made safe for a header."""
    safe = (_HEADER_NAME_SAFE.sub("?", name[:60]) for name in names[:MAX_NAMES_IN_HEADER])
    return ", ".join(safe)
