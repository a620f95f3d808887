"""`retouch doctor`: what is installed, which devices there are, and what fits them. It loads no weights."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain

from retouch.catalog import checkpoints_named
from retouch.errors import InvalidSetting
from retouch.settings import HttpSettings, ModelSettings, RoutesSettings, StoreSettings, read
from retouch.upstreams.routes_file import load_routes

PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


def examine(model: ModelSettings) -> None:
    """Print the report. Raises RetouchError for a checkpoint or device that does not exist."""
    checkpoints = checkpoints_named(model.model, accept_research_licence=True)
    large = [checkpoint.name for checkpoint in checkpoints if checkpoint.block_cache]
    for line in chain(machine(), devices(model.device), providers(), *map(fitting, large), sharing(large)):
        sys.stdout.write(f"{line}\n")


def machine() -> Iterator[str]:
    yield f"retouch {version('retouch')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} is missing: pip install 'retouch[local]'"
    data = read(StoreSettings).data
    existing = next(folder for folder in (data, *data.parents) if folder.exists())
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    yield f"data folder {data}: {shutil.disk_usage(existing).free / 1e9:.1f} GB free{writable}"
    yield f"{os.cpu_count()} processors"


def providers() -> Iterator[str]:
    """What RETOUCH_ROUTES leads to, if it is set; nothing is contacted."""
    path = read(RoutesSettings).routes
    if path is None:
        return
    try:
        file = load_routes(path, public_url=read(HttpSettings).public_url)
    except InvalidSetting as error:
        yield f"routes file {path} is wrong: {error.message}"
        return
    models = len(dict.fromkeys(rule.model for rule in file.rules))
    yield f"routes file {path}: {models} models are led, to {', '.join(file.upstreams) or 'no provider'}"


def devices(device: str) -> Iterator[str]:
    try:
        torch = importlib.import_module("torch")
        pipelines_device = importlib.import_module("retouch.engine.pipelines.device")
    except ModuleNotFoundError:
        return
    chosen = pipelines_device.choose_device(device)
    dtype = torch.bfloat16 if chosen.type == "cuda" else torch.float32
    yield f"attention on {chosen}: torch's {pipelines_device.kernel_of(chosen, dtype)}"
    for index in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(index)
        name, (major, minor) = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        yield f"cuda:{index} {name}, capability {major}.{minor}: {free / 1e9:.1f} of {whole / 1e9:.1f} GB free"
    if chosen.type == "cpu":
        yield "edits run on the processor; the demo is meant for it, the large checkpoints are not"


def fitting(name: str) -> Iterator[str]:
    """What a large checkpoint needs, and what of it fits."""
    try:
        memory_plan = importlib.import_module("retouch.engine.pipelines.memory_plan")
    except ModuleNotFoundError:
        return
    parts = memory_plan.full_size()
    candidates = memory_plan.plans(parts)
    yield f"{name} needs of a GPU, with room for an edit of a megapixel: {', '.join(memory_plan.needs(candidates))}"
    yield f"so on cards from {'; '.join(memory_plan.by_card(candidates))}"
    torch = importlib.import_module("torch")
    for index in range(torch.cuda.device_count()):
        chosen = memory_plan.choose(candidates, torch.cuda.mem_get_info(index)[0])
        yield f"cuda:{index}: {f'runs in {chosen}' if chosen else 'too small'}"


def sharing(names: Sequence[str]) -> Iterator[str]:
    """Whether several large checkpoints fit a device side by side."""
    if len(names) < 2:
        return
    memory_plan = importlib.import_module("retouch.engine.pipelines.memory_plan")
    candidates = [memory_plan.plans(memory_plan.full_size())] * len(names)
    torch = importlib.import_module("torch")
    for index in range(torch.cuda.device_count()):
        shared = memory_plan.share(candidates, torch.cuda.mem_get_info(index)[0])
        how = "their weights take turns" if shared.swaps else "side by side"
        yield f"cuda:{index}: {' and '.join(names)} {how}, each in {shared.plans[0] or 'no way that fits'}"
