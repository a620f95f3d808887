"""What a refusal is for a job: nothing on the device, nothing stored, nothing billed; black where one image is fine."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from retouch import images
from retouch.edit import Delivery, Expansion, ImageInput
from retouch.engine.pipeline import DenoiseState
from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.prompt_safety import Judgement, PromptChecker
from retouch.engine.rewrite import PromptExpander
from retouch.engine.safety import ImageChecker
from retouch.errors import Unavailable
from retouch.images import Pixels
from retouch.jobs.job import Job, JobState
from retouch.worker.policy import JobPolicy
from retouch.worker.settings import HeartbeatSettings, WorkerSettings
from retouch.worker.staging import Moderation
from tests.harness import ANNE, DELIVERY, Deployment, GatedPipeline
from tests.waiting import WITHIN_S, until

FAL = Delivery(protocol="fal", endpoint="fal-ai/qwen-image-edit")


@dataclass
class Classifier:
    """Scores 1 for the images it is told of by their mean, 0 for all others."""

    flags: Callable[[Pixels], bool] = lambda image: False
    error: Exception | None = None
    seen: list[tuple[int, ...]] = field(default_factory=list)
    name: str = "told"
    category: str | None = "sexual"
    default_threshold: float = 0.5
    timeout_s: float | None = None

    def score(self, image: Pixels) -> float:
        self.seen.append(image.shape)
        if self.error is not None:
            raise self.error
        return float(self.flags(image))


@dataclass
class Guard:
    flagged: tuple[str, ...] = ()
    error: Exception | None = None
    name: str = "guard"
    prompts: list[str] = field(default_factory=list)

    def judge(self, prompt: str) -> Judgement:
        self.prompts.append(prompt)
        if self.error is not None:
            raise self.error
        return Judgement(prompt in self.flagged, "violence", "told so")


class Counting(NullPipeline):
    """Counts what the device did; every finished image is of one grey, its number among the job's images times 40."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.steps = 0
        self.decoded = 0

    def prepare(self, spec, images, inputs=None):
        self.prepared.append(spec.prompt)
        return super().prepare(spec, images, inputs)

    def denoise(self, states: Sequence[DenoiseState]) -> None:
        self.steps += len(states)
        super().denoise(states)

    def decode(self, state: DenoiseState) -> Pixels:
        self.decoded += 1
        return np.full_like(super().decode(state), 40 * (state.spec.seed - 7 + 1))


def grey(value: int) -> Callable[[Pixels], bool]:
    return lambda image: bool((image == value).all())


def policy(
    classifier: Classifier | None = None, guard: Guard | None = None, threshold: float | None = None, **options: object
) -> JobPolicy:
    moderation = Moderation(**options)  # type: ignore[arg-type]
    return JobPolicy(
        replace(
            moderation,
            images=None if classifier is None else ImageChecker(classifier, threshold, moderation.tally.count),
            prompts=None
            if guard is None
            else PromptChecker(guard, lambda verdict, seconds: moderation.tally.count("prompt", verdict, seconds)),
        )
    )


def run(
    bench: Deployment, rules: JobPolicy, *, delivery: Delivery = DELIVERY, **changes: object
) -> tuple[Job, Counting]:
    pipeline = Counting()
    job = bench.submit(delivery=delivery, **changes)
    with bench.worker(pipeline, policy=rules):
        return bench.finished(job.id), pipeline


def stored(bench: Deployment, folder: str = "outputs") -> list[str]:
    return list(bench.blobs.keys(folder))


def pixels_of(bench: Deployment, job: Job) -> list[Pixels]:
    assert job.output is not None
    return [images.decode(bench.blobs.get(image.blob).data) for image in job.output.images]


# --- prompts and inputs


def test_a_refused_prompt_costs_no_step_and_is_not_billed(bench: Deployment) -> None:
    job, pipeline = run(bench, policy(guard=Guard(("make it red",))))
    assert job.failure is not None
    assert (job.failure.code, job.failure.field) == ("content_refused", "prompt")
    assert dict(job.failure.context) == {"stage": "prompt", "category": "violence"}
    assert (pipeline.prepared, pipeline.steps) == ([], 0)
    assert job.usage is None
    assert bench.service.usage(ANNE) == ()
    assert stored(bench) == []


