"""The evaluation judges every sentence fairly, and by sentences that training cannot have said."""

import itertools
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from transformers import Qwen2Tokenizer  # noqa: E402

from demo.evaluate import Answer, by_edit, by_row, in_turn, psnr, summary  # noqa: E402
from demo.held_out import ALL, SETS, normalized  # noqa: E402
from demo.states import REQUESTS  # noqa: E402
from demo.text_encoder import SentenceBatches  # noqa: E402

HELD_OUT = [pair for part in SETS.values() for pair in part.requests.items()]


class _Repeating:
    """Gives a few sentences over and over."""

    def __init__(self, *sentences):
        self.sentences = itertools.cycle(sentences)

    def sample(self, _):
        return next(self.sentences)


def test_training_leaves_out_the_evaluations_sentences():
    """Short sentences are common property: the grammar can say them, training skips them."""
    tokenizer = Qwen2Tokenizer.from_pretrained(Path(str(files("retouch") / "demo_model" / "tokenizer")))
    batches = SentenceBatches(tokenizer, np.random.default_rng(11))
    kept = SETS["unseen"].requests["border_green"][0]
    batches.sampler = _Repeating(kept, kept.upper() + " !", "rim it in moss")
    assert {batches.sample("border_green") for _ in range(9)} == {"rim it in moss"}
    assert all(normalized(sentence) in ALL for _, sentences in HELD_OUT for sentence in sentences)


def test_all_places_of_a_square_are_judged_though_there_are_more_sentences_than_crops():
    chosen = in_turn(by_row(SETS["unseen"].requests)["square"], 24)
    assert len(chosen) == 24
    assert {request.split("_", 2)[2] for request, _ in chosen} == {
        "center", "top_left", "top_right", "bottom_left", "bottom_right",
    }  # fmt: skip


def test_few_sentences_are_used_in_turn():
    assert [s for _, s in in_turn([("blur", "a"), ("blur", "b")], 5)] == ["a", "b", "a", "b", "a"]


def test_an_unchanged_image_counts_as_no_success():
    answers = [
        Answer("unchanged", "unchanged", 40.0, "unchanged"),
        Answer("blur", "blur", 30.0, "blur"),
        Answer("invert", "invert", 10.0, "unchanged"),
    ]
    found = summary(answers)
    assert found["nearest_edit"] == found["left_unchanged"] == 0.5
    assert found["median_psnr_db"] == 20.0
    assert found["lowest_row_db"] == 10.0
    assert by_edit(answers)["invert"] == (10.0, 10.0, 0.0)


def test_psnr_of_a_tenth_is_20_db():
    assert float(psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))) == pytest.approx(20.0, abs=1e-3)


def test_every_sentence_is_about_a_request():
    assert {name for name, _ in HELD_OUT} <= set(REQUESTS)
