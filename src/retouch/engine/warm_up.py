"""The first edit of a worker, which no caller waits for: kernels, the preview's map, and how fast the device is.

It is an ordinary edit of a grey image; nothing of it is kept but its times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retouch.catalog import Checkpoint
from retouch.edit import EditSpec
from retouch.engine.cost import CostLearner, work_of_spec
from retouch.engine.engine import Engine

STEPS = 2


def warm_up(
    engine: Engine, checkpoint: Checkpoint, learner: CostLearner, *, area: int, tell: Callable[[str], None]
) -> None:
    """Run one edit of about `area` pixels, tell how far it is, and teach its times. Raises what it fails with."""
    side = max(checkpoint.sizes.grid, round(area**0.5) // checkpoint.sizes.grid * checkpoint.sizes.grid)
    grey = np.full((side, side, 3), 127, np.uint8)
    spec = EditSpec("make it grey", side, side, seed=0, steps=STEPS, guidance_scale=checkpoint.guidance_scale)
    edit_id = engine.add(spec, [grey])
    work, done = work_of_spec(spec, 1, checkpoint), 0
    while True:
        tell(f"The model '{checkpoint.name}' is warming up ({done} of {STEPS + 2}).")
        report = engine.step()
        if report.action == "denoise":
            engine.preview(edit_id)
        done += 1
        for failed in report.failed:
            raise failed.error
        for finished in report.finished:
            learner.observe_edit(work, finished.timings)
            return
