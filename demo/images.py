"""The procedural image bank: dead leaves, 1/f spectra, gradients, shapes and glyphs.

Every training image is drawn here from a seed. There are no photos in it, and no files are read
except Pillow's built-in font.
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CANVAS = 256
GLYPHS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnprstuvwxyz0123456789&?!"


def spectrum(rng: np.random.Generator, exponent: float, side: int = CANVAS) -> np.ndarray:
    """A random field with amplitude spectrum 1/f^exponent: (side, side), zero mean, unit spread."""
    fy = np.fft.fftfreq(side)[:, None]
    fx = np.fft.rfftfreq(side)[None, :]
    squash = 2 ** rng.uniform(-0.7, 0.7)
    radius = np.sqrt((fy * squash) ** 2 + (fx / squash) ** 2)
    radius[0, 0] = 1.0
    phase = np.exp(2j * np.pi * rng.random(radius.shape))
    field = np.fft.irfft2(phase * radius**-exponent, s=(side, side))
    field -= field.mean()
    return (field / (field.std() + 1e-9)).astype(np.float32)


@lru_cache(maxsize=1)
def _textures() -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.stack([spectrum(rng, rng.uniform(0.5, 1.7)) for _ in range(48)])


def palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours of one image: wide in luma, narrow in chroma around a cast. (count, 3) in 0..1."""
    low, high = sorted(rng.uniform(-0.05, 1.05, 2))
    if high - low < 0.4:
        low, high = 0.0, 1.0
    luma = rng.uniform(low, high, (count, 1))
    chroma_spread = rng.choice([0.04, 0.12, 0.25, 0.4], p=[0.2, 0.35, 0.3, 0.15])
    cast = rng.normal(0, chroma_spread * 0.5, (1, 3))
    chroma = cast + rng.normal(0, chroma_spread, (count, 3))
    chroma -= chroma.mean(1, keepdims=True)
    extremes = rng.random((count, 1)) < 0.06
    luma = np.where(extremes, rng.integers(0, 2, (count, 1)), luma)
    return np.clip(luma + chroma, 0, 1).astype(np.float32)


def _polygon(rng: np.random.Generator, x: float, y: float, r: float) -> list[tuple[float, float]]:
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]


def _box(rng: np.random.Generator, x: float, y: float, r: float) -> list[tuple[float, float]]:
    turn = rng.uniform(0, math.pi) if rng.random() < 0.6 else 0.0
    a, b = r, r * rng.uniform(0.2, 1.0)
    c, s = math.cos(turn), math.sin(turn)
    return [(x + u * a * c - v * b * s, y + u * a * s + v * b * c) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def _leaf(rng: np.random.Generator, draw: ImageDraw.ImageDraw, r: float, fill: int) -> None:
    x, y = rng.uniform(-20, CANVAS + 20, 2)
    chance = rng.random()
    if chance < 0.45:
        b = r * rng.uniform(0.35, 1.0)
        draw.ellipse((x - r, y - b, x + r, y + b), fill=fill)
    elif chance < 0.75:
        draw.polygon(_box(rng, x, y, r), fill=fill)
    elif chance < 0.92:
        draw.polygon(_polygon(rng, x, y, r), fill=fill)
    else:
        angle = rng.uniform(0, math.pi)
        dx, dy = 4 * r * math.cos(angle), 4 * r * math.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=fill, width=int(rng.integers(1, 6)))


def _paint(rng: np.random.Generator, ids: np.ndarray, count: int) -> np.ndarray:
    """Fill an index map with shaded, textured colours. Returns (side, side, 3)."""
    colours = palette(rng, count)
    slopes = rng.normal(0, 0.12, (count, 2)).astype(np.float32)
    rough = (np.abs(rng.normal(0, 0.06, count)) * (rng.random(count) < 0.75)).astype(np.float32)
    side = ids.shape[0]
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    shade = slopes[ids, 0] * axis[None, :] + slopes[ids, 1] * axis[:, None]
    texture = _textures()[rng.integers(len(_textures()))]
    shade += rough[ids] * np.roll(texture, tuple(rng.integers(0, CANVAS, 2)), (0, 1))
    return colours[ids] + shade[..., None]


def dead_leaves(rng: np.random.Generator) -> np.ndarray:
    count = int(math.exp(rng.uniform(math.log(30), math.log(500))))
    canvas = Image.new("I", (CANVAS, CANVAS), 0)
    draw = ImageDraw.Draw(canvas)
    smallest, u = float(rng.choice([3, 6, 12])), rng.random(count)
    radii = np.sqrt(1.0 / (u / smallest**2 + (1 - u) / 110.0**2))  # density r^-3 up to 110
    if rng.random() < 0.5:
        radii = np.sort(radii)[::-1]
    for index, radius in enumerate(radii, start=1):
        _leaf(rng, draw, float(radius), index)
    return _paint(rng, np.asarray(canvas), count + 1)


