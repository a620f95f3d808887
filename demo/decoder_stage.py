"""Train the decoder on procedural pictures, half of them edited, from slightly noisy latents.

It never sees a photo; the figure it logs is on bank pictures it is not trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from demo import edits
from demo.loop import Plan, Schedule, Stage, seeded
from demo.vae import Codec, FoldedDecoder, encode

CROP_PX = 64
BATCH = 32
HELD_OUT = 64  # the last pictures of each bank are never trained on
LATENT_NOISE = 0.08
SLOPE_LOSS = 0.3
LATENT_LOSS = 0.2  # what is drawn must encode to what it was drawn from, fine coefficients as much as coarse


def to_pictures(block: np.ndarray) -> Tensor:
    """uint8 (batch, h, w, 3) to float (batch, 3, h, w) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(block)).permute(0, 3, 1, 2).float() / 255


def crops(banks: list[np.ndarray], rng: np.random.Generator, count: int, side: int) -> Tensor:
    """Random crops, flipped, with channels and lightness shuffled now and then."""
    out = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        bank = banks[rng.integers(len(banks))]
        picture = bank[rng.integers(len(bank) - HELD_OUT)]
        y, x = rng.integers(0, picture.shape[0] - side + 1, 2)
        crop = picture[y : y + side, x : x + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop.transpose(1, 0, 2)
        if rng.random() < 0.3:
            crop = crop[..., rng.permutation(3)]
        out[i] = crop
    pictures = to_pictures(out)
    negative = torch.from_numpy(rng.random(count) < 0.2).view(-1, 1, 1, 1)
    return torch.where(negative, 1 - pictures, pictures)


def _edited(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the pictures under a random edit: the decoder must draw answers, too."""
    labels = torch.from_numpy(rng.integers(0, len(edits.NAMES), len(pictures)))
    labels[torch.from_numpy(rng.random(len(pictures)) < 0.5)] = edits.UNCHANGED
    for name in ("pixelate", "posterize"):
        labels[torch.from_numpy(rng.random(len(pictures)) < 0.06)] = edits.NAMES.index(name)
    return edits.apply(pictures, labels)


def _with_detail(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """A third of the pictures with grain, so that the fine coefficients are worth learning."""
    strength = torch.from_numpy(rng.uniform(0, 0.15, len(pictures)) * (rng.random(len(pictures)) < 0.33))
    grain = torch.randn(len(pictures), 1, *pictures.shape[2:]) + 0.3 * torch.randn_like(pictures)
    return (pictures + strength.float().view(-1, 1, 1, 1) * grain).clamp(0, 1)


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    loss = functional.l1_loss(drawn, wanted) + 2 * functional.mse_loss(drawn, wanted)
    for a, b in zip(_slopes(drawn), _slopes(wanted), strict=True):
        loss = loss + SLOPE_LOSS * functional.l1_loss(a, b)
    return loss


@torch.no_grad()
def psnr_on_bank(decoder: FoldedDecoder, codec: Codec, bank: np.ndarray) -> float:
    pictures = to_pictures(bank[-HELD_OUT:])
    drawn = decoder(encode(codec.analysis, codec, pictures)) / 2 + 0.5
    error = (drawn.clamp(0, 1) - pictures).square().mean((1, 2, 3))
    return float((-10 * torch.log10(error)).mean())


def train_decoder(folder: Path, codec: Codec, banks: list[np.ndarray], plan: Plan) -> bool:
    torch.manual_seed(plan.seed)  # of the first weights
    device = plan.device
    decoder = FoldedDecoder().to(device, memory_format=torch.channels_last)
    stage = Stage(
        "decoder",
        folder,
        decoder,
        Schedule(3e-3, plan.minutes * 60, 150),
        stop_after_s=plan.stop_after_s,
        orthogonal_steps=True,
    )
    rng = seeded(plan.seed, 1, stage.step)
    measured = FoldedDecoder()
    here = codec.to(device)
    analysis = codec.analysis.to(device)
    while stage.running:
        pictures = _with_detail(crops(banks, rng, BATCH, CROP_PX), rng)
        wanted = _edited(pictures, rng).to(device)
        latents = encode(analysis, here, wanted)
        spread = LATENT_NOISE * torch.rand(BATCH, 1, 1, 1, device=device)
        noisy = latents + spread * torch.randn_like(latents)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            drawn = decoder(noisy.to(memory_format=torch.channels_last)).float()
        again = encode(analysis, here, drawn / 2 + 0.5)
        redrawn = functional.mse_loss(again, latents)
        loss = reconstruction_loss(drawn, wanted * 2 - 1) + LATENT_LOSS * redrawn
        stage.tick(loss)
        if stage.step % 100 == 0 or not stage.running:
            measured.load_state_dict(stage.average)
            psnr = psnr_on_bank(measured, codec, banks[0])
            print(
                f"decoder {stage.step} {stage.elapsed_s:.0f}s loss {loss.item():.4f} held-out bank {psnr:.2f} dB",
                flush=True,
            )
            stage.save()
    stage.save()
    return stage.finished
