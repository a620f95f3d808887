"""Time and size of our encoders beside Pillow's own, on the same image, turn by turn in one run.

    python benchmarks/image_codecs.py [--image FILE] [--side 1024] [--rounds 9]

Each round encodes once with every encoder, so that a busy machine slows them alike; medians are printed in
milliseconds per megapixel (1024 × 1024), beside the size and the ratio of time to the first line.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from retouch import images

SAMPLE = Path(__file__).parents[1] / "src/retouch/samples/cat.jpg"
MEGAPIXEL = 1024 * 1024


def by_pillow(pixels: images.Pixels, **options: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


ENCODERS: dict[str, Callable[[images.Pixels], bytes]] = {
    "png, Pillow level 6 (its default)": lambda pixels: by_pillow(pixels, compress_level=6),
    "png, Pillow level 1": lambda pixels: by_pillow(pixels, compress_level=1),
    "png, ours": lambda pixels: images.encode(pixels, "png"),
    "jpeg 95, ours": lambda pixels: images.encode(pixels, "jpeg", 95),
    "jpeg 85, ours": lambda pixels: images.encode(pixels, "jpeg", 85),
    "webp 90, ours": lambda pixels: images.encode(pixels, "webp", 90),
    "avif 90, ours": lambda pixels: images.encode(pixels, "avif", 90),
    "gif, ours": lambda pixels: images.encode(pixels, "gif"),
}


def sample(path: Path, side: int) -> images.Pixels:
    """The sample at side × side with a little grain, so that it packs like a photo and not like an enlargement."""
    pixels = images.resize(images.decode(path.read_bytes()), (side, side))
    grain = np.random.default_rng(0).integers(-3, 4, pixels.shape, dtype=np.int16)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=SAMPLE)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    pixels = sample(options.image, options.side)
    seconds: dict[str, list[float]] = {name: [] for name in ENCODERS}
    sizes: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, encode in ENCODERS.items():
            started = time.perf_counter()
            data = encode(pixels)
            seconds[name].append(time.perf_counter() - started)
            sizes[name] = len(data)
    assert np.array_equal(images.decode(images.encode(pixels, "png")), pixels), "our PNG is lossless"
    megapixels = options.side**2 / MEGAPIXEL
    base = statistics.median(next(iter(seconds.values())))
    print(f"{options.side} × {options.side}, {options.rounds} rounds, medians")
    print(f"{'encoder':36}{'ms/MP':>8}{'min':>8}{'kB/MP':>8}{'× first':>9}")
    for name, times in seconds.items():
        median = statistics.median(times)
        row = (median * 1000 / megapixels, min(times) * 1000 / megapixels, sizes[name] / 1000 / megapixels)
        print(f"{name:36}{row[0]:8.1f}{row[1]:8.1f}{row[2]:8.0f}{median / base:9.3f}")


if __name__ == "__main__":
    main()
