"""How results come in: through the guard, within limits, tried again, seen to be images; base64 without a long string."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.storage.objects import LocalBlobs
from retouch.upstreams.answers import LONG_BYTES, MAX_TEXT_BYTES, AnswerReader, Unreadable
from retouch.upstreams.downloads import Downloads
from retouch.upstreams.upstream import (
    Failed,
    Fault,
    FaultKind,
    Finished,
    RemoteImage,
    Reread,
    StoredResult,
)
from tests.upstreams.conftest import KINDS, World, make_world
from tests.upstreams.stubs.server import Closes, Reset, Says, StubProvider, jpeg, png


class FileServer(StubProvider):
    """Nothing but files."""

    def station(self, method: str, path: str) -> str:
        return "other"

    def answer(self, request: Any) -> Says:
        return Says(404)


@pytest.fixture
def server() -> Any:
    running = FileServer()
    running.files["a"] = png()
    yield running
    running.close()


Fetch = Callable[..., StoredResult | Fault]


@pytest.fixture
def fetch(server: FileServer, tmp_path: Path) -> Fetch:
    def fetched(path: str = "/results/a", reread: Reread | None = None, **limits: Any) -> StoredResult | Fault:
        address = server.url.removeprefix("http://")
        blobs = LocalBlobs(tmp_path, b"s" * 32)
        limits = {"allow_private": (address,), "pauses_s": (0, 0), **limits}
        image = RemoteImage(url=path if "://" in path else f"{server.url}{path}")
        return Downloads(blobs, **limits).collect(image, reread)

    return fetched


def kind_of(outcome: StoredResult | Fault) -> FaultKind:
    assert isinstance(outcome, Fault), outcome
    return outcome.kind


def test_an_image_is_fetched_and_stored(fetch: Fetch, server: FileServer) -> None:
    stored = fetch()
    assert isinstance(stored, StoredResult)
    assert (stored.media_type, stored.width, stored.height, stored.size_bytes) == ("image/png", 8, 6, len(png()))
    (download,) = server.seen
    assert {"authorization", "cookie", "referer"}.isdisjoint(download.headers)


def test_a_link_to_a_private_address_is_refused(fetch: Fetch, server: FileServer) -> None:
    outcome = fetch(allow_private=())
    assert kind_of(outcome) is FaultKind.LOST
    assert server.seen == []


def test_neither_does_a_redirect_lead_there(fetch: Fetch, server: FileServer) -> None:
    other = FileServer()
    server.script("download", Says(302, headers={"Location": f"{other.url}/results/a"}))
    assert kind_of(fetch()) is FaultKind.LOST
    assert other.seen == []
    other.close()


def test_an_upstreams_own_address_is_open_to_its_results_and_no_other_one_is(queue_world: World) -> None:
    other = FileServer()
    other.files["a"] = png()
    outcome = queue_world.upstream.collect(RemoteImage(url=f"{other.url}/results/a"))
    assert kind_of(outcome) is FaultKind.LOST
    assert other.seen == []
    other.close()


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://user:pw@127.0.0.1/a", "http://"])
def test_a_link_that_is_none_is_refused(fetch: Fetch, scheme: str) -> None:
    assert kind_of(fetch(scheme)) is FaultKind.LOST


def test_a_redirect_is_followed_within_limits(fetch: Fetch, server: FileServer) -> None:
    server.script("download", Says(302, headers={"Location": "/results/a"}))
    assert isinstance(fetch(), StoredResult)
    server.script("download", *[Says(302, headers={"Location": "/results/a"})] * 6)
    assert kind_of(fetch()) is FaultKind.LOST


@pytest.mark.parametrize("trouble", [Says(404), Says(403), Says(503), Closes(), Reset()])
def test_a_link_that_is_dead_for_a_while_is_tried_again(fetch: Fetch, server: FileServer, trouble: Any) -> None:
    server.script("download", trouble, trouble)
    assert isinstance(fetch(), StoredResult)
    assert len(server.seen) == 3


def test_a_link_that_stays_dead_is_given_up_after_three_tries(fetch: Fetch, server: FileServer) -> None:
    pauses = []
    outcome = fetch("/results/none", pauses_s=(1.5, 2.5), pause=pauses.append)
    assert kind_of(outcome) is FaultKind.LOST
    assert len(server.seen) == 3
    assert pauses == [1.5, 2.5]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


NO_IMAGES = {
    "html": b"<html><body>not found</body></html>",
    "cut png": png()[:-20],
    "cut in the head": png()[:20],
    "damaged png": png().replace(b"IDAT", b"IDAT", 1)[:50] + b"\0\0\0\0" + png()[54:],
    "nothing": b"",
    "bomb": bomb(),
    "cut jpeg": jpeg()[:-30],
    "cut webp": b"RIFF\xff\xff\0\0WEBPVP8X" + bytes(30),
    "cut gif": b"GIF89a" + bytes(20),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_what_is_no_image_is_read_again_and_then_told(fetch: Fetch, server: FileServer, data: bytes) -> None:
    server.files["a"] = data
    assert kind_of(fetch()) is FaultKind.BAD_IMAGE
    assert len(server.seen) == 3


def test_a_link_is_read_anew_before_each_further_try(fetch: Fetch, server: FileServer) -> None:
    fresh = RemoteImage(url=f"{server.url}/results/a")
    results = iter([None, fresh])
    assert isinstance(fetch("/results/none", lambda: next(results)), StoredResult)
    assert [seen.path for seen in server.seen] == ["/results/none", "/results/none", "/results/a"]


def test_a_bad_answer_and_then_a_good_one_is_a_result(fetch: Fetch, server: FileServer) -> None:
    server.script("download", Says(200, b"<html>"))
    assert isinstance(fetch(), StoredResult)


def test_the_bytes_say_the_format_and_not_the_name(fetch: Fetch, server: FileServer) -> None:
    server.files["a"] = jpeg()  # served as image/png
    stored = fetch()
    assert isinstance(stored, StoredResult)
    assert (stored.media_type, stored.width, stored.height) == ("image/jpeg", 8, 6)
    assert stored.blob.endswith(".jpg")


def test_more_bytes_than_allowed_are_not_read(fetch: Fetch, server: FileServer) -> None:
    server.files["a"] = png(900, 900) + bytes(300_000)
    assert kind_of(fetch(max_bytes=100_000)) is FaultKind.BAD_IMAGE
    assert len(server.seen) == 1


def test_a_compressed_answer_is_unpacked(fetch: Fetch, server: FileServer) -> None:
    import gzip

    server.script("download", Says(200, gzip.compress(png()), {"Content-Encoding": "gzip"}))
    stored = fetch()
    assert isinstance(stored, StoredResult)
    assert stored.size_bytes == len(png())


@pytest.mark.parametrize("name", ["openai", "lumenfall", "litellm"])
def test_links_and_base64_are_both_taken(name: str, tmp_path: Path) -> None:
    world = make_world(KINDS[name], tmp_path)
    stub: Any = world.stub
    for stub.streams, stub.links in ((True, False), (False, False), (False, True)):
        result = world.finished().result
        stored = world.upstream.collect(result.images[0])
        assert isinstance(stored, StoredResult)
        assert world.blobs.get(stored.blob).data == world.stub.image
    world.close()


def test_a_stream_that_ends_in_an_error_is_a_failure(tmp_path: Path) -> None:
    world = make_world(KINDS["openai"], tmp_path)
    error = {"type": "error", "error": {"message": "no", "code": "content_policy_violation", "type": "x"}}
    body = f": queued\n\nevent: error\ndata: {json.dumps(error)}\n\n".encode()
    world.stub.script("submit", Says(200, body, {"Content-Type": "text/event-stream"}))
    outcome = world.upstream.submit(world.call())
    assert isinstance(outcome, Failed)
    assert outcome.fault.kind is FaultKind.REFUSED
    world.close()


def test_a_relative_link_is_read_from_the_servers_own_address(tmp_path: Path) -> None:
    world = make_world(KINDS["litellm"], tmp_path)
    world.stub.files["a"] = png()
    world.stub.script("submit", Says.json(200, {"data": [{"url": "/results/a"}]}))
    assert isinstance(world.upstream.collect(world.finished().result.images[0]), StoredResult)
    world.close()


def test_a_bad_image_in_the_answer_is_reported(tmp_path: Path) -> None:
    world = make_world(KINDS["litellm"], tmp_path)
    for text in (base64.b64encode(b"<html>").decode(), "no base64!"):
        world.stub.script("submit", Says.json(200, {"data": [{"b64_json": text}]}))
        outcome = world.upstream.submit(world.call())
        assert isinstance(outcome, Failed)
        assert outcome.fault.kind is FaultKind.BAD_IMAGE
    world.close()


def test_a_verdict_of_the_provider_is_kept(tmp_path: Path) -> None:
    world = make_world(KINDS["fal"], tmp_path)
    outcome = world.run()
    assert isinstance(outcome, Finished)
    assert outcome.result.images[0].unsafe is False
    world.close()


def read(body: bytes, pieces: list[int], *, events: bool = False) -> Any:
    reader = AnswerReader(events=events)
    at = 0
    for size in pieces:
        reader.feed(body[at : at + size])
        at += size
    reader.feed(body[at:])
    return reader.end()


cuts = st.lists(st.integers(1, 70_000), max_size=6)


@given(pieces=cuts, count=st.integers(LONG_BYTES, 3 * LONG_BYTES), word=st.text(max_size=20), uri=st.booleans())
def test_a_long_image_is_decoded_however_the_answer_is_cut(pieces: list[int], count: int, word: str, uri: bool) -> None:
    data = (bytes(range(256)) * (count // 256 + 1))[:count]
    text = ("data:image/png;base64," if uri else "") + base64.b64encode(data).decode()
    answer = read(json.dumps({"a": word, "data": [{"b64_json": text}], "z": 1}).encode(), pieces)
    assert (answer.value["a"], answer.value["z"]) == (word, 1)
    file = answer.image(answer.value["data"][0]["b64_json"])
    assert file is not None
    assert file.read() == data
    answer.close()


@given(
    pieces=cuts,
    values=st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    ),
)
def test_an_answer_without_images_is_read_as_it_stands(pieces: list[int], values: Any) -> None:
    answer = read(json.dumps(values).encode(), pieces)
    assert answer.value == values
    answer.close()


@given(pieces=cuts, ends=st.sampled_from(["\n", "\r\n"]))
def test_events_are_read_however_they_are_cut(pieces: list[int], ends: str) -> None:
    image = base64.b64encode(bytes(100_000)).decode()
    lines = [
        ": a comment",
        "",
        "event: x",
        f'data: {{"b64_json": "{image}"}}',
        "",
        'data: {"n": 2}',
        "",
        "data: [DONE]",
        "",
    ]
    answer = read((ends.join(lines) + ends).encode(), pieces, events=True)
    assert answer.value[-1] == {"n": 2}
    file = answer.image(answer.value[0]["b64_json"])
    assert file is not None
    assert file.read() == bytes(100_000)
    answer.close()


def test_a_last_event_without_its_blank_line_counts() -> None:
    answer = read(b'data: {"n": 1}', [], events=True)
    assert answer.value == [{"n": 1}]
    answer.close()


def test_slashes_and_line_breaks_may_be_escaped() -> None:
    data = b"\xff\xef\xbe" * LONG_BYTES
    text = base64.b64encode(data).decode()
    escaped = text.replace("/", "\\/")[:200_000] + "\\n" + text.replace("/", "\\/")[200_000:]
    answer = read(f'{{"b": "{escaped}"}}'.encode(), [])
    file = answer.image(answer.value["b"])
    assert file is not None
    assert file.read() == data
    answer.close()


def test_a_long_text_that_is_no_base64_is_no_image() -> None:
    answer = read(json.dumps({"b": "é words " * LONG_BYTES}).encode(), [])
    assert answer.image(answer.value["b"]) is None
    answer.close()


def test_an_answer_of_endless_text_is_not_read_to_its_end() -> None:
    reader = AnswerReader()
    reader.feed(b"1," * (MAX_TEXT_BYTES // 2))
    with pytest.raises(Unreadable):
        reader.feed(b"1,")
    reader.broken().close()
