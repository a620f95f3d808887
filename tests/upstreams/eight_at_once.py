"""Run as a process: submits blobs of a folder to a stub, all at once, and prints how many bytes its peak was over idle."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retouch.catalog.normalised import Emulation, ImageField, Normalised
from retouch.edit import ImageInput
from retouch.storage.objects import LocalBlobs
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.registry import open_upstream
from retouch.upstreams.upstream import Call, Failed, ImageMode


def memory(name: str) -> int:
    """VmRSS or VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(kind: str, url: str, folder: str, *keys: str) -> None:
    options = UpstreamOptions(LocalBlobs(Path(folder), b"s" * 32), lambda _: "", url, images=ImageMode.INLINE)
    upstream = open_upstream(kind, options)
    image = ImageField("image", "one", (ImageInput(blob=keys[0]),))
    normalised = Normalised("a/b", {}, image, None, 1, None, False, 1, 1, Emulation())
    calls = [
        Call(key, replace(normalised, images=replace(image, images=(ImageInput(blob=key),))), 1, {}, None, deadline())
        for key in keys
    ]
    with ThreadPoolExecutor(len(keys)) as threads:
        list(threads.map(lambda _: None, keys))
        Path("/proc/self/clear_refs").write_text("5")
        idle = memory("VmRSS")
        outcomes = list(threads.map(upstream.submit, calls))
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert not failed, failed
    print(memory("VmHWM") - idle)


def deadline() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
