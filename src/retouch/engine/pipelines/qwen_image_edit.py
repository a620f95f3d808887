"""Qwen-Image-Edit's three verbs: the first checkpoint, and the Plus ones with several references.

A state's tensors belong to one edit; what is shared between edits are weights and caches of encodings,
neither of which changes a result. Does not load weights (`loading.py`) and takes no turns (the engine does).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from PIL import Image

from retouch.catalog import Checkpoint
from retouch.edit import Acceleration, EditSpec, LoraFile, Notice
from retouch.engine.cost import StateMemory, work_of_spec
from retouch.engine.pipeline import BatchKey, DenoiseState
from retouch.engine.pipelines import preprocessing
from retouch.engine.pipelines.acceleration import RULES, BlockCache, Region, first_region_step
from retouch.engine.pipelines.cache import TensorCache, content_key
from retouch.engine.pipelines.denoising import Network, narrow
from retouch.engine.pipelines.device import budget_bytes, check_finite, device_name, wait_for
from retouch.engine.pipelines.loras import Loaded, Loras
from retouch.engine.pipelines.offload import DeviceWeights
from retouch.engine.pipelines.previews import PreviewMap, fit_preview
from retouch.engine.pipelines.text_encoder import SUFFIX_TOKENS, LanguageHeads, Speaker, TextEncoder
from retouch.engine.pipelines.vae import CELL, ImageCodec
from retouch.engine.sampler import NoiseSchedule, clean_estimate, euler_step, step_length
from retouch.errors import TooManyImages
from retouch.images import Pixels

logger = logging.getLogger(__name__)

TOKEN = 2 * CELL
"""Pixels per token and side."""

NOTHING = " "
"""A prompt without an edit."""

GREY_SIDE = 64

UNDERSTOOD_BELOW = 0.4
"""Cosine to the states of NOTHING. On the demo's hand-written requests: up to 0.26 known, from 0.44 on unknown."""

REFERENCE_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Rules:
    """How the two families of checkpoints treat their images.

    several: whether more than one image may come, and each is announced by its number. one_copy: the
    language model sees the image as resized for the autoencoder, instead of a copy of its own size.
    """

    several: bool
    one_copy: bool


