"""The RunPod face over plain HTTP. The numbers are those of the checks in the reference page of this face.

Where a state must stand still to be looked at, the model takes a step only when the test lets it.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from retouch.accounts.keys import ANONYMOUS, Keys
from retouch.database import Database
from retouch.jobs.job import JobState, Preview
from retouch.service import ServiceSettings
from tests.harness import OUTPUT, USAGE, Deployment, gated_server
from tests.live_server import LiveServer, live_server
from tests.sdk.fal import DATA_URI, image_at, photo
from tests.sdk.runpod_client import EDIT, FINAL, NEWER, an_input, call, nulls_in, submit
from tests.waiting import until

ID = re.compile(r"[0-9a-f-]{36}-[a-z]\d")
OPERATIONS = ("status", "status-sync", "stream")
SHORT_S = 3
"""The vendor's clients give up on short operations after this."""


@pytest.fixture(scope="module")
def idle(idle_server: LiveServer) -> LiveServer:
    return idle_server


@pytest.fixture(scope="module")
def shared_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with gated_server(tmp_path_factory.mktemp("runpod-gated")) as running:
        yield running


@pytest.fixture
def gated(shared_gate: Deployment) -> Iterator[Deployment]:
    """The shared one with a closed gate and nothing left over from another test."""
    shared_gate.gate.close()
    yield shared_gate
    shared_gate.gate.open()
    until(lambda: all(job.state.final for job in shared_gate.jobs()))


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[Deployment]:
    """A server in this process without a worker: what it submits is the test's to run."""
    with Deployment(tmp_path) as deployment, deployment.server():
        yield deployment


