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
        "24 crops of six photos never trained on, sentences written by hand and never trained on, float32, two CPU",
        "cores. *Nearest edit*: the answer is closer to the true edit than to every other edit's result. PSNR is",
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
        *_fresh(found),
        f"Of the hand-written sentences the text encoder names {found['unseen_named']:.3f} right. Of "
        f"{found['unknown_requests']} requests it does",
        f"not know, {found[f'unknown_left_alone_{sides[0]}']:.2f} leave the picture as it was.",
    ]
    return "\n".join(lines)


def _fresh(found: dict[str, Any]) -> list[str]:
    """On the sentences that are read once, at the end."""
    sides = [side for side in (128, 256) if f"fresh_{side}" in found]
    if not sides:
        return []
    side = sides[0]
    scores = found[f"fresh_{side}"]
    return [
        f"On 100 more sentences, written last and read once, at {side} px: nearest edit {scores['nearest_edit']:.3f},",
        f"median PSNR {scores['median_psnr_db']:.1f} dB, left unchanged {scores['left_unchanged']:.3f}.",
        "",
    ]
