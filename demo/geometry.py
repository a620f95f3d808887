"""What a token knows of its place, and what follows: mirrors, squares, the colours of image 2.

Nothing here is trained; it is written into the stock class by hand, in dims and hidden units that
training leaves alone.

- A token without a neighbour on one side lies at that edge (block 0). A head that sees only the two edge tokens of
  its own row or column, and weighs one against the other by how far away they are, reads a distance (blocks 1, 2).
- Block 1's MLP posterises (`known`).
- Block 2's MLP looks up what the distances mean: the phases that turn a token's key to its mirror
  image, and whether the token lies in the requested square.
- Block 3's MLP keeps the phases of the requested mirror, paints the square, and adds the difference of
  the two images' mean colours.
- The last block copies by keys that carry those phases. RoPE gives the angle of p' - p; a key turned
  back by the angle of (p' - its mirror image) makes it peak at the mirror image of p, on any grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.edits import COLOURS, PLACES, SQUARE_TOKENS
from demo.known import flags
from demo.states import EDIT_STATES, STATES
from demo.vae import Codec
from demo.wiring import (
    CENTRE,
    COLOUR,
    COLOURED_HEAD,
    COLOURED_VALUES,
    COLUMN_PAIRS,
    COVERED,
    DIFFERENCE,
    EDGE,
    FLIP,
    FRAME_PAIR,
    HEAD_DIM,
    MARK,
    MATCH,
    MISSING,
    NEAR,
    NEXT_FRAME,
    PLACE,
    PLACED_HEAD,
    PLACED_VALUES,
    ROW_PAIRS,
    SHARPEN,
    SHARPNESS,
    SINK_PAIR,
    TEXT_SHARE,
    TURN,
    ZERO,
    Units,
    frequencies,
    head,
    one_hot,
    pairs,
    pattern,
    reading_of,
    sink_direction,
    stored,
    wide,
    write_rows,
)

LONGEST = 66  # tokens along a side: 512 x 512 px of area at 4:1
STEEP = 4096.0  # slope of the hinges that read a distance
LAST_IN, LAST_OUT = SQUARE_TOKENS + 0.3, SQUARE_TOKENS + 0.7  # between these distances the square ends
COPY_ENERGY = {FRAME_PAIR: 0.20, ROW_PAIRS[0]: 0.22, ROW_PAIRS[1]: 0.18, COLUMN_PAIRS[0]: 0.22, COLUMN_PAIRS[1]: 0.18}
EDGE_HEADS = (4, 5, 6, 7)
# Rotation pairs that measure: so slow that over 66 tokens the sine of their angle is a straight line.
COLUMN_RULE, ROW_RULE = 14, 8
IDLE_PAIR = 13  # no query has anything here; it fills a key up to unit length
RULE_SHARE = {"difference": 0.0125, "near": 0.05}  # of a query's energy: how steeply distance counts
WEAK = 1 / 256


class Ruler:
    """One head's query and keys that weigh the two edges of the own row (or column) by distance.

    Only edge tokens have keys worth looking at, and frame and row pairs leave the two of the own row. Their
    rule pair is turned by a quarter, so that the logit of each grows with the sine of its distance; the
    softmax of the two is then a function of distance alone.
    """

    def __init__(self, axis: str, near: int | None) -> None:
        """near: which edge's distance to read; None for the distance to the first less to the second."""
        columns = axis == "columns"
        self.edges = EDGE[:2] if columns else EDGE[2:]
        across, self.rule = (ROW_PAIRS, COLUMN_RULE) if columns else (COLUMN_PAIRS, ROW_RULE)
        # A difference, so that what is read stays near 0, where a scale that is a little off does no harm.
        self.values = torch.tensor([-1.0, 1.0] if near == 1 else [1.0, -1.0])
        self.near = near
        share = RULE_SHARE["difference" if near is None else "near"]
        here = dict(zip((FRAME_PAIR, *across), (math.sqrt(e) for e in (0.3, 0.3, 0.2, 0.1)), strict=True))
        size, rest = math.sqrt(share), math.sqrt(0.1 - share)
        self.query = pairs(here | {self.rule: size, SINK_PAIR: rest})
        # Further away weighs more: the first edge lies at negative offsets, the second at positive ones.
        turned = [pairs(here | {self.rule: turn * size, IDLE_PAIR: rest}) for turn in (1j, -1j)]
        still = pairs(here | {IDLE_PAIR: math.sqrt(0.1)})
        keys = [turned[side] if near in (None, side) else still for side in range(2)]
        # The key of all other tokens points away. It is weak, and so does not count beside an edge's own key,
        # which a LayerNorm that is 0.3 % off would else tilt.
        self.away = -WEAK * sink_direction()
        self.keys = [stored(key) for key in keys]

    def write(self, attention: nn.Module, index: int, out: int) -> None:
        span = head(index)
        attention.to_q.bias[span] = self.query
        attention.to_k.bias[span] = self.away
        write_rows(attention.to_k.weight[span], self.edges, torch.stack(self.keys, 1))
        attention.add_k_proj.bias[span] = -sink_direction()
        row = slice(index * HEAD_DIM, index * HEAD_DIM + 1)
        write_rows(attention.to_v.weight[row], self.edges, self.values[None])
        attention.to_out[0].weight[out, index * HEAD_DIM] = 1.0

    def reading(self, first: float, second: float) -> float:
        """What the head gives a token so many tokens from the first and from the second edge."""
        logits = []
        # Which of the 16 rotation pairs turn along this axis: 4 frame, 6 height, 6 width.
        along = torch.zeros(16, dtype=torch.float64)
        along[slice(10, 16) if self.rule == COLUMN_RULE else slice(4, 10)] = 1.0
        for key, offset in zip(self.keys, (-first, second), strict=True):
            q, k = (functional.normalize(v.double(), dim=0) for v in (stored(self.query), key + self.away))
            angle = torch.polar(torch.ones(16, dtype=torch.float64), frequencies() * along * offset)
            turned = torch.view_as_complex(k.view(16, 2)) * angle
            product = (torch.view_as_complex(q.view(16, 2)).conj() * turned).real.sum()
            logits.append(SHARPNESS**2 * math.sqrt(HEAD_DIM) * float(product))
        chances = torch.tensor(logits, dtype=torch.float64).softmax(0)
        return float((chances * self.values.double()).sum())


