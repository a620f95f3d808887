"""Bodies on the wire, byte for byte (`--golden` writes them again), and what they are made of."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.errors import UnknownFile
from retouch.storage.objects import LocalBlobs
from retouch.upstreams.inputs import PART_BYTES, BlobBody, Body, FilePart, FormBody, Inline, JsonBody, StoredImage
from retouch.upstreams.upstream import Failed, FaultKind, ImageMode
from tests.upstreams.conftest import World
from tests.upstreams.stubs.server import Closes, Says, Seen

GOLDEN = Path(__file__).parents[1] / "golden" / "wire" / "upstreams"

PIXELS = tuple(
    base64.b64decode(text)
    for text in (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==",
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q==",
        "R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=",
    )
)
"""A PNG, a JPEG without a scan and a GIF: three formats, and three remainders of base64."""

_TIMED = ("x-fal-request-timeout", "cancel-after")


def written(seen: Seen) -> dict[str, object]:
    """What a golden file keeps of a request: all but the host, the key and the boundary, which differ by run."""
    boundary = re.search(r"boundary=(\w+)", seen.headers["content-type"])
    names = [name for name in seen.headers if name.startswith(("x-", "content-", "idempotency", *_TIMED))]
    body = seen.body.decode("latin-1")
    headers = json.dumps({name: seen.headers[name] for name in sorted(names)})
    if boundary is not None:
        body, headers = body.replace(boundary[1], "BOUNDARY"), headers.replace(boundary[1], "BOUNDARY")
    return {"method": seen.method, "path": seen.path, "query": seen.query, "headers": json.loads(headers), "body": body}


@pytest.mark.parametrize("form", ["one", "two", "three", "links"])
def test_what_goes_out_is_what_the_golden_file_says(world: World, form: str, golden: bool) -> None:
    count = {"one": 1, "two": 2, "three": 3, "links": 2}[form]
    images = [world.store(data) for data in PIXELS[:count]]
    hook = "https://edit.example.com/webhooks/1"
    call = world.call(*images, links=form == "links", webhook=hook, seconds=3600, attempt="attempt-1")
    mode = ImageMode.AUTO if form == "links" else ImageMode.INLINE
    world.run(call, world.open(images=mode, ttl_s=600, execution_s=300))
    sent = written(world.stub.at("submit")[0])
    file = GOLDEN / f"{world.kind.name.replace(' ', '-')}-{form}.json"
    if golden:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(sent, indent=2) + "\n")
    assert sent == json.loads(file.read_text())


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> LocalBlobs:
    return LocalBlobs(tmp_path_factory.mktemp("blobs"), b"s" * 32)


def whole(body: Body) -> bytes:
    chunks = list(body.chunks())
    assert sum(map(len, chunks)) == body.length
    assert max(map(len, chunks)) < 4 * PART_BYTES
    return b"".join(chunks)


sizes = st.one_of(st.integers(0, 20), st.sampled_from([PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 2]))


@given(counts=st.lists(sizes, max_size=3), prompt=st.text(max_size=50), data_uri=st.booleans())
def test_a_json_body_is_the_document_with_its_images(
    blobs: LocalBlobs, counts: list[int], prompt: str, data_uri: bool
) -> None:
    data = [bytes([number % 251]) * number for number in counts]
    images = [StoredImage(blobs.put(part, "image/png", folder="uploads"), "image/png", len(part)) for part in data]
    body = JsonBody({"prompt": prompt, "images": [Inline(image, data_uri) for image in images]}, blobs)
    prefix = "data:image/png;base64," if data_uri else ""
    wanted = {"prompt": prompt, "images": [prefix + base64.b64encode(part).decode() for part in data]}
    assert json.loads(whole(body)) == wanted


@given(count=sizes, text=st.text(max_size=50))
def test_a_form_is_its_fields_and_files(blobs: LocalBlobs, count: int, text: str) -> None:
    data = b"x" * count
    image = StoredImage(blobs.put(data, "image/png", folder="uploads"), "image/png", count)
    fields = {"prompt": text, "n": 2, "stream": True, "none": None}
    sent = whole(FormBody(fields, [FilePart("image", image, "a.png")], blobs, boundary="B"))
    parts = sent.split(b"--B\r\n")
    heads = [part.partition(b"\r\n\r\n")[0] for part in parts[1:]]
    assert [re.findall(rb'name="(\w+)"', head)[0] for head in heads] == [b"prompt", b"n", b"stream", b"image"]
    assert parts[1] == f'Content-Disposition: form-data; name="prompt"\r\n\r\n{text}\r\n'.encode()
    assert parts[3].endswith(b"\r\n\r\ntrue\r\n")
    assert parts[4].endswith(b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--B--\r\n")


def test_a_file_name_cannot_break_out_of_its_header(blobs: LocalBlobs) -> None:
    image = StoredImage(blobs.put(b"x", "image/png", folder="uploads"), "image/png", 1)
    sent = whole(FormBody({'a"\r\nb': "c"}, [FilePart("f", image, 'x"\r\nEvil: 1.png')], blobs))
    assert b"\r\nEvil" not in sent
    assert b'name="a%22%0D%0Ab"' in sent


def test_the_bytes_of_an_image_say_its_type_and_not_its_name(blobs: LocalBlobs) -> None:
    key = blobs.put(PIXELS[1], "image/png", folder="uploads")
    image = StoredImage.of(blobs, key)
    assert (image.media_type, image.suffix, image.size) == ("image/jpeg", "jpg", len(PIXELS[1]))
    assert whole(BlobBody(image, blobs)) == PIXELS[1]


def test_an_image_that_is_gone_is_our_own_failure_and_nothing_is_sent(world: World) -> None:
    image = world.store()
    world.blobs.delete(str(image.blob))
    with pytest.raises(UnknownFile):
        world.open(images=ImageMode.INLINE).submit(world.call(image))
    assert world.stub.at("submit") == []


def test_links_are_preferred_then_an_upload_then_the_image_itself(queue_world: World) -> None:
    queue_world.upstream.submit(queue_world.call(links=True))
    assert b"https://edit.example.com/files/images[0]" in queue_world.stub.at("submit")[-1].body
    assert queue_world.stub.at("upload") == []
    queue_world.upstream.submit(queue_world.call())
    inline = b"data:image/png;base64," in queue_world.stub.at("submit")[-1].body
    assert inline == (queue_world.stub.at("upload") == [])
    assert inline == (queue_world.kind.name in ("runpod", "retouch"))
    queue_world.open(images=ImageMode.INLINE).submit(queue_world.call(links=True))
    assert b"data:image/png;base64," in queue_world.stub.at("submit")[-1].body


def test_an_upstream_of_links_only_says_what_is_missing(queue_world: World) -> None:
    outcome = queue_world.open(images=ImageMode.LINK).submit(queue_world.call())
    assert isinstance(outcome, Failed)
    assert outcome.fault.kind is FaultKind.INVALID
    assert "public_url" in outcome.fault.message
    assert queue_world.stub.seen == []


def test_a_failed_upload_is_no_submit(queue_world: World) -> None:
    for behaviour in (Closes(), Says(503, b"<html>"), Says(413)):
        queue_world.stub.script("upload", behaviour)
        outcome = queue_world.open(images=ImageMode.UPLOAD).submit(queue_world.call())
        if queue_world.kind.name == "runpod":
            return
        assert isinstance(outcome, Failed)
        assert outcome.fault.kind is not FaultKind.NO_ANSWER
        assert outcome.fault.charged is False
    assert queue_world.stub.at("submit") == []


def test_an_image_of_several_submits_is_uploaded_once(queue_world: World) -> None:
    upstream, image = queue_world.open(images=ImageMode.UPLOAD), queue_world.store()
    for _ in range(3):
        upstream.submit(queue_world.call(image))
    steps = {"runpod": 0, "replicate": 1}.get(queue_world.kind.name, 2)
    assert len(queue_world.stub.at("upload")) == steps
