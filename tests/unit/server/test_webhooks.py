"""The sender of webhooks: when it tries, when it stops, where it will not go."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from retouch.accounts import signing
from retouch.accounts.secrets import server_secret_named
from retouch.accounts.signing import Signer
from retouch.accounts.tokens import Tokens
from retouch.edit import Delivery, EditRequest, ImageInput
from retouch.errors import Failure
from retouch.jobs import outbox
from retouch.server.webhooks import Webhooks
from tests.harness import ANNE, OUTPUT, USAGE, Deployment, HandClock
from tests.webhook_receiver import Delivery as Delivered
from tests.webhook_receiver import Receiver, webhook_receiver


class Sending(Deployment):
    """With a sender of webhooks that has the same clock."""

    def __init__(self, folder: Path, clock: HandClock | None = None) -> None:
        super().__init__(folder, clock=clock or HandClock())
        self.context = self.dependencies(
            link_ttl_s=3600,
            tokens=Tokens.of_this_process(),
            signer=Signer(server_secret_named(self.database, signing.SECRET_NAME, lambda: token_bytes(32))),
        )
        self.threads = ThreadPoolExecutor(2)

    def sender(self, *opened: str, **more: Any) -> Callable[[], int]:
        made = Webhooks(self.database, self.service, allow_private=opened, clock=self.clock, **more)
        return lambda: made.send_due(self.context, self.threads)

    def ended_job(self, url: str, *, failure: Failure | None = None, **delivery: Any) -> str:
        request = EditRequest("fal-ai/qwen-image-edit", "make it red", (ImageInput(url="https://example.com/a.png"),))
        options = {"files_base": "https://edits.example"}
        wanted = Delivery("fal", request.model, webhook_url=url, options=options, **delivery)
        job = self.service.submit(ANNE, request, wanted).job
        lease = self.service.lease("w", ["null"], 60)
        assert lease is not None
        if failure is not None:
            self.service.fail(lease, failure)
        else:
            key = self.blobs.put(b"image", "image/png", folder="outputs", ttl_s=1e9)
            self.service.finish(lease, replace(OUTPUT, images=(replace(OUTPUT.images[0], blob=key),)), USAGE)
        return job.id

    def given_up(self) -> list[tuple[str, int, str | None]]:
        with self.database.read() as connection:
            return [(each.job_id, each.attempts, each.last_error) for each in outbox.given_up(connection)]

    def close(self) -> None:
        self.threads.shutdown()
        super().close()


@pytest.fixture
def sending(tmp_path: Path) -> Iterator[Sending]:
    made = Sending(tmp_path)
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as made:
        yield made


def test_an_acknowledged_webhook_is_sent_once(sending: Sending, receiver: Receiver):
    job_id = sending.ended_job(receiver.url)
    send = sending.sender(receiver.address)
    assert send() == 1
    body = orjson.loads(receiver.next().body)
    assert (body["request_id"], body["gateway_request_id"], body["status"]) == (job_id, job_id, "OK")
    assert body["payload"]["images"][0]["url"].startswith("https://edits.example/files/outputs/")
    sending.clock.move(1e6)
    assert send() == 0
    assert sending.given_up() == []


def test_three_failures_and_a_restart_end_in_one_delivery(tmp_path: Path, receiver: Receiver):
    """Checklist 46: the schedule goes on where it was, each attempt has a signature of its own that is good."""
    receiver.answers += [500, 503, 500]
    before = Sending(tmp_path)
    job_id = before.ended_job(receiver.url)
    send = before.sender(receiver.address)
    assert send() == 1
    before.clock.move(2)
    assert send() == 1
    before.close()

    after = Sending(tmp_path, before.clock)
    send = after.sender(receiver.address)
    assert send() == 0, "not before its time"
    after.clock.move(60)
    assert send() == 1
    after.clock.move(60)
    assert send() == 1
    after.clock.move(1e6)
    assert send() == 0
    assert after.given_up() == []

    tries = [receiver.next() for _ in range(4)]
    assert receiver.came.empty()
    assert {orjson.loads(each.body)["request_id"] for each in tries} == {job_id}
    stamps = [check_signature(after.context.signer, each) for each in tries]
    assert stamps == sorted(set(stamps))
    after.close()


def check_signature(signer: Signer, delivery: Delivered) -> int:
    """As a receiver does with the key set; the moment that was signed."""
    (key,) = signer.key_set["keys"]
    public = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
    names = ("request-id", "user-id", "timestamp")
    parts = [delivery.headers[f"x-fal-webhook-{name}"] for name in names]
    text = "\n".join((*parts, hashlib.sha256(delivery.body).hexdigest()))
    signature = bytes.fromhex(delivery.headers["x-fal-webhook-signature"])
    Ed25519PublicKey.from_public_bytes(public).verify(signature, text.encode())
    return int(parts[2])


def test_a_failed_edit_is_reported_with_its_error(sending: Sending, receiver: Receiver):
    sending.ended_job(receiver.url, failure=Failure("invalid_image", "It is not an image.", "images[0]"))
    sending.sender(receiver.address)()
    body = orjson.loads(receiver.next().body)
    assert (body["status"], body["error"]) == ("ERROR", "Invalid status code: 422")
    assert body["payload"]["detail"][0]["loc"] == ["body", "image_url"]


def test_it_is_tried_ten_times_within_two_hours_and_then_given_up(sending: Sending, receiver: Receiver):
    receiver.answers += [500] * 20
    job_id = sending.ended_job(receiver.url)
    send = sending.sender(receiver.address)
    began = sending.clock.now
    tries = 0
    while (sending.clock.now - began).total_seconds() < 3 * 3600:
        tries += send()
        sending.clock.move(1)
        if tries == 10:
            break
    assert tries == 10
    assert 3600 < (sending.clock.now - began).total_seconds() < 2 * 3600
    sending.clock.move(1e6)
    assert send() == 0
    assert sending.given_up() == [(job_id, 10, "It was answered with status 500.")]
    with sending.database.transaction() as connection:
        assert outbox.try_again(connection, job_id, sending.clock.now)
        assert not outbox.try_again(connection, "none", sending.clock.now)
    receiver.answers.clear()
    assert send() == 1
    assert sending.given_up() == []


def test_a_sender_that_died_while_trying_is_no_loss(sending: Sending, receiver: Receiver):
    sending.ended_job(receiver.url)
    with sending.database.transaction() as connection:
        assert len(outbox.take_due(connection, sending.clock.now, 8, 60)) == 1
    send = sending.sender(receiver.address)
    assert send() == 0
    sending.clock.move(61)
    assert send() == 1


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed_and_not_tried_again(sending: Sending, receiver: Receiver, status: int):
    receiver.answers.append(status)
    job_id = sending.ended_job(receiver.url)
    sending.sender(receiver.address)()
    assert sending.given_up() == [(job_id, 1, f"It was answered with status {status}.")]
    assert receiver.came.qsize() == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "http://[::1]/x",
        "http://169.254.169.254/",
        "http://localhost/",
        "http://inside.example/",
    ],
)
def test_no_private_address_is_reached(sending: Sending, url: str):
    job_id = sending.ended_job(url)
    sending.sender(resolver=lambda _host, _port: ("10.0.0.7",))()
    ((found, attempts, error),) = sending.given_up()
    assert (found, attempts) == (job_id, 1)
    assert error is not None
    assert "not a public address" in error


def test_what_must_not_be_kept_is_forgotten_when_it_was_told(sending: Sending, receiver: Receiver):
    receiver.answers.append(503)
    job_id = sending.ended_job(receiver.url, keep_payload=False)
    send = sending.sender(receiver.address)
    send()
    assert not sending.service.get_any(job_id).payload_deleted
    sending.clock.move(3)
    send()
    assert sending.service.get_any(job_id).payload_deleted


def test_a_result_that_is_gone_is_reported_as_gone(sending: Sending, receiver: Receiver):
    job_id = sending.ended_job(receiver.url)
    sending.service.forget_payload(job_id)
    sending.sender(receiver.address)()
    body = orjson.loads(receiver.next().body)
    assert body["payload"] is None
    assert body["payload_error"]