RULERS = {
    1: [Ruler("columns", None), Ruler("rows", None), Ruler("columns", 0)],
    2: [Ruler("columns", 1), Ruler("rows", 0), Ruler("rows", 1)],
}
READINGS = {1: [*CENTRE, NEAR[0]], 2: NEAR[1:]}
RULER_HEADS = (4, 5, 6)


def write_edges(attention: nn.Module) -> None:
    """Block 0: heads that look one token further; where there is none, the text says so."""
    for index, (dy, dx), out in zip(EDGE_HEADS, ((0, -1), (0, 1), (-1, 0), (1, 0)), EDGE, strict=True):
        attention.to_q.bias[head(index)] = pattern(0, dy, dx, sink=TEXT_SHARE)
        attention.to_k.weight[head(index), MARK] = pattern()
        attention.to_k.bias[head(index)] = 0.0
        attention.add_v_proj.bias[index * HEAD_DIM] = 1.0
        attention.to_out[0].weight[out, index * HEAD_DIM] = 1.0


def write_rulers(attention: nn.Module, block: int) -> None:
    for ruler, index, out in zip(RULERS[block], RULER_HEADS, READINGS[block], strict=True):
        ruler.write(attention, index, out)


def colour_states(codec: Codec) -> Tensor:
    """How far each named colour's latents lie from gray's, in the three mean channels: (colours, 3)."""
    wanted = torch.tensor([COLOURS[state.removeprefix("colour ")] for state in STATES if state.startswith("colour ")])
    plain = wanted.view(-1, 3, 1, 1).expand(-1, -1, 8, 8)
    moved = codec.encode(plain) - codec.encode(torch.full_like(plain, 0.5))
    return moved[:, mean_channels(codec), 0, 0]


