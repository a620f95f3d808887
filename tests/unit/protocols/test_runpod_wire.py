"""RunPod's shapes: bodies to edits and back, jobs to answers, errors to sentences."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch import errors
from retouch.catalog.routing import Price
from retouch.edit import Delivery, EditOutput, EditRequest, ImageInput, Notice, OutputFormat, OutputImage, Usage
from retouch.errors import Failure, InvalidRequest, RetouchError, UnknownJob, UnknownModel
from retouch.jobs.job import PRIORITY_NORMAL, Job, JobState, QueueLoad
from retouch.protocols.runpod import dump
from retouch.protocols.runpod.errors import dump_error, sentence_of
from retouch.protocols.runpod.parse import (
    ENDPOINTS,
    Envelope,
    ParsedInput,
    Policy,
    endpoint_named,
    parse_envelope,
    parse_input,
    parse_wait,
)

EDIT, NEWER = ENDPOINTS["qwen-image-edit"], ENDPOINTS["qwen-image-edit-2511"]
GOLDEN = Path(__file__).parents[2] / "golden" / "wire" / "runpod"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LINK = "https://example.com/a.png"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "prompt",
        "image",
        "images",
        "image_url",
        "negative_prompt",
        "seed",
        "size",
        "width",
        "height",
        "output_format",
        "enable_safety_checker",
        "enable_base64_output",
        "num_inference_steps",
        "guidance_scale",
        "loras",
        "something else",
    ]
)


def envelope(**more: Any) -> Envelope:
    return parse_envelope(orjson.dumps({"input": {"prompt": "make it snow", "image": LINK}, **more}))


def parsed(**more: Any) -> ParsedInput:
    return parse_input(EDIT, {"prompt": "make it snow", "image": LINK, **more})


def job(state: JobState = JobState.SUCCEEDED, **changes: Any) -> Job:
    image = OutputImage("outputs/2026/abc.jpg", 1024, 1024, "image/jpeg", 1234, 7)
    options = {"sync": "1", "names": '{"images[0]":"image"}'}
    made = Job(
        id="a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        account_id="a",
        queue="demo",
        state=state,
        request=EditRequest(model=EDIT.model, prompt="make it snow", images=(ImageInput(url=LINK),)),
        delivery=Delivery("runpod", EDIT.id, options=options),
        sequence=1,
        priority=PRIORITY_NORMAL,
        attempt=1,
        cancel_requested=False,
        step=4,
        steps=4,
        created_at=AT,
        queued_at=AT,
        started_at=None if state is JobState.QUEUED else AT + timedelta(milliseconds=14),
        finished_at=AT + timedelta(milliseconds=3889) if state.final else None,
        output=EditOutput((image,), "make it snow", {}, (1024, 1024)) if state is JobState.SUCCEEDED else None,
        usage=Usage(1, 1024 * 1024, 4, 3000) if state is JobState.SUCCEEDED else None,
        worker=None if state is JobState.QUEUED else "host-17-ab",
    )
    return replace(made, **changes)


def nulls_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(nulls_in, value.values()))
    return any(map(nulls_in, value)) if isinstance(value, list) else value is None


# --- the envelope


def test_an_envelope_is_taken_apart():
    found = envelope(
        webhook="https://example.com/hook",
        policy={"executionTimeout": 60000, "lowPriority": True, "ttl": 3600000},
        s3Config={
            "accessId": "a",
            "accessSecret": "b",
            "bucketName": "pictures",
            "endpointUrl": "https://s3.example.com",
            "objectPath": "/x/y/",
        },
    )
    assert found.input == {"prompt": "make it snow", "image": LINK}
    assert found.webhook == "https://example.com/hook"
    assert found.policy == Policy(execution_timeout_s=60, ttl_s=3600, low_priority=True)
    assert found.bucket is not None
    assert (found.bucket.name, found.bucket.prefix, found.bucket.access_key_id) == ("pictures", "x/y", "a")
    assert found.notices == ()


def test_what_is_null_or_empty_counts_as_absent():
    found = envelope(webhook=None, policy=None, s3Config=None)
    assert (found.webhook, found.policy, found.bucket) == (None, Policy(), None)
    assert envelope(webhook="", s3Config={}).bucket is None
    assert parsed(seed=None, output_format=None, size=None, negative_prompt=None) == parsed()


def test_an_input_in_an_input_is_taken_out_once_and_only_when_it_is_alone():
    inner = {"prompt": "x", "image": LINK}
    assert parse_envelope(orjson.dumps({"input": {"input": inner}})).input == inner
    both = {"input": inner, "prompt": "y"}
    assert parse_envelope(orjson.dumps({"input": both})).input == both
    assert parse_envelope(orjson.dumps({"input": {"input": {}}})).input == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 90),
        ("1000", 1),
        ("300000", 300),
        ("0", 1),
        ("-5", 1),
        ("999999999", 300),
        ("inf", 300),
        ("1500.5", 1.5005),
    ],
)
def test_a_wait_is_clamped(text: str | None, seconds: float):
    assert parse_wait(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "nan"])
def test_a_wait_that_is_no_number_is_refused(text: str):
    with pytest.raises(InvalidRequest, match="'wait'"):
        parse_wait(text)


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_an_envelope_or_an_invalid_request(body: bytes):
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse_envelope(body).input, dict)


@given(st.dictionaries(st.sampled_from(["webhook", "policy", "s3Config", "x"]), ANYTHING))
def test_anything_beside_the_input_is_read_or_refused(more: dict[str, Any]):
    body = json.dumps({"input": {}, **more}).encode()
    with contextlib.suppress(InvalidRequest):
        assert parse_envelope(body).input == {}


# --- the input


def test_an_input_with_nothing_but_what_it_needs_has_the_vendors_defaults():
    found = parsed()
    assert found.images == (LINK,)
    request = found.request
    assert (request.output_format, request.seed, request.enable_safety_checker) == (OutputFormat.JPEG, None, True)
    # the model's row fills these
    assert (request.negative_prompt, request.steps, request.guidance_scale) == (None, None, None)
    assert request.size.width is None
    assert found.notices == ()


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ({"seed": -1}, {"seed": None}),
        ({"seed": "42"}, {"seed": 42}),
        ({"seed": 42.0}, {"seed": 42}),
        ({"output_format": "JPG"}, {"output_format": OutputFormat.JPEG}),
        ({"output_format": "webp"}, {"output_format": OutputFormat.WEBP}),
        ({"enable_safety_checker": False}, {"enable_safety_checker": False}),
        ({"enable_safety_checker": "false"}, {"enable_safety_checker": False}),
        ({"enable_prompt_expansion": 1}, {"enable_prompt_expansion": True}),
        ({"negative_prompt": "rain"}, {"negative_prompt": "rain"}),
        ({"num_inference_steps": 12}, {"steps": 12}),
        ({"steps": 12}, {"steps": 12}),
        ({"true_cfg_scale": 3}, {"guidance_scale": 3.0}),
    ],
)
def test_a_value_is_read_as_it_is_meant(given: dict[str, Any], canonical: dict[str, Any]):
    request = parsed(**given).request
    assert {name: getattr(request, name) for name in canonical} == canonical


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prompt": None}, "The field 'prompt' is required."),
        ({"prompt": 7}, "'prompt' must be a valid string"),
        ({"image": None}, "The field 'image' is required."),
        ({"image": 7}, "'image' must be a valid string"),
        ({"image": None, "images": [LINK, 7]}, "'images[1]' must be a valid string"),
        ({"seed": 1.5}, "'seed' must be a valid integer"),
        ({"seed": True}, "'seed' must be a valid integer"),
        ({"size": "1024"}, "size format must be width*height"),
        ({"size": "0*5"}, "size format must be width*height"),
        ({"width": 512}, "'width' and 'height' go together"),
        ({"output_format": "gif"}, "'output_format' must be one of jpeg, png, webp"),
        ({"enable_safety_checker": "perhaps"}, "'enable_safety_checker' must be a valid boolean"),
        ({"guidance_scale": "much"}, "'guidance_scale' must be a valid number"),
        ({"loras": [{"scale": 1}]}, "The field 'loras[0].path' is required."),
        ({"loras": [{"path": "x", "scale": "much"}]}, "'loras[0].scale' must be a valid number"),
    ],
)
def test_a_mistake_is_named(given: dict[str, Any], says: str):
    with pytest.raises(InvalidRequest) as refused:
        parsed(**given)
    assert says in refused.value.message


def test_every_image_keeps_the_name_its_caller_gave_it():
    found = parse_input(EDIT, {"prompt": "x", "images": [LINK, "aGVsbG8="], "image_url": LINK})
    assert found.images == (LINK, LINK, b"hello")
    assert [found.wire_names[f"images[{i}]"] for i in range(3)] == ["image_url", "images[0]", "images[1]"]


def test_the_newer_endpoint_has_a_size_of_its_own():
    size = parse_input(NEWER, {"prompt": "x", "images": [LINK]}).request.size
    assert (size.width, size.height) == (1024, 1024)
    assert parse_input(NEWER, {"prompt": "x", "images": [LINK], "size": "1328*1328"}).request.size.width == 1328


def test_an_unknown_endpoint_is_named_with_a_suggestion():
    with pytest.raises(UnknownModel, match="Did you mean 'qwen-image-edit-2511'"):
        endpoint_named("qwen-image-edit-2512")


@given(st.dictionaries(NAMES, ANYTHING))
def test_any_input_is_an_edit_or_an_invalid_request(given_input: dict[str, Any]):
    with contextlib.suppress(InvalidRequest):
        found = parse_input(EDIT, given_input)
        assert found.images
        assert found.request.prompt.strip()


@given(st.integers(1, 99999), st.sampled_from("*xX"), st.integers(1, 99999))
def test_a_size_is_width_and_height(width: int, between: str, height: int):
    size = parsed(size=f"{width}{between}{height}").request.size
    assert (size.width, size.height) == (width, height)


# --- answers


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("a1b2c3d4-e5f6-7890-abcd-ef1234567890-u1", "a1b2c3d4-e5f6-7890-abcd-ef1234567890"),
        ("sync-a1b2c3d4-e5f6-7890-abcd-ef1234567890-e2", "a1b2c3d4-e5f6-7890-abcd-ef1234567890"),
        ("a1b2c3d4-e5f6-7890-abcd-ef1234567890", "a1b2c3d4-e5f6-7890-abcd-ef1234567890"),
    ],
)
def test_an_id_of_any_form_is_ours(text: str, ours: str):
    assert dump.job_id_of(text) == ours


@given(st.text(max_size=60))
def test_any_other_text_is_an_unknown_job(text: str):
    with pytest.raises(UnknownJob):
        dump.job_id_of(text)


@pytest.mark.parametrize(
    ("state", "code", "word"),
    [
        (JobState.QUEUED, None, "IN_QUEUE"),
        (JobState.RUNNING, None, "IN_PROGRESS"),
        (JobState.SUCCEEDED, None, "COMPLETED"),
        (JobState.CANCELLED, None, "CANCELLED"),
        (JobState.FAILED, "out_of_memory", "FAILED"),
        (JobState.FAILED, "edit_timeout", "TIMED_OUT"),
        (JobState.FAILED, "start_timeout", "TIMED_OUT"),
    ],
)
def test_each_state_has_one_of_six_words(state: JobState, code: str | None, word: str):
    failure = None if code is None else Failure(code, "It did not work.")
    body = dump.dump_job(job(state, failure=failure))
    assert body["status"] == word
    assert not nulls_in(body)
    assert ("error" in body) == (code is not None)


def test_a_waiting_job_tells_its_wait_as_predicted_and_a_running_one_what_is_left():
    waiting = dump.dump_job(job(JobState.QUEUED), wait_s=2.5, seconds_left=9.0, now=AT + timedelta(seconds=1))
    assert waiting == {"id": dump.wire_id(job()), "status": "IN_QUEUE", "delayTime": 3500}
    running = dump.dump_job(job(JobState.RUNNING, step=1), seconds_left=9.04, now=AT + timedelta(seconds=1))
    assert running["delayTime"] == 14, "the wait that it had"
    assert running["output"] == {"progress": 0.25, "step": 1, "steps": 4, "seconds_left": 9.0}


def shapes() -> dict[str, Any]:
    """One answer of each sort, as the golden file keeps them."""
    done = job()
    assert done.output is not None
    notices = (Notice("images[0]", "converted", "It was small."),)
    noticed = replace(done, output=replace(done.output, notices=notices, prompt="snow"))
    failed = job(JobState.FAILED, failure=Failure("image_unreachable", "The link in 'images[0]' is dead.", "images[0]"))
    cost = Price(per_megapixel_microusd=20_000).dollars(1, 1024 * 1024)
    load = QueueLoad(dict.fromkeys(JobState, 2), 1, ready_workers=2, loading_workers=1, busy_workers=1)
    return {
        "queued": dump.dump_job(job(JobState.QUEUED)),
        "running": dump.dump_job(job(JobState.RUNNING, step=1, retries=1)),
        "completed": dump.dump_job(done, dump.dump_output(done, [LINK], cost)),
        "noticed": dump.dump_job(noticed, dump.dump_output(noticed, [LINK], cost, b"file")),
        "failed": dump.dump_job(failed),
        "partial": dump.dump_partial(LINK, 1, 4),
        "health": dump.dump_health(load),
    }


def test_the_answers_are_as_the_golden_file_says(golden: bool):
    found = shapes()
    path = GOLDEN / "answers.json"
    if golden:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))
    assert not nulls_in(found)


def all_errors(error: type[RetouchError] = RetouchError) -> list[type[RetouchError]]:
    return [error, *(each for child in error.__subclasses__() for each in all_errors(child))]


def test_every_error_has_a_status_and_two_strings_as_the_golden_file_says(golden: bool):
    codes = sorted({each.code for each in all_errors() if each.__module__ == errors.__name__})
    table = {}
    for code in codes:
        status, body, headers = dump_error(Failure(code, "A sentence."))
        assert body == {"error": "A sentence.", "message": "A sentence."}
        assert ("retry-after" in headers) == (status in (429, 503))
        table[code] = {"status": status, "sentence": sentence_of(Failure(code, "A sentence."))}
    path = GOLDEN / "errors.json"
    if golden:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    assert table == json.loads(path.read_text(encoding="utf-8"))


# --- money


def test_the_cost_follows_the_vendors_example_and_its_price_per_image():
    """Check 34."""
    assert Price(per_megapixel_microusd=20_000).dollars(1, 1024 * 1024) == 0.02097152
    assert Price(per_megapixel_microusd=20_000).dollars(1, 1328 * 1328) == 0.03527168
    assert Price(per_image_microusd=20_000).dollars(1, 1024 * 1024) == 0.02


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10), st.integers(1, 2**26))
def test_dollars_and_whole_millionths_differ_by_their_rounding_only(flat: int, area: int, images: int, pixels: int):
    price = Price(flat, area)
    assert abs(price.dollars(images, pixels) * 1e6 - price.of(images, pixels)) <= 0.51


def test_a_file_in_an_input_is_cut_before_it_is_remembered():
    text = "A" * 5000
    remembered = json.loads(
        dump.remembered_input({"image": text, "images": [{"image": text}], "prompt": "a b " * 2000})
    )
    assert len(remembered["image"]) == len(remembered["images"][0]["image"]) == 65
    assert remembered["prompt"] == "a b " * 2000


@pytest.mark.parametrize("depth", [300, 5_000])
def test_an_input_that_is_nested_too_deeply_to_be_kept_is_refused(depth: int):
    nested: list[object] = []
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        dump.remembered_input({"prompt": "x", "unknown": nested})


@pytest.mark.parametrize("text", ["42", "42.0", " 42. "])
def test_a_whole_number_as_text_may_have_a_fraction_of_zero(text: str):
    """As on the other faces: form libraries write every number so."""
    found = parse_input(EDIT, {"prompt": "make it snow", "image": LINK, "seed": text})
    assert found.request.seed == 42
