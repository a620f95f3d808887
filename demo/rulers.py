"""How a token learns where it lies: which edge it touches, and how far away the edges are.

A token without a neighbour on one side lies at that edge (block 0). A head that sees only the two edge
tokens of its own row or column, and weighs one against the other by how far away they are, reads a
distance (blocks 1 and 2).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from demo.wiring import (
    CENTRE,
    COLUMN_PAIRS,
    EDGE,
    FRAME_PAIR,
    HEAD_DIM,
    MARK,
    NEAR,
    ROW_PAIRS,
    SHARPNESS,
    SINK_PAIR,
    TEXT_SHARE,
    frequencies,
    head,
    pairs,
    pattern,
    sink_direction,
    stored,
    write_rows,
)

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