def runsync(server: LiveServer | str, given: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    answer = call(server, "POST", "runsync", json={"input": given or an_input()}, **how)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert not nulls_in(body)
    return body


def status(server: LiveServer | str, job: str, **how: Any) -> dict[str, Any]:
    answer = call(server, "GET", f"status/{job}", **how)
    assert answer.status_code == 200, answer.text
    assert not nulls_in(answer.json())
    body: dict[str, Any] = answer.json()
    return body


# --- routing and keys


def test_a_run_answers_at_once_with_an_id_and_its_place_in_the_queue(idle: LiveServer):
    """Check 1."""
    answer = call(idle, "POST", "run", json={"input": an_input()})
    assert answer.status_code == 200
    assert sorted(answer.json()) == ["id", "status"]
    assert answer.json()["status"] == "IN_QUEUE"


@pytest.mark.parametrize(("form", "expected"), [("Bearer {}", 200), ("{}", 200), ("Bearer no", 401), ("", 401)])
def test_a_key_is_read_with_and_without_its_scheme(idle: LiveServer, form: str, expected: int):
    """Check 2."""
    headers = {"Authorization": form.format(idle.key)} if form else {}
    answer = httpx.post(f"{idle.url}/v2/{EDIT}/run", json={"input": an_input()}, headers=headers)
    assert answer.status_code == expected
    if expected == 401:
        assert isinstance(answer.json()["error"], str)
        assert answer.json()["error"] == answer.json()["message"]


@pytest.mark.parametrize("path", ["/v2//qwen-image-edit/health", "/v2/qwen-image-edit//health/"])
def test_a_slash_too_many_is_no_other_path(server: LiveServer, path: str):
    """Check 3."""
    answer = httpx.get(server.url + path, follow_redirects=False)
    assert answer.status_code == 200
    assert sorted(answer.json()) == ["jobs", "workers"]


def test_what_does_not_exist_is_a_404(idle: LiveServer):
    """Check 4."""
    job = submit(idle)
    for answer in (
        call(idle, "GET", "health", endpoint="no-such-endpoint"),
        call(idle, "POST", "run", endpoint="qwen-image-edit-2510", json={"input": an_input()}),
        call(idle, "GET", "status/3f0e6c4c-0000-4000-8000-000000000000-u1"),
        call(idle, "GET", "status/nonsense"),
        call(idle, "POST", "cancel/undefined"),
        call(idle, "GET", f"status/{job}", endpoint=NEWER),
        call(idle, "GET", "openai/v1/models"),
    ):
        assert answer.status_code == 404, answer.text
        assert isinstance(answer.json()["error"], str)


def test_every_answer_is_json(idle: LiveServer):
    """Check 5."""
    job = submit(idle)
    answers = [
        call(idle, "GET", f"status/{job}"),
        call(idle, "GET", "health"),
        call(idle, "GET", "run"),
        call(idle, "GET", "nothing/at/all"),
        call(idle, "POST", "run", content=b"<html>"),
        call(idle, "GET", "health", key="wrong"),
        call(idle, "DELETE", f"status/{job}"),
        httpx.get(f"{idle.url}/v2", headers={"Authorization": f"Bearer {idle.key}"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 405, 404, 400, 401, 405, 404]
    for answer in answers:
        assert answer.headers["content-type"].startswith("application/json"), answer.text
        assert not nulls_in(answer.json())


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_operations_without_a_body_take_none_and_an_empty_object(idle: LiveServer, body: bytes):
    """Check 6."""
    json_type = {"Content-Type": "application/json"}
    cancelled = call(idle, "POST", f"cancel/{submit(idle)}", content=body, headers=json_type)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")
    purged = call(idle, "POST", "purge-queue", content=body, headers=json_type)
    assert (purged.status_code, purged.json()["status"]) == (200, "completed")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_reading_operations_work_by_get_and_by_post(server: LiveServer, operation: str):
    """Check 7."""
    job = runsync(server)["id"]
    for method in ("GET", "POST"):
        answer = call(server, method, f"{operation}/{job}")
        assert (answer.status_code, answer.json()["status"]) == (200, "COMPLETED")


# --- the envelope


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"input": null}',
        b'{"input": "prompt"}',
        b'{"input": {}, "policy": 7}',
        b'{"input": {}, "policy": {"ttl": "soon"}}',
        b'{"input": {}, "webhook": "ftp://example.com"}',
        b'{"input": {}, "webhook": "http://127.0.0.1/hook"}',
        b'{"input": {}, "s3Config": {"accessId": "a"}}',
    ],
)
def test_a_bad_envelope_is_refused(server: LiveServer, body: bytes):
    """Check 8."""
    answer = call(server, "POST", "run", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)
    assert answer.json()["error"] == answer.json()["message"]


def test_an_input_that_was_wrapped_twice_runs(server: LiveServer):
    """Check 9."""
    assert runsync(server, {"input": an_input()})["status"] == "COMPLETED"


def test_unknown_names_change_nothing_and_are_reported(server: LiveServer):
    """Check 10."""
    envelope = {"input": an_input(scheduler="ddim"), "timeout": 60000, "webhookV2": "https://example.com"}
    done = call(server, "POST", "runsync", json=envelope).json()
    assert done["status"] == "COMPLETED"
    ignored = [notice["parameter"] for notice in done["output"]["notices"] if notice["action"] == "ignored"]
    assert {"timeout", "webhookV2", "input.scheduler"} <= set(ignored)


@pytest.mark.parametrize(("operation", "limit"), [("run", 10_000_000), ("runsync", 20_000_000)])
def test_a_body_up_to_the_limit_passes_and_a_larger_one_is_read_and_refused(
    server: LiveServer, operation: str, limit: int
):
    """Check 11: the connection that was refused serves the next request."""
    head = b'{"input": {"prompt": "make it snow", "image": "' + DATA_URI.encode() + b'"}, "more": "'
    with httpx.Client(base_url=f"{server.url}/v2/{EDIT}/", timeout=60) as client:
        for size, expected in ((limit, 200), (limit + 1, 413), (2 * limit, 413)):
            body = head + b"x" * (size - len(head) - 2) + b'"}'
            answer = client.post(operation, content=body, headers={"Content-Type": "application/json"})
            assert (len(body), answer.status_code) == (size, expected), answer.text[:200]
            stream = answer.extensions["network_stream"]
        assert isinstance(answer.json()["error"], str)
        assert client.get("health").extensions["network_stream"] is stream


