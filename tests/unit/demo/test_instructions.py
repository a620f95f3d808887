"""Every pattern of the demo's grammar gives a sentence, and none of the evaluation's is among them."""

import numpy as np
import pytest

pytest.importorskip("torch")

from demo.edits import NAMES
from demo.held_out import SENTENCES
from demo.instructions import Speaker


@pytest.mark.parametrize("edit", NAMES)
def test_no_piece_of_the_grammar_is_left_in_a_sentence(edit):
    speaker = Speaker(np.random.default_rng(5))
    for _ in range(300):
        sentence = speaker.say(edit)
        assert not set("{}|()") & set(sentence), sentence


def test_every_edit_has_sentences_for_the_evaluation():
    assert set(SENTENCES) == set(NAMES)
