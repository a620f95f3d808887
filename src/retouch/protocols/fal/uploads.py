"""What an upload is, without HTTP: its place, its token, its parts and how they become one file.

An upload's place is reserved before its first byte, so that its address can be told at once. Parts are blobs
with derived keys: any process of the server can put them together, and what is never completed expires.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retouch.accounts.keys import Account
from retouch.accounts.tokens import Token
from retouch.errors import InvalidKey, UnknownFile
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.fal.errors import BadCall
from retouch.storage.blob_keys import part_key

MAX_UPLOAD_BYTES = 128 * 1024 * 1024
"""More than twice the largest picture that an edit may have; a reader is sent a file from memory."""

MAX_PARTS = 10_000
WRITE_S = 3600.0
"""How long an upload may take from its announcement to its last byte."""

WRITE, READ, ANY = "upload", "file", "cdn"
"""Purposes of tokens: to write one file, to read one file, to begin any upload."""

_READ_PATH = re.compile(r"/files/m/([A-Za-z0-9_.-]{1,4096})$")


@dataclass(frozen=True, slots=True)
class Upload:
    """A reserved place. link: reads the file, later. write_token: whoever has it may send the bytes."""

    key: str
    link: str
    write_token: str
    read_token: str


def begin(
    context: AppDependencies, account: Account, *, content_type: str, name: str, ttl_s: float | None, files_base: str
) -> Upload:
    """Reserve a place for a file that lives `ttl_s` seconds, or as long as outputs do."""
    life_s = context.link_ttl_s if ttl_s is None else ttl_s
    key = context.blobs.reserve(content_type, folder="uploads", name=name, ttl_s=life_s)
    return Upload(
        key,
        context.blobs.link(key, ttl_s=life_s, base_url=files_base),
        context.tokens.issue(account, WRITE, min(life_s, WRITE_S), key=key),
        context.tokens.issue(account, READ, life_s, key=key),
    )


def write_right(context: AppDependencies, text: str) -> Token:
    """The token of an upload that is under way; raises UnknownFile, as its address is then nobody's."""
    return _right(context, text, WRITE)


def read_right(context: AppDependencies, text: str) -> Token:
    """The token that names a file to be read; raises UnknownFile."""
    return _right(context, text, READ)


def own_key(context: AppDependencies, url: str) -> str | None:
    """The key behind the address of an upload in parts; None for any other link."""
    path = _READ_PATH.search(url.partition("?")[0])
    if path is None:
        return None
    try:
        return str(read_right(context, path[1]).claims["key"])
    except UnknownFile:
        return None


def _right(context: AppDependencies, text: str, purpose: str) -> Token:
    try:
        return context.tokens.read(text, purpose)
    except InvalidKey as error:
        raise UnknownFile(f"There is no such upload: {error.message}") from None


def put_part(context: AppDependencies, token: Token, number: int, data: bytes) -> str:
    """Store one part and return its tag, quoted as an ETag header has it."""
    if not 1 <= number <= MAX_PARTS:
        raise BadCall(f"A part's number must be from 1 to {MAX_PARTS}, not {number}.")
    context.blobs.fill(_part_key(token, number), data)
    return tag_of(data)


def complete(context: AppDependencies, token: Token, parts: Sequence[tuple[int, str]]) -> None:
    """Join the parts in the order of their numbers. Doing it again after success is no error.

    Raises BadCall for a part that is missing, was sent differently, or makes the file too large.
    """
    key = str(token.claims["key"])
    with tempfile.NamedTemporaryFile() as joined:
        for number, tag in sorted(parts):
            try:
                data = context.blobs.get(_part_key(token, number)).data
            except UnknownFile:
                if _is_there(context, key):
                    return
                raise BadCall(f"Part {number} of the upload has not arrived.") from None
            if tag.strip('"') != tag_of(data).strip('"'):
                raise BadCall(f"Part {number} of the upload has another tag.")
            joined.write(data)
            if joined.tell() > MAX_UPLOAD_BYTES:
                raise BadCall(f"An upload may have at most {MAX_UPLOAD_BYTES} bytes.")
        joined.flush()
        context.blobs.fill(key, Path(joined.name))
    for number, _ in parts:
        context.blobs.delete(_part_key(token, number))


def parse_parts(body: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """The list both clients send; numbers in any order. Raises BadCall."""
    listed = body.get("parts")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_PARTS:
        raise BadCall(f"'parts' must be a list of 1 to {MAX_PARTS} parts.")
    parts = {}
    for part in listed:
        number, tag = (part.get("partNumber"), part.get("etag")) if isinstance(part, dict) else (None, None)
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(tag, str):
            raise BadCall("Each part must have a 'partNumber' and an 'etag'.")
        parts[number] = tag
    return tuple(parts.items())


def tag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _part_key(token: Token, number: int) -> str:
    return part_key(str(token.claims["key"]), number, datetime.fromtimestamp(token.expires_at, UTC))


def _is_there(context: AppDependencies, key: str) -> bool:
    try:
        context.blobs.get(key)
    except UnknownFile:
        return False
    return True
