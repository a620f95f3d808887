"""Measure a checkpoint on photos it never saw: `python -m demo.evaluate CHECKPOINT --out DIR`.

For every edit, 24 crops of real photos at 128 and 256 px: PSNR against the true edit, whether the
answer is nearest to the true edit among those of all requests, whether it stayed the input. Sentences
are the hand-written ones of `held_out`, apart from them fresh ones of the training grammar. The second
picture of an edit of two is a crop of another photo.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo import edits, photos
from demo.editor import pack
from demo.held_out import SETS
from demo.instructions import SentenceSampler
from demo.runtime import DEFAULT_STEPS, Checkpoint
from demo.states import REQUESTS, STATES, slots
from demo.states import SQUARES as ALL_SQUARES
from demo.transformer import UNSURE

CROPS_EACH = 4
TOUCHED_DB = 1.0  # an answer that lies this much further from the input than its round trip has changed it
Asked = dict[str, list[tuple[str, str]]]  # a row of the table: (request, sentence), used in turn


@dataclass(frozen=True)
class Answer:
    """One edit of one crop, judged."""

    row: str
    request: str
    sentence: str
    crop: int
    psnr: float
    nearest: str

    @property
    def right(self) -> bool:
        return self.nearest == self.request


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """In dB, per picture of a batch."""
    return -10 * torch.log10((a - b).square().mean((-3, -2, -1)).clamp_min(1e-9))


def row_of(request: str) -> str:
    """All squares share a row."""
    return "square" if request in ALL_SQUARES else request


def true_edit(request: str, picture: Tensor, second: Tensor) -> Tensor:
    """What was asked for, done to pictures (batch, 3, height, width)."""
    if request in ALL_SQUARES:
        return edits.square(picture, *ALL_SQUARES[request])
    if request == "match_colors":
        return edits.match_colors(picture, second)
    return edits.EDITS[request](picture)


def in_turn(choices: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """`count` of the choices: all of them over and over, or spread evenly when there are more."""
    if len(choices) > count:
        return [choices[i * len(choices) // count] for i in range(count)]
    return [choices[i % len(choices)] for i in range(count)]


def judge(checkpoint: Checkpoint, crops: Tensor, asked: Asked) -> list[Answer]:
    """Every row on every crop, in one step (see `steps_alike`), against the true answers of all requests."""
    seconds = crops.roll(-CROPS_EACH, 0)
    tokens, second_tokens = pack(checkpoint.encode(crops)), pack(checkpoint.encode(seconds))
    chosen = {row: in_turn(choices, len(crops)) for row, choices in asked.items()}
    drawn = {}
    for row, said in chosen.items():
        two = row == "match_colors"
        shown = [[crop, second] if two else [crop] for crop, second in zip(crops, seconds, strict=True)]
        states = [checkpoint.read(s, *pictures) for (_, s), pictures in zip(said, shown, strict=True)]
        drawn[row] = checkpoint.edit_tokens([tokens, second_tokens] if two else [tokens], states, steps=1)
    answers = []
    for i, (crop, second) in enumerate(zip(crops, seconds, strict=True)):
        truths = torch.cat([true_edit(request, crop[None], second[None]) for request in REQUESTS])
        for row, said in chosen.items():
            request, sentence = said[i]
            near = psnr(truths, drawn[row][i][None])
            quality = float(near[REQUESTS.index(request)])
            answers.append(Answer(row, request, sentence, i, quality, REQUESTS[int(near.argmax())]))
    return answers


def summary(answers: list[Answer]) -> dict[str, float]:
    """Over all answers that should change something."""
    changed = [a for a in answers if a.row != "unchanged"]
    return {
        "median_psnr_db": float(np.median([a.psnr for a in changed])),
        "p10_psnr_db": float(np.percentile([a.psnr for a in changed], 10)),
        "lowest_row_db": min(median for median, _, _ in by_edit(changed).values()),
        "nearest_edit": float(np.mean([a.right for a in changed])),
        "left_unchanged": float(np.mean([a.nearest == "unchanged" for a in changed])),
    }


def by_edit(answers: list[Answer]) -> dict[str, tuple[float, float, float]]:
    """Median and lowest PSNR and the share judged right, per edit."""
    table = {}
    for name in dict.fromkeys(a.row for a in answers):
        mine = [a for a in answers if a.row == name]
        quality = [a.psnr for a in mine]
        right = float(np.mean([a.right for a in mine]))
        table[name] = (float(np.median(quality)), min(quality), right)
    return table


def _said(scores: Tensor) -> list[int]:
    """The state each of the last tokens is nearest to; "unchanged" below UNSURE. scores: (TAIL, 64).

    About what the network does, which also wants a lead over the other states; see `transformer`.
    """
    known = scores[:, : len(STATES)]
    return torch.where(known.max(1).values < UNSURE, 0, known.argmax(1)).tolist()


def understanding(checkpoint: Checkpoint, sentences: Asked) -> tuple[float, list[str]]:
    """Share of sentences whose last tokens all say what was asked for, and the misses."""
    blank = torch.full((3, 64, 64), 0.5)
    misses, total = [], 0
    for request, sentence in (pair for choices in sentences.values() for pair in choices):
        shown = [blank, blank] if request == "match_colors" else [blank]
        said = _said(checkpoint.understood(checkpoint.read(sentence, *shown)))
        total += 1
        if said != slots(request):
            misses.append(f"{request} <- {', '.join(dict.fromkeys(STATES[k] for k in said))}: {sentence}")
    return 1 - len(misses) / total, misses


def left_alone(checkpoint: Checkpoint, crops: Tensor, sentences: list[str]) -> Tensor:
    """Requests it does not know: answer against input less round trip against input, in dB; 0 is untouched."""
    shown = crops[torch.arange(len(sentences)) % len(crops)]
    drawn = checkpoint.edit(shown, [checkpoint.read(s, crop) for s, crop in zip(sentences, shown, strict=True)])
    return psnr(drawn, shown) - round_trip(checkpoint, shown)


def round_trip(checkpoint: Checkpoint, crops: Tensor) -> Tensor:
    return psnr(checkpoint.decode(checkpoint.encode(crops)), crops)


def steps_alike(checkpoint: Checkpoint, crops: Tensor) -> float:
    """How near one step comes to the default ones: the lowest PSNR between the two over some edits, in dB."""
    crop, lowest = crops[:1], float("inf")
    for name in ("unchanged", "invert", "blur", "posterize", "flip_horizontal", "border_red"):
        states = [checkpoint.read(SETS["unseen"].requests[name][0], crop[0])]
        once, often = (checkpoint.edit(crop, states, steps, seed=steps) for steps in (1, DEFAULT_STEPS))
        lowest = min(lowest, float(psnr(once, often)))
    return lowest


def seconds_per_edit(checkpoint: Checkpoint, side: int) -> float:
    """One edit at a time, default steps, second call."""
    crop = photos.crops(side, 1)[:1]
    for _ in range(2):
        started = time.perf_counter()
        checkpoint.edit(crop, [checkpoint.read("Invert the colors.", crop[0])], DEFAULT_STEPS)
        elapsed = time.perf_counter() - started
    return elapsed


def by_row(requests: dict[str, list[str]]) -> Asked:
    """Sentences by request to sentences by row."""
    asked: Asked = {}
    for request, sentences in requests.items():
        asked.setdefault(row_of(request), []).extend((request, sentence) for sentence in sentences)
    return asked


def from_grammar(seed: int = 99) -> Asked:
    """Fresh sentences of the training grammar, 24 a row."""
    rng = np.random.default_rng(seed)
    sampler = SentenceSampler(rng)
    asked: Asked = {}
    for row in dict.fromkeys(row_of(request) for request in REQUESTS):
        requests = [r for r in REQUESTS if row_of(r) == row]
        picked = [requests[i % len(requests)] for i in rng.permutation(max(24, len(requests)))[:24]]
        asked[row] = [(request, sampler.sample(request)) for request in picked]
    return asked


def report(
    checkpoint: Checkpoint, sides: tuple[int, ...], sets: dict[str, Asked], unknown: list[str]
) -> dict[str, object]:
    found: dict[str, object] = {"unknown_requests": len(unknown)}
    for label, asked in sets.items():
        named, misses = understanding(checkpoint, asked)
        found[f"{label}_named"] = named
        print(f"{label} sentences named {named:.3f}", *misses, sep="\n")
    for side in sides:
        crops = photos.crops(side, CROPS_EACH)
        trip = round_trip(checkpoint, crops)
        alone = left_alone(checkpoint, crops, unknown)
        found[f"vae_db_{side}"] = float(trip.mean())
        found[f"seconds_{side}"] = seconds_per_edit(checkpoint, side)
        found[f"steps_alike_db_{side}"] = steps_alike(checkpoint, crops)
        found[f"unknown_left_alone_{side}"] = float((alone > -TOUCHED_DB).float().mean())
        whole = ", ".join(f"{n} {trip[CROPS_EACH * i]:.1f}" for i, n in enumerate(photos.CREDITS))
        print(f"\n{side} px: round trip {trip.mean():.2f} dB over 24 crops (whole: {whole})")
        print(
            f"one edit {found[f'seconds_{side}']:.2f} s; unknown requests: {[round(d, 1) for d in alone.tolist()]} dB"
        )
        for label, asked in sets.items():
            answers = judge(checkpoint, crops, asked)
            found[f"{label}_{side}"] = summary(answers)
            found[f"{label}_{side}_by_edit"] = by_edit(answers)
            _print_table(label, side, answers)
    return found


def _print_table(label: str, side: int, answers: list[Answer]) -> None:
    figures = " ".join(f"{k} {v:.3f}" for k, v in summary(answers).items())
    print(f"{label} sentences, {side} px: {figures}")
    for name, (median, low, right) in by_edit(answers).items():
        print(f"  {name:15} {median:5.1f} dB (min {low:4.1f})  nearest {right:.2f}")
    print("  ten worst:")
    for a in sorted(answers, key=lambda a: a.psnr)[:10]:
        print(f"    {a.psnr:5.1f} dB {a.request} crop {a.crop} (looks {a.nearest}): {a.sentence}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, help="folder for figures.json")
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--grammar", action="store_true", help="measure training-grammar sentences too")
    parser.add_argument("--all", action="store_true", help="measure the two later sets of sentences, too")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = Checkpoint(options.checkpoint)
    held_out = SETS if options.all else {"unseen": SETS["unseen"]}
    sets = {name: by_row(part.requests) for name, part in held_out.items()}
    if options.grammar:
        sets["grammar"] = from_grammar()
    unknown = [sentence for part in held_out.values() for sentence in part.unknown]
    found = report(checkpoint, tuple(options.sides), sets, unknown)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
