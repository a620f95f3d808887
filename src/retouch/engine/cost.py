"""How many device seconds an edit takes and how much memory it holds, predicted from its sizes and its settings.

`Work` is what can be known before anything runs, `Cost` turns it into seconds, `QueueCosts` predicts an edit by the
costs of a queue's devices, `CostLearner` fits a cost to what a device was measured at. The queue orders by these
seconds, the worker leases by them, callers are told them. A prediction that is wrong delays edits and nothing else: no
result depends on it. It knows no tensors and no database.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal, TypeAlias

import numpy as np

from retouch.catalog import Checkpoint
from retouch.edit import Acceleration, EditRequest, EditSpec
from retouch.errors import InvalidRequest
from retouch.sizes import resolve

Stage: TypeAlias = Literal["prepare", "denoise", "decode"]

STAGES: frozenset[Stage] = frozenset(("prepare", "denoise", "decode"))

TOKEN = 16
"""Pixels per token and side of an image, in all networks of the family."""

VISION_TOKEN = 28
"""The same for what the language model sees."""

TEMPLATE_TOKENS = 10
"""What the template adds to the words and is not dropped."""

CHARACTERS_PER_TOKEN = 4

PRIOR = {
    # 1 MP, one reference, 8,462 tokens a branch: 0.212 s, of them 0.145 s linear and 0.067 s attention (computed
    # for 790 TFLOP/s); text 0.13 s, encode 0.04 s, decode 0.06 s (published for Qwen-Image-Edit on an H200).
    "denoise": (0.002, 1.72e-5, 9.3e-10),
    "prepare": (0.02, 1.0e-5, 4.0e-4),
    "decode": (0.01, 1.5e-5),
}
"""Seconds per unit of each feature of a stage, for a device nothing is known of. Right in their proportions."""

WIDEST = 3584
"""Channels of an embedding or projection, at most, in the networks we know."""

ROTATION_BYTES = 64 * 8
"""Of one token: half a head of complex numbers."""

KEPT = 9
"""Measurements kept of one shape; their median counts, so that a busy machine's outliers do not."""

SHAPES = 64
"""Shapes kept; the one that was measured longest ago goes first."""

PULL = 0.001
"""Weight of a coefficient's prior against one shape's measurements, once the scale is right."""

FAR = 0.2
"""Relative error from which a shape counts less and less (Huber)."""

COSTS_FRESH_S = 2.0
"""How long a process goes by what it has read of the devices' costs."""

TOLERANCE = 0.9
"""Share of the memory predicted from areas that an edit needs at the least, whatever its images' shapes."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one image asks of a device.

    target, references, text: tokens of one branch. branches: 2 when guided. acceleration: the one that is applied.
    """

    target: int
    references: int
    text: int
    branches: int
    steps: int
    acceleration: str = Acceleration.NONE.value

    def features(self, stage: Stage) -> tuple[float, ...]:
        """What a stage's seconds are linear in; of one step, for `denoise`."""
        tokens = self.target + self.references + self.text
        if stage == "denoise":
            return 1.0, float(self.branches * tokens), float(self.branches * tokens**2)
        if stage == "prepare":
            return 1.0, float(self.references), float(self.branches * self.text)
        return 1.0, float(self.target)


def work_of(request: EditRequest, checkpoint: Checkpoint) -> Work:
    """The work of each image of a completed request, whose inputs may not have been looked at: areas, not shapes."""
    canvas = resolve(request.size, checkpoint.sizes, None).canvas
    prompts = (request.prompt, request.negative_prompt or "")
    guided, acceleration = (request.guidance_scale or 1.0) > 1, request.acceleration or Acceleration.NONE
    work = _work(checkpoint, canvas, len(request.images), prompts, request.steps or 1, guided=guided)
    return replace(work, acceleration=acceleration.value) if checkpoint.block_cache else work


