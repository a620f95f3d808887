"""Element-wise bytes a block moves, so that they cannot grow unseen: on a GPU they are a fifth of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from retouch.engine.pipelines.denoising import Conditions, _block
from tests.tiny_checkpoints import build_transformer

TEXT, TARGETS, REFERENCES = 16, 64, 64

PRODUCTS = ("mm", "addmm", "_scaled_dot_product")
"""Bound by arithmetic at full size; whatever else runs is bound by the bytes it moves."""


FREE = ("new_empty", "empty", "detach", "view_as_complex", "view_as_real", "_unsafe_view")


class MovedBytes(TorchDispatchMode):
    """Adds up what every operation but the products reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        results = [value for value in torch.utils._pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
        if not operation.is_view and name not in FREE and not name.startswith(PRODUCTS):
            read = args[1:] if name == "copy_" else args  # what is written only comes back as the result
            given = [value for value in torch.utils._pytree.tree_leaves(read) if isinstance(value, torch.Tensor)]
            self.count += sum(tensor.nbytes for tensor in (*given, *results))
        return result


def test_a_block_moves_no_more_bytes_than_it_did() -> None:
    network = build_transformer(64, zero_cond_t=True).requires_grad_(requires_grad=False)
    width, tokens = network.inner_dim, TEXT + TARGETS + REFERENCES
    image, text = torch.randn(1, TARGETS + REFERENCES, width), torch.randn(1, TEXT, width)
    rows = torch.randn(3, 6, width)
    head = network.config.attention_head_dim // 2
    given = Conditions(
        (rows[0], rows[1]),
        (rows[2],),
        torch.randn(TEXT, head, dtype=torch.complex64),
        torch.randn(TARGETS + REFERENCES, head, dtype=torch.complex64),
        TARGETS,
    )
    with torch.inference_mode(), MovedBytes() as moved:
        _block(network.transformer_blocks[0], image, text, given)
    assert moved.count <= LIMIT * tokens * width * 4


LIMIT = 88
"""In passes over all tokens at the model's width, each read and each write being one."""
