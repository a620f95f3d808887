"""Edits of a token that need no training, because they are known: its mirror image, its tones.

Each is a module that `editor` trains around; its `write` puts the same function into the stock class.

A token is 2x2 latent positions of `z` channels each, 16x16 pixels. All matrices are over normalised
latents and rounded as the checkpoint stores them.
"""

from __future__ import annotations

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


class KnownMap(nn.Module):
    """writes @ (reads @ token + bias): reads (n, C), bias (n,), writes (C, n), for C = 4 * z channels of a token."""

    def __init__(self, reads: Tensor, bias: Tensor, writes: Tensor, persistent: bool = False) -> None:
        super().__init__()
        for name, value in (("reads", reads), ("bias", bias), ("writes", writes)):
            self.register_buffer(name, value, persistent)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(functional.linear(tokens, self.reads, self.bias), self.writes)

    def write(self, units: Units, flag: int) -> None:
        """Add it to the token channels where the flag is up."""
        units.add_gated(wide(self.reads), self.bias, wide(self.writes.T).T, reading_of((flag, 2.0)), -1.0)


def mirror(codec: Codec, axis: str) -> KnownMap:
    """What is added to a token to swap left and right inside it (or top and bottom)."""
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
    return KnownMap(stored(torch.stack(reads)), torch.tensor(bias), torch.stack(writes, 1))


class Tones(nn.Module):
    """What posterising adds to tokens (..., 4z): the brightness of chosen tones less the brightness they had.

    read_weight (n, 4z), read_bias (n,): mean brightness of a token's 2x2 px patches, 0..1.
    write_weight (4z, n): what one unit of brightness in such a patch adds.
    old_weight (k, 4z), old_bias (k,), old_channels: the brightness to take out, per channel it is in.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        z_dim, synthesis, column = len(codec.mean), synthesis_of(codec.analysis), (1, -1, 1, 1)
        # Least-squares pixels of a token, 0..1: weight (4z, 3, 16, 16) and bias (1, 3, 16, 16).
        basis = torch.eye(4 * z_dim).view(4 * z_dim, z_dim, 2, 2)
        weight = functional.conv_transpose2d(basis * codec.std.view(column), synthesis, stride=8) / 2
        mean = codec.mean.view(column).expand(1, -1, 2, 2)
        bias = functional.conv_transpose2d(mean, synthesis, stride=8) / 2 + 0.5

        def patches_of(pixels: Tensor) -> Tensor:
            smooth = gaussian(luma_of(pixels).expand(-1, 3, -1, -1), TONE_BLUR_PX)[:, :1]
            return functional.avg_pool2d(smooth, TONE_PX).flatten(1)

        def added(luma: Tensor) -> Tensor:
            pixels = luma.expand(-1, 3, -1, -1)
            return (codec.encode(pixels) - codec.encode(torch.zeros_like(pixels[:1]))).flatten(1)

        side = TOKEN_PX // TONE_PX
        lit = functional.interpolate(torch.eye(side**2).view(-1, 1, side, side), scale_factor=TONE_PX, mode="nearest")
        old = added(luma_of(weight))
        held = (old.abs().amax(0) > 1e-3).nonzero()[:, 0]
        for name, value in (
            ("read_weight", stored(patches_of(weight).T)),
            ("read_bias", patches_of(bias)[0]),
            ("write_weight", stored(added(lit).T)),
            ("old_weight", stored(old.T[held])),
            ("old_bias", added(luma_of(bias))[0][held]),
            ("old_channels", held),
        ):
            self.register_buffer(name, value, persistent=False)

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

    def forward(self, tokens: Tensor) -> Tensor:
        light = functional.linear(tokens, STEP * self.read_weight)
        chosen = torch.zeros_like(light)
        for begin, end, height in self.ramps():
            rise = functional.gelu(light + begin, approximate="tanh") - functional.gelu(light + end, approximate="tanh")
            chosen = chosen + height * rise
        old = functional.linear(tokens, self.old_weight, self.old_bias)
        return functional.linear(chosen, self.write_weight).index_add(-1, self.old_channels, -old)

    def write(self, block: nn.Module, units: Units, states: slice) -> None:
        """Into block 1: hinges that lift each 2x2 px patch from tone to tone. states: text dims that name the edit."""
        attention = block.attn
        row = COLOURED_HEAD * HEAD_DIM + COLOURED_VALUES.start
        request = torch.zeros(1, EDIT_STATES)
        request[0, STATES.index("posterize")] = 1.0
        write_rows(attention.add_v_proj.weight[row : row + 1], states, request)
        attention.to_out[0].weight[TONED, row] = 1.0
        attention.to_out[0].bias[TONED] = -1.0
        reads = STEP * wide(self.read_weight)
        reads[:, TONED] = 2 * STEP
        for begin, end, height in self.ramps():
            for bias, sign in ((begin, 1.0), (end, -1.0)):
                units.add(reads, bias, wide((self.write_weight * height * sign).T).T)
        writes = torch.zeros(ZERO, len(self.old_channels))
        writes[self.old_channels, torch.arange(len(self.old_channels))] = -1.0
        units.add_gated(wide(self.old_weight), self.old_bias, writes, reading_of((TONED, 2.0)), 1.0)
        units.erase([TONED])
