"""Which labels are unsafe, what a threshold flags, and what happens when a classifier fails."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.engine.safety import SAFE_LABELS, UNSAFE_LABELS, ImageChecker, Stage, unsafe_labels
from retouch.errors import InvalidSetting, SafetyUnavailable
from retouch.images import Pixels

BLACK = np.zeros((2, 2, 3), np.uint8)


@dataclass
class FixedClassifier:
    """Gives the mean grey as the score, or what it was told."""

    answer: float | Exception | None = None
    timeout_s: float | None = None
    default_threshold: float = 0.5
    name: str = "fixed"
    category: str | None = None
    judged: list[Pixels] = field(default_factory=list)

    def score(self, image: Pixels) -> float:
        self.judged.append(image)
        if isinstance(self.answer, Exception):
            raise self.answer
        return float(image.mean() / 255) if self.answer is None else self.answer


@pytest.mark.parametrize(
    ("labels", "unsafe"),
    [
        (["normal", "nsfw"], ["nsfw"]),
        (["sfw", "nsfw"], ["nsfw"]),
        (["NSFW", "SFW"], ["NSFW"]),
        (["neutral", "low", "medium", "high"], ["medium", "high"]),
        (["drawings", "hentai", "neutral", "porn", "sexy"], ["hentai", "porn"]),
        (["Anime Picture", "Enticing or Sensual", "Hentai", "Normal", "Pornography"], ["Hentai", "Pornography"]),
        (["not_nsfw", "nsfw"], ["nsfw"]),
        (["unsafe", "safe"], ["unsafe"]),
        (["self-harm", "benign"], ["self-harm"]),
        (["sfw", "lewd"], ["lewd"]),
        (["okay", "porn"], ["porn"]),
    ],
)
def test_the_unsafe_labels_of_a_known_classifier_are_found(labels: list[str], unsafe: list[str]) -> None:
    assert list(unsafe_labels(labels)) == unsafe


@pytest.mark.parametrize(
    "labels",
    [
        ["LABEL_0", "LABEL_1"],
        ["cat", "dog", "nsfw"],
        ["medium", "high"],
        ["sfw", "normal"],
        ["nsfw", "porn"],
        ["nsfw", "NSFW"],
        ["nsfw"],
        [],
    ],
)
def test_labels_that_do_not_decide_are_refused_by_name(labels: list[str]) -> None:
    with pytest.raises(InvalidSetting, match="--safety-labels") as caught:
        unsafe_labels(labels)
    assert ", ".join(labels) in caught.value.message


def test_the_operators_labels_decide_and_an_unknown_one_is_refused() -> None:
    assert unsafe_labels(["LABEL_0", "LABEL_1"], ["label 1"]) == ("LABEL_1",)
    with pytest.raises(InvalidSetting, match="There is no label label 2"):
        unsafe_labels(["LABEL_0", "LABEL_1"], ["LABEL_2"])


@given(st.lists(st.sampled_from(sorted(UNSAFE_LABELS | SAFE_LABELS)), min_size=2, unique=True))
def test_known_labels_are_divided_without_an_overlap(labels: list[str]) -> None:
    both = bool(UNSAFE_LABELS & set(labels)) and bool(SAFE_LABELS & set(labels))
    if both:
        assert set(unsafe_labels(labels)) == UNSAFE_LABELS & set(labels)
    else:
        with pytest.raises(InvalidSetting):
            unsafe_labels(labels)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_labels_are_decided_or_refused(labels: list[str]) -> None:
    try:
        chosen = unsafe_labels(labels)
    except InvalidSetting:
        return
    assert 0 < len(chosen) < len(labels)


def test_an_image_is_flagged_from_the_threshold_on() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert ImageChecker(FixedClassifier(0.5)).check(BLACK, "input").flagged
    assert not ImageChecker(FixedClassifier(0.49)).check(BLACK, "input").flagged
    assert ImageChecker(FixedClassifier(), 0.0).check(BLACK, "output").flagged
    assert ImageChecker(FixedClassifier(), 1.0).check(white, "output").flagged


def test_equal_pixels_are_scored_once_and_counted_each_time() -> None:
    classifier, counts = FixedClassifier(), []
    checker = ImageChecker(classifier, 0.2, counted=lambda stage, verdict, _: counts.append((stage, verdict)))
    grey = np.full((2, 2, 3), 90, np.uint8)
    for image, stage in (
        (BLACK, "input"),
        (BLACK.copy(), "output"),
        (BLACK.reshape(1, 4, 3), "input"),
        (grey, "preview"),
    ):
        checker.check(image, stage)  # type: ignore[arg-type]
    assert len(classifier.judged) == 3
    assert counts == [("input", "passed"), ("output", "passed"), ("input", "passed"), ("preview", "flagged")]


@pytest.mark.parametrize("answer", [RuntimeError("broken"), MemoryError(), float("nan"), 1.5, -0.1])
def test_a_classifier_that_fails_flags_nothing_and_says_so(answer: float | Exception) -> None:
    counts: list[tuple[Stage, str]] = []
    checker = ImageChecker(FixedClassifier(answer), counted=lambda stage, verdict, _: counts.append((stage, verdict)))
    with pytest.raises(SafetyUnavailable) as caught:
        checker.check(BLACK, "output")
    assert caught.value.retryable
    assert counts == [("output", "failed")]


def test_a_classifier_that_hangs_is_a_failed_one() -> None:
    release = threading.Event()

    class Hanging(FixedClassifier):
        def score(self, image: Pixels) -> float:
            release.wait()
            return 0.0

    with pytest.raises(SafetyUnavailable):
        ImageChecker(Hanging(timeout_s=0.01)).check(BLACK, "input")
    release.set()
