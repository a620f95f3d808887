"""The evaluation's sentences, written by hand in `data/held_out.toml`. Training knows them only to leave them out."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SentenceSet:
    """requests: sentences by request; unknown: sentences that no edit answers."""

    requests: dict[str, list[str]]
    unknown: list[str]


def normalized(sentence: str) -> str:
    """Letters and digits only, in lower case: what makes two sentences the same."""
    return re.sub(r"\W+", "", sentence).lower()


SETS = {
    name: SentenceSet(**table)
    for name, table in tomllib.loads((Path(__file__).parent / "data" / "held_out.toml").read_text()).items()
}
ALL = frozenset(
    normalized(sentence)
    for part in SETS.values()
    for sentences in (*part.requests.values(), part.unknown)
    for sentence in sentences
)
