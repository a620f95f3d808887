"""Yahoo's open_nsfw, the packaged image classifier, in plain NumPy: pixels in, one number out.

A ResNet-50 of half the width with its batch norms folded into 53 convolutions (weights and licence:
`retouch/safety_model/`, made by `safety/convert.py`). It scores photographs of nudity and pornography; its authors
exclude drawings, text and violence. Needs no torch, holds no state between calls, and decides no threshold.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import load_file

from retouch.images import Pixels

Array: TypeAlias = npt.NDArray[np.float32]

WEIGHTS = Path(__file__).parents[1] / "safety_model" / "open_nsfw.safetensors"

BLOCKS = (3, 4, 6, 3)
"""Residual blocks by stage."""

MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)
RESIZED, CROPPED = 256, 224


class OpenNsfw:
    """The classifier with its weights in memory (24 MB); `score` may be called from several threads at once."""

    name = "open_nsfw"
    category = "sexual"
    default_threshold = 0.8
    """Its authors: above it an image is very likely unsafe. No harmless image of ours came near half of it."""

    timeout_s = None  # a fixed amount of arithmetic

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._weights = {name: values.astype(np.float32) for name, values in load_file(weights).items()}

    def score(self, image: Pixels) -> float:
        """How likely the image is unsafe, 0 to 1; the same pixels always give the same number."""
        return unsafe_probability(self._weights, preprocess(image))


def preprocess(image: Pixels) -> Array:
    """What the network was trained on: (224, 224, 3) float32, BGR minus the mean of the training set.

    The steps of Yahoo's classify_nsfw.py, in its order. The JPEG in the middle is part of them: without it scores move
    by up to 0.12. So is the filter: Pillow's BILINEAR averages over the area it shrinks. The shape is not kept.
    """
    small = Image.fromarray(image).resize((RESIZED, RESIZED), Image.Resampling.BILINEAR)
    with io.BytesIO() as file:
        small.save(file, "JPEG")
        lossy = np.asarray(Image.open(file), dtype=np.float32)
    edge = (RESIZED - CROPPED) // 2
    bgr: Array = lossy[edge : edge + CROPPED, edge : edge + CROPPED, ::-1]
    return bgr - MEAN_BGR


def unsafe_probability(weights: Mapping[str, Array], image: Array) -> float:
    """The network. image: as `preprocess` returns it."""
    x = _relu(_convolve(weights, "stem", _patches(np.pad(image, ((3, 3), (3, 3), (0, 0))), 7, stride=2)))
    x = _max_pool(x)
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            x = _residual(weights, f"stage{stage}.block{block}", x, stride=2 if stage and not block else 1)
    logits = x.mean(axis=(0, 1)) @ weights["head.weight"] + weights["head.bias"]
    return float(1 / (1 + np.exp(logits[0] - logits[1])))


def _residual(weights: Mapping[str, Array], name: str, x: Array, *, stride: int) -> Array:
    x = x[::stride, ::stride]  # a 1x1 convolution with a stride sees every second pixel only
    shortcut = _convolve(weights, f"{name}.shortcut", x) if f"{name}.shortcut.weight" in weights else x
    y = _relu(_convolve(weights, f"{name}.reduce", x))
    y = _relu(_convolve(weights, f"{name}.middle", _patches(np.pad(y, ((1, 1), (1, 1), (0, 0))), 3)))
    y = _convolve(weights, f"{name}.expand", y)
    y += shortcut
    return _relu(y)


def _convolve(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """(rows, columns, channels of a patch) to (rows, columns, outputs): a convolution is one product over patches."""
    rows, columns, channels = x.shape
    y: Array = x.reshape(rows * columns, channels) @ weights[f"{name}.weight"]
    y += weights[f"{name}.bias"]
    return y.reshape(rows, columns, -1)


def _patches(padded: Array, side: int, *, stride: int = 1) -> Array:
    """Every window of side x side pixels as one row: (rows, columns, side * side * channels), row by row."""
    height, width, channels = padded.shape
    rows, columns = (height - side) // stride + 1, (width - side) // stride + 1
    patches = np.empty((rows, columns, side * side, channels), dtype=np.float32)
    for offset in range(side * side):
        top, left = divmod(offset, side)
        patches[:, :, offset] = padded[top : top + rows * stride : stride, left : left + columns * stride : stride]
    return patches.reshape(rows, columns, side * side * channels)


def _max_pool(x: Array) -> Array:
    """3x3 with stride 2; the padding is to the right and below only, as the weights' first framework had it."""
    padded = np.pad(x, ((0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    by_rows = np.maximum(np.maximum(padded[:-2:2], padded[1:-1:2]), padded[2::2])
    pooled: Array = np.maximum(np.maximum(by_rows[:, :-2:2], by_rows[:, 1:-1:2]), by_rows[:, 2::2])
    return pooled


def _relu(x: Array) -> Array:
    return np.maximum(x, 0, out=x)
