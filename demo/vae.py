"""The autoencoder: a hand-built linear encoder and a trained decoder of the stock class.

The encoder is an exact linear map (an 8x8 block of opponent colours to `Z_DIM` cosine
coefficients), written into the convolutions of AutoencoderKLQwenImage. So latents exist before
anything is trained, and colour edits are nearly affine maps of them. The decoder is trained in a 2-D
twin (one frame needs only the last time slice of each kernel) and written back by `unfold`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageResidualBlock
from torch import Tensor, nn
from torch.nn import functional

from retouch.engine.pipelines.vae import ChannelNorm, fold

Z_DIM = 48
BASE_DIM = 16
LIFT = 1024.0  # keeps the encoder's two non-linear layers in their linear range
GAMMA = 16.0  # LIFT and GAMMA are powers of two: exact in bf16
OPPONENT = torch.tensor(
    [[3**-0.5, 3**-0.5, 3**-0.5], [2**-0.5, 0.0, -(2**-0.5)], [-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)]]
)


def dct(side: int) -> Tensor:
    """Orthonormal 2-D cosine basis: (side*side, side*side), rows are (row, column) frequencies."""
    k = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return torch.kron(basis, basis).float()


def _first_level() -> Tensor:
    """4x4 blocks of pixels to 32 numbers: all 16 of luma, 8 low ones of each chroma. (32, 3, 4, 4)."""
    waves = dct(4)
    frequency = torch.arange(4)
    order = (frequency[:, None] + frequency[None, :]).flatten().argsort(stable=True)
    rows = [torch.outer(OPPONENT[0], wave) for wave in waves]
    for colour in OPPONENT[1:]:
        rows += [torch.outer(colour, waves[i]) for i in order[:8]]
    return torch.stack(rows).view(32, 3, 4, 4)


@dataclass(frozen=True)
class Codec:
    """The linear map between pixels in -1..1 and normalised latents."""

    second: Tensor  # (z, 32, 2, 2), from the first level's numbers to latents, before normalising
    mean: Tensor  # (z,)
    std: Tensor  # (z,)

    @cached_property
    def analysis(self) -> Tensor:
        """(z, 3, 8, 8): the whole map as one stride-8 convolution."""
        parts = torch.einsum("zkij,kcyx->zciyjx", self.second, _first_level())
        return parts.reshape(len(self.second), 3, 8, 8)

    def encode(self, images: Tensor) -> Tensor:
        """Images in 0..1 (batch, 3, h, w) to normalised latents (batch, z, h/8, w/8)."""
        raw = functional.conv2d(images * 2 - 1, self.analysis, stride=8)
        return (raw - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)


def synthesis_of(analysis: Tensor) -> Tensor:
    flat = analysis.flatten(1).double()
    return torch.linalg.pinv(flat).T.float().reshape(analysis.shape)


def fit_codec(bank: np.ndarray, z_dim: int = Z_DIM) -> Codec:
    """Keep the `z_dim` block coefficients with the largest spread over the bank."""
    first = _first_level()
    waves = dct(8)
    candidates = torch.stack([torch.outer(c, w) for c in OPPONENT for w in waves])
    images = torch.from_numpy(np.array(bank)).permute(0, 3, 1, 2).float() / 127.5 - 1
    full = functional.conv2d(images, candidates.view(-1, 3, 8, 8), stride=8)
    spread = full.permute(1, 0, 2, 3).flatten(1).std(1)
    kept = spread.argsort(descending=True)[:z_dim]
    targets = candidates[kept].view(z_dim, 3, 2, 4, 2, 4)
    second = torch.einsum("zciyjx,kcyx->zkij", targets, first)
    std = spread[kept]
    # What is stored is bf16(second / std), so the codec is made of exactly those numbers.
    second = (second / std.view(-1, 1, 1, 1)).bfloat16().float() * std.view(-1, 1, 1, 1)
    raw = functional.conv2d(images, Codec(second, std, std).analysis, stride=8)
    return Codec(second, raw.mean((0, 2, 3)), std)


def new_vae(codec: Codec) -> AutoencoderKLQwenImage:
    """The stock class with the codec as its encoder and an untrained decoder."""
    vae = AutoencoderKLQwenImage(
        base_dim=BASE_DIM,
        z_dim=len(codec.mean),
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, False, False],
        latents_mean=codec.mean.tolist(),
        latents_std=codec.std.tolist(),
    )
    with torch.no_grad():
        _write_encoder(vae, codec)
    return vae.eval()


def _write_encoder(vae: AutoencoderKLQwenImage, codec: Codec) -> None:
    """The codec in the stock convolutions: two levels of 2x2 to depth, the second level, and nothing else.

    The last level lifts latents over their spread to LIFT; spare channels carry minus their sum. With a constant sum
    the RMS over channels is constant to first order, and SiLU near GAMMA is the identity, so that the encoder's norm
    and activation change nothing; conv_out undoes both numbers.
    """
    encoder, z_dim = vae.encoder, len(codec.mean)
    for name, parameter in encoder.named_parameters():
        parameter.fill_(1.0) if name.endswith("gamma") else parameter.zero_()
    for block in encoder.down_blocks:
        if isinstance(getattr(block, "conv_shortcut", None), nn.Conv3d):
            narrow = block.conv_shortcut.weight.shape[1]
            block.conv_shortcut.weight[:narrow, :, 0, 0, 0] = torch.eye(narrow)
    encoder.conv_in.weight[:3, :, -1, 1, 1] = torch.eye(3)
    to_depth, to_waves, last = (b.resample[1] for b in encoder.down_blocks if hasattr(b, "resample"))
    # 2x2 pixels become channels, then 2x2 of those the 32 numbers of the first level.
    first, colours = _first_level(), torch.arange(3)
    for dy, dx in product(range(2), repeat=2):
        to_depth.weight[colours * 4 + dy * 2 + dx, colours, dy, dx] = 1.0
        for y, x in product(range(2), repeat=2):
            to_waves.weight[:, colours * 4 + y * 2 + x, dy, dx] = first[:, :, 2 * dy + y, 2 * dx + x]
    width, scaled = last.weight.shape[0], codec.second / codec.std.view(-1, 1, 1, 1)
    last.weight[:z_dim, :32, :2, :2] = scaled
    last.weight[z_dim:width, :32, :2, :2] = -scaled.sum(0) / (width - z_dim)
    last.bias.fill_(LIFT)
    encoder.norm_out.gamma.fill_(GAMMA)
    gain = (codec.std * LIFT / GAMMA).bfloat16().float()
    encoder.conv_out.weight[:z_dim, :z_dim, -1, 1, 1] = torch.diag(gain)
    encoder.conv_out.bias[:z_dim] = -gain * GAMMA
    encoder.conv_out.bias[z_dim:] = -20.0
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.zero_()
        conv.bias.zero_()
        conv.weight[:, :, 0, 0, 0] = torch.eye(len(conv.weight))


class _Norm(nn.Module):
    """The stock RMS norm over channels, as a product with a constant matrix, channels last: the mean arrives already
    spread over the channels, and no step broadcasts along rows of 16 (five times slower)."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        width = rows.shape[-1]
        square = (rows * rows) @ rows.new_full((width, width), 1 / width)
        return (rows * torch.rsqrt(square + 1e-12) * self.gamma.view(-1).to(x.dtype)).permute(0, 3, 1, 2)


