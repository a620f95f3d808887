"""Run a checkpoint folder through the stock classes, many images at a time.

This is the evaluation's own short loop; the server's engine is `retouch.engine`. It passes
everything the processor knows to the text encoder, `mm_token_type_ids` too.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageTransformer2DModel,
)
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from demo.editor import pack, unpack
from demo.text_encoder import IMAGE, PREFIX_TOKENS, TEMPLATE_HEAD, TEMPLATE_TAIL

VLM_SIDE_PX = 64
DEFAULT_STEPS = 4


def to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


class Checkpoint:
    """A loaded checkpoint, in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(folder / "processor")
        self.text = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        ).eval()
        self.vae = AutoencoderKLQwenImage.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
        self.transformer = QwenImageTransformer2DModel.from_pretrained(
            folder / "transformer", torch_dtype=torch.float32
        ).eval()
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        shape = (1, -1, 1, 1, 1)
        self.mean = torch.tensor(self.vae.config.latents_mean).view(shape)
        self.std = torch.tensor(self.vae.config.latents_std).view(shape)

    @torch.no_grad()
    def text_states(self, sentence: str, *images: Tensor) -> Tensor:
        """Hidden states of the kept tokens of a sentence about one or more images: (length, width)."""
        small = [to_image(p).resize((VLM_SIDE_PX, VLM_SIDE_PX), Image.Resampling.LANCZOS) for p in images]
        seen = self.processor(images=small, return_tensors="pt")
        grid = seen["image_grid_thw"]
        pads = ["<|image_pad|>" * (int(sides.prod()) // 4) for sides in grid]
        front = "".join(IMAGE.format(i + 1, pad) for i, pad in enumerate(pads))
        text = TEMPLATE_HEAD + front + sentence + TEMPLATE_TAIL
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
        output = self.text.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=seen["pixel_values"],
            image_grid_thw=grid,
            mm_token_type_ids=(ids == self.text.config.image_token_id).int(),
        )
        states: Tensor = output.last_hidden_state[0, PREFIX_TOKENS:]
        return states

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        raw = self.vae.encode((images * 2 - 1)[:, :, None]).latent_dist.mode()
        return ((raw - self.mean) / self.std)[:, :, 0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        raw = latents[:, :, None] * self.std + self.mean
        return (self.vae.decode(raw, return_dict=False)[0][:, :, 0] / 2 + 0.5).clamp(0, 1)

    def edit(self, images: Tensor, states: list[Tensor], steps: int = DEFAULT_STEPS, seed: int = 0) -> Tensor:
        """Edited images (batch, 3, height, width) in 0..1, each by its own sentence's states."""
        return self.edit_tokens([pack(self.encode(images))], states, steps, seed)

    @torch.no_grad()
    def edit_tokens(self, references: list[Tensor], states: list[Tensor], steps: int, seed: int = 0) -> Tensor:
        """The same from packed latents, (batch, height, width, channels) for each of the images."""
        batch, height, width, channels = references[0].shape
        reference = torch.cat([tokens.reshape(batch, -1, channels) for tokens in references], 1)
        text = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        lengths = torch.tensor([len(s) for s in states])
        mask = torch.arange(text.shape[1])[None] < lengths[:, None]
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((batch, height * width, channels), generator=generator)
        # base_shift = max_shift in this checkpoint, so mu does not depend on the size
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.scheduler.config.base_shift)
        sigmas = self.scheduler.sigmas
        for now, later in pairwise(sigmas):
            velocity = self.transformer(
                hidden_states=torch.cat([x, reference], 1),
                encoder_hidden_states=text,
                encoder_hidden_states_mask=mask,
                timestep=now.expand(batch),
                img_shapes=[[(1, height, width)] * (1 + len(references))] * batch,
                return_dict=False,
            )[0][:, : x.shape[1]]
            x = x + (later - now) * velocity
        return self.decode(unpack(x.view(batch, height, width, channels)))