def test_a_refused_input_costs_no_step_and_its_upload_is_gone(bench: Deployment) -> None:
    first = bench.blobs.put(images.encode(np.full((48, 64, 3), 10, np.uint8), "png"), "image/png", folder="uploads")
    second = bench.blobs.put(images.encode(np.full((48, 64, 3), 20, np.uint8), "png"), "image/png", folder="uploads")
    inputs = (ImageInput(blob=first, field="images[0]"), ImageInput(blob=second, field="images[1]"))
    job, pipeline = run(bench, policy(Classifier(grey(20))), images=inputs)
    assert job.failure is not None
    assert (job.failure.code, job.failure.field) == ("content_refused", "images[1]")
    assert dict(job.failure.context) == {"stage": "input", "category": "sexual"}
    assert (pipeline.prepared, pipeline.steps, job.usage) == ([], 0, None)
    assert first in stored(bench, "uploads")
    assert second not in stored(bench, "uploads")


def test_fals_edit_endpoints_check_outputs_only(bench: Deployment) -> None:
    classifier = Classifier()
    job, _ = run(bench, policy(classifier), delivery=FAL, model="fal-ai/qwen-image-edit")
    assert job.state is JobState.SUCCEEDED
    assert len(classifier.seen) == 1


# --- outputs


def test_at_threshold_0_fals_edit_delivers_black_and_says_so_for_nothing(bench: Deployment) -> None:
    job, _ = run(bench, policy(Classifier(), threshold=0.0), delivery=FAL, model="fal-ai/qwen-image-edit")
    assert job.state is JobState.SUCCEEDED
    assert job.output is not None
    assert job.usage is not None
    [image] = pixels_of(bench, job)
    assert image.shape == (job.output.images[0].height, job.output.images[0].width, 3)
    assert not image.any()
    assert [each.unsafe for each in job.output.images] == [True]
    assert (job.usage.images, job.usage.pixels, job.usage.price_microusd) == (0, 0, 0)


@pytest.mark.parametrize("model", ["fal-ai/qwen-image-2/edit", "qwen-image-edit"])
def test_at_threshold_0_the_others_name_the_first_input(bench: Deployment, model: str) -> None:
    job, pipeline = run(bench, policy(Classifier(), threshold=0.0), model=model)
    assert job.failure is not None
    assert (job.failure.code, job.failure.field) == ("content_refused", "images[0]")
    assert pipeline.steps == 0


def test_one_flagged_of_two_is_black_in_its_place_and_not_billed(
    bench: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "retouch")
    job, _ = run(bench, policy(Classifier(grey(80))), num_images=2)
    assert job.output is not None
    assert job.usage is not None
    first, second = pixels_of(bench, job)
    assert (first == 40).all()
    assert not second.any()
    assert [each.unsafe for each in job.output.images] == [False, True]
    assert job.usage.images == 1
    notice = job.output.notices[-1]
    assert notice.detail == "The safety checker refused image 2 of 2; it is delivered in black."
    lines = [str(event.data["message"]) for event in bench.service.events(job.id) if event.kind == "log"]
    assert lines == [notice.detail]
    message = f"the safety checker refused image 2 of 2, output of {job.id} (score 1, threshold 0.5)"
    assert message in [record.getMessage() for record in caplog.records]
    assert "score" not in json.dumps(job.output.to_json())


def test_when_every_output_is_flagged_the_job_fails_and_nothing_of_it_is_kept(bench: Deployment) -> None:
    job, pipeline = run(
        bench, policy(Classifier(lambda image: bool((image % 40 == 0).all() and image.any()))), num_images=2
    )
    assert job.failure is not None
    assert (job.failure.code, job.failure.field, job.failure.context["stage"]) == ("content_refused", None, "output")
    assert pipeline.decoded == 2
    assert stored(bench) == []
    assert job.usage is None


def test_flagged_pixels_never_reach_the_store(bench: Deployment) -> None:
    job, _ = run(bench, policy(Classifier(grey(40))), num_images=3)
    for folder in ("outputs", "previews"):
        for key in stored(bench, folder):
            assert not (images.decode(bench.blobs.get(key).data) == 40).all()
    assert job.state is JobState.SUCCEEDED