def folded_decoder(codec: Codec) -> nn.Module:
    """The stock decoder for one frame, in two dimensions, ready to train: normalised latents in, -1..1 out.

    Residual blocks begin as their shortcut. The middle attention is left out (zero in the stock class): it
    would have to hold at every image size.
    """
    decoder: nn.Module = fold(new_vae(codec).decoder)
    decoder.mid_block.attentions = nn.ModuleList([nn.Identity()])
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChannelNorm):
                setattr(module, name, _Norm(nn.Parameter(child.factor / math.sqrt(len(child.factor)))))
        if isinstance(module, QwenImageResidualBlock):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    return decoder.requires_grad_(requires_grad=True)


@torch.no_grad()
def unfold(decoder: nn.Module, vae: AutoencoderKLQwenImage, codec: Codec) -> None:
    """Write a folded decoder into the stock one: a frame needs only the last time slice of each kernel.

    The stock pipelines hand over de-normalised latents, so post_quant_conv undoes that first.
    """
    for attention in vae.decoder.mid_block.attentions:
        for layer in (attention.to_qkv, attention.proj):
            layer.weight.zero_()
            layer.bias.zero_()
    for name, source in decoder.state_dict().items():
        target = vae.decoder.get_parameter(name.replace("upsamplers.0.", "upsamplers.0.resample."))
        if target.ndim == 5:
            target.zero_()
            target[:, :, -1] = source
        else:
            target.copy_(source.view_as(target))
    weight = vae.post_quant_conv.weight
    weight.zero_()
    weight[:, :, 0, 0, 0] = torch.diag(1 / codec.std)
    vae.post_quant_conv.bias.copy_(-codec.mean / codec.std)
