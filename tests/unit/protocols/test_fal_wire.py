"""fal's shapes: bodies to edits and back, jobs to answers, errors to the two documented forms."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch import errors
from retouch.edit import Acceleration, Delivery, EditOutput, EditRequest, ImageInput, Notice, OutputImage, Usage
from retouch.errors import Failure, RetouchError
from retouch.jobs.job import PRIORITY_LOW, PRIORITY_NORMAL, Job, JobEvent, JobState
from retouch.protocols.fal import dump
from retouch.protocols.fal.errors import BadRequest, InvalidBody, answer_to, answer_to_failure
from retouch.protocols.fal.parse import (
    ParsedEdit,
    endpoint_named,
    parse_edit,
    parse_json,
    parse_query,
    parse_request_path,
    parse_submit_options,
)
from retouch.protocols.fal.schemas import ENDPOINTS, Endpoint, Kind

EDIT = ENDPOINTS["fal-ai/qwen-image-edit"]
PLUS = ENDPOINTS["fal-ai/qwen-image-edit-plus"]
TWO = ENDPOINTS["fal-ai/qwen-image-2/edit"]
GOLDEN = Path(__file__).parents[2] / "golden" / "wire" / "fal"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LINK = "https://example.com/a.png"


def problems(endpoint: Endpoint, body: dict[str, Any]) -> list[dict[str, Any]]:
    with pytest.raises(InvalidBody) as refused:
        parse_edit(endpoint, body)
    detail: list[dict[str, Any]] = answer_to(refused.value, endpoint).body["detail"]
    return detail


def minimal(endpoint: Endpoint, **more: Any) -> dict[str, Any]:
    image = {"image_url": LINK} if "image_url" in endpoint.parameters else {"image_urls": [LINK]}
    return {"prompt": "make it snow", **image, **more}


def job(state: JobState = JobState.SUCCEEDED, endpoint: Endpoint = EDIT, **changes: Any) -> Job:
    output = EditOutput(
        images=(OutputImage("outputs/2026/abc_edit.png", 768, 1024, "image/png", 1234, 7),),
        prompt="make it snow",
        timings={"prepare": 0.25, "denoise": 1.5, "inference": 2.0},
        canvas=(768, 1024),
    )
    request = EditRequest(model=endpoint.id, prompt="make it snow", images=(ImageInput(url=LINK),))
    made = Job(
        id="9c08e7d8-312c-402d-a691-c207a9cb8121",
        account_id="a",
        queue="demo",
        state=state,
        request=request,
        delivery=Delivery("fal", endpoint.id),
        sequence=1,
        priority=PRIORITY_NORMAL,
        attempt=1,
        cancel_requested=False,
        step=4,
        steps=4,
        created_at=AT,
        queued_at=AT,
        started_at=AT + timedelta(seconds=1),
        finished_at=AT + timedelta(seconds=4) if state.final else None,
        output=output if state is JobState.SUCCEEDED else None,
    )
    return replace(made, **changes)


def urls(endpoint: Endpoint) -> dump.RequestUrls:
    return dump.RequestUrls.under("https://edits.example/fal/queue", endpoint.app, job().id)


# --- bodies


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda e: e.id)
def test_a_minimal_body_takes_the_published_defaults(endpoint: Endpoint):
    """Checklist 43."""
    edit = parse_edit(endpoint, minimal(endpoint))
    assert edit.images == (LINK,)
    assert edit.inline is False
    assert edit.request.num_images == 1
    assert edit.request.output_format == "png"
    assert edit.request.enable_safety_checker is True
    assert edit.request.seed is None
    # The model's row fills these, so that a distilled checkpoint can use its own.
    assert (edit.request.steps, edit.request.guidance_scale, edit.request.acceleration) == (None, None, None)


def test_the_schemas_are_the_published_ones():
    """Checklist 43: names, order of the answer, defaults and ranges of the endpoints."""
    rows = {
        endpoint.id: [
            (p.name, p.kind.value, p.required, p.default, p.minimum, p.maximum, p.max_length)
            for p in endpoint.parameters.values()
        ]
        for endpoint in ENDPOINTS.values()
    }
    steps = "num_inference_steps"
    assert (steps, "integer", False, 30, 2, 50, None) in rows[EDIT.id]
    assert (steps, "integer", False, 50, 2, 100, None) in rows[PLUS.id]
    assert steps not in [row[0] for row in rows[TWO.id]]
    assert ("guidance_scale", "float", False, 4, 0, 20, None) in rows[EDIT.id]
    assert ("num_images", "integer", False, 1, 1, 4, None) in rows[PLUS.id]
    assert ("seed", "integer", False, None, 0, 2_147_483_647, None) in rows[TWO.id]
    assert ("prompt", "string", True, None, None, None, 800) in rows[TWO.id]
    assert ("negative_prompt", "string", False, "", None, None, 500) in rows[TWO.id]
    assert ("negative_prompt", "string", False, " ", None, None, 32_000) in rows[EDIT.id]
    assert ("enable_prompt_expansion", "boolean", False, True, None, None, None) in rows[TWO.id]
    images = TWO.parameters["image_urls"]
    assert (images.min_length, images.max_length) == (1, 6)
    size = PLUS.parameters["image_size"]
    assert size.default == "square_hd"
    acceleration = EDIT.parameters["acceleration"]
    assert (acceleration.default, acceleration.choices) == ("regular", ("none", "regular", "high"))
    assert EDIT.output == PLUS.output == ("images", "timings", "seed", "has_nsfw_concepts", "prompt")
    assert TWO.output == ("images", "seed")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("square_hd", (1024, 1024)),
        ("square", (512, 512)),
        ("portrait_4_3", (768, 1024)),
        ("portrait_16_9", (576, 1024)),
        ("landscape_4_3", (1024, 768)),
        ("landscape_16_9", (1024, 576)),
        ("portrait_3_4", (768, 1024)),
        ("portrait_9_16", (576, 1024)),
        ({"width": 640, "height": 480}, (640, 480)),
        ({"width": 640}, (640, 512)),
    ],
)
def test_sizes_are_names_or_objects(name: object, size: tuple[int, int]):
    edit = parse_edit(PLUS, minimal(PLUS, image_size=name))
    assert (edit.request.size.width, edit.request.size.height) == size


def test_numbers_may_come_as_text_and_null_counts_as_absent():
    body = minimal(EDIT, num_images="2", guidance_scale="3.5", sync_mode="true", seed=None, num_inference_steps=8.0)
    edit = parse_edit(EDIT, body)
    assert edit.request.num_images == 2
    assert edit.request.guidance_scale == 3.5
    assert edit.inline is True
    assert edit.request.seed is None
    assert edit.request.steps == 8


@pytest.mark.parametrize("seed", [42.0, "42", "42.0", " 42.00 ", "4.2e1", "+42"])
def test_a_whole_number_may_come_with_a_fraction_of_nothing(seed: object):
    assert parse_edit(EDIT, minimal(EDIT, seed=seed, image_size={"width": "640.0"})).request.seed == 42


def test_no_digit_of_a_large_seed_is_lost():
    assert parse_edit(EDIT, minimal(EDIT, seed="9007199254740993.0")).request.seed == 9_007_199_254_740_993
    assert parse_edit(EDIT, minimal(EDIT, seed=str(2**63 - 1))).request.seed == 2**63 - 1


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        ("42.5", "int_from_float"),
        ("NaN", "int_parsing"),
        ("Infinity", "int_parsing"),
        ("1e999999", "int_parsing"),
        ("0" * 50 + "1", "int_parsing"),
        ("", "int_parsing"),
    ],
)
def test_what_is_no_whole_number_is_refused(seed: str, kind: str):
    (problem,) = problems(EDIT, minimal(EDIT, seed=seed))
    assert (problem["loc"], problem["type"]) == (["body", "seed"], kind)


def test_limits_are_reported_in_full():
    (problem,) = problems(EDIT, minimal(EDIT, seed=2**63))
    assert problem["msg"] == "Input should be less than or equal to 9223372036854775807"
    assert problem["ctx"] == {"le": 2**63 - 1}


@pytest.mark.parametrize(("word", "format_"), [("jpg", "jpeg"), ("JPG", "jpeg"), ("PNG", "png"), ("Jpeg", "jpeg")])
def test_a_word_may_be_written_in_capitals(word: str, format_: str):
    body = minimal(EDIT, output_format=word, acceleration="None", image_size="Square_HD")
    request = parse_edit(EDIT, body).request
    assert (request.output_format, request.acceleration, request.size.width) == (format_, "none", 1024)


def test_a_body_in_the_query_string_is_read_the_same_way():
    query = [
        ("prompt", "p"),
        ("image_urls", "https://a.example/1.png"),
        ("image_urls", "https://a.example/2.png"),
        ("seed", "3"),
    ]
    edit = parse_edit(PLUS, parse_query(PLUS, query))
    assert edit.images == ("https://a.example/1.png", "https://a.example/2.png")
    assert edit.request.seed == 3


def test_missing_fields_are_all_named_at_once():
    """Checklist 25 and 27."""
    detail = problems(EDIT, dict(parse_json(b"")))
    assert [(p["loc"], p["msg"], p["type"]) for p in detail] == [
        (["body", "prompt"], "Field required", "missing"),
        (["body", "image_url"], "Field required", "missing"),
    ]
    assert detail[0]["url"] == "https://docs.fal.ai/errors/#missing"


@pytest.mark.parametrize(
    ("endpoint", "field", "value", "kind", "context"),
    [
        (EDIT, "num_inference_steps", 1, "greater_than_equal", {"ge": 2}),
        (EDIT, "num_inference_steps", 51, "less_than_equal", {"le": 50}),
        (EDIT, "num_inference_steps", 2.5, "int_from_float", None),
        (EDIT, "num_inference_steps", "many", "int_parsing", None),
        (EDIT, "num_inference_steps", True, "int_type", None),
        (EDIT, "guidance_scale", 20.5, "less_than_equal", {"le": 20}),
        (EDIT, "guidance_scale", "strong", "float_parsing", None),
        (EDIT, "guidance_scale", 10**400, "float_parsing", None),
        (EDIT, "seed", -1, "greater_than_equal", {"ge": 0}),
        (TWO, "seed", 2**31, "less_than_equal", {"le": 2**31 - 1}),
        (EDIT, "num_images", 5, "less_than_equal", {"le": 4}),
        (EDIT, "sync_mode", "perhaps", "bool_parsing", None),
        (EDIT, "sync_mode", [], "bool_type", None),
        (EDIT, "output_format", "bmp", "one_of", {"expected": ["jpeg", "png"]}),
        (EDIT, "acceleration", "warp", "one_of", {"expected": ["none", "regular", "high"]}),
        (EDIT, "prompt", 5, "string_type", None),
        (TWO, "prompt", "x" * 801, "string_too_long", {"max_length": 800}),
        (TWO, "negative_prompt", "x" * 501, "string_too_long", {"max_length": 500}),
        (PLUS, "image_urls", LINK, "list_type", None),
        (PLUS, "image_urls", [], "sequence_too_short", {"min_length": 1}),
        (TWO, "image_urls", [LINK] * 7, "sequence_too_long", {"max_length": 6}),
        (EDIT, "image_size", "enormous", "one_of", None),
    ],
)
def test_each_mistake_has_the_documented_type(
    endpoint: Endpoint, field: str, value: object, kind: str, context: dict[str, object] | None
):
    """Checklist 26."""
    (problem,) = problems(endpoint, minimal(endpoint, **{field: value}))
    assert problem["loc"] == ["body", field]
    assert problem["type"] == kind
    if context is not None:
        assert problem["ctx"] == context


@pytest.mark.parametrize(
    ("endpoint", "size", "loc", "kind"),
    [
        (EDIT, {"width": 0, "height": 10}, ["width"], "greater_than"),
        (EDIT, {"width": 15_000, "height": 10}, ["width"], "less_than_equal"),
        (EDIT, {"width": "wide"}, ["width"], "int_parsing"),
        (EDIT, {"width": 512, "depth": 3}, ["depth"], "extra_forbidden"),
        (TWO, {"width": 256, "height": 256}, [], "greater_than_equal"),
        (TWO, {"width": 4096, "height": 2048}, [], "less_than_equal"),
    ],
)
def test_a_size_object_is_checked_part_by_part(endpoint: Endpoint, size: object, loc: list[str], kind: str):
    (problem,) = problems(endpoint, minimal(endpoint, image_size=size))
    assert (problem["loc"], problem["type"]) == (["body", "image_size", *loc], kind)


def test_an_entry_that_is_no_text_is_named_by_its_place():
    (problem,) = problems(PLUS, minimal(PLUS, image_urls=[LINK, 5]))
    assert (problem["loc"], problem["type"]) == (["body", "image_urls", 1], "string_type")


def test_an_unknown_input_is_refused_with_a_suggestion():
    (problem,) = problems(EDIT, minimal(EDIT, num_inference_step=4))
    assert (problem["loc"], problem["type"]) == (["body", "num_inference_step"], "extra_forbidden")
    assert "num_inference_steps" in problem["msg"]


def test_a_suggestion_ends_as_a_question():
    with pytest.raises(InvalidBody) as refused:
        parse_edit(EDIT, {"promt": "p", "image_url": LINK})
    for text in (refused.value.message, answer_to(refused.value).body["message"]):
        assert "did you mean 'prompt'? prompt: Field required." in text
        assert "?." not in text


@pytest.mark.parametrize("data", [b"{", b"[1]", b'"text"', b"nul", b"\xff\xfe", b'{"prompt": NaN}'])
def test_what_is_no_json_object_is_refused(data: bytes):
    with pytest.raises(InvalidBody) as refused:
        parse_json(data)
    (problem,) = answer_to(refused.value).body["detail"]
    assert problem["loc"][0] == "body"
    assert problem["type"] in ("json_invalid", "dict_type")


@given(st.data())
def test_an_edit_survives_being_dumped_and_parsed(data: st.DataObject):
    endpoint = data.draw(st.sampled_from(list(ENDPOINTS.values())))
    body: dict[str, Any] = {}
    for p in endpoint.parameters.values():
        if p.required or data.draw(st.booleans()):
            body[p.name] = data.draw(_value(p.kind, p))
    edit = parse_edit(endpoint, body)
    again = parse_edit(endpoint, json.loads(json.dumps(body_of(endpoint, edit))))
    words = replace(again.request.size, words=edit.request.size.words)
    assert replace(again, request=replace(again.request, size=words)) == edit


def body_of(endpoint: Endpoint, edit: ParsedEdit) -> dict[str, Any]:
    """The body that asks for the same edit."""
    request, size = edit.request, edit.request.size
    values: dict[str, Any] = {
        "prompt": request.prompt,
        "images": edit.images[0] if "image_url" in endpoint.parameters else list(edit.images),
        "negative_prompt": request.negative_prompt,
        "size": None if size.width is None else {"width": size.width, "height": size.height},
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
        "inline": edit.inline,
        "num_images": request.num_images,
        "enable_safety_checker": request.enable_safety_checker,
        "enable_prompt_expansion": request.enable_prompt_expansion,
        "output_format": request.output_format.value,
        "acceleration": None if request.acceleration is None else request.acceleration.value,
        "loras": [{"path": lora.path, "scale": lora.scale} for lora in request.loras],
    }
    return {p.name: values[p.canonical] for p in endpoint.parameters.values() if values[p.canonical] is not None}


def _value(kind: Kind, p: Any) -> st.SearchStrategy[Any]:
    low, high = p.minimum or 0, p.maximum or 100
    text = st.text(min_size=1, max_size=20)
    sides = st.integers(512, 2048)
    return {
        Kind.STRING: text,
        Kind.INTEGER: st.integers(int(low), int(high)),
        Kind.NUMBER: st.floats(low, high),
        Kind.BOOLEAN: st.booleans(),
        Kind.WORD: st.sampled_from(p.choices or ("-",)),
        Kind.LINK: text,
        Kind.LINKS: st.lists(text, min_size=1, max_size=p.max_length),
        Kind.IMAGE_SIZE: st.sampled_from(p.choices or ("-",))
        | st.fixed_dictionaries({"width": sides, "height": sides}),
        Kind.LORAS: st.lists(
            st.fixed_dictionaries(
                {"path": st.from_regex(r"[a-z/.]{1,20}", fullmatch=True)}, optional={"scale": st.floats(0, 4)}
            ),
            max_size=p.max_length,
        ),
    }[kind]


def refusal(endpoint: Endpoint, body: dict[str, Any]) -> int | None:
    try:
        parse_edit(endpoint, body)
    except RetouchError as error:
        return answer_to(error, endpoint).status
    return None


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x, max_size=3))
)
def test_whatever_a_field_holds_the_answer_is_an_edit_or_a_422(value: object):
    for endpoint in ENDPOINTS.values():
        for p in endpoint.parameters.values():
            assert refusal(endpoint, minimal(endpoint, **{p.name: value})) in (None, 422)


# --- paths, headers


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fal-ai/qwen-image-edit/requests/1", ("fal-ai/qwen-image-edit", "1", "result")),
        ("fal-ai/qwen-image-2/requests/1/", ("fal-ai/qwen-image-2", "1", "result")),
        ("fal-ai/qwen-image-2/edit/requests/1/response", ("fal-ai/qwen-image-2/edit", "1", "result")),
        ("fal-ai/qwen-image-2/requests/1/status/", ("fal-ai/qwen-image-2", "1", "status")),
        ("fal-ai/qwen-image-2/requests/1/status/stream", ("fal-ai/qwen-image-2", "1", "stream")),
        ("fal-ai/qwen-image-2/requests/1/cancel", ("fal-ai/qwen-image-2", "1", "cancel")),
        ("fal-ai/qwen-image-2/edit", None),
        ("requests/1", None),
        ("fal-ai/x/requests", None),
        ("fal-ai/x/requests/1/explode", None),
    ],
)
def test_request_paths_in_every_form_seen(path: str, expected: tuple[str, str, str] | None):
    """Checklist 3 and 50."""
    parsed = parse_request_path(path)
    assert (parsed and (parsed.base, parsed.request_id, parsed.action)) == expected


def test_the_urls_of_a_request_leave_the_endpoints_own_path_out():
    """Checklist 3."""
    assert urls(TWO).status == f"https://edits.example/fal/queue/fal-ai/qwen-image-2/requests/{job().id}/status"


def test_headers_say_priority_deadline_and_retention():
    """Checklist 19, 21, 22, 24 and 45."""
    options = parse_submit_options(
        {
            "x-fal-queue-priority": "low",
            "x-fal-request-timeout": "30.0",
            "x-fal-store-io": "0",
            "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 3600, "initial_acl": {"default": "hide"}}',
            "x-fal-something-new": "\x00",
        },
        {"fal_webhook": "https://example.com/hook?a=1&b=2", "fal_max_queue_length": "3"},
    )
    assert options.priority == PRIORITY_LOW
    assert options.start_timeout_s == 30
    assert options.keep_payload is False
    assert options.retention_s == 3600
    assert options.webhook_url == "https://example.com/hook?a=1&b=2"
    assert options.max_queue_length == 3
    assert [n.parameter for n in options.notices] == ["initial_acl"]
    assert parse_submit_options({"x-fal-queue-priority": "normal"}, {}).priority == PRIORITY_NORMAL


@pytest.mark.parametrize("seconds", ["null", "0"])
def test_no_expiry_means_the_servers_own(seconds: str):
    header = {"x-fal-object-lifecycle": f'{{"expiration_duration_seconds": {seconds}}}'}
    assert parse_submit_options(header, {}).retention_s is None


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-fal-request-timeout": "soon"}, {}),
        ({"x-fal-request-timeout": "-1"}, {}),
        ({"x-fal-request-timeout": "nan"}, {}),
        ({"x-fal-request-timeout": "1e300"}, {}),
        ({"x-fal-object-lifecycle": '{"expiration_duration_seconds": 1e300}'}, {}),
        ({"x-fal-object-lifecycle": '{"expiration_duration_seconds": NaN}'}, {}),
        ({}, {"fal_webhook": "https://exämple.com"}),
        ({}, {"fal_webhook": "https://example.com/\n"}),
        ({"x-fal-queue-priority": "urgent"}, {}),
        ({"x-fal-object-lifecycle": "1h"}, {}),
        ({"x-fal-object-lifecycle": "[" * 5000}, {}),
        ({"x-fal-object-lifecycle": '{"expiration_duration_seconds": "1h"}'}, {}),
        ({}, {"fal_max_queue_length": "-1"}),
        ({}, {"fal_webhook": "ftp://example.com"}),
    ],
)
def test_a_known_header_with_an_impossible_value_is_a_bad_request(headers: dict[str, str], query: dict[str, str]):
    """Checklist 20."""
    with pytest.raises(BadRequest) as refused:
        parse_submit_options(headers, query)
    answer = answer_to(refused.value)
    assert (answer.status, answer.body["error_type"]) == (400, "bad_request")


# --- answers


def test_every_error_has_a_status_a_detail_and_a_message():
    """Checklist 28 and 30."""
    seen = set()
    todo: list[type[RetouchError]] = [RetouchError]
    while todo:
        kind = todo.pop()
        todo += [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
        answer = answer_to_failure(Failure(kind.code, "What is wrong."))
        assert 400 <= answer.status < 600
        assert answer.status != 409
        assert answer.body["detail"]
        assert answer.body["message"]
        seen.add((kind.code, answer.status, answer.kind))
    assert ("cancelled", 499, "client_cancelled") in seen
    assert ("start_timeout", 504, "request_timeout") in seen
    assert ("invalid_image", 422, "image_load_error") in seen
    assert ("forbidden_address", 422, "file_download_error") in seen
    assert ("invalid_key", 401, "invalid_key") in seen
    assert ("database_unavailable", 503, "runner_connection_error") in seen
    assert ("internal_error", 500, "internal_server_error") in seen


def test_a_later_error_names_the_field_as_its_caller_wrote_it():
    failure = Failure("invalid_image", "The image in 'images[1]' is not an image.", "images[1]")
    (problem,) = answer_to_failure(failure, PLUS).body["detail"]
    assert problem["loc"] == ["body", "image_urls", 1]
    assert problem["msg"] == "The image in 'image_urls.1' is not an image."
    (problem,) = answer_to_failure(replace(failure, field="images[0]"), EDIT).body["detail"]
    assert problem["loc"] == ["body", "image_url"]


@pytest.mark.parametrize(
    ("field", "loc"),
    [("prompt", ["body", "prompt"]), ("images[1]", ["body", "image_urls", 1]), (None, ["body"])],
)
def test_refused_content_is_named_by_its_place_and_not_tried_again(field: str | None, loc: list[str | int]):
    failure = Failure("content_refused", "It was refused by the safety checker.", field, context={"stage": "output"})
    answer = answer_to_failure(failure, TWO)
    (problem,) = answer.body["detail"]
    assert (answer.status, problem["loc"], problem["type"]) == (422, loc, "content_policy_violation")
    assert (answer.headers["X-Fal-Retryable"], answer.headers["X-Fal-Billable-Units"]) == ("false", "0")


def test_a_start_timeout_says_whose_timeout_it_was():
    """Checklist 19."""
    answer = answer_to_failure(Failure("start_timeout", "It did not start in 2 s."))
    assert answer.headers == {"X-Fal-Error-Type": "request_timeout", "X-Fal-Request-Timeout-Type": "user"}
    assert answer.body["error_type"] == "request_timeout"


def test_status_has_three_words_and_all_keys():
    """Checklist 6, 8, 9, 10 and 12."""
    failure = Failure("invalid_image", "It is not an image.", "images[0]")
    states = {
        JobState.QUEUED: (202, "IN_QUEUE"),
        JobState.RUNNING: (202, "IN_PROGRESS"),
        JobState.SUCCEEDED: (200, "COMPLETED"),
        JobState.FAILED: (200, "COMPLETED"),
        JobState.CANCELLED: (200, "COMPLETED"),
    }
    for state, (code, word) in states.items():
        made = job(state, failure=failure if state is JobState.FAILED else None)
        status, body = dump.dump_status(made, urls(EDIT), 3, None)
        assert (status, body["status"]) == (code, word)
        assert {"request_id", "response_url", "status_url", "cancel_url", "logs", "metrics"} <= body.keys()
        assert ("queue_position" in body) == (word == "IN_QUEUE")
        assert ("error" in body) == (state in (JobState.FAILED, JobState.CANCELLED))
        if code == 200:
            assert isinstance(body["metrics"]["inference_time"], float)
    assert dump.dump_status(job(JobState.CANCELLED), urls(EDIT), 0, None)[1]["error_type"] == "client_cancelled"


EVENTS = (
    JobEvent(1, "j", "state", {"state": "running"}, AT),
    JobEvent(2, "j", "log", {"level": "WARN", "message": "hello"}, AT),
    JobEvent(3, "j", "step", {"step": 1, "steps": 4}, AT),
)
CLAMPED = (Notice("seed", "clamped", "It was."),)


def test_logs_tell_steps_and_what_was_not_done():
    """Checklist 7: first what was known at submit, at the end what the work has found."""
    logs = dump.dump_logs(job(notices=CLAMPED), EVENTS)
    assert [entry["message"] for entry in logs] == [
        "seed clamped: It was.",
        "hello",
        "Step 1 of 4",
        "enable_safety_checker ignored: No safety checker is installed here: the images were not checked.",
    ]
    assert logs[1] == {"message": "hello", "level": "WARN", "source": "USER", "timestamp": "2026-03-01T12:00:00+00:00"}


def test_notices_known_at_submit_are_the_first_lines_of_a_running_edit():
    """The vendor's own snippets print the lines of running edits only."""
    logs = {
        state: [entry["message"] for entry in dump.dump_logs(job(state, notices=CLAMPED), EVENTS[:1])]
        for state in (JobState.QUEUED, JobState.RUNNING)
    }
    assert logs == {JobState.QUEUED: [], JobState.RUNNING: ["seed clamped: It was."]}
    assert dump.dump_logs(job(JobState.RUNNING, notices=CLAMPED), EVENTS[:1], known_notices=False) == []


