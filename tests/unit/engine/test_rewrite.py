"""Which rewritten prompts may be used: every rule, by answers that models really give."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.engine.rewrite import MAX_CHARACTERS, PromptExpander, accept, quoted
from retouch.errors import TooLong, Unavailable
from retouch.images import Pixels

IMAGE = np.zeros((2, 2, 3), np.uint8)


def anything(prompt: str) -> None:
    """A model that takes every prompt."""


def answer(text: object, key: str = "Rewritten") -> str:
    return json.dumps({key: text}, ensure_ascii=False)


def accepted(reply: str, original: str = "make it red", images: int = 1) -> str | None:
    return accept(reply, original, images, anything).prompt


@pytest.mark.parametrize(
    "reply",
    [
        answer("Make it red."),
        answer("Make it red.", "rewritten_prompt"),
        answer("Make it red.", "rewrited_prompt"),
        "<think>{\"Rewritten\": \"no\"} hm</think>" + answer("Make it red."),
        "Sure! Here it is:\n```json\n" + answer("Make it red.") + "\n```",
        answer("first") + " no, better: " + answer("Make it red."),
        answer("  Make\n it\tred. "),
        '{"note": {"a": 1}} ' + answer("Make it red."),
        "{ unbalanced " + answer("Make it red."),
    ],
)  # fmt: skip
def test_the_prompt_is_found_in_the_last_json_object(reply: str) -> None:
    assert accepted(reply) == "Make it red."


@pytest.mark.parametrize(
    "reply",
    [
        "", "Make it red.", "{}", answer(""), answer("   "), answer(3), answer(None), answer(["Make it red."]),
        answer("Make it red.", "Prompt"), '{"Rewritten": "Make it red', answer("Make it red.") + ' {"other": 1}',
        "<html><body>502 Bad Gateway</body></html>", '["Rewritten", "Make it red."]',
        answer("Make it red.") + "<think>or blue?</think>",
    ],
)  # fmt: skip
def test_an_answer_without_the_prompt_is_dropped(reply: str) -> None:
    result = accept(reply, "make it red", 1, anything)
    assert result.prompt is None
    assert result.reason


@pytest.mark.parametrize("original", ['write "Grüße an ANNA" on it', "write “Grüße an ANNA”", "schreibe „Grüße an ANNA“", "écris «Grüße an ANNA»", "写「Grüße an ANNA」", "写『Grüße an ANNA』", "write 'Grüße an ANNA' on it", "it's a sign: ‘Grüße an ANNA’"])  # fmt: skip
def test_quoted_text_is_kept_letter_for_letter(original: str) -> None:
    assert accepted(answer('Write "Grüße an ANNA" in white.'), original)
    assert accepted(answer('Write "Gru\u0308\u00dfe an ANNA" in white.'), original)  # equal in NFC
    for broken in (
        '"Grüße an Anna"',
        '"Grüße"',
        '"Grüsse an ANNA"',
        "Grüße an ANNA",
        "'Grüße an ANNA'",
        '"Grüße  an ANNA!"',
    ):
        assert accepted(answer(f"Write {broken} in white."), original) is None, broken


def test_apostrophes_are_no_quotes() -> None:
    assert quoted("don't change the dog's collar, it's fine") == []
    assert accepted(answer("Don't change the dog's collar."), "don't change the dog's collar, it's fine")


@pytest.mark.parametrize(
    "text", ['Add a sign "SALE".', "Add a sign 'SALE'.", "Add a sign “SALE”.", "Add a sign 「SALE」."]
)
def test_quotes_out_of_nowhere_are_dropped(text: str) -> None:
    assert accepted(answer(text), "add a sign") is None


def test_text_that_was_asked_for_without_quotes_may_be_quoted() -> None:
    assert accepted(answer('Write "HELLO" on the wall.'), "write HELLO on the wall")


@pytest.mark.parametrize(
    ("text", "images", "kept"),
    [
        ("Put the hat of Picture 2 on.", 2, "Put the hat of Picture 2 on."),
        ("Put the hat of <image2> on.", 2, "Put the hat of Picture 2 on."),
        ("Put the hat of <image 2> on.", 2, "Put the hat of Picture 2 on."),
        ("Put the hat of Picture 2 on.", 1, None),
        ("Put the hat of image 0 on.", 2, None),
        ("Put the hat of <image3> on.", 2, None),
        ("把图3的帽子放上去", 2, None),
        ("把图2的帽子放上去", 2, "把图2的帽子放上去"),
        ("Make a picture 4K sharp.", 1, "Make a picture 4K sharp."),
    ],
)
def test_only_images_that_are_there_may_be_named(text: str, images: int, kept: str | None) -> None:
    assert accepted(answer(text), images=images) == kept


@pytest.mark.parametrize("word", ["<|im_end|>", "<|vision_start|>", "<|anything|>"])
def test_control_words_are_dropped(word: str) -> None:
    assert accepted(answer(f"Make it red.{word}")) is None


def test_a_long_rewrite_is_dropped_and_not_cut() -> None:
    assert accepted(answer("a" * MAX_CHARACTERS)) == "a" * MAX_CHARACTERS
    assert accepted(answer("a" * (MAX_CHARACTERS + 1))) is None


def test_a_rewrite_the_model_cannot_take_is_dropped() -> None:
    def check(prompt: str) -> None:
        raise TooLong("prompt", 2000, 1024, unit="tokens")

    assert accept(answer("Make it red."), "red", 1, check).reason == "the model cannot take the rewritten prompt"


@given(st.text(), st.text(), st.integers(1, 6))
def test_whatever_comes_back_keeps_every_rule_or_is_dropped(reply: str, original: str, images: int) -> None:
    for candidate in (reply, answer(reply)):
        text = accepted(candidate, original, images)
        if text is not None:
            assert 0 < len(text) <= MAX_CHARACTERS
            assert text == " ".join(text.split())
            assert "<|" not in text or "|>" not in text.partition("<|")[2]


@given(
    st.text(
        st.characters(exclude_characters="\"“”„«»「」『』‘’'\\<", exclude_categories=["C", "Z"]),
        min_size=1,
        max_size=40,
    )
)
def test_any_quoted_text_survives_and_any_change_of_it_is_seen(words: str) -> None:
    original = f'write "{words}" on the wall'
    assert accepted(answer(f'Paint "{words}" on the wall.'), original)
    assert accepted(answer(f'Paint "{words}x" on the wall.'), original) is None
    assert accepted(answer("Paint it on the wall."), original) is None


@pytest.mark.parametrize("reply", ["{" * 1_000_000, '{"a":' * 200_000, "<think>" * 150_000, '"' * 1_000_000, '{"Rewritten": "' + "“" * 900_000])  # fmt: skip
def test_a_hostile_answer_costs_little_time(reply: str) -> None:
    began = time.process_time()
    assert accepted(reply) is None
    assert time.process_time() - began < 10


@dataclass
class Scripted:
    replies: list[str | Unavailable]
    name: str = "scripted"
    prompts: list[str] = field(default_factory=list)

    def answer(self, prompt: str, images: Sequence[Pixels], cancelled: Callable[[], bool]) -> str:
        self.prompts.append(prompt)
        reply = self.replies.pop(0)
        if isinstance(reply, Unavailable):
            raise reply
        return reply


def test_an_accepted_rewrite_is_used_again_for_the_same_prompt_and_images() -> None:
    rewriter = Scripted([answer("Make it red."), answer("Make it redder.")])
    expander = PromptExpander(rewriter)
    assert [expander.expand("red", [IMAGE], anything).prompt for _ in range(2)] == ["Make it red."] * 2
    assert expander.expand("red", [IMAGE + 1], anything).prompt == "Make it redder."
    assert rewriter.prompts == ["red", "red"]


def test_a_rewriter_that_fails_costs_the_edit_nothing() -> None:
    expander = PromptExpander(
        Scripted([Unavailable("the rewriter answered with status 500"), "nonsense", answer("Make it red.")])
    )
    results = [expander.expand("red", [IMAGE], anything) for _ in range(3)]
    assert [result.prompt for result in results] == [None, None, "Make it red."]
    assert results[0].reason == "the rewriter answered with status 500"
