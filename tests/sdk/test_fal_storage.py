"""Uploads as both of the vendor's clients send them, and what becomes of them."""

from __future__ import annotations

import gc
import hashlib
import io
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fal_client
import httpx
import pytest
from PIL import Image

from tests.live_server import LiveServer, live_server
from tests.sdk.fal import EDIT, HEADER, PLUS, arguments, call, photo, pointed_at
from tests.waiting import until

MIB = 1024 * 1024

# The vendor's client opens a connection for each upload and leaves closing it to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("fal"), key=True) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[fal_client.SyncClient]:
    with pointed_at(server) as made:
        yield made
    gc.collect()


def initiate(server: LiveServer, *, parts: bool = False, **more: Any) -> dict[str, str]:
    """What the JavaScript client asks first."""
    path = f"/rest/storage/upload/initiate{'-multipart' if parts else ''}?storage_type=fal-cdn-v3"
    answer = call(server, "POST", path, json={"content_type": "image/png", "file_name": "h.png"}, **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def test_the_python_client_uploads_and_edits(client: fal_client.SyncClient, server: LiveServer):
    """Checklist 37 and 40: the link is readable without a key, and by the server without the network."""
    link = client.upload(photo(), "image/png", "a.png")
    answer = httpx.get(link)
    assert answer.content == photo()
    assert answer.headers["content-type"] == "image/png"
    assert "_a.png" in link
    assert client.run(EDIT, arguments(image_url=link))["images"]


def test_the_token_answer_has_an_offset_and_an_address(server: LiveServer):
    """Checklist 37."""
    answer = call(server, "POST", "/rest/storage/auth/token?storage_type=fal-cdn-v3", json={}).json()
    assert answer["token_type"] == "Bearer"
    assert answer["base_url"] == f"{server.url}/fal/cdn"
    assert answer["expires_at"].endswith("+00:00")
    assert datetime.fromisoformat(answer["expires_at"]) > datetime.now(UTC)


def test_an_upload_lives_as_long_as_was_said(client: fal_client.SyncClient):
    """Checklist 37 and 45: both lifecycle headers are read, the list of readers is reported as ignored."""
    link = client.upload(photo(), "image/png", lifecycle=fal_client.StorageSettings(expires_in="1h"))
    ends = int(httpx.URL(link).params["expires"]) - datetime.now(UTC).timestamp()
    assert 3500 < ends <= 3601


def test_a_list_of_readers_is_reported_as_not_kept(server: LiveServer):
    """Checklist 37."""
    header = {"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": 60, "initial_acl": {"default": "forbid"}}'}
    answer = call(server, "POST", "/cdn/files/upload", content=photo(), headers=header)
    assert "initial_acl" in answer.headers["x-retouch-notices"]


def test_the_python_client_uploads_in_parts(client: fal_client.SyncClient, tmp_path: Path):
    """Checklist 38: unordered parts are joined by number. A smaller part size keeps the test short."""
    data = photo() + secrets.token_bytes(5 * MIB)
    address = fal_client.client.MultipartUpload.save(
        client=client._client,
        token_manager=client._token_manager,
        file_name="big.png",
        data=data,
        content_type="image/png",
        chunk_size=MIB,
    )
    assert "?" not in address
    answer = httpx.get(address)  # the file at once: not every reader follows a redirect
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert httpx.get(address, headers={"Range": "bytes=0-3"}).content == data[:4]
    assert httpx.head(address).headers["content-length"] == str(len(data))
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(data).digest()
    assert client.run(PLUS, arguments(PLUS, image_urls=[address]))["images"]


def test_the_python_clients_fallback_works(client: fal_client.SyncClient, server: LiveServer):
    """Checklist 39: the key it sends along with the bytes is in no log."""
    link = client.upload(photo(), "image/png", "b.png", repository="fal")
    assert httpx.get(link).content == photo()
    assert server.key is not None
    assert server.key not in server.log()


def test_a_single_upload_as_the_javascript_client_does_it(server: LiveServer):
    """Checklist 35: PUT without a key; the link reads it."""
    begun = initiate(server)
    assert httpx.get(begun["file_url"]).status_code == 404
    sent = httpx.put(begun["upload_url"], content=photo(), headers={"Content-Type": "image/png"})
    assert sent.status_code == 200
    assert httpx.get(begun["file_url"]).content == photo()


def test_an_upload_in_parts_as_the_javascript_client_does_it(server: LiveServer):
    """Checklist 36: 91 MiB in parts of 10 MiB, the answers are JSON, the bytes are the same."""
    before = set((server.data / "files").rglob("*.bin"))
    begun, digest, parts = initiate(server, parts=True), hashlib.sha256(), []
    for number in range(1, 11):
        data = secrets.token_bytes(MIB) * (10 if number < 10 else 1)
        digest.update(data)
        answer = httpx.put(f"{begun['upload_url']}/{number}", content=data, timeout=30)
        assert answer.headers["content-type"] == "application/json"
        parts.append(answer.json())
    assert [part["partNumber"] for part in parts] == list(range(1, 11))
    done = httpx.post(f"{begun['upload_url']}/complete", json={"parts": parts[::-1]}, timeout=60)
    assert done.status_code == 200, done.text
    assert httpx.post(f"{begun['upload_url']}/complete", json={"parts": parts}).status_code == 200
    read = httpx.get(begun["file_url"], timeout=60).content
    assert len(read) == 91 * MIB
    assert hashlib.sha256(read).digest() == digest.digest()
    assert set((server.data / "files").rglob("*.bin")) == before


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([], "list"),
        ("all", "list"),
        ([{"partNumber": "1", "etag": "x"}], "partNumber"),
        ([{"partNumber": 1, "etag": "x"}], "another tag"),
        ([{"partNumber": 2, "etag": "x"}], "not arrived"),
    ],
)
def test_a_wrong_list_of_parts_is_a_bad_request(server: LiveServer, parts: object, word: str):
    begun = initiate(server, parts=True)
    httpx.put(f"{begun['upload_url']}/1", content=b"x")
    answer = httpx.post(f"{begun['upload_url']}/complete", json={"parts": parts})
    assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")
    assert word in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/cdn/uploads/nonsense"),
        ("PUT", "/cdn/uploads/a.b.c/1"),
        ("POST", "/cdn/uploads/a.b.c/complete"),
        ("GET", "/cdn/files/m/a.b.c"),
        ("POST", "/cdn/files/unheard-of"),
        ("POST", "/rest/storage/unheard-of"),
    ],
)
def test_what_is_no_upload_is_not_found(server: LiveServer, method: str, path: str):
    answer = call(server, method, path, content=b"{}" if method == "POST" else None)
    assert answer.status_code == 404
    assert answer.json()["message"]
    assert answer.headers[HEADER]


