"""`retouch bench`: seconds of an edit of the sample photo on this machine. No server, and nothing is kept."""

from __future__ import annotations

import statistics
import sys
import time
from importlib.resources import files

from retouch import images
from retouch.catalog import MODELS, Route, checkpoint_named
from retouch.cli.loras import fast_lora_file, with_fast_lora
from retouch.cli.process import bound_kernel_cache
from retouch.edit import Acceleration, EditRequest, EditSpec, ImageInput
from retouch.engine.engine import Engine, Finished
from retouch.engine.pipelines import load_pipeline
from retouch.images import Pixels
from retouch.settings import LoraSettings, ModelSettings, NetworkSettings, StoreSettings, read
from retouch.sizes import resolve

INSTRUCTION = "make it grayscale"


def measure(model: ModelSettings, loras: LoraSettings, rounds: int) -> None:
    """Load the checkpoint, edit once unmeasured, then print the medians for each acceleration."""
    named = checkpoint_named(model.only_model, accept_research_licence=model.accept_research_licence)
    [checkpoint] = with_fast_lora([named], loras)
    fast_lora = fast_lora_file(checkpoint, read(StoreSettings), read(NetworkSettings))
    bound_kernel_cache()
    began = time.perf_counter()
    pipeline = load_pipeline(
        checkpoint,
        device=model.device,
        precision=model.precision,
        offload=model.offload,
        compiled=model.compile,
        fast_lora=fast_lora,
    )
    engine = Engine(pipeline)
    sys.stdout.write(f"{checkpoint.name} loaded in {time.perf_counter() - began:.1f} s\n")
    photo = images.decode((files("retouch") / "samples" / "cat.jpg").read_bytes(), field="sample")
    route = Route(MODELS[0], checkpoint)
    for acceleration in Acceleration:
        wanted = EditRequest(MODELS[0].id, INSTRUCTION, (ImageInput(blob="sample"),), acceleration=acceleration, seed=1)
        request, _ = route.complete(wanted)
        if request.acceleration is not acceleration:
            sys.stdout.write(f"{acceleration}: not there\n")
            continue
        width, height = resolve(request.size, checkpoint.sizes, (photo.shape[1], photo.shape[0])).canvas
        assert request.steps is not None
        assert request.guidance_scale is not None
        spec = EditSpec(INSTRUCTION, width, height, 1, request.steps, request.guidance_scale, acceleration=acceleration)
        finished = [edit(engine, spec, photo) for _ in range(rounds + 1)][1:]
        stages = {
            name: statistics.median(one.timings[name] for one in finished) for name in ("prepare", "denoise", "decode")
        }
        parts = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in stages.items())
        sys.stdout.write(
            f"{acceleration}: {width} x {height}, {spec.steps} steps, {sum(stages.values()):.3f} s: {parts}\n"
        )


def edit(engine: Engine, spec: EditSpec, photo: Pixels) -> Finished:
    """One edit to its end. Raises what it failed with."""
    engine.add(spec, [photo])
    while engine.busy:
        report = engine.step()
        for failed in report.failed:
            raise failed.error
        for finished in report.finished:
            return finished
    raise AssertionError("an edit ends finished or failed")
