"""Images to latents and back, with the video autoencoder folded to two dimensions.

On a single frame every causal 3-D convolution sees zeros in the past, so only the last time slice of its
kernel counts: a 2-D convolution with that slice gives the same numbers for 40 % of the arithmetic and a
third of the weights, and has no frame cache to get wrong. Does not resize and does not pack.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as stock
from torch import nn

from retouch.engine.pipelines import tiling
from retouch.engine.pipelines.tiling import CELL, Tiling

LEAST_SQUARE = 1e-24
"""What a cell without any signal counts as, as in the stock layer."""


ATTENDS_WHOLE = Tiling().above // CELL**2
"""Cells of the largest image whose cells attend to each other in one call."""

SCORES = 2**28
"""In one call for a larger one: as many as an image of a megapixel has."""


class ImageCodec(Protocol):
    """Signals are (1, 3, height, width) from -1 to 1; latents (1, channels, height / 8, width / 8), normalised."""

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        """The most likely latents of an image."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The image of latents."""


class FoldedVae(nn.Module):
    """A stock autoencoder after folding. Takes it over: the argument is changed in place. Large images go in tiles."""

    def __init__(self, vae: AutoencoderKLQwenImage, tiles: Tiling | None = None) -> None:
        super().__init__()
        self.tiles = tiles or Tiling()
        # No checkpoint has attention where an image is still large; one that had would look at more than a tile.
        self.encodes_in_tiles = not vae.config.attn_scales
        self.encoder = fold(vae.encoder)
        self.decoder = fold(vae.decoder)
        self.quant_conv = fold(vae.quant_conv)
        self.post_quant_conv = fold(vae.post_quant_conv)
        self.mean, self.std = _statistics(vae, (1, -1, 1, 1))
        self.channels = vae.config.z_dim

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        signal = signal.to(self._weight)
        in_tiles = self.encodes_in_tiles and self.tiles.applies(*signal.shape[-2:])
        encoded = tiling.encode(self.encoder, signal, self.tiles) if in_tiles else self.encoder(signal)
        moments = self.quant_conv(encoded)
        return ((moments[:, : self.channels].float() - self.mean) / self.std).to(moments.dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raw = (latents.float() * self.std + self.mean).to(self._weight)
        cells = self.post_quant_conv(raw)
        height, width = (CELL * side for side in cells.shape[-2:])
        in_tiles = self.tiles.applies(height, width)
        signal: torch.Tensor = tiling.decode(self.decoder, cells, self.tiles) if in_tiles else self.decoder(cells)
        # infinity, clamped, would pass for white
        return torch.clamp(signal.masked_fill(signal.isinf(), torch.nan), min=-1.0, max=1.0)

    @property
    def _weight(self) -> torch.Tensor:
        weight: torch.Tensor = self.post_quant_conv.weight
        return weight


class StockVae(nn.Module):
    """The stock autoencoder as it is, for parity to the last bit."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__()
        self.vae = vae
        self.mean, self.std = (value.to(vae.dtype) for value in _statistics(vae, (1, -1, 1, 1, 1)))

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        signal = signal.to(device=self.vae.device, dtype=self.vae.dtype)
        latents: torch.Tensor = self.vae.encode(signal.unsqueeze(2)).latent_dist.mode()
        return ((latents - self.mean) / self.std).squeeze(2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raw = latents.to(self.vae.dtype).unsqueeze(2) / (1.0 / self.std) + self.mean
        signal: torch.Tensor = self.vae.decode(raw, return_dict=False)[0]
        return signal[:, :, 0]


def _statistics(vae: AutoencoderKLQwenImage, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel over the training images."""
    mean = torch.tensor(vae.config.latents_mean, device=vae.device).view(shape)
    std = torch.tensor(vae.config.latents_std, device=vae.device).view(shape)
    return mean, std


def fold(module: nn.Module) -> Any:
    """A module for (batch, channels, height, width) out of a stock one for (batch, channels, time, height, width).

    The stock encoder and decoder only pass tensors from layer to layer, so that changing the layers that
    know of time is enough. Children are replaced in place; weights keep device and dtype.
    """
    match module:
        case stock.QwenImageCausalConv3d():
            return _fold_conv(module)
        case stock.QwenImageResample():
            # Its other half changes the number of frames; the stock class skips it for the first frame.
            return module.resample
        case stock.QwenImageAttentionBlock():
            return SpatialAttention(module)
        case stock.QwenImageRMS_norm():
            return ChannelNorm(module)
    for name, child in module.named_children():
        setattr(module, name, fold(child))
    return module


def _fold_conv(conv: nn.Conv3d) -> nn.Conv2d:
    """The last time slice of a causal convolution, with its padding in height and width."""
    # All padding in time lies before the first frame, so of the slices (past, past, present) of a kernel the first
    # two meet zeros. Padding in height and width is symmetric.
    left, _, top, *_ = _padding(conv)
    weight = conv.weight[:, :, -1].contiguous()
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (weight.shape[-2], weight.shape[-1]),
        stride=(conv.stride[1], conv.stride[2]),
        padding=(top, left),
        device="meta",
    )
    folded.weight = nn.Parameter(weight, requires_grad=False)
    folded.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)
    return folded


def _padding(conv: Any) -> tuple[int, ...]:
    """Left, right, top, bottom, past and future of a causal convolution, which the stock class hides there."""
    padding: tuple[int, ...] = conv._padding  # noqa: SLF001
    return padding


class ChannelNorm(nn.Module):
    """Each cell divided by the root mean square of its channels, times a factor for each channel.

    The stock layer takes a norm over channels, which torch does not vectorise on a CPU. A sum of squares differs in the
    last bits and is twelve times as fast there, in the demo's shapes.
    """

    def __init__(self, norm: stock.QwenImageRMS_norm) -> None:
        super().__init__()
        self.factor = nn.Parameter(norm.gamma.detach().reshape(-1, 1, 1) * norm.scale, requires_grad=False)
        shift = norm.bias
        self.shift = (
            nn.Parameter(shift.detach().reshape(-1, 1, 1), requires_grad=False) if torch.is_tensor(shift) else None
        )

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        values = cells.float()
        length = values.square().sum(dim=1, keepdim=True).clamp_(min=LEAST_SQUARE).rsqrt_()
        normalized = (values * length).to(cells.dtype).mul_(self.factor)
        return normalized if self.shift is None else normalized.add_(self.shift)


class SpatialAttention(nn.Module):
    """One head of self-attention between all cells of an image."""

    def __init__(self, block: stock.QwenImageAttentionBlock) -> None:
        super().__init__()
        self.norm = fold(block.norm)
        self.to_qkv = block.to_qkv
        self.proj = block.proj

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = cells.shape
        qkv = self.to_qkv(self.norm(cells)).reshape(batch, 1, channels * 3, -1).transpose(2, 3).contiguous()
        query, key, value = qkv.chunk(3, dim=-1)
        mixed = self._attend(query, key, value).squeeze(1).transpose(1, 2).reshape(batch, channels, height, width)
        attended: torch.Tensor = self.proj(mixed)
        return attended + cells

    @staticmethod
    def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Of a large image in parts: torch's plain kernel holds a score for each pair of cells."""
        cells = query.shape[2]
        if cells <= ATTENDS_WHOLE:
            return F.scaled_dot_product_attention(query, key, value)
        parts = query.split(SCORES // cells, dim=2)
        return torch.cat([F.scaled_dot_product_attention(part, key, value) for part in parts], dim=2)