def test_beginning_an_upload_needs_a_key(server: LiveServer):
    """Checklist 18."""
    for path in ("/rest/storage/auth/token", "/rest/storage/upload/initiate", "/rest/tokens/", "/cdn/files/upload"):
        answer = httpx.post(f"{server.url}/fal{path}", json={})
        assert answer.status_code == 401
        assert answer.json()["detail"]


def test_a_token_for_one_upload_reads_and_begins_nothing_else(server: LiveServer):
    token = initiate(server)["upload_url"].rpartition("/")[2]
    assert call(server, "GET", f"/cdn/files/m/{token}").status_code == 404
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.post(f"{server.url}/fal/cdn/files/upload", content=b"x", headers=headers).status_code == 401


def test_a_page_that_was_uploaded_is_not_served_as_one(client: fal_client.SyncClient):
    link = client.upload(b"<script>alert(1)</script>", "text/html", "x.html")
    answer = httpx.get(link)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_token_for_a_browser_opens_a_stream_of_its_own_app(server: LiveServer):
    """Checklist 49: the answer is a JSON string; it is good for the apps it names and until it ends."""
    answer = call(server, "POST", "/rest/tokens/", json={"allowed_apps": ["qwen-image-edit"], "token_expiration": 60})
    token = answer.json()
    assert isinstance(token, str)
    for endpoint, status in ((EDIT, 200), (PLUS, 403)):
        url = f"{server.url}/fal/run/{endpoint}/stream?fal_jwt_token={token}"
        assert httpx.post(url, json=arguments(endpoint), timeout=30).status_code == status
    bad = httpx.post(f"{server.url}/fal/run/{EDIT}/stream?fal_jwt_token={token}x", json=arguments())
    assert bad.status_code == 401


def test_a_token_is_refused_after_its_time(server: LiveServer):
    """Checklist 49."""
    body = {"allowed_apps": ["qwen-image-edit"], "token_expiration": 1}
    token = call(server, "POST", "/rest/tokens/", json=body).json()
    url = f"{server.url}/fal/run/{EDIT}/stream?fal_jwt_token={token}"
    assert httpx.post(url, json={}).status_code == 422
    until(lambda: httpx.post(url, json={}).status_code == 401)
    assert call(server, "POST", f"/run/{EDIT}/stream", json={}).status_code == 422


@pytest.mark.parametrize("body", [{}, {"allowed_apps": []}, {"allowed_apps": ["a"], "token_expiration": 1e9}])
def test_a_token_for_everything_or_for_ever_is_refused(server: LiveServer, body: dict[str, Any]):
    """Checklist 49."""
    assert call(server, "POST", "/rest/tokens/", json=body).status_code == 400


@pytest.mark.parametrize(
    ("data", "kind"), [(b"no image at all", "unsupported_image_format"), (photo()[:2000], "image_load_error")]
)
def test_an_upload_that_is_no_image_fails_the_edit(client: fal_client.SyncClient, data: bytes, kind: str):
    """Checklist 41: what can only be found by reading the file."""
    link = client.upload(data, "image/png", "a.png")
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.run(EDIT, arguments(image_url=link))
    (problem,) = refused.value.message
    assert (refused.value.status_code, problem["loc"], problem["type"]) == (422, ["body", "image_url"], kind)


def test_an_image_from_the_clients_own_helper(client: fal_client.SyncClient):
    """Checklist 40: an image given as an object, uploaded by the client."""
    link = client.upload_image(Image.open(io.BytesIO(photo())), format="png")
    assert client.run(EDIT, arguments(image_url=link))["images"]
