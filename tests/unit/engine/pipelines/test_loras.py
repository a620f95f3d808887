"""LoRAs by edit: no trace in a neighbour that takes turns, one sentence for what is none, and bounds that hold."""

from __future__ import annotations

import gc
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from retouch.edit import Acceleration, EditSpec, LoraFile
from retouch.engine.engine import Engine
from retouch.engine.pipelines import folders, load_pipeline, loading
from retouch.engine.pipelines.denoising import FastNetwork
from retouch.engine.pipelines.loras import PEFT_CONFIG
from retouch.engine.pipelines.low_rank import LoraLinear
from retouch.engine.pipelines.memory_plan import Plan
from retouch.engine.pipelines.qwen_image_edit import PLUS, QwenImageEdit
from retouch.errors import InvalidLora
from retouch.images import Pixels
from tests import tiny_loras
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared

PHOTO = coloured_blocks(1, 96, 64)
SPEC = EditSpec("make it blue", 96, 64, seed=1, steps=3, guidance_scale=2.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipeline() -> QwenImageEdit:
    return load()


def load(precision: str = "auto", **changes: object) -> QwenImageEdit:
    row = replace(checkpoint(shared("plus-2511")), **changes)
    loaded = load_pipeline(row, device="cpu", precision=precision)
    assert isinstance(loaded, QwenImageEdit)
    return loaded


def given(file: Path, scale: float = 1.0) -> LoraFile:
    return LoraFile(file, scale, file.name, "loras[0]", file.stat().st_size if file.exists() else 0)


@pytest.fixture
def style(pipeline: QwenImageEdit, tmp_path: Path) -> Callable[..., LoraFile]:
    """A LoRA on every layer, or on some; another seed gives another one."""

    def write(layers: tuple[str, ...] = tiny_loras.EVERYWHERE, seed: int = 1, scale: float = 1.0) -> LoraFile:
        made = tiny_loras.matrices(pipeline.network.transformer, layers, seed=seed)
        return given(tiny_loras.write(tmp_path / f"{seed}-{len(layers)}.safetensors", made, "kohya"), scale)

    return write


def alone(pipeline: QwenImageEdit, spec: EditSpec) -> Pixels:
    state = pipeline.prepare(spec, [PHOTO])
    while not state.done:
        pipeline.denoise([state])
    return pipeline.decode(state)


def test_edits_that_take_turns_with_and_without_loras_give_byte_for_byte_what_each_gives_alone(
    style: Callable[..., LoraFile],
) -> None:
    everywhere, mlps = style(), style(tuple(tiny_loras.in_blocks(tiny_loras.MLP)), seed=2)
    edits = [
        SPEC,
        replace(SPEC, loras=(everywhere,)),
        replace(SPEC, loras=(replace(everywhere, scale=0.5),), steps=5),
        replace(SPEC, loras=(mlps,), guidance_scale=1.0),
        replace(SPEC, loras=(mlps, everywhere), steps=2),
        replace(SPEC, seed=2, acceleration=Acceleration.REGULAR, steps=8),
        replace(SPEC, loras=(everywhere,), acceleration=Acceleration.HIGH, steps=8, region=bytes([1, 1] + [0] * 22)),
    ]
    expected = [alone(load(block_cache=True), edit) for edit in edits]
    engine = Engine(load(block_cache=True))
    answers: dict[str, Pixels] = {}
    coming = list(enumerate(edits))
    while coming or engine.busy:
        if coming:
            number, edit = coming.pop(0)
            inputs = engine.stage(edit, [PHOTO]) if number % 2 else None
            engine.add(edit, [PHOTO], edit_id=str(number), place=(-number,), inputs=inputs)
        report = engine.step()
        assert not report.failed
        answers |= {done.edit_id: done.pixels for done in report.finished}
    for number, pixels in enumerate(expected):
        np.testing.assert_array_equal(answers[str(number)], pixels)
    assert len({pixels.tobytes() for pixels in expected}) == len(edits)


def test_a_scale_of_zero_is_the_plain_network(pipeline: QwenImageEdit, style: Callable[..., LoraFile]) -> None:
    state = pipeline.prepare(replace(SPEC, loras=(style(scale=0.0),)), [PHOTO])
    assert state.extras["network"] is pipeline.network


def test_the_network_shares_every_weight_with_the_plain_one(
    pipeline: QwenImageEdit, style: Callable[..., LoraFile]
) -> None:
    weights = {id(weight): weight.clone() for weight in pipeline.network.transformer.parameters()}
    state = pipeline.prepare(replace(SPEC, loras=(style(),)), [PHOTO])
    adapted = state.extras["network"].transformer
    assert {id(weight) for weight in adapted.parameters()} == set(weights)
    pipeline.denoise([state])
    assert all(torch.equal(weight, weights[id(weight)]) for weight in pipeline.network.transformer.parameters())
    assert not any(isinstance(layer, LoraLinear) for layer in pipeline.network.transformer.modules())


def test_tables_are_shared_unless_the_lora_touches_what_they_are_made_of(
    pipeline: QwenImageEdit, style: Callable[..., LoraFile]
) -> None:
    assert isinstance(pipeline.network, FastNetwork)
    own = {
        names: pipeline.prepare(replace(SPEC, loras=(style(tuple(tiny_loras.in_blocks(names, 1)), seed),)), [PHOTO])
        .extras["network"]
        .modulation
        is not pipeline.network.modulation
        for seed, names in enumerate((tiny_loras.ATTENTION, tiny_loras.MODULATION), start=3)
    }
    assert own == {tiny_loras.ATTENTION: False, tiny_loras.MODULATION: True}
    ends = pipeline.prepare(replace(SPEC, loras=(style(tiny_loras.ENDS[-1:], seed=9),)), [PHOTO])
    assert ends.extras["network"].modulation is not pipeline.network.modulation


def test_edits_with_the_same_loras_share_a_network_that_goes_with_the_last_of_them(
    pipeline: QwenImageEdit, style: Callable[..., LoraFile]
) -> None:
    spec = replace(SPEC, loras=(style(),))
    states = [pipeline.prepare(spec, [PHOTO]) for _ in range(2)]
    assert states[0].extras["network"] is states[1].extras["network"]
    assert len(pipeline.loras._networks) == 1
    del states
    gc.collect()
    assert not len(pipeline.loras._networks)


def test_a_file_is_read_once_whatever_it_is_called_and_again_when_it_changes(
    pipeline: QwenImageEdit, style: Callable[..., LoraFile], tmp_path: Path
) -> None:
    first = style(seed=20)
    [loaded] = pipeline.loras.load([first])
    copy = tmp_path / "other name.safetensors"
    copy.write_bytes(first.file.read_bytes())
    assert pipeline.loras.load([given(copy)])[0].layers is loaded.layers
    first.file.write_bytes(style(seed=21).file.read_bytes() + b"")
    assert pipeline.loras.load([given(first.file)])[0].digest != loaded.digest


def test_what_was_read_stays_as_it_is_whatever_becomes_of_the_file(pipeline: QwenImageEdit, tmp_path: Path) -> None:
    made = tiny_loras.matrices(pipeline.network.transformer, tiny_loras.EVERYWHERE, seed=30)
    file = tiny_loras.write(tmp_path / "style.safetensors", made)
    [loaded] = pipeline.loras.load([given(file)])
    before = {name: part.down.clone() for name, part in loaded.layers.items()}
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert all(torch.equal(part.down, before[name]) for name, part in loaded.layers.items())


def test_what_is_kept_has_a_bound_and_the_least_recent_goes_first(style: Callable[..., LoraFile]) -> None:
    loras = load().loras
    files = [style(seed=seed) for seed in range(1, 5)]
    [one] = loras.load(files[:1])
    loras.kept_bytes = int(2.5 * sum(part.nbytes for part in one.layers.values()))
    loras.load(files[1:3])
    assert len(loras._kept) == 2
    assert one.digest not in loras._kept
    assert loras.load(files[:1])[0].layers is not one.layers


def test_an_edit_is_counted_with_the_bytes_of_its_loras(
    pipeline: QwenImageEdit, style: Callable[..., LoraFile]
) -> None:
    lora = style()
    more = pipeline.memory_bytes(replace(SPEC, loras=(lora,)), 1) - pipeline.memory_bytes(SPEC, 1)
    [loaded] = pipeline.loras.load([lora])
    assert more >= sum(part.nbytes for part in loaded.layers.values())


def test_weights_in_eight_bits_take_loras(style: Callable[..., LoraFile]) -> None:
    spec, compressed = replace(SPEC, loras=(style(),)), load("int8")
    without, with_style = alone(compressed, SPEC), alone(compressed, spec)
    change = np.abs(with_style.astype(int) - without).mean()
    against_exact = np.abs(with_style.astype(int) - alone(load(), spec)).mean()
    assert change > 4 * against_exact


@pytest.mark.parametrize("offload", ["encoder", "blocks"])
def test_weights_that_come_to_the_device_for_their_use_take_loras(
    pipeline: QwenImageEdit, style: Callable[..., LoraFile], tmp_path: Path, offload: str
) -> None:
    folder, device = shared("plus-2511"), torch.device("cpu")
    with folders.quiet(), torch.inference_mode():
        offloaded = loading.assemble(
            checkpoint(folder),
            PLUS,
            folder,
            device,
            torch.float32,
            compat=False,
            plan=Plan("bf16", offload, 0),
            disk=tmp_path / "weights",
        )
    for spec in (replace(SPEC, loras=(style(),)), SPEC):
        np.testing.assert_array_equal(alone(offloaded, spec), alone(pipeline, spec))


def test_alphas_beside_a_file_of_pefts_own_count(pipeline: QwenImageEdit, tmp_path: Path) -> None:
    made = tiny_loras.matrices(pipeline.network.transformer, ["img_in"])
    file = tiny_loras.write(tmp_path / "adapter_model.safetensors", made, "peft")
    strengths = []
    for settings in (None, {"r": 3, "lora_alpha": 12}, {"r": 3, "lora_alpha": 3, "use_rslora": True}):
        if settings is not None:
            (tmp_path / PEFT_CONFIG).write_text(json.dumps(settings))
        [loaded] = pipeline.loras.load([given(file)])
        strengths.append(loaded.layers["img_in"].scale)
    assert strengths == pytest.approx([1, 4, 3**0.5])


# --- the few-step LoRA of `high`


def test_high_runs_the_few_step_lora_and_nothing_else_does(style: Callable[..., LoraFile]) -> None:
    file, own = style(), style(seed=2)
    pipeline = load(block_cache=True)
    plain = replace(SPEC, guidance_scale=1.0, steps=8)
    before = {level: alone(pipeline, replace(plain, acceleration=level)) for level in Acceleration}
    pipeline.use_fast_lora(file)
    high = replace(plain, acceleration=Acceleration.HIGH)
    state = pipeline.prepare(high, [PHOTO])
    assert state.sigmas[1] == pytest.approx(3 * 0.875 / (1 + 2 * 0.875))
    assert "block_cache" not in state.extras
    assert state.notices == ()
    assert not np.array_equal(alone(pipeline, high), before[Acceleration.HIGH])
    for level in (Acceleration.NONE, Acceleration.REGULAR):
        np.testing.assert_array_equal(alone(pipeline, replace(plain, acceleration=level)), before[level])
    both = alone(pipeline, replace(high, loras=(own,)))
    np.testing.assert_array_equal(both, alone(pipeline, replace(high, loras=(own, replace(own, scale=0.0)))))
    assert not np.array_equal(both, alone(pipeline, high))


def test_the_few_step_lora_stays_on_the_device_and_is_counted_once(style: Callable[..., LoraFile]) -> None:
    pipeline, file, own = load(), style(), style(seed=2)
    high = replace(SPEC, acceleration=Acceleration.HIGH)
    with_own = replace(high, loras=(own,))
    before = pipeline.memory_bytes(high, 1), pipeline.memory_bytes(with_own, 1)
    pipeline.use_fast_lora(file)
    gc.collect()
    assert len(pipeline.loras._networks) == 1
    assert pipeline.memory_bytes(high, 1) == before[0]
    assert pipeline.memory_bytes(with_own, 1) == before[1] + 2 * file.size_bytes  # the two together are a network


def test_a_few_step_lora_that_does_not_fit_is_reported_when_the_model_is_loaded(tmp_path: Path) -> None:
    file = saved(tmp_path, **pair("img_in", 64, 3072))
    with pytest.raises(InvalidLora, match="does not fit this network"):
        load_pipeline(checkpoint(shared("plus-2511")), device="cpu", fast_lora=given(file))


# --- what is no LoRA


def pickled(folder: Path) -> Path:
    file = folder / "style.pt"
    torch.save({"lora": torch.zeros(2)}, file)
    assert zipfile.is_zipfile(file)
    return file


def old_pickle(folder: Path) -> Path:
    file = folder / "pytorch_lora_weights.bin"
    torch.save({"lora": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    return file


def saved(folder: Path, **weights: torch.Tensor) -> Path:
    file = folder / "style.safetensors"
    save_file({name.replace("__", "."): weight for name, weight in weights.items()}, file)
    return file


def pair(name: str, inner: int, outer: int, rank: tuple[int, int] = (3, 3)) -> dict[str, torch.Tensor]:
    return {
        f"transformer__{name}__lora_A__weight": torch.zeros(rank[0], inner),
        f"transformer__{name}__lora_B__weight": torch.zeros(outer, rank[1]),
    }


def cut(folder: Path) -> Path:
    file = saved(folder, **pair("img_in", 16, 32))
    file.write_bytes(file.read_bytes()[:-8])
    return file


def web_page(folder: Path) -> Path:
    (folder / "page").write_text("<!DOCTYPE html><html>not found</html>")
    return folder / "page"


def huge(folder: Path) -> Path:
    with (folder / "huge.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2) + b"{}")
        file.truncate(10 * 10**9)
    return folder / "huge.safetensors"


BAD = {
    "missing": (lambda folder: folder / "no.safetensors", "No such file"),
    "a pickle": (pickled, "is a pickle"),
    "an old pickle": (old_pickle, "is a pickle"),
    "a page": (web_page, "is no safetensors file"),
    "empty": (saved, "none of its 0 weights"),
    "cut off": (cut, "is no safetensors file"),
    "10 GB": (huge, "has 10.00 GB; at most 2.00 GB"),
    "a checkpoint": (lambda folder: saved(folder, img_in__weight=torch.zeros(2, 2)), "is no LoRA: none of its 1 weights"),
    "a LoKr": (lambda folder: saved(folder, lycoris__lokr_w1=torch.zeros(2, 2)), "is a LoKr"),
    "a DoRA": (
        lambda folder: saved(folder, **pair("img_in", 16, 32), transformer__img_in__dora_scale=torch.ones(32)),
        "is a DoRA",
    ),
    "for more blocks": (
        lambda folder: saved(folder, **pair("transformer_blocks__59__attn__to_q", 32, 32)),
        "1 of its 1 layers are not there, such as 'transformer_blocks.59.attn.to_q'",
    ),
    "for the text encoder": (lambda folder: saved(folder, lora_te_x__lora_down__weight=torch.zeros(2, 2)), "no part of a LoRA for this network"),
    "for a wider network": (
        lambda folder: saved(folder, **pair("img_in", 64, 3072)),
        "its 'img_in' goes from 64 to 3072 channels, the network's from 16 to 32",
    ),
    "with two ranks": (lambda folder: saved(folder, **pair("img_in", 16, 32, (3, 4))), "the ranks of 'img_in' are 3 and 4"),
    "one matrix": (
        lambda folder: saved(folder, transformer__img_in__lora_A__weight=torch.zeros(3, 16)),
        "'img_in' has one of its two matrices",
    ),
    "whole numbers": (
        lambda folder: saved(folder, **{n: w.int() for n, w in pair("img_in", 16, 32).items()}),
        "of torch.int32",
    ),
    "not finite": (
        lambda folder: saved(folder, **{n: w / 0 for n, w in pair("img_in", 16, 32).items()}),
        "not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD.keys())
def test_what_is_no_lora_here_ends_its_own_edit_with_one_sentence(
    pipeline: QwenImageEdit, tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    engine = Engine(pipeline)
    bad = engine.add(replace(SPEC, loras=(given(make(tmp_path)),)), [PHOTO])
    good = engine.add(replace(SPEC, steps=1), [PHOTO])
    failed, finished = {}, []
    while engine.busy:
        report = engine.step()
        failed |= {failure.edit_id: failure.error for failure in report.failed}
        finished += [done.edit_id for done in report.finished]
    assert finished == [good]
    error = failed[bad]
    assert isinstance(error, InvalidLora)
    assert error.field == "loras[0].path"
    assert reason in error.message
    assert error.message.endswith(".")
    assert str(tmp_path) not in error.message


@pytest.mark.parametrize("settings", [
    {"lora_alpha": "x"}, {"lora_alpha": float("nan")}, {"alpha_pattern": {"(a+)+$": 1}}, {"use_dora": True}, []
])  # fmt: skip
def test_bad_settings_of_peft_are_one_sentence(pipeline: QwenImageEdit, tmp_path: Path, settings: object) -> None:
    made = tiny_loras.matrices(pipeline.network.transformer, ["img_in"], seed=50)
    file = tiny_loras.write(tmp_path / "adapter_model.safetensors", made, "peft")
    (tmp_path / PEFT_CONFIG).write_text(json.dumps(settings))
    with pytest.raises(InvalidLora):
        pipeline.loras.load([given(file)])