FIRST = Rules(several=False, one_copy=True)
PLUS = Rules(several=True, one_copy=False)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the host can make of an edit before the device's turn.

    references: for each image its name and what the autoencoder takes. copies, keys: as the language model sees them,
    and the names of their content. prompt, negative: what its processor made of them. source: the first image at the
    canvas' size, for an edit that narrows to its mask. loras: those it runs with.
    """

    references: list[tuple[str, torch.Tensor]]
    copies: list[Image.Image]
    keys: tuple[str, ...]
    prompt: dict[str, torch.Tensor]
    negative: dict[str, torch.Tensor] | None
    source: tuple[str, torch.Tensor] | None
    loras: tuple[Loaded, ...]


@dataclass(frozen=True, slots=True)
class FastLoraNetwork:
    """The LoRA of `high`, and the network with it alone, which lies on the device as long as this is held."""

    file: LoraFile
    network: Network


class QwenImageEdit:
    """A loaded checkpoint on one device. `compat` rounds latents to the model's dtype each step, as diffusers does."""

    shared_step_tokens = 0  # one step fills the device; a small one gains little, and bytes must not depend on others

    def __init__(
        self,
        checkpoint: Checkpoint,
        rules: Rules,
        *,
        text_encoder: TextEncoder,
        vae: ImageCodec,
        network: Network,
        schedule: NoiseSchedule,
        preview_map: PreviewMap | None,
        latent_channels: int,
        device: torch.device,
        dtype: torch.dtype,
        compat: bool = False,
        heads: LanguageHeads | None = None,
        weights: DeviceWeights | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.rules = rules
        self.text_encoder = text_encoder
        self.vae = vae
        self.network = network
        self.schedule = schedule
        self._given_preview_map = preview_map
        self.latent_channels = latent_channels
        self.device = device
        self.dtype = dtype
        self.compat = compat
        self.language_model = None if heads is None else Speaker(text_encoder, self._vision_copies, heads)
        self.weights = weights
        self.loras = Loras(network, device, exact=compat)
        self.fast_lora: FastLoraNetwork | None = None
        self.facts: Mapping[str, str] = {}  # set when it is loaded
        self._references = TensorCache(REFERENCE_CACHE_BYTES)

    def use_fast_lora(self, file: LoraFile) -> None:
        """From now on `high` runs the few steps of this LoRA, which stays on the device. Raises InvalidLora."""
        self.fast_lora = FastLoraNetwork(file, self.loras.network(self.loras.load([file])))

    def check_prompt(self, prompt: str) -> None:
        self.text_encoder.check(prompt)

    @property
    def device_name(self) -> str:
        return device_name(self.device)

    @torch.inference_mode()
    def stage(self, spec: EditSpec, images: Sequence[Pixels]) -> Inputs:
        if len(images) > 1 and not self.rules.several:
            raise TooManyImages("images", len(images), 1, self.checkpoint.name)
        for index, image in enumerate(images):
            preprocessing.check_shape(image, index)
        guided = spec.guidance_scale > 1
        self.text_encoder.check(spec.prompt, "prompt")
        if guided:
            self.text_encoder.check(spec.negative_prompt, "negative_prompt")
        copies, keys = self._vision_copies(images)
        canvas, area = (spec.width, spec.height), self.checkpoint.reference_area
        on_canvas = self.checkpoint.references_fit_canvas
        return Inputs(
            references=[
                self._resized(image, key, canvas if on_canvas else _fitting(image, area))
                for image, key in zip(images, keys, strict=True)
            ],
            copies=copies,
            keys=keys,
            prompt=self.text_encoder.stage(spec.prompt, copies),
            negative=self.text_encoder.stage(spec.negative_prompt, copies) if guided else None,
            source=self._resized(images[0], keys[0], canvas) if self._narrows(spec) else None,
            loras=self.loras.load(self._loras_of(spec)),
        )

    @torch.inference_mode()
    def prepare(self, spec: EditSpec, images: Sequence[Pixels], inputs: Inputs | None = None) -> DenoiseState:
        inputs = inputs or self.stage(spec, images)
        copies, keys = inputs.copies, inputs.keys
        encoded = [self._encoded(key, signal) for key, signal in inputs.references]
        prompt = self.text_encoder.encode(spec.prompt, copies, keys, inputs.prompt)
        negative = None
        if inputs.negative is not None:
            negative = self.text_encoder.encode(spec.negative_prompt, copies, keys, inputs.negative)
        few_steps = self._runs_few_steps(spec)
        schedule = NoiseSchedule.of_few_steps() if few_steps else self.schedule
        rows, columns = spec.height // TOKEN, spec.width // TOKEN
        grids = tuple((latents.shape[-2] // 2, latents.shape[-1] // 2) for latents in encoded)
        state = DenoiseState(
            spec=spec,
            key=BatchKey((rows, columns), grids, guided=negative is not None),
            sigmas=schedule.sigmas(spec.steps, rows * columns),
            latents=self._noise(spec),
            references=torch.cat([preprocessing.pack(latents) for latents in encoded], dim=1),
            prompt_embeds=prompt,
            negative_embeds=negative,
            notices=(*self._not_understood(prompt), *self._fewer_steps(spec)),
        )
        if inputs.loras:
            state.extras["network"] = self.loras.network(inputs.loras)
        if self.checkpoint.block_cache and self.network.skips and not few_steps and spec.acceleration in RULES:
            state.extras["block_cache"] = BlockCache(RULES[spec.acceleration])
        if self._narrows(spec):
            assert spec.region is not None, "only a masked edit narrows"
            assert inputs.source is not None, "what narrows was staged"
            source = preprocessing.pack(self._encoded(*inputs.source)).float()
            tokens = torch.frombuffer(bytearray(spec.region), dtype=torch.uint8).nonzero().flatten()
            state.extras["region"] = region = Region(tokens.to(self.device), source, noise=state.latents)
            state.notices = (*state.notices, region.notice(spec.steps))
        wait_for(self.device)
        return state

    @torch.inference_mode()
    def denoise(self, states: Sequence[DenoiseState]) -> None:
        assert len({state.key for state in states}) == 1, "only edits with equal keys may share a step"
        for state in states:
            sigma, sigma_next = state.sigmas[state.step_index], state.sigmas[state.step_index + 1]
            network: Network = state.extras.get("network", self.network)
            latents = state.latents
            region: Region | None = state.extras.get("region")
            if region is not None and not region.open(state):
                region = None  # in its first steps a masked edit is denoised everywhere
            if region is not None:
                if state.step_index == first_region_step(state.spec.steps):
                    narrow(state, region.tokens)
                    state.latents = region.settle(latents, sigma)
                latents = state.latents[:, region.tokens]
            velocity, without = network.velocities(state, latents, sigma)
            if not self.compat:
                velocity, without = velocity.float(), None if without is None else without.float()
            if without is not None:
                velocity = guided(velocity, without, state.spec.guidance_scale)
            if region is not None:
                velocity = region.widen(velocity)
            step = _rounded_euler_step if self.compat else euler_step
            state.latents = step(state.latents, velocity, sigma, sigma_next)
            check_finite(state.latents, self.checkpoint)
            state.velocity = velocity
            state.step_index += 1
            cache: BlockCache | None = state.extras.get("block_cache")
            if state.done and cache is not None:
                state.notices = (*state.notices, cache.notice(state))
        wait_for(self.device)

    @torch.inference_mode()
    def decode(self, state: DenoiseState) -> Pixels:
        signal = self.vae.decode(preprocessing.unpack(state.latents, *state.key.target))
        check_finite(signal, self.checkpoint)
        return preprocessing.to_pixels(signal if self.compat else signal.float())

    @torch.inference_mode()
    def preview(self, state: DenoiseState) -> Pixels:
        assert state.velocity is not None, "nothing is known before the first step"
        estimate = clean_estimate(state.latents, state.velocity, state.sigmas[state.step_index])
        return self.preview_map.image(preprocessing.unpack(estimate, *state.key.target))

    @cached_property
    def preview_map(self) -> PreviewMap:
        """The checkpoint's own, or one fitted for the first preview."""
        return self._given_preview_map or fit_preview(self.vae, self.device)

    def memory_bytes(self, spec: EditSpec, image_count: int) -> int:
        own = self._loras_of(spec) if spec.loras else ()  # the fast one alone is there already
        held = self._state_memory.bytes_of(work_of_spec(spec, image_count, self.checkpoint), self.checkpoint)
        # Each edit is counted with its own, although two with the same LoRA share it; a file may be in float16.
        return held + sum(lora.size_bytes for lora in own) * max(1, self.dtype.itemsize // 2)

    @property
    def state_memory(self) -> StateMemory:
        return replace(self._state_memory, budget_bytes=self.state_budget_bytes())

    @cached_property
    def _state_memory(self) -> StateMemory:
        return StateMemory(
            self.latent_channels, self.dtype.itemsize, self.network.width, step_bytes=self.network.step_bytes
        )

    def state_budget_bytes(self) -> int | None:
        return budget_bytes(self.device)

    def leave_device(self) -> None:
        """LoRAs and the states of edits stay; they are small beside the weights."""
        if self.weights is not None:
            self.weights.leave()

    def enter_device(self) -> None:
        if self.weights is not None:
            self.weights.enter()

    def _resized(self, image: Pixels, key: str, size: tuple[int, int]) -> tuple[str, torch.Tensor]:
        signal = preprocessing.to_signal(preprocessing.resized(image, size))
        return f"{key}:{size}", preprocessing.pinned(signal, self.device)

    def _encoded(self, key: str, signal: torch.Tensor) -> torch.Tensor:
        """Normalised latents of one image, (1, channels, height / 8, width / 8)."""

        def encode() -> torch.Tensor:
            return self.vae.encode(signal.to(self.device, non_blocking=True)).to(self.dtype)

        return self._references.get_or_make(key, encode)

    def _vision_copies(self, images: Sequence[Pixels]) -> tuple[list[Image.Image], tuple[str, ...]]:
        """The images as the language model sees them, and the names of their content."""
        area = self.checkpoint.reference_area if self.rules.one_copy else self.checkpoint.vision_area
        copies = [preprocessing.resized(image, _fitting(image, area)) for image in images]
        return copies, tuple(content_key(image) for image in images)

    @cached_property
    def _nothing(self) -> torch.Tensor:
        """The states of a prompt without an edit; which image goes with it makes no difference."""
        grey = Image.new("RGB", (GREY_SIDE, GREY_SIDE), (128, 128, 128))
        return self.text_encoder.encode(NOTHING, [grey], ("grey",))

    def _not_understood(self, prompt: torch.Tensor) -> tuple[Notice, ...]:
        """A notice when a network with a closed list of edits has found none of them in the prompt.

        Its text encoder turns the tokens behind the prompt into a direction for each edit, and into one for
        "nothing", which is also what it gives for a blank prompt.
        """
        if not self.checkpoint.knows:
            return ()
        found, nothing = (embeds[:, -SUFFIX_TOKENS:].float().flatten() for embeds in (prompt, self._nothing))
        if torch.nn.functional.cosine_similarity(found, nothing, dim=0) < UNDERSTOOD_BELOW:
            return ()
        detail = (
            f"'{self.checkpoint.name}' found no edit it knows in the instruction, so the image is as it was or nearly "
            f"so. It knows: {', '.join(self.checkpoint.knows)}."
        )
        return (Notice("prompt", "ignored", detail),)

    def _runs_few_steps(self, spec: EditSpec) -> bool:
        return self.fast_lora is not None and spec.acceleration is Acceleration.HIGH

    def _loras_of(self, spec: EditSpec) -> tuple[LoraFile, ...]:
        fast = self.fast_lora
        return (*spec.loras, fast.file) if fast is not None and self._runs_few_steps(spec) else spec.loras

    def _fewer_steps(self, spec: EditSpec) -> tuple[Notice, ...]:
        if self._runs_few_steps(spec) or self.checkpoint.faster_steps is None or spec.acceleration is Acceleration.NONE:
            return ()
        steps = f"{spec.steps} step{'s' if spec.steps > 1 else ''}"
        detail = f"'{spec.acceleration}' ran {steps}, where 'none' runs {self.checkpoint.steps}."
        return (Notice("acceleration", "applied", detail),)

    def _narrows(self, spec: EditSpec) -> bool:
        """Whether some steps are for the masked region alone; `none` computes everything."""
        exact = spec.acceleration is Acceleration.NONE
        return (
            spec.region is not None and not exact and self.network.skips and spec.steps > first_region_step(spec.steps)
        )

    def _noise(self, spec: EditSpec) -> torch.Tensor:
        """Drawn on the CPU, so that a seed means the same on every device."""
        shape = (1, 1, self.latent_channels, spec.height // CELL, spec.width // CELL)
        dtype = self.dtype if self.compat else torch.float32
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(spec.seed), dtype=dtype)
        return preprocessing.pack(noise[0]).to(self.device)


def _fitting(image: Pixels, area: int) -> tuple[int, int]:
    """Width and height of a copy of about `area` pixels in the image's own shape."""
    height, width = image.shape[:2]
    return preprocessing.reference_size(area, width, height)


def guided(velocity: torch.Tensor, without: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance that keeps each token's norm as it was with the prompt alone.

    velocity, without: (1, tokens, channels), following the prompt and the negative prompt.
    """
    combined = without + scale * (velocity - without)
    norm = torch.norm(velocity, dim=-1, keepdim=True)
    return combined * (norm / torch.norm(combined, dim=-1, keepdim=True))


def _rounded_euler_step(latents: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """The stock scheduler's step: the length is rounded to the velocity's dtype, and so is the result."""
    length = torch.tensor(step_length(sigma, sigma_next), device=velocity.device)
    return (latents.float() + length * velocity).to(velocity.dtype)
