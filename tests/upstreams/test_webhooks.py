"""Webhooks of providers: genuine ones name their job, forged, stale and foreign ones nothing. They are only a hint to poll."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retouch.upstreams.upstream import Accepted, Finished, Ticket
from tests.upstreams.conftest import KINDS, World, make_world
from tests.upstreams.stubs.server import Says, StubJob

SIGNED = ("fal", "replicate", "retouch")


@pytest.fixture(params=SIGNED)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = make_world(KINDS[request.param], tmp_path)
    yield made
    made.close()


def job_of(world: World) -> tuple[Ticket, StubJob]:
    outcome = world.upstream.submit(world.call(webhook="https://edit.example.com/webhooks/attempt-1"))
    assert isinstance(outcome, Accepted)
    return outcome.ticket, world.stub.jobs[outcome.ticket.id]


def sent(world: World, job: StubJob, **options: Any) -> tuple[dict[str, str], bytes]:
    stub: Any = world.stub
    return stub.webhook(job, **options)


def test_the_address_goes_with_the_submit(queue_world: World) -> None:
    address = "https://edit.example.com/webhooks/attempt-1"
    queue_world.upstream.submit(queue_world.call(webhook=address))
    (job,) = queue_world.stub.jobs.values()
    assert (job.webhook == address) == queue_world.upstream.traits.webhooks


def test_a_genuine_webhook_names_its_job(world: World) -> None:
    ticket, job = job_of(world)
    headers, body = sent(world, job)
    named = world.upstream.verify_webhook(world.kind.endpoint, headers, body)
    assert named is not None
    assert named.id == ticket.id
    assert isinstance(world.end(named), Finished)


def test_it_may_come_twice_and_after_the_keys_were_read(world: World) -> None:
    _, job = job_of(world)
    for _ in range(2):
        assert world.upstream.verify_webhook(world.kind.endpoint, *sent(world, job)) is not None
    assert len(world.stub.at("keys")) == 1


def test_header_names_may_be_written_in_any_case(world: World) -> None:
    _, job = job_of(world)
    headers, body = sent(world, job)
    headers = {name.upper(): value for name, value in headers.items()}
    assert world.upstream.verify_webhook(world.kind.endpoint, headers, body) is not None


def test_a_changed_body_a_stale_time_and_a_bad_signature_are_refused(world: World) -> None:
    _, job = job_of(world)
    headers, body = sent(world, job)
    upstream, endpoint = world.upstream, world.kind.endpoint
    assert upstream.verify_webhook(endpoint, headers, body + b" ") is None
    assert upstream.verify_webhook(endpoint, *sent(world, job, age_s=400)) is None
    assert upstream.verify_webhook(endpoint, *sent(world, job, age_s=-400)) is None
    for name in headers:
        for forged in ("zz", "9" * 400, "é", "v1,é"):
            assert upstream.verify_webhook(endpoint, {**headers, name: forged}, body) is None
        assert upstream.verify_webhook(endpoint, {k: v for k, v in headers.items() if k != name}, body) is None
    assert upstream.verify_webhook(endpoint, {}, b"") is None


def test_forgeries_are_no_stream_of_requests_for_keys(world: World) -> None:
    _, job = job_of(world)
    headers, body = sent(world, job)
    for number in range(5):
        world.upstream.verify_webhook(world.kind.endpoint, headers, body + b" " * (number + 1))
    assert len(world.stub.at("keys")) <= 2


def test_without_the_providers_keys_nothing_is_believed(world: World) -> None:
    _, job = job_of(world)
    world.stub.script("keys", Says(500), Says(500))
    assert world.upstream.verify_webhook(world.kind.endpoint, *sent(world, job)) is None


def test_a_kind_that_does_not_sign_gives_the_job_that_is_claimed(tmp_path: Path) -> None:
    world = make_world(KINDS["runpod"], tmp_path)
    ticket, _ = job_of(world)
    notification = f'{{"id": "{ticket.id}", "status": "COMPLETED"}}'.encode()
    assert world.upstream.verify_webhook(world.kind.endpoint, {}, notification) == ticket
    for body in (b"", b"[]", b"{}", b'{"id": 5}', b'{"id": "../../x"}'):
        assert world.upstream.verify_webhook(world.kind.endpoint, {}, body) is None
    world.close()
