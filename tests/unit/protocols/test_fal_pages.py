"""The pages that describe the endpoints, held against the table that requests are checked with."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from retouch.errors import RetouchError
from retouch.protocols.fal import api_docs
from retouch.protocols.fal.parse import parse_edit
from retouch.protocols.fal.schemas import ENDPOINTS, Endpoint

FACE = "https://edits.example/fal"
GOLDEN = Path(__file__).parents[2] / "golden" / "wire" / "fal"
BODY = {"prompt": "p", "image_url": "https://example.com/a.png", "image_urls": ["https://example.com/a.png"]}


def minimal(endpoint: Endpoint) -> dict[str, object]:
    return {p.name: BODY[p.name] for p in endpoint.parameters.values() if p.required}


def accepted(endpoint: Endpoint, body: dict[str, object]) -> bool:
    try:
        parse_edit(endpoint, body)
    except RetouchError:
        return False
    return True


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda e: e.id)
def test_the_text_names_every_parameter(endpoint: Endpoint, golden: bool):
    text = api_docs.describe(endpoint, FACE)
    for parameter in endpoint.parameters.values():
        assert f"**`{parameter.name}`**" in text
    path = GOLDEN / f"{endpoint.id.replace('/', '_')}.llms.txt"
    if golden:
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda e: e.id)
def test_the_document_is_openapi(endpoint: Endpoint):
    validate(api_docs.document((endpoint,), FACE))


def test_all_endpoints_fit_in_one_document():
    document = api_docs.document(tuple(ENDPOINTS.values()), FACE)
    validate(document)
    assert f"/queue/{'fal-ai/qwen-image-2'}/requests/{{request_id}}/status" in document["paths"]


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda e: e.id)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_images": 4},
        {"num_images": 5},
        {"num_images": 0},
        {"output_format": "jpeg"},
        {"output_format": "bmp"},
        {"image_size": "square"},
        {"image_size": {"width": 640, "height": 480}},
        {"image_size": "vast"},
        {"prompt": "x" * 801},
        {"unheard_of": 1},
        {"sync_mode": True},
        {"num_inference_steps": 1},
        {"seed": -1},
    ],
    ids=str,
)
def test_the_document_allows_what_the_parser_allows(endpoint: Endpoint, change: dict[str, object]):
    document = api_docs.document((endpoint,), FACE)
    schema = {**api_docs.input_schema(endpoint), "components": document["components"]}
    body = {**minimal(endpoint), **change}
    assert Draft202012Validator(schema).is_valid(body) == accepted(endpoint, body)
