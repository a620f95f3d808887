"""`retouch edit`: one edit through staging and the engine alone. No server, no database, no files but the answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from retouch import sizes
from retouch.catalog import MODELS, Route, checkpoint_named
from retouch.cli.loras import fast_lora_file, lora_of_argument, own_lora, with_fast_lora
from retouch.cli.policy import RESIDENT, check_safety, moderation, provenance_of
from retouch.cli.process import bound_kernel_cache
from retouch.edit import Acceleration, EditRequest, ImageInput, OutputFormat
from retouch.engine.device_errors import DeviceLost
from retouch.engine.engine import Engine, Finished
from retouch.engine.pipeline import Pipeline, Speaks
from retouch.engine.pipelines import load_pipeline
from retouch.errors import InternalError, InvalidSetting, NotOneOf
from retouch.settings import (
    LoraSettings,
    ModelSettings,
    NetworkSettings,
    ProvenanceSettings,
    SafetySettings,
    StoreSettings,
    read,
)
from retouch.worker.staging import Staged, finish_image, stage_in

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".avif": "avif", ".gif": "gif"}


def edit(  # noqa: PLR0917 - one settings class for each component
    model: ModelSettings,
    safety: SafetySettings,
    provenance: ProvenanceSettings,
    loras: LoraSettings,
    arguments: Sequence[str],
    out: Path,
    *,
    seed: int | None,
    steps: int | None,
    size: str | None,
    guidance_scale: float | None,
    acceleration: Acceleration,
    named_loras: Sequence[str] = (),
) -> None:
    """Write the edited image to `out` and print its seed. Raises RetouchError, and then writes nothing."""
    *images, instruction = arguments
    if not images:
        raise InvalidSetting(
            'Give at least one image and then the instruction: retouch edit photo.jpg "make it grayscale".'
        )
    check_words(instruction)
    output_format = format_of(out)
    check_place(out)
    named = checkpoint_named(model.only_model, accept_research_licence=model.accept_research_licence)
    [checkpoint] = with_fast_lora([named], loras)
    store, network = read(StoreSettings), read(NetworkSettings)
    check_safety(safety, checkpoint)
    marks = provenance_of(provenance)
    edit_request = EditRequest(
        model=checkpoint.name,
        prompt=instruction,
        images=tuple(ImageInput(blob=name, field=name) for name in images),
        size=sizes.parse(size=size),
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        acceleration=acceleration,
        output_format=output_format,
        loras=tuple(lora_of_argument(name) for name in named_loras),
    )
    widest = replace(MODELS[0], id=checkpoint.name)  # the limits of the widest public row, under the checkpoint's name
    request, notices = Route(widest, checkpoint).complete(edit_request)
    console = Console(stderr=True)
    staged = stage_in(
        request, checkpoint, lambda image: read_image(image.blob or ""), partial(own_lora, store, network)
    )
    for notice in (*notices, *staged.notices):
        console.print(notice.detail, style="dim", highlight=False)

    bound_kernel_cache()

    @cache
    def loaded() -> Pipeline:
        with console.status(f"Loading {checkpoint.name} …"):
            wanted = Speaks(judges=safety.prompt_checker == RESIDENT)
            return load_pipeline(
                checkpoint,
                device=model.device,
                speaks=wanted,
                precision=model.precision,
                offload=model.offload,
                compiled=model.compile,
                fast_lora=fast_lora_file(checkpoint, store, network),
            )

    # Before the model is loaded, unless the model itself is to judge.
    checks = moderation(safety, model.device, lambda: partial(judge, loaded()))
    for notice in (
        *checks.check_prompt(request, request.prompt, job="edit"),
        *checks.check_inputs(request, staged.images, job="edit"),
    ):
        console.print(notice.detail, style="dim", highlight=False)
    finished = run(Engine(loaded()), staged, console)
    image = finish_image(finished.pixels, staged)
    _, remarks = checks.check_outputs(request, [image], job="edit")
    for notice in (*finished.notices, *remarks):
        console.print(notice.detail, style="dim", highlight=False)
    write_image(out, marks.encode(image, request.output_format, request.output_quality))
    sys.stdout.write(f"{out}  {image.shape[1]}x{image.shape[0]}  seed {request.seed}\n")


def run(engine: Engine, staged: Staged, console: Console) -> Finished:
    """Drive the engine to the one image, with a progress bar. Raises what the edit failed with."""
    [spec] = staged.specs
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn(compact=True), TextColumn("left")),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Editing", total=spec.steps)
        engine.add(spec, staged.images)
        while engine.busy:
            try:
                report = engine.step()
            except DeviceLost as error:
                raise InternalError(f"{error} It said: {error.__cause__}") from error
            for failed in report.failed:
                raise failed.error
            for moved in report.progressed:
                progress.update(task, completed=moved.step)
            for finished in report.finished:
                return finished
    raise AssertionError("an edit ends finished or failed")


def judge(pipeline: Pipeline, prompt: str) -> float:
    """What the loaded model says of a prompt; here no engine's thread has to be waited for."""
    assert pipeline.language_model is not None, "it was loaded to judge"
    answer = pipeline.language_model.unsafe_score(prompt)
    while True:
        try:
            next(answer)
        except StopIteration as end:
            return float(end.value)


def format_of(out: Path) -> OutputFormat:
    """The image format a file name asks for; raises NotOneOf."""
    name = FORMATS.get(out.suffix.lower())
    if name is None:
        raise NotOneOf("out", out.name, tuple(FORMATS))
    return OutputFormat(name)


def check_words(instruction: str) -> None:
    """Raise InvalidSetting for bytes that are not UTF-8, which Python hands over as lone surrogates."""
    stray = next((character for character in instruction if "\udc80" <= character <= "\udcff"), None)
    if stray is not None:
        raise InvalidSetting(
            f"The instruction holds the byte 0x{ord(stray) - 0xDC00:02X}, which is not UTF-8; write it in UTF-8."
        )


def check_place(out: Path) -> None:
    """Raise InvalidSetting when `out` cannot be written: said before the work, not after it."""
    if not out.parent.exists():
        raise InvalidSetting(f"The folder '{out.parent}' of the file to write does not exist.")
    if not out.parent.is_dir():
        raise InvalidSetting(f"'{out.parent}' is not a folder, so '{out}' cannot be written.")
    if out.is_dir():
        raise InvalidSetting(f"'{out}' is a folder; give the name of a file.")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise InvalidSetting(f"The file '{out}' cannot be written: permission denied.")


def read_image(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidSetting(f"The image '{name}' cannot be read: {error.strerror}.") from None


def write_image(out: Path, data: bytes) -> None:
    try:
        out.write_bytes(data)
    except OSError as error:
        raise InvalidSetting(f"The file '{out}' cannot be written: {error.strerror}.") from None
