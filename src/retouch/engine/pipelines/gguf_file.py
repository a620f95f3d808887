"""A network out of one GGUF file, with its linear layers in the bits they have there, by diffusers' quantizer.

The layers at both ends and those that make the modulation are brought to the network's own dtype; the rest of the
checkpoint comes from its folder. Chooses nothing.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from diffusers import GGUFQuantizationConfig, QwenImageTransformer2DModel

from retouch.engine.pipelines.modulation import MODULATION
from retouch.errors import UnknownModel, UnsupportedParameter

DENSE = (*MODULATION, "img_in", "txt_in", "time_text_embed", "norm_out", "proj_out")
"""Parts that are not kept in the file's bits."""


def file_of(given: str, folder: Path) -> Path:
    """The file that is meant: a path, or with an empty one the only such file of a checkpoint's folder.

    Raises UnknownModel.
    """
    if given:
        file = Path(given).expanduser()
        if not file.is_file():
            raise UnknownModel(f"There is no file '{given}' for --precision gguf.", field="precision")
        return file
    found = sorted((*folder.glob("*.gguf"), *folder.glob("transformer/*.gguf")))
    if len(found) != 1:
        raise UnknownModel(
            f"'{folder}' holds {len(found)} GGUF files; name the one you mean: --precision gguf:FILE.",
            field="precision",
        )
    return found[0]


def blocks_bytes(file: Path) -> int:
    """What the linear layers of the blocks take in the file's bits. Reads the head of the file.

    Raises UnsupportedParameter without the package that reads it, UnknownModel for a file that is none.
    """
    try:
        gguf = importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise UnsupportedParameter(
            "--precision gguf needs the packages of the extra 'quantized': pip install 'retouch[quantized]'.",
            field="precision",
        ) from error
    try:
        tensors = gguf.GGUFReader(file).tensors
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise UnknownModel(f"'{file}' is no GGUF file: {_reason(error)}", field="precision") from error
    sizes = [int(each.n_bytes) for each in tensors if _in_block(each.name) and len(each.shape) == 2]
    if not sizes:
        raise UnknownModel(f"'{file}' holds no Qwen-Image network: it has no transformer_blocks.", field="precision")
    return sum(sizes)


def read_network(file: Path, config: Path, dtype: torch.dtype) -> QwenImageTransformer2DModel:
    """The network in the host's memory. config: folder with its configuration, which the file does not hold."""
    how = GGUFQuantizationConfig(compute_dtype=dtype)
    how.modules_to_not_convert = list(DENSE)
    network: Any = QwenImageTransformer2DModel.from_single_file(
        str(file), config=str(config), quantization_config=how, torch_dtype=dtype, local_files_only=True
    )
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise OSError(f"weights are missing, such as {missing[0]}")
    return network.eval()


def _in_block(name: str) -> bool:
    return name.startswith("transformer_blocks.") and not any(f".{part}." in name for part in MODULATION)


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
