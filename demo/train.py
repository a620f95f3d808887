"""Make the demo checkpoint: `python -m demo.train --out DIR`.

Stages, in order: bank (images, tokenizer), decoder, text, editor, export. Each is seeded, logs what it does, saves
itself every few hundred steps and goes on where it stopped. Without `--stage` all run one after another; on two
cores the three training stages can also run at the same time, one process each with `--threads 1`, because none
needs another's result. On one GPU call with `--device cuda --limit-min 9` until it prints that all is done; a call
that runs out of time ends with 3.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from demo.export import export
from demo.images import make_bank
from demo.loop import Plan
from demo.stages import train_decoder, train_editor, train_text_encoder
from demo.text_encoder import make_tokenizer
from demo.vae import fit_codec

STAGES = ("bank", "decoder", "text", "editor", "export")
PLANNED_MIN = {"decoder": 76.0, "text": 82.0, "editor": 62.0}  # on one core each
OUT_OF_TIME = 3  # the exit status of a call that has to be repeated
BANKS = {"bank128.npy": (9000, 128), "bank256.npy": (1200, 256)}
CODEC_IMAGES = 2500


def run_stage(stage: str, run: Path, options: argparse.Namespace, seconds_left: float) -> bool:
    """Whether the stage is finished."""
    if stage == "bank":
        for index, (name, (count, side)) in enumerate(BANKS.items()):
            make_bank(run / name, count, side, options.seed + index)
        if not (run / "tokenizer").exists():
            make_tokenizer(options.seed).save_pretrained(run / "tokenizer")
        return True
    minutes = options.minutes or PLANNED_MIN.get(stage, 0.0)
    plan = Plan(minutes, seconds_left, options.seed, options.device)
    if stage == "text":
        return train_text_encoder(run, Qwen2Tokenizer.from_pretrained(run / "tokenizer"), plan)
    banks = [np.load(run / name, mmap_mode="r") for name in BANKS]
    codec = fit_codec(banks[0][:CODEC_IMAGES])
    if stage == "export":
        export(run, options.checkpoint or run / "checkpoint", codec, banks[0], options.seed)
        return True
    train = train_decoder if stage == "decoder" else train_editor
    return train(run, codec, banks, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint", type=Path, help="where export writes (default OUT/checkpoint)")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this one; repeatable")
    parser.add_argument("--minutes", type=float, help="planned training time of the stage")
    parser.add_argument("--limit-min", type=float, default=float("inf"), help="stop this call after")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.limit_min * 60
    for stage in options.stage or STAGES:
        print(f"{stage}: begins", flush=True)
        if not run_stage(stage, options.out, options, deadline - time.monotonic()):
            print(f"{stage}: out of time; the same call goes on from here", flush=True)
            sys.exit(OUT_OF_TIME)
        print(f"{stage}: done", flush=True)
    print("all done", flush=True)


if __name__ == "__main__":
    main()
