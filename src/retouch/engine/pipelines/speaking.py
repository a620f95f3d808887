"""The text encoder's own language model made to speak: rewritten prompts, and yes or no about a prompt.

A generator a token, so that the engine can put denoise steps between the tokens and stop after any of them. Equal to
`generate(do_sample=False)` token for token, but leaves no state on the module. Which answer may be used is decided in
`engine/rewrite.py` and `engine/prompt_safety.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from transformers import DynamicCache

from retouch.engine import prompt_safety, rewrite
from retouch.engine.pipelines.text_encoding import IMAGE_TOKENS, TextEncoder
from retouch.errors import Unavailable, UnsupportedParameter
from retouch.images import Pixels

MAX_TOKENS = 200
MAX_S = 10.0
END = "<|im_end|>"
CLOSING = '"}'


@dataclass(frozen=True, slots=True)
class LanguageHeads:
    """What of the language head is kept; encoding a prompt needs none of it.

    whole: (vocabulary, width), 1.1 GB of the 7B model, to write; or None. answers: (6, width), its rows for the words
    of `prompt_safety.YES` and `NO`, to judge; or None.
    """

    whole: torch.Tensor | None = None
    answers: torch.Tensor | None = None


class Speaker:
    """A text encoder that answers. look: the images as the encoder sees them, and the names of their content."""

    def __init__(
        self,
        encoder: TextEncoder,
        look: Callable[[Sequence[Pixels]], tuple[list[Image.Image], tuple[str, ...]]],
        heads: LanguageHeads,
    ) -> None:
        self._encoder = encoder
        self._look = look
        self._head = heads.whole
        self._answers = heads.answers
        self._end = encoder.tokenizer.convert_tokens_to_ids(END)

    @property
    def rewrites(self) -> bool:
        return self._head is not None

    def rewrite(
        self,
        prompt: str,
        images: Sequence[Pixels],
        rules: str = rewrite.RULES,
        *,
        max_tokens: int = MAX_TOKENS,
        max_s: float = MAX_S,
    ) -> Generator[None, None, str]:
        """The model's answer about `prompt`, a token for each `next`; it may be unfinished after `max_tokens`.

        Raises TooLong or InvalidRequest at once for a prompt the model cannot take, Unavailable when its own tokens,
        without what ran between them, took longer than `max_s`.
        """
        self._encoder.check(prompt)
        shown = "".join(f"Picture {number}: {IMAGE_TOKENS}" for number in range(1, len(images) + 1))
        instruction, answer = rewrite.EXAMPLE
        text = (
            _turn("system", rules)
            + _turn("user", rewrite.user_message(instruction))
            + _turn("assistant", answer)
            + _turn("user", shown + rewrite.user_message(prompt))
            + "<|im_start|>assistant\n"
            + rewrite.OPENING
        )
        spoken: list[int] = []
        written = ""
        began, spent = time.perf_counter(), 0.0
        copies, key = self._look(images)
        for token in self.tokens(text, copies, key, max_tokens):
            spoken.append(token)
            written = self._encoder.text_of(spoken)
            if written.rstrip().endswith(CLOSING):
                break
            spent += time.perf_counter() - began
            if spent > max_s:
                raise Unavailable(f"the model took longer than {max_s:g} seconds to rewrite the prompt")
            yield
            began = time.perf_counter()
        return rewrite.OPENING + written

    def unsafe_score(self, prompt: str) -> Generator[None, None, float]:
        """How likely the model answers that the prompt is forbidden, 0 to 1; one forward.

        Raises TooLong or InvalidRequest for a prompt the model cannot take.
        """
        assert self._answers is not None, "the rows are kept when a resident prompt checker is asked for"
        self._encoder.check(prompt)
        yield
        question = prompt_safety.QUESTION_BEFORE + prompt + prompt_safety.QUESTION_AFTER
        text = _turn("system", prompt_safety.QUESTION_SYSTEM) + _turn("user", question) + "<|im_start|>assistant\n"
        with torch.inference_mode():
            ids = self._encoder.token_ids(text)
            states = self._encoder.model.language_model(
                inputs_embeds=self._encoder.model.get_input_embeddings()(ids), use_cache=False
            ).last_hidden_state
            logits = functional.linear(states[0, -1], self._answers).float()
            yes, no = logits[: len(prompt_safety.YES)], logits[len(prompt_safety.YES) :]
            return float((yes.logsumexp(0) - no.logsumexp(0)).sigmoid())

    def tokens(
        self, text: str, images: Sequence[Image.Image], images_key: tuple[str, ...], max_tokens: int
    ) -> Iterator[int]:
        """The likeliest next tokens after `text`, one forward for each; ends before the end of the turn."""
        assert self._head is not None, "the head is kept when a resident rewriter is asked for"
        model = self._encoder.model
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.inference_mode():
            inputs = self._encoder.inputs(text, images)
            embeds, positions = self._encoder.embedded(inputs, images_key)
            assert positions is not None, "they were asked for"
            last = int(positions.max())
        for index in range(max_tokens):
            with torch.inference_mode():
                states = model.language_model(
                    inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True
                ).last_hidden_state
                token = functional.linear(states[:, -1], self._head).argmax(dim=-1)  # (1,)
                number = int(token)
                if number == self._end:
                    return
                embeds = model.get_input_embeddings()(token[:, None])
                positions = torch.full((3, 1, 1), last + 1 + index, device=embeds.device)
            yield number


def language_heads(head: torch.Tensor, tokenizer: Any, *, whole: bool, answers: bool) -> LanguageHeads:
    """What is to be kept of a head (vocabulary, width). Raises UnsupportedParameter for another vocabulary."""
    rows = head[answer_ids(tokenizer)].clone() if answers else None
    return LanguageHeads(head if whole else None, rows)


def answer_ids(tokenizer: Any) -> list[int]:
    """Token ids of `YES` and `NO`; raises UnsupportedParameter when one of them is not a single token."""
    ids = []
    for word in (*prompt_safety.YES, *prompt_safety.NO):
        tokens = tokenizer(word).input_ids
        if len(tokens) != 1:
            raise UnsupportedParameter(
                f"--prompt-checker resident needs a model for which '{word}' is one token.", field="model"
            )
        ids.append(tokens[0])
    return ids


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"
