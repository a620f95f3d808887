"""Weights that are on the device only while they are used, by diffusers' group offloading, and weights that leave it.

Offloading prefetches on a stream of its own, so that a part is copied while the one before it computes. It changes no
number. What to offload is decided elsewhere (`memory_plan.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from retouch.engine.pipelines.modulation import MODULATION

T = TypeVar("T")

HOST = torch.device("cpu")


class OffloadedBlock(nn.Module):
    """Runs a function while the weights of one block are on the device.

    Those that make the modulation are never needed there, so the hooks must not see them.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, child in block.named_children():
            if name not in MODULATION:
                self.add_module(name, child)

    def forward(self, use: Callable[[], T]) -> T:
        return use()


class OffloadedBlocks(nn.Module):
    """The blocks of a network, two of which are on the device at most: the one in use and the next.

    disk: a folder for weights that shall not even stay in the host's memory; None keeps them there, pinned.
    """

    def __init__(self, blocks: Iterable[nn.Module], device: torch.device, *, disk: Path | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(OffloadedBlock(block) for block in blocks)
        # diffusers learns the order of prefetching at a module that holds something beside its blocks.
        self.register_buffer("_anchor", torch.zeros(1))
        _offload(self, device, "block_level", disk, num_blocks_per_group=1)
        self()

    def forward(self) -> None:
        """Pass through all blocks once, from which the order is learnt."""
        for block in self.blocks:
            block(lambda: None)

    def holding(self, index: int, use: Callable[[], T]) -> T:
        """What `use` returns; while it runs, the weights of one block are on the device."""
        result: T = self.blocks[index](use)
        return result


def offload_layers(module: nn.Module, device: torch.device, *, disk: Path | None = None) -> None:
    """Have each layer of a module on the device only while it is called, in whatever way the module is used."""
    # It warns of layers that are not prefetched since they are called by themselves, as embeddings are.
    logging.getLogger("diffusers.hooks.group_offloading").setLevel(logging.ERROR)
    _offload(module, device, "leaf_level", disk)


def _offload(module: nn.Module, device: torch.device, kind: str, disk: Path | None, **how: Any) -> None:
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=HOST,
        offload_type=kind,
        use_stream=device.type == "cuda",
        offload_to_disk_path=None if disk is None else str(disk),
        **how,
    )


class DeviceWeights:
    """Weights that leave the device as one and come back, while other weights need it.

    They never change, so the copy in the host's memory is made once. tensors: every one that lies on the device.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], device: torch.device) -> None:
        self.tensors = tuple({id(tensor): tensor for tensor in tensors}.values())
        self.device = device
        self.there = True
        self._copies: list[torch.Tensor] = []

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @torch.inference_mode()
    def leave(self) -> None:
        """Let another use the memory; twice is no error."""
        if not self.there:
            return
        self.there = False
        if not self._copies:
            self._copies = [tensor.data.to(HOST, copy=True) for tensor in self.tensors]
        for tensor, kept in zip(self.tensors, self._copies, strict=True):
            tensor.data = kept
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # or the other model's allocations could not use it

    @torch.inference_mode()
    def enter(self) -> None:
        if self.there:
            return
        for tensor, kept in zip(self.tensors, self._copies, strict=True):
            tensor.data = kept.to(self.device, copy=True)
        self.there = True


def tensors_of(module: nn.Module, *, without: Iterable[nn.Module] = ()) -> list[torch.Tensor]:
    """Parameters and buffers of a module but those of the modules in `without`."""
    left_out = {id(inner) for outer in without for inner in outer.modules()}
    return [
        tensor
        for inner in module.modules()
        if id(inner) not in left_out
        for tensor in (*inner.parameters(recurse=False), *inner.buffers(recurse=False))
    ]
