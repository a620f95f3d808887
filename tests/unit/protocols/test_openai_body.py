"""Bodies off the connection: however they are cut or damaged, they are read or refused, in bounded memory."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from retouch.errors import ImageTooLarge, InvalidRequest, InvalidType, RetouchError, UnsupportedMediaType
from retouch.protocols.http import body_chunks
from retouch.protocols.openai.form import GLANCE_BYTES, MAX_PARTS, Body, Part, decode_body, read_parts

BOUNDARY = b"0123456789abcdef0123456789abcdef"


def encoded(parts: Sequence[Part]) -> bytes:
    """The parts as Python's SDK sends them."""
    body = b""
    for part in parts:
        filename = "" if part.filename is None else f'; filename="{part.filename}"'
        head = f'Content-Disposition: form-data; name="{part.name}"{filename}\r\n'
        kind = "" if part.filename is None else "Content-Type: application/octet-stream\r\n"
        body += b"--" + BOUNDARY + b"\r\n" + (head + kind).encode() + b"\r\n" + part.data + b"\r\n"
    return body + b"--" + BOUNDARY + b"--\r\n"


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def parts_of(chunks: Sequence[bytes]) -> list[Part]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    parts = asyncio.run(read_parts(stream(), BOUNDARY))
    return [Part(part.name, part.filename, part.data) for part in parts]


def body_of(
    chunks: Sequence[bytes], content_type: str, *, max_bytes: int = 1 << 20, declared: int | None = None
) -> Body:
    """What is made of a request with these chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    headers = [(b"content-type", content_type.encode())]
    if declared is not None:
        headers.append((b"content-length", str(declared).encode()))

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    return asyncio.run(
        decode_body(content_type, body_chunks(Request(scope, receive), max_bytes, glance_bytes=GLANCE_BYTES))
    )


MULTIPART = f"multipart/form-data; boundary={BOUNDARY.decode()}"

_names = st.text("abcdefghijklmnop_[]0123456789", min_size=1, max_size=12)
_parts = st.builds(Part, _names, st.none() | st.text("abc.png", min_size=1), st.binary(max_size=200))


@given(st.lists(_parts, max_size=6), st.integers(1, 300))
def test_parts_are_the_same_however_the_body_is_cut(parts: list[Part], size: int):
    body = encoded(parts)
    if any(b"\r\n--" + BOUNDARY in part.data for part in parts):
        return
    try:
        expected = parts_of([body])
    except InvalidType:  # one byte of a buffer after the other
        return
    assert expected == parts
    assert parts_of(cut(body, size)) == parts


@given(st.binary(max_size=400), st.lists(_parts, max_size=3), st.integers(0, 400))
def test_a_damaged_body_is_read_or_refused(noise: bytes, parts: list[Part], at: int):
    whole = encoded(parts)
    for body in (noise, whole[:at], whole[:at] + noise + whole[at:]):
        try:
            parts_of(cut(body, 64))
        except InvalidRequest:
            continue


@given(st.text(max_size=60), st.binary(max_size=60))
def test_any_content_type_is_read_or_refused(content_type: str, body: bytes):
    try:
        body_of([body], content_type.encode("latin-1", "ignore").decode("latin-1"))
    except RetouchError:
        return


def test_a_cut_off_body_is_distinguished_from_a_whole_one():
    body = encoded([Part("prompt", None, b"x")])
    with pytest.raises(InvalidRequest, match="closing boundary"):
        parts_of([body[:-6]])


PNG = b"\x89PNG\r\n\x1a\n pixels"


@pytest.mark.parametrize("name", ["image", "image[]", "mask"])
@pytest.mark.parametrize(
    "headers",
    [
        '"\r\nContent-Type: image/png',
        '"\r\nContent-Type: application/octet-stream',
        '"',
        '"; filename=""',
        "\"; filename*=UTF-8''cat.png\r\nContent-Type: image/png",
    ],
)
def test_an_image_without_a_file_name_is_an_image(name: str, headers: str):
    body = f'--b\r\nContent-Disposition: form-data; name="{name}{headers}\r\n\r\n'.encode() + PNG + b"\r\n--b--\r\n"
    found = body_of(cut(body, 7), "multipart/form-data; boundary=b")
    assert [image.source for image in (*found.images, *([found.mask] if found.mask else []))] == [PNG]


def test_bytes_without_a_file_name_that_are_no_image_are_not_called_bad_text():
    body = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n\x00\xfe\xff\r\n--b--\r\n'
    assert body_of([body], "multipart/form-data; boundary=b").images[0].source == b"\x00\xfe\xff"


@pytest.mark.parametrize("encoding", ["", "Content-Transfer-Encoding: base64\r\n"])
def test_base64_of_an_image_is_the_image(encoding: str):
    text = base64.encodebytes(PNG * 20).decode()
    body = f'--b\r\nContent-Disposition: form-data; name="image"\r\n{encoding}\r\n{text}\r\n--b--\r\n'.encode()
    assert body_of([body], "multipart/form-data; boundary=b").images[0].source == PNG * 20


@pytest.mark.parametrize(
    "preamble", [b"\r\n", b"This is a multipart message.\r\n", b"a --b c\r\n--bear\r\n\r\n", b"x\n"]
)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_text_before_the_first_boundary_is_passed_over(preamble: bytes, size: int):
    body = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\npaint it\r\n--b--\r\n'
    assert body_of(cut(preamble + body, size), "multipart/form-data; boundary=b").values == {"prompt": "paint it"}


def test_text_before_the_first_boundary_has_an_end():
    with pytest.raises(InvalidRequest, match="boundary"):
        body_of([bytes(10_000)] * 100, "multipart/form-data; boundary=b")


def test_a_boundary_may_be_quoted():
    quoted = f'multipart/form-data; boundary="{BOUNDARY.decode()}"'
    assert body_of([encoded([Part("prompt", None, b"x")])], quoted).values == {"prompt": "x"}


@pytest.mark.parametrize("content_type", [MULTIPART, "application/json"])
def test_a_body_above_the_limit_is_refused_whether_its_length_is_told_or_not(content_type: str):
    chunks = cut(encoded([Part("image", "a.png", bytes(10_000))]), 1000)
    for declared in (None, 10_000):
        with pytest.raises(ImageTooLarge) as raised:
            body_of(chunks, content_type, max_bytes=5000, declared=declared)
        assert raised.value.context["max_bytes"] == 5000


def test_a_body_that_says_it_is_too_large_is_not_held():
    """Only a glance is read of it: enough to see a buffer that was sent byte by byte."""
    buffer = encoded([Part(f"image[{i}]", None, b"137") for i in range(200)])
    with pytest.raises(InvalidType, match="toFile"):
        body_of(cut(buffer, 1000), MULTIPART, max_bytes=5000, declared=600_000_000)


def test_a_form_of_too_many_parts_is_refused():
    with pytest.raises(InvalidRequest, match=str(MAX_PARTS)):
        parts_of([encoded([Part("a", None, b"word") for _ in range(MAX_PARTS + 1)])])


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_other_media_types_are_refused(content_type: str):
    with pytest.raises(UnsupportedMediaType):
        body_of([b"x"], content_type)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/x+json"])
def test_json_is_read_under_each_of_its_names(content_type: str):
    assert body_of([b'{"prompt":', b'"x"}'], content_type).values == {"prompt": "x"}


def test_a_body_that_is_nested_too_deeply_to_be_recognised_again_is_refused():
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        Body({"prompt": "x", "unknown": nested}, (), None).digest()