def test_a_policy_outside_its_limits_is_clamped_and_reported(server: LiveServer):
    """Check 12."""
    envelope = {"input": an_input(), "policy": {"executionTimeout": 1000, "ttl": 1e12, "lowPriority": True}}
    done = call(server, "POST", "runsync", json=envelope).json()
    assert done["status"] == "COMPLETED"
    clamped = {n["parameter"]: n["detail"] for n in done["output"]["notices"] if n["action"] == "clamped"}
    assert sorted(clamped) == ["policy.executionTimeout", "policy.ttl"]
    assert "5000 was used" in clamped["policy.executionTimeout"]


def test_low_priority_waits_behind_normal(gated: Deployment):
    submit(gated.url)
    gated.running()
    low, normal = submit(gated.url, policy={"lowPriority": True}), submit(gated.url)
    places = {job.id: gated.service.position(job) for job in gated.jobs()}
    assert places[normal[:36]] < places[low[:36]]


# --- ids and states


def test_ids_of_both_forms_work_in_every_operation(server: LiveServer):
    """Check 13."""
    done = runsync(server)["id"]
    assert done.startswith("sync-")
    assert ID.fullmatch(done.removeprefix("sync-"))
    queued = submit(server)
    assert ID.fullmatch(queued)
    for job in (done, queued, queued[:36]):
        assert re.fullmatch("[A-Za-z0-9_-]+", job)
        for operation in OPERATIONS:
            answer = call(server, "GET", f"{operation}/{job}")
            assert answer.status_code == 200
            assert answer.json()["id"] == (done if job == done else queued)


def test_states_only_go_forward(gated: Deployment):
    """Check 14."""
    job = submit(gated.url)
    order = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    seen = []
    gated.running()
    for _ in range(4):
        seen.append(status(gated.url, job)["status"])
        gated.gate.let()
    seen.append(call(gated.url, "GET", f"status-sync/{job}").json()["status"])
    assert set(seen) <= set(order)
    assert seen == sorted(seen, key=order.index)
    assert (seen[0], seen[-1]) == ("IN_PROGRESS", "COMPLETED")


def test_a_completed_job_has_its_times_its_worker_and_its_output(server: LiveServer):
    """Check 15."""
    done = runsync(server)
    assert done["status"] == "COMPLETED"
    for name in ("delayTime", "executionTime"):
        assert type(done[name]) is int
        assert done[name] >= 0
    assert re.fullmatch("[a-z0-9]{14}", done["workerId"])
    output = done["output"]
    assert output["image_url"] == output["result"]
    assert type(output["cost"]) is float
    assert type(output["seed"]) is int


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        (an_input(image="http://127.0.0.1:9/a.png"), "Invalid image URL"),
        (an_input(image="no link at all!"), "Invalid image URL"),
        (an_input(image="data:image/png;base64,AAAA"), "Invalid image URL"),
        ({"prompt": "make it snow"}, "The field 'image' is required"),
        (an_input(prompt=" "), "The field 'prompt' is required"),
        (an_input(seed="lucky"), "The field 'seed' must be a valid integer"),
        (an_input(size="large"), "Invalid parameter: size format must be width*height"),
        (an_input(loras=[{"path": "a/b", "scale": 5}]), "The field 'loras[0].scale' must be from 0 to 4, not 5."),
        (an_input(output_format="bmp"), "The field 'output_format' must be one of jpeg, png, webp"),
        (an_input(num_inference_steps=1000), "The field 'num_inference_steps' must be from 1 to 100"),
    ],
)
def test_a_bad_input_is_a_failed_job(server: LiveServer, given: dict[str, Any], begins: str):
    """Check 16."""
    failed = runsync(server, given)
    assert failed["status"] == "FAILED"
    assert failed["error"].startswith(begins)
    assert "output" not in failed
    assert "cost" not in str(failed)
    assert status(server, failed["id"]) == failed
    submitted = call(server, "POST", "run", json={"input": given})
    assert submitted.status_code == 200
    ended = call(server, "GET", f"status-sync/{submitted.json()['id']}").json()
    assert (ended["status"], ended["error"]) == ("FAILED", failed["error"])


