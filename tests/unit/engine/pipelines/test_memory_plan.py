"""What is predicted before loading is what is held after it, and what does not fit is refused with the numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLQwenImage21, QwenImage21Transformer2DModel
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from retouch.engine.pipeline import SILENT
from retouch.engine.pipelines import folders, loading, memory_plan, share_device
from retouch.engine.pipelines.memory_plan import ROOM_BYTES, Parts, Plan
from retouch.engine.pipelines.offload import tensors_of
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.errors import OutOfMemory, UnsupportedParameter
from tests.tiny_checkpoints import checkpoint, shared

DOCS = Path(__file__).parents[4] / "docs"
TINY = checkpoint(shared("plus-2511"))
FOLDER = shared("plus-2511")


@pytest.fixture(scope="module")
def full() -> Parts:
    return memory_plan.full_size()


def test_the_large_checkpoints_have_the_sizes_they_are_known_for(full: Parts) -> None:
    assert full.modulation == 60 * 2 * (3072 * 18432 + 18432) + 3072 * 6144 + 6144
    network = full.blocks + full.block_rest + full.network_rest + full.modulation
    assert (network, full.layers) == (20_430_401_088, 60)
    assert full.encoder + full.encoder_rest + full.head == 8_292_166_656
    assert 44_000_000 < full.vae < 45_000_000  # folded, of 126.9 million


@pytest.mark.parametrize(
    ("precision", "offload"),
    [
        *((precision, offload) for precision in ("bf16", "fp8", "int8") for offload in memory_plan.OFFLOADS),
        ("nf4", "none"),
        ("nf4", "encoder"),
    ],
)
def test_the_table_in_the_docs_is_what_is_counted(full: Parts, precision: str, offload: str) -> None:
    page = (DOCS / "how-to" / "run-a-real-model.md").read_text()
    row = re.search(rf"\| `{precision}` \| `{offload}` \| ([0-9.]+) GB \| ([0-9.]+) GB \|", page)
    assert row is not None
    weights = full.device_bytes(precision, offload)
    assert [f"{value / 1e9:.1f}" for value in (weights, weights + ROOM_BYTES)] == list(row.groups())


@pytest.mark.parametrize(
    ("gibibytes", "plan"),
    [
        (80, "bf16"),
        (48, "bf16"),
        (40, "bf16 with the encoder swapped"),
        (32, "bf16 with the encoder swapped"),
        (24, "fp8 with the encoder swapped"),
        (16, "bf16 with the blocks swapped"),
        (4, "None"),
    ],
)
def test_the_most_exact_that_fits_is_chosen(full: Parts, gibibytes: int, plan: str) -> None:
    assert str(memory_plan.choose(memory_plan.plans(full), gibibytes * 2**30)) == plan


def test_the_cards_of_the_docs_are_those_of_the_plan(full: Parts) -> None:
    assert list(memory_plan.by_card(memory_plan.plans(full))) == [
        "48 GB: bf16",
        "32 GB: bf16 with the encoder swapped",
        "20 GB: fp8 with the encoder swapped",
        "6 GB: bf16 with the blocks swapped",
    ]
    page = (DOCS / "how-to" / "run-a-real-model.md").read_text()
    rows = ("48 GB and more | bf16", "32 and 40 GB | bf16 with the encoder", "20 and 24 GB | fp8 with the encoder")
    assert all(f"| {row}" in page for row in (*rows, "6 to 16 GB | bf16 with the blocks swapped"))


def test_what_is_named_is_not_replaced_by_something_else(full: Parts) -> None:
    assert {plan.offload for plan in memory_plan.plans(full, "auto", "none")} == {"none"}
    assert {plan.precision for plan in memory_plan.plans(full, "int8", "auto")} == {"int8"}
    [only] = memory_plan.plans(full, "int8", "blocks")
    assert str(only) == "int8 with the blocks swapped"


@pytest.mark.parametrize("precision", ["bf16", "fp8", "int8"])
@pytest.mark.parametrize("offload", memory_plan.OFFLOADS)
def test_what_is_predicted_is_what_is_held(precision: str, offload: str) -> None:
    rules = loading.read_rules(FOLDER)
    plan = Plan(precision, offload, 0)
    with folders.quiet(), torch.inference_mode():
        pipeline = loading.assemble(TINY, rules, FOLDER, torch.device("cpu"), torch.float32, compat=False, plan=plan)
    assert isinstance(pipeline, QwenImageEdit)
    assert pipeline.weights is not None
    storages = {tensor.data_ptr(): tensor.nbytes for tensor in pipeline.weights.tensors}
    held = sum(storages.values())
    parts = memory_plan.parts_of(FOLDER)
    if offload == "blocks":
        held += sum(tensor.nbytes for tensor in tensors_of(pipeline.network.offloaded)) * 2 // parts.layers
    predicted = parts.device_bytes(precision, offload, itemsize=4)
    assert predicted == pytest.approx(held, rel=0.002)


def test_what_does_not_fit_is_refused_with_the_numbers(full: Parts) -> None:
    with pytest.raises(
        OutOfMemory, match=r"of which 4\.3 GB are free\. It needs bf16: 46\.8 GB; bf16 with the encoder"
    ):
        memory_plan.check("qwen-image-edit-2511", memory_plan.plans(full), 4 * 2**30)
    with pytest.raises(OutOfMemory):
        memory_plan.check("qwen-image-edit-2511", memory_plan.plans(full, "bf16", "none"), 40 * 2**30)


def test_a_folder_is_refused_before_its_weights_are_read() -> None:
    with pytest.raises(OutOfMemory, match="'tiny' does not fit"):
        memory_plan.plan_of(TINY, FOLDER, "auto", "auto", torch.bfloat16, free_bytes=10**9)
    assert memory_plan.plan_of(TINY, FOLDER, "auto", "auto", torch.bfloat16, free_bytes=10**10) == memory_plan.EXACT
    small = memory_plan.plan_of(TINY, FOLDER, "int8", "blocks", torch.bfloat16, free_bytes=10**10)
    assert (small.precision, small.offload) == ("int8", "blocks")


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="no precision 'bf8'; there are: auto, bf16, fp8, int8, nf4, gguf"):
        memory_plan.plan_of(TINY, FOLDER, "bf8", "auto", torch.float32, free_bytes=None)
    with pytest.raises(UnsupportedParameter, match="no offload 'all'; there are: auto, none, encoder, blocks"):
        memory_plan.plan_of(TINY, FOLDER, "auto", "all", torch.float32, free_bytes=None)
    with pytest.raises(UnsupportedParameter, match="computes in float32"):
        memory_plan.plan_of(TINY, FOLDER, "bf16", "auto", torch.float32, free_bytes=None)
    with pytest.raises(UnsupportedParameter, match="on a CPU there is nothing to move"):
        memory_plan.plan_of(TINY, FOLDER, "auto", "encoder", torch.float32, free_bytes=None)


@pytest.mark.parametrize(
    ("gibibytes", "options", "how"),
    [
        (141, (), ["bf16", "bf16", False]),
        (80, (), ["bf16", "bf16", True]),
        (48, (), ["bf16", "bf16", True]),
        (40, (), ["bf16 with the encoder swapped", "bf16 with the encoder swapped", True]),
        (48, ("fp8", "encoder"), ["fp8 with the encoder swapped", "fp8 with the encoder swapped", False]),
        (4, (), ["None", "None", False]),
    ],
)
def test_several_models_stand_side_by_side_or_take_turns(
    full: Parts, gibibytes: int, options: tuple[str, ...], how: list[object]
) -> None:
    shared = memory_plan.share([memory_plan.plans(full, *options)] * 2, gibibytes * 2**30)
    assert [*map(str, shared.plans), shared.swaps] == how


def test_a_model_that_never_fits_takes_nothing_from_the_others(full: Parts) -> None:
    shared = memory_plan.share([memory_plan.plans(full, "bf16", "none"), memory_plan.plans(full)], 32 * 2**30)
    assert [*map(str, shared.plans), shared.swaps] == ["None", "bf16 with the encoder swapped", False]


def test_on_a_cpu_models_share_the_host() -> None:
    rows = [TINY, replace(TINY, name="other")]
    assert memory_plan.share_device(
        rows, device="cpu", precision="auto", offload="auto", speaks=[SILENT, SILENT]
    ) == memory_plan.Shared((None, None), swaps=False)
    named = share_device(rows, device="cpu", precision="int8", offload="none", speaks=[SILENT, SILENT])
    assert named == (False, (("int8", "none"), ("int8", "none")))


def test_the_second_architecture_has_the_size_it_is_known_for() -> None:
    words = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_key_value_heads": 8}
    with torch.device("meta"):
        network, vae = QwenImage21Transformer2DModel(), AutoencoderKLQwenImage21()
        encoder = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(
                text_config=words, vision_config={"out_hidden_size": 4096, "deepstack_visual_indexes": [8, 16, 24]}
            )
        )
    counts = [sum(parameter.numel() for parameter in each.parameters()) for each in (network, vae, encoder)]
    assert counts == [7_115_124_736, 337_740_404, 8_767_123_696]
    weights = 2 * (sum(counts) - encoder.lm_head.weight.numel())
    page = (DOCS / "how-to" / "run-a-real-model.md").read_text()
    assert f"{weights / 1e9:.1f} GB of weights, {(weights + ROOM_BYTES) / 1e9:.1f} GB with room" in page
