"""Our own faces as upstreams, and another Retouch: a live server, with the same faults on the way to it as before a stub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from retouch.upstreams.upstream import (
    Accepted,
    Failed,
    FaultKind,
    Finished,
    ImageMode,
    Pending,
    PollOutcome,
    StoredResult,
    SubmitOutcome,
    Ticket,
    Unreadable,
)
from tests.live_server import LiveServer, live_server
from tests.upstreams.conftest import KINDS, SEED, World, make_world
from tests.upstreams.stubs.live import LiveStub
from tests.upstreams.stubs.server import Closes, Cut, Reset, Says, jpeg, png
from tests.waiting import until
from tests.webhook_receiver import webhook_receiver

K = FaultKind

FACES = {"fal": "/fal/queue", "retouch": "", "runpod": "/v2", "litellm": "/v1"}
MODELS = {"runpod": "qwen-image-edit", "litellm": "qwen-image-edit-plus"}
QUEUES = ("fal", "retouch", "runpod")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    opened = ("--allow-private", "127.0.0.1")
    with live_server(tmp_path_factory.mktemp("peer"), key=True, arguments=opened) as running:
        yield running


def face(name: str, server: LiveServer, folder: Path) -> World:
    kind = KINDS[name]
    parameters = {**kind.parameters, "seed": SEED}
    if name == "runpod":
        parameters.pop("size")
    kind = replace(
        kind,
        stub=partial(LiveStub, server, FACES[name]),
        endpoint=MODELS.get(name, kind.endpoint),
        parameters=parameters,
    )
    return make_world(kind, folder, key=server.key or "")


@pytest.fixture(params=FACES)
def world(request: pytest.FixtureRequest, server: LiveServer, tmp_path: Path) -> Iterator[World]:
    made = face(request.param, server, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=QUEUES)
def queue(request: pytest.FixtureRequest, server: LiveServer, tmp_path: Path) -> Iterator[World]:
    made = face(request.param, server, tmp_path)
    yield made
    made.close()


def ended(world: World, outcome: SubmitOutcome) -> PollOutcome:
    if not isinstance(outcome, Accepted):
        assert not isinstance(outcome, Accepted)
        return outcome
    last: list[PollOutcome] = []

    def over() -> bool:
        last.append(world.upstream.poll(outcome.ticket))
        return not isinstance(last[-1], Pending | Unreadable)

    until(over, otherwise=lambda: str(last[-1]))
    return last[-1]


def kind_of(outcome: SubmitOutcome | PollOutcome) -> FaultKind:
    assert isinstance(outcome, Failed), outcome
    return outcome.fault.kind


@pytest.mark.parametrize("mode", [ImageMode.AUTO, ImageMode.INLINE])
def test_an_edit_is_made_by_a_live_server(world: World, mode: ImageMode) -> None:
    upstream = world.open(images=mode)
    outcome = ended(world, upstream.submit(world.call(world.store(png(64, 48)))))
    assert isinstance(outcome, Finished), outcome
    assert outcome.result.seed in (SEED, None)
    stored = upstream.collect(outcome.result.images[0])
    assert isinstance(stored, StoredResult), stored
    assert stored.media_type == "image/png"
    assert stored.width > 0


def test_three_images_of_several_formats_arrive_where_they_may(world: World) -> None:
    images = [world.store(png(64, 48)), world.store(jpeg(64, 48)), world.store(png(32, 32))]
    outcome = ended(world, world.upstream.submit(world.call(*images)))
    assert isinstance(outcome, Finished), outcome


def test_a_wrong_key_and_an_unknown_model_are_distinguished(world: World) -> None:
    call = world.call()
    assert kind_of(world.open(key=lambda scheme: f"{scheme} wrong").submit(call)) is K.AUTHENTICATION
    elsewhere = replace(call, normalised=replace(call.normalised, endpoint="fal-ai/no-such-model"))
    assert kind_of(world.upstream.submit(elsewhere)) is K.UNKNOWN_MODEL


def test_a_bad_parameter_and_a_bad_image_are_the_callers(world: World) -> None:
    assert kind_of(ended(world, world.upstream.submit(world.call(output_format="nonsense")))) is K.INVALID
    broken = world.open(images=ImageMode.INLINE).submit(world.call(world.store(png()[:30])))
    assert kind_of(ended(world, broken)) is K.INVALID


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_reset_on_the_way_is_never_an_unknown_outcome(world: World, part: float) -> None:
    world.stub.script("submit", Reset(at=part))
    upstream = world.open(images=ImageMode.INLINE)
    assert kind_of(upstream.submit(world.call(world.store(png() + bytes(6_500_000))))) is K.INTERRUPTED


def test_an_answer_that_is_lost_leaves_the_outcome_unknown_and_one_job(world: World) -> None:
    for end, meaning in ((Closes(), K.NO_ANSWER), (Cut(), K.MALFORMED), (Says(200, b"<html>"), K.MALFORMED)):
        world.stub.script("submit", end)
        assert kind_of(world.upstream.submit(world.call())) is meaning
    assert len(world.stub.at("submit")) == 3


@pytest.mark.parametrize("answer", [Says(502, b"<html>"), Says(200, b"{"), Closes(), Cut()])
def test_a_poll_that_tells_nothing_ends_nothing(queue: World, answer: Says | Closes | Cut) -> None:
    outcome = queue.upstream.submit(queue.call())
    assert isinstance(outcome, Accepted)
    queue.stub.script("poll", answer)
    assert isinstance(queue.upstream.poll(outcome.ticket), Unreadable)
    assert isinstance(ended(queue, outcome), Finished)


def test_a_job_is_cancelled_or_has_ended(queue: World) -> None:
    outcome = queue.upstream.submit(queue.call())
    assert isinstance(outcome, Accepted)
    cancelled = queue.upstream.cancel(outcome.ticket)
    end = ended(queue, outcome)
    assert isinstance(end, Finished) or kind_of(end) is K.CANCELLED
    assert cancelled or isinstance(end, Finished)


def test_a_job_that_never_was_is_not_known(queue: World) -> None:
    outcome = queue.upstream.submit(queue.call())
    assert isinstance(outcome, Accepted)
    other = {name: path.replace(outcome.ticket.id, "no-such-job") for name, path in outcome.ticket.urls.items()}
    assert kind_of(queue.upstream.poll(Ticket("no-such-job", other))) is K.UNKNOWN_JOB


def test_a_submit_repeated_to_another_retouch_is_the_same_job(server: LiveServer, tmp_path: Path) -> None:
    world = face("retouch", server, tmp_path)
    image = world.store(png(64, 48))
    world.stub.script("submit", Closes())
    upstream = world.open(images=ImageMode.INLINE)
    call = world.call(image, attempt="attempt-of-this-test")
    assert kind_of(upstream.submit(call)) is K.NO_ANSWER
    repeated, again = upstream.submit(call), upstream.submit(call)
    assert isinstance(repeated, Accepted)
    assert repeated == again
    assert upstream.traits.idempotent
    assert upstream.find(call, datetime.now(UTC)) is not None
    world.close()


@pytest.mark.parametrize("name", ["fal", "retouch"])
def test_a_lost_submit_is_found_in_its_history(name: str, server: LiveServer, tmp_path: Path) -> None:
    world = face(name, server, tmp_path)
    upstream = world.open(images=ImageMode.INLINE)
    for seed in (77_001, 77_002, 77_003):
        upstream.submit(replace(world.call(attempt=f"{name}-{seed}"), seed=seed))
    world.stub.script("submit", Closes())
    lost = replace(world.call(attempt=f"{name}-lost"), seed=77_004)
    assert kind_of(upstream.submit(lost)) is K.NO_ANSWER
    found = upstream.find(lost, datetime.now(UTC))
    assert found is not None
    assert isinstance(ended(world, Accepted(found)), Finished)
    assert upstream.find(replace(lost, seed=77_005), datetime.now(UTC)) is None
    world.close()


@pytest.mark.parametrize("name", QUEUES)
def test_the_webhook_of_a_live_server_is_believed(name: str, server: LiveServer, tmp_path: Path) -> None:
    world = face(name, server, tmp_path)
    with webhook_receiver() as receiver:
        outcome = world.upstream.submit(world.call(webhook=f"http://{receiver.address}/attempts/1"))
        assert isinstance(outcome, Accepted), outcome
        came = receiver.next()
    verified = world.upstream.verify_webhook(world.kind.endpoint, came.headers, came.body)
    assert verified is not None
    assert verified.id == outcome.ticket.id
    assert isinstance(ended(world, Accepted(verified)), Finished)
    if name != "runpod":
        assert world.upstream.verify_webhook(world.kind.endpoint, came.headers, came.body + b" ") is None
    world.close()


def test_a_submit_whose_links_were_signed_anew_is_still_the_same_job(server: LiveServer, tmp_path: Path) -> None:
    world = face("retouch", server, tmp_path)
    upstream = world.open(images=ImageMode.UPLOAD)
    call = replace(world.call(), seed=88_001)
    taken = upstream.submit(call)
    later = world.open(images=ImageMode.UPLOAD).submit(call)
    assert isinstance(taken, Accepted)
    assert isinstance(later, Accepted)
    assert taken.ticket.id == later.ticket.id
    world.close()
