"""What the instruction and the images mean to the diffusion network: Qwen2.5-VL's last hidden states.

Passes on everything the processor returns. Without `mm_token_type_ids` transformers 5 silently gives image
tokens text positions, which the stock pipelines of diffusers 0.42 do (huggingface/diffusers#14194); the
compat mode repeats that. Does not resize images and knows nothing of denoising.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen2VLProcessor

from retouch.engine.pipelines.cache import TensorCache
from retouch.engine.pipelines.preprocessing import pinned
from retouch.errors import InvalidRequest, TooLong

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
        seen = self._cache.get_or_make(images_key, lambda: self._seen(inputs)).to(embeds.dtype)
        embeds = embeds.masked_scatter((ids == self.processor.image_token_id).unsqueeze(-1), seen)
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

    def _seen(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The vision tower's features of all images, (image tokens, width)."""
        return torch.cat(self.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output)
