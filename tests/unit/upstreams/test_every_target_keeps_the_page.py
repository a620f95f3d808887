"""What Lumenfall's page of qwen-image-edit promises holds for every target: each parameter, and how it is treated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from retouch.catalog.normalised import ImageSizes, Normalised
from retouch.catalog.normaliser import normalise
from retouch.catalog.profiles import Profile, hosted
from retouch.edit import EditRequest, ImageInput
from retouch.errors import InvalidRequest
from retouch.protocols.openai.form import decode_json
from retouch.protocols.openai.parse import EditCall, parse_call

PROFILES = [pytest.param(profile, id=name) for name, profile in hosted().profiles.items()]
SIZES: ImageSizes = {"images[0]": (1024, 768)}

PAGE: dict[str, list[Any]] = {
    "prompt": ["Add a starry night sky to this image"],
    "negative_prompt": ["blurry"],
    "seed": [42],
    "size": ["1024x1024", "1920x1080", "16:9"],
    "aspect_ratio": ["16:9", "1:1", "7:1"],
    "resolution": ["1K", "4K", "0.25"],
    "response_format": ["url", "b64_json"],
    "output_format": ["png", "jpeg", "gif", "webp", "avif"],
    "output_compression": [80],
    "n": [1, 4],
    "cfg_scale": [4.5],
    "acceleration": ["none", "regular", "high"],
    "disable_safety_checker": [True, False],
    "enable_safety_checker": [True, False],
    "go_fast": [True, False],
    "num_inference_steps": [20],
    "output_quality": [80],
    "sync_mode": [True, False],
}
EMULATED = ("n", "response_format", "output_format", "output_compression", "size", "aspect_ratio", "resolution")
"""What the page says works even if the provider has no concept of it, or is translated into what it has."""

CASES = [(name, value) for name, values in PAGE.items() for value in values]


def called(name: str, value: Any) -> EditCall:
    body = {"images": [{"image_url": "https://example.com/a.png"}], "prompt": "x", name: value}
    if name in ("output_compression", "output_quality"):
        body["output_format"] = "jpeg"
    return parse_call(decode_json(body))


def request_of(call: EditCall) -> EditRequest:
    image = ImageInput(blob="a", field="images[0]")
    return replace(call.request, model="qwen-image-edit", images=(image,))


@pytest.mark.parametrize("profile", PROFILES)
def test_each_parameter_of_the_page_is_done_or_reported_at_every_target(profile: Profile) -> None:
    for name, value in CASES:
        call = called(name, value)
        assert not any(notice.action == "ignored" for notice in call.notices), name
        made: Normalised = normalise(request_of(call), profile, SIZES)
        ignored = {notice.parameter for notice in made.notices if notice.action == "ignored"}
        assert len(ignored) <= 1, name
        assert name not in EMULATED or not ignored, name
        assert made.emulation.output_format == call.request.output_format
        if name == "n":
            assert made.calls * made.images_per_call == value
        if (name, value) in (("size", "1024x1024"), ("size", "1920x1080")):
            width, _, height = value.partition("x")
            assert made.emulation.size == (int(width), int(height))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_strict_request_is_never_told_that_something_was_ignored(profile: Profile) -> None:
    for name, value in CASES:
        request = replace(request_of(called(name, value)), strict=True)
        try:
            made = normalise(request, profile, SIZES)
        except InvalidRequest:
            continue
        assert all(notice.action != "ignored" for notice in made.notices), (name, value)
