"""Webhooks of the RunPod face, and the delivery into a caller's own bucket: both leave this server."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from retouch.edit import Delivery
from retouch.errors import Failure
from retouch.protocols.runpod.face import FACE
from retouch.server.webhooks import Webhooks
from tests.harness import ANNE, Deployment, HandClock, an_edit
from tests.live_server import LiveServer, live_server
from tests.sdk.fal import image_at
from tests.sdk.runpod_client import EDIT, an_input, call, nulls_in
from tests.webhook_receiver import webhook_receiver

SECRET = "a-secret-to-be-hidden"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The endpoint of an S3 with a bucket named `theirs`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "caller", "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)
    client.create_bucket(Bucket="theirs")
    yield f"http://{host}:{port}"
    server.stop()


def s3_config(endpoint: str, **changes: str) -> dict[str, str]:
    given = {"accessId": "caller", "accessSecret": SECRET, "bucketName": "theirs", "endpointUrl": endpoint}
    return given | {"objectPath": "edits/today"} | changes


@pytest.fixture(scope="module")
def receiver() -> Iterator[Any]:
    with webhook_receiver() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bucket: str, receiver: Any) -> Iterator[LiveServer]:
    opened = ("--allow-private", receiver.address, "--allow-private", bucket.removeprefix("http://"))
    with live_server(tmp_path_factory.mktemp("runpod-hooks"), arguments=opened) as running:
        yield running


def test_every_end_of_a_job_is_reported_once(server: LiveServer, receiver: Any, bucket: str):
    """Check 38: with the job object, the input and the address, and nothing of the bucket."""
    envelope = {"webhook": receiver.url, "s3Config": s3_config(bucket)}
    file = io.BytesIO()
    Image.effect_noise((256, 256), 90).save(file, "PNG")
    given = an_input(my_id="order 7", image=base64.b64encode(file.getvalue()).decode())
    done = call(server, "POST", "runsync", json={"input": given, **envelope}).json()
    body = json.loads(receiver.next().body)
    assert not nulls_in(body)
    assert {name: body[name] for name in ("id", "status", "delayTime", "executionTime", "workerId")} == {
        name: done[name] for name in ("id", "status", "delayTime", "executionTime", "workerId")
    }
    assert body["webhook"] == receiver.url
    assert body["output"] == done["output"]
    assert (body["input"]["prompt"], body["input"]["my_id"]) == (given["prompt"], "order 7")
    assert len(body["input"]["image"]) < 100  # of a file that came with the request its beginning is enough
    assert SECRET not in json.dumps(body)
    assert "s3Config" not in body

    failed = call(server, "POST", "runsync", json={"input": an_input(image="x"), **envelope}).json()
    body = json.loads(receiver.next().body)
    assert (body["id"], body["status"], body["error"]) == (failed["id"], "FAILED", failed["error"])
    assert body["input"]["image"] == "x"
    assert receiver.came.empty()


def test_a_webhook_that_is_not_acknowledged_is_sent_twice_more_ten_seconds_apart(tmp_path: Path):
    """Check 38: by the clock of the sender, which the test moves."""
    clock = HandClock()
    with (
        Deployment(tmp_path, clock=clock) as deployment,
        webhook_receiver(500, 503, 500) as receiver,
        ThreadPoolExecutor(1) as threads,
    ):
        service, dependencies = deployment.service, deployment.dependencies()
        sender = Webhooks(deployment.database, service, allow_private=[receiver.address], clock=clock)
        options = {"origin": "http://localhost", "input": '{"prompt":"x"}'}
        delivery = Delivery("runpod", EDIT, webhook_url=receiver.url, options=options)
        service.submit_failed(ANNE, an_edit("", images=()), delivery, Failure("invalid_value", "Wrong."))
        for tries in (1, 2, 3):
            assert sender.send_due(dependencies, threads) == 1
            assert receiver.came.qsize() == tries
            clock.move(9)
            assert sender.send_due(dependencies, threads) == 0
            clock.move(1)
        assert FACE.webhook_schedule.attempts == 3
        clock.move(86_400)
        assert sender.send_due(dependencies, threads) == 0
        bodies = {receiver.next().body for _ in range(3)}
        assert len(bodies) == 1


def test_an_image_goes_into_the_callers_bucket(server: LiveServer, bucket: str):
    done = call(server, "POST", "runsync", json={"input": an_input(), "s3Config": s3_config(bucket)}).json()
    link = done["output"]["image_url"]
    assert link == done["output"]["result"]
    job = done["id"].removeprefix("sync-")[:36]
    assert link.startswith(f"{bucket}/theirs/edits/today/{job}.jpg?")
    assert image_at(link).format == "JPEG"
    assert httpx.get(link).headers["content-type"] == "image/jpeg"
    forgets(server)


@pytest.mark.parametrize("changes", [{"bucketName": "not-theirs"}, {"endpointUrl": "http://169.254.169.254"}])
def test_a_bucket_that_cannot_be_had_costs_no_image(server: LiveServer, bucket: str, changes: dict[str, str]):
    envelope = {"input": an_input(), "s3Config": s3_config(bucket, **changes)}
    done = call(server, "POST", "runsync", json=envelope).json()
    assert done["status"] == "COMPLETED"
    assert done["output"]["image_url"].startswith(server.url)
    (notice,) = [notice for notice in done["output"]["notices"] if notice["parameter"] == "s3Config"]
    assert "not in the bucket" in notice["detail"]
    forgets(server)


def forgets(server: LiveServer) -> None:
    """No row and no line of the log holds the caller's secret, or did."""
    with closing(sqlite3.connect(server.data / "retouch.db")) as database:
        assert SECRET not in "\n".join(database.iterdump())
    assert SECRET not in server.log()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"accessSecret": ""}, "s3Config.accessSecret"),
        ({"endpointUrl": "https://user:word@s3.example.com"}, "s3Config"),
        ({"endpointUrl": "file:///etc"}, "s3Config"),
        ({"bucketName": "a/../b"}, "s3Config"),
    ],
)
def test_a_bucket_that_is_none_refuses_the_call_and_repeats_nothing(
    server: LiveServer, bucket: str, changes: dict[str, str], field: str
):
    envelope = {"input": an_input(), "s3Config": s3_config(bucket, **changes)}
    refused = call(server, "POST", "run", json=envelope)
    assert refused.status_code == 400
    assert field in refused.json()["error"]
    assert SECRET not in refused.text
    assert "word" not in refused.text
