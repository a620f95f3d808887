"""The model card's table, from the figures `demo.evaluate` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def as_markdown(path: Path) -> str:
    """A paragraph and a table; says so when nothing was measured yet."""
    if not path.exists():
        return "Not measured yet."
    found = json.loads(path.read_text())
    sides = [side for side in (128, 256) if f"vae_db_{side}" in found]
    lines = [
        "24 crops of six photos never trained on, sentences written by hand (the shortest can be said by the training",
        "grammar, too), float32, two CPU cores. *Nearest edit*: the answer is closer to the true",
        "edit than to every other edit's result. PSNR is",
        "against the true edit of the uncompressed photo, so the autoencoder's loss is in it.",
        "One Euler step; the default four give the same picture to "
        f"{min(found[f'steps_alike_db_{s}'] for s in sides):.0f} dB. *Unchanged* counts in its own row only.",
        "",
        "| | " + " | ".join(f"{side} px" for side in sides) + " |",
        "|---|" + "---|" * len(sides),
    ]
    rows = {
        "round trip of the autoencoder": lambda s: f"{found[f'vae_db_{s}']:.1f} dB",
        "median PSNR": lambda s: f"{found[f'unseen_{s}']['median_psnr_db']:.1f} dB",
        "nearest edit": lambda s: f"{found[f'unseen_{s}']['nearest_edit']:.3f}",
        "lowest median of an edit": lambda s: f"{found[f'unseen_{s}']['lowest_row_db']:.1f} dB",
        "left unchanged": lambda s: f"{found[f'unseen_{s}']['left_unchanged']:.3f}",
        "one edit, 4 steps": lambda s: f"{found[f'seconds_{s}']:.2f} s",
    }
    lines += [f"| {name} | " + " | ".join(map(show, sides)) + " |" for name, show in rows.items()]
    lines += ["", "| edit | " + " | ".join(f"{s} px, median (lowest), nearest" for s in sides) + " |"]
    lines.append("|---|" + "---|" * len(sides))
    for edit in found[f"unseen_{sides[0]}_by_edit"]:
        cells = []
        for side in sides:
            median, low, right = found[f"unseen_{side}_by_edit"][edit]
            cells.append(f"{median:.1f} dB ({low:.1f}), {right:.2f}")
        lines.append(f"| {edit.replace('_', ' ')} | " + " | ".join(cells) + " |")
    lines += [
        "",
        *_later(found),
        f"Of the hand-written sentences the text encoder names {found['unseen_named']:.3f} right. Of "
        f"{found['unknown_requests']} requests it does",
        f"not know, {found[f'unknown_left_alone_{sides[0]}']:.2f} leave the picture as it was.",
    ]
    return "\n".join(lines)


def _later(found: dict[str, Any]) -> list[str]:
    """On the sets of sentences that were written later."""
    kinds = {
        "fresh": "On 100 sentences written after the grammar, whose misses taught it to expect a context",
        "last": "On 96 sentences written last and read once, at the end",
    }
    lines = []
    for kind, what in kinds.items():
        for side in (side for side in (128, 256) if f"{kind}_{side}" in found):
            scores = found[f"{kind}_{side}"]
            lines += [
                f"{what} ({side} px): nearest edit {scores['nearest_edit']:.3f},",
                f"median PSNR {scores['median_psnr_db']:.1f} dB, left unchanged {scores['left_unchanged']:.3f}, "
                f"named right {found[f'{kind}_named']:.3f}.",
                "",
            ]
    return lines