def test_a_run_that_takes_too_long_is_timed_out_and_frees_the_device(gated: Deployment):
    """Check 17."""
    slow = submit(gated.url, policy={"executionTimeout": 5000})
    gated.running()
    following = submit(gated.url)
    ended = call(gated.url, "GET", f"status-sync/{slow}").json()
    assert (ended["status"], ended["error"]) == ("TIMED_OUT", "The edit ran longer than 5 seconds.")
    assert ended["executionTime"] >= 5000
    until(lambda: status(gated.url, following)["status"] == "IN_PROGRESS")
    gated.gate.open()
    assert call(gated.url, "GET", f"status-sync/{following}").json()["status"] == "COMPLETED"


def test_a_job_whose_life_is_over_does_not_exist(gated: Deployment):
    """Check 18: whether it runs or waits."""
    running = submit(gated.url, policy={"ttl": 10_000})
    gated.running()
    waiting = submit(gated.url, policy={"ttl": 10_000})
    assert status(gated.url, running)["status"] == "IN_PROGRESS"
    assert status(gated.url, waiting)["status"] == "IN_QUEUE"
    for job in (running, waiting):
        until(lambda job=job: call(gated.url, "GET", f"status/{job}").status_code == 404)
    following = submit(gated.url)
    until(lambda: status(gated.url, following)["status"] == "IN_PROGRESS")


def test_cancelling_a_waiting_job(gated: Deployment):
    """Check 19."""
    submit(gated.url)
    gated.running()
    waiting = submit(gated.url)
    assert call(gated.url, "POST", f"cancel/{waiting}").json() == {"id": waiting, "status": "CANCELLED"}
    gated.gate.open()
    until(lambda: all(job.state.final for job in gated.jobs()))
    job = gated.service.get(ANONYMOUS, waiting[:36])
    assert (job.state, job.started_at) == (JobState.CANCELLED, None)


def test_cancelling_a_running_job_frees_the_device(gated: Deployment):
    """Check 19."""
    running = submit(gated.url)
    gated.running()
    following = submit(gated.url)
    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(call, gated.url, "POST", f"cancel/{running}")
        until(lambda: gated.service.get(ANONYMOUS, running[:36]).state is JobState.CANCELLED)
        assert cancelled.result().json() == {"id": running, "status": "CANCELLED"}
    assert status(gated.url, running)["status"] == "CANCELLED"
    gated.gate.let()  # the step it was inside of
    until(lambda: status(gated.url, following)["status"] == "IN_PROGRESS")


def test_cancelling_a_finished_job_changes_nothing(server: LiveServer):
    """Check 19."""
    done = runsync(server)
    assert call(server, "POST", f"cancel/{done['id']}").json() == {"id": done["id"], "status": "COMPLETED"}
    assert status(server, done["id"])["status"] == "COMPLETED"


def test_purging_removes_what_waits_and_nothing_else(gated: Deployment):
    """Check 20."""
    running = submit(gated.url)
    gated.running()
    waiting = [submit(gated.url), submit(gated.url)]
    elsewhere = submit(gated.url, endpoint=NEWER)
    assert call(gated.url, "POST", "purge-queue").json() == {"removed": 2, "status": "completed"}
    assert [status(gated.url, job)["status"] for job in waiting] == ["CANCELLED"] * 2
    gated.gate.open()
    for job, endpoint in ((running, EDIT), (elsewhere, NEWER)):
        ended = call(gated.url, "GET", f"status-sync/{job}", endpoint=endpoint).json()
        assert ended["status"] == "COMPLETED"


