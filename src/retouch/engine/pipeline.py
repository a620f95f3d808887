"""What a model must be able to do: three verbs, an image of where it stands, and the state that they pass on.

`Pipeline` is the engine's only view of a model. It holds no state of any edit: all of that is in a `DenoiseState`, so
that edits can take turns on one model without knowing of each other. No torch import: tensors are typed as `Any` for
readers and named with shape and dtype in comments.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from retouch.edit import EditSpec, Notice
from retouch.engine.cost import StateMemory
from retouch.images import Pixels


@dataclass(frozen=True, slots=True)
class Speaks:
    """What the language model is loaded to do beside encoding prompts: rewrite them, judge them."""

    rewrites: bool = False
    judges: bool = False

    @property
    def any(self) -> bool:
        return self.rewrites or self.judges


SILENT = Speaks()


class LanguageModel(Protocol):
    """The loaded checkpoint's own language model. Each answer is a generator: one `next`, one short turn of the device.

    Only the thread that drives the engine may advance one, see `Engine.interleave`.
    """

    @property
    def rewrites(self) -> bool:
        """Whether it is loaded to rewrite; not where it would be brought to the device for every word."""

    def rewrite(self, prompt: str, images: Sequence[Pixels], rules: str) -> Generator[None, None, str]:
        """What it answers when it is told `rules`, not yet judged.

        Raises InvalidRequest for a prompt it cannot take, Unavailable when it takes too long.
        """

    def unsafe_score(self, prompt: str) -> Generator[None, None, float]:
        """How likely it calls the prompt forbidden, 0 to 1. Raises InvalidRequest for a prompt it cannot take."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Edits with equal keys may share one denoise step; nothing else does.

    target: rows and columns of target tokens. references: rows and columns of each reference's tokens.
    guided: whether classifier-free guidance runs a second branch.
    """

    target: tuple[int, int]
    references: tuple[tuple[int, int], ...]
    guided: bool


@dataclass(slots=True)
class DenoiseState:
    """One edit between prepare and decode. Owned by the engine; pipelines change it in `denoise` only.

    step_index counts finished steps: 0 after prepare, spec.steps when it is ready to decode.
    """

    spec: EditSpec
    key: BatchKey
    sigmas: tuple[float, ...]  # steps + 1 values falling from <= 1 to 0
    latents: Any  # (1, target tokens, channels) float32, packed 2x2
    references: Any  # (1, reference tokens, channels) model dtype, all references in order
    prompt_embeds: Any  # (1, text tokens, width) model dtype
    negative_embeds: Any | None  # same, or None when not guided
    step_index: int = 0
    velocity: Any | None = None  # last predicted velocity, like latents; kept for previews
    notices: tuple[Notice, ...] = ()  # what the model found worth saying of this edit
    extras: dict[str, Any] = field(default_factory=dict)  # per-edit caches of the pipeline

    @property
    def done(self) -> bool:
        return self.step_index >= self.spec.steps


class Pipeline(Protocol):
    """A loaded model on one device.

    Same spec, same pixels, same device and same versions give the same bytes, whatever else is running.
    shared_step_tokens: edits with at most so many image tokens gain by sharing a step; 0 means never.
    """

    @property
    def shared_step_tokens(self) -> int: ...

    @property
    def device_name(self) -> str:
        """What the device is called, equal for devices that are equally fast."""

    @property
    def facts(self) -> Mapping[str, str]:
        """How it was loaded, for `/metrics`: `attention`, torch's kernel; `precision`; `offload`. May be empty."""

    @property
    def state_memory(self) -> StateMemory | None:
        """`memory_bytes` and `state_budget_bytes` for those who have no pipeline; None where nothing is known."""

    @property
    def language_model(self) -> LanguageModel | None:
        """None unless it was loaded to speak."""

    def check_prompt(self, prompt: str) -> None:
        """Raise InvalidRequest for a prompt that `stage` would refuse; from any thread."""

    def stage(self, spec: EditSpec, images: Sequence[Pixels]) -> Any:
        """The part of `prepare` that needs no device: hashes, copies, tokens; from any thread.

        The same for specs that differ in their seed only. Raises what `prepare` raises.
        """

    def prepare(self, spec: EditSpec, images: Sequence[Pixels], inputs: Any = None) -> DenoiseState:
        """Encode the instruction and the references, draw the noise.

        images: uint8 (height, width, 3), in the caller's order, at their original sizes. inputs: what `stage` made
        of them, or None to have it made now; the result is the same to the bit.
        Raises TooLong when the instruction has more tokens than the model takes.
        """

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        """Take every state one step further; all have an equal `key`."""

    def decode(self, state: DenoiseState) -> Pixels:
        """The finished image, uint8 (spec.height, spec.width, 3)."""

    def preview(self, state: DenoiseState) -> Pixels:
        """A small image of the present guess (x0 estimate), uint8, one pixel per latent cell."""

    def memory_bytes(self, spec: EditSpec, image_count: int) -> int:
        """An upper estimate of the device memory one running edit holds between ticks."""

    def state_budget_bytes(self) -> int | None:
        """Device memory that all running edits may hold together between ticks; None for no limit."""

    def leave_device(self) -> None:
        """Take the weights off the device, until `enter_device`. The states of edits stay there and stay valid."""

    def enter_device(self) -> None:
        """Bring the weights back; between the two no other verb but `stage` and `check_prompt` may be called."""
