"""What every kind of upstream does with a submit: what goes out, and what is known when the answer does not come."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from retouch.errors import StorageUnavailable
from retouch.server.certificates import LOCAL_NAMES, TlsFiles, ensure
from retouch.storage.objects import LocalBlobs
from retouch.upstreams.inputs import PART_BYTES
from retouch.upstreams.transport import ANSWER_S
from retouch.upstreams.upstream import Accepted, Failed, FaultKind, Finished, ImageMode, SubmitOutcome
from tests.live_server import free_port
from tests.upstreams.conftest import KEY, World
from tests.upstreams.stubs.server import Closes, Cut, Reset, Says, Silence, png
from tests.waiting import until

LARGE = 13 * 512 * 1024
"""Bytes of an image that no socket's buffer swallows whole."""


def large_image() -> bytes:
    return png() + bytes(LARGE)


def kind_of(outcome: SubmitOutcome) -> FaultKind:
    assert isinstance(outcome, Failed), outcome
    return outcome.fault.kind


def test_an_edit_is_made_and_stored(world: World) -> None:
    finished = world.finished()
    stored = world.upstream.collect(finished.result.images[0])
    assert (stored.width, stored.height, stored.media_type) == (8, 6, "image/png")  # type: ignore[union-attr]
    assert world.blobs.get(stored.blob).data == world.stub.image  # type: ignore[union-attr]
    assert len(world.stub.bill) == 1


def test_a_submit_carries_the_key_the_exact_length_and_none_of_our_callers_headers(world: World) -> None:
    world.finished()
    (submit,) = world.stub.at("submit")
    assert submit.headers["authorization"] == f"{world.kind.scheme} {KEY}"
    assert int(submit.headers["content-length"]) == len(submit.body)
    assert "transfer-encoding" not in submit.headers
    usual = {"host", "user-agent", "accept", "accept-encoding", "connection", "content-type", "content-length"}
    protocol = ("x-fal-", "x-app-fal-", "x-dashscope-", "cancel-after", "idempotency-key")
    others = {name for name in submit.headers if not name.startswith(protocol)}
    assert others == usual | {"authorization"}


def test_polls_carry_the_key_and_downloads_do_not(queue_world: World) -> None:
    finished = queue_world.finished()
    queue_world.upstream.collect(finished.result.images[0])
    assert all(KEY in seen.headers["authorization"] for seen in queue_world.stub.at("poll"))
    (download,) = queue_world.stub.at("download")
    assert "authorization" not in download.headers
    assert "cookie" not in download.headers


def test_connections_are_kept(queue_world: World) -> None:
    queue_world.finished()
    queue_world.finished()
    until(lambda: len(queue_world.stub._open) <= 2)  # the stub notices a moment later that one was closed


def test_a_refused_connection_sends_nothing(world: World) -> None:
    upstream = world.open(base_url=f"http://127.0.0.1:{free_port()}/queue")
    assert kind_of(upstream.submit(world.call())) is FaultKind.UNREACHABLE
    assert world.stub.seen == []


def test_an_unknown_name_is_unreachable(world: World) -> None:
    upstream = world.open(base_url="http://no-such-host.invalid/queue")
    assert kind_of(upstream.submit(world.call())) is FaultKind.UNREACHABLE


def test_a_certificate_without_a_known_authority_is_distinguished(world: World, tmp_path: Path) -> None:
    files = ensure(TlsFiles.of(tmp_path), LOCAL_NAMES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server)
    world.stub.tls = context
    address = world.options.base_url or ""
    encrypted = address.replace("http://", "https://")
    assert kind_of(world.open(base_url=encrypted).submit(world.call())) is FaultKind.TLS
    assert world.stub.seen == []
    context = ssl.create_default_context(cafile=files.authority)
    trusting = world.open(base_url=encrypted, trust=context, images=ImageMode.INLINE)
    assert isinstance(trusting.submit(world.call()), Accepted | Finished)


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_reset_in_the_middle_of_the_upload_is_never_an_unknown_outcome(world: World, part: float) -> None:
    world.stub.script("submit", Reset(at=part))
    call = world.call(world.store(large_image()))
    upstream = world.open(images=ImageMode.INLINE)
    assert kind_of(upstream.submit(call)) is FaultKind.INTERRUPTED
    assert world.stub.jobs == {}


