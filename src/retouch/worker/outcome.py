"""What the service records of a finished job: the output and the usage. Prices are not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retouch.catalog import Checkpoint
from retouch.edit import EditOutput, Notice, OutputImage, Usage
from retouch.worker.leased import LeasedJob


def output_of(
    job: LeasedJob,
    images: Sequence[OutputImage],
    checkpoint: Checkpoint,
    *,
    notices: Sequence[Notice] = (),
    stage_out_s: float,
) -> EditOutput:
    """The answer's facts. `images` are stored already, in order; `notices` come after those of staging and model."""
    staged = job.staged
    assert staged is not None, "a finished job was staged"
    device = sum_timings([job.timings[edit_id] for edit_id in job.edit_ids])
    inference_s = sum(device.values())
    return EditOutput(
        images=tuple(images),
        prompt=staged.specs[0].prompt,
        timings={"stage_in": job.stage_in_s, **device, "stage_out": stage_out_s, "inference": inference_s},
        canvas=staged.sizes.canvas,
        notices=(*staged.notices, *job.notices, *notices),
        applied={"acceleration": staged.specs[0].acceleration.value, "checkpoint": checkpoint.name},
    )


def usage_of(job: LeasedJob, output: EditOutput) -> Usage:
    """What the ledger counts: device time is what the engine worked for this job, not how long it waited.

    An image that was refused and delivered in black costs nothing.
    """
    delivered = [image for image in output.images if not image.unsafe]
    return Usage(
        images=len(delivered),
        pixels=sum(image.width * image.height for image in delivered),
        steps=job.steps,
        device_ms=round(output.timings["inference"] * 1000),
    )


def sum_timings(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by stage of all images together."""
    names = dict.fromkeys(name for timing in timings for name in timing)
    return {name: sum(timing.get(name, 0.0) for timing in timings) for name in names}
