"""The values that move through the engine: one edit's state, and what may share a step.

All state of an edit lives here, so that edits can take turns on one model without knowing of each other.
No torch import: tensors are typed as `Any` for readers and named with shape and dtype in comments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from retouch.edit import EditSpec, Notice


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
