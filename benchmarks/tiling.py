"""The autoencoder on a large image: whole, in tiles, and in tiles that know nothing of each other.

Prints, for the demo's weights on one thread: processor time and peak memory of decoding and encoding, what the tiles'
image differs in, and how large the step over a tile's border is. Each way is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image

from retouch.engine.pipelines.vae import CELL, FoldedVae, Tiling

WAYS = {"whole": Tiling(above=10**12), "tiles": Tiling(above=0)}
MARGIN = 6
"""Cells around a tile that knows nothing of the others: as many as ours have."""


def photo(side: int) -> torch.Tensor:
    with as_file(files("retouch") / "samples" / "cat.jpg") as path:
        pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def codec(tiles: Tiling) -> FoldedVae:
    with as_file(files("retouch") / "demo_model") as folder:
        return FoldedVae(AutoencoderKLQwenImage.from_pretrained(folder / "vae"), tiles)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def decoded_apart(vae: FoldedVae, latents: torch.Tensor, side: int) -> torch.Tensor:
    """Each tile decoded by itself with a margin, so that the middle block attends within a tile only."""
    size = latents.shape[-1]
    image = latents.new_empty(1, 3, size * CELL, size * CELL)
    spans = list(Tiling(above=0, side=side).spans(size))
    for top, bottom in spans:
        for left, right in spans:
            up, west = max(0, top - MARGIN), max(0, left - MARGIN)
            tile = vae.decode(latents[:, :, up : bottom + MARGIN, west : right + MARGIN])
            rows = slice((top - up) * CELL, (bottom - up) * CELL)
            columns = slice((left - west) * CELL, (right - west) * CELL)
            image[:, :, top * CELL : bottom * CELL, left * CELL : right * CELL] = tile[:, :, rows, columns]
    return image


def work(way: str, side: int, folder: Path) -> None:
    """One way, in this process; leaves its results in the folder."""
    torch.set_num_threads(1)
    vae = codec(WAYS.get(way, WAYS["whole"]))
    with torch.inference_mode():
        if way == "apart":
            torch.save(decoded_apart(vae, torch.load(folder / "whole-encode"), WAYS["tiles"].side), folder / way)
            return
        for verb in ("encode", "decode"):
            given = photo(side) if verb == "encode" else torch.load(folder / "whole-encode")
            before, began = peak_gb(), time.process_time()
            result = getattr(vae, verb)(given)
            print(f"{way} {verb}: {time.process_time() - began:.1f} s, peak {peak_gb():.2f} GB (before {before:.2f})")
            torch.save(result, folder / f"{way}-{verb}")


def levels(folder: Path, name: str) -> torch.Tensor:
    return ((torch.load(folder / name) + 1) * 127.5).round()


def step_at(image: torch.Tensor, column: int) -> float:
    """The mean difference, in levels of 256, of two neighbouring columns."""
    return float((image[..., column] - image[..., column - 1]).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--work", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], given.side, Path(given.work[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        for way in ("whole", "tiles", "apart"):
            subprocess.run([sys.executable, __file__, "--side", str(given.side), "--work", way, name], check=True)
        folder = Path(name)
        cells = (torch.load(folder / "whole-encode") - torch.load(folder / "tiles-encode")).abs().max()
        print(f"latents: tiles differ by {float(cells):.2g} at the most")
        whole = levels(folder, "whole-decode")
        border = next(WAYS["tiles"].spans(given.side // CELL))[1] * CELL
        print(f"over a tile's border: a step of {step_at(whole, border):.3f} levels in the whole image")
        for way in ("tiles-decode", "apart"):
            image = levels(folder, way)
            off = (image - whole).abs()
            print(
                f"{way}: mean {float(off.mean()):.4f}, at most {float(off.max()):.0f} levels, at the border "
                f"{float(off[..., border - 1 : border + 1].mean()):.4f}; a step of {step_at(image, border):.3f}"
            )


if __name__ == "__main__":
    main()
