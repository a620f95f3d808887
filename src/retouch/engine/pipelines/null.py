"""A pipeline that computes nothing: the first image comes back at the size of the canvas.

For measuring and testing everything around an engine, without torch. It says nothing about any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from retouch.edit import EditSpec
from retouch.engine.pipeline import BatchKey, DenoiseState
from retouch.images import Pixels, resize

CELL = 16
"""Pixels per token and side, as in the real models."""


class NullPipeline:
    """Echoes the first image after `steps` ticks; state holds the resized pixels."""

    shared_step_tokens = 4096
    language_model = None
    device_name = "null"
    facts: Mapping[str, str] = MappingProxyType({})
    state_memory = None

    def check_prompt(self, prompt: str) -> None:
        """It reads none."""

    def stage(self, spec: EditSpec, images: Sequence[Pixels]) -> None:
        """It looks at nothing before its turn."""

    def prepare(self, spec: EditSpec, images: Sequence[Pixels], inputs: None = None) -> DenoiseState:  # noqa: ARG002
        pixels = resize(images[0], (spec.width, spec.height))
        return DenoiseState(
            spec=spec,
            key=BatchKey((spec.height // CELL, spec.width // CELL), (), guided=spec.guidance_scale > 1),
            sigmas=tuple(1 - step / spec.steps for step in range(spec.steps + 1)),
            latents=pixels,
            references=None,
            prompt_embeds=None,
            negative_embeds=None,
        )

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        assert len({state.key for state in states}) == 1, "only edits with equal keys may share a step"
        for state in states:
            state.velocity = state.latents
            state.step_index += 1

    def decode(self, state: DenoiseState) -> Pixels:
        pixels: Pixels = state.latents
        return pixels

    def preview(self, state: DenoiseState) -> Pixels:
        pixels: Pixels = np.ascontiguousarray(state.latents[::8, ::8])
        return pixels

    def memory_bytes(self, spec: EditSpec, image_count: int) -> int:  # noqa: ARG002 - the references are not kept
        return spec.width * spec.height * 3

    def state_budget_bytes(self) -> None:
        """No limit: the pixels are a copy of what the caller holds anyway."""

    def leave_device(self) -> None:
        """It has no weights."""

    def enter_device(self) -> None:
        """It has no weights."""
