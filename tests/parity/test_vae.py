"""The folded autoencoder against the stock 3-D class: within 1e-5 in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKLQwenImage

from retouch.engine.pipelines.vae import FoldedVae, StockVae
from tests.tiny_checkpoints import build_vae


def full_shaped() -> AutoencoderKLQwenImage:
    """The real layout, two residual blocks and time convolutions on two levels, with few channels."""
    return AutoencoderKLQwenImage(base_dim=12, z_dim=16).eval()


@pytest.fixture(params=[build_vae, full_shaped], ids=["tiny", "real layout"], scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[StockVae, FoldedVae]:
    torch.manual_seed(3)
    vae = request.param()
    return StockVae(copy.deepcopy(vae)), FoldedVae(vae)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_encoding_is_within_1e_5(pair: tuple[StockVae, FoldedVae], size: tuple[int, int]) -> None:
    stock, folded = pair
    signal = randn(1, 3, *size).clamp(-1, 1)
    with torch.inference_mode():
        expected = stock.encode(signal)
        actual = folded.encode(signal)
    assert actual.shape == expected.shape == (1, folded.channels, size[0] // 8, size[1] // 8)
    assert (actual - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(8, 8), (6, 14)])
def test_decoding_is_within_1e_5(pair: tuple[StockVae, FoldedVae], size: tuple[int, int]) -> None:
    stock, folded = pair
    latents = randn(1, folded.channels, *size)
    with torch.inference_mode():
        expected = stock.decode(latents)
        actual = folded.decode(latents)
    assert actual.shape == expected.shape == (1, 3, size[0] * 8, size[1] * 8)
    assert expected.std() > 0.01
    assert (actual - expected).abs().max() < 1e-5


def test_folding_leaves_a_third_of_the_weights() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLQwenImage()
    before = sum(parameter.numel() for parameter in vae.parameters())
    folded = FoldedVae(vae)
    parts = (folded.encoder, folded.decoder, folded.quant_conv, folded.post_quant_conv)
    after = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert before == 126_892_531
    assert 44_500_000 < after < 44_700_000


def test_bfloat16_weights_take_and_give_what_float32_ones_do() -> None:
    folded = FoldedVae(build_vae().to(torch.bfloat16))
    with torch.inference_mode():
        latents = folded.encode(randn(1, 3, 64, 64))
        signal = folded.decode(latents)
    assert latents.dtype == signal.dtype == torch.bfloat16
    assert signal.abs().max() <= 1
