"""Whether an image may be used or delivered: a classifier's score against a threshold, remembered by content.

Also which labels of a third party's classifier mean *unsafe*. Runs beside the device and needs no torch; classifiers
that do are in `engine/pipelines/safety_models.py`. What a refusal means for a job is the worker's to decide.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305

from retouch.errors import InvalidSetting, SafetyUnavailable
from retouch.images import Pixels

logger = logging.getLogger(__name__)

Stage: TypeAlias = Literal["prompt", "input", "output", "preview"]
"""Where in an edit something was checked."""

REMEMBERED = 1024
"""Scores kept by content; a hundred bytes each."""

UNSAFE_LABELS = frozenset(
    {
        "nsfw", "porn", "pornography", "hentai", "explicit", "nude", "nudity", "sexual", "unsafe", "gore", "violence",
        "violent", "hate", "self harm",
    }
)  # fmt: skip
SAFE_LABELS = frozenset(
    {
        "sfw", "normal", "safe", "neutral", "drawings", "drawing", "anime picture", "low", "sexy",
        "enticing or sensual", "not nsfw", "benign",
    }
)  # fmt: skip
GRADES = frozenset({"medium", "high"})
"""Unsafe only where the other labels are grades too: `neutral` or `low`."""


class ImageClassifier(Protocol):
    """Anything that scores one image; called from several threads at once.

    name: for logs. category: a general word for what it flags, or None. default_threshold: from which score on an image
    is unsafe when the operator sets no threshold.
    timeout_s: how long one image may take, or None for a classifier that always returns.
    """

    @property
    def name(self) -> str: ...
    @property
    def category(self) -> str | None: ...
    @property
    def default_threshold(self) -> float: ...
    @property
    def timeout_s(self) -> float | None: ...

    def score(self, image: Pixels) -> float:
        """How likely the image is unsafe, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. The score is for the operator; a caller who saw it could search for the threshold."""

    flagged: bool
    score: float


class ImageChecker:
    """Judges images by one classifier and one threshold.

    threshold: an image is flagged at a score >= threshold, so 0 flags every image; None takes the classifier's own.
    counted: told the stage, `passed`, `flagged` or `failed`, and the seconds of every check.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        threshold: float | None = None,
        counted: Callable[[Stage, str, float], None] = lambda _stage, _verdict, _seconds: None,
    ) -> None:
        self.threshold = classifier.default_threshold if threshold is None else threshold
        self.category = classifier.category
        self._classifier = classifier
        self._counted = counted
        self._scores: OrderedDict[bytes, float] = OrderedDict()  # by a tag of the pixels
        # Tags take a seventh of a hash's time. An attacker cannot make two images of one tag without this key, which
        # no other process knows and no answer depends on.
        self._tag_key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._threads = None if classifier.timeout_s is None else ThreadPoolExecutor(2, "image-classifier")

    def check(self, image: Pixels, stage: Stage) -> Verdict:
        """Judge one image; equal pixels are scored once. Raises SafetyUnavailable when the classifier fails."""
        began = time.monotonic()
        try:
            score = self._score(image)
        except Exception as error:
            self._counted(stage, "failed", time.monotonic() - began)
            logger.exception("the classifier %s failed on an image (%s)", self._classifier.name, stage)
            raise SafetyUnavailable from error
        verdict = Verdict(score >= self.threshold, score)
        self._counted(stage, "flagged" if verdict.flagged else "passed", time.monotonic() - began)
        return verdict

    def _score(self, image: Pixels) -> float:
        tag = Poly1305(self._tag_key)
        tag.update(repr(image.shape).encode())
        tag.update(np.ascontiguousarray(image).data)
        key = tag.finalize()
        with self._lock:
            if key in self._scores:
                self._scores.move_to_end(key)
                return self._scores[key]
        if self._threads is None:
            score = self._classifier.score(image)
        else:
            score = self._threads.submit(self._classifier.score, image).result(self._classifier.timeout_s)
        if not 0 <= score <= 1:  # also what is no number
            raise ValueError(f"the score {score} is not between 0 and 1")
        with self._lock:
            self._scores[key] = score
            if len(self._scores) > REMEMBERED:
                self._scores.popitem(last=False)
        return score


def unsafe_labels(labels: Sequence[str], named: Sequence[str] = ()) -> tuple[str, ...]:
    """Those of a classifier's labels that mean unsafe, as the classifier spells them.

    named: the operator's own choice, which decides alone. Otherwise whole labels are compared, never parts of them
    ("not nsfw" holds "nsfw"); every label must be known, or, of exactly two, one of them. Raises InvalidSetting when
    that does not decide, naming the labels.
    """
    plain = {label: _plain(label) for label in labels}
    if named:
        wanted = {_plain(name) for name in named}
        missing = sorted(wanted - set(plain.values()))
        if missing:
            raise _undecided(labels, f"There is no label {', '.join(missing)}")
        return tuple(label for label in labels if plain[label] in wanted)
    graded = bool({"neutral", "low"} & set(plain.values()))
    unsafe_words = UNSAFE_LABELS | GRADES if graded else UNSAFE_LABELS
    known = {label: word in unsafe_words for label, word in plain.items() if word in unsafe_words | SAFE_LABELS}
    if len(labels) == 2 and len(known) == 1:
        [(label, unsafe)] = known.items()
        known |= {other: not unsafe for other in labels if other != label}
    if len(known) < len(labels) or len(set(plain.values())) < len(labels):
        raise _undecided(labels, "Nothing says which labels are unsafe")
    chosen = tuple(label for label in labels if known[label])
    if not chosen or len(chosen) == len(labels):
        raise _undecided(labels, f"{'None' if not chosen else 'Every one'} of its labels means unsafe")
    return chosen


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


def _undecided(labels: Sequence[str], reason: str) -> InvalidSetting:
    shown = ", ".join(labels[:20])
    return InvalidSetting(f"{reason}: the image classifier has {shown}. Name the unsafe ones with --safety-labels A,B.")
