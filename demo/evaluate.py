"""Measure a checkpoint on photos it never saw: `python -m demo.evaluate CHECKPOINT --out DIR`.

For every edit, 24 crops of real photos at 128 and 256 px: PSNR against the true edit, whether the
answer is nearest to the true edit among all edits, whether it stayed the input. Sentences are the
hand-written ones of `held_out`, apart from them fresh ones of the training grammar. The second
picture of an edit of two is a crop of another photo; squares are told from all other squares, too.
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
from demo.contact_sheets import write_sheets
from demo.editor import pack
from demo.held_out import SENTENCES, SQUARES, TWO_PICTURES, UNKNOWN
from demo.instructions import Speaker
from demo.runtime import DEFAULT_STEPS, Checkpoint
from demo.states import REQUESTS, STATES, slots
from demo.states import SQUARES as ALL_SQUARES
from demo.transformer import UNSURE

CROPS_EACH = 4
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


def _nearest(drawn: Tensor, request: str, crop: Tensor, second: Tensor, truths: Tensor) -> str:
    """Which true edit an answer looks most like; truths: (edits.NAMES, 3, side, side)."""
    distance = dict(zip(edits.NAMES, (truths - drawn).square().mean((1, 2, 3)).tolist(), strict=True))
    others = list(ALL_SQUARES) if request in ALL_SQUARES else ["match_colors"]
    for other in others:
        truth = true_edit(other, crop[None], second[None])[0]
        distance[other] = float((truth - drawn).square().mean())
    return min(distance, key=lambda name: distance[name])


def judge(checkpoint: Checkpoint, crops: Tensor, asked: Asked) -> list[Answer]:
    """Every edit on every crop; crop i gets the row's sentence i modulo their number."""
    seconds = crops.roll(-CROPS_EACH, 0)
    tokens, second_tokens = pack(checkpoint.encode(crops)), pack(checkpoint.encode(seconds))
    truths = torch.stack([edits.EDITS[name](crops) for name in edits.NAMES], 1)
    answers = []
    for row, choices in asked.items():
        two = row == "match_colors"
        chosen = [choices[i % len(choices)] for i in range(len(crops))]
        shown = [[crop, second] if two else [crop] for crop, second in zip(crops, seconds, strict=True)]
        states = [checkpoint.read(said, *pictures) for (_, said), pictures in zip(chosen, shown, strict=True)]
        drawn = checkpoint.edit_tokens([tokens, second_tokens] if two else [tokens], states, steps=1)
        for i, (request, said) in enumerate(chosen):
            truth = true_edit(request, crops[i][None], seconds[i][None])
            nearest = _nearest(drawn[i], request, crops[i], seconds[i], truths[i])
            answers.append(Answer(row, request, said, i, float(psnr(drawn[i][None], truth)), nearest))
    return answers


def summary(answers: list[Answer]) -> dict[str, float]:
    right = [a.right for a in answers]
    changed = [a for a in answers if a.row != "unchanged"]
    return {
        "median_psnr_db": float(np.median([a.psnr for a in answers])),
        "p10_psnr_db": float(np.percentile([a.psnr for a in answers], 10)),
        "nearest_edit": float(np.mean(right)),
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
    """The state each of the last tokens takes; "unchanged" where none is sure. scores: (TAIL, 64)."""
    known = scores[:, : len(STATES)]
    return torch.where(known.max(1).values < UNSURE, 0, known.argmax(1)).tolist()


def understanding(checkpoint: Checkpoint) -> tuple[float, float, list[str]]:
    """Share of held-out sentences named right, of unknown requests left alone, and the misses."""
    blank = torch.full((3, 64, 64), 0.5)
    misses, total, hits, alone = [], 0, 0, 0
    for name, sentences in (SENTENCES | TWO_PICTURES | SQUARES).items():
        shown = [blank, blank] if name in TWO_PICTURES else [blank]
        for sentence in sentences:
            said = _said(checkpoint.understood(checkpoint.read(sentence, *shown)))
            total, hits = total + 1, hits + (said == slots(name))
            if said != slots(name):
                misses.append(f"{name} <- {', '.join(dict.fromkeys(STATES[k] for k in said))}: {sentence}")
    for sentence in UNKNOWN:
        said = _said(checkpoint.understood(checkpoint.read(sentence, blank)))
        alone += not any(said)
        if any(said):
            misses.append(f"unknown <- {', '.join(dict.fromkeys(STATES[k] for k in said))}: {sentence}")
    return hits / total, alone / len(UNKNOWN), misses


def round_trip(checkpoint: Checkpoint, crops: Tensor) -> Tensor:
    return psnr(checkpoint.decode(checkpoint.encode(crops)), crops)


def seconds_per_edit(checkpoint: Checkpoint, side: int) -> float:
    """One edit at a time, default steps, second call."""
    crop = photos.crops(side, 1)[:1]
    for _ in range(2):
        started = time.perf_counter()
        checkpoint.edit(crop, [checkpoint.read("Invert the colors.", crop[0])], DEFAULT_STEPS)
        elapsed = time.perf_counter() - started
    return elapsed


def unseen() -> Asked:
    """The hand-written sentences."""
    asked: Asked = {}
    for request, sentences in (SENTENCES | TWO_PICTURES | SQUARES).items():
        asked.setdefault(row_of(request), []).extend((request, sentence) for sentence in sentences)
    return asked


def from_grammar(seed: int = 99) -> Asked:
    """Fresh sentences of the training grammar, 24 a row."""
    rng = np.random.default_rng(seed)
    speaker = Speaker(rng)
    asked: Asked = {}
    for row in dict.fromkeys(row_of(request) for request in REQUESTS):
        requests = [r for r in REQUESTS if row_of(r) == row]
        picked = [requests[i % len(requests)] for i in rng.permutation(max(24, len(requests)))[:24]]
        asked[row] = [(request, speaker.say(request)) for request in picked]
    return asked


def report(checkpoint: Checkpoint, sides: tuple[int, ...], grammar: bool) -> dict[str, object]:
    named, alone, misses = understanding(checkpoint)
    found: dict[str, object] = {"sentences_named": named, "unknown_left_alone": alone}
    print(f"held-out sentences named {named:.3f}, unknown requests left alone {alone:.2f}")
    print("\n".join(misses))
    sets = {"unseen": unseen()} | ({"grammar": from_grammar()} if grammar else {})
    for side in sides:
        crops = photos.crops(side, CROPS_EACH)
        trip = round_trip(checkpoint, crops)
        found[f"vae_db_{side}"] = float(trip.mean())
        found[f"seconds_{side}"] = seconds_per_edit(checkpoint, side)
        whole = ", ".join(f"{n} {trip[CROPS_EACH * i]:.1f}" for i, n in enumerate(photos.CREDITS))
        print(f"\n{side} px: round trip {trip.mean():.2f} dB over 24 crops (whole: {whole})")
        print(f"one edit {found[f'seconds_{side}']:.2f} s")
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
    parser.add_argument("--out", type=Path, help="folder for contact sheets and figures.json")
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--grammar", action="store_true", help="measure training-grammar sentences too")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = Checkpoint(options.checkpoint)
    found = report(checkpoint, tuple(options.sides), options.grammar)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")
        write_sheets(checkpoint, options.out)


if __name__ == "__main__":
    main()
