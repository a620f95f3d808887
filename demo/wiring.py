"""How the demo's transformer is laid out, and the ways to write numbers into the stock class by hand.

Every LayerNorm is made linear by two large constant dims, so a hand-written row reads what the
stream holds. Rotary positions make a head look at a fixed offset: `pattern` is a query or key that
is one sharp peak. All numbers are rounded to bfloat16 as they are stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.states import EDIT_STATES
from demo.vae import Z_DIM

HEADS, HEAD_DIM, BLOCKS = 9, 32, 5
DIM = HEADS * HEAD_DIM
HIDDEN = 4 * DIM
CHANNELS = 4 * Z_DIM
AXES = (8, 12, 12)
LIFT = 516.0  # size of the two constant dims, which make every LayerNorm linear; SPREAD - 1 is then 42 exactly
ZERO, MARK, LOW, HIGH = DIM - 4, DIM - 3, DIM - 2, DIM - 1
SPREAD = math.sqrt(2 * LIFT**2 / DIM)  # what a LayerNorm divides by
SHARPNESS = 10.0  # RMS norm weights of q and k
SINK_PAIR = 15  # the slowest width pair: it hardly turns with position
FRAME_PAIR, ROW_PAIRS, COLUMN_PAIRS = 0, (4, 5, 6), (10, 11, 12)  # the fastest ones of each axis
TEXT_SHARE = 0.477  # of a neighbour query: less than the neighbour itself gives, more than any other token
TEXT_HEADS = (7, 8)
HAND_DIMS = 26  # of the stream, written by hand: where a token lies, what the sentence wants there
FREE = ZERO - HAND_DIMS  # dims that training may write
ERASING = 16.0  # lifts a small number above the bend of the GELU, to take it away whole
OPEN = 128.0  # lifts what a gate lets through above the bend of the GELU

# Hand-written dims of the stream. What they hold after each block:
#   block 0   EDGE
#   block 1   + CENTRE and the first of NEAR (TONED lives inside it)
#   block 2   TURN where EDGE and NEAR were, COVERED where CENTRE was; + FLIP, SHARPEN, PLACE, COLOUR, MATCH
#   block 3   TURN of the requested mirror only; + DIFFERENCE, MISSING
# EDGE, NEAR and CENTRE are erased once they are read, and used again.
EDGE = list(range(FREE, FREE + 4))  # left, right, top, bottom: 1 where that edge is
NEAR = list(range(FREE + 4, FREE + 8))  # how far that edge is, as `Ruler.reading`
CENTRE = [FREE + 8, FREE + 9]  # distance to the left less distance to the right edge; rows alike
TURN = {"columns": EDGE, "rows": NEAR}  # cos, -sin of two pairs
COVERED = CENTRE  # 1 where the square covers this column; row
FLIP = [FREE + 10, FREE + 11]  # left to right; top to bottom
SHARPEN = FREE + 12
PLACE = list(range(FREE + 13, FREE + 18))  # left, right, top, bottom, middle
COLOUR = list(range(FREE + 18, FREE + 21))  # of the square, in units of the latents' means
MATCH = FREE + 21
DIFFERENCE = list(range(FREE + 22, FREE + 25))  # mean colour of image 2 less that of image 1
MISSING = FREE + 25  # there is no image 2
TONED = MISSING  # before that, within block 1: 0 if posterising was requested, else -1
PLACED_HEAD, COLOURED_HEAD = TEXT_HEADS  # the one does not see colour tokens, the other no place tokens
PLACED_VALUES = slice(HEAD_DIM - len(PLACE), HEAD_DIM)
COLOURED_VALUES = slice(HEAD_DIM - 7, HEAD_DIM)
TRAINED_TEXT = [*range(PLACED_VALUES.start), *range(HEAD_DIM, HEAD_DIM + COLOURED_VALUES.start)]


def frequencies() -> Tensor:
    """Turn per position of each of the 16 rotation pairs: 4 frame, 6 height, 6 width."""
    parts = [10000 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n) for n in AXES]
    return torch.cat(parts)


def pairs(values: dict[int, complex]) -> Tensor:
    """A head's vector from one complex number per rotation pair: (HEAD_DIM,)."""
    vector = torch.zeros(HEAD_DIM)
    for pair, value in values.items():
        vector[2 * pair], vector[2 * pair + 1] = value.real, value.imag
    return vector


