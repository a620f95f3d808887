"""Every pattern of the demo's grammar gives whole, varied and repeatable sentences; none is the evaluation's."""

import numpy as np
import pytest

pytest.importorskip("torch")

from demo.edits import COLOURS, NAMES, PLACES
from demo.held_out import SETS
from demo.instructions import COMPLAINTS, SentenceSampler, words_of
from demo.states import REQUESTS, SQUARES, STATES, slots

SEVERAL_KINDS = ("posterize", "flip_horizontal", "match_colors", "brighter", "square_red_center", "border_white")


@pytest.mark.parametrize("request_name", REQUESTS)
def test_no_piece_of_the_grammar_is_left_in_a_sentence(request_name):
    assert words_of(request_name)[0]["do"]
    sampler = SentenceSampler(np.random.default_rng(5))
    for _ in range(100):
        sentence = sampler.sample(request_name)
        assert sentence
        assert not set("{}|()") & set(sentence), sentence
        assert "an? " not in sentence.lower()


@pytest.mark.parametrize("request_name", SEVERAL_KINDS)
def test_sentences_seldom_repeat(request_name):
    sampler = SentenceSampler(np.random.default_rng(6))
    assert len({sampler.sample(request_name) for _ in range(1000)}) > 850


def test_the_same_seed_says_the_same():
    once, again = (SentenceSampler(np.random.default_rng(7)) for _ in range(2))
    assert [once.sample(name) for name in REQUESTS] == [again.sample(name) for name in REQUESTS]


def test_complaints_are_about_edits():
    assert set(COMPLAINTS) <= set(NAMES)


def test_every_edit_has_sentences_for_the_evaluation():
    requests = SETS["unseen"].requests
    squares = [name for name in requests if name in SQUARES]
    assert set(requests) - set(squares) == {*NAMES, "match_colors"}
    words = [SQUARES[name] for name in squares]
    assert {colour for colour, _ in words} == set(COLOURS)
    assert {place for _, place in words} == set(PLACES)


def test_no_two_requests_have_the_same_states():
    named = [tuple(slots(name)) for name in REQUESTS]
    assert len(set(named)) == len(named)
    assert {state for states in named for state in states} == set(range(len(STATES)))
