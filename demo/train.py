"""Make the demo checkpoint: `python -m demo.train --out DIR` writes DIR/checkpoint.

Stages, in order: bank (images, tokenizer), decoder, text, editor, export. Each is seeded, logs what it does, saves
itself every few hundred steps and goes on where it stopped. Without `--stage` all run one after another; on two
cores the three training stages can also run at the same time, one process each with `--threads 1`, because none
needs another's result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from demo.export import export
from demo.images import make_bank
from demo.stages import train_decoder, train_editor, train_text_encoder
from demo.text_encoder import make_tokenizer
from demo.vae import fit_codec

STAGES = ("bank", "decoder", "text", "editor", "export")
PLANNED_MIN = {"decoder": 76.0, "text": 82.0, "editor": 62.0}  # on one core each
BANKS = {"bank128.npy": (9000, 128), "bank256.npy": (1200, 256)}
CODEC_IMAGES = 2500


def run_stage(stage: str, run: Path, seed: int) -> None:
    if stage == "bank":
        for index, (name, (count, side)) in enumerate(BANKS.items()):
            make_bank(run / name, count, side, seed + index)
        if not (run / "tokenizer").exists():
            make_tokenizer(seed).save_pretrained(run / "tokenizer")
        return
    if stage == "text":
        train_text_encoder(run, Qwen2Tokenizer.from_pretrained(run / "tokenizer"), PLANNED_MIN[stage], seed)
        return
    banks = [np.load(run / name, mmap_mode="r") for name in BANKS]
    codec = fit_codec(banks[0][:CODEC_IMAGES])
    if stage == "export":
        export(run, codec, banks[0], seed)
    else:
        train = train_decoder if stage == "decoder" else train_editor
        train(run, codec, banks, PLANNED_MIN[stage], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this one; repeatable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for stage in options.stage or STAGES:
        print(f"{stage}: begins", flush=True)
        run_stage(stage, options.out, options.seed)
        print(f"{stage}: done", flush=True)


if __name__ == "__main__":
    main()