def test_a_failed_job_can_be_retried_and_no_other(gated: Deployment):
    """Check 21."""
    failed = submit(gated.url, policy={"executionTimeout": 5000})
    waiting = submit(gated.url)
    assert call(gated.url, "POST", f"retry/{waiting}").status_code == 400
    assert call(gated.url, "GET", f"status-sync/{failed}").json()["status"] == "TIMED_OUT"
    assert call(gated.url, "POST", f"retry/{failed}").json() == {"id": failed, "status": "IN_QUEUE"}
    again = status(gated.url, failed)
    assert again["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert "error" not in again
    assert "executionTime" not in again
    gated.gate.open()
    done = call(gated.url, "GET", f"status-sync/{failed}").json()
    assert (done["status"], done["retries"]) == ("COMPLETED", 1)
    refused = call(gated.url, "POST", f"retry/{failed}")
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        f"Only a failed job can be retried; '{failed[:36]}' is succeeded.",
    )


# --- waiting


def test_runsync_answers_when_its_wait_is_over(gated: Deployment):
    """Check 22."""
    began = time.monotonic()
    held = runsync(gated.url, params={"wait": "1000"})
    assert 0.9 <= time.monotonic() - began <= 5
    assert held["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert status(gated.url, held["id"])["id"] == held["id"]
    assert runsync(gated.url, params={"wait": "1"})["status"] == "IN_QUEUE"
    assert call(gated.url, "POST", "runsync", json={"input": an_input()}, params={"wait": "soon"}).status_code == 400
    gated.gate.open()
    assert runsync(gated.url, params={"wait": "999999999"})["status"] == "COMPLETED"


def test_status_sync_waits_and_no_longer_than_asked(gated: Deployment):
    """Check 23."""
    job = submit(gated.url)
    began = time.monotonic()
    assert call(gated.url, "GET", f"status-sync/{job}", params={"wait": "1500"}).json()["status"] != "COMPLETED"
    assert time.monotonic() - began >= 1.4
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(call, gated.url, "GET", f"status-sync/{job}", params={"wait": "20000"})
        gated.gate.open()
        assert held.result().json()["status"] == "COMPLETED"
    again = call(gated.url, "GET", f"status-sync/{job}", params={"wait": "300000"})
    assert again.json()["status"] == "COMPLETED"


def test_short_operations_answer_in_time_while_the_device_is_busy_and_the_queue_is_deep(gated: Deployment):
    """Check 24: within the time after which the vendor's clients give up."""
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: submit(gated.url), range(100)))
    until(lambda: any(job.state is JobState.RUNNING for job in gated.jobs()))
    for method, operation in (
        ("GET", f"status/{jobs[-1]}"),
        ("GET", "health"),
        ("POST", f"cancel/{jobs[-1]}"),
        ("POST", "purge-queue"),
    ):
        answer = httpx.request(method, f"{gated.url}/v2/{EDIT}/{operation}", timeout=SHORT_S)
        assert answer.status_code == 200
    assert answer.json()["removed"] == 98


def test_a_stream_without_news_is_held_and_then_empty(gated: Deployment):
    """Check 25."""
    job = submit(gated.url)
    gated.running()
    began = time.monotonic()
    read = call(gated.url, "GET", f"stream/{job}").json()
    assert 1 <= time.monotonic() - began <= 9
    assert (read["status"], read["stream"]) == ("IN_PROGRESS", [])