def test_the_composite_of_a_masked_edit_is_what_is_judged(bench: Deployment) -> None:
    source = np.full((48, 64, 3), 200, np.uint8)
    mask = np.zeros((48, 64, 4), np.uint8)
    mask[:, 32:, 3] = 255  # opaque is kept
    blob = bench.blobs.put(images.encode(source, "png"), "image/png", folder="uploads")
    file = io.BytesIO()
    Image.fromarray(mask, "RGBA").save(file, "PNG")
    mask_blob = bench.blobs.put(file.getvalue(), "image/png", folder="uploads")
    seen: list[Pixels] = []
    classifier = Classifier(lambda image: bool(seen.append(image)))
    job, _ = run(
        bench,
        policy(classifier),
        delivery=FAL,
        model="fal-ai/qwen-image-edit",
        images=(ImageInput(blob=blob),),
        mask=ImageInput(blob=mask_blob, field="mask"),
    )
    assert job.state is JobState.SUCCEEDED
    [judged] = seen
    assert (judged[:, -8:] == 200).all()
    assert (judged[:, :8] == 40).all()
    assert np.array_equal(judged, pixels_of(bench, job)[0])


# --- switches and failures


def test_without_a_checker_nothing_is_flagged_and_nothing_is_claimed(bench: Deployment) -> None:
    job, _ = run(bench, policy())
    assert job.output is not None
    assert [image.unsafe for image in job.output.images] == [None]


def test_a_caller_may_switch_the_checks_off(bench: Deployment) -> None:
    classifier, guard = Classifier(), Guard(("make it red",))
    job, _ = run(bench, policy(classifier, guard, threshold=0.0), enable_safety_checker=False)
    assert job.state is JobState.SUCCEEDED
    assert (classifier.seen, guard.prompts) == ([], [])


def test_unless_the_operator_enforces_them(bench: Deployment) -> None:
    classifier = Classifier()
    job, _ = run(bench, policy(classifier, enforce=True), enable_safety_checker=False)
    assert job.output is not None
    assert [image.unsafe for image in job.output.images] == [False]
    assert ("enable_safety_checker", "converted") in [(n.parameter, n.action) for n in job.output.notices]


@pytest.mark.parametrize("where", ["images", "prompt"])
def test_a_checker_that_fails_refuses_but_never_as_flagged(bench: Deployment, where: str) -> None:
    broken = RuntimeError("broken")
    rules = policy(Classifier(error=broken)) if where == "images" else policy(guard=Guard(error=broken))
    job, pipeline = run(bench, rules)
    assert job.failure is not None
    assert job.failure.code == "safety_unavailable"
    assert "broken" not in job.failure.message
    assert (pipeline.steps, job.usage) == (0, None)


@pytest.mark.parametrize("where", ["images", "prompt"])
def test_or_delivers_with_a_notice_where_the_operator_says_so(bench: Deployment, where: str) -> None:
    broken = RuntimeError("broken")
    rules = (
        policy(Classifier(error=broken), failure="pass")
        if where == "images"
        else policy(Classifier(), Guard(error=broken), failure="pass")
    )
    job, _ = run(bench, rules)
    assert job.output is not None
    assert [image.unsafe for image in job.output.images] == [None if where == "images" else False]
    assert "Not checked: the safety checker failed." in [notice.detail for notice in job.output.notices]


def test_each_verdict_is_counted_once(bench: Deployment) -> None:
    rules = policy(Classifier(grey(80)), Guard())
    often = WorkerSettings(heartbeat=HeartbeatSettings(beat_s=0.05))
    with bench.worker(Counting(), policy=rules, settings=often):
        bench.finished(bench.submit(num_images=2).id)
        until(lambda: safety_seconds(bench) == pytest.approx(rules.moderation.tally.seconds) != 0)
    counts = rules.moderation.tally.checks
    assert {name: count for name, count in counts.items() if not name.startswith("preview")} == {
        "prompt passed": 1,
        "input passed": 1,
        "output passed": 1,
        "output flagged": 1,
    }


def safety_seconds(bench: Deployment) -> float:
    return sum(worker.seconds.get("safety", 0.0) for worker in bench.service.statistics().workers)


# --- previews


