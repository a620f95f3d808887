"""The text encoder, Qwen2.5-VL: what instruction and images mean to the diffusion network, and its answers in words.

`TextEncoder` gives the last hidden states. It passes on everything the processor returns. Without `mm_token_type_ids`
transformers 5 silently gives image tokens text positions, which the stock pipelines of diffusers 0.42 do
(huggingface/diffusers#14194); the compat mode repeats that.

`Speaker` has the same model write: rewritten prompts, and yes or no about a prompt. A generator a token, so that the
engine can put denoise steps between the tokens and stop after any of them. Equal to `generate(do_sample=False)` token
for token, but leaves no state on the module. Which answer may be used is decided in `engine/rewrite.py` and
`engine/prompt_safety.py`.

Does not resize images and knows nothing of denoising.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from transformers import DynamicCache, Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen2VLProcessor

from retouch.engine import prompt_safety, rewrite
from retouch.engine.pipelines.cache import TensorCache
from retouch.engine.pipelines.preprocessing import pinned
from retouch.errors import InvalidRequest, TooLong, Unavailable, UnsupportedParameter
from retouch.images import Pixels

PREFIX = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
"""The template the weights were trained with, up to the caller's words. Its states are dropped."""

SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

SUFFIX_TOKENS = 5

IMAGE_TOKENS = "<|vision_start|><|image_pad|><|vision_end|>"

PROMPT_CACHE_BYTES = 256 * 2**20

MAX_TOKENS = 200
MAX_S = 10.0
"""Of a rewritten prompt, and of the model's own time for it."""

END = "<|im_end|>"
CLOSING = '"}'
"""Where a rewritten prompt ends: `engine/rewrite.py` has it written as JSON."""


class ImageAndTextProcessor(Qwen2VLProcessor):
    """The stock processor without its video part, which cannot be built without torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token = "<|image_pad|>"  # noqa: S105 - a word of the model's vocabulary
        self.video_token = "<|video_pad|>"  # noqa: S105
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super(Qwen2VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)


class TextEncoder:
    """Encodes prompts together with the images they speak of.

    model: a `Qwen2_5_VLModel`, without its language head. numbered: whether each image is announced as
    `Picture 1: ` (the Plus checkpoints) or stands there bare (the first one). positions: False repeats
    the stock pipelines, see the module. max_prompt_tokens: of the caller's own words. device: where it computes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Qwen2Tokenizer,
        image_processor: Qwen2VLImageProcessorPil,
        *,
        numbered: bool,
        max_prompt_tokens: int,
        positions: bool = True,
        device: torch.device | None = None,
    ) -> None:
        self.model = model
        self.device: torch.device = device or model.device  # its weights may lie elsewhere while they are not used
        self.tokenizer = tokenizer
        self.processor = ImageAndTextProcessor(image_processor, tokenizer)
        self.numbered = numbered
        self.max_prompt_tokens = max_prompt_tokens
        self.positions = positions
        self.dropped_tokens = len(tokenizer(PREFIX).input_ids)
        self._control_words = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._cache = TensorCache(PROMPT_CACHE_BYTES)
        self._processing = threading.Lock()

    def check(self, prompt: str, field: str = "prompt") -> None:
        """Raise TooLong or InvalidRequest for words the model cannot take."""
        for word in self._control_words:
            if word in prompt:
                message = f"The field '{field}' must not contain '{word}', a control word of the model."
                raise InvalidRequest(message, field=field)
        with self._processing:
            count = len(self.tokenizer(prompt).input_ids)
        if count > self.max_prompt_tokens:
            raise TooLong(field, count, self.max_prompt_tokens, unit="tokens")

    def encode(
        self,
        prompt: str,
        images: Sequence[Image.Image],
        images_key: tuple[str, ...],
        staged: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """States of one prompt, (1, tokens, width) in the model's dtype; the template's prefix is dropped.

        images_key: names the images' content; what was encoded for the same key is used again. staged: what `stage`
        gave for them.
        """

        def encoded() -> torch.Tensor:
            return self._encoded(self._to_device(staged or self.stage(prompt, images)), images_key)

        return self._cache.get_or_make((prompt, images_key), encoded)

    def stage(self, prompt: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """What the processor makes of one prompt and its images, in the host's memory; from any thread."""
        announced = (f"Picture {number}: {IMAGE_TOKENS}" for number in range(1, len(images) + 1))
        tokens = "".join(announced) if self.numbered else IMAGE_TOKENS
        return self._processed(PREFIX + tokens + prompt + SUFFIX, images)

    def token_ids(self, text: str) -> torch.Tensor:
        """(1, tokens) of a text without images, on the model's device."""
        with self._processing:
            ids: torch.Tensor = self.tokenizer(text, return_tensors="pt").input_ids
        return ids.to(self.device)

    def text_of(self, token_ids: Sequence[int]) -> str:
        with self._processing:
            return str(self.tokenizer.decode(token_ids))

    def inputs(self, text: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """What the processor makes of a whole conversation and its images, on the model's device."""
        return self._to_device(self._processed(text, images))

    def _processed(self, text: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        with self._processing:  # a tokenizer is set up anew for every call, so two at once would meet
            inputs = self.processor(text=[text], images=list(images), padding=True, return_tensors="pt")
        # numpy's memory starts anywhere, and the last bits of a product on a CPU depend on where
        copies = {name: tensor.clone() for name, tensor in inputs.items()}
        return {name: pinned(tensor, self.device) for name, tensor in copies.items()}

    def _to_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}

    def embedded(
        self, inputs: dict[str, torch.Tensor], images_key: tuple[str, ...], *, positions: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings (1, tokens, width) with the images' features looked up, and positions (3, 1, tokens) if wanted."""
        ids = inputs["input_ids"]
        embeds = self.model.get_input_embeddings()(ids)

        def seen() -> torch.Tensor:
            """The vision tower's features of all images, (image tokens, width)."""
            pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
            return torch.cat(self.model.get_image_features(pixels, grid).pooler_output)

        features = self._cache.get_or_make(images_key, seen).to(embeds.dtype)
        embeds = embeds.masked_scatter((ids == self.processor.image_token_id).unsqueeze(-1), features)
        if not positions:
            return embeds, None
        indexes, _ = self.model.get_rope_index(
            ids,
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        return embeds, indexes

    def _encoded(self, inputs: dict[str, torch.Tensor], images_key: tuple[str, ...]) -> torch.Tensor:
        """The forward of `Qwen2_5_VLModel`, without the positions it would store."""
        embeds, positions = self.embedded(inputs, images_key, positions=self.positions)
        states: torch.Tensor = self.model.language_model(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], position_ids=positions, use_cache=False
        ).last_hidden_state
        return states[:, self.dropped_tokens :].contiguous()


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
        placeholders = "".join(f"Picture {number}: {IMAGE_TOKENS}" for number in range(1, len(images) + 1))
        instruction, answer = rewrite.EXAMPLE
        text = (
            _turn("system", rules)
            + _turn("user", rewrite.user_message(instruction))
            + _turn("assistant", answer)
            + _turn("user", placeholders + rewrite.user_message(prompt))
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
            logits = F.linear(states[0, -1], self._answers).float()
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
                token = F.linear(states[:, -1], self._head).argmax(dim=-1)  # (1,)
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