def work_of_spec(spec: EditSpec, image_count: int, checkpoint: Checkpoint) -> Work:
    """The same once everything is decided."""
    prompts, canvas = (spec.prompt, spec.negative_prompt), (spec.width, spec.height)
    work = _work(checkpoint, canvas, image_count, prompts, spec.steps, guided=spec.guidance_scale > 1)
    return replace(work, acceleration=spec.acceleration.value) if checkpoint.block_cache else work


def typical_work(checkpoint: Checkpoint) -> Work:
    """What an edit of one image with the checkpoint's own settings asks for."""
    side = round(checkpoint.sizes.default_area**0.5)
    return _work(checkpoint, (side, side), 1, ("", ""), checkpoint.steps, guided=checkpoint.guidance_scale > 1)


def _work(
    checkpoint: Checkpoint,
    canvas: tuple[int, int],
    image_count: int,
    prompts: tuple[str, str],
    steps: int,
    *,
    guided: bool,
) -> Work:
    area = canvas[0] * canvas[1]
    reference = area if checkpoint.references_fit_canvas else checkpoint.reference_area
    words = max(len(prompt) for prompt in prompts[: 2 if guided else 1])
    return Work(
        target=area // TOKEN**2,
        references=image_count * (reference // TOKEN**2),
        text=image_count * (checkpoint.vision_area // VISION_TOKEN**2)
        + words // CHARACTERS_PER_TOKEN
        + TEMPLATE_TOKENS,
        branches=2 if guided else 1,
        steps=steps,
    )


@dataclass(frozen=True, slots=True)
class StateMemory:
    """What the states of running edits hold of a device between ticks, and what all of them may hold.

    budget_bytes: None for no limit. An upper estimate: latents and velocity in float32; references, prompts and their
    projections in the network's dtype; rotation tables; what an acceleration reuses, `width` channels a token;
    `step_bytes` for each step, of the table of modulation; and `prefix_bytes` for each token of text and references, of
    keys and values that are kept.
    """

    latent_channels: int
    itemsize: int
    width: int
    budget_bytes: int | None = None
    step_bytes: int = 0
    prefix_bytes: int = 0

    def bytes_of(self, work: Work, checkpoint: Checkpoint) -> int:
        reference = work.references * 9 // 8  # rounding to 32 may add
        text = work.text + checkpoint.max_prompt_tokens
        latents = (2 * work.target + reference) * self.latent_channels * 4 * 4
        embeddings = (reference + 2 * work.branches * text) * WIDEST * self.itemsize
        reused = 0
        if work.acceleration != Acceleration.NONE:
            reused = 2 * work.branches * work.target * self.width * self.itemsize
        reused += (work.steps + 1) * self.step_bytes
        reused += work.branches * (reference + text) * self.prefix_bytes
        return latents + embeddings + reused + (work.target + reference + work.branches * text) * ROTATION_BYTES


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per unit of each feature, by stage, on one kind of device; see `PRIOR`.

    accelerations: what a step takes with each, where an exact one takes 1. memory: of the device, where it is known.
    around_s: what a job takes besides the device: fetching, decoding, encoding, storing.
    """

    coefficients: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict(PRIOR))
    accelerations: Mapping[str, float] = field(default_factory=dict)
    memory: StateMemory | None = None
    around_s: float = 0.2

    def seconds_of(self, work: Work, stage: Stage) -> float:
        """Of one stage; of one step, for `denoise`."""
        plain = sum(k * feature for k, feature in zip(self.coefficients[stage], work.features(stage), strict=True))
        return plain * self.accelerations.get(work.acceleration, 1.0) if stage == "denoise" else plain

    def seconds(self, work: Work) -> float:
        """Of the device, for the whole image; above 0."""
        whole = self.seconds_of(work, "prepare") + self.seconds_of(work, "decode")
        return max(1e-6, whole + work.steps * self.seconds_of(work, "denoise"))

    def to_json(self) -> dict[str, Any]:
        stages = {stage: list(coefficients) for stage, coefficients in self.coefficients.items()}
        memory = None if self.memory is None else asdict(self.memory)
        shared = {"accelerations": dict(self.accelerations), "around_s": self.around_s}
        return {"stages": stages, "memory": memory, **shared}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cost:
        stages = {stage: tuple(map(float, coefficients)) for stage, coefficients in data["stages"].items()}
        memory = data.get("memory")
        found = None if memory is None else StateMemory(**memory)
        return cls({**PRIOR, **stages}, dict(data["accelerations"]), found, data.get("around_s", cls().around_s))


def seconds_on(costs: Sequence[Cost], work: Work) -> float:
    """Of the whole image, on the average of several kinds of devices; by the prior when none was measured."""
    return sum(cost.seconds(work) for cost in costs) / len(costs) if costs else Cost().seconds(work)


ReadCosts: TypeAlias = Callable[[str], Mapping[str, Mapping[str, Any]]]
"""Of a queue, by device: what `Cost.to_json` gave when it was measured."""


class QueueCosts:
    """What edits of each queue take, as one process has lately read it. Safe from any thread.

    read: asked when that is too old; what it raises is raised.
    """

    def __init__(self, read: ReadCosts) -> None:
        self._read = read
        self._known: dict[str, tuple[float, Mapping[str, Cost]]] = {}  # by queue, with the time they are fresh until

    def of_queue(self, queue: str, read: ReadCosts | None = None) -> Mapping[str, Cost]:
        """What is known of a queue, by device; at most COSTS_FRESH_S old. read: where it is to be read now."""
        until, known = self._known.get(queue, (0.0, {}))
        if time.monotonic() < until:
            return known
        known = {device: Cost.from_json(cost) for device, cost in (read or self._read)(queue).items()}
        self._known[queue] = time.monotonic() + COSTS_FRESH_S, known
        return known

    def forget(self, queue: str) -> None:
        """Read a queue anew, which has just been measured."""
        self._known.pop(queue, None)

    def predict(
        self, request: EditRequest, checkpoint: Checkpoint, read: ReadCosts | None = None
    ) -> tuple[float, float]:
        """Device seconds, all images together, of an edit whose images have not been looked at, and of a typical.

        read: as for `of_queue`.
        """
        costs = tuple(self.of_queue(checkpoint.name, read).values())
        seconds = request.num_images * seconds_on(costs, work_of(request, checkpoint))
        return seconds, seconds_on(costs, typical_work(checkpoint))

    def refuse_what_never_fits(self, request: EditRequest, checkpoint: Checkpoint) -> None:
        """Raise InvalidRequest when no device of the queue has the memory, as far as its areas tell.

        Shapes are not known yet, which is what TOLERANCE leaves room for; the engine refuses by the exact sizes.
        """
        work = work_of(request, checkpoint)
        memories = [cost.memory for cost in self.of_queue(checkpoint.name).values()]
        if not memories or any(memory is None or memory.budget_bytes is None for memory in memories):
            return
        needed, given = max(
            ((memory.bytes_of(work, checkpoint), memory.budget_bytes or 0) for memory in memories if memory),
            key=lambda each: each[1] - each[0],
        )
        if needed * TOLERANCE > given:
            raise InvalidRequest(
                f"An edit of {work.target * TOKEN**2 / 1e6:.1f} megapixels with {len(request.images)} input images "
                f"needs {needed / 1e9:.2f} GB of device memory between its steps; the largest device here has "
                f"{given / 1e9:.2f} GB for that. Ask for a smaller size or give fewer images.",
                field="size",
            )


class CostLearner:
    """Fits a cost to measured stages, beginning from what is known already. Safe from any thread."""

    def __init__(self, known: Cost | None = None, memory: StateMemory | None = None) -> None:
        self._lock = threading.Lock()
        self._memory = memory
        self._prior = replace(known or Cost(), memory=memory)
        self._measured: OrderedDict[tuple[Stage, Work], deque[float]] = OrderedDict()
        self._fitted: dict[Stage, tuple[float, ...]] = {}  # of the stages that were not measured since
        self._around: deque[float] = deque(maxlen=KEPT)
        self._cost: Cost | None = self._prior

    def observe(self, work: Work, stage: Stage, seconds: float) -> None:
        """Note what a stage of an image took; one step of it, for `denoise`."""
        key = stage, replace(work, steps=0)
        with self._lock:
            self._measured.setdefault(key, deque(maxlen=KEPT)).append(seconds)
            self._measured.move_to_end(key)
            self._fitted.pop(stage, None)
            if len(self._measured) > SHAPES:
                (oldest, _), _ = self._measured.popitem(last=False)
                self._fitted.pop(oldest, None)
            self._cost = None

    def observe_edit(self, work: Work, timings: Mapping[str, float]) -> None:
        """Note the seconds by stage of a whole image, all steps together."""
        self.observe(work, "prepare", timings["prepare"])
        self.observe(work, "denoise", timings["denoise"] / work.steps)
        self.observe(work, "decode", timings["decode"])

    def observe_around(self, seconds: float) -> None:
        """Note what a job took besides the device."""
        with self._lock:
            self._around.append(seconds)
            self._cost = None

    @property
    def cost(self) -> Cost:
        """The best guess from all that was measured."""
        with self._lock:
            if self._cost is None:
                for stage in STAGES - self._fitted.keys():
                    self._fitted[stage] = self._fit(stage)
                exact: dict[str, tuple[float, ...]] = {stage: self._fitted[stage] for stage in STAGES}
                around_s = median(self._around) if self._around else self._prior.around_s
                ratios: dict[str, list[float]] = {}
                for work, seconds in self._medians("denoise", exact=False):
                    plain = Cost(exact).seconds_of(work, "denoise")
                    ratios.setdefault(work.acceleration, []).append(seconds / plain)
                measured = {name: median(found) for name, found in ratios.items()}
                self._cost = Cost(exact, {**self._prior.accelerations, **measured}, self._memory, around_s)
            return self._cost

    def _medians(self, stage: Stage, *, exact: bool) -> list[tuple[Work, float]]:
        return [
            (work, max(1e-9, median(seconds)))
            for (measured, work), seconds in self._measured.items()
            if measured == stage and (work.acceleration == Acceleration.NONE) == exact
        ]

    def _fit(self, stage: Stage) -> tuple[float, ...]:
        """Least squares of the relative errors over the shapes' medians, with few shapes near the scaled prior.

        Residuals beyond FAR are weighed down (iteratively, after Huber); no coefficient is below 0.
        """
        prior = np.array(self._prior.coefficients[stage])
        medians = self._medians(stage, exact=True)
        if not medians:
            return tuple(prior.tolist())
        features = np.array([work.features(stage) for work, _ in medians])
        seconds = np.array([measured for _, measured in medians])
        prior = prior * float(np.median(seconds / (features @ prior)))
        shares = features * prior / seconds[:, None]  # what each coefficient's prior explains of each shape
        weights = np.ones(len(medians))
        factors = np.ones(len(prior))
        for _ in range(5):
            factors = _non_negative(shares, weights)
            errors = np.abs(shares @ factors - 1)
            before, weights = weights, np.minimum(1.0, FAR / np.maximum(errors, 1e-9))
            if (weights == before).all():  # as for nearly every device: no shape is far off
                break
        return tuple((prior * factors).tolist())


def _non_negative(shares: Any, weights: Any) -> Any:
    """Factors >= 0 that bring every row of `shares` near 1, each pulled towards 1 by PULL."""
    free = list(range(shares.shape[1]))
    while True:
        part = shares[:, free]
        normal = (part * weights[:, None]).T @ part + PULL * np.eye(len(free))
        solution = np.linalg.solve(normal, part.T @ weights + PULL)
        if (solution >= 0).all():
            factors = np.zeros(shares.shape[1])
            factors[free] = solution
            return factors
        free = [column for column, factor in zip(free, solution, strict=True) if factor >= 0]