@pytest.mark.parametrize("flagged", [False, True])
def test_a_flagged_preview_is_not_published(bench: Deployment, flagged: bool) -> None:
    checked = threading.Event()

    def look(image: Pixels) -> bool:
        if image.shape[0] < 48:  # smaller than the input: a preview
            checked.set()
            return flagged
        return False

    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(delivery=replace(DELIVERY, previews=3), steps=4)
    with bench.worker(pipeline, policy=policy(Classifier(look))):
        bench.gate.wait_for_arrival()
        bench.gate.let()
        assert checked.wait(15)
        bench.gate.let()
        published = lambda: any(event.kind == "preview" for event in bench.service.events(job.id))  # noqa: E731
        if not flagged:
            until(published)
        bench.gate.let(10)
        assert bench.finished(job.id).state is JobState.SUCCEEDED
        assert published() is not flagged
    assert bool(stored(bench, "previews")) is not flagged


def test_a_preview_is_published_when_it_is_ready_though_the_edit_stands_still(bench: Deployment) -> None:
    """Its step was reported while it was still being checked."""
    told = threading.Event()

    def look(image: Pixels) -> bool:
        return image.shape[0] < 48 and not told.wait(WITHIN_S)  # smaller than the input: a preview

    def steps_and_previews() -> list[tuple[str, object]]:
        events = bench.service.events(job.id)
        return [(event.kind, event.data["step"]) for event in events if event.kind in ("step", "preview")]

    pipeline = GatedPipeline(bench.gate)
    job = bench.submit(delivery=replace(DELIVERY, previews=3), steps=4)
    with bench.worker(pipeline, policy=policy(Classifier(look))):
        bench.gate.let()
        until(lambda: steps_and_previews() == [("step", 1)])
        told.set()
        until(lambda: len(steps_and_previews()) > 1)
        assert steps_and_previews() == [("step", 1), ("preview", 1)]


# --- prompt expansion


@dataclass
class Rewriter:
    replies: list[str | Unavailable]
    name: str = "told"
    prompts: list[str] = field(default_factory=list)
    hold: threading.Event | None = None
    inside: threading.Event = field(default_factory=threading.Event)

    def answer(self, prompt: str, images: Sequence[Pixels], cancelled: Callable[[], bool]) -> str:
        self.prompts.append(prompt)
        self.inside.set()
        while self.hold is not None and not self.hold.wait(0.01):
            if cancelled():
                raise Unavailable("the edit was stopped")
        reply = self.replies.pop(0)
        if isinstance(reply, Unavailable):
            raise reply
        return reply


def reply(text: str) -> str:
    return json.dumps({"Rewritten": text})


def with_rewriter(rewriter: Rewriter, rules: JobPolicy | None = None) -> JobPolicy:
    return replace(rules or policy(), expander=PromptExpander(rewriter))


def test_the_rewritten_prompt_is_the_one_that_is_denoised_and_reported(bench: Deployment) -> None:
    job, pipeline = run(bench, with_rewriter(Rewriter([reply("Turn the photo grey.")])), enable_prompt_expansion=True)
    assert job.output is not None
    assert pipeline.prepared == ["Turn the photo grey."]
    assert job.output.prompt == "Turn the photo grey."
    assert job.request.prompt == "make it red"
    notice = job.output.notices[-1]
    assert (notice.parameter, notice.action, notice.detail) == (
        "enable_prompt_expansion",
        "converted",
        "Turn the photo grey.",
    )


def test_a_prompt_is_rewritten_only_where_that_is_wanted(bench: Deployment) -> None:
    rewriter = Rewriter([])
    job, pipeline = run(bench, with_rewriter(rewriter))
    assert (rewriter.prompts, pipeline.prepared) == ([], ["make it red"])
    assert job.output is not None
    assert job.output.notices == ()


@pytest.mark.parametrize(
    "answer", [Unavailable("the rewriter answered with status 500"), "no JSON", reply("a" * 1001), reply('write "HI"')]
)
def test_a_rewrite_that_cannot_be_used_leaves_the_callers_words(bench: Deployment, answer: str | Unavailable) -> None:
    job, pipeline = run(bench, with_rewriter(Rewriter([answer])), enable_prompt_expansion=True)
    assert job.output is not None
    assert pipeline.prepared == [job.output.prompt] == ["make it red"]
    assert job.output.notices[-1].action == "ignored"
    assert job.output.notices[-1].detail.startswith("The prompt was used as it is: the ")


