"""The three trainings: what each network gets, and what its answer should be.

- The decoder draws procedural images, half of them edited, from slightly noisy latents. It never sees a photo.
- The text encoder names the edit of fresh sentences of the grammar.
- The editor turns latents of an image and an edit into latents of the truly edited image. There is no noise to remove:
  the answer is a function of image and sentence, and the stock class subtracts the noise exactly (see `transformer`).
  So this is plain regression in latent space, with errors weighted as pixels show them.

How a step is taken, saved and resumed stands in `loop`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2Tokenizer

from demo import edits
from demo.editor import Editor, pack
from demo.loop import Schedule, Stage, seeded
from demo.states import EDIT_STATES
from demo.text_encoder import SentenceBatches, hidden_states, new_text_encoder, prototype_loss
from demo.vae import Codec, folded_decoder
from demo.wiring import CHANNELS
from retouch.engine.pipelines.text_encoder import PREFIX

HELD_OUT = 64  # the last images of each bank are never trained on
DECODER_BATCH, DECODER_PX = 32, 64
LATENT_NOISE = 0.08
SLOPE_LOSS = 0.3
LATENT_LOSS = 0.2  # what is drawn must encode to what it was drawn from, fine coefficients as much as coarse
TEXT_BATCH = 64
# (height, width, images a batch, share): about a thousand tokens each
EDITOR_SIZES = (
    (64, 64, 64, 0.24),
    (64, 96, 44, 0.08),
    (128, 64, 32, 0.08),
    (96, 128, 22, 0.12),
    (128, 128, 16, 0.22),
    (176, 256, 6, 0.13),
    (256, 256, 4, 0.13),
)
EDITOR_WEIGHTS = {
    "grayscale": 1.5, "invert": 1.5, "brighter": 1.5, "darker": 1.2, "contrast": 2.4, "saturate": 2.2,
    "swap_red_blue": 1.8, "blur": 1.8, "sharpen": 3.0, "pixelate": 1.3, "vignette": 3.0, "sepia": 1.3,
    "posterize": 3.0, "flip_horizontal": 0.3, "flip_vertical": 0.3, "rotate_180": 0.3,
}  # fmt: skip
TOKEN_AXES = {"flip_horizontal": (2,), "flip_vertical": (1,), "rotate_180": (1, 2)}  # of the grid, that are turned
SHARPENING_IMAGES = 600


def to_images(block: np.ndarray) -> Tensor:
    """uint8 (batch, h, w, 3) to float (batch, 3, h, w) in 0..1."""
    return torch.from_numpy(np.array(block)).permute(0, 3, 1, 2).float() / 255


def crops(banks: list[np.ndarray], rng: np.random.Generator, count: int, height: int, width: int) -> Tensor:
    """Random crops, flipped, with channels and lightness shuffled now and then: (count, 3, height, width) in 0..1."""
    side = max(height, width)
    fitting = [bank for bank in banks if bank.shape[1] >= side]
    out = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        bank = fitting[rng.integers(len(fitting))]
        image = bank[rng.integers(len(bank) - HELD_OUT)]
        y, x = rng.integers(0, image.shape[0] - side + 1, 2)
        crop = image[y : y + side, x : x + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop.transpose(1, 0, 2)
        if rng.random() < 0.3:
            crop = crop[..., rng.permutation(3)]
        out[i] = crop
    images = to_images(out)
    negative = torch.from_numpy(rng.random(count) < 0.2).view(-1, 1, 1, 1)
    return torch.where(negative, 1 - images, images)[:, :, :height, :width]


def decoder_images(banks: list[np.ndarray], rng: np.random.Generator) -> Tensor:
    """What the decoder has to draw: half edited; a third with grain, so that fine coefficients are worth learning."""
    images = crops(banks, rng, DECODER_BATCH, DECODER_PX, DECODER_PX)
    strength = torch.from_numpy(rng.uniform(0, 0.15, len(images)) * (rng.random(len(images)) < 0.33))
    grain = torch.randn(len(images), 1, *images.shape[2:]) + 0.3 * torch.randn_like(images)
    images = (images + strength.float().view(-1, 1, 1, 1) * grain).clamp(0, 1)
    labels = torch.from_numpy(rng.integers(0, len(edits.NAMES), len(images)))
    labels[torch.from_numpy(rng.random(len(images)) < 0.5)] = edits.UNCHANGED
    for name in ("pixelate", "posterize"):
        labels[torch.from_numpy(rng.random(len(images)) < 0.06)] = edits.NAMES.index(name)
    return edits.apply(images, labels)


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Over images and over their slopes in both directions."""
    loss = functional.l1_loss(drawn, wanted) + 2 * functional.mse_loss(drawn, wanted)
    for axis in (2, 3):
        loss = loss + SLOPE_LOSS * functional.l1_loss(drawn.diff(dim=axis), wanted.diff(dim=axis))
    return loss


def train_decoder(folder: Path, codec: Codec, banks: list[np.ndarray], minutes: float, seed: int) -> None:
    torch.manual_seed(seed)  # of the first weights
    decoder = folded_decoder(codec).to(memory_format=torch.channels_last)
    stage = Stage("decoder", folder, decoder, Schedule(3e-3, minutes * 60, 150), orthogonal_steps=True)
    rng = seeded(seed, 1, stage.step)
    measured, held_out = folded_decoder(codec), to_images(banks[0][-HELD_OUT:])

    def loss() -> Tensor:
        wanted = decoder_images(banks, rng)
        latents = codec.encode(wanted)
        noisy = latents + LATENT_NOISE * torch.rand(len(wanted), 1, 1, 1) * torch.randn_like(latents)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = decoder(noisy.to(memory_format=torch.channels_last)).float()
        encoded_again = codec.encode(drawn / 2 + 0.5)
        return reconstruction_loss(drawn, wanted * 2 - 1) + LATENT_LOSS * functional.mse_loss(encoded_again, latents)

    @torch.no_grad()
    def report() -> str:
        measured.load_state_dict(stage.average)
        drawn = measured(codec.encode(held_out)) / 2 + 0.5
        error = (drawn.clamp(0, 1) - held_out).square().mean((1, 2, 3))
        return f"held-out bank {float((-10 * torch.log10(error)).mean()):.2f} dB"

    stage.run(loss, report, every=100)