def test_nothing_is_reported_of_a_checker_that_ran_or_was_not_wanted():
    checked = job()
    assert checked.output is not None
    image = replace(checked.output.images[0], unsafe=False)
    assert dump.notices_of(replace(checked, output=replace(checked.output, images=(image,)))) == ()
    request = replace(checked.request, enable_safety_checker=False, acceleration=Acceleration.NONE)
    assert dump.notices_of(replace(checked, request=request)) == ()


def test_a_result_names_what_was_not_done_as_its_caller_wrote_it():
    late = Notice("images[0]", "converted", "It is small.")
    made = job(notices=(Notice("steps", "clamped", "At most 50."),))
    assert made.output is not None
    result = dump.dump_result(replace(made, output=replace(made.output, notices=(late,))), ["x"])
    named = [(notice["parameter"], notice["action"]) for notice in result["notices"]]
    assert named[:2] == [("num_inference_steps", "clamped"), ("image_url", "converted")]
    request = replace(made.request, enable_safety_checker=False)
    assert "notices" not in dump.dump_result(replace(made, notices=(), request=request), ["x"])


@pytest.mark.parametrize(
    ("unsafe", "wanted", "answer"), [(None, True, None), (None, False, False), (False, True, False), (True, True, True)]
)
def test_an_image_that_nothing_has_checked_is_not_called_safe(unsafe: bool | None, wanted: bool, answer: bool | None):
    made = job()
    assert made.output is not None
    output = replace(made.output, images=(replace(made.output.images[0], unsafe=unsafe),))
    made = replace(made, output=output, request=replace(made.request, enable_safety_checker=wanted))
    assert dump.dump_result(made, ["x"])["has_nsfw_concepts"] == [answer]


