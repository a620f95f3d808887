"""What the server answers beside its faces: signs of life, unknown paths, ids, metrics, files."""

from __future__ import annotations

import re

import httpx2
import pytest

from retouch.accounts.keys import ANONYMOUS, Keys
from retouch.edit import Delivery, EditOutput, EditRequest, ImageInput, OutputImage, Usage
from retouch.protocols import http
from retouch.protocols.dependencies import AppDependencies
from retouch.protocols.http import RequestLog
from retouch.worker.job_runner import BUSY, WAITED


async def test_health_is_ok_as_soon_as_the_process_is_up(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


async def test_ready_says_what_is_missing_until_a_worker_is_ready(
    client: httpx2.AsyncClient, dependencies: AppDependencies
) -> None:
    answer = await client.get("/ready")
    assert (answer.status_code, answer.json()["reason"]) == (503, "No worker serves 'null'.")
    dependencies.service.beat("w", ("null",), "cpu", "loading")
    assert (await client.get("/ready")).json()["reason"] == "The model 'null' is loading."
    dependencies.service.beat("w", ("null",), "cpu", "ready")
    assert (await client.get("/ready")).status_code == 200


async def test_metrics_count_jobs_and_workers(client: httpx2.AsyncClient, dependencies: AppDependencies) -> None:
    request = EditRequest(model="qwen-image-edit", prompt="x", images=(ImageInput(url="https://example.com/a.png"),))
    jobs = [dependencies.service.submit(ANONYMOUS, request, Delivery("fal", "x")).job for _ in range(3)]
    dependencies.service.cancel(ANONYMOUS, jobs[0].id)
    dependencies.service.beat(
        "w",
        ("null",),
        "cpu",
        "ready",
        seconds={"denoise": 1.5, "inference": 2.0, BUSY: 3.0, WAITED: 0.5},
        facts={"device": "H200", "attention": "flash_attention", "precision": "fp8", "offload": "none"},
    )
    text = (await client.get("/metrics")).text
    assert 'retouch_jobs{queue="null",state="queued"} 2.0' in text
    assert 'retouch_jobs_ended_total{queue="null",state="cancelled"} 1.0' in text
    assert 'retouch_worker_up{device="cpu",queue="null",state="ready",worker="w"} 1.0' in text
    loaded = 'attention="flash_attention",device="H200",offload="none",precision="fp8"'
    assert f'retouch_worker_info{{{loaded},queue="null",worker="w"}} 1.0' in text
    assert 'retouch_stage_seconds_total{queue="null",stage="denoise",worker="w"} 1.5' in text
    assert 'stage="device' not in text
    assert 'retouch_device_seconds_total{queue="null",state="busy",worker="w"} 3.0' in text
    assert 'retouch_device_seconds_total{queue="null",state="waited",worker="w"} 0.5' in text
    assert "inference" not in text
    assert "python_gc" not in text


async def test_only_the_operator_reads_what_each_key_has_used(
    client: httpx2.AsyncClient, dependencies: AppDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, keys = dependencies.service, Keys(dependencies.service._database)
    request = EditRequest(model="qwen-image-edit", prompt="x", images=(ImageInput(url="https://example.com/a.png"),))
    service.submit(ANONYMOUS, request, Delivery("fal", "x"))
    lease = service.lease("w", ["null"], 60)
    assert lease is not None
    output = EditOutput((OutputImage("outputs/none", 8, 8, "image/png", 10, 7),), "x", {}, (8, 8))
    service.finish(lease, output, Usage(images=1, pixels=1_000_000, steps=4, device_ms=1500))
    text = (await client.get("/metrics")).text
    assert 'retouch_usage_edits_total{key="anonymous"} 1.0' in text, "there is no key, so every caller may read it"
    assert 'retouch_usage_device_seconds_total{key="anonymous"} 1.5' in text
    assert 'retouch_job_wait_seconds_count{queue="null"} 1.0' in text
    assert 'retouch_job_run_seconds_sum{queue="null"} ' in text
    caller, operator = keys.create("anne"), keys.create("me", operator=True)
    monkeypatch.setattr(http, "KEYS_CHECK_S", 0.0)  # else the first key is noticed a second later
    headers_of = {
        "without a key": {},
        "caller": {"authorization": f"Key {caller}"},
        "wrong": {"authorization": "Bearer x"},
    }
    for who, headers in headers_of.items():
        answer = await client.get("/metrics", headers=headers)
        assert "retouch_jobs_ended_total" in answer.text
        assert "retouch_usage" not in answer.text, who
    mine = await client.get("/metrics", headers={"authorization": f"Bearer {operator}"})
    assert 'retouch_usage_edits_total{key="anonymous"} 1.0' in mine.text


async def test_a_path_of_no_face_is_a_plain_error(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/nothing/here")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


async def test_every_answer_has_a_request_id_and_a_harmless_one_is_kept(client: httpx2.AsyncClient) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", (await client.get("/health")).headers["x-request-id"])
    kept = await client.get("/health", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    replaced = await client.get("/health", headers={"x-request-id": "a b\tc"})
    assert replaced.headers["x-request-id"] != "a b\tc"


async def test_the_front_page_is_the_playground(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert '<div id="page"></div>' in page.text


async def test_a_bug_is_answered_with_json_and_an_id() -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    transport = httpx2.ASGITransport(RequestLog(broken))
    async with httpx2.AsyncClient(transport=transport, base_url="http://retouch.test") as client:
        answer = await client.get("/")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "ZeroDivisionError" not in answer.text
    assert answer.headers["x-request-id"]


async def test_a_path_writes_nothing_of_its_own_into_the_log(
    client: httpx2.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    await client.get("/fal/%1b[2J%0a2026-01-01 [info] forged")
    printed = "".join(capsys.readouterr())
    assert "forged" in printed
    assert "\x1b[2J" not in printed
    assert "\n2026-01-01" not in printed


@pytest.fixture
def stored(dependencies: AppDependencies) -> str:
    """The path and query of a link to ten bytes."""
    key = dependencies.blobs.put(b"0123456789", "image/png", folder="outputs", ttl_s=600)
    return dependencies.blobs.link(key, ttl_s=600, base_url="")


async def test_a_signed_link_gives_the_file(client: httpx2.AsyncClient, stored: str) -> None:
    answer = await client.get(stored)
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == "10"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("wanted", "status", "content", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-2", 416, b"", "bytes */10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
    ],
)
async def test_a_range_gives_that_part(  # noqa: PLR0917
    client: httpx2.AsyncClient, stored: str, wanted: str, status: int, content: bytes, content_range: str | None
) -> None:
    answer = await client.get(stored, headers={"range": wanted})
    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers.get("content-range") == content_range


async def test_head_and_if_none_match_send_no_bytes(client: httpx2.AsyncClient, stored: str) -> None:
    head = await client.head(stored)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    again = await client.get(stored, headers={"if-none-match": head.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_link_that_is_changed_or_expired_is_unknown(client: httpx2.AsyncClient, stored: str) -> None:
    for bad in (stored[:-1], stored.partition("?")[0], stored.replace("expires=", "expires=9"), "/files/../secret"):
        answer = await client.get(bad)
        assert answer.status_code == 404, bad
        assert answer.json()["error"]["code"] in ("unknown_file", "unknown_url")


async def test_a_file_that_is_gone_is_unknown(
    client: httpx2.AsyncClient, dependencies: AppDependencies, stored: str
) -> None:
    dependencies.blobs.delete(stored.partition("?")[0].removeprefix("/files/"))
    assert (await client.get(stored)).json()["error"]["code"] == "unknown_file"
