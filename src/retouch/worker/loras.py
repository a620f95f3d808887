"""From what a caller wrote to a LoRA's file on this machine: the operator's folder, the hub, an upload or a link.

What is not here yet comes into a folder of this worker's own, bounded in bytes, where what was not used for longest
goes first. A caller's words are never opened as a path outside the operator's folder. No weights are looked at.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from retouch.edit import MAX_LORA_BYTES, Lora, LoraFile
from retouch.engine.pipelines.hub import HUB_FILE, choose_weights
from retouch.errors import ImageTooLarge, ImageUnreachable, InvalidLora, RetouchError

KEPT_BYTES = 20 * 10**9
"""Of all files that were fetched."""

LIFE_S = 3600.0
"""How long a link, or a name on the hub, is believed to lead to the same file."""

IN_USE_S = 600.0
"""A file used since then stays, since an edit may be about to read it."""

FETCH_S = 120.0
"""How long a link may take, all in all: 2 GB at 17 MB a second."""


COMING = "coming-"
"""Begins the folders of what is on its way. One that a killed worker left goes like an old file."""


class FetchFile(Protocol):
    """Downloads a caller's link into a file, as `storage.fetch.Fetcher.fetch_to` does; errors carry `field`."""

    def __call__(self, url: str, into: Path, *, field: str) -> None: ...


class FindOnHub(Protocol):
    """A file of a repository of the hub: in the hub's cache on this machine, or else brought into a folder."""

    def __call__(self, name: str, folder: Path) -> Path: ...


class _Turn:
    """Of those who want the same file, who may bring it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class LoraFinder:
    """Finds files; thread-safe, and several workers may share `kept`.

    kept: folder for what was fetched; made when it is needed. folder: where callers may name files, or None.
    read_blob: an upload's bytes; raises UnknownFile.
    """

    def __init__(
        self,
        kept: Path,
        *,
        folder: Path | None,
        fetch: FetchFile,
        read_blob: Callable[[str], bytes],
        find_on_hub: FindOnHub,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._kept = kept
        self._folder = folder
        self._fetch = fetch
        self._read_blob = read_blob
        self._find_on_hub = find_on_hub
        self._kept_bytes = kept_bytes
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self._lock = threading.Lock()

    def find(self, lora: Lora, place: str) -> LoraFile:
        """The file of a LoRA. place: its canonical field, such as `loras[0]`.

        Raises InvalidLora and UnknownFile, with `field`.
        """
        name, field = lora.path[:200], f"{place}.path"
        try:
            file = self._file(lora, field)
            return LoraFile(file, lora.scale, lora.path, place, file.stat().st_size)
        except ImageTooLarge as error:
            limit = f"at most {MAX_LORA_BYTES / 1e9:.2f} GB are allowed"
            raise InvalidLora(
                f"The LoRA '{name}' is too large; {limit}.", field=field, max_bytes=MAX_LORA_BYTES
            ) from error
        except ImageUnreachable as error:  # or a forbidden address; both speak of images in the faces' words
            raise InvalidLora(f"The LoRA '{name}' could not be fetched: {error.message}", field=field) from error
        except RetouchError as error:
            error.field = field
            raise
        except OSError as error:
            raise InvalidLora(f"The LoRA '{name}' cannot be kept here: {error.strerror}.", field=field) from error

    def _file(self, lora: Lora, field: str) -> Path:
        path, blob = lora.path, lora.blob
        if blob is not None:
            data = self._read_blob(blob)  # each time, so that what its owner deleted is gone

            def write(folder: Path) -> Path:
                (folder / "upload").write_bytes(data)
                return folder / "upload"

            return self._brought(f"blob {blob}", write)
        if path[:8].lower().startswith(("http://", "https://")):

            def fetch(folder: Path) -> Path:
                self._fetch(path, folder / "link", field=field)
                return folder / "link"

            return self._brought(f"link {path}", fetch)
        here = self._in_folder(path)
        if here is not None:
            return here
        if HUB_FILE.fullmatch(path):
            return self._brought(f"hub {path}", lambda folder: self._find_on_hub(path, folder))
        places = "a link, or a repository of the hub as owner/name or owner/name/file.safetensors"
        if self._folder is not None:
            places += ", or a file in this server's folder of LoRAs"
        raise InvalidLora(f"There is no LoRA '{path[:200]}' here. It may be {places}.")

    def _in_folder(self, path: str) -> Path | None:
        """The file of that name in the operator's folder; None for every other, wherever its name or a link leads."""
        if self._folder is None:
            return None
        try:
            root = self._folder.resolve(strict=True)
            file = (root / path).resolve(strict=True)
            if file.is_relative_to(root) and file.is_dir():
                file = (file / choose_weights(path, [each.name for each in file.iterdir()])).resolve(strict=True)
            return file if file.is_relative_to(root) and file.is_file() else None
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name that is too long
            return None

    def _brought(self, key: str, bring: Callable[[Path], Path]) -> Path:
        """The kept file of `key`, or what `bring` puts into the folder it is given, or finds elsewhere."""
        kept = self._kept / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.safetensors"
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
        with turn.lock:
            if self._fresh(kept):
                return kept
            self._kept.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._kept, prefix=COMING) as folder:
                file = bring(Path(folder))
                if not file.is_relative_to(folder):
                    return file
                os.replace(file.resolve(), kept)
        self._prune()
        return kept

    def _fresh(self, kept: Path) -> bool:
        """Whether the file is there and young enough; marks it as used."""
        with suppress(OSError):
            known = kept.stat()
            if time.time() - known.st_mtime < LIFE_S:
                os.utime(kept, (time.time(), known.st_mtime))
                return True
        return False

    def _prune(self) -> None:
        """Remove what was not used for longest until the rest is small enough."""
        for folder in self._kept.glob(f"{COMING}*"):
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > LIFE_S:
                    shutil.rmtree(folder, ignore_errors=True)
        files = []
        for file in self._kept.glob("*.safetensors"):
            with suppress(OSError):  # another worker may prune as well
                known = file.stat()
                files.append((known.st_atime, known.st_size, file))
        held = sum(size for _, size, _ in files)
        for used, size, file in sorted(files):
            if held <= self._kept_bytes or time.time() - used < IN_USE_S:
                break
            file.unlink(missing_ok=True)
            held -= size
