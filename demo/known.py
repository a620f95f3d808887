"""Edits of a token that need no training, because they are known: its mirror image, its tones.

`write_map` and `write_tones` put them into the stock class; `editor` trains around the same functions.

A token is 2x2 latent positions of `z` channels each, 16x16 pixels. All matrices are over normalised
latents and rounded as the checkpoint stores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.edits import TOKEN_PX, TONE_BLUR_PX, TONES, gaussian, luma_of
from demo.states import EDIT_STATES, STATES
from demo.vae import Codec, synthesis_of
from demo.wiring import (
    COLOURED_HEAD,
    COLOURED_VALUES,
    HEAD_DIM,
    TONED,
    ZERO,
    Units,
    reading_of,
    stored,
    wide,
    write_rows,
)

TONE_PX = 2  # tones are chosen for patches of this side
RAMP = 0.03  # of brightness, from one tone to the next
STEP = 512.0  # slope of the hinges that make a ramp


def flags() -> Tensor:
    """(EDIT_STATES, 3): which edits mirror the columns, mirror the rows, sharpen."""
    table = torch.zeros(EDIT_STATES, 3)
    for name, row in (
        ("flip_horizontal", (1, 0, 0)),
        ("flip_vertical", (0, 1, 0)),
        ("rotate_180", (1, 1, 0)),
        ("sharpen", (0, 0, 1)),
    ):
        table[STATES.index(name)] = torch.tensor(row, dtype=torch.float32)
    return table


def mirror(codec: Codec, axis: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inside a token, left and right (or top and bottom) change places: reads (n, C), bias (n,), writes (C, n).

    h + writes @ (reads @ h + bias) are the mirrored token's latents, for C = 4 * z channels.
    """
    analysis = codec.analysis
    z_dim = len(analysis)
    flipped = analysis.flip(3 if axis == "columns" else 2)
    odd = (analysis * flipped).sum((1, 2, 3)) < 0
    reads, bias, writes = [], [], []
    for z in range(z_dim):
        for other in range(2):
            near, far = (
                (4 * z + 2 * other, 4 * z + 2 * other + 1) if axis == "columns" else (4 * z + other, 4 * z + 2 + other)
            )
            read, write = torch.zeros(4 * z_dim), torch.zeros(4 * z_dim)
            read[far], read[near] = 1.0, 1.0 if odd[z] else -1.0
            write[near], write[far] = (-1.0, -1.0) if odd[z] else (1.0, -1.0)
            reads.append(read)
            writes.append(write)
            bias.append(float(2 * codec.mean[z] / codec.std[z]) if odd[z] else 0.0)
    return stored(torch.stack(reads)), torch.tensor(bias), torch.stack(writes, 1)


def _token_pixels(codec: Codec) -> tuple[Tensor, Tensor]:
    """Least-squares pixels of a token, 0..1: weight (4z, 3, 16, 16) and bias (3, 16, 16)."""
    z_dim = len(codec.mean)
    basis = torch.eye(4 * z_dim).view(4 * z_dim, z_dim, 2, 2)
    synthesis, column = synthesis_of(codec.analysis), (1, -1, 1, 1)
    weight = functional.conv_transpose2d(basis * codec.std.view(column), synthesis, stride=8) / 2
    mean = codec.mean.view(column).expand(1, -1, 2, 2)
    return weight, functional.conv_transpose2d(mean, synthesis, stride=8)[0] / 2 + 0.5


