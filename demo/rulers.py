"""How a token learns where it lies: which edge it touches, and how far away the edges are.

A token without a neighbour on one side lies at that edge (block 0). A head that sees only the two edge
tokens of its own row or column, and weighs one against the other by how far away they are, reads a
distance (blocks 1 and 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
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


class Ruler:
    """One head's query and keys that weigh the two edges of the own row (or column) by distance."""

    def __init__(self, axis: str, near: int | None) -> None:
        """near: which edge's distance to read; None for the distance to the first less to the second."""
        columns = axis == "columns"
        self.edges = EDGE[:2] if columns else EDGE[2:]
        across, self.measure = (ROW_PAIRS, 14) if columns else (COLUMN_PAIRS, 8)
        self.near = near
        energy = 0.0125 if near is None else 0.05
        here = {FRAME_PAIR: 0.3**0.5} | dict(zip(across, (0.3**0.5, 0.2**0.5, 0.1**0.5), strict=True))
        size, rest = energy**0.5, (0.1 - energy) ** 0.5
        self.query = pairs(here | {self.measure: size, SINK_PAIR: rest})
        # Further away weighs more: the first edge lies at negative offsets, the second at positive ones.
        turned = pairs(here | {self.measure: 1j * size, 13: rest}), pairs(here | {self.measure: -1j * size, 13: rest})
        still = pairs(here | {13: 0.1**0.5})
        keys = [turned[side] if near in (None, side) else still for side in range(2)]
        # So weak that on an edge token it does not count, whatever 0.3 % the LayerNorm is off.
        self.away = -sink_direction() / 256
        self.keys = [stored(key) for key in keys]

    def write(self, attention: nn.Module, index: int, out: int) -> None:
        span = head(index)
        attention.to_q.bias[span] = self.query
        attention.to_k.bias[span] = self.away
        write_rows(attention.to_k.weight[span], self.edges, torch.stack(self.keys, 1))
        attention.add_k_proj.bias[span] = -sink_direction()
        row = slice(index * HEAD_DIM, index * HEAD_DIM + 1)
        write_rows(attention.to_v.weight[row], self.edges, torch.tensor([self._values()]))
        attention.to_out[0].weight[out, index * HEAD_DIM] = 1.0

    def _values(self) -> list[float]:
        # A difference, so that what is read stays near 0, where a scale that is a little off does no harm.
        return [-1.0, 1.0] if self.near == 1 else [1.0, -1.0]

    def reading(self, first: float, second: float) -> float:
        """What the head gives a token so many tokens from the first and from the second edge."""
        logits = []
        for key, offset in zip(self.keys, (-first, second), strict=True):
            q, k = (functional.normalize(v.double(), dim=0) for v in (stored(self.query), key + self.away))
            angle = torch.polar(torch.ones(16, dtype=torch.float64), frequencies() * self._along(offset))
            turned = torch.view_as_complex(k.view(16, 2)) * angle
            product = (torch.view_as_complex(q.view(16, 2)).conj() * turned).real.sum()
            logits.append(SHARPNESS**2 * math.sqrt(HEAD_DIM) * float(product))
        chances = torch.tensor(logits, dtype=torch.float64).softmax(0)
        return float((chances * torch.tensor(self._values(), dtype=torch.float64)).sum())

    def _along(self, offset: float) -> Tensor:
        along = torch.zeros(16, dtype=torch.float64)
        axis = slice(10, 16) if self.measure >= 10 else slice(4, 10)
        along[axis] = offset
        return along


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
