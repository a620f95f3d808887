"""Weights by their name on the hub: the copy on this machine first, and a hub that does not answer is not waited for.

Fetches files of a known layout only. Does not read them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from retouch.errors import InvalidLora, UnknownModel

logger = logging.getLogger(__name__)

PARTS: Final = ("scheduler", "tokenizer", "processor", "text_encoder", "vae", "transformer")
WEIGHTED_PARTS: Final = ("text_encoder", "vae", "transformer")

SILENCE_S: Final = 20.0
"""How long the hub may take to accept a connection, and to send the next bytes; its own client waits for ever."""

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+() -]{0,95}"
HUB_FILE: Final = re.compile(rf"{_SEGMENT}/{_SEGMENT}(/{_SEGMENT}){{0,6}}")
"""`owner/name`, or a file in it. No part is `..` or empty, so none leads out of a folder."""

LORA_NAMES: Final = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and peft call a LoRA's file."""

WANTED: Final = (
    "model_index.json",
    *(f"{part}/*{kind}" for part in PARTS for kind in (".json", ".txt", ".safetensors")),
)


def weights_of(name: str, *, silence_s: float = SILENCE_S) -> Path:
    """The folder with the weights of `name`: a whole copy in the local cache, or else fetched.

    A copy that is whole is not compared with the hub, so a start needs no network. Raises UnknownModel.
    """
    from huggingface_hub import constants, set_client_factory, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        cached = Path(snapshot_download(name, allow_patterns=list(WANTED), local_files_only=True))
    except (OSError, HFValidationError):
        cached = None
    if cached is not None and is_whole(cached):
        logger.info("the weights of %s are on this machine: %s", name, cached)
        return cached

    set_client_factory(_impatient(silence_s))
    logger.warning(
        "The weights of %s are not whole on this machine. Fetching them from %s; it may be silent for %g seconds.",
        name,
        constants.ENDPOINT,
        silence_s,
    )
    try:
        fetched = Path(snapshot_download(name, allow_patterns=list(WANTED), etag_timeout=silence_s))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UnknownModel(
            f"The weights of '{name}' are not on this machine and could not be fetched from {constants.ENDPOINT}: "
            f"{first_line(error).rstrip('.')}.",
            field="model",
        ) from error
    if not is_whole(fetched):  # what there is comes back from a hub that cannot be reached, too
        raise UnknownModel(
            f"The weights of '{name}' are not whole on this machine and could not be completed from "
            f"{constants.ENDPOINT}; see {fetched}.",
            field="model",
        )
    return fetched


def lora_of(name: str, folder: Path, *, max_bytes: int, private: bool = False, silence_s: float = SILENCE_S) -> Path:
    """A file of LoRA weights, `owner/name` or `owner/name/path/of/file`: a copy in the local cache, or else fetched.

    folder: where to put what is fetched. private: use the operator's token. Raises InvalidLora.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, set_client_factory
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    owner, repository, *path = name.split("/")
    repo, wanted = f"{owner}/{repository}", "/".join(path)
    cached = _cached_lora(name, repo, wanted)
    if cached is not None:
        return cached
    set_client_factory(_impatient(silence_s))
    token = None if private else False
    try:
        known = HfApi().model_info(repo, files_metadata=True, timeout=silence_s, token=token)
        sizes = {file.rfilename: file.size or 0 for file in known.siblings or ()}
        chosen = wanted or choose_weights(name, sizes)
        if chosen not in sizes:
            raise InvalidLora(f"The repository '{repo}' of the hub has no file '{chosen[:200]}'.")
        if sizes[chosen] > max_bytes:
            raise InvalidLora(
                f"The LoRA '{name}' has {sizes[chosen] / 1e9:.2f} GB; at most {max_bytes / 1e9:.2f} GB are allowed.",
                max_bytes=max_bytes,
            )
        return Path(hf_hub_download(repo, chosen, local_dir=folder, token=token, etag_timeout=silence_s))
    except (HTTPError, HFValidationError, OSError) as error:
        raise InvalidLora(
            f"The LoRA '{name}' is not on this machine and could not be fetched from {constants.ENDPOINT}: "
            f"{first_line(error)[:200].rstrip('.')}."
        ) from error


def _cached_lora(name: str, repo: str, wanted: str) -> Path | None:
    """The file in the local cache of the hub, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(repo, allow_patterns=["*.safetensors"], local_files_only=True))
    except (OSError, HFValidationError):
        return None
    here = [str(file.relative_to(folder)) for file in folder.rglob("*.safetensors")]
    if wanted:
        return folder / wanted if wanted in here else None
    return folder / choose_weights(name, here) if here else None


def choose_weights(name: str, files: Iterable[str]) -> str:
    """The file of LoRA weights among those of a folder: the one of a usual name, or the only one.

    Raises InvalidLora, naming some.
    """
    weights = sorted(file for file in files if file.endswith(".safetensors"))
    usual = next((file for file in LORA_NAMES if file in weights), None)
    if usual is not None or len(weights) == 1:
        return usual or weights[0]
    shown = ", ".join(f"'{file}'" for file in weights[:10])
    raise InvalidLora(
        f"'{name[:200]}' has {len(weights)} files of weights{': ' + shown if weights else ''}; name one of them, as "
        f"'{name[:200]}/file.safetensors'."
    )


def _impatient(silence_s: float) -> Any:
    """A maker of clients for the hub's library, which asks with no time limit at all, and that wins over a client's."""
    from huggingface_hub.utils import _http

    def never_for_ever(request: Any) -> None:
        limits = request.extensions.get("timeout", {})
        names = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {name: min(limits.get(name) or silence_s, silence_s) for name in names}

    def impatient() -> Any:
        client = _http.default_client_factory()
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], never_for_ever]}
        return client

    return impatient


def is_whole(folder: Path) -> bool:
    """Whether every part is there, and every file of weights that an index names."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
        named = [part for part in PARTS if part in index]  # not every family has a tokenizer of its own
    except (OSError, ValueError, TypeError):
        return False
    if not all((folder / part).is_dir() for part in {*named, *WEIGHTED_PARTS}):
        return False
    return all(_has_weights(folder / part) for part in WEIGHTED_PARTS)


def _has_weights(part: Path) -> bool:
    indices = list(part.glob("*.safetensors.index.json"))
    if not indices:
        return any(file.exists() for file in part.glob("*.safetensors"))
    try:
        named = {name for index in indices for name in json.loads(index.read_text())["weight_map"].values()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False
    return all((part / name).exists() for name in named)


def first_line(error: Exception) -> str:
    """What a library says of its error, for a sentence of ours: one line, or the error's name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
