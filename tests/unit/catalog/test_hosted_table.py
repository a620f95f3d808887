"""The table of hosted models: complete, and as the providers' pages have it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from retouch.catalog.profiles import Behaviour, Profile, SizeWay, hosted, local_profile
from retouch.catalog.routing import MODELS
from retouch.edit import Delivery, EditRequest

PROFILES = tuple(hosted().profiles.values())
ROUTED_BY = {"protocol", "endpoint", "options"}
"""What a face needs to write its answer; it says nothing to a target."""

LETTERS = {
    "P": Behaviour.PASSTHROUGH,
    "R": Behaviour.RENAMED,
    "C": Behaviour.CONVERTED,
    "E": Behaviour.EMULATED,
    "D": Behaviour.DROPPED,
    "X": Behaviour.REFUSED,
}

MODELS_OF_COLUMNS = (
    "fal/fal-ai/qwen-image-edit",
    "fal/fal-ai/qwen-image-edit-plus",
    "fal/fal-ai/qwen-image-2/edit",
    "runpod/qwen-image-edit",
    "runpod/qwen-image-edit-2511",
    "replicate/qwen/qwen-image-edit-plus",
    "dashscope/qwen-image-edit",
    "dashscope/qwen-image-edit-plus",
    "dashscope/qwen-image-2.0",
    "openai/*",
    "lumenfall/*",
    "vllm-omni/*",
    "sglang/*",
    "litellm/*",
)

AS_DOCUMENTED = {
    #                          fal      RunPod Repl. DashScope Open Lume vLLM SGL Lite
    "prompt": "                 P P P    R R    P     C C C     P    P    P    P   P",
    "negative_prompt": "        P P P    P D    D     P P P     D    P    P    P   D",
    "images": "                 R R R    R R    R     C C C     P    P    P    P   P",
    "mask": "                   E E E    E E    E     E E E     P    P    E    E   P",
    "size": "                   C C C    E C    C     E C C     C    P    P    P   P",
    "aspect_ratio": "           C C C    E E    C     E C C     C    P    C    C   C",
    "seed": "                   P P P    P P    P     C C C     D    P    P    P   D",
    "num_images": "             P P P    E E    E     E R R     R    R    R    R   R",
    "steps": "                  R R D    D D    D     D D D     D    R    R    R   D",
    "guidance_scale": "         P P D    D D    D     D D D     D    R    R    R   D",
    "acceleration": "           P P D    D D    C     D D D     D    P    D    C   D",
    "output_format": "          P P P    P P    C     E E E     P    P    P    P   E",
    "output_quality": "         E E E    E E    R     E E E     R    R    R    R   E",
    "enable_safety_checker": "  P P P    P D    C     D D D     D    P    E    E   D",
    "enable_prompt_expansion": "E E P    E E    E     D R R     E    E    E    R   E",
    "loras": "                  C C X    X C    C     X X X     X    X    C    X   X",
}  # fmt: skip


@pytest.mark.parametrize("profile", [*PROFILES, local_profile()], ids=lambda profile: profile.id)
def test_every_field_of_an_edit_has_a_cell_at_every_model(profile: Profile) -> None:
    ours = {each.name for kind in (EditRequest, Delivery) for each in fields(kind)} - ROUTED_BY
    assert set(profile.cells) == ours | {"aspect_ratio"} == {*hosted().fields, *hosted().everywhere}


@pytest.mark.parametrize("field", AS_DOCUMENTED)
def test_cells_are_those_of_the_providers_pages(field: str) -> None:
    letters = dict(zip(MODELS_OF_COLUMNS, AS_DOCUMENTED[field].split(), strict=True))
    for model, letter in letters.items():
        assert hosted().profiles[model].cells[field].behaviour is LETTERS[letter], (field, model)


def test_our_own_checkpoints_take_every_parameter_as_it_is() -> None:
    cells = local_profile().cells
    for field in AS_DOCUMENTED:
        assert cells[field].behaviour is Behaviour.PASSTHROUGH


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.id)
def test_a_row_is_whole(profile: Profile) -> None:
    assert profile.kind in hosted().kinds
    assert profile.max_images >= 1
    assert profile.max_num_images >= 1
    assert (profile.sizes.way is SizeWay.ENUMERATED) == bool(profile.sizes.choices)
    assert profile.lora is None or hosted().profiles[profile.lora].loras
    assert set(profile.serves) <= {model.id for model in MODELS}
    assert profile.default_format in profile.output_formats
    assert profile.cells["size"].sent == (profile.sizes.way is not SizeWay.FIXED)


@pytest.mark.parametrize("kind", hosted().kinds)
def test_a_kind_has_one_row_for_a_public_model(kind: str) -> None:
    for model in MODELS:
        serving = [profile.id for profile in PROFILES if profile.kind == kind and model.id in profile.serves]
        assert len(serving) <= 1, serving


def test_an_id_is_served_by_the_row_of_the_id_that_asks_for_the_same() -> None:
    table = hosted()
    ids = {model.id for model in MODELS}
    assert set(table.same_as) | set(table.same_as.values()) <= ids
    assert ids - set(table.same_as) == set(table.same_as.values())
    for model, row in (
        ("fal-ai/qwen-image-2/edit", "dashscope/qwen-image-2.0"),
        ("fal-ai/qwen-image-edit-2511/lora", "runpod/qwen-image-edit-2511"),
    ):
        assert table.serving(row.partition("/")[0], model) is table.profiles[row]
    lora = table.serving("fal", "fal-ai/qwen-image-edit-2511/lora")
    assert lora is table.profiles["fal/fal-ai/qwen-image-edit-2511/lora"]


def test_a_model_without_a_row_of_its_own_takes_the_row_of_its_kind() -> None:
    table = hosted()
    assert table.profile("vllm-omni", "Qwen/Qwen-Image-Edit-2511") is table.profiles["vllm-omni/*"]
    assert table.profile("dashscope", "qwen-image-edit-max-2026-01-16") is not None
    assert table.profile("fal", "fal-ai/flux/dev") is None


def test_prices_are_those_of_the_sheet() -> None:
    prices = {profile.id: profile.price for profile in PROFILES if profile.price}
    assert prices["fal/fal-ai/qwen-image-edit"].of(1, 1_000_000) == 30_000
    assert prices["fal/fal-ai/qwen-image-edit-2511/lora"].of(2, 2_000_000) == 70_000
    assert prices["runpod/qwen-image-edit"].of(1, 1024 * 1024) == 20_972
    assert prices["runpod/qwen-image-edit"].reported
    assert prices["dashscope/qwen-image-2.0-pro"].of(3, 9) == 225_000
    assert str(prices["dashscope/qwen-image-3.0"]) == "0.03 USD an image + 0.003 USD an input image"
    assert str(prices["litellm/*"]) == "as reported"
    assert "dashscope/qwen-image-2.1-pro" not in prices