def pattern(frame: int = 0, rows: int = 0, columns: int = 0, sink: float = 0.0) -> Tensor:
    """A unit vector over rotation pairs, turned so that as a query it peaks at the given offset."""
    energy = torch.zeros(16, dtype=torch.float64)
    energy[FRAME_PAIR] = 0.20
    for axis in (ROW_PAIRS, COLUMN_PAIRS):
        energy[list(axis)] = torch.tensor([0.18, 0.13, 0.09], dtype=torch.float64)
    at = torch.tensor([frame] * 4 + [rows] * 6 + [columns] * 6, dtype=torch.float64)
    angle = frequencies() * at
    size = (energy * (1 - sink)).sqrt()
    vector = torch.stack([size * angle.cos(), size * angle.sin()], -1)
    vector[SINK_PAIR, 0] = math.sqrt(sink)
    return vector.flatten().float()


NEXT_FRAME = complex(math.cos(1.0), math.sin(1.0))  # turns a query's frame pair so that it peaks one image on


def sink_direction() -> Tensor:
    return pairs({SINK_PAIR: 1.0})


def head(index: int) -> slice:
    return slice(index * HEAD_DIM, (index + 1) * HEAD_DIM)


def stored(values: Tensor) -> Tensor:
    """Rounded as the checkpoint stores them."""
    return values.bfloat16().float()


def write_rows(weight: Tensor, columns: slice | list[int], values: Tensor) -> None:
    """Rows that read a LayerNorm. The ZERO dim shows what it took off as mean, and is added back."""
    values = stored(values)
    weight[:, columns] = values
    weight[:, ZERO] = -weight[:, :ZERO].sum(1)


@torch.no_grad()
def modulate(linear: nn.Linear, closed: Tensor, parts: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Set a modulation to one value at timestep 0 and another at every t the sampler meets.

    closed: which dim of the time embedding is 1 at timestep 0 and 0 elsewhere.
    """
    linear.weight.zero_()
    linear.bias.zero_()
    order = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")
    for index, name in enumerate(order):
        at_zero, later = parts[name]
        span = slice(index * DIM, (index + 1) * DIM)
        linear.bias[span] = later
        linear.weight[span] = torch.outer(at_zero - later, closed)


@dataclass
class Units:
    """Hidden units of one block's MLP, handed out from `first` on."""

    block: nn.Module
    first: int
    used: int = field(init=False, default=0)

    def add(self, reads: Tensor, bias: Tensor, writes: Tensor) -> None:
        """reads: (n, ZERO), of the stream; bias: (n,); writes: (ZERO, n)."""
        up, down = self.block.img_mlp.net[0].proj, self.block.img_mlp.net[2]
        span = slice(self.first + self.used, self.first + self.used + len(reads))
        write_rows(up.weight[span], slice(ZERO), reads)
        up.bias[span] = stored(bias)
        down.weight[:ZERO, span] = stored(writes)
        self.used += len(reads)
        assert self.first + self.used <= HIDDEN

    def erase(self, dims: list[int]) -> None:
        """Take away what these dims hold; it must be small beside ERASING."""
        self.add(one_hot(dims), torch.full((len(dims),), ERASING), -one_hot(dims).T)
        self.add(torch.zeros(1, ZERO), torch.full((1,), ERASING), one_hot(dims).sum(0)[:, None])

    def add_gated(self, reads: Tensor, bias: Tensor, writes: Tensor, gate: Tensor, gate_bias: float) -> None:
        """A linear map that acts where gate @ stream + gate_bias is 1, and not at all where it is -1."""
        writes = stored(writes)
        whole = torch.cat([reads, torch.zeros(3, ZERO)]) + OPEN * gate
        lifted = -writes.sum(1)
        # What OPEN adds is taken off in two parts, and the bias rides on a third gate: beside OPEN it would
        # lose its bits.
        rest = torch.stack([stored(lifted), lifted - stored(lifted), writes @ bias / OPEN], 1)
        self.add(whole, torch.full((len(whole),), OPEN * gate_bias), torch.cat([writes, rest], 1))


def reading_of(*dims: tuple[int, float]) -> Tensor:
    row = torch.zeros(ZERO)
    for dim, weight in dims:
        row[dim] = weight
    return row


def one_hot(dims: list[int]) -> Tensor:
    """(len(dims), ZERO)."""
    return functional.one_hot(torch.tensor(dims), ZERO).float()


def wide(rows: Tensor) -> Tensor:
    """Rows over token channels to rows over the stream."""
    return functional.pad(rows, (0, ZERO - rows.shape[-1]))


assert len(pattern()) == HEAD_DIM
assert EDIT_STATES * 4 < FREE
assert MISSING + 1 == FREE + HAND_DIMS == ZERO
