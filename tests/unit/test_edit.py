"""The canonical edit: what is wrong whatever the model is, and that values survive the job row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.edit import (
    Acceleration,
    Delivery,
    EditOutput,
    EditRequest,
    ImageInput,
    Notice,
    OutputFormat,
    OutputImage,
    SizeRequest,
    random_seed,
)
from retouch.errors import InvalidRequest, MissingParameter, TooLong

ONE_IMAGE = (ImageInput(blob="uploads/a.png"),)

requests = st.builds(
    EditRequest,
    model=st.text(),
    prompt=st.text(),
    images=st.lists(st.builds(ImageInput, url=st.text()), max_size=3).map(tuple),
    negative_prompt=st.none() | st.text(),
    mask=st.none() | st.builds(ImageInput, blob=st.text()),
    size=st.builds(SizeRequest, width=st.none() | st.integers(), aspect_ratio=st.none() | st.floats(0.1, 10)),
    seed=st.none() | st.integers(0, 2**63 - 1),
    steps=st.none() | st.integers(1, 100),
    guidance_scale=st.none() | st.floats(0, 20),
    acceleration=st.none() | st.sampled_from(Acceleration),
    output_format=st.sampled_from(OutputFormat),
)


@given(requests)
def test_a_request_survives_the_job_row(request: EditRequest):
    assert EditRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_a_delivery_survives_the_job_row():
    delivery = Delivery("fal", "fal-ai/qwen-image-edit", webhook_url="https://a.test", options={"logs": "1"})
    assert Delivery.from_json(json.loads(json.dumps(delivery.to_json()))) == delivery


def test_an_output_survives_the_job_row():
    image = OutputImage("outputs/a.png", 8, 9, "image/png", 10, seed=3)
    output = EditOutput((image,), "p", {"decode": 0.1}, (16, 16), (Notice("steps", "clamped", "…"),), {"a": "none"})
    assert EditOutput.from_json(json.loads(json.dumps(output.to_json()))) == output


@pytest.mark.parametrize("prompt", ["", "  ", "\n"])
def test_a_blank_prompt_is_missing(prompt: str):
    with pytest.raises(MissingParameter) as caught:
        EditRequest("m", prompt, ONE_IMAGE).check()
    assert caught.value.field == "prompt"


def test_an_edit_needs_an_image():
    with pytest.raises(MissingParameter) as caught:
        EditRequest("m", "make it night", ()).check()
    assert caught.value.field == "images"


def test_a_prompt_has_at_most_32000_characters():
    EditRequest("m", "x" * 32_000, ONE_IMAGE).check()
    with pytest.raises(TooLong):
        EditRequest("m", "x" * 32_001, ONE_IMAGE).check()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int):
    with pytest.raises(InvalidRequest):
        EditRequest("m", "p", ONE_IMAGE, seed=seed).check()


def test_a_random_seed_is_one_that_every_client_can_hold():
    assert all(0 <= random_seed() < 2**31 for _ in range(100))
