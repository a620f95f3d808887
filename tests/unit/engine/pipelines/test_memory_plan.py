"""What is predicted before loading is what is held after it, and what does not fit is refused with the numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from retouch.engine.pipelines import loading, memory_plan
from retouch.engine.pipelines.memory_plan import ROOM_BYTES, Parts
from retouch.engine.pipelines.modulation import modulation_layers
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
    vae = full.blocks + full.encoder + full.rest + full.modulation + full.head - 20_430_401_088 - 8_292_166_656
    assert 44_000_000 < vae < 45_000_000  # folded, of 126.9 million


@pytest.mark.parametrize("precision", memory_plan.PRECISIONS)
def test_the_table_in_the_docs_is_what_is_counted(full: Parts, precision: str) -> None:
    page = (DOCS / "how-to" / "run-a-real-model.md").read_text()
    row = re.search(rf"\| `{precision}` \| ([0-9.]+) GB \| ([0-9.]+) GB \|", page)
    assert row is not None
    weights = full.device_bytes(precision)
    assert [f"{value / 1e9:.1f}" for value in (weights, weights + ROOM_BYTES)] == list(row.groups())


@pytest.mark.parametrize(("gibibytes", "precision"), [(80, "bf16"), (48, "bf16"), (40, "fp8"), (32, "fp8"), (24, None)])
def test_the_most_exact_that_fits_is_chosen(full: Parts, gibibytes: int, precision: str | None) -> None:
    assert memory_plan.choose(full, gibibytes * 2**30) == precision


@pytest.mark.parametrize("storage", [None, "fp8", "int8"])
def test_what_is_predicted_is_what_is_held(storage: str | None) -> None:
    rules = loading.read_rules(FOLDER)
    with loading.quiet(), torch.inference_mode():
        pipeline = loading.assemble(
            TINY, rules, FOLDER, torch.device("cpu"), torch.float32, compat=False, storage=storage
        )
    assert isinstance(pipeline, QwenImageEdit)
    network = pipeline.network.transformer
    modules = [network, pipeline.text_encoder.model]
    modules += [getattr(pipeline.vae, part) for part in ("encoder", "decoder", "quant_conv", "post_quant_conv")]
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.state_dict().values())}
    tables = sum(weight.nbytes for layer in modulation_layers(network) for weight in layer.parameters())
    storages = {tensor.data_ptr(): tensor.nbytes for tensor in tensors.values()}
    held = sum(storages.values()) - tables
    predicted = memory_plan.parts_of(FOLDER).device_bytes(storage or "bf16", itemsize=4)
    assert predicted == pytest.approx(held, rel=0.002)


def test_what_does_not_fit_is_refused_with_the_numbers(full: Parts) -> None:
    with pytest.raises(OutOfMemory, match=r"of which 25\.8 GB are free\. It needs bf16: 46\.8 GB; fp8: 26\.7 GB"):
        memory_plan.check("qwen-image-edit-2511", full, "auto", 24 * 2**30)
    with pytest.raises(OutOfMemory):
        memory_plan.check("qwen-image-edit-2511", full, "bf16", 40 * 2**30)
    assert memory_plan.check("qwen-image-edit-2511", full, "fp8", 40 * 2**30) == "fp8"


def test_a_folder_is_refused_before_its_weights_are_read() -> None:
    with pytest.raises(OutOfMemory, match="'tiny' does not fit"):
        loading.storage_of(TINY, FOLDER, "auto", torch.bfloat16, free_bytes=10**9)
    assert loading.storage_of(TINY, FOLDER, "auto", torch.bfloat16, free_bytes=10**10) is None
    assert loading.storage_of(TINY, FOLDER, "int8", torch.bfloat16, free_bytes=10**10) == "int8"


def test_a_precision_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="no precision 'nf4'; there are: auto, bf16, fp8, int8"):
        loading.storage_of(TINY, FOLDER, "nf4", torch.float32, free_bytes=None)
    with pytest.raises(UnsupportedParameter, match="computes in float32"):
        loading.storage_of(TINY, FOLDER, "bf16", torch.float32, free_bytes=None)
