"""Data URIs: what can be meant in one way is read, everything else is refused; never other bytes."""

from __future__ import annotations

import base64
import contextlib
import random
import textwrap
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retouch.errors import InvalidImage
from retouch.images.decoding import decode_data_uri, is_data_uri

HEAD = "data:image/png;base64,"
WITH_PLUS = bytes([0xFB, 0xEF, 0xBE]) * 5 + b"ab"
"""Base64 of it is `++++…YWI=`."""


def decode(payload: str, head: str = HEAD) -> bytes:
    return decode_data_uri(head + payload, field="image_url")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


WAYS: dict[str, Callable[[bytes], str]] = {
    "plain": encoded,
    "unpadded": lambda data: encoded(data).rstrip("="),
    "percent-escaped": lambda data: quote(encoded(data), safe=""),
    "percent-escaped and unpadded": lambda data: quote(encoded(data).rstrip("="), safe=""),
    "url-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "url-safe and unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "line breaks": lambda data: base64.encodebytes(data).decode(),
    "indented lines": lambda data: textwrap.indent(base64.encodebytes(data).decode(), "    "),
    "carriage returns": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "escaped line breaks": lambda data: base64.encodebytes(data).decode().replace("\n", "%0A"),
}


@pytest.mark.parametrize("way", WAYS)
@given(data=st.binary(min_size=1, max_size=300))
@example(data=WITH_PLUS)
def test_every_usual_spelling_gives_the_same_bytes(way: str, data: bytes) -> None:
    assert decode(WAYS[way](data)) == data


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:image/PNG;BASE64,", "data:;base64,", "data:a/b;x=y;base64,"]
)
def test_the_type_before_the_comma_does_not_matter(head: str) -> None:
    assert is_data_uri(head)
    assert decode("AAEC", head) == bytes([0, 1, 2])


@given(seed=st.integers(0, 10**6), size=st.integers(1500, 3000))
def test_a_plus_that_a_form_has_turned_into_a_blank_is_repaired(seed: int, size: int) -> None:
    data = b"\x89PNG" + random.Random(seed).randbytes(size)
    assert decode(encoded(data).replace("+", " ")) == data


@given(data=st.binary(min_size=1, max_size=400), padded=st.booleans(), broken=st.booleans())
@example(data=bytes([0xFB, 0xEF, 0xBE]), padded=True, broken=False)
@example(data=WITH_PLUS, padded=False, broken=True)
def test_blanks_for_plus_are_never_another_image(data: bytes, padded: bool, broken: bool) -> None:
    text = base64.encodebytes(data).decode() if broken else encoded(data)
    # As every image format's base64 begins: with a letter, a digit or a slash.
    text = "iVBO" + (text if padded else text.replace("=", ""))
    data = base64.b64decode("iVBO") + data
    with contextlib.suppress(InvalidImage):
        assert decode(text.replace("+", " ")) == data


@given(data=st.binary(min_size=1, max_size=400), padded=st.booleans(), width=st.integers(4, 80))
@example(data=bytes(300), padded=False, width=8)
def test_blanks_of_folded_lines_are_never_another_image(data: bytes, padded: bool, width: int) -> None:
    text = encoded(data) if padded else encoded(data).rstrip("=")
    with contextlib.suppress(InvalidImage):
        assert decode(" ".join(textwrap.wrap(text, width))) == data


@given(data=st.binary(min_size=1, max_size=400).filter(lambda data: "+" in encoded(data)))
def test_blanks_beside_a_plus_are_layout(data: bytes) -> None:
    assert decode(" ".join(textwrap.wrap(encoded(data), 60))) == data


@given(st.text(max_size=60))
def test_whatever_stands_there_the_answer_is_bytes_or_a_refusal(text: str) -> None:
    with contextlib.suppress(InvalidImage):
        assert isinstance(decode(text), bytes)


@pytest.mark.parametrize(
    "payload",
    ["%%%", "A", "AAAAA", "AAA=A", "QUJD=", "QQ==QQ==", "AAAA*AAA", "AAAÄ", "A\x00AA", "AAAA,AAA"],
)
def test_what_is_no_base64_is_refused_by_the_name_of_its_field(payload: str) -> None:
    with pytest.raises(InvalidImage) as refused:
        decode(payload)
    assert refused.value.field == "image_url"


@pytest.mark.parametrize("text", ["data:image/png,AAAA", "data:image/png;base64", "data:image/svg+xml;utf8,<svg/>"])
def test_only_base64_is_read(text: str) -> None:
    with pytest.raises(InvalidImage, match="must be base64"):
        decode_data_uri(text, field="image_url")
