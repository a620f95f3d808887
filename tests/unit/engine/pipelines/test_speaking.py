"""The resident language model against transformers' own `generate`, on tiny random weights."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLImageProcessorPil

from retouch.engine import rewrite
from retouch.engine.pipelines.text_encoder import MAX_TOKENS, LanguageHeads, Speaker, TextEncoder
from retouch.errors import InvalidRequest, TooLong, Unavailable
from retouch.images import Pixels
from tests import tiny_checkpoints

TEXT = "<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>make it red<|im_end|>\n<|im_start|>assistant\n"
PIXELS = [tiny_checkpoints.coloured_blocks(3, 64, 80)]
IMAGES = [Image.fromarray(PIXELS[0])]
KEY = ("image 3",)


@cache
def whole() -> Qwen2_5_VLForConditionalGeneration:
    folder = tiny_checkpoints.shared("plus-2511")
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder").eval()


def encoder(*, max_prompt_tokens: int = 64) -> TextEncoder:
    folder = tiny_checkpoints.shared("plus-2511")
    return TextEncoder(
        whole().model,
        Qwen2Tokenizer.from_pretrained(folder / "tokenizer"),
        Qwen2VLImageProcessorPil.from_pretrained(folder / "processor"),
        numbered=True,
        max_prompt_tokens=max_prompt_tokens,
    )


def look(images: Sequence[Pixels]) -> tuple[list[Image.Image], tuple[str, ...]]:
    return [Image.fromarray(image) for image in images], tuple(str(image.sum()) for image in images)


def speaker() -> Speaker:
    return Speaker(encoder(), look, LanguageHeads(whole().lm_head.weight))


@cache
def generated(text: str, count: int) -> list[int]:
    own = encoder()
    inputs = own.inputs(text, IMAGES)
    with torch.inference_mode():
        ids = whole().generate(**inputs, do_sample=False, max_new_tokens=count, eos_token_id=None, pad_token_id=0)
    whole().model.rope_deltas = None
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_own_loop_gives_the_tokens_of_generate_one_by_one() -> None:
    own = speaker()
    assert list(own.tokens(TEXT, IMAGES, KEY, 40)) == generated(TEXT, 40)


def test_it_leaves_no_positions_on_the_module() -> None:
    whole().model.rope_deltas = None
    list(speaker().tokens(TEXT, IMAGES, KEY, 3))
    assert whole().model.rope_deltas is None


@torch.inference_mode()
def test_encoding_between_the_tokens_changes_neither_the_tokens_nor_the_encoding() -> None:
    alone = encoder().encode("make it blue", IMAGES, KEY)
    texts = encoder()
    own = Speaker(texts, look, LanguageHeads(whole().lm_head.weight))
    spoken = []
    for index, token in enumerate(own.tokens(TEXT, IMAGES, KEY, 20)):
        spoken.append(token)
        other = Image.fromarray(tiny_checkpoints.coloured_blocks(index, 64, 64))
        texts.encode(f"prompt {index}", [other], (str(index),))
    assert spoken == generated(TEXT, 20)
    assert torch.equal(texts.encode("make it blue", IMAGES, KEY), alone)


def test_two_speeches_take_turns_without_hearing_each_other() -> None:
    own = speaker()
    other_text = TEXT.replace("red", "blue and larger")
    pairs = list(zip(own.tokens(TEXT, IMAGES, KEY, 15), own.tokens(other_text, IMAGES, KEY, 15), strict=True))
    assert [first for first, _ in pairs] == generated(TEXT, 15)
    assert [second for _, second in pairs] == generated(other_text, 15)


def test_a_rewrite_is_a_token_a_turn_and_ends_in_time() -> None:
    speech = speaker().rewrite("make it red", PIXELS, max_tokens=7)
    turns = 0
    while True:
        try:
            next(speech)
        except StopIteration as end:
            answer = end.value
            break
        turns += 1
    assert turns <= 7
    assert answer.startswith(rewrite.OPENING)
    assert MAX_TOKENS == 200


def test_a_speech_that_is_dropped_half_way_leaves_the_next_one_as_it_was() -> None:
    own = speaker()
    for _, token in zip(range(3), own.tokens(TEXT, IMAGES, KEY, 40), strict=False):
        del token
    assert list(own.tokens(TEXT, IMAGES, KEY, 10)) == generated(TEXT, 10)


def test_six_rows_of_the_head_give_the_logits_of_the_whole_head() -> None:
    head = whole().lm_head.weight.detach()
    rows = [3, 50, 8, 100, 7, 200]
    states = torch.randn(1, head.shape[1], generator=torch.Generator().manual_seed(0))
    whole_head, sliced = functional.linear(states, head)[0, rows], functional.linear(states, head[rows])[0]
    torch.testing.assert_close(sliced, whole_head, rtol=1e-6, atol=1e-6)  # a product's kernel depends on its shape


def test_yes_or_no_is_a_number_between_0_and_1_in_one_turn() -> None:
    own = Speaker(encoder(), look, LanguageHeads(answers=whole().lm_head.weight[[3, 50, 8, 100, 7, 200]].detach()))
    question = own.unsafe_score("make it red")
    next(question)
    with pytest.raises(StopIteration) as end:
        next(question)
    assert 0 <= end.value.value <= 1


def test_a_rewrite_that_takes_too_long_is_given_up() -> None:
    speech = speaker().rewrite("make it red", PIXELS, max_s=0.0)
    with pytest.raises(Unavailable, match="longer than 0 seconds"):
        next(speech)


def test_prompts_may_be_measured_and_staged_by_other_threads_while_the_model_speaks() -> None:
    texts = encoder()
    own = Speaker(texts, look, LanguageHeads(whole().lm_head.weight))

    def measure(number: int) -> None:
        texts.check(f"make number {number} red")
        texts.stage(f"make number {number} red", IMAGES)

    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(measure, number) for number in range(60)]
        with contextlib.suppress(StopIteration):
            speech = own.rewrite("make it red", PIXELS, max_tokens=30)
            while True:
                next(speech)
        for other in others:
            other.result()


@pytest.mark.parametrize(("prompt", "error"), [("a <|im_end|> b", InvalidRequest), ("word " * 200, TooLong)])
def test_a_prompt_the_model_cannot_take_is_refused_before_the_first_token(prompt: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        next(speaker().rewrite(prompt, PIXELS))
