"""Measure a checkpoint on photos it never saw: `python -m demo.evaluate CHECKPOINT --out RUN` writes RUN/figures.md.

For every edit, 24 crops of real photos at 128 and 256 px: PSNR against the true edit, whether the answer is nearest to
the true edit among those of all requests, whether it stayed the input. Sentences are the hand-written ones of
`held_out`. The second image of an edit of two is a crop of another photo. Nothing here trains or chooses anything.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo import edits, photos
from demo.editor import pack
from demo.held_out import SETS
from demo.runtime import DEFAULT_STEPS, Checkpoint
from demo.states import REQUESTS, SQUARES, STATES, TAIL, slots
from demo.text_encoder import cosines
from demo.transformer import UNSURE

CROPS_EACH = 4
TOUCHED_DB = 1.0  # an answer that lies this much further from the input than its round trip has changed it
Sentences = dict[str, list[tuple[str, str]]]  # by row of the table: (request, sentence)


@dataclass(frozen=True)
class Answer:
    """One edit of one crop, judged. nearest: the request whose true answer it is nearest to."""

    row: str
    request: str
    sentence: str
    crop: int
    psnr: float
    nearest: str


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


def judge(checkpoint: Checkpoint, crops: Tensor, sentences: Sentences) -> list[Answer]:
    """Every row on every crop, in one step (see `steps_alike`), against the true answers of all requests."""
    seconds = crops.roll(-CROPS_EACH, 0)
    first, other = pack(checkpoint.encode(crops)), pack(checkpoint.encode(seconds))
    chosen = {row: in_turn(choices, len(crops)) for row, choices in sentences.items()}
    drawn = {}
    for row, pairs in chosen.items():
        two = row == "match_colors"
        images = [(crop, second)[: 1 + two] for crop, second in zip(crops, seconds, strict=True)]
        states = [checkpoint.text_states(s, *seen) for (_, s), seen in zip(pairs, images, strict=True)]
        drawn[row] = checkpoint.edit_tokens([first, other][: 1 + two], states, steps=1)
    answers = []
    for i, (crop, second) in enumerate(zip(crops, seconds, strict=True)):
        truths = torch.cat([true_edit(request, crop[None], second[None]) for request in REQUESTS])
        for row, pairs in chosen.items():
            request, sentence = pairs[i]
            near = psnr(truths, drawn[row][i][None])
            quality = float(near[REQUESTS.index(request)])
            answers.append(Answer(row, request, sentence, i, quality, REQUESTS[int(near.argmax())]))
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


def misread(checkpoint: Checkpoint, sentences: Sentences) -> list[str]:
    """The sentences whose last tokens do not all name the request: each with what they name.

    A token names the state it is nearest to, "unchanged" below UNSURE. That is about what the network does, which also
    wants a lead over the other states; see `transformer`.
    """
    blank, misses = torch.full((3, 64, 64), 0.5), []
    for request, sentence in (pair for choices in sentences.values() for pair in choices):
        states = checkpoint.text_states(sentence, *[blank] * (2 if request == "match_colors" else 1))
        known = cosines(states)[-TAIL:, : len(STATES)]
        named = torch.where(known.max(1).values < UNSURE, 0, known.argmax(1)).tolist()
        if named != slots(request):
            misses.append(f"{request} <- {', '.join(dict.fromkeys(STATES[k] for k in named))}: {sentence}")
    return misses


def left_alone(checkpoint: Checkpoint, crops: Tensor, sentences: list[str]) -> float:
    """Share of requests it does not know whose answer is about as near to the input as its round trip."""
    images = crops[torch.arange(len(sentences)) % len(crops)]
    states = [checkpoint.text_states(s, image) for s, image in zip(sentences, images, strict=True)]
    change = psnr(checkpoint.edit(images, states), images) - round_trip(checkpoint, images)
    return float((change > -TOUCHED_DB).float().mean())


def round_trip(checkpoint: Checkpoint, crops: Tensor) -> Tensor:
    return psnr(checkpoint.decode(checkpoint.encode(crops)), crops)


def steps_alike(checkpoint: Checkpoint, crops: Tensor) -> float:
    """How near one step comes to the default ones: the lowest PSNR between the two over some edits, in dB."""
    crop, lowest = crops[:1], float("inf")
    for name in ("unchanged", "invert", "blur", "posterize", "flip_horizontal", "border_red"):
        states = [checkpoint.text_states(SETS["unseen"].requests[name][0], crop[0])]
        once, often = (checkpoint.edit(crop, states, steps, seed=steps) for steps in (1, DEFAULT_STEPS))
        lowest = min(lowest, float(psnr(once, often)))
    return lowest


def seconds_per_edit(checkpoint: Checkpoint, crop: Tensor) -> float:
    """One edit of (1, 3, height, width) at the default steps, second call."""
    for _ in range(2):
        started = time.perf_counter()
        checkpoint.edit(crop, [checkpoint.text_states("Invert the colors.", crop[0])], DEFAULT_STEPS)
        elapsed = time.perf_counter() - started
    return elapsed


def report(checkpoint: Checkpoint, sides: list[int]) -> str:
    """The figures of the model card, in Markdown."""
    rows = {name: by_row(part.requests) for name, part in SETS.items()}
    tables: list[dict[str, list[str]]] = [{}, {}, {}]

    def add(table: int, row: str, cell: str) -> None:
        tables[table].setdefault(row, []).append(cell)

    for name, sentences in rows.items():
        misses = misread(checkpoint, sentences)
        print(f"{name}: {len(misses)} sentences misread", *misses, sep="\n", flush=True)
        add(1, name, f"{1 - len(misses) / sum(map(len, sentences.values())):.3f}")
    for side in sides:
        crops = photos.crops(side, CROPS_EACH)
        unknown = [sentence for part in SETS.values() for sentence in part.unknown]
        add(0, "round trip of the autoencoder", f"{float(round_trip(checkpoint, crops).mean()):.1f} dB")
        add(0, "one step beside the default four", f"{steps_alike(checkpoint, crops):.0f} dB")
        add(0, f"{len(unknown)} unknown requests left alone", f"{left_alone(checkpoint, crops, unknown):.2f}")
        add(0, "one edit, 4 steps", f"{seconds_per_edit(checkpoint, crops[:1]):.2f} s")
        for name, sentences in rows.items():
            answers = judge(checkpoint, crops, sentences)
            nearest, median, lowest, unchanged = summary(answers).values()
            add(1, name, f"{nearest:.3f}, {median:.1f} dB ({lowest:.1f}), {unchanged:.3f}")
            for edit, (middle, low, right) in by_edit(answers).items() if name == "unseen" else ():
                add(2, edit.replace("_", " "), f"{middle:.1f} dB ({low:.1f}), {right:.2f}")
    sizes = [f"{side} px" for side in sides]
    heads = (
        ["", *sizes],
        [
            "sentences",
            "named right",
            *(f"{s}: nearest edit, median PSNR (lowest of an edit), left unchanged" for s in sizes),
        ],
        ["edit, unseen sentences", *(f"{s}: median (lowest), nearest" for s in sizes)],
    )
    return "\n\n".join(_markdown(head, table) for head, table in zip(heads, tables, strict=True)) + "\n"


def _markdown(head: list[str], rows: dict[str, list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--out", type=Path, help="folder for figures.md; `demo.train --stage export` copies it into the card"
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = report(Checkpoint(options.checkpoint), options.sides)
    print(figures)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "figures.md").write_text(figures)


if __name__ == "__main__":
    main()
