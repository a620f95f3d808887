"""Tables of modulation: what the weights say, made once, kept on disk, and bits that no schedule changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from retouch.edit import EditSpec
from retouch.engine.pipelines import load_pipeline, loading
from retouch.engine.pipelines.cache import TensorCache
from retouch.engine.pipelines.denoising import FastNetwork
from retouch.engine.pipelines.modulation import Modulation, fingerprint_of, modulation_layers, timestep_at
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from tests.tiny_checkpoints import build_transformer, checkpoint, coloured_blocks, shared

SIGMAS = (1.0, 0.7, 0.2, 0.0)
LATENTS = torch.zeros(1, 4, 16)


@pytest.fixture
def network() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return build_transformer(64, zero_cond_t=True).requires_grad_(requires_grad=False)


def test_a_table_is_what_the_weights_answer(network: QwenImageTransformer2DModel) -> None:
    table = Modulation(network).table(SIGMAS, LATENTS)
    for index, sigma in enumerate(SIGMAS):
        time = network.time_text_embed(timestep_at(sigma, LATENTS), network.img_in.weight)
        for number, block in enumerate(network.transformer_blocks):
            torch.testing.assert_close(table[index, 2 * number].flatten(), block.img_mod(time)[0], rtol=0, atol=0)
            torch.testing.assert_close(table[index, 2 * number + 1].flatten(), block.txt_mod(time)[0], rtol=0, atol=0)
        last = network.norm_out.linear(torch.nn.functional.silu(time))[0]
        torch.testing.assert_close(table[index, -1].flatten()[: len(last)], last, rtol=0, atol=0)


def test_bits_do_not_depend_on_the_schedule(network: QwenImageTransformer2DModel) -> None:
    modulation = Modulation(network)
    short, long = modulation.table((0.7, 0.0), LATENTS), modulation.table(SIGMAS, LATENTS)
    assert torch.equal(short[0], long[1])
    assert torch.equal(short[1], long[3])


def test_a_table_on_disk_needs_no_weights(network: QwenImageTransformer2DModel, tmp_path: Path) -> None:
    first = Modulation(network, folder=tmp_path / "tables", fingerprint="a")
    expected = first.table(SIGMAS, LATENTS).clone()
    for layer in modulation_layers(network):
        layer.weight.fill_(torch.nan)
    again = Modulation(network, folder=tmp_path / "tables", fingerprint="a")
    assert torch.equal(again.table(SIGMAS, LATENTS), expected)
    assert again.made == 0
    other = Modulation(network, folder=tmp_path / "tables", fingerprint="b")
    assert other.table(SIGMAS, LATENTS).isnan().any()


def test_a_damaged_table_is_made_again(network: QwenImageTransformer2DModel, tmp_path: Path) -> None:
    expected = Modulation(network, folder=tmp_path, fingerprint="a").table(SIGMAS, LATENTS)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = Modulation(network, folder=tmp_path, fingerprint="a")
    assert torch.equal(again.table(SIGMAS, LATENTS), expected)
    assert again.made == 1


def test_a_folder_that_cannot_be_written_costs_the_file_only(
    network: QwenImageTransformer2DModel, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert Modulation(network, folder=blocked / "tables").table(SIGMAS, LATENTS).shape[0] == len(SIGMAS)


def test_schedules_that_run_at_once_are_made_once_each_however_small_the_cache() -> None:
    pipeline = load_pipeline(checkpoint(shared("plus-2511")), device="cpu")
    assert isinstance(pipeline, QwenImageEdit)
    assert isinstance(pipeline.network, FastNetwork)
    pipeline.network.modulation._tables = TensorCache(0)
    edits = [EditSpec("x", 64, 64, seed=1, steps=steps) for steps in (3, 4, 5, 6)]
    states = [pipeline.prepare(replace(edit, guidance_scale=1.0), [coloured_blocks(1, 64, 64)]) for edit in edits]
    while any(not state.done for state in states):
        for state in states:
            if not state.done:
                pipeline.denoise([state])
    assert pipeline.network.modulation.made == len(edits)


def test_placing_a_network_leaves_the_modulation_behind() -> None:
    network = build_transformer(64, zero_cond_t=True)
    loading.place(network, torch.device("meta"))
    left = {name for name, weight in network.named_parameters() if weight.device.type == "cpu"}
    assert left == {name for name, _ in network.named_parameters() if "_mod." in name or "norm_out.linear" in name}


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint_of(tmp_path)
    assert fingerprint_of(tmp_path) == before
    (tmp_path / "config.json").write_text("{ }")
    assert fingerprint_of(tmp_path) != before
