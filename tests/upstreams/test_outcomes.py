"""What an answer means, kind by kind: errors by code before status, ends of jobs, cancels, and lost submits found again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retouch.upstreams.upstream import (
    Accepted,
    Failed,
    Fault,
    FaultKind,
    Finished,
    ImageMode,
    Pending,
    RemoteState,
    SubmitOutcome,
    Ticket,
    Unreadable,
)
from tests.upstreams.conftest import KINDS, World, make_world
from tests.upstreams.stubs.server import Closes, Cut, Says, png

K = FaultKind


def openai_error(status: int, code: str, *, kind: str = "invalid_request_error", **headers: str) -> Says:
    return Says.json(status, {"error": {"message": "because", "type": kind, "param": None, "code": code}}, **headers)


def alibaba_error(status: int, code: str) -> Says:
    return Says.json(status, {"request_id": "r", "code": code, "message": "because"})


def fal_error(status: int, kind: str, **headers: str) -> Says:
    detail = [{"loc": ["body", "prompt"], "msg": "because", "type": kind}]
    return Says.json(status, {"detail": detail}, **headers)


HTML = b"<html><body>nginx</body></html>"
PROXIES = [Says(status, HTML, {"Content-Type": "text/html"}) for status in (502, 503, 504)]


@dataclass(frozen=True)
class Row:
    """An answer to a submit, and what it means."""

    kind: str
    answer: Says
    meaning: FaultKind
    charged: bool | None = False
    retry_after_s: float | None = None


ROWS = [
    *(Row("fal", answer, K.PROXY) for answer in PROXIES),
    Row("fal", Says(502, HTML, {"x-fal-request-id": "r"}), K.MALFORMED, None),
    Row("fal", Says.json(500, {"detail": "x", "error_type": "internal_error"}), K.SERVER),
    Row("fal", Says.json(503, {"detail": "x", "error_type": "runner_disconnected"}), K.SERVER),
    Row("fal", fal_error(422, "content_policy_violation"), K.REFUSED),
    Row("fal", fal_error(422, "missing"), K.INVALID),
    Row("fal", fal_error(422, "image_too_large"), K.INVALID),
    Row("fal", Says.json(401, {"detail": "invalid key credentials"}), K.AUTHENTICATION),
    Row("fal", Says.json(403, {"detail": "User is locked. Reason: Exhausted balance."}), K.AUTHENTICATION),
    Row("fal", Says.json(404, {"detail": "Path /x not found"}), K.UNKNOWN_MODEL),
    Row("fal", Says.json(429, {"detail": "x", "error_type": "concurrent_requests_limit"}), K.THROTTLED),
    Row("fal", Says.json(429, {"detail": "x"}, retry_after="3600"), K.THROTTLED, retry_after_s=3600),
    *(Row("runpod", answer, K.PROXY, None) for answer in PROXIES),
    Row("runpod", Says.json(500, {"error": "x"}), K.SERVER),
    Row("runpod", Says(500), K.SERVER),
    Row("runpod", Says.json(400, {"error": "x"}), K.INVALID),
    Row("runpod", Says(401), K.AUTHENTICATION),
    Row("runpod", Says(404), K.UNKNOWN_MODEL),
    Row("runpod", Says.json(429, {"error": "x"}, retry_after="1"), K.THROTTLED, retry_after_s=1),
    *(Row("replicate", answer, K.PROXY, None) for answer in PROXIES),
    Row("replicate", Says.json(500, {"title": "x", "detail": "x"}), K.SERVER, None),
    Row("replicate", Says.json(402, {"title": "Insufficient credit", "detail": "x"}), K.QUOTA),
    Row("replicate", Says.json(422, {"title": "x", "detail": "input: because"}), K.INVALID),
    Row(
        "replicate",
        Says.json(429, {"detail": "Request was throttled. Your rate limit resets in ~30s."}),
        K.THROTTLED,
        retry_after_s=30,
    ),
    *(Row("dashscope", answer, K.PROXY, None) for answer in PROXIES),
    *(Row("dashscope", alibaba_error(status, "DataInspectionFailed"), K.REFUSED) for status in (200, 400, 429)),
    Row("dashscope", alibaba_error(500, "InternalError.Algo.DataInspectionFailed"), K.REFUSED),
    Row("dashscope", alibaba_error(400, "IPInfringementSuspect"), K.REFUSED),
    Row("dashscope", alibaba_error(200, "InvalidParameter"), K.INVALID),
    Row("dashscope", alibaba_error(400, "InvalidParameter.SomethingNew"), K.INVALID),
    Row("dashscope", alibaba_error(200, "Arrearage"), K.QUOTA),
    Row("dashscope", alibaba_error(429, "Throttling.AllocationQuota"), K.QUOTA),
    Row("dashscope", alibaba_error(429, "Throttling.RateQuota"), K.THROTTLED, retry_after_s=60),
    Row("dashscope", alibaba_error(401, "InvalidApiKey"), K.AUTHENTICATION),
    Row("dashscope", alibaba_error(403, "AccessDenied"), K.AUTHENTICATION),
    Row("dashscope", alibaba_error(404, "ModelNotFound"), K.UNKNOWN_MODEL),
    Row("dashscope", alibaba_error(500, "InternalError"), K.SERVER),
    Row("dashscope", alibaba_error(200, "SomethingNew"), K.SERVER),
    Row("dashscope task", alibaba_error(200, "DataInspectionFailed"), K.REFUSED),
    *(Row("openai", answer, K.PROXY, None) for answer in PROXIES),
    Row("openai", openai_error(500, "internal_error", kind="server_error"), K.SERVER, None),
    Row("openai", openai_error(502, "all_providers_exhausted", kind="upstream_error"), K.SERVER, None),
    Row("openai", openai_error(502, "upstream_outcome_unknown", kind="upstream_error"), K.NO_ANSWER, None),
    Row("openai", openai_error(400, "content_policy_violation"), K.REFUSED),
    Row("openai", openai_error(400, "moderation_blocked"), K.REFUSED),
    Row("openai", openai_error(429, "content_policy_violation"), K.REFUSED),
    Row("openai", openai_error(400, "invalid_value"), K.INVALID),
    Row("openai", openai_error(413, "image_too_large"), K.INVALID),
    Row("openai", openai_error(401, "invalid_api_key"), K.AUTHENTICATION),
    Row("openai", openai_error(404, "model_not_found"), K.UNKNOWN_MODEL),
    Row("openai", openai_error(429, "insufficient_quota", kind="insufficient_quota"), K.QUOTA),
    Row("openai", openai_error(402, "insufficient_balance", kind="billing_error"), K.QUOTA),
    Row("openai", openai_error(429, "rate_limit_exceeded", retry_after="2"), K.THROTTLED, retry_after_s=2),
    Row("litellm", Says.json(422, {"detail": [{"loc": ["body", "image"], "msg": "because"}]}), K.INVALID),
    Row("lumenfall", Says.json(500, {"detail": "because"}), K.SERVER, None),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.answer.status}-{row.meaning}")
def test_an_error_is_read_by_its_code_before_its_status(row: Row, tmp_path: Path) -> None:
    world = make_world(KINDS[row.kind], tmp_path)
    world.stub.script("submit", row.answer)
    fault = fault_of(world.open(images=ImageMode.INLINE).submit(world.call()))
    assert (fault.kind, fault.charged, fault.retry_after_s) == (row.meaning, row.charged, row.retry_after_s)
    assert fault.status == (None if row.answer.status == 200 else row.answer.status)
    assert len(world.stub.at("submit")) == 1
    if b"because" in row.answer.body:
        assert "because" in fault.message
    world.close()


def fault_of(outcome: SubmitOutcome | Any) -> Fault:
    assert isinstance(outcome, Failed), outcome
    return outcome.fault


def accepted(world: World) -> Ticket:
    outcome = world.upstream.submit(world.call())
    assert isinstance(outcome, Accepted), outcome
    return outcome.ticket


def test_the_states_of_a_job_are_reported_in_order(queue_world: World) -> None:
    queue_world.stub.plan = ("queued", "running", "queued", "running", "done")
    ticket = accepted(queue_world)
    states = [queue_world.upstream.poll(ticket) for _ in range(4)]
    assert [getattr(state, "state", None) for state in states] == [
        RemoteState.QUEUED,
        RemoteState.RUNNING,
        RemoteState.QUEUED,
        RemoteState.RUNNING,
    ]
    assert isinstance(queue_world.upstream.poll(ticket), Finished)


def test_a_result_can_be_read_again(queue_world: World) -> None:
    ticket = accepted(queue_world)
    first, second = queue_world.end(ticket), queue_world.end(ticket)
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert len(queue_world.stub.bill) == 1


@pytest.mark.parametrize("answer", [*PROXIES, Says(200, b"{"), Says(200, b"[]"), Says(500), Says(429), Cut(), Closes()])
def test_a_poll_that_tells_nothing_ends_nothing(queue_world: World, answer: Says | Cut | Closes) -> None:
    ticket = accepted(queue_world)
    queue_world.stub.script("poll", answer)
    assert isinstance(queue_world.upstream.poll(ticket), Unreadable)
    assert isinstance(queue_world.end(ticket), Finished)


@pytest.mark.parametrize("answer", [*PROXIES, Says(200, b"{"), Cut(), Closes()])
def test_neither_does_a_result_that_broke_off(tmp_path: Path, answer: Says | Cut | Closes) -> None:
    world = make_world(KINDS["fal"], tmp_path)
    world.stub.plan = ("done",)
    ticket = accepted(world)
    world.stub.script("result", answer)
    assert isinstance(world.upstream.poll(ticket), Unreadable)
    assert isinstance(world.upstream.poll(ticket), Finished)
    world.close()


def test_a_job_that_is_not_known_any_more_is_distinguished(queue_world: World) -> None:
    ticket = accepted(queue_world)
    queue_world.stub.jobs.clear()
    assert fault_of(queue_world.upstream.poll(ticket)).kind is K.UNKNOWN_JOB


def test_a_job_cancelled_while_it_waits_is_not_charged(queue_world: World) -> None:
    ticket = accepted(queue_world)
    assert queue_world.upstream.cancel(ticket)
    fault = fault_of(queue_world.end(ticket))
    assert (fault.kind, fault.charged) == (K.CANCELLED, False)
    assert queue_world.stub.bill == {}


CANCELLED_RUNNING = {"fal": False, "retouch": False, "runpod": False, "replicate": True}


def test_a_running_job_is_cancelled_where_the_provider_can(queue_world: World) -> None:
    queue_world.stub.plan = ("running",)
    ticket = accepted(queue_world)
    queue_world.upstream.poll(ticket)
    if queue_world.kind.name == "dashscope task":
        assert not queue_world.upstream.cancel(ticket)
        return
    assert queue_world.upstream.cancel(ticket)
    fault = fault_of(queue_world.end(ticket))
    assert (fault.kind, fault.charged) == (K.CANCELLED, CANCELLED_RUNNING[queue_world.kind.name])


def test_a_cancel_after_the_end_changes_nothing(queue_world: World) -> None:
    ticket = accepted(queue_world)
    finished = queue_world.end(ticket)
    if queue_world.kind.name in ("fal", "retouch", "dashscope task"):
        assert not queue_world.upstream.cancel(ticket)
        assert queue_world.end(ticket) == finished


ENDED_BY_ITSELF = {
    "fal": (K.CANCELLED, False),
    "retouch": (K.CANCELLED, False),
    "runpod": (K.TIMED_OUT, False),
    "replicate": (K.CANCELLED, False),
    "dashscope task": (K.UNKNOWN_JOB, None),
}


def test_a_job_that_the_provider_ended_itself_is_reported(queue_world: World) -> None:
    queue_world.stub.plan = ("queued", "aborted")
    fault = fault_of(queue_world.run())
    assert (fault.kind, fault.charged) == ENDED_BY_ITSELF[queue_world.kind.name]


def test_an_own_endpoint_that_is_paid_by_the_second_is_charged_for_failures(tmp_path: Path) -> None:
    world = make_world(KINDS["runpod"], tmp_path)
    upstream = world.open(metered=True)
    world.stub.plan = ("aborted",)
    assert fault_of(world.run(upstream=upstream)).charged is True
    assert upstream.traits.server_errors_charged is True
    world.close()


def job_failed(kind: str, words: str) -> Says:
    return {
        "runpod": Says.json(200, {"id": "j", "status": "FAILED", "error": words}),
        "replicate": Says.json(200, {"id": "j", "status": "failed", "error": words, "output": None}),
        "dashscope task": Says.json(200, {"output": {"task_status": "FAILED", "code": words, "message": words}}),
    }[kind]


FAILED_JOBS = [
    ("runpod", "Invalid image URL", K.INVALID),
    ("runpod", "The image was flagged as NSFW", K.REFUSED),
    ("runpod", '{"error_type": "X", "error_message": "CUDA out of memory", "error_traceback": "secret"}', K.SERVER),
    ("replicate", "Prediction was flagged as sensitive (E005)", K.REFUSED),
    ("replicate", "cannot identify image file", K.INVALID),
    ("replicate", "Director: unexpected error", K.SERVER),
    ("dashscope task", "DataInspectionFailed", K.REFUSED),
    ("dashscope task", "InputDownloadFailed", K.INVALID),
    ("dashscope task", "InternalError.Timeout", K.SERVER),
]


@pytest.mark.parametrize(("kind", "words", "meaning"), FAILED_JOBS)
def test_the_words_of_a_failed_job_say_whose_fault_it_was(
    kind: str, words: str, meaning: FaultKind, tmp_path: Path
) -> None:
    world = make_world(KINDS[kind], tmp_path)
    ticket = accepted(world)
    world.stub.script("poll", job_failed(kind, words))
    fault = fault_of(world.upstream.poll(ticket))
    assert fault.kind is meaning
    assert "secret" not in fault.message
    world.close()


FAL_RESULTS = [
    (fal_error(422, "content_policy_violation"), K.REFUSED, None),
    (fal_error(422, "image_load_error"), K.INVALID, None),
    (Says.json(500, {"detail": "x", "error_type": "internal_error"}), K.SERVER, False),
    (Says.json(504, {"detail": "x"}, x_fal_request_timeout_type="user"), K.TIMED_OUT, False),
    (Says.json(499, {"detail": ""}), K.CANCELLED, False),
]


@pytest.mark.parametrize(("answer", "meaning", "charged"), FAL_RESULTS)
def test_a_failed_job_of_the_queue_is_read_from_its_result(
    answer: Says, meaning: FaultKind, charged: bool | None, tmp_path: Path
) -> None:
    world = make_world(KINDS["fal"], tmp_path)
    world.stub.plan = ("done",)
    ticket = accepted(world)
    world.stub.script("result", answer)
    fault = fault_of(world.upstream.poll(ticket))
    assert (fault.kind, fault.charged) == (meaning, charged)
    world.close()


def test_a_result_without_images_is_a_failure(queue_world: World) -> None:
    empty = {
        "fal": {"images": []},
        "retouch": {"images": []},
        "runpod": {"status": "COMPLETED", "output": {"image_url": ""}},
        "replicate": {"status": "succeeded", "output": []},
        "dashscope task": {"output": {"task_status": "SUCCEEDED", "choices": []}},
    }[queue_world.kind.name]
    queue_world.stub.plan = ("done",)
    ticket = accepted(queue_world)
    station = "result" if queue_world.kind.name in ("fal", "retouch") else "poll"
    queue_world.stub.script(station, Says.json(200, empty))
    assert fault_of(queue_world.upstream.poll(ticket)).kind is K.MALFORMED


def test_a_deleted_result_is_lost(tmp_path: Path) -> None:
    world = make_world(KINDS["replicate"], tmp_path)
    ticket = accepted(world)
    world.stub.script("poll", Says.json(200, {"status": "succeeded", "output": None, "data_removed": True}))
    assert fault_of(world.upstream.poll(ticket)).kind is K.LOST
    world.close()


def test_log_lines_are_reported_once_and_steps_where_there_are_any(queue_world: World) -> None:
    queue_world.stub.plan = ("running",)
    ticket = accepted(queue_world)
    first, second = queue_world.upstream.poll(ticket), queue_world.upstream.poll(ticket)
    assert isinstance(first, Pending)
    assert isinstance(second, Pending)
    assert second.logs == ()
    if queue_world.kind.name in ("fal", "retouch"):
        assert first.logs == ("Step 1 of 2",)
    if queue_world.kind.name == "retouch":
        assert (first.step, first.steps) == (1, 2)


COSTS = {"runpod": 30_000, "lumenfall": 30_000, "litellm": 30_000}


def test_the_cost_that_a_provider_tells_is_taken_and_no_other_is_made_up(world: World) -> None:
    assert world.finished().result.cost_microusd == COSTS.get(world.kind.name)


@pytest.mark.parametrize("reported", [-5, True, 1.5, "7", 2**63, None])
def test_a_seed_that_cannot_be_one_is_not_reported(reported: object, tmp_path: Path) -> None:
    world = make_world(KINDS["fal"], tmp_path)
    world.stub.plan = ("done",)
    ticket = accepted(world)
    world.stub.files["made"] = png()
    link = f"{world.stub.url}/results/made"
    world.stub.script("result", Says.json(200, {"images": [{"url": link}], "seed": reported}))
    outcome = world.upstream.poll(ticket)
    world.close()
    assert isinstance(outcome, Finished), outcome
    assert outcome.result.seed is None


def test_units_that_a_provider_counts_are_priced(tmp_path: Path) -> None:
    world = make_world(KINDS["fal"], tmp_path)
    prices = {world.kind.endpoint: 35_000}
    assert world.finished(upstream=world.open(unit_price=prices.get)).result.cost_microusd == 35_000
    assert world.finished(upstream=world.open(unit_price={}.get)).result.cost_microusd is None
    world.close()


HISTORIES = ("fal", "replicate", "retouch")


@pytest.mark.parametrize("links", [True, False])
def test_a_lost_submit_is_found_by_seed_and_link(queue_world: World, links: bool) -> None:
    call = queue_world.call(links=links)
    others = [queue_world.call(links=links, seed=5), queue_world.call(links=links, prompt="make it snow", seed=6)]
    since = datetime.now(UTC)
    queue_world.stub.script("submit", Closes())
    upstream = queue_world.open(images=ImageMode.AUTO if links else ImageMode.INLINE)
    assert fault_of(upstream.submit(call)).kind is K.NO_ANSWER
    made = next(iter(queue_world.stub.jobs))
    for number, other in enumerate(others):
        object.__setattr__(other, "seed", 5 + number)
        upstream.submit(other)
    found = upstream.find(call, since)
    if queue_world.kind.name not in HISTORIES:
        assert found is None
        assert not upstream.traits.has_history
        return
    assert found is not None
    assert found.id == made
    assert isinstance(queue_world.end(found, upstream), Finished)
    assert len(queue_world.stub.at("submit")) == 3


def test_nothing_is_found_that_was_never_taken(queue_world: World) -> None:
    queue_world.upstream.submit(queue_world.call(links=True))
    for job in queue_world.stub.jobs.values():
        job.input = {**job.input, "seed": 99}
    assert queue_world.upstream.find(queue_world.call(links=True), datetime.now(UTC)) is None


def test_what_was_made_before_the_submit_is_not_found(tmp_path: Path) -> None:
    world = make_world(KINDS["replicate"], tmp_path)
    world.upstream.submit(world.call())
    assert world.upstream.find(world.call(), datetime.now(UTC) + timedelta(minutes=5)) is None
    world.close()


def test_a_broken_history_is_no_history(queue_world: World) -> None:
    queue_world.upstream.submit(queue_world.call())
    for answer in (Says(500), Says(200, b"["), Says.json(200, {"items": 5, "results": [5]}), Closes()):
        queue_world.stub.script("history", answer)
        assert queue_world.upstream.find(queue_world.call(), datetime.now(UTC)) is None


def test_a_kind_without_jobs_has_none_to_ask_for(world: World) -> None:
    if world.stub.base != "/v1":
        return
    ticket = Ticket("x", {"status": "/x", "cancel": "/x"})
    assert not isinstance(world.upstream.poll(ticket), Finished)
    assert world.upstream.find(world.call(), datetime.now(UTC)) is None
    assert world.upstream.verify_webhook("x", {}, b'{"id": "x"}') is None
