"""LoRAs in each face's own form: one canonical value, and mistakes named where the caller made them."""

from __future__ import annotations

from typing import Any

import pytest

from retouch.catalog import Catalog, checkpoint_named
from retouch.edit import EditRequest, ImageInput, Lora
from retouch.errors import InvalidRequest
from retouch.protocols.fal.errors import InvalidBody, answer_to, answer_to_failure
from retouch.protocols.fal.parse import parse_edit
from retouch.protocols.fal.schemas import ENDPOINTS
from retouch.protocols.inputs import parse_loras
from retouch.protocols.openai.form import Part, decode_form, decode_json
from retouch.protocols.openai.parse import parse_call
from retouch.protocols.runpod.parse import ENDPOINTS as RUNPOD
from retouch.protocols.runpod.parse import parse_input

LINK = "https://example.com/a.png"
FAL = ENDPOINTS["fal-ai/qwen-image-edit-2511/lora"]
TWO = (Lora("https://example.com/l.safetensors", 0.5), Lora("owner/name"))
AS_LIST = [{"path": TWO[0].path, "scale": 0.5}, {"path": "owner/name"}]


def fal(loras: object) -> tuple[Lora, ...]:
    return parse_edit(FAL, {"prompt": "p", "image_urls": [LINK], "loras": loras}).request.loras


def runpod(loras: object) -> tuple[Lora, ...]:
    given = {"prompt": "p", "image": LINK, "loras": loras}
    return parse_input(RUNPOD["qwen-image-edit-2511-lora"], given).request.loras


def openai(loras: object) -> tuple[Lora, ...]:
    return parse_call(decode_json({"prompt": "p", "image": LINK, "loras": loras})).request.loras


@pytest.mark.parametrize("face", [fal, runpod, openai])
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (AS_LIST, TWO),
        ('[{"path": "owner/name", "scale": "0.25"}]', (Lora("owner/name", 0.25),)),
        ({"path": "owner/name", "name": "style"}, (Lora("owner/name"),)),
        (["owner/name"], (Lora("owner/name"),)),
        (" owner/name ", (Lora("owner/name"),)),
        ([], ()),
        (None, ()),
    ],
)
def test_every_face_reads_the_same_loras(face: Any, written: object, meant: tuple[Lora, ...]) -> None:
    assert face(written) == meant


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"lora_weights": "owner/name", "lora_scale": "1.5"}, (Lora("owner/name", 1.5),)),
        ({"lora": '{"name": "x", "path": "owner/name", "scale": 2}'}, (Lora("owner/name", 2.0),)),
        ({"loras[][path]": "owner/name", "loras[][scale]": "0.5"}, (Lora("owner/name", 0.5),)),
    ],
)
def test_a_form_may_name_them_as_other_servers_do(fields: dict[str, str], meant: tuple[Lora, ...]) -> None:
    parts = [Part(name, None, value.encode()) for name, value in {"prompt": "p", "image": LINK, **fields}.items()]
    call = parse_call(decode_form(parts))
    assert call.request.loras == meant
    assert call.notices == ()


def test_the_openai_face_names_the_field_that_was_written() -> None:
    call = parse_call(decode_json({"prompt": "p", "image": LINK, "lora_weights": "a/b", "lora_scale": 9}))
    assert call.wire_name("loras[0].scale") == "lora_scale"
    assert call.wire_name("loras[0].path") == "lora_weights"
    with pytest.raises(InvalidRequest) as refused:
        parse_call(decode_json({"prompt": "p", "image": LINK, "lora_scale": 1}))
    assert refused.value.field == "lora_scale"


@pytest.mark.parametrize(
    ("loras", "loc", "kind"),
    [
        (7, [], "list_type"),
        ([7], [0], "dict_type"),
        ([{"scale": 1}], [0, "path"], "missing"),
        ([{"path": ""}], [0, "path"], "missing"),
        ([{"path": 7}], [0, "path"], "string_type"),
        (["a/b", {"path": "c/d", "scale": "strong"}], [1, "scale"], "float_parsing"),
        ([{"path": "a/b", "scale": 4.5}], [0, "scale"], "less_than_equal"),
        ([{"path": "a/b", "scale": -1}], [0, "scale"], "less_than_equal"),
        ([{"path": "a/b", "weight": 1}], [0], "value_error"),
        ([{"path": "a\nb"}], [0, "path"], "value_error"),
        (["a/b"] * 4, [], "sequence_too_long"),
        ("[{", [], "list_type"),
    ],
)
def test_fal_names_the_place_of_a_mistake(loras: object, loc: list[object], kind: str) -> None:
    with pytest.raises(InvalidBody) as refused:
        fal(loras)
    [problem] = answer_to(refused.value, FAL).body["detail"]
    assert (problem["loc"], problem["type"]) == (["body", "loras", *loc], kind)


def test_a_lora_that_failed_later_is_named_at_its_place() -> None:
    error = InvalidRequest("The LoRA 'a/b' is a pickle.", field="loras[1].path")
    [problem] = answer_to_failure(error.failure, FAL).body["detail"]
    assert problem["loc"] == ["body", "loras", 1, "path"]
    assert problem["msg"] == "The LoRA 'a/b' is a pickle."


def test_text_that_is_not_json_is_a_path() -> None:
    assert parse_loras("loras", "my {best} style.safetensors") == (Lora("my {best} style.safetensors"),)


@pytest.mark.parametrize(
    ("model", "checkpoint", "loras", "says"),
    [
        ("qwen-image-edit", "demo", 4, "takes at most 3 LoRAs, not 4"),
        ("fal-ai/qwen-image-edit", "demo", 1, "takes no LoRAs"),
        ("qwen-image-edit", "null", 1, "takes no LoRAs here"),
    ],
)
def test_a_model_says_how_many_it_takes(model: str, checkpoint: str, loras: int, says: str) -> None:
    route = Catalog.serving(checkpoint_named(checkpoint)).route(model)
    request = EditRequest(model, "p", (ImageInput(url=LINK),), loras=(Lora("a/b"),) * loras)
    with pytest.raises(InvalidRequest, match=says) as refused:
        route.complete(request)
    assert refused.value.field == "loras"


def test_a_row_keeps_them() -> None:
    request = EditRequest("m", "p", (ImageInput(url=LINK),), loras=(Lora("a/b", 0.5), Lora(LINK, blob="uploads/x")))
    assert EditRequest.from_json(request.to_json()) == request
    assert EditRequest.from_json({k: v for k, v in request.to_json().items() if k != "loras"}).loras == ()
