"""`retouch worker` with a pipeline that loses its device at each prompt that begins with "poison".

    python -m tests.durability.poisoned_worker --attached

Everything else is the real command. As in CUDA, whatever is called after the error fails with it, and only a new
process computes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retouch.catalog import Checkpoint
from retouch.cli import worker
from retouch.cli.main import run
from retouch.engine.pipeline import DenoiseState, Pipeline
from retouch.engine.pipelines.null import NullPipeline
from retouch.images import Pixels

ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect."
)


class AcceleratorError(RuntimeError):
    """Named as torch's own, which is not here without a GPU."""


class PoisonedPipeline(NullPipeline):
    shared_step_tokens = 0

    def __init__(self) -> None:
        self._lost = False

    def prepare(self, *given: Any, **named: Any) -> DenoiseState:
        self._use()
        return super().prepare(*given, **named)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        self._lost = self._lost or any(state.spec.prompt.startswith("poison") for state in states)
        self._use()
        super().denoise(states)

    def decode(self, state: DenoiseState) -> Pixels:
        self._use()
        return super().decode(state)

    def _use(self) -> None:
        if self._lost:
            raise AcceleratorError(ILLEGAL)


def load(_checkpoint: Checkpoint, **_how: Any) -> Pipeline:
    return PoisonedPipeline()


if __name__ == "__main__":
    worker.load_pipeline = load  # type: ignore[assignment]
    run()
