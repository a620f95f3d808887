"""Every face reads `upstream_options` in the same way, and refuses what no provider could be meant by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retouch.edit import EditRequest
from retouch.errors import InvalidRequest
from retouch.protocols.fal.parse import parse_edit
from retouch.protocols.fal.schemas import ENDPOINTS as FAL_ENDPOINTS
from retouch.protocols.openai.form import decode_json
from retouch.protocols.openai.parse import parse_call
from retouch.protocols.runpod.parse import ENDPOINTS as RUNPOD_ENDPOINTS
from retouch.protocols.runpod.parse import parse_input

LINK = "https://example.com/a.png"
OPTIONS = {"fal": {"use_turbo": True, "levels": [1, 2.5, None]}, "replicate": {"megapixels": "1"}}


def openai(options: Any) -> EditRequest:
    body = {"images": [{"image_url": LINK}], "prompt": "x", "upstream_options": options}
    call = parse_call(decode_json(body))
    assert not call.notices
    return call.request


def fal(options: Any) -> EditRequest:
    body = {"image_url": LINK, "prompt": "x", "upstream_options": options}
    return parse_edit(FAL_ENDPOINTS["fal-ai/qwen-image-edit"], body).request


def runpod(options: Any) -> EditRequest:
    parsed = parse_input(
        RUNPOD_ENDPOINTS["qwen-image-edit"], {"image": LINK, "prompt": "x", "upstream_options": options}
    )
    assert not parsed.notices
    return parsed.request


FACES = [openai, fal, runpod]


@pytest.mark.parametrize("face", FACES)
def test_a_face_passes_them_on_as_they_are(face: Callable[[Any], EditRequest]) -> None:
    request = face(OPTIONS)
    assert request.upstream_options == OPTIONS
    assert EditRequest.from_json(request.to_json()) == request
    assert face(None).upstream_options == {}


def test_a_form_holds_them_as_text() -> None:
    assert openai('{"fal": {"use_turbo": true}}').upstream_options == {"fal": {"use_turbo": True}}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    "wrong", [{"fall": {}}, {"fal": 3}, ["fal"], "not json", 7, {"fal": {"x": "y" * 20_000}}, {"local": {}}]
)
def test_a_face_refuses_options_that_no_upstream_can_take(face: Callable[[Any], EditRequest], wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        face(wrong)
    assert refused.value.field == "upstream_options"
    assert "yyyy" * 20 not in refused.value.message