def test_a_stream_shows_the_image_appearing_and_ends_with_it(gated: Deployment):
    """Check 26: the first answer with a terminal status has all that is left, the next has nothing."""
    job = submit(gated.url)
    gated.running()
    gated.gate.let()
    until(lambda: status(gated.url, job).get("output", {}).get("step") == 1)  # from then on a look is wanted
    gated.gate.let()
    looks: list[Any] = []
    until(lambda: looks.extend(call(gated.url, "GET", f"stream/{job}").json()["stream"]) or looks)
    look = looks[-1]["output"]
    assert image_at(look["partial_image_url"]).format == "JPEG"
    assert 0 < look["progress"] == look["step"] / look["steps"] < 1
    progress = status(gated.url, job)["output"]
    assert (progress["steps"], progress["progress"]) == (4, progress["step"] / 4)
    gated.gate.open()
    assert call(gated.url, "GET", f"status-sync/{job}").json()["status"] == "COMPLETED"
    last = call(gated.url, "GET", f"stream/{job}").json()
    assert last["status"] == "COMPLETED"
    assert last["stream"][-1]["output"] == status(gated.url, job)["output"]
    for _ in range(2):
        read = call(gated.url, "GET", f"stream/{job}").json()
        assert (read["status"], read["stream"]) == ("COMPLETED", [])


def test_a_look_tells_the_step_that_it_is_of(by_hand: Deployment):
    """Check 26: which may lie behind the one that is told with it."""
    job = submit(by_hand.url)
    preview = by_hand.blobs.put(photo(64, 48, "JPEG"), "image/jpeg", folder="previews")
    by_hand.service.progress(by_hand.lease(), step=3, steps=4, previews=[Preview(preview, 0, 2)])
    [look] = call(by_hand.url, "GET", f"stream/{job}").json()["stream"]
    assert (look["output"]["step"], look["output"]["steps"], look["output"]["progress"]) == (2, 4, 0.5)


def test_an_output_that_could_not_be_read_is_the_chunk_of_the_next_read(by_hand: Deployment):
    """Check 26."""
    job = submit(by_hand.url, input=an_input(enable_base64_output=True))
    key = by_hand.blobs.put(photo(), "image/png", folder="outputs")
    image = replace(OUTPUT.images[0], blob=key)
    by_hand.service.finish(by_hand.lease(), replace(OUTPUT, images=(image,)), USAGE)
    outputs = by_hand.folder / "files" / "outputs"
    away = outputs.rename(by_hand.folder / "away")
    outputs.touch()
    assert call(by_hand.url, "GET", f"stream/{job}").status_code == 503
    outputs.unlink()
    away.rename(outputs)
    [chunk] = call(by_hand.url, "GET", f"stream/{job}").json()["stream"]
    assert base64.b64decode(chunk["output"]["result"]) == photo()
    assert call(by_hand.url, "GET", f"stream/{job}").json()["stream"] == []


def test_a_stream_of_a_failed_job_has_its_error_and_one_of_a_cancelled_job_ends(server: LiveServer, idle: LiveServer):
    failed = runsync(server, an_input(image="http://127.0.0.1:9/a.png"))
    read = call(server, "GET", f"stream/{failed['id']}").json()
    assert (read["status"], read["stream"], read["error"]) == ("FAILED", [], failed["error"])
    cancelled = submit(idle)
    call(idle, "POST", f"cancel/{cancelled}")
    assert call(idle, "GET", f"stream/{cancelled}").json()["stream"] == []
    assert call(idle, "GET", f"stream/{cancelled}").status_code == 404


