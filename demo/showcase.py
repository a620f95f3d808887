"""The README's pictures: `python -m demo.showcase CHECKPOINT PHOTO DIR` writes before.jpg, after.jpg."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from demo.contact_sheets import main_pair
from demo.photos import to_tensor
from demo.runtime import Checkpoint

SENTENCE = "Make it look like an old sepia photograph."
SIZE_PX = (384, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sentence", default=SENTENCE)
    options = parser.parse_args()
    photo = Image.open(options.photo).convert("RGB").resize(SIZE_PX, Image.Resampling.LANCZOS)
    before, after = main_pair(Checkpoint(options.checkpoint), to_tensor(photo), options.sentence)
    options.out.mkdir(parents=True, exist_ok=True)
    before.save(options.out / "before.jpg", quality=90)
    after.save(options.out / "after.jpg", quality=90)


if __name__ == "__main__":
    main()
