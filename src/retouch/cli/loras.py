"""From the operator's settings to where callers' LoRAs come from, and to the few-step LoRA of `acceleration: high`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from retouch.catalog import Checkpoint, FastLora
from retouch.edit import MAX_LORA_BYTES, Lora, LoraFile
from retouch.engine.pipelines.hub import choose_weights, lora_of
from retouch.errors import InvalidSetting, RetouchError, UnknownFile
from retouch.settings import LoraSettings, NetworkSettings, StoreSettings
from retouch.storage.blobs import Blobs
from retouch.storage.fetch import Fetcher
from retouch.worker.loras import FETCH_S, LoraFinder

FAST_LORA = "--fast-lora"


def lora_finder(store: StoreSettings, loras: LoraSettings, network: NetworkSettings, blobs: Blobs) -> LoraFinder:
    """Where callers' LoRAs come from."""
    return LoraFinder(
        _kept(store),
        folder=loras.lora_dir,
        fetch=_fetcher(network).fetch_to,
        read_blob=lambda key: blobs.get(key).data,
        find_on_hub=partial(lora_of, max_bytes=MAX_LORA_BYTES),
    )


def with_fast_lora(checkpoints: Sequence[Checkpoint], loras: LoraSettings) -> tuple[Checkpoint, ...]:
    """The checkpoints, the first with the operator's few-step LoRA. Raises InvalidSetting."""
    path, first = loras.fast_lora, checkpoints[0]
    if path is None:
        if loras.fast_lora_steps is not None:
            raise InvalidSetting(f"--fast-lora-steps goes with {FAST_LORA}.")
        return tuple(checkpoints)
    if not first.takes_loras:
        raise InvalidSetting(f"'{first.name}' takes no LoRAs here; leave out {FAST_LORA}.")
    steps = loras.fast_lora_steps
    if steps is None:  # as in `…-8steps.safetensors`
        found = re.findall(r"(\d+)[-_ ]?steps?", Path(path).name, re.IGNORECASE)
        if not found or not 1 <= int(found[-1]) <= 100:
            raise InvalidSetting(f"The name of {FAST_LORA} does not tell its steps; say --fast-lora-steps.")
        steps = int(found[-1])
    return (replace(first, fast_lora=FastLora(path, steps)), *checkpoints[1:])


def fast_lora_file(checkpoint: Checkpoint, store: StoreSettings, network: NetworkSettings) -> LoraFile | None:
    """The file of a checkpoint's few-step LoRA, fetched where it is not here. Raises InvalidSetting."""
    if checkpoint.fast_lora is None:
        return None
    try:
        return own_lora(store, network, Lora(checkpoint.fast_lora.path), FAST_LORA)
    except RetouchError as error:
        raise InvalidSetting(f"{FAST_LORA}: {error.message}") from error


def own_lora(store: StoreSettings, network: NetworkSettings, lora: Lora, place: str) -> LoraFile:
    """The file of a LoRA that the operator names: any path of this machine, or what callers may name."""
    here = Path(lora.path).expanduser()
    if here.is_dir():
        here = here / choose_weights(lora.path, [file.name for file in here.iterdir()])
    if here.is_file():
        return LoraFile(here, lora.scale, lora.path, place, here.stat().st_size)
    finder = LoraFinder(
        _kept(store),
        folder=None,
        fetch=_fetcher(network).fetch_to,
        read_blob=_no_upload,
        find_on_hub=partial(lora_of, max_bytes=MAX_LORA_BYTES, private=True),
    )
    return finder.find(lora, place)


def lora_of_argument(text: str) -> Lora:
    """`PATH` or `PATH=SCALE`."""
    path, _, scale = text.rpartition("=")
    try:
        return Lora(path, float(scale)) if path else Lora(text)
    except ValueError:
        return Lora(text)  # a link with a query


def _kept(store: StoreSettings) -> Path:
    return store.data / "loras"


def _fetcher(network: NetworkSettings) -> Fetcher:
    return Fetcher(network.allow_private, max_bytes=MAX_LORA_BYTES, timeout_s=FETCH_S)


def _no_upload(key: str) -> bytes:
    raise UnknownFile(f"There is no upload '{key}' here.")
