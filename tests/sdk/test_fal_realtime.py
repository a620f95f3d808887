"""The realtime socket, with the vendor's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import msgpack
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from retouch.errors import DatabaseUnavailable
from retouch.jobs.job import Job, JobState
from retouch.watch import Watch
from tests.harness import Deployment
from tests.live_server import LiveServer, live_server
from tests.sdk.fal import EDIT, PLUS, Hands, arguments, call, image_at, pointed_at
from tests.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("fal"), key=True) as running:
        yield running


@pytest.fixture
def client(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    monkeypatch.setattr(fal_client.client, "REALTIME_URL_FORMAT", f"ws://127.0.0.1:{server.port}/fal/run/")
    with pointed_at(server) as made:
        yield made


def socket_to(server: LiveServer, path: str, key: str | None = None) -> Any:
    headers = {"Authorization": f"Key {key}"} if key else {}
    return connect(f"ws://127.0.0.1:{server.port}/fal/run/{path}", additional_headers=headers)


@pytest.mark.parametrize("use_jwt", [True, False])
def test_an_input_a_message_an_output_a_message(client: fal_client.SyncClient, use_jwt: bool):
    """Checklist 49: with a token in the URL, and with the key in the handshake."""
    with client.realtime(EDIT, use_jwt=use_jwt, max_buffering=5) as connection:
        for seed in (1, 2):
            connection.send(arguments(seed=seed))
            answer = connection.recv()
            assert answer is not None
            assert answer["seed"] == seed
            assert image_at(answer["images"][0]["url"]).size[0] > 0


def test_an_error_does_not_end_the_conversation(client: fal_client.SyncClient):
    with client.realtime(EDIT, use_jwt=False) as connection:
        connection.send({"prompt": "p"})
        with pytest.raises(fal_client.client.RealtimeError) as refused:
            connection.recv()
        assert refused.value.error == "missing"
        connection.send(arguments(image_url="http://127.0.0.1:9/x.png"))
        with pytest.raises(fal_client.client.RealtimeError) as refused:
            connection.recv()
        assert refused.value.error == "file_download_error"
        connection.send(arguments(seed=3))
        answer = connection.recv()
        assert answer is not None
        assert answer["seed"] == 3


@pytest.mark.parametrize("data", [b"\xc1", b"\x93\x01", "{", "[]", b"\x01", b"\x81\x01\x02"])
def test_what_is_no_input_is_reported(server: LiveServer, data: bytes | str):
    with socket_to(server, f"{EDIT}/realtime", server.key) as socket:
        socket.send(data)
        assert '"x-fal-error"' in socket.recv()


@pytest.mark.parametrize(
    "more",
    [{b"promt": 1}, {"upstream_options": {"fal": {"image": b"PNG"}}}, {"upstream_options": {"fal": {b"image": 1}}}],
)
def test_bytes_where_json_has_text_are_refused_and_the_socket_stays(
    server: LiveServer, more: dict[str | bytes, object]
):
    with socket_to(server, f"{EDIT}/realtime", server.key) as socket:
        socket.send(msgpack.packb({**arguments(), **more}))
        assert '"x-fal-error"' in socket.recv()
        socket.send(msgpack.packb(arguments(seed=4)))
        assert msgpack.unpackb(socket.recv())["seed"] == 4


def test_an_outage_while_an_edit_is_waited_for_is_told_and_stops_the_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A socket tells no id by which its image could be fetched later."""

    async def away(_self: Watch, _job_id: str) -> Job:
        raise DatabaseUnavailable("The database is unavailable.")

    monkeypatch.setattr(Watch, "wait", away)
    with (
        Deployment(tmp_path) as waiting,
        waiting.server() as url,
        connect(f"{url.replace('http', 'ws')}/fal/run/{EDIT}/realtime") as socket,
    ):
        for edits in (1, 2):
            socket.send(msgpack.packb(arguments()))
            assert "The database is unavailable." in socket.recv(20)
            until(lambda edits=edits: len(waiting.jobs()) == edits)
            until(lambda: all(job.state is JobState.CANCELLED for job in waiting.jobs()))


def test_json_text_will_do(server: LiveServer):
    with socket_to(server, f"{EDIT}/realtime", server.key) as socket:
        socket.send(fal_client.client.json.dumps(arguments(seed=9)))
        assert msgpack.unpackb(socket.recv())["seed"] == 9


def test_a_caller_without_a_right_is_refused(server: LiveServer):
    """Checklist 49: no key, a token for something else, an endpoint that is not there, a number that is none."""
    token = call(server, "POST", "/rest/tokens/", json={"allowed_apps": ["qwen-image-edit"]}).json()
    refused = {
        f"{EDIT}/realtime": 401,
        f"{EDIT}/realtime?fal_jwt_token=x.y.z": 401,
        f"{PLUS}/realtime?fal_jwt_token={token}": 403,
        f"fal-ai/nothing/realtime?fal_jwt_token={token}": 404,
        f"{EDIT}/realtime?fal_jwt_token={token}&max_buffering=99": 400,
        f"{EDIT}/realtime?fal_jwt_token={token}&max_buffering=00601": 400,
    }
    for path, status in refused.items():
        with pytest.raises(InvalidStatus) as denied, socket_to(server, path):
            pass
        assert denied.value.response.status_code == status


def test_a_caller_who_leaves_cancels_the_edit(tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("fal")
    with live_server(data, ready=False, arguments=("--workers", "0")) as idle:
        hands = Hands(data)
        with socket_to(idle, f"{EDIT}/realtime?max_buffering=1") as socket:
            for seed in (1, 2, 3):
                socket.send(msgpack.packb(arguments(seed=seed)))
            assert "dropped" in socket.recv()
            lease = until(lambda: hands.service.lease("hands", ["null"], 60))
        until(lambda: hands.service.renew(lease, 60))
        hands.service.acknowledge_cancel(lease)
        hands.close()
