"""Eight-bit weights: how near they are, and that a step with them is nearly the step without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.precision import ScaledLinear, compress
from retouch.errors import UnsupportedParameter
from tests.tiny_checkpoints import checkpoint, coloured_blocks, shared


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.02), ("fp8", 0.06)])
def test_a_product_is_near_the_exact_one(precision: str, error: float) -> None:
    torch.manual_seed(0)
    layer, values = nn.Linear(256, 64), torch.randn(10, 256)
    exact, near = layer(values), ScaledLinear(layer, precision)(values)
    assert ((near - exact).norm() / exact.norm()) < error


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_row_of_zeros_stays_zero(precision: str) -> None:
    layer = nn.Linear(8, 2, bias=False)
    layer.weight.data[0] = 0
    assert ScaledLinear(layer, precision)(torch.ones(1, 8))[0, 0] == 0


def test_layers_to_keep_are_kept() -> None:
    tree = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    compress(tree, "int8", keep=frozenset([tree[0]]))
    assert isinstance(tree[0], nn.Linear)
    assert isinstance(tree[1][0], ScaledLinear)


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.05), ("fp8", 0.2)])
def test_a_step_is_near_the_exact_one(precision: str, error: float) -> None:
    spec, photo = EditSpec("make it grayscale", 64, 64, seed=1, steps=2, guidance_scale=2.0), coloured_blocks(1, 64, 64)
    velocities = []
    for storage in ("auto", precision):
        pipeline = load_pipeline(checkpoint(shared("plus-2511")), device="cpu", precision=storage)
        state = pipeline.prepare(spec, [photo])
        pipeline.denoise([state])
        velocities.append(state.velocity)
    exact, near = velocities
    assert 0 < (near - exact).norm() / exact.norm() < error


def test_a_checkpoint_of_full_precision_refuses_eight_bits() -> None:
    with pytest.raises(UnsupportedParameter, match="'demo' runs in float32 only"):
        load_pipeline(checkpoint_named("demo"), device="cpu", precision="int8")


def test_compat_mode_refuses_eight_bits() -> None:
    with pytest.raises(UnsupportedParameter, match="compat mode"):
        load_pipeline(checkpoint(shared("plus")), device="cpu", compat="diffusers", precision="int8")
