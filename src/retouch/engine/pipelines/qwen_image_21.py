"""Qwen-Image-2.1's three verbs: one stream of text, references and target, without guidance.

Text and references are modulated at timestep 0 and do not look at the target, so their keys and values are the same in
every step: the first step of an edit makes them, and they lie in its state until it is decoded. Its network is the
stock one. It answers in red, green, blue and opacity; what shows through is white here. Loads no weights
(`loading.py`) and takes no turns (the engine does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage21, QwenImage21Transformer2DModel
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from PIL import Image
from torch import nn

from retouch.catalog import Checkpoint
from retouch.edit import EditSpec
from retouch.engine.cost import StateMemory, work_of_spec
from retouch.engine.pipeline import BatchKey, DenoiseState
from retouch.engine.pipelines import preprocessing
from retouch.engine.pipelines.cache import TensorCache, content_key
from retouch.engine.pipelines.device import budget_bytes, check_finite, device_name, wait_for
from retouch.engine.pipelines.modulation import timestep_at
from retouch.engine.pipelines.offload import DeviceWeights
from retouch.engine.pipelines.previews import PreviewMap, fit_preview
from retouch.engine.pipelines.text_encoder import IMAGE_TOKENS, TextEncoder
from retouch.engine.sampler import NoiseSchedule, clean_estimate, euler_step
from retouch.images import Pixels

TOKEN = 16
"""Pixels per token and side."""

SLOT_TOKENS = 4
"""Tokens of an image for each place the language model has for it."""

SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
"""The template the weights were trained with. Its states are dropped."""

REFERENCE_CACHE_BYTES = 64 * 2**20


class PromptEncoder(TextEncoder):
    """Qwen3-VL's states before its last norm, which the weights were trained with. model: a `Qwen3VLModel`."""

    def __init__(self, model: Any, *given: Any, **named: Any) -> None:
        model.language_model.norm = nn.Identity()
        super().__init__(model, *given, numbered=True, **named)
        # Its places for an image must come to the image's tokens, so the processor may not choose another size.
        self.processor.image_processor.do_resize = False
        self.dropped_tokens = len(self.tokenizer(SYSTEM).input_ids)

    def stage(self, prompt: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        seen = " ".join(f"<image{number}>{IMAGE_TOKENS}" for number in range(1, len(images) + 1))
        text = f"{SYSTEM}<|im_start|>user\n{seen}{prompt}<|im_end|>\n<|im_start|>assistant\n"
        return self._processed(text, images)

    def slots(self, staged: dict[str, torch.Tensor]) -> torch.Tensor:
        """(1, tokens) bool: which of the encoded tokens stand for an image."""
        return staged["input_ids"][:, self.dropped_tokens :].to(self.device) == self.processor.image_token_id

    def _encoded(self, inputs: dict[str, torch.Tensor], images_key: tuple[str, ...]) -> torch.Tensor:  # noqa: ARG002
        states: torch.Tensor = self.model(**inputs, use_cache=False).last_hidden_state
        return states[:, self.dropped_tokens :].contiguous()


class OpaqueVae(nn.Module):
    """The stock autoencoder for images without transparency, see `ImageCodec`; a latent cell is 16 pixels a side."""

    def __init__(self, vae: AutoencoderKLQwenImage21) -> None:
        super().__init__()
        self.vae = vae
        self.mean, self.std = (
            torch.tensor(values, device=vae.device, dtype=vae.dtype).view(1, -1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        signal = signal.to(self.vae.device, self.vae.dtype)
        opaque = torch.cat([signal, torch.ones_like(signal[:, :1])], dim=1)
        latents: torch.Tensor = self.vae.encode(opaque.unsqueeze(2)).latent_dist.mode().squeeze(2)
        return (latents - self.mean) / self.std

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raw = latents.to(self.vae.dtype) * self.std + self.mean
        signal: torch.Tensor = self.vae.decode(raw.unsqueeze(2), return_dict=False)[0][:, :, 0]
        return over_white(signal)


def over_white(signal: torch.Tensor) -> torch.Tensor:
    """(1, 4, height, width) from -1 to 1, the last of them opacity, to three channels."""
    opacity = (signal[:, 3:] * 0.5 + 0.5).clamp(0, 1)
    return signal[:, :3] * opacity + (1 - opacity)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the host can make of an edit. references: for each image its name and what the autoencoder takes."""

    references: list[tuple[str, torch.Tensor]]
    copies: list[Image.Image]
    keys: tuple[str, ...]
    prompt: dict[str, torch.Tensor]


class QwenImage21:
    """A loaded checkpoint on one device."""

    shared_step_tokens = 0
    language_model = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        text_encoder: PromptEncoder,
        vae: OpaqueVae,
        transformer: QwenImage21Transformer2DModel,
        schedule: NoiseSchedule,
        device: torch.device,
        dtype: torch.dtype,
        weights: DeviceWeights,
    ) -> None:
        self.checkpoint = checkpoint
        self.text_encoder = text_encoder
        self.vae = vae
        self.transformer = transformer
        self.schedule = schedule
        self.device = device
        self.dtype = dtype
        self.weights = weights
        self.facts: Mapping[str, str] = {}  # set when it is loaded
        self._references = TensorCache(REFERENCE_CACHE_BYTES)

    @property
    def device_name(self) -> str:
        return device_name(self.device)

    def check_prompt(self, prompt: str) -> None:
        self.text_encoder.check(prompt)

    @torch.inference_mode()
    def stage(self, spec: EditSpec, images: Sequence[Pixels]) -> Inputs:
        assert spec.guidance_scale <= 1, "the route of a distilled checkpoint says so"
        for index, image in enumerate(images):
            preprocessing.check_shape(image, index)
        self.text_encoder.check(spec.prompt)
        keys = tuple(content_key(image) for image in images)
        area = self.checkpoint.reference_area
        sizes = [preprocessing.reference_size(area, image.shape[1], image.shape[0]) for image in images]
        # One copy for both, the encoder and the autoencoder.
        copies = [preprocessing.resized(image, size) for image, size in zip(images, sizes, strict=True)]
        signals = [preprocessing.pinned(preprocessing.to_signal(copy), self.device) for copy in copies]
        named = [(f"{key}:{copy.size}", signal) for key, copy, signal in zip(keys, copies, signals, strict=True)]
        return Inputs(named, copies, keys, self.text_encoder.stage(spec.prompt, copies))

    @torch.inference_mode()
    def prepare(self, spec: EditSpec, images: Sequence[Pixels], inputs: Inputs | None = None) -> DenoiseState:
        inputs = inputs or self.stage(spec, images)
        encoded = [self._encoded(key, signal) for key, signal in inputs.references]
        target = spec.height // TOKEN, spec.width // TOKEN
        # Drawn on the CPU, so that a seed means the same on every device.
        shape = (1, self.transformer.config.in_channels, *target)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(spec.seed))
        state = DenoiseState(
            spec=spec,
            key=BatchKey(target, tuple((each.shape[-2], each.shape[-1]) for each in encoded), guided=False),
            sigmas=self.schedule.sigmas(spec.steps, target[0] * target[1]),
            latents=pack(noise).to(self.device),
            references=torch.cat([pack(latents) for latents in encoded], dim=1),
            prompt_embeds=self.text_encoder.encode(spec.prompt, inputs.copies, inputs.keys, inputs.prompt),
            negative_embeds=None,
        )
        slots = self.text_encoder.slots(inputs.prompt)
        state.extras["slots"] = torch.cat([slots, slots.new_ones(1, target[0] * target[1] // SLOT_TOKENS)], dim=1)
        wait_for(self.device)
        return state

    @torch.inference_mode()
    def denoise(self, states: Sequence[DenoiseState]) -> None:
        for state in states:
            sigma, sigma_next = state.sigmas[state.step_index], state.sigmas[state.step_index + 1]
            # Keys and values of text and references are the same in every step: the first one makes them, the others
            # read them and compute the target alone.
            prefix: QwenImage21KVCache | None = state.extras.get("prefix")
            mode = "extract" if prefix is None else "cached"
            if prefix is None:
                prefix = state.extras["prefix"] = QwenImage21KVCache(len(self.transformer.transformer_blocks))
            shapes = [(1, rows, columns) for rows, columns in (*state.key.references, state.key.target)]
            made: torch.Tensor = self.transformer(
                hidden_states=torch.cat([state.references, state.latents.to(self.dtype)], dim=1),
                timestep=timestep_at(sigma, state.latents),
                encoder_hidden_states=state.prompt_embeds,
                img_shapes=[shapes],
                img_mask=state.extras["slots"],
                kv_cache=prefix,
                kv_cache_mode=mode,
                return_dict=False,
            )[0]
            velocity = made[:, -state.latents.shape[1] :].float()
            state.latents = euler_step(state.latents, velocity, sigma, sigma_next)
            check_finite(state.latents, self.checkpoint)
            state.velocity = velocity
            state.step_index += 1
            if state.done:  # decoding needs the memory more
                state.extras.pop("prefix", None)
        wait_for(self.device)

    @torch.inference_mode()
    def decode(self, state: DenoiseState) -> Pixels:
        signal = self.vae.decode(unpack(state.latents, *state.key.target))
        check_finite(signal, self.checkpoint)
        return preprocessing.to_pixels(signal.float())

    @torch.inference_mode()
    def preview(self, state: DenoiseState) -> Pixels:
        assert state.velocity is not None, "nothing is known before the first step"
        estimate = clean_estimate(state.latents, state.velocity, state.sigmas[state.step_index])
        return self._preview_map.image(unpack(estimate, *state.key.target))

    def memory_bytes(self, spec: EditSpec, image_count: int) -> int:
        return self._state_memory.bytes_of(work_of_spec(spec, image_count, self.checkpoint), self.checkpoint)

    @property
    def state_memory(self) -> StateMemory:
        return replace(self._state_memory, budget_bytes=self.state_budget_bytes())

    def state_budget_bytes(self) -> int | None:
        return budget_bytes(self.device)

    def leave_device(self) -> None:
        self.weights.leave()

    def enter_device(self) -> None:
        self.weights.enter()

    @cached_property
    def _state_memory(self) -> StateMemory:
        network, itemsize = self.transformer, self.dtype.itemsize
        prefix = 2 * len(network.transformer_blocks) * network.inner_dim * itemsize
        # The others count 2 x 2 cells for a token, here it is one.
        channels = -(-network.config.in_channels // SLOT_TOKENS)
        return StateMemory(channels, itemsize, network.inner_dim, prefix_bytes=prefix)

    @cached_property
    def _preview_map(self) -> PreviewMap:
        return fit_preview(self.vae, self.device)

    def _encoded(self, key: str, signal: torch.Tensor) -> torch.Tensor:
        """Normalised latents of one image, (1, channels, height / 16, width / 16)."""
        return self._references.get_or_make(key, lambda: self.vae.encode(signal.to(self.device)).to(self.dtype))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(1, channels, rows, columns) to tokens, (1, rows x columns, channels)."""
    return latents.flatten(2).transpose(1, 2)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The reverse of `pack`."""
    return tokens.transpose(1, 2).unflatten(-1, (rows, columns))
