"""The trained part of the transformer: latents of an image and an edit in, edited latents out.

It is what the stock class computes in the tokens of the reference image; `transformer` writes it
there. Three things in it are not trained but known: a token's mirror image, its tones when it is
posterised, and the best linear sharpening of a token by itself; training learns the rest around them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo import edits
from demo.known import KnownMap, Tones, flags, mirror
from demo.states import EDIT_STATES, NAMES
from demo.vae import Codec
from demo.wiring import CHANNELS, FREE, HEAD_DIM, HIDDEN, TRAINED_TEXT, stored

OFFSETS = (1, 2, 4, 1)  # how many tokens away the neighbours of each edit block are
TRAINED_UNITS = (HIDDEN, 632, 636, 832)  # of each block's MLP; the others are written by hand
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
NEIGHBOUR_DIM = len(DIRECTIONS) * HEAD_DIM
MAPS_BLOCK = {"sharpen": 2, "columns": 2, "rows": 3}  # whose MLP holds which known map
TONES_BLOCK = 1
SHARPEN_RANK = 112
FLAG = {"columns": 0, "rows": 1, "sharpen": 2}


def shift(grid: Tensor, rows: int, columns: int, missing: Tensor) -> Tensor:
    """What each token's neighbour at (rows, columns) holds; `missing` where there is none.

    grid: (batch, height, width, dim). Returns the same shape.
    """
    height, width = grid.shape[1:3]
    out = missing.to(grid.dtype).expand_as(grid).clone()
    here = (slice(max(0, -rows), min(height, height - rows)), slice(max(0, -columns), min(width, width - columns)))
    there = (slice(max(0, rows), min(height, height + rows)), slice(max(0, columns), min(width, width + columns)))
    if here[0].start < here[0].stop and here[1].start < here[1].stop:
        out[:, here[0], here[1]] = grid[:, there[0], there[1]]
    return out


Known = list[tuple[Tensor, Callable[[Tensor], Tensor]]]


class EditBlock(nn.Module):
    """The trained part of one transformer block, on a grid of reference tokens."""

    def __init__(self, offset: int, reads_text: bool, units: int) -> None:
        super().__init__()
        self.offset, self.reads_text = offset, reads_text
        self.value = nn.Linear(FREE, NEIGHBOUR_DIM)
        self.missing = nn.Parameter(torch.randn(NEIGHBOUR_DIM) * 0.5)
        self.edit = nn.Parameter(torch.randn(EDIT_STATES, len(TRAINED_TEXT)) * 0.5)
        self.out = nn.Linear(NEIGHBOUR_DIM + len(TRAINED_TEXT), FREE)
        self.up = nn.Linear(FREE, units)
        self.down = nn.Linear(units, FREE)
        with torch.no_grad():
            self.value.weight.mul_(0.5)
            self.out.weight[:CHANNELS] *= 0.1
            self.out.bias.zero_()
            self.down.weight[:CHANNELS] *= 0.1
            self.down.bias.zero_()

    def forward(self, h: Tensor, states: Tensor, known: Known) -> Tensor:
        """h: (batch, height, width, FREE); states: (batch, EDIT_STATES), near one-hot or zero.

        known: flags (batch,) and functions of the tokens whose answer is added where the flag is 1.
        """
        values = self.value(h).split(HEAD_DIM, -1)
        missing = self.missing.split(HEAD_DIM)
        seen = [
            shift(v, self.offset * dy, self.offset * dx, m)
            for v, m, (dy, dx) in zip(values, missing, DIRECTIONS, strict=True)
        ]
        request = states @ self.edit if self.reads_text else h.new_zeros(len(h), len(TRAINED_TEXT))
        request = request.to(seen[0].dtype)[:, None, None].expand(*h.shape[:3], -1)
        h = h + self.out(torch.cat([*seen, request], -1))
        answer = h + self.down(functional.gelu(self.up(h), approximate="tanh"))
        for flag, function in known:
            if flag.any():
                with torch.autocast("cpu", enabled=False):  # they are steep, and exact in the stock class
                    added = function(h[..., :CHANNELS].float()) * flag[:, None, None, None]
                answer = answer + functional.pad(added, (0, FREE - CHANNELS))
        return answer


class Editor(nn.Module):
    """Edited latents from latents and an edit: what the stock class computes in its reference tokens."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [EditBlock(o, i > 0, units) for i, (o, units) in enumerate(zip(OFFSETS, TRAINED_UNITS, strict=True))]
        )
        self.register_buffer("flags", flags(), persistent=False)
        sharpen = torch.zeros(SHARPEN_RANK, CHANNELS), torch.zeros(SHARPEN_RANK), torch.zeros(CHANNELS, SHARPEN_RANK)
        self.maps = nn.ModuleDict({axis: mirror(codec, axis) for axis in ("columns", "rows")})
        self.maps["sharpen"] = KnownMap(*sharpen, persistent=True)
        self.tones = Tones(codec)
        trained = torch.zeros(EDIT_STATES)
        trained[1 : len(NAMES)] = 1.0  # 0 is "unchanged"
        self.register_buffer("trained_states", trained, persistent=False)

    def forward(self, tokens: Tensor, states: Tensor, first_guess: Tensor | None = None) -> Tensor:
        """tokens: (batch, height, width, CHANNELS), normalised latents of 2x2 positions.

        states: (batch, EDIT_STATES), the edit that the sentence requests, near one-hot or zero.
        first_guess: the states of block 1, where the text stream has not yet chosen between edits.
        Mirrors are done inside each token; that tokens change places is not part of this network.
        """
        h = functional.pad(tokens, (0, FREE - CHANNELS))
        raised = states @ self.flags
        for index, block in enumerate(self.blocks):
            requests = self.trained_states * (states if index > 1 or first_guess is None else first_guess)
            known: Known = [(raised[:, FLAG[n]], self.maps[n]) for n, where in MAPS_BLOCK.items() if where == index]
            if index == TONES_BLOCK:
                known.append((requests[:, NAMES.index("posterize")], self.tones))
            h = block(h, requests, known)
        return h[..., :CHANNELS]

    @torch.no_grad()
    def fit_sharpening(self, codec: Codec, images: Tensor) -> None:
        """The least-squares map from a token to what sharpening adds to it."""
        before = pack(codec.encode(images)).flatten(0, 2)
        after = pack(codec.encode(edits.sharpen(images))).flatten(0, 2)
        design = functional.pad(before, (0, 1), value=1.0).double()
        ridge = 1e-3 * len(design) * torch.eye(design.shape[1], dtype=torch.float64)
        solved = torch.linalg.solve(design.T @ design + ridge, design.T @ (after - before).double()).T
        worth = codec.std.repeat_interleave(4).double()  # in pixels
        writes, sizes, reads = torch.linalg.svd(worth[:, None] * solved, full_matrices=False)
        sizes = sizes[:SHARPEN_RANK].sqrt()
        kept = (sizes[:, None] * reads[:SHARPEN_RANK]).float()
        sharpen = self.maps["sharpen"]
        sharpen.reads.copy_(stored(kept[:, :-1]))
        sharpen.bias.copy_(kept[:, -1])
        sharpen.writes.copy_(stored((writes[:, :SHARPEN_RANK] * sizes / worth[:, None]).float()))


def pack(latents: Tensor) -> Tensor:
    """(batch, z, h, w) to (batch, h/2, w/2, 4z), in the stock pipelines' order."""
    batch, z, height, width = latents.shape
    x = latents.view(batch, z, height // 2, 2, width // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2, width // 2, 4 * z)
