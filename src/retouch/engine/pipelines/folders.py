"""What every family of checkpoints needs to be read: a folder, whole parts of it, and errors in one sentence.

Never runs code or pickles from a folder. Knows no family (`loading.py`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from retouch.catalog import Checkpoint
from retouch.engine.pipelines.hub import first_line, weights_of
from retouch.errors import OutOfMemory, UnknownModel

logger = logging.getLogger(__name__)

PACKAGED_DEMO = Path(__file__).parents[2] / "demo_model"


def dtype_on(device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU and for a checkpoint that needs it everywhere."""
    return torch.bfloat16 if device.type == "cuda" and not checkpoint.full_precision else torch.float32


def find_folder(checkpoint: Checkpoint) -> Path:
    """The weights on this machine: the packaged demo, a local folder, or a copy of the hub's, fetched when missing."""
    if checkpoint.source is None:
        return PACKAGED_DEMO
    local = Path(checkpoint.source).expanduser()
    if local.is_dir():
        return local
    if checkpoint.source.startswith((".", "/", "~")):
        raise UnknownModel(f"There is no folder '{checkpoint.source}'.", field="model")
    return weights_of(checkpoint.source)


def whole(family: Any, folder: Path, device: torch.device, *, unneeded: str = "", **dtype: torch.dtype) -> Any:
    """A model with every weight from the folder, straight onto the device; those that begin as `unneeded` may miss.

    Left alone, the libraries fill what is missing with random numbers and only log it.
    """
    model, loading_info = family.from_pretrained(
        folder,
        device_map={"": str(device)},
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **dtype,
    )
    missing = sorted(name for name in loading_info["missing_keys"] if not unneeded or not name.startswith(unneeded))
    if missing:
        raise OSError(f"weights are missing, such as {missing[0]}")
    for parameter in model.parameters():
        parameter.data = aligned(parameter.data)
    return model.eval()


def aligned(weight: torch.Tensor) -> torch.Tensor:
    """The same numbers where a fresh tensor would lie.

    A weight mapped from a file starts anywhere, and the last bits of a product on a CPU depend on where.
    """
    return weight if weight.data_ptr() % 64 == 0 else weight.clone()


def json_of(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text())
    return values


def class_name_of(folder: Path) -> str:
    """Of the stock pipeline a folder is for; raises UnknownModel when it is no checkpoint."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UnknownModel(f"'{folder}' holds no model: there is no model_index.json.", field="model")
    try:
        return str(json_of(index).get("_class_name"))
    except (OSError, ValueError, AttributeError) as error:
        raise UnknownModel(f"The list of parts of '{folder}' cannot be read: {error}", field="model") from error


@contextmanager
def reading(part: str, folder: Path) -> Iterator[None]:
    """Log the time it takes, and say in one sentence when a part cannot be read."""
    started = time.perf_counter()
    logger.info("loading the %s of %s", part, folder)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"The {part} of '{folder}' does not fit this device.") from error
    except NotImplementedError as error:  # the stock classes leave what the file lacks on the meta device
        raise UnknownModel(f"The {part} of '{folder}' cannot be read: weights are missing", field="model") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message = f"The {part} of '{folder}' cannot be read: {first_line(error)}"
        raise UnknownModel(message, field="model") from error
    logger.info("loaded the %s in %.1f s", part, time.perf_counter() - started)


@contextmanager
def quiet() -> Iterator[None]:
    """Progress is told by our log; the libraries' bars and hints about unused parts would only confuse."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
