"""Measure a checkpoint on photos it never saw: `python -m demo.evaluate CHECKPOINT --out RUN` writes RUN/figures.md.

For every edit, 24 crops of real photos at 128 and 256 px: PSNR against the true edit, whether the answer is nearest to
the true edit among those of all requests, whether it stayed the input. Sentences are the hand-written ones of
`held_out`. The second image of an edit of two is a crop of another photo. Edits run through the server's pipeline;
nothing here trains. The photos are openly licensed ones inside scikit-image and scikit-learn, both to be installed by
hand; their credits stand in `model_card.md`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demo import edits
from demo.held_out import SETS
from demo.states import REQUESTS, SQUARES, STATES, TAIL, slots
from demo.text_encoder import cosines
from demo.transformer import UNSURE
from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.pipelines import load_pipeline
from retouch.engine.pipelines.qwen_image_edit import QwenImageEdit
from retouch.images import Pixels

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower")
CROPS_EACH = 4
SIDES_PX = (128, 256)
TOUCHED_DB = 1.0  # an answer that lies this much further from the input than its round trip has changed it
Sentences = dict[str, list[tuple[str, str]]]  # by row of the table: (request, sentence)


@dataclass(frozen=True)
class Answer:
    """One edit of one crop, judged. nearest: the request whose true answer it is nearest to."""

    row: str
    request: str
    psnr: float
    nearest: str


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (height, width, 3) to float (3, height, width) in 0..1."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def photo_crops(side: int) -> list[Pixels]:
    """CROPS_EACH square crops of every photo, reduced to side x side."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(24)
    crops = []
    for name in PHOTOS:
        pixels = load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()
        photo = Image.fromarray(np.asarray(pixels)).convert("RGB")
        short = min(photo.size)
        for index in range(CROPS_EACH):
            size = short if index == 0 else int(short * rng.uniform(0.55, 0.85))
            left = (photo.width - size) // 2 if index == 0 else rng.integers(photo.width - size + 1)
            top = (photo.height - size) // 2 if index == 0 else rng.integers(photo.height - size + 1)
            crop = photo.crop((left, top, left + size, top + size))
            crops.append(np.array(crop.resize((side, side), Image.Resampling.LANCZOS)))
    return crops


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """In dB, per image of a batch."""
    return -10 * torch.log10((a - b).square().mean((-3, -2, -1)).clamp_min(1e-9))


def true_edit(request: str, image: Tensor, second: Tensor) -> Tensor:
    """A request done to images (batch, 3, height, width)."""
    if request in SQUARES:
        return edits.square(image, *SQUARES[request])
    if request == "match_colors":
        return edits.match_colors(image, second)
    return edits.EDITS[request](image)


def by_row(requests: dict[str, list[str]]) -> Sentences:
    """Sentences by request to sentences by row: all squares share one."""
    rows: Sentences = {}
    for request, sentences in requests.items():
        row = "square" if request in SQUARES else request
        rows.setdefault(row, []).extend((request, sentence) for sentence in sentences)
    return rows