def test_an_early_413_is_seen_as_one(world: World) -> None:
    world.stub.script("submit", Says.json(413, {"error": {"message": "too large"}, "detail": "too large"}))
    world.stub._scripts["submit"][0] = replace(world.stub._scripts["submit"][0], early_at=0.1)  # type: ignore[type-var]
    outcome = world.open(images=ImageMode.INLINE).submit(world.call(world.store(large_image())))
    assert isinstance(outcome, Failed)
    assert (outcome.fault.kind, outcome.fault.status) == (FaultKind.INVALID, 413)


@pytest.mark.parametrize("end", [Reset(), Closes(), Closes(works=False)], ids=["reset", "closed", "closed unread"])
def test_a_connection_that_ends_after_the_last_byte_leaves_the_outcome_unknown(
    world: World, end: Closes | Reset
) -> None:
    world.stub.script("submit", end)
    assert kind_of(world.upstream.submit(world.call())) is FaultKind.NO_ANSWER
    assert len(world.stub.at("submit")) == 1


def test_silence_after_the_last_byte_leaves_the_outcome_unknown(world: World) -> None:
    world.stub.script("submit", Silence())
    outcomes = []
    upstream = world.upstream
    thread = threading.Thread(target=lambda: outcomes.append(upstream.submit(world.call(attempt="silent"))))
    thread.start()
    until(lambda: len(world.stub.at("submit")) == 1)
    until(lambda: upstream.abandon("silent"))
    thread.join(10)
    assert kind_of(outcomes[0]) is FaultKind.NO_ANSWER


def test_a_silent_queue_is_waited_for_no_longer_than_the_edit_has(queue_world: World) -> None:
    queue_world.stub.script("submit", Silence())
    began = time.monotonic()
    assert kind_of(queue_world.upstream.submit(queue_world.call(seconds=1))) is FaultKind.NO_ANSWER
    assert time.monotonic() - began < ANSWER_S / 2, "what is usual is far longer"


def test_nothing_is_abandoned_that_is_not_under_way(world: World) -> None:
    assert not world.upstream.abandon("attempt-1")
    world.finished(world.call(attempt="attempt-1"))
    assert not world.upstream.abandon("attempt-1")


@pytest.mark.parametrize("answer", [Cut(), Says(200, b"{"), Says(200, b"<html>"), Says(200, b"{}"), Says(200, b"[]")])
def test_a_success_that_cannot_be_read_is_malformed(world: World, answer: Cut | Says) -> None:
    world.stub.script("submit", answer)
    assert kind_of(world.upstream.submit(world.call())) is FaultKind.MALFORMED


class FailingBlobs(LocalBlobs):
    """A store that goes away while a blob is read."""

    fails = True

    def read_parts(self, key: str, part_bytes: int) -> Iterator[bytes]:
        parts = super().read_parts(key, part_bytes)
        yield next(parts)
        if self.fails and part_bytes == PART_BYTES:
            raise StorageUnavailable("The store of images cannot be read right now.")
        yield from parts


def test_our_own_store_failing_in_the_middle_sends_no_whole_request(world: World) -> None:
    blobs = FailingBlobs(world.folder, b"s" * 32)
    upstream = world.open(blobs=blobs, images=ImageMode.INLINE)
    call = world.call(world.store(large_image()))
    with pytest.raises(StorageUnavailable):
        upstream.submit(call)
    assert world.stub.jobs == {}
    blobs.fails = False
    assert isinstance(upstream.submit(call), Accepted | Finished)


def test_a_redirect_is_not_followed(world: World) -> None:
    other = world.kind.stub()
    world.stub.script("submit", Says(307, headers={"Location": f"{other.base_url}/elsewhere"}))
    assert kind_of(world.upstream.submit(world.call())) is FaultKind.UNKNOWN_MODEL
    assert other.seen == []
    other.close()


def test_a_connection_closed_while_idle_is_replaced(world: World) -> None:
    assert isinstance(world.upstream.submit(world.call()), Accepted | Finished)
    for connection in list(world.stub._open):
        connection.shutdown(socket.SHUT_RDWR)
    assert isinstance(world.upstream.submit(world.call()), Accepted | Finished)


def test_the_provider_echoing_our_key_and_our_image_is_not_repeated(world: World) -> None:
    words = f"bad key {KEY} for data:image/png;base64,{'QUJD' * 200} sent"
    world.stub.script("submit", Says.json(400, {"error": {"message": words}, "detail": words, "message": words}))
    outcome = world.upstream.submit(world.call())
    assert isinstance(outcome, Failed)
    assert KEY not in outcome.fault.message
    assert "QUJD" not in outcome.fault.message
    assert len(outcome.fault.message) <= 300
