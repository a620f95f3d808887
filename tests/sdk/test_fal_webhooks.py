"""Webhooks of a live server: signed, retried, and not lost when the server is restarted."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import time

import fal_client
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.live_server import LiveServer, clean_environment, live_server, retouch
from tests.sdk.fal import EDIT, arguments, pointed_at, uploads
from tests.waiting import until
from tests.webhook_receiver import Delivery, Receiver, webhook_receiver


def verified(server: LiveServer, delivery: Delivery) -> dict[str, object]:
    """What a receiver does: the key set, the four headers, the distance of the clocks."""
    headers = delivery.headers
    timestamp = headers["x-fal-webhook-timestamp"]
    assert abs(time.time() - int(timestamp)) < 300
    digest = hashlib.sha256(delivery.body).hexdigest()
    parts = (headers["x-fal-webhook-request-id"], headers["x-fal-webhook-user-id"], timestamp, digest)
    (key,) = httpx.get(f"{server.url}/fal/rest/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    public = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    Ed25519PublicKey.from_public_bytes(public).verify(signature, "\n".join(parts).encode())
    body: dict[str, object] = json.loads(delivery.body)
    return body


def submit(server: LiveServer, receiver: Receiver, **more: object) -> str:
    with pointed_at(server) as client:
        return str(client.submit(EDIT, arguments(**more), webhook_url=receiver.url).request_id)


def test_a_webhook_survives_failures_and_a_restart(tmp_path_factory: pytest.TempPathFactory):
    """Checklist 46: delivered again after a 500 and after a restart, once more only, signature valid."""
    data = tmp_path_factory.mktemp("fal")
    with webhook_receiver(500, 500) as receiver:
        opened = {"RETOUCH_ALLOW_PRIVATE": receiver.address}
        with live_server(data, environment=opened) as server:
            request_id = submit(server, receiver)
            first = verified(server, receiver.next())
        with live_server(data, environment=opened) as server:
            second = verified(server, receiver.next())
            third = verified(server, receiver.next())
            assert first == second == third
            assert third["request_id"] == request_id
            assert third["status"] == "OK"
            payload = third["payload"]
            assert isinstance(payload, dict)
            assert "num_inference_steps" in [notice["parameter"] for notice in payload["notices"]]
            until(lambda: server.log().count("trouble=None") >= 1)
            assert receiver.came.empty()

            submit(server, receiver, image_url="http://127.0.0.1:9/x.png")
            failed = verified(server, receiver.next())
            assert (failed["status"], failed["error"]) == ("ERROR", "Invalid status code: 422")


def test_a_webhook_to_a_private_address_is_refused_at_submit(tmp_path_factory: pytest.TempPathFactory):
    """Checklist 46: unless the operator has opened it; what a name leads to is judged when it is sent."""
    with webhook_receiver() as receiver, live_server(tmp_path_factory.mktemp("fal")) as server:
        with pytest.raises(fal_client.FalClientHTTPError) as refused:
            submit(server, receiver)
        assert (refused.value.status_code, refused.value.error_type) == (400, "bad_request")
        assert "'127.0.0.1' is not a public address" in str(refused.value)
        assert receiver.came.empty()
        path = f"{server.url}/fal/queue/{EDIT}"
        for url in (
            "http://localhost/x",
            "http://[::1]/",
            "http://10.0.0.1:80/",
            "http://2130706433/",
            "http://",
            "http://[/",
        ):
            answer = httpx.post(path, json=arguments(), params={"fal_webhook": url})
            assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request"), url
        assert not uploads(server)


def test_an_operator_sees_what_was_given_up_and_sends_it_again(tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("fal")
    with webhook_receiver(301) as receiver:
        opened = {"RETOUCH_ALLOW_PRIVATE": receiver.address}
        with live_server(data, environment=opened) as server:
            request_id = submit(server, receiver)
            receiver.next()
            listed = until(lambda: command("list", "--data", str(data)))
            assert request_id in listed
            assert "status 301" in listed
            command("replay", request_id, "--data", str(data))
            assert verified(server, receiver.next())["request_id"] == request_id
            until(lambda: not command("list", "--data", str(data)))
    unknown = subprocess.run(
        retouch("webhooks", "replay", "none", "--data", str(data)), capture_output=True, check=False
    )
    assert unknown.returncode == 1
    assert b"has no webhook" in unknown.stderr


def command(*arguments: str) -> str:
    environment = clean_environment()
    ran = subprocess.run(retouch("webhooks", *arguments), capture_output=True, text=True, check=True, env=environment)
    return ran.stdout


def test_a_webhook_must_be_a_web_address(tmp_path_factory: pytest.TempPathFactory):
    with live_server(tmp_path_factory.mktemp("fal")) as server, pointed_at(server) as client:
        with pytest.raises(fal_client.FalClientHTTPError) as refused:
            client.submit(EDIT, arguments(), webhook_url="javascript:alert(1)")
        assert refused.value.status_code == 400