def natural_spectrum(rng: np.random.Generator) -> np.ndarray:
    luma = spectrum(rng, rng.uniform(0.9, 2.0)) * rng.uniform(0.08, 0.28)
    axes = rng.normal(0, 1, (2, 3))
    axes -= axes.mean(1, keepdims=True)
    pixels = np.full((CANVAS, CANVAS, 3), rng.uniform(0.25, 0.75), np.float32)
    pixels += luma[..., None] + rng.normal(0, 0.08, 3)
    for axis in axes:
        chroma = spectrum(rng, rng.uniform(1.2, 2.2)) * abs(rng.normal(0, 0.07))
        pixels += chroma[..., None] * axis
    return pixels


def shapes_and_glyphs(rng: np.random.Generator) -> np.ndarray:
    corners = palette(rng, 4).reshape(2, 2, 3)
    t = np.linspace(0, 1, CANVAS, dtype=np.float32)
    rows = corners[0][None] * (1 - t)[:, None, None] + corners[1][None] * t[:, None, None]
    pixels = rows[:, :1] * (1 - t)[None, :, None] + rows[:, 1:] * t[None, :, None]
    canvas = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    colours = (palette(rng, 12) * 255).astype(int)
    if rng.random() < 0.3:
        colours = (rng.random((12, 3)) * 255).astype(int)
    for colour in colours[: rng.integers(1, 9)]:
        fill = tuple(int(c) for c in colour)
        x, y = rng.uniform(0, CANVAS, 2)
        r = rng.uniform(6, 90)
        chance = rng.random()
        if chance < 0.35:
            text = "".join(rng.choice(list(GLYPHS), int(rng.integers(1, 9))))
            font = ImageFont.load_default(float(rng.uniform(14, 110)))
            draw.text(tuple(rng.uniform(-20, CANVAS - 40, 2)), text, fill=fill, font=font)
        elif chance < 0.6:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        else:
            draw.polygon(_box(rng, x, y, r) if chance < 0.8 else _polygon(rng, x, y, r), fill=fill)
    return np.asarray(canvas, np.float32) / 255


GENERATORS = ((dead_leaves, 0.60), (natural_spectrum, 0.18), (shapes_and_glyphs, 0.22))


def _light_and_focus(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Extra noise, a smooth light field, a little defocus: without them everything is too sharp."""
    if rng.random() < 0.25:
        strength = abs(rng.normal(0, 0.05))
        pixels = pixels + strength * spectrum(rng, rng.uniform(0.0, 0.8))[..., None]
    if rng.random() < 0.30:
        pixels = pixels * np.exp(rng.uniform(0.1, 0.35) * spectrum(rng, 2.2))[..., None]
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.35:
        sharp = image
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
        if rng.random() < 0.4:
            mask = Image.fromarray((spectrum(rng, 2.0) * 90 + 128).clip(0, 255).astype(np.uint8))
            image = Image.composite(sharp, image, mask)
    return np.asarray(image)


def draw_image(rng: np.random.Generator, side: int) -> np.ndarray:
    """One training image: (side, side, 3) uint8; side is at most 256."""
    generators, shares = zip(*GENERATORS, strict=True)
    draw = generators[rng.choice(len(generators), p=shares)]
    image = Image.fromarray(_light_and_focus(rng, draw(rng)))
    if side < CANVAS:
        resample = Image.Resampling.LANCZOS if rng.random() < 0.6 else Image.Resampling.BOX
        image = image.resize((side, side), resample)
    return np.asarray(image)


def _batch(job: tuple[int, int, int]) -> np.ndarray:
    seed, count, side = job
    rng = np.random.default_rng(seed)
    return np.stack([draw_image(rng, side) for _ in range(count)])


def make_bank(path: Path, count: int, side: int, seed: int, workers: int = 2) -> None:
    """Write `count` images as one uint8 array (count, side, side, 3); keeps a finished file."""
    if path.exists():
        return
    chunk = 100
    jobs = [(seed * 1_000_003 + i, min(chunk, count - i), side) for i in range(0, count, chunk)]
    with ProcessPoolExecutor(workers) as pool:
        bank = np.concatenate(list(pool.map(_batch, jobs)))
    partial = path.with_suffix(".partial.npy")
    np.save(partial, bank)
    partial.rename(path)
