"""Networks in four bits and from GGUF files: near the exact one, as large as was said, and sentences for the rest."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import gguf
import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from retouch.edit import EditSpec
from retouch.engine.pipelines import folders, load_pipeline, loading, memory_plan
from retouch.engine.pipelines.modulation import modulation_layers
from retouch.engine.pipelines.precision import gguf_blocks_bytes
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.errors import RetouchError, UnknownModel, UnsupportedParameter
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared

FOLDER = shared("plus-2511")
ROW = checkpoint(FOLDER)
SPEC, PHOTO = EditSpec("make it grayscale", 64, 64, seed=1, steps=2, guidance_scale=2.0), coloured_blocks(1, 64, 64)
DOCS = Path(__file__).parents[4] / "docs"


def write(file: Path, kind: str = "Q8_0", *, without: str = "nothing") -> Path:
    """The tiny network as a GGUF file, as converters write them: matrices in `kind`, the rest in float32."""
    network = QwenImageTransformer2DModel.from_pretrained(FOLDER / "transformer")
    bits = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(file, "qwen_image")
    for name, weight in network.state_dict().items():
        values = weight.float().numpy()
        if without in name:
            continue
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, bits), raw_dtype=bits)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def velocity(pipeline: QwenImageEdit) -> torch.Tensor:
    state = pipeline.prepare(SPEC, [PHOTO])
    pipeline.denoise([state])
    return state.velocity


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.1), ("Q4_0", 0.6)])
def test_a_step_in_a_files_bits_is_near_the_exact_one(tmp_path: Path, kind: str, error: float) -> None:
    file = write(tmp_path / "network.gguf", kind)
    exact = velocity(load_pipeline(ROW, device="cpu"))
    near = velocity(load_pipeline(ROW, device="cpu", precision=f"gguf:{file}"))
    assert 0 < (near - exact).norm() / exact.norm() < error


def test_a_file_holds_what_was_predicted_and_its_modulation_is_dense(tmp_path: Path) -> None:
    file = write(tmp_path / "network.gguf")
    pipeline = load_pipeline(ROW, device="cpu", precision=f"gguf:{file}")
    assert pipeline.weights is not None
    assert {layer.weight.dtype for layer in modulation_layers(pipeline.network.transformer)} == {torch.float32}
    held = sum({tensor.data_ptr(): tensor.nbytes for tensor in pipeline.weights.tensors}.values())
    parts = memory_plan.parts_of(FOLDER)
    assert parts.device_bytes("gguf", itemsize=4, blocks_bytes=gguf_blocks_bytes(file)) == pytest.approx(
        held, rel=0.002
    )


def test_the_only_file_of_a_folder_needs_no_name(tmp_path: Path) -> None:
    for part in FOLDER.iterdir():
        (tmp_path / part.name).symlink_to(part)

    def chosen() -> Path | None:
        return memory_plan.plan_of(ROW, tmp_path, "gguf", "auto", torch.float32, free_bytes=None).file

    with pytest.raises(UnknownModel, match="holds 0 GGUF files; name the one you mean"):
        chosen()
    file = write(tmp_path / "q8.gguf")
    assert chosen() == file
    write(tmp_path / "q4.gguf", "Q4_0")
    with pytest.raises(UnknownModel, match="holds 2 GGUF files"):
        chosen()


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    no_file, text = tmp_path / "none.gguf", tmp_path / "text.gguf"
    text.write_text("not a model")
    other = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    other.add_tensor("blk.0.attn_q.weight", torch.zeros(4, 32).numpy())
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    half = write(tmp_path / "half.gguf", without="transformer_blocks.1.attn")
    for file, reason in (
        (no_file, "There is no file"),
        (text, "is no GGUF file"),
        (tmp_path / "other.gguf", "no transformer_blocks"),
        (half, "weights are missing"),
    ):
        with pytest.raises(RetouchError, match=reason):
            load_pipeline(ROW, device="cpu", precision=f"gguf:{file}")


def test_what_cannot_be_swapped_is_refused() -> None:
    for precision in memory_plan.FOUR_BITS:
        with pytest.raises(UnsupportedParameter, match="--offload blocks moves plain weights"):
            memory_plan.plan_of(ROW, FOLDER, precision, "blocks", torch.bfloat16, free_bytes=10**12)
    assert [plan.offload for plan in memory_plan.plans(memory_plan.full_size(), "nf4")] == ["none", "encoder"]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="it is installed")
def test_four_bits_without_their_package_are_one_sentence() -> None:
    with pytest.raises(UnsupportedParameter, match=r"--precision nf4 needs .* pip install 'retouch\[quantized\]'"):
        load_pipeline(ROW, device="cpu", precision="nf4")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra 'quantized'")
def test_a_step_in_four_bits_is_near_the_exact_one() -> None:
    exact, pipeline = velocity(load_pipeline(ROW, device="cpu")), load_pipeline(ROW, device="cpu", precision="nf4")
    assert 0 < (velocity(pipeline) - exact).norm() / exact.norm() < 0.6


@pytest.mark.parametrize("bits", ["Q8_0", "Q6_K", "Q4_K", "Q2_K"])
@pytest.mark.parametrize("offload", ["none", "encoder"])
def test_the_files_rows_of_the_docs_are_what_is_counted(bits: str, offload: str) -> None:
    page, full = (DOCS / "how-to" / "run-a-real-model.md").read_text(), memory_plan.full_size()
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[bits]]
    counted = full.device_bytes("gguf", offload, blocks_bytes=full.blocks * size // weights)
    row = re.search(rf"\| `gguf`, {bits} \| `{offload}` \| ([0-9.]+) GB \| ([0-9.]+) GB \|", page)
    assert row is not None
    assert [f"{value / 1e9:.1f}" for value in (counted, counted + memory_plan.ROOM_BYTES)] == list(row.groups())


def test_a_quantized_weight_moves_as_one(tmp_path: Path) -> None:
    plan = memory_plan.plan_of(
        ROW, FOLDER, f"gguf:{write(tmp_path / 'n.gguf')}", "auto", torch.float32, free_bytes=None
    )
    with folders.quiet():
        network = loading._transformer(FOLDER, torch.device("cpu"), torch.float32, plan.file)
    before = network.transformer_blocks[0].attn.to_q.weight
    loading.place(network, torch.device("meta"))
    after = network.transformer_blocks[0].attn.to_q.weight
    assert (after.is_meta, after.quant_type, after.quant_shape) == (True, before.quant_type, before.quant_shape)
    assert not network.transformer_blocks[0].img_mod[1].weight.is_meta