def test_a_caller_who_hangs_up_leaves_the_job_running(gated: Deployment):
    """Check 27."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gated.url}/v2/{EDIT}/runsync", json={"input": an_input()}, timeout=0.5)
    job = gated.running()
    gated.gate.open()
    done = call(gated.url, "GET", f"status-sync/{job.id}").json()
    assert (done["id"], done["status"]) == (f"sync-{job.id}-u1", "COMPLETED")


def test_too_many_waiting_jobs_are_a_429(tmp_path_factory: pytest.TempPathFactory):
    """Check 28."""
    full = ServiceSettings(max_waiting_per_account=1)
    with gated_server(tmp_path_factory.mktemp("runpod-full"), settings=full) as gated:
        submit(gated.url)
        gated.running()
        submit(gated.url)
        answer = call(gated.url, "POST", "run", json={"input": an_input()})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert isinstance(answer.json()["error"], str)


# --- the input


@pytest.mark.parametrize(
    ("fields", "format_", "media_type", "suffix"),
    [
        ({}, "JPEG", "image/jpeg", "jpg"),
        ({"output_format": "jpeg"}, "JPEG", "image/jpeg", "jpg"),
        ({"output_format": "jpg"}, "JPEG", "image/jpeg", "jpg"),
        ({"output_format": "png"}, "PNG", "image/png", "png"),
        ({"output_format": "webp"}, "WEBP", "image/webp", "webp"),
    ],
)
def test_the_file_has_the_format_its_name_and_type_say(
    server: LiveServer, fields: dict[str, Any], format_: str, media_type: str, suffix: str
):
    """Check 35."""
    link = runsync(server, an_input(**fields))["output"]["image_url"]
    assert image_at(link).format == format_
    assert httpx.get(link).headers["content-type"] == media_type
    assert link.partition("?")[0].endswith(f".{suffix}")


def test_a_file_comes_in_every_form_that_workers_of_this_vendor_take(server: LiveServer):
    """Check 37: as a data URI, as bare base64, in a list, under other names; a private address is refused."""
    bare = base64.b64encode(photo()).decode()
    prompt = {"prompt": "make it snow"}
    for given in (
        {"image": DATA_URI},
        {"image": bare},
        {"images": [DATA_URI, bare]},
        {"images": [{"name": "a.png", "image": bare}]},
        {"image_url": DATA_URI},
        {"image_urls": [DATA_URI]},
    ):
        assert runsync(server, prompt | given)["status"] == "COMPLETED"
    refused = runsync(server, prompt | {"image": "http://169.254.169.254/latest"})
    assert refused["status"] == "FAILED"
    assert "not a public address" in refused["error"]


def test_an_image_made_here_is_read_without_the_network(server: LiveServer):
    link = runsync(server)["output"]["image_url"]
    assert runsync(server, an_input(image=link))["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("endpoint", "fields", "size"),
    [
        (EDIT, {}, (512, 384)),
        (EDIT, {"size": "1328*1328"}, (512, 384)),
        (EDIT, {"size": "640x512"}, (640, 512)),
        (EDIT, {"width": 320, "height": 256}, (320, 256)),
        (NEWER, {}, (1024, 1024)),
        (NEWER, {"size": "1328*1328"}, (1328, 1328)),
    ],
)
def test_sizes(server: LiveServer, endpoint: str, fields: dict[str, Any], size: tuple[int, int]):
    done = runsync(server, an_input(**fields), endpoint=endpoint)
    made = image_at(done["output"]["image_url"]).size
    if size == (512, 384):  # follows the input's shape; which size that is, is the model's matter
        assert made[0] / made[1] == pytest.approx(4 / 3, rel=0.05)
    else:
        assert made == size
    unasked = fields.get("size") == "1328*1328" and endpoint == EDIT
    assert ("input.size" in str(done["output"].get("notices"))) == unasked


def test_the_cost_follows_the_vendors_example(server: LiveServer):
    """Check 34: the ledger counts whole millionths of a dollar, the answer shows eight decimals."""
    done = runsync(server, an_input(size="1024*1024"))
    assert done["output"]["cost"] == 0.02097152
    assert image_at(done["output"]["image_url"]).size == (1024, 1024)


def test_the_answer_may_be_the_file_itself(server: LiveServer):
    output = runsync(server, an_input(enable_base64_output=True, output_format="png"))["output"]
    assert base64.b64decode(output["result"], validate=True) == httpx.get(output["image_url"]).content


def test_the_links_need_no_key(idle: LiveServer, server: LiveServer):
    assert httpx.get(runsync(server)["output"]["image_url"]).status_code == 200


def test_a_submit_that_is_repeated_with_its_idempotency_key_is_one_job(idle: LiveServer):
    key = {"Idempotency-Key": "once"}
    ids = {call(idle, "POST", "run", json={"input": an_input()}, headers=key).json()["id"] for _ in range(2)}
    assert len(ids) == 1
    other = call(idle, "POST", "run", json={"input": an_input(seed=1)}, headers=key)
    assert other.status_code == 400


def test_an_idempotency_key_of_one_face_means_nothing_on_another(idle: LiveServer):
    """Fal's call would be refused as another body, or answered with the job of RunPod's."""
    key = {"Idempotency-Key": "shared"}
    ours = call(idle, "POST", "run", json={"input": an_input()}, headers=key)
    body = {"prompt": "make it red", "image_urls": [DATA_URI]}
    authorization = {"Authorization": f"Key {idle.key}"}
    theirs = httpx.post(f"{idle.url}/fal/queue/fal-ai/qwen-image-edit-plus", json=body, headers=key | authorization)
    assert ours.status_code == 200, ours.text
    assert theirs.status_code == 200, theirs.text
    assert theirs.json()["request_id"] not in ours.json()["id"]


# --- safety


def test_a_refused_image_is_a_failed_job_without_a_cost(tmp_path_factory: pytest.TempPathFactory):
    """Check 16; the caller may switch the check off, as the vendor allows."""
    with live_server(tmp_path_factory.mktemp("runpod-safe"), arguments=("--safety-threshold", "0")) as strict:
        refused = runsync(strict)
        assert (refused["status"], refused["error"]) == (
            "FAILED",
            "The image in 'image' was refused by the safety checker.",
        )
        assert "cost" not in str(refused)
        unchecked = runsync(strict, an_input(enable_safety_checker=False))
        assert unchecked["status"] == "COMPLETED"
        assert "has_nsfw_concepts" not in unchecked["output"]


# --- the rest


def test_health_has_all_counters_and_they_add_up(gated: Deployment):
    """Check 39."""
    before = call(gated.url, "GET", "health").json()["jobs"]
    submit(gated.url)
    gated.running()
    call(gated.url, "POST", f"cancel/{submit(gated.url)}")
    submit(gated.url)
    body = call(gated.url, "GET", "health").json()
    assert sorted(body["jobs"]) == ["completed", "failed", "inProgress", "inQueue", "retried"]
    assert sorted(body["workers"]) == ["idle", "initializing", "ready", "running", "throttled", "unhealthy"]
    assert all(type(count) is int for group in body.values() for count in group.values())
    assert (body["jobs"]["inProgress"], body["jobs"]["inQueue"]) == (1, 1)
    assert body["jobs"]["completed"] == before["completed"]
    workers = body["workers"]
    assert workers["idle"] + workers["running"] == workers["ready"] == 1
    assert workers["running"] == 1


def test_requests_lists_the_callers_own_jobs_newest_first(idle: LiveServer):
    older, newer = submit(idle), submit(idle)
    listed = call(idle, "GET", "requests").json()["requests"]
    assert [each["id"] for each in listed[:2]] == [newer, older]
    assert all(each["status"] in ("IN_QUEUE", *FINAL) for each in listed)


def test_metrics_names_the_workers_that_are_ready(server: LiveServer):
    worker = runsync(server)["workerId"]
    assert call(server, "GET", "metrics").json() == {"readyWorkers": [worker]}


def test_another_key_sees_and_moves_nothing(idle: LiveServer):
    database = Database(f"sqlite:///{idle.data / 'retouch.db'}")
    other = Keys(database).create("other")
    database.close()
    mine = submit(idle)
    for method, operation in (("GET", "status"), ("GET", "stream"), ("POST", "cancel"), ("POST", "retry")):
        assert call(idle, method, f"{operation}/{mine}", key=other).status_code == 404
    assert call(idle, "POST", "purge-queue", key=other).json()["removed"] == 0
    assert call(idle, "GET", "requests", key=other).json() == {"requests": []}
    assert call(idle, "GET", "health", key=other).json()["jobs"]["inQueue"] == 0
    assert status(idle, mine)["status"] == "IN_QUEUE"