def mean_channels(codec: Codec) -> list[int]:
    """The latent channels that hold a block's mean colour."""
    strength = codec.analysis.sum((2, 3)).norm(dim=1)
    return sorted(int(i) for i in strength.topk(3).indices)


def write_requests(attention: nn.Module, states: slice, codec: Codec) -> None:
    """Block 2: what the sentence requests of the edits that are built by hand goes into the stream."""
    values, out = attention.add_v_proj.weight, attention.to_out[0].weight
    placed = torch.zeros(len(PLACE), EDIT_STATES)
    for place, (rows, columns) in PLACES.items():
        state = STATES.index(f"place {place}")
        if rows is None or columns is None:
            placed[4, state] = 1.0
        else:
            placed[0 if columns > 0 else 1, state] = 1.0
            placed[2 if rows > 0 else 3, state] = 1.0
    coloured = torch.zeros(7, EDIT_STATES)
    coloured[:3] = flags().T
    names = [i for i, state in enumerate(STATES) if state.startswith("colour ")]
    coloured[3:6, names] = colour_states(codec).T
    coloured[6, STATES.index("match_colors")] = 1.0
    for index, span, table, dims in (
        (PLACED_HEAD, PLACED_VALUES, placed, PLACE),
        (COLOURED_HEAD, COLOURED_VALUES, coloured, [*FLIP, SHARPEN, *COLOUR, MATCH]),
    ):
        rows = slice(index * HEAD_DIM + span.start, index * HEAD_DIM + span.stop)
        write_rows(values[rows], states, table)
        out[dims, rows] = torch.eye(len(dims))
    attention.to_out[0].bias[PLACE] = -1.0  # so 0 for the requested place, and -1 for the others


def _hinges(units: Units, dim: int, knots: list[float], wanted: Tensor, writes: list[int]) -> None:
    """A table from the reading of a distance to numbers; wanted: (knots, numbers).

    Each hinge is chosen so that the rounded ones before it are made good again.
    """
    bias = stored(-STEEP * torch.tensor(knots))
    rises = functional.gelu(STEEP * torch.tensor(knots)[:, None] + bias, approximate="tanh").double()
    weights = torch.zeros(len(knots), wanted.shape[1], dtype=torch.float64)
    base = stored(wanted[0]).double()
    for k in range(len(knots) - 1):
        have = base + rises[k + 1] @ weights
        weights[k] = stored(((wanted[k + 1] - have) / rises[k + 1, k]).float())
    table = torch.zeros(ZERO, len(knots))
    table[writes] = weights.T.float()
    units.add(reading_of((dim, STEEP)).expand(len(knots), -1), bias, table)
    units.block.img_mlp.net[2].bias[writes] += base.float()


def _trapezoid(units: Units, dim: int, knots: list[float], place: int, out: int) -> None:
    """1 between the two middle knots, 0 outside the outer ones, if the place is requested."""
    bias = stored(-STEEP * torch.tensor(knots))
    up, down = (1 / (bias[i] - bias[i + 1]) for i in (0, 2))
    reads = reading_of((dim, STEEP), (PLACE[place], 2 * STEEP)).expand(4, -1)
    units.add(reads, bias, one_hot([out] * 4).T * torch.stack([up, -up, -down, down]))


