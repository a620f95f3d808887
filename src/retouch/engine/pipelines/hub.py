"""Weights by their name on the hub: the copy on this machine first, and a hub that does not answer is not waited for.

Fetches files of a known layout only. Does not read them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final

from retouch.errors import UnknownModel

logger = logging.getLogger(__name__)

PARTS: Final = ("scheduler", "tokenizer", "processor", "text_encoder", "vae", "transformer")
WEIGHTED_PARTS: Final = ("text_encoder", "vae", "transformer")

SILENCE_S: Final = 20.0
"""How long the hub may take to accept a connection, and to send the next bytes; its own client waits for ever."""

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
    from huggingface_hub.utils import _http

    try:
        cached = Path(snapshot_download(name, allow_patterns=list(WANTED), local_files_only=True))
    except (OSError, HFValidationError):
        cached = None
    if cached is not None and is_whole(cached):
        logger.info("the weights of %s are on this machine: %s", name, cached)
        return cached

    def never_for_ever(request: Any) -> None:
        """The hub's library asks with no time limit at all, which wins over a client's own."""
        limits = request.extensions.get("timeout", {})
        names = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {name: min(limits.get(name) or silence_s, silence_s) for name in names}

    def impatient() -> Any:
        client = _http.default_client_factory()
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], never_for_ever]}
        return client

    set_client_factory(impatient)
    logger.warning(
        "The weights of %s are not whole on this machine. Fetching them from %s; it may be silent for %g seconds.",
        name,
        constants.ENDPOINT,
        silence_s,
    )
    try:
        fetched = Path(snapshot_download(name, allow_patterns=list(WANTED), etag_timeout=silence_s))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UnknownModel(
            f"The weights of '{name}' are not on this machine and could not be fetched from {constants.ENDPOINT}: "
            f"{reason.rstrip('.')}.",
            field="model",
        ) from error
    if not is_whole(fetched):  # what there is comes back from a hub that cannot be reached, too
        raise UnknownModel(
            f"The weights of '{name}' are not whole on this machine and could not be completed from "
            f"{constants.ENDPOINT}; see {fetched}.",
            field="model",
        )
    return fetched


def is_whole(folder: Path) -> bool:
    """Whether every part is there, and every file of weights that an index names."""
    if not (folder / "model_index.json").is_file() or not all((folder / part).is_dir() for part in PARTS):
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