def train_text_encoder(folder: Path, tokenizer: Qwen2Tokenizer, minutes: float, seed: int) -> None:
    encoder = new_text_encoder(tokenizer, seed)
    encoder.set_attn_implementation("eager")  # SDPA's backward takes twice as long on a CPU
    stage = Stage("text", folder, encoder, Schedule(2e-3, minutes * 60, 200), weight_decay=0.02)
    batches = SentenceBatches(tokenizer, seeded(seed, 2, stage.step)).batches(TEXT_BATCH)
    prefix = torch.tensor(tokenizer(PREFIX)["input_ids"])
    named = 0.0

    def loss() -> Tensor:
        nonlocal named
        sentences = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            states = hidden_states(encoder, prefix, sentences)
        value, right = prototype_loss(states, sentences)
        named += 0.02 * (right.item() - named)
        return value

    stage.run(loss, lambda: f"named on fresh sentences {named:.3f}", every=200)


def edit_states(labels: Tensor, rng: np.random.Generator | None = None) -> Tensor:
    """What the text stream holds for an edit: one-hot. With `rng` a little off, and half of "unchanged" all zero."""
    states = functional.one_hot(labels, EDIT_STATES).float()
    if rng is not None:
        states *= 1 + 0.03 * torch.randn(len(labels), 1)
        silent = torch.from_numpy(rng.random(len(labels)) < 0.5)
        states[silent & (labels == edits.UNCHANGED)] = 0
    return states


def first_guesses(states: Tensor, rng: np.random.Generator) -> Tensor:
    """What block 1 may read before the choice: mostly the same, now and then nothing or two edits."""
    guess = states.clone()
    chance = rng.random(len(states))
    guess[torch.from_numpy(chance < 0.12)] = 0
    for row in np.flatnonzero(chance > 0.88):
        guess[row, rng.integers(len(edits.NAMES))] += rng.uniform(0, 1)
    return guess


def wanted_tokens(codec: Codec, images: Tensor, labels: Tensor) -> Tensor:
    """The true answers' tokens, those of mirrored images at the places they came from."""
    tokens = pack(codec.encode(edits.unclipped(images, labels)))
    for name, axes in TOKEN_AXES.items():
        chosen = labels == edits.NAMES.index(name)
        tokens[chosen] = tokens[chosen].flip(axes)
    return tokens


def train_editor(folder: Path, codec: Codec, banks: list[np.ndarray], minutes: float, seed: int) -> None:
    torch.manual_seed(seed)  # of the first weights
    editor = Editor(codec)
    editor.fit_sharpening(codec, to_images(banks[0][:SHARPENING_IMAGES]))
    stage = Stage("editor", folder, editor, Schedule(1.5e-3, minutes * 60, 200), weight_decay=1e-3)
    rng = seeded(seed, 3, stage.step)
    measured, held_out = Editor(codec), to_images(banks[0][-HELD_OUT : -HELD_OUT + 24])
    # What one unit of normalised latent is worth in mean squared pixels, per token channel.
    worth = (codec.std.square() / codec.std.square().sum()).repeat_interleave(4).view(1, 1, 1, CHANNELS)
    shares = np.array([EDITOR_WEIGHTS.get(n, 0.6 if n.startswith(("border", "tint")) else 1.0) for n in edits.NAMES])

    def loss() -> Tensor:
        height, width, count, _ = EDITOR_SIZES[rng.choice(len(EDITOR_SIZES), p=[size[3] for size in EDITOR_SIZES])]
        images = crops(banks, rng, count, height, width)
        labels = torch.from_numpy(rng.choice(len(edits.NAMES), count, p=shares / shares.sum()))
        tokens, wanted = pack(codec.encode(images)), wanted_tokens(codec, images, labels)
        with torch.autocast("cpu", torch.bfloat16):
            states = edit_states(labels, rng)
            drawn = editor(tokens, states, first_guesses(states, rng))
        square = ((drawn.float() - wanted).square() * worth).sum(-1)
        # Root mean square per token, so that nearly right tokens still count, plus the plain square.
        return (square + 1e-5).sqrt().mean() + square.mean()

    @torch.no_grad()
    def report() -> str:
        """Per edit the error of the latents, in dB of the image they stand for."""
        measured.load_state_dict(stage.average)
        tokens, found = pack(codec.encode(held_out)), {}
        for index, name in enumerate(edits.NAMES):
            labels = torch.full((len(held_out),), index)
            error = measured(tokens, edit_states(labels)) - wanted_tokens(codec, held_out, labels)
            raw = error.square() * codec.std.square().repeat_interleave(4)
            # 8x8x3 pixels in -1..1 per latent position; 4 positions a token
            found[name] = float((-10 * torch.log10(raw.sum(-1).mean((1, 2)) / (4 * 192) / 4)).median())
        worst = sorted(found, key=lambda name: found[name])[:8]
        median = float(np.median(list(found.values())))
        return f"median {median:.1f} dB, worst " + " ".join(f"{name} {found[name]:.1f}" for name in worst)

    stage.run(loss, report, every=250)