def write_lookups(units: Units) -> None:
    """Block 2's MLP: distances become phases and covered columns and rows; the distances go."""
    units.erase([*EDGE, *NEAR, *CENTRE])
    apart = range(-LONGEST, LONGEST + 1)
    for axis, dim, ruler, fast in (
        ("columns", CENTRE[0], RULERS[1][0], COLUMN_PAIRS),
        ("rows", CENTRE[1], RULERS[1][1], ROW_PAIRS),
    ):
        readings = [ruler.reading(max(m, 0), max(-m, 0)) for m in apart]
        angles = torch.tensor([[float(frequencies()[pair]) * m for pair in fast[:2]] for m in apart])
        wanted = torch.stack([angles.cos(), -angles.sin()], -1).flatten(1).double()
        _hinges(units, dim, readings, wanted, TURN[axis])
        middle = [ruler.reading(max(m, 0), max(-m, 0)) for m in (-LAST_OUT, -LAST_IN, LAST_IN, LAST_OUT)]
        _trapezoid(units, dim, middle, 4, COVERED[0 if axis == "columns" else 1])
    for side, (ruler, dim) in enumerate(zip([RULERS[1][2], *RULERS[2]], NEAR, strict=True)):
        far = 16.0  # tokens to the other edge, which counts for nothing
        steps = [(d, far) if ruler.near == 0 else (far, d) for d in (0.3, 0.7, LAST_IN, LAST_OUT)]
        _trapezoid(units, dim, [ruler.reading(*step) for step in steps], side, COVERED[side // 2])


def write_choices(units: Units, codec: Codec) -> None:
    """Block 3's MLP: no phases unless a mirror was requested; the square; the colours of image 2."""
    for flip, axis in enumerate(("columns", "rows")):
        dims = TURN[axis]
        still = torch.tensor([1.0, 0.0, 1.0, 0.0])
        units.add_gated(-one_hot(dims), still, one_hot(dims).T, reading_of((FLIP[flip], -2.0)), 1.0)
    channels = 4 * len(codec.mean)
    gray = codec.encode(torch.full((1, 3, 8, 8), 0.5))[0, :, 0, 0].repeat_interleave(4)
    means = mean_channels(codec)
    everywhere = torch.zeros(ZERO, len(means))
    for k, z in enumerate(means):
        everywhere[4 * z : 4 * z + 4, k] = 1.0
    whole = torch.cat([-wide(torch.eye(channels)), one_hot(COLOUR)])
    writes = torch.cat([wide(torch.eye(channels)).T, everywhere], 1)
    covered = reading_of((COVERED[0], 2.0), (COVERED[1], 2.0))
    units.add_gated(whole, torch.cat([gray, torch.zeros(3)]), writes, covered, -3.0)
    gate = reading_of((MATCH, 2.0), (MISSING, -2.0))
    units.add_gated(one_hot(DIFFERENCE), torch.zeros(3), everywhere, gate, -1.0)


def write_means(attention: nn.Module, codec: Codec) -> None:
    """Block 3: two heads see all tokens of the next image and of the own one, equally."""
    frame = pairs({FRAME_PAIR: 1.0})
    for index, ahead, sign in ((4, NEXT_FRAME, 1.0), (5, 1 + 0j, -1.0)):
        span = head(index)
        attention.to_q.bias[span] = pairs({FRAME_PAIR: 0.7**0.5 * ahead, SINK_PAIR: 0.3**0.5})
        attention.to_k.weight[span, MARK] = frame
        attention.to_k.bias[span] = 0.0
        for k, z in enumerate(mean_channels(codec)):
            row = index * HEAD_DIM + k
            write_rows(attention.to_v.weight[row : row + 1], slice(4 * z, 4 * z + 4), torch.full((1, 4), 0.25))
            attention.to_out[0].weight[DIFFERENCE[k], row] = sign
    attention.add_v_proj.bias[4 * HEAD_DIM + 3] = 1.0
    attention.to_out[0].weight[MISSING, 4 * HEAD_DIM + 3] = 1.0


def copy_query() -> Tensor:
    """Peaks on the first reference, at the own place or where the key's phases say."""
    size = {pair: energy**0.5 for pair, energy in COPY_ENERGY.items()}
    return pairs(size | {FRAME_PAIR: size[FRAME_PAIR] * NEXT_FRAME})


def write_copy_keys(weight: Tensor) -> None:
    """weight: (HEAD_DIM, DIM), of one head's keys in the last block."""
    weight[2 * FRAME_PAIR, MARK] = COPY_ENERGY[FRAME_PAIR] ** 0.5
    for axis, fast in (("columns", COLUMN_PAIRS), ("rows", ROW_PAIRS)):
        for i, pair in enumerate(fast[:2]):
            cosine, sine = TURN[axis][2 * i : 2 * i + 2]
            weight[2 * pair, cosine] = weight[2 * pair + 1, sine] = COPY_ENERGY[pair] ** 0.5
    weight[:, ZERO] = -weight[:, :ZERO].sum(1)
