"""Our encode against Qwen2.5-VL's own forward, and the positions that the stock pipelines lose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLImageProcessorPil

from retouch.engine.pipelines.text_encoder import IMAGE_TOKENS, PREFIX, SUFFIX, TextEncoder
from retouch.errors import InvalidRequest, TooLong
from tests import tiny_checkpoints
from tests.tiny_checkpoints import coloured_blocks, shared

IMAGES = [Image.fromarray(coloured_blocks(1, 96, 64)), Image.fromarray(coloured_blocks(2, 64, 64))]
PROMPT = "make the sky green"


@pytest.fixture(scope="module")
def stock() -> Qwen2_5_VLForConditionalGeneration:
    folder = shared("plus") / "text_encoder"
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def build(stock: Qwen2_5_VLForConditionalGeneration) -> Callable[..., TextEncoder]:
    folder = shared("plus")

    def built(**options: object) -> TextEncoder:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder / "processor")
        defaults = {"numbered": True, "max_prompt_tokens": 64}
        return TextEncoder(stock.model, tokenizer, image_processor, **(defaults | options))

    return built


def encode(encoder: TextEncoder, prompt: str = PROMPT, key: tuple[str, ...] = ("a", "b")) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.encode(prompt, IMAGES, key)


def stock_states(stock: Qwen2_5_VLForConditionalGeneration, encoder: TextEncoder, without: str = "") -> torch.Tensor:
    """Last hidden states of the whole class, fed with everything the processor returns but `without`."""
    image_text = f"Picture 1: {IMAGE_TOKENS}Picture 2: {IMAGE_TOKENS}"
    text = PREFIX + image_text + PROMPT + SUFFIX
    inputs = encoder.processor(text=[text], images=IMAGES, padding=True, return_tensors="pt")
    inputs.pop(without, None)
    with torch.inference_mode():
        return stock(**inputs, output_hidden_states=True).hidden_states[-1][:, 64:]


def test_our_states_are_those_of_the_whole_class(build: Callable[..., TextEncoder], stock: object) -> None:
    assert torch.equal(encode(build()), stock_states(stock, build()))


def test_image_tokens_have_positions_in_two_dimensions(build: Callable[..., TextEncoder], stock: object) -> None:
    """Fails when `mm_token_type_ids` is not passed on (huggingface/diffusers#14194)."""
    lost = stock_states(stock, build(), without="mm_token_type_ids")
    assert (encode(build()) - lost).abs().max() > 0.1


def test_compat_repeats_the_lost_positions(build: Callable[..., TextEncoder], stock: object) -> None:
    lost = stock_states(stock, build(), without="mm_token_type_ids")
    assert torch.equal(encode(build(positions=False)), lost)


def test_nothing_of_an_earlier_prompt_stays_in_the_model(build: Callable[..., TextEncoder]) -> None:
    encoder = build()
    first = encode(encoder)
    encode(encoder, "another sentence, longer than the first one")
    fresh = encode(build())
    assert torch.equal(first, fresh)


def test_the_same_prompt_and_images_are_encoded_once(build: Callable[..., TextEncoder]) -> None:
    encoder = build()
    assert encode(encoder) is encode(encoder)
    assert encode(encoder) is not encode(encoder, key=("a", "c"))


def test_the_vision_tower_runs_once_for_both_prompts(
    build: Callable[..., TextEncoder], stock: Qwen2_5_VLForConditionalGeneration
) -> None:
    calls = []
    hook = stock.model.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        encoder = build()
        encode(encoder)
        encode(encoder, " ")
    finally:
        hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize(("merges", "expected"), [(True, 64), (False, 320)])
def test_the_prefix_is_counted_in_the_vocabulary_at_hand(merges: bool, expected: int) -> None:
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(shared("plus") / "processor")
    tokenizer = tiny_checkpoints.build_tokenizer(merges=merges)
    encoder = TextEncoder(
        None, tokenizer, image_processor, numbered=True, max_prompt_tokens=64, device=torch.device("cpu")
    )
    assert encoder.dropped_tokens == expected


def test_a_prompt_of_too_many_tokens_is_refused_with_both_numbers(build: Callable[..., TextEncoder]) -> None:
    encoder = build(max_prompt_tokens=5)
    with pytest.raises(TooLong, match=r"'prompt' has \d+ tokens; at most 5") as raised:
        encoder.check("make the sky green, and the sea as well")
    assert raised.value.field == "prompt"


@pytest.mark.parametrize("word", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_a_prompt_cannot_carry_control_words(build: Callable[..., TextEncoder], word: str) -> None:
    with pytest.raises(InvalidRequest, match="control word") as raised:
        build().check(f"hello {word}", "negative_prompt")
    assert raised.value.field == "negative_prompt"