def test_seconds_are_rounded_to_milliseconds():
    output = job().output
    assert output is not None
    made = job(output=replace(output, timings={"denoise": 1.23456789, "inference": 2.000499}))
    assert dump.dump_result(made, ["x"])["timings"] == {"denoise": 1.235, "inference": 2.0}
    assert dump.inference_s(made) == 2.0
    assert dump.inference_s(job(finished_at=AT + timedelta(seconds=4.00049), output=None)) == 3.0


def test_billable_units_are_megapixels_of_output():
    assert dump.billable_units(job()) == "0.786432"
    assert dump.billable_units(job(usage=Usage(1, 2_000_000, 4, 100))) == "2"


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda e: e.id)
def test_the_answers_are_as_the_golden_files_say(endpoint: Endpoint, golden: bool):
    """Checklist 2, 6, 12 and 43: submit, status, result and error bodies, read in review."""
    failure = Failure("image_unreachable", "The link in 'images[0]' could not be fetched.", "images[0]")
    failed = job(JobState.FAILED, endpoint, failure=failure)
    answers = {
        "submit": dump.dump_submitted(job(JobState.QUEUED, endpoint), urls(endpoint), 0),
        "status_queued": dump.dump_status(job(JobState.QUEUED, endpoint), urls(endpoint), 2, None)[1],
        "status_completed": dump.dump_status(job(endpoint=endpoint), urls(endpoint), 0, [])[1],
        "status_failed": dump.dump_status(failed, urls(endpoint), 0, None)[1],
        "result": dump.dump_result(job(endpoint=endpoint), ["https://edits.example/files/x.png"]),
        "result_failed": answer_to_failure(failure, endpoint).body,
        "result_cancelled": answer_to_failure(Failure("cancelled", "It was cancelled."), endpoint).body,
        "missing_fields": {"detail": problems(endpoint, {})},
    }
    path = GOLDEN / f"{endpoint.id.replace('/', '_')}.json"
    if golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(answers, indent=2) + "\n")
    assert json.loads(path.read_text()) == answers


def test_an_unknown_endpoint_is_a_404_with_a_suggestion():
    """Checklist 29."""
    with pytest.raises(errors.UnknownModel) as refused:
        endpoint_named("fal-ai/qwen-image-edti")
    answer = answer_to(refused.value)
    assert answer.status == 404
    assert "fal-ai/qwen-image-edit" in answer.body["detail"]
