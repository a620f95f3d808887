"""Measure a checkpoint on photos it never saw: `python -m demo.evaluate CHECKPOINT --out DIR`.

For every edit, 24 crops of real photos at 128 and 256 px: PSNR against the true edit, whether the
answer is nearest to the true edit among all edits, whether it stayed the input. Sentences are the
hand-written ones of `held_out`, apart from them fresh ones of the training grammar.
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
from demo.held_out import SENTENCES, UNKNOWN
from demo.instructions import Speaker
from demo.runtime import DEFAULT_STEPS, Checkpoint
from demo.transformer import UNSURE, pack


@dataclass(frozen=True)
class Answer:
    """One edit of one crop, judged."""

    edit: str
    sentence: str
    crop: int
    psnr: float
    nearest: str

    @property
    def right(self) -> bool:
        return self.nearest == self.edit


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """In dB, per picture of a batch."""
    return -10 * torch.log10((a - b).square().mean((-3, -2, -1)).clamp_min(1e-9))


def true_edits(crops: Tensor) -> Tensor:
    """(edits, crops, 3, side, side)."""
    return torch.stack([edits.EDITS[name](crops) for name in edits.NAMES])


def judge(checkpoint: Checkpoint, crops: Tensor, sentences: dict[str, list[str]]) -> list[Answer]:
    """Every edit on every crop; crop i gets the edit's sentence i modulo their number."""
    truths = true_edits(crops)
    tokens = pack(checkpoint.encode(crops))
    answers = []
    for index, name in enumerate(edits.NAMES):
        asked = [sentences[name][i % len(sentences[name])] for i in range(len(crops))]
        states = [checkpoint.read(s, crop) for s, crop in zip(asked, crops, strict=True)]
        drawn = checkpoint.edit_tokens(tokens, states, steps=1)
        distance = (truths - drawn).square().mean((-3, -2, -1))
        quality = psnr(drawn, truths[index])
        for i, sentence in enumerate(asked):
            nearest = edits.NAMES[int(distance[:, i].argmin())]
            answers.append(Answer(name, sentence, i, float(quality[i]), nearest))
    return answers


def summary(answers: list[Answer]) -> dict[str, float]:
    right = [a.right for a in answers]
    changed = [a for a in answers if a.edit != "unchanged"]
    return {
        "median_psnr_db": float(np.median([a.psnr for a in answers])),
        "p10_psnr_db": float(np.percentile([a.psnr for a in answers], 10)),
        "nearest_edit": float(np.mean(right)),
        "left_unchanged": float(np.mean([a.nearest == "unchanged" for a in changed])),
    }


def by_edit(answers: list[Answer]) -> dict[str, tuple[float, float, float]]:
    """Median and lowest PSNR and the share judged right, per edit."""
    table = {}
    for name in edits.NAMES:
        mine = [a for a in answers if a.edit == name]
        quality = [a.psnr for a in mine]
        right = float(np.mean([a.right for a in mine]))
        table[name] = (float(np.median(quality)), min(quality), right)
    return table


def understanding(checkpoint: Checkpoint) -> tuple[float, float, list[str]]:
    """Share of held-out sentences named right, of unknown requests left alone, and the misses."""
    blank = torch.full((3, 64, 64), 0.5)
    misses, total, hits, alone = [], 0, 0, 0
    for name, sentences in SENTENCES.items():
        for sentence in sentences:
            scores = checkpoint.understood(checkpoint.read(sentence, blank))
            best = int(scores[: len(edits.NAMES)].argmax())
            silent = bool(scores[:60].max() < UNSURE)
            said = "unchanged" if silent else edits.NAMES[best]
            total, hits = total + 1, hits + (said == name)
            if said != name:
                misses.append(f"{name} <- {said} ({scores[best]:.2f}): {sentence}")
    for sentence in UNKNOWN:
        scores = checkpoint.understood(checkpoint.read(sentence, blank))[: len(edits.NAMES)]
        best = int(scores.argmax())
        said = "unchanged" if scores.max() < UNSURE else edits.NAMES[best]
        alone += said == "unchanged"
        if said != "unchanged":
            misses.append(f"unknown <- {said} ({scores[best]:.2f}): {sentence}")
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


def grammar_sentences(seed: int = 99) -> dict[str, list[str]]:
    speaker = Speaker(np.random.default_rng(seed))
    return {name: [speaker.say(name) for _ in range(24)] for name in edits.NAMES}


def report(checkpoint: Checkpoint, sides: tuple[int, ...], grammar: bool) -> dict[str, object]:
    named, alone, misses = understanding(checkpoint)
    found: dict[str, object] = {"sentences_named": named, "unknown_left_alone": alone}
    print(f"held-out sentences named {named:.3f}, unknown requests left alone {alone:.2f}")
    print("\n".join(misses))
    unseen = {name: list(sentences) for name, sentences in SENTENCES.items()}
    sets = {"unseen": unseen} | ({"grammar": grammar_sentences()} if grammar else {})
    for side in sides:
        crops = photos.crops(side)
        trip = round_trip(checkpoint, crops)
        found[f"vae_db_{side}"] = float(trip.mean())
        found[f"seconds_{side}"] = seconds_per_edit(checkpoint, side)
        whole = ", ".join(f"{n} {trip[4 * i]:.1f}" for i, n in enumerate(photos.CREDITS))
        print(f"\n{side} px: round trip {trip.mean():.2f} dB over 24 crops (whole: {whole})")
        print(f"one edit {found[f'seconds_{side}']:.2f} s")
        for label, sentences in sets.items():
            answers = judge(checkpoint, crops, sentences)
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
        print(f"    {a.psnr:5.1f} dB {a.edit} crop {a.crop} (looks {a.nearest}): {a.sentence}")


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
