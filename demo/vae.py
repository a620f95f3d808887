"""The autoencoder: a hand-built linear encoder and a trained decoder of the stock class.

The encoder is an exact linear map (an 8x8 block of opponent colours to `Z_DIM` cosine
coefficients), written into the convolutions of AutoencoderKLQwenImage. So latents exist before
anything is trained, and colour edits are nearly affine maps of them. The decoder is trained in a 2-D
twin (one frame needs only the last time slice of each kernel) and written back by `unfold`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor, nn
from torch.nn import functional

Z_DIM = 48
BASE_DIM = 16
LIFT = 1024.0  # keeps the encoder's two non-linear layers in their linear range
GAMMA = 16.0  # LIFT and GAMMA are powers of two: exact in bf16
OPPONENT = torch.tensor(
    [
        [3**-0.5, 3**-0.5, 3**-0.5],
        [2**-0.5, 0.0, -(2**-0.5)],
        [-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)],
    ]
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

    @property
    def analysis(self) -> Tensor:
        """(z, 3, 8, 8): the whole map as one stride-8 convolution."""
        first = _first_level()
        whole = torch.zeros(self.second.shape[0], 3, 8, 8)
        for dy in range(2):
            for dx in range(2):
                part = torch.einsum("zk,kcyx->zcyx", self.second[:, :, dy, dx], first)
                whole[:, :, 4 * dy : 4 * dy + 4, 4 * dx : 4 * dx + 4] = part
        return whole

    def to(self, device: torch.device | str) -> Codec:
        return Codec(self.second.to(device), self.mean.to(device), self.std.to(device))


def encode(codec_analysis: Tensor, codec: Codec, pictures: Tensor) -> Tensor:
    """Pictures in 0..1 (batch, 3, h, w) to normalised latents (batch, z, h/8, w/8)."""
    raw = functional.conv2d(pictures * 2 - 1, codec_analysis, stride=8)
    return (raw - codec.mean.view(1, -1, 1, 1)) / codec.std.view(1, -1, 1, 1)


def synthesis_of(analysis: Tensor) -> Tensor:
    flat = analysis.flatten(1).double()
    return torch.linalg.pinv(flat).T.float().reshape(analysis.shape)


def fit_codec(bank: np.ndarray, z_dim: int = Z_DIM) -> Codec:
    """Keep the `z_dim` block coefficients with the largest spread over the bank."""
    first = _first_level()
    waves = dct(8)
    candidates = torch.stack([torch.outer(c, w) for c in OPPONENT for w in waves])
    pictures = torch.from_numpy(np.array(bank)).permute(0, 3, 1, 2).float() / 127.5 - 1
    full = functional.conv2d(pictures, candidates.view(-1, 3, 8, 8), stride=8)
    spread = full.permute(1, 0, 2, 3).flatten(1).std(1)
    kept = spread.argsort(descending=True)[:z_dim]
    targets = candidates[kept].view(z_dim, 3, 8, 8)
    second = torch.zeros(z_dim, 32, 2, 2)
    for dy in range(2):
        for dx in range(2):
            part = targets[:, :, 4 * dy : 4 * dy + 4, 4 * dx : 4 * dx + 4]
            second[:, :, dy, dx] = torch.einsum("zcyx,kcyx->zk", part, first)
    std = spread[kept]
    # What is stored is bf16(second / std), so the codec is made of exactly those numbers.
    second = (second / std.view(-1, 1, 1, 1)).bfloat16().float() * std.view(-1, 1, 1, 1)
    raw = functional.conv2d(pictures, Codec(second, std, std).analysis, stride=8)
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
    encoder, z_dim = vae.encoder, len(codec.mean)
    for name, parameter in encoder.named_parameters():
        parameter.fill_(1.0) if name.endswith("gamma") else parameter.zero_()
    for block in encoder.down_blocks:
        if isinstance(getattr(block, "conv_shortcut", None), nn.Conv3d):
            narrow = block.conv_shortcut.weight.shape[1]
            block.conv_shortcut.weight[:narrow, :, 0, 0, 0] = torch.eye(narrow)
    encoder.conv_in.weight[:3, :, -1, 1, 1] = torch.eye(3)
    convs = [b.resample[1] for b in encoder.down_blocks if hasattr(b, "resample")]
    _write_first_levels(convs[0], convs[1])
    _write_last_level(convs[2], encoder, codec)
    vae.quant_conv.weight.zero_()
    vae.quant_conv.bias.zero_()
    vae.quant_conv.weight[:, :, 0, 0, 0] = torch.eye(2 * z_dim)
    vae.post_quant_conv.weight.zero_()
    vae.post_quant_conv.bias.zero_()
    vae.post_quant_conv.weight[:, :, 0, 0, 0] = torch.eye(z_dim)


def _write_first_levels(to_depth: nn.Conv2d, to_waves: nn.Conv2d) -> None:
    """2x2 pixels become channels, then 2x2 of those the 32 numbers of the first level."""
    first, colours = _first_level(), torch.arange(3)
    for dy, dx in product(range(2), repeat=2):
        to_depth.weight[colours * 4 + dy * 2 + dx, colours, dy, dx] = 1.0
        for y, x in product(range(2), repeat=2):
            part = first[:, :, 2 * dy + y, 2 * dx + x]
            to_waves.weight[:, colours * 4 + y * 2 + x, dy, dx] = part


def _write_last_level(conv: nn.Conv2d, encoder: nn.Module, codec: Codec) -> None:
    """Latents over their spread, lifted to LIFT; spare channels carry minus their sum.

    With a constant sum the RMS over channels is constant to first order, and SiLU near GAMMA is the
    identity, so the encoder's norm and activation change nothing.
    """
    z_dim, width = len(codec.std), conv.weight.shape[0]
    # The class's norm and activation see y + LIFT; conv_out undoes both.
    scaled = codec.second / codec.std.view(-1, 1, 1, 1)
    conv.weight[:z_dim, :32, :2, :2] = scaled
    conv.weight[z_dim:width, :32, :2, :2] = -scaled.sum(0) / (width - z_dim)
    conv.bias.fill_(LIFT)
    encoder.norm_out.gamma.fill_(GAMMA)
    gain = codec.std * LIFT / GAMMA
    gain = gain.bfloat16().float()
    for z in range(z_dim):
        encoder.conv_out.weight[z, z, -1, 1, 1] = gain[z]
    encoder.conv_out.bias[:z_dim] = -gain * GAMMA
    encoder.conv_out.bias[z_dim:] = -20.0


class _Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # The mean over channels as a product with a constant matrix, channels last: it arrives already
        # spread over the channels, and no step broadcasts along rows of 16 (five times slower).
        rows = x.permute(0, 2, 3, 1)
        width = rows.shape[-1]
        square = (rows * rows) @ rows.new_full((width, width), 1 / width)
        return (rows * torch.rsqrt(square + 1e-12) * self.gamma.view(-1).to(x.dtype)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(wide), _Norm(narrow)
        self.conv1 = nn.Conv2d(wide, narrow, 3, padding=1)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        self.conv_shortcut = nn.Conv2d(wide, narrow, 1) if wide != narrow else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


class FoldedDecoder(nn.Module):
    """2-D twin of the stock decoder for one frame; takes normalised latents, gives -1..1.

    The middle attention is left at zero: it would have to hold at every picture size.
    """

    def __init__(self, z_dim: int = Z_DIM, base: int = BASE_DIM) -> None:
        super().__init__()
        wide = base * 4
        self.conv_in = nn.Conv2d(z_dim, wide, 3, padding=1)
        self.middle = nn.ModuleList([_Residual(wide, wide), _Residual(wide, wide)])
        stages, into = [], wide
        for index, out in enumerate((wide, wide, base * 2, base)):
            blocks = nn.ModuleList([_Residual(into, out), _Residual(out, out)])
            grow = nn.Conv2d(out, out // 2, 3, padding=1) if index < 3 else nn.Identity()
            stages.append(nn.ModuleDict({"resnets": blocks, "grow": grow}))
            into = out // 2
        self.stages = nn.ModuleList(stages)
        self.norm_out = _Norm(base)
        self.conv_out = nn.Conv2d(base, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in self.middle:
            x = block(x)
        for index, stage in enumerate(self.stages):
            for block in stage["resnets"]:
                x = block(x)
            if index < 3:
                x = stage["grow"](functional.interpolate(x, scale_factor=2.0, mode="nearest-exact"))
        return self.conv_out(functional.silu(self.norm_out(x)))


def _copy_conv(source: nn.Module, target: nn.Module) -> None:
    if not isinstance(source, nn.Conv2d):
        return
    if target.weight.ndim == 5:
        target.weight.zero_()
        target.weight[:, :, -1] = source.weight
    else:
        target.weight.copy_(source.weight)
    target.bias.copy_(source.bias)


def _copy_residual(source: _Residual, target: nn.Module) -> None:
    target.norm1.gamma.copy_(source.norm1.gamma[..., None])
    target.norm2.gamma.copy_(source.norm2.gamma[..., None])
    for name in ("conv1", "conv2", "conv_shortcut"):
        _copy_conv(getattr(source, name), getattr(target, name))


@torch.no_grad()
def unfold(decoder: FoldedDecoder, vae: AutoencoderKLQwenImage, codec: Codec) -> None:
    """Write the 2-D twin into the stock decoder.

    The stock pipelines hand over de-normalised latents, so post_quant_conv undoes that first.
    """
    target = vae.decoder
    _copy_conv(decoder.conv_in, target.conv_in)
    for source, block in zip(decoder.middle, target.mid_block.resnets, strict=True):
        _copy_residual(source, block)
    for attention in target.mid_block.attentions:
        attention.to_qkv.weight.zero_()
        attention.to_qkv.bias.zero_()
        attention.proj.weight.zero_()
        attention.proj.bias.zero_()
    for stage, up in zip(decoder.stages, target.up_blocks, strict=True):
        for source, block in zip(stage["resnets"], up.resnets, strict=True):
            _copy_residual(source, block)
        if up.upsamplers is not None:
            _copy_conv(stage["grow"], up.upsamplers[0].resample[1])
    target.norm_out.gamma.copy_(decoder.norm_out.gamma[..., None])
    _copy_conv(decoder.conv_out, target.conv_out)
    weight = vae.post_quant_conv.weight
    weight.zero_()
    weight[:, :, 0, 0, 0] = torch.diag(1 / codec.std)
    vae.post_quant_conv.bias.copy_(-codec.mean / codec.std)