def in_turn(choices: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` of the choices: all of them over and over, or spread evenly when there are more."""
    if len(choices) > count:
        return [choices[i * len(choices) // count] for i in range(count)]
    return [choices[i % len(choices)] for i in range(count)]


def edited(pipeline: QwenImageEdit, sentence: str, *images: Pixels, steps: int = 1, seed: int = 0) -> Tensor:
    """The answer, (3, height, width) in 0..1, in the size of the first image. One step is enough; see `steps_alike`."""
    height, width, _ = images[0].shape
    state = pipeline.prepare(EditSpec(sentence, width, height, seed=seed, steps=steps), images)
    while not state.done:
        pipeline.denoise([state])
    return to_tensor(pipeline.decode(state))


def judge(pipeline: QwenImageEdit, crops: list[Pixels], sentences: Sentences) -> list[Answer]:
    """Every row on every crop, against the true answers of all requests."""
    answers = []
    chosen = {row: in_turn(choices, len(crops)) for row, choices in sentences.items()}
    for i, crop in enumerate(crops):
        images = crop, crops[(i + CROPS_EACH) % len(crops)]
        first, second = (to_tensor(image)[None] for image in images)
        truths = torch.cat([true_edit(request, first, second) for request in REQUESTS])
        for row, pairs in chosen.items():
            request, sentence = pairs[i]
            near = psnr(truths, edited(pipeline, sentence, *images[: 1 + (request == "match_colors")])[None])
            quality = float(near[REQUESTS.index(request)])
            answers.append(Answer(row, request, quality, REQUESTS[int(near.argmax())]))
    return answers


def summary(answers: list[Answer]) -> dict[str, float]:
    """Over all answers that should change something."""
    changed = [a for a in answers if a.row != "unchanged"]
    return {
        "nearest_edit": float(np.mean([a.nearest == a.request for a in changed])),
        "median_psnr_db": float(np.median([a.psnr for a in changed])),
        "lowest_row_db": min(median for median, _, _ in by_edit(changed).values()),
        "left_unchanged": float(np.mean([a.nearest == "unchanged" for a in changed])),
    }


def by_edit(answers: list[Answer]) -> dict[str, tuple[float, float, float]]:
    """Median and lowest PSNR and the share judged right, per edit."""
    table = {}
    for name in dict.fromkeys(a.row for a in answers):
        own = [a for a in answers if a.row == name]
        quality = [a.psnr for a in own]
        right = float(np.mean([a.nearest == a.request for a in own]))
        table[name] = (float(np.median(quality)), min(quality), right)
    return table


def misread(pipeline: QwenImageEdit, sentences: Sentences) -> list[str]:
    """The sentences whose last tokens do not all name the request: each with what they name.

    A token names the state it is nearest to, "unchanged" below UNSURE. That is about what the network does, which also
    wants a lead over the other states; see `transformer`.
    """
    blank, misses = np.full((64, 64, 3), 128, np.uint8), []
    for request, sentence in (pair for choices in sentences.values() for pair in choices):
        images = [blank] * (2 if request == "match_colors" else 1)
        embeds = pipeline.prepare(EditSpec(sentence, 64, 64, seed=0, steps=1), images).prompt_embeds
        known = cosines(embeds[0, -TAIL:])[:, : len(STATES)]
        named = torch.where(known.max(1).values < UNSURE, 0, known.argmax(1)).tolist()
        if named != slots(request):
            misses.append(f"{request} <- {', '.join(dict.fromkeys(STATES[k] for k in named))}: {sentence}")
    return misses


@torch.inference_mode()
def round_trip(pipeline: QwenImageEdit, crop: Pixels) -> float:
    image = to_tensor(crop)[None]
    return float(psnr(pipeline.vae.decode(pipeline.vae.encode(image * 2 - 1)) / 2 + 0.5, image))


def left_alone(pipeline: QwenImageEdit, crops: list[Pixels], sentences: list[str]) -> float:
    """Share of requests it does not know whose answer is about as near to the input as its round trip."""
    alone = 0
    for i, sentence in enumerate(sentences):
        crop = crops[i % len(crops)]
        answer = psnr(edited(pipeline, sentence, crop), to_tensor(crop))
        alone += float(answer) - round_trip(pipeline, crop) > -TOUCHED_DB
    return alone / len(sentences)


def steps_alike(pipeline: QwenImageEdit, crop: Pixels) -> float:
    """How near one step comes to the default ones: the lowest PSNR between the two over some edits, in dB."""
    lowest, steps = float("inf"), pipeline.checkpoint.steps
    for name in ("unchanged", "invert", "blur", "posterize", "flip_horizontal", "border_red"):
        sentence = SETS["unseen"].requests[name][0]
        once, often = (edited(pipeline, sentence, crop, steps=n, seed=n) for n in (1, steps))
        lowest = min(lowest, float(psnr(once, often)))
    return lowest


def seconds_per_edit(pipeline: QwenImageEdit, crop: Pixels) -> float:
    """One edit at the default steps, second call."""
    for _ in range(2):
        started = time.perf_counter()
        edited(pipeline, "Invert the colors.", crop, steps=pipeline.checkpoint.steps)
        elapsed = time.perf_counter() - started
    return elapsed


def report(pipeline: QwenImageEdit) -> str:
    """The figures of the model card, in Markdown."""
    rows = {name: by_row(part.requests) for name, part in SETS.items()}
    unknown = [sentence for part in SETS.values() for sentence in part.unknown]
    tables: list[dict[str, list[str]]] = [{}, {}, {}]

    def add(table: int, row: str, cell: str) -> None:
        tables[table].setdefault(row, []).append(cell)

    for name, sentences in rows.items():
        misses = misread(pipeline, sentences)
        print(f"{name}: {len(misses)} sentences misread", *misses, sep="\n", flush=True)
        add(1, name, f"{1 - len(misses) / sum(map(len, sentences.values())):.3f}")
    for side in SIDES_PX:
        crops = photo_crops(side)
        trips = [round_trip(pipeline, crop) for crop in crops]
        add(0, "round trip of the autoencoder", f"{np.mean(trips):.1f} dB")
        add(0, "one step beside the default four", f"{steps_alike(pipeline, crops[0]):.0f} dB")
        add(0, f"{len(unknown)} unknown requests left alone", f"{left_alone(pipeline, crops, unknown):.2f}")
        add(0, "one edit, 4 steps", f"{seconds_per_edit(pipeline, crops[0]):.2f} s")
        for name, sentences in rows.items():
            answers = judge(pipeline, crops, sentences)
            nearest, median, lowest, unchanged = summary(answers).values()
            add(1, name, f"{nearest:.3f}, {median:.1f} dB ({lowest:.1f}), {unchanged:.3f}")
            for edit, (middle, low, right) in by_edit(answers).items() if name == "unseen" else ():
                add(2, edit.replace("_", " "), f"{middle:.1f} dB ({low:.1f}), {right:.2f}")
    sizes = [f"{side} px" for side in SIDES_PX]
    judged = "nearest edit, median PSNR (lowest of an edit), left unchanged"
    heads = (
        ["", *sizes],
        ["sentences", "named right", *(f"{size}: {judged}" for size in sizes)],
        ["edit, unseen sentences", *(f"{size}: median (lowest), nearest" for size in sizes)],
    )
    markdown = []
    for head, table in zip(heads, tables, strict=True):
        lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in table.items())]
        markdown.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(markdown) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the run, whose export copies figures.md into the card")
    options = parser.parse_args()
    torch.set_num_threads(2)
    pipeline = load_pipeline(checkpoint_named("demo"), device="cpu", folder=options.checkpoint)
    assert isinstance(pipeline, QwenImageEdit)
    figures = report(pipeline)
    print(figures)
    if options.out:
        (options.out / "figures.md").write_text(figures)


if __name__ == "__main__":
    main()
