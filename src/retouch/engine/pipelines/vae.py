"""Images to latents and back, with the video autoencoder folded to two dimensions, and large images done in tiles.

On a single frame every causal 3-D convolution sees zeros in the past, so only the last time slice of its
kernel counts: a 2-D convolution with that slice gives the same numbers for 40 % of the arithmetic and a
third of the weights, and has no frame cache to get wrong.

Above two megapixels the work at full resolution goes in tiles, so that its memory is bounded. Only the middle block
looks at the whole image, and it works at an eighth of the resolution, where a large image is small as well: that is
done for the whole image. The rest is convolutions alone and goes tile by tile, each with as many pixels around it as
these convolutions reach. A tile's own pixels are then those of the whole image but for rounding; there is no seam.

Does not resize and does not pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as stock
from torch import nn

CELL = 8
"""Pixels per latent cell and side."""

LEAST_SQUARE = 1e-24
"""What a cell without any signal counts as, as in the stock layer."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """above: pixels of the largest image that is done whole. side: pixels of a tile at most, a multiple of CELL."""

    above: int = 2 * 1024 * 1024
    side: int = 1024

    def applies(self, height: int, width: int) -> bool:
        """Whether an image of so many pixels is done in tiles."""
        return height * width > self.above

    def spans(self, cells: int) -> Iterator[tuple[int, int]]:
        """Where the tiles of a side of so many cells begin and end, as even as possible."""
        count = -(-cells * CELL // self.side)
        return pairwise(cells * tile // count for tile in range(count + 1))


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
        encoded = encode_in_tiles(self.encoder, signal, self.tiles) if in_tiles else self.encoder(signal)
        moments = self.quant_conv(encoded)
        return ((moments[:, : self.channels].float() - self.mean) / self.std).to(moments.dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raw = (latents.float() * self.std + self.mean).to(self._weight)
        cells = self.post_quant_conv(raw)
        height, width = (CELL * side for side in cells.shape[-2:])
        in_tiles = self.tiles.applies(height, width)
        signal: torch.Tensor = decode_in_tiles(self.decoder, cells, self.tiles) if in_tiles else self.decoder(cells)
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


# --- folding


def fold(module: nn.Module) -> Any:
    """A module for (batch, channels, height, width) out of a stock one for (batch, channels, time, height, width).

    The stock encoder and decoder only pass tensors from layer to layer, so that changing the layers that
    know of time is enough. Children are replaced in place; weights keep device and dtype.
    """
    match module:
        case stock.QwenImageCausalConv3d():
            # All padding in time lies before the first frame, so of the slices (past, past, present) of a kernel the
            # first two meet zeros, and only the last is kept. Padding in height and width is symmetric.
            left, _, top, *_ = module._padding  # noqa: SLF001 - where the stock class hides it
            weight = module.weight[:, :, -1].contiguous()
            height, width = weight.shape[-2:]
            stride, padding = (module.stride[1], module.stride[2]), (top, left)
            folded = nn.Conv2d(
                module.in_channels, module.out_channels, (height, width), stride=stride, padding=padding, device="meta"
            )
            folded.weight = nn.Parameter(weight, requires_grad=False)
            bias = module.bias
            folded.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
            return folded
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
        if height * width <= ATTENDS_WHOLE:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:  # in parts: torch's plain kernel holds a score for each pair of cells
            parts = query.split(SCORES // (height * width), dim=2)
            mixed = torch.cat([F.scaled_dot_product_attention(part, key, value) for part in parts], dim=2)
        attended: torch.Tensor = self.proj(mixed.squeeze(1).transpose(1, 2).reshape(batch, channels, height, width))
        return attended + cells


# --- tiles


def decode_in_tiles(decoder: Any, cells: torch.Tensor, tiling: Tiling) -> torch.Tensor:
    """What the folded decoder makes of cells, (1, channels, height / 8, width / 8): (1, 3, height, width)."""
    first, *rest = decoder.up_blocks
    coarse = first(decoder.mid_block(decoder.conv_in(cells)))
    before = coarse.shape[-1] // cells.shape[-1]
    layers = (*rest, decoder.norm_out, decoder.nonlinearity, decoder.conv_out)
    return _tile_by_tile(layers, coarse, tiling, before=before, after=CELL)


def encode_in_tiles(encoder: Any, signal: torch.Tensor, tiling: Tiling) -> torch.Tensor:
    """What the folded encoder makes of an image, (1, 3, height, width), whose sides are multiples of CELL."""
    blocks = list(encoder.down_blocks)
    split = 1 + max(index for index, block in enumerate(blocks) if isinstance(block, nn.Sequential))  # the last halving
    cells = _tile_by_tile((encoder.conv_in, *blocks[:split]), signal, tiling, before=CELL, after=1)
    for layer in (*blocks[split:], encoder.mid_block, encoder.norm_out, encoder.nonlinearity, encoder.conv_out):
        cells = layer(cells)
    return cells


def _tile_by_tile(
    layers: Sequence[Callable[[torch.Tensor], torch.Tensor]],
    values: torch.Tensor,
    tiling: Tiling,
    *,
    before: int,
    after: int,
) -> torch.Tensor:
    """The layers' result, tile by tile. before, after: values per cell and side of what goes in and comes out."""
    halo = -(-reach(layers, CELL // before) // CELL)  # in whole cells, as the layers that halve and double need them
    height, width = (side // before for side in values.shape[-2:])
    result: torch.Tensor | None = None
    for top, bottom in tiling.spans(height):
        for left, right in tiling.spans(width):
            # The image's own border stays one, where convolutions see zeros.
            up, down = max(0, top - halo), min(height, bottom + halo)
            west, east = max(0, left - halo), min(width, right + halo)
            tile = values[:, :, up * before : down * before, west * before : east * before]
            for layer in layers:
                tile = layer(tile)
            if result is None:
                result = tile.new_empty((*tile.shape[:2], height * after, width * after))
            # Values that a cut has changed lie in the halo; what remains is the tile's own.
            own = tile[:, :, (top - up) * after : (bottom - up) * after, (left - west) * after : (right - west) * after]
            result[:, :, top * after : bottom * after, left * after : right * after] = own
    assert result is not None, "an image has pixels"
    return result


def reach(layers: Iterable[Any], pixels: int) -> int:
    """How many pixels away a value of the input can be from one of the output it takes part in, at most.

    pixels: what one value of the input stands for, a side. Counts every convolution as if they were in one row, so the
    shortcuts, which have kernels of one, add nothing.
    """
    total = 0
    for module in chain.from_iterable(layer.modules() for layer in layers):
        if isinstance(module, nn.Upsample):
            pixels //= 2
        elif isinstance(module, nn.Conv2d):
            halves = module.stride[0] == 2
            # One that halves is padded on one side only.
            total += (module.kernel_size[0] - 1 if halves else module.kernel_size[0] // 2) * pixels
            pixels *= module.stride[0]
    return total
