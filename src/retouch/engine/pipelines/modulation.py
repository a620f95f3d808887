"""Shift, scale and gate of every block by timestep: a table for each noise schedule instead of a third of the weights.

They depend on the timestep alone. So the weights that make them, 13.6 of the large network's 40.9 GB, may lie in the
host's memory; a table of 181 MB for 40 steps is made once by streaming them through the device and kept on disk.
Knows no edit, and no image.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diffusers import QwenImageTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from retouch.engine.pipelines.cache import TensorCache
from retouch.engine.pipelines.low_rank import LoraLinear

logger = logging.getLogger(__name__)

TRAIN_TIMESTEPS = 1000

MODULATION = ("img_mod", "txt_mod")
"""Names of a block's parts that make its modulation."""

TABLES_BYTES = 512 * 2**20
"""Of tables that no running edit holds any more; those of running edits are never made twice."""


def timestep_at(sigma: float, latents: torch.Tensor) -> torch.Tensor:
    """(1,), rounded as the stock pipelines round it: through the train timesteps in the latents' dtype."""
    timestep = torch.tensor([sigma], dtype=torch.float32) * TRAIN_TIMESTEPS
    return timestep.to(latents.device, latents.dtype) / TRAIN_TIMESTEPS


Key: TypeAlias = tuple[tuple[float, ...], torch.dtype]
"""Sigmas of a schedule, and the dtype their timesteps are rounded to."""


class Modulation:
    """Makes, shares and keeps the tables of one network.

    folder: where tables are kept on disk, under `fingerprint`, a name for these very weights; None keeps none.
    made: how many tables were computed.
    """

    def __init__(
        self, transformer: QwenImageTransformer2DModel, *, folder: Path | None = None, fingerprint: str = ""
    ) -> None:
        self.transformer = transformer
        self.folder = folder
        self.fingerprint = fingerprint
        self.made = 0
        self._tables = TensorCache(TABLES_BYTES)

    def table(self, sigmas: Sequence[float], latents: torch.Tensor) -> torch.Tensor:
        """(len(sigmas), 2 x blocks + 1, 6, width) in the network's dtype, one entry for each sigma.

        sigmas: of a whole schedule, the 0 at its end included. latents: of the edit, for their device and dtype. Rows
        2 i and 2 i + 1 are image and text of block i, the last row holds the output norm's scale and shift.
        """
        key = (tuple(sigmas), latents.dtype)

        return self._tables.get_or_make(key, lambda: self._read_or_make(key, latents))

    def _read_or_make(self, key: Key, latents: torch.Tensor) -> torch.Tensor:
        file = None
        if self.folder is not None:
            whole_name = f"{self.fingerprint} {key} {self.transformer.img_in.weight.dtype}"
            file = self.folder / f"{hashlib.sha256(whole_name.encode()).hexdigest()[:32]}.safetensors"
        if file is not None and file.is_file():
            try:
                return load_file(file)["table"].to(latents.device)
            except (OSError, SafetensorError, KeyError) as error:
                logger.warning("the table %s is made again, it cannot be read: %s", file, error)
        table = self._make(key[0], latents)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
                    save_file({"table": table.cpu().contiguous()}, part.name)
                os.replace(part.name, file)
            except OSError as error:
                logger.warning("the table %s is not kept: %s", file, error)
        return table

    def _make(self, sigmas: Sequence[float], latents: torch.Tensor) -> torch.Tensor:
        self.made += 1
        network = self.transformer
        dtype = network.img_in.weight.dtype
        # One timestep at a time: the last bits of a product may depend on its shape, and so on the schedule.
        times = [
            F.silu(network.time_text_embed(timestep_at(sigma, latents).to(dtype), network.img_in.weight))
            for sigma in sigmas
        ]
        columns = []
        for layer in modulation_layers(network):
            weight, bias = (value.to(latents.device, non_blocking=True) for value in (layer.weight, layer.bias))
            made = [F.linear(time, weight, bias) for time in times]
            if isinstance(layer, LoraLinear):
                made = [layer.add(time, values) for time, values in zip(times, made, strict=True)]
            columns.append(made)
        width = columns[0][0].shape[-1]
        rows = [[F.pad(row, (0, width - row.shape[-1])) for row in column] for column in columns]
        return torch.stack([torch.cat(row).unflatten(-1, (6, -1)) for row in zip(*rows, strict=True)])


def modulation_layers(network: QwenImageTransformer2DModel) -> Iterator[Any]:
    """The linear layers that turn a timestep into modulation, in the order of a table's rows."""
    for block in network.transformer_blocks:
        yield block.img_mod[1]
        yield block.txt_mod[1]
    yield network.norm_out.linear


def adapts_modulation(network: QwenImageTransformer2DModel) -> bool:
    """Whether a LoRA touches what a table is made of."""
    makers = (*modulation_layers(network), *network.time_text_embed.modules())
    return any(isinstance(layer, LoraLinear) for layer in makers)


def fingerprint_of(folder: Path, *more: Path) -> str:
    """A name for the weights in a folder, and in more files: other files, sizes or dates give another one."""
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"), *more))
    listed = [(str(file.resolve()), (known := file.stat()).st_size, known.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(listed).encode()).hexdigest()
