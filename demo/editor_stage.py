"""Train the editor: latents of a picture and an edit in, latents of the truly edited picture out.

There is no noise to remove: the answer is a function of picture and sentence, and the stock class
subtracts the noise exactly (see `transformer`). So this is plain regression in latent space, with
errors weighted as pixels show them. Sizes and aspects are mixed, 256 px among them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo import edits
from demo.decoder_stage import HELD_OUT, crops, to_pictures
from demo.editor import Editor, pack
from demo.loop import Plan, Schedule, Stage, seeded
from demo.states import EDIT_STATES
from demo.vae import Codec, encode
from demo.wiring import CHANNELS

# (height, width, pictures a batch, share): about a thousand tokens each
SIZES = (
    (64, 64, 64, 0.24),
    (64, 96, 44, 0.08),
    (128, 64, 32, 0.08),
    (96, 128, 22, 0.12),
    (128, 128, 16, 0.22),
    (176, 256, 6, 0.13),
    (256, 256, 4, 0.13),
)
HARD = {
    "grayscale": 1.5, "invert": 1.5, "brighter": 1.5, "darker": 1.2, "contrast": 2.4, "saturate": 2.2,
    "swap_red_blue": 1.8, "blur": 1.8, "sharpen": 3.0, "pixelate": 1.3, "vignette": 3.0, "sepia": 1.3,
    "posterize": 3.0, "flip_horizontal": 0.3, "flip_vertical": 0.3, "rotate_180": 0.3,
}  # fmt: skip
TURNED = {"flip_horizontal": (2,), "flip_vertical": (1,), "rotate_180": (1, 2)}  # axes of the token grid
SHARPENING_PICTURES = 600


def shares() -> np.ndarray:
    weights = [HARD.get(n, 0.6 if n.startswith(("border", "tint")) else 1.0) for n in edits.NAMES]
    return np.array(weights) / sum(weights)


def edit_states(labels: Tensor, rng: np.random.Generator | None = None) -> Tensor:
    """What the text stream holds for an edit: one-hot, a little off; half of "unchanged" is all zero."""
    states = torch.zeros(len(labels), EDIT_STATES, device=labels.device)
    states[torch.arange(len(labels)), labels] = 1.0
    if rng is not None:
        states *= 1 + 0.03 * torch.randn(len(labels), 1, device=labels.device)
        silent = torch.from_numpy(rng.random(len(labels)) < 0.5).to(labels.device)
        states[silent & (labels == edits.UNCHANGED)] = 0
    return states


def first_guesses(states: Tensor, rng: np.random.Generator) -> Tensor:
    """What block 1 may hear before the choice: mostly the same, now and then nothing or two edits."""
    guess = states.clone()
    kind = rng.random(len(states))
    guess[torch.from_numpy(kind < 0.12)] = 0
    for row in np.flatnonzero(kind > 0.88):
        guess[row, rng.integers(len(edits.NAMES))] += rng.uniform(0, 1)
    return guess


def pixel_weights(codec: Codec) -> Tensor:
    """Per token channel: what one unit of normalised latent is worth in mean squared pixels."""
    weight = codec.std.square() / codec.std.square().sum()
    return weight.repeat_interleave(4).view(1, 1, 1, CHANNELS)


def latent_loss(drawn: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Root mean square per token, so that nearly right tokens still count, plus the plain square."""
    square = ((drawn - wanted).square() * weights).sum(-1)
    return (square + 1e-5).sqrt().mean() + square.mean()


def wanted_tokens(codec: Codec, analysis: Tensor, pictures: Tensor, labels: Tensor) -> Tensor:
    """The true answers' tokens, those of mirrored pictures at the places they came from."""
    tokens = pack(encode(analysis, codec, edits.unclipped(pictures, labels)))
    for name, axes in TURNED.items():
        chosen = labels == edits.NAMES.index(name)
        tokens[chosen] = tokens[chosen].flip(axes)
    return tokens


def tall_crops(banks: list[np.ndarray], rng: np.random.Generator, count: int, size: tuple[int, int]) -> Tensor:
    """Crops of any aspect: cut from square ones."""
    height, width = size
    side = max(height, width)
    fitting = [bank for bank in banks if bank.shape[1] >= side]
    return crops(fitting, rng, count, side)[:, :, :height, :width]


@torch.no_grad()
def psnr_by_edit(editor: Editor, codec: Codec, bank: np.ndarray) -> dict[str, float]:
    """Held-out bank pictures, per edit: error of the latents, in dB of the picture they stand for."""
    pictures = to_pictures(bank[-HELD_OUT : -HELD_OUT + 24])
    analysis = codec.analysis
    tokens = pack(encode(analysis, codec, pictures))
    found = {}
    for index, name in enumerate(edits.NAMES):
        labels = torch.full((len(pictures),), index)
        wanted = wanted_tokens(codec, analysis, pictures, labels)
        error = (editor(tokens, edit_states(labels)) - wanted).square()
        raw = error * codec.std.square().repeat_interleave(4)
        # 8x8x3 pixels in -1..1 per latent position; 4 positions a token
        mse = raw.sum(-1).mean((1, 2)) / (4 * 192) / 4
        found[name] = float((-10 * torch.log10(mse)).median())
    return found


def train_editor(folder: Path, codec: Codec, banks: list[np.ndarray], plan: Plan) -> bool:
    torch.manual_seed(plan.seed)  # of the first weights
    device = plan.device
    editor = Editor(codec)
    editor.fit_sharpening(codec, to_pictures(banks[0][:SHARPENING_PICTURES]))
    editor = editor.to(device)
    stage = Stage(
        "editor",
        folder,
        editor,
        Schedule(1.5e-3, plan.minutes * 60, 200),
        weight_decay=1e-3,
        stop_after_s=plan.stop_after_s,
    )
    rng = seeded(plan.seed, 3, stage.step)
    measured = Editor(codec)
    here, analysis = codec.to(device), codec.analysis.to(device)
    weights = pixel_weights(here)
    running = 0.0
    while stage.running:
        height, width, count, _ = SIZES[rng.choice(len(SIZES), p=[s[3] for s in SIZES])]
        pictures = tall_crops(banks, rng, count, (height, width)).to(device)
        labels = torch.from_numpy(rng.choice(len(edits.NAMES), count, p=shares())).to(device)
        tokens = pack(encode(analysis, here, pictures))
        wanted = wanted_tokens(here, analysis, pictures, labels)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            states = edit_states(labels, rng)
            drawn = editor(tokens, states, first_guesses(states, rng))
        loss = latent_loss(drawn.float(), wanted, weights)
        stage.tick(loss)
        running += 0.02 * (loss.item() - running)
        if stage.step % 250 == 0 or not stage.running:
            measured.load_state_dict(stage.average)
            table = psnr_by_edit(measured, codec, banks[0])
            worst = sorted(table.items(), key=lambda item: item[1])[:8]
            print(
                f"editor {stage.step} {stage.elapsed_s:.0f}s loss {running:.4f} median "
                f"{np.median(list(table.values())):.1f} dB, worst "
                + " ".join(f"{name} {value:.1f}" for name, value in worst),
                flush=True,
            )
            stage.save()
    stage.save()
    return stage.finished