@dataclass(frozen=True)
class Tones:
    """Posterising a token: chosen tones go in, the brightness it had comes out.

    read_weight (n, 4z), read_bias (n,): mean brightness of its 2x2 px patches, 0..1.
    write (4z, n): what one unit of brightness in such a patch adds.
    old_weight (k, 4z), old_bias (k,), old_channels: the brightness to take out, per channel it is in.
    """

    read_weight: Tensor
    read_bias: Tensor
    write: Tensor
    old_weight: Tensor
    old_bias: Tensor
    old_channels: Tensor

    def ramps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """From each tone to the next: biases (n,) of the hinges where it begins and ends, and its height (n,).

        A ramp is height * (gelu(STEP * read + begin) - gelu(STEP * read + end)).
        """
        found = []
        for step in range(TONES - 1):
            middle = (step + 0.5) / (TONES - 1)
            begin, end = (stored(STEP * (self.read_bias - middle + side * RAMP / 2)) for side in (1, -1))
            found.append((begin, end, 1 / ((TONES - 1) * (begin - end))))
        return found

    def added(self, tokens: Tensor) -> Tensor:
        """What posterising adds to tokens (..., 4z)."""
        light = functional.linear(tokens, STEP * self.read_weight)
        chosen = torch.zeros_like(light)
        for begin, end, height in self.ramps():
            rise = functional.gelu(light + begin, approximate="tanh") - functional.gelu(light + end, approximate="tanh")
            chosen = chosen + height * rise
        old = functional.linear(tokens, self.old_weight, self.old_bias)
        return functional.linear(chosen, self.write).index_add(-1, self.old_channels, -old)


def tones(codec: Codec) -> Tones:
    weight, bias = _token_pixels(codec)
    patches = (TOKEN_PX // TONE_PX) ** 2

    def patches_of(pixels: Tensor) -> Tensor:
        smooth = gaussian(luma_of(pixels).expand(-1, 3, -1, -1), TONE_BLUR_PX)[:, :1]
        return functional.avg_pool2d(smooth, TONE_PX).flatten(1)

    lit = torch.eye(patches).view(patches, 1, TOKEN_PX // TONE_PX, TOKEN_PX // TONE_PX)
    lit = functional.interpolate(lit, scale_factor=TONE_PX, mode="nearest").expand(-1, 3, -1, -1)

    def added(pixels: Tensor) -> Tensor:
        dark = codec.encode(torch.zeros_like(pixels[:1]))
        return (codec.encode(pixels) - dark).flatten(1)

    luma = luma_of(weight)
    old = added(luma.expand(-1, 3, -1, -1))
    old_bias = added(luma_of(bias[None]).expand(-1, 3, -1, -1))[0]
    held = (old.abs().amax(0) > 1e-3).nonzero()[:, 0]
    return Tones(
        stored(patches_of(weight).T),
        patches_of(bias[None])[0],
        stored(added(lit).T),
        stored(old.T[held]),
        old_bias[held],
        held,
    )


def write_map(units: Units, reads: Tensor, bias: Tensor, writes: Tensor, flag: int) -> None:
    """Add writes @ (reads @ token + bias) to the token channels where the flag is up."""
    units.add_gated(wide(reads), bias, wide(writes.T).T, reading_of((flag, 2.0)), -1.0)


def write_tones(block: nn.Module, units: Units, states: slice, codec: Codec) -> None:
    """Block 1: posterising, by hinges that lift each 2x2 px patch from tone to tone."""
    attention = block.attn
    row = COLOURED_HEAD * HEAD_DIM + COLOURED_VALUES.start
    request = torch.zeros(1, EDIT_STATES)
    request[0, STATES.index("posterize")] = 1.0
    write_rows(attention.add_v_proj.weight[row : row + 1], states, request)
    attention.to_out[0].weight[TONED, row] = 1.0
    attention.to_out[0].bias[TONED] = -1.0
    known = tones(codec)
    reads = STEP * wide(known.read_weight)
    reads[:, TONED] = 2 * STEP
    for begin, end, height in known.ramps():
        for bias, sign in ((begin, 1.0), (end, -1.0)):
            units.add(reads, bias, wide((known.write * height * sign).T).T)
    writes = torch.zeros(ZERO, len(known.old_channels))
    writes[known.old_channels, torch.arange(len(known.old_channels))] = -1.0
    units.add_gated(wide(known.old_weight), known.old_bias, writes, reading_of((TONED, 2.0)), 1.0)
    units.erase([TONED])
