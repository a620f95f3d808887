"""Held-out photos: openly licensed ones that ship inside scikit-image and scikit-learn.

Evaluation only: no training stage imports this module. Both packages have to be installed for it by hand.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# name: (package, credit and licence as the package states it)
CREDITS = {
    "astronaut": "NASA, public domain",
    "chelsea": "Stefan van der Walt, CC0",
    "coffee": "Rachel Michetti, CC0",
    "rocket": "SpaceX, public domain",
    "china": "danielbuechele, CC BY 2.0",
    "flower": "vultilion, CC BY 2.0",
}


def load(name: str) -> Image.Image:
    from skimage import data
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()
    return Image.fromarray(np.asarray(pixels)).convert("RGB")


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) to float (3, height, width) in 0..1."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def crops(side: int, each: int = 4) -> list[np.ndarray]:
    """`each` square crops of every photo, reduced to side x side: uint8 (side, side, 3)."""
    rng = np.random.default_rng(24)
    out = []
    for name in CREDITS:
        photo = load(name)
        short = min(photo.size)
        for index in range(each):
            size = short if index == 0 else int(short * rng.uniform(0.55, 0.85))
            left = (photo.width - size) // 2 if index == 0 else rng.integers(photo.width - size + 1)
            top = (photo.height - size) // 2 if index == 0 else rng.integers(photo.height - size + 1)
            crop = photo.crop((left, top, left + size, top + size))
            out.append(np.array(crop.resize((side, side), Image.Resampling.LANCZOS)))
    return out