def test_a_server_without_a_rewriter_says_so(bench: Deployment) -> None:
    job, _ = run(bench, policy(), enable_prompt_expansion=True)
    assert job.output is not None
    assert job.output.notices[-1].detail == "This server has no prompt expansion; the prompt was used."


def test_a_rewrite_is_judged_again_and_a_refused_one_is_dropped(bench: Deployment) -> None:
    guard = Guard(("Something worse.",))
    job, pipeline = run(
        bench, with_rewriter(Rewriter([reply("Something worse.")]), policy(guard=guard)), enable_prompt_expansion=True
    )
    assert job.state is JobState.SUCCEEDED
    assert guard.prompts == ["make it red", "Something worse."]
    assert pipeline.prepared == ["make it red"]


@pytest.mark.parametrize(
    ("answer", "kept"), [(reply("Turn the photo grey."), "Turn the photo grey."), ("nonsense", "make it red")]
)
def test_the_decision_is_stored_before_the_first_step(bench: Deployment, answer: str, kept: str) -> None:
    pipeline = GatedPipeline(bench.gate, "denoise")
    job = bench.submit(enable_prompt_expansion=True)
    with bench.worker(pipeline, policy=with_rewriter(Rewriter([answer]))):
        bench.gate.wait_for_arrival()
        expansion = bench.job(job.id).request.expansion
        assert expansion is not None
        assert expansion.prompt == kept


def test_a_rewrite_that_cannot_be_judged_is_dropped_and_the_edit_goes_on(bench: Deployment) -> None:
    class OnceGuard(Guard):
        def judge(self, prompt: str) -> Judgement:
            self.error = RuntimeError("broken") if self.prompts else None
            return super().judge(prompt)

    rules = with_rewriter(Rewriter([reply("Turn the photo grey.")]), policy(guard=OnceGuard()))
    job, pipeline = run(bench, rules, enable_prompt_expansion=True)
    assert job.state is JobState.SUCCEEDED
    assert pipeline.prepared == [job.request.prompt]


@pytest.mark.parametrize("rewrites", [True, False])
@pytest.mark.parametrize("reason", ["", "the rewriter answered with status 500"])
def test_a_second_attempt_uses_the_words_of_the_first(bench: Deployment, reason: str, rewrites: bool) -> None:
    job = bench.submit(enable_prompt_expansion=True)
    lease = bench.service.lease("worker-that-dies", (bench.checkpoint.name,), 30)
    assert lease is not None
    bench.service.keep_expansion(lease, Expansion("Turn the photo grey.", reason))
    bench.service.release(lease)
    second, pipeline = Rewriter([reply("Something else.")]), Counting()
    with bench.worker(pipeline, policy=with_rewriter(second) if rewrites else policy()):
        finished = bench.finished(job.id)
    assert (second.prompts, pipeline.prepared) == ([], ["Turn the photo grey."])
    assert finished.output is not None
    assert finished.output.prompt == "Turn the photo grey."


def test_a_cancel_while_the_prompt_is_rewritten_ends_the_job(bench: Deployment) -> None:
    rewriter = Rewriter([reply("late")], hold=threading.Event())
    job = bench.submit(enable_prompt_expansion=True)
    pipeline = Counting()
    with bench.worker(pipeline, policy=with_rewriter(rewriter)):
        assert rewriter.inside.wait(15)
        bench.service.cancel(ANNE, job.id)
        assert bench.finished(job.id).state is JobState.CANCELLED
    assert pipeline.prepared == []


# --- what the files say


def test_files_are_marked_unless_the_operator_wants_none(bench: Deployment) -> None:
    job, _ = run(bench, policy())
    assert job.output is not None
    assert b"compositeWithTrainedAlgorithmicMedia" in bench.blobs.get(job.output.images[0].blob).data
    assert b"make it red" not in bench.blobs.get(job.output.images[0].blob).data
    plain, _ = run(bench, replace(policy(), provenance=images.NO_PROVENANCE))
    assert plain.output is not None
    assert b"xmp" not in bench.blobs.get(plain.output.images[0].blob).data.lower()
