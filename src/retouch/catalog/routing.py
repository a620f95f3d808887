"""What callers may ask for by a model id, which checkpoint serves it here, and what a request to it comes to.

The public ids are data, in `models.toml`; a row is a `Model`, and a `Route` with the checkpoint behind it. It loads
nothing and knows no weights.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from typing import Any, Final

from retouch.catalog.checkpoints import HOSTED, Checkpoint, FastLora
from retouch.catalog.normaliser import ServedTarget
from retouch.catalog.profiles import LOCAL, Limits, local_profile
from retouch.edit import Acceleration, EditRequest, Notice, OutputFormat, Usage, random_seed
from retouch.errors import (
    ImageTooLarge,
    InvalidRequest,
    InvalidSetting,
    NotOneOf,
    OutOfRange,
    TooLong,
    TooManyImages,
    UnknownModel,
    UnsupportedParameter,
)


@dataclass(frozen=True, slots=True)
class Price:
    """What an edit costs in whole millionths of a US dollar; a flat part per image and one per megapixel."""

    per_image_microusd: int = 0
    per_megapixel_microusd: int = 0

    def of(self, images: int, pixels: int) -> int:
        """Price of `images` images with `pixels` in all; a megapixel is 1,000,000 pixels, rounded half up."""
        return self.per_image_microusd * images + (self.per_megapixel_microusd * pixels + 500_000) // 1_000_000

    def dollars(self, images: int, pixels: int) -> float:
        """The same in dollars to eight decimals, as vendors write it; differs from `of` by its rounding only."""
        flat, by_area = 100 * self.per_image_microusd * images, (self.per_megapixel_microusd * pixels + 5_000) // 10_000
        return (flat + by_area) / 100_000_000


class Checks(StrEnum):
    """What the safety checker looks at, and what a caller gets whose images are all flagged."""

    OUTPUT = "output"  #: outputs only; a flagged one is delivered in black and marked, as fal's own toolkit does
    INPUT_AND_OUTPUT = "input+output"  #: an error when an input or every output is flagged


@dataclass(frozen=True, slots=True)
class Model:
    """A public model id: what its callers may send; a row of `models.toml`.

    steps, guidance: limits, or None where the public model has no such parameter.
    advised_side: least side of an input image, in pixels, that the vendor takes; a smaller one is reported, as
    nothing here needs more. max_side, max_image_bytes: of an input image and its file. promises_steps: callers
    have read `steps.default` on the vendor's page, so another number of steps is reported. checkpoints: names of those
    it means, the best first; where none of them is loaded, the first loaded one serves it. max_loras: 0
    where the public model has no such parameter.
    """

    id: str
    title: str
    max_images: int
    max_num_images: int
    steps: Limits | None
    guidance: Limits | None
    price: Price
    output_formats: tuple[OutputFormat, ...] = tuple(OutputFormat)
    accelerations: tuple[Acceleration, ...] = tuple(Acceleration)
    acceleration: Acceleration = Acceleration.REGULAR
    negative_prompt: str = " "
    max_prompt_characters: int = 32_000
    max_negative_prompt_characters: int = 32_000
    max_seed: int = 2**63 - 1
    advised_side: int | None = None
    max_side: int | None = None
    max_image_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    checks: Checks = Checks.INPUT_AND_OUTPUT
    promises_steps: bool = False
    checkpoints: tuple[str, ...] = ()
    max_loras: int = 0

    def check_image(self, width: int, height: int, size_bytes: int, *, field: str) -> tuple[Notice, ...]:
        """Raise ImageTooLarge when an input image is more than this model takes; a notice when it is small."""
        seen = f"The image in '{field}' has {width} × {height} pixels"
        high, most = self.max_side, self.max_image_bytes
        if high is not None and max(width, height) > high:
            raise ImageTooLarge(
                f"{seen}; each side must be at most {high}.", field=field, max_width=high, max_height=high
            )
        if most is not None and size_bytes > most:
            raise ImageTooLarge(
                f"The image in '{field}' has {size_bytes} bytes; at most {most} are allowed.",
                field=field,
                max_bytes=most,
            )
        if self.advised_side is not None and min(width, height) < self.advised_side:
            detail = f"It has {width} × {height} pixels; {self.advised_side} or more a side are advised."
            return (Notice(field, "converted", detail),)
        return ()


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "steps": lambda limits: Limits(*limits),
    "guidance": lambda limits: Limits(*limits),
    "price": lambda parts: Price(**parts),
    "output_formats": lambda words: tuple(map(OutputFormat, words)),
    "accelerations": lambda words: tuple(map(Acceleration, words)),
    "acceleration": Acceleration,
    "aliases": tuple,
    "checks": Checks,
    "checkpoints": tuple,
}
"""How a field of `Model` is read where TOML writes it as something else."""


def _model(row: Mapping[str, Any]) -> Model:
    """A mistake in the table is ours and raises."""
    values = {name: _READ[name](value) if name in _READ else value for name, value in row.items()}
    return Model(**{"steps": None, "guidance": None} | values)


MODELS: tuple[Model, ...] = tuple(
    map(_model, tomllib.loads(files(__package__).joinpath("models.toml").read_text(encoding="utf-8"))["models"])
)

LOCAL_PREFIX = "local/"
"""Before an id: this server's own workers only, where edits may also go to hosted providers."""


def model_named(model_id: str) -> Model | None:
    """The row of a public id or of another name for it, whether or not anything serves it."""
    plain = model_id.removeprefix(LOCAL_PREFIX)
    return next((model for model in MODELS if plain == model.id or plain in model.aliases), None)


def checks_of(model_id: str) -> Checks:
    """What is checked for a public id; for one without a row, such as the command line's, everything."""
    model = model_named(model_id)
    return Checks.INPUT_AND_OUTPUT if model is None else model.checks


@dataclass(frozen=True, slots=True)
class Route:
    """A model id and the checkpoint that serves it here; that is HOSTED where only upstreams do.

    hosted: edits of it may go to an upstream as well, so what the checkpoint cannot take is not refused yet.
    """

    model: Model
    checkpoint: Checkpoint
    hosted: bool = False

    @property
    def queue(self) -> str:
        return self.checkpoint.name

    def decided(self, *, upstream: bool) -> Route:
        """The one of its two ways that an edit takes."""
        return replace(self, checkpoint=HOSTED if upstream else self.checkpoint, hosted=False)

    def check(self, request: EditRequest, *, image_count: int | None = None) -> None:
        """Raise InvalidRequest when this model does not take `request`.

        image_count: how many input images there will be, for a request that has none of them yet.
        """
        request.check(image_count=image_count)
        image_count = len(request.images) if image_count is None else image_count
        model = self.model
        if len(request.prompt) > model.max_prompt_characters:
            raise TooLong("prompt", len(request.prompt), model.max_prompt_characters)
        negative = request.negative_prompt or ""
        if len(negative) > model.max_negative_prompt_characters:
            raise TooLong("negative_prompt", len(negative), model.max_negative_prompt_characters)
        max_images = model.max_images if self.hosted else min(model.max_images, self.checkpoint.max_images)
        if image_count > max_images:
            raise TooManyImages("images", image_count, max_images, model.id)
        _check_range("num_images", request.num_images, Limits(1, model.max_num_images, 1))
        _check_range("steps", request.steps, model.steps)
        _check_range("guidance_scale", request.guidance_scale, model.guidance)
        if request.seed is not None and request.seed > model.max_seed:
            raise OutOfRange("seed", request.seed, minimum=0, maximum=model.max_seed)
        if request.output_format not in model.output_formats:
            raise NotOneOf("output_format", request.output_format.value, tuple(f.value for f in model.output_formats))
        if request.acceleration is not None and request.acceleration not in model.accelerations:
            raise NotOneOf("acceleration", request.acceleration.value, tuple(a.value for a in model.accelerations))
        loras, most = len(request.loras), model.max_loras
        if loras and not most:
            raise UnsupportedParameter(f"The model '{model.id}' takes no LoRAs.", field="loras")
        if loras > most:
            raise InvalidRequest(
                f"The model '{model.id}' takes at most {most} LoRAs, not {loras}.", field="loras", max_length=most
            )
        if loras and not self.hosted and not self.checkpoint.takes_loras:
            raise UnsupportedParameter(f"'{self.checkpoint.name}' takes no LoRAs here.", field="loras")

    def complete(
        self, request: EditRequest, *, image_count: int | None = None
    ) -> tuple[EditRequest, tuple[Notice, ...]]:
        """Check `request` and fill its open fields; image_count as for `check`.

        Returns the request with seed, steps, guidance_scale, negative_prompt and acceleration set to what
        will run, and a notice for each parameter that will not be used as written. A hosted one stays as it is: what
        is open there is the provider's, and its seed is drawn for each call. Raises InvalidRequest.
        """
        self.check(request, image_count=image_count)
        if self.checkpoint is HOSTED:
            return request, ()
        guidance, negative = self._guidance(request), request.negative_prompt
        completed = replace(
            request,
            seed=random_seed() if request.seed is None else request.seed,
            steps=self._steps(request),
            guidance_scale=guidance,
            negative_prompt=self.model.negative_prompt if negative is None else negative,
            acceleration=self._acceleration(request),
        )
        return completed, tuple(self._notices(request, len(request.images) if image_count is None else image_count))

    def _acceleration(self, request: EditRequest) -> Acceleration:
        """What runs: `none` where there is no faster way, or it is fewer steps and the caller has named theirs."""
        wanted = request.acceleration or self.model.acceleration
        if wanted is Acceleration.HIGH and self.checkpoint.fast_lora is not None:
            return wanted
        if self.checkpoint.faster_steps is not None:
            return wanted if request.steps is None else Acceleration.NONE
        return wanted if self.checkpoint.block_cache else Acceleration.NONE

    def _fast_lora(self, request: EditRequest) -> FastLora | None:
        """The LoRA whose few steps are run."""
        return self.checkpoint.fast_lora if self._acceleration(request) is Acceleration.HIGH else None

    def _steps(self, request: EditRequest) -> int:
        if (fast := self._fast_lora(request)) is not None:
            return fast.steps
        if request.steps is not None:
            return request.steps
        faster, acceleration = self.checkpoint.faster_steps, self._acceleration(request)
        if faster is not None and acceleration is not Acceleration.NONE:
            return faster[0] if acceleration is Acceleration.REGULAR else faster[1]
        public = None if self.checkpoint.distilled else self.model.steps
        return self.checkpoint.steps if public is None else int(public.default)

    def _guidance(self, request: EditRequest) -> float:
        """The guidance scale that runs. Below 1 there is no second branch to weigh, which is what 1 means."""
        if self.checkpoint.distilled or self._fast_lora(request) is not None:
            return 1.0
        if request.guidance_scale is not None:
            return max(1.0, request.guidance_scale)
        return self.model.guidance.default if self.model.guidance else self.checkpoint.guidance_scale

    def _notices(self, request: EditRequest, image_count: int) -> Iterator[Notice]:
        """One for each parameter that was given, or promised, and will not be used as written."""
        checkpoint, name = self.checkpoint, f"'{self.checkpoint.name}'"
        guidance, used = request.guidance_scale, self._guidance(request)
        fast = self._fast_lora(request)
        without = f"{name} is distilled and runs without guidance" if checkpoint.distilled else ""
        without = "The few-step LoRA of 'high' runs without guidance" if fast is not None else without
        if guidance is not None and guidance != used:
            reason = without or "Guidance begins above 1; 1 and all below it mean none"
            yield Notice("guidance_scale", "converted", f"{reason}: {used:g} was used, not {guidance:g}.")
        if request.negative_prompt is not None and request.negative_prompt.strip() and used <= 1:
            reason = without or f"It is read when guidance_scale is above 1, and it is {used:g}"
            yield Notice("negative_prompt", "ignored", f"{reason}: nothing reads it.")
        promised = self.model.steps if self.model.promises_steps and request.steps is None else None
        if (
            promised is not None
            and fast is None
            and checkpoint.distilled
            and (steps := self._steps(request)) != promised.default
        ):
            detail = f"The default of {promised.default:g} is for the large model; {name} ran its own {steps}."
            yield Notice("steps", "converted", detail)
        if request.num_images > 1 and not checkpoint.seed_matters:
            detail = f"{name} makes the same image from every seed, so the {request.num_images} images are alike."
            yield Notice("num_images", "converted", detail)
        if checkpoint.looks_at is not None and image_count > checkpoint.looks_at:
            detail = f"{name} looks at the first {checkpoint.looks_at} of {image_count} images only."
            yield Notice("images", "ignored", detail)
        elif checkpoint.advised_images is not None and image_count > checkpoint.advised_images:
            detail = (
                f"{name} is at its best with up to {checkpoint.advised_images} images; all {image_count} were used."
            )
            yield Notice("images", "advised", detail)
        yield from self._acceleration_notices(request)

    def _acceleration_notices(self, request: EditRequest) -> Iterator[Notice]:
        fast = self._fast_lora(request)
        if fast is not None:
            ran = f"{fast.steps} step{'s' if fast.steps > 1 else ''}"
            yield Notice("acceleration", "applied", f"'high' ran {ran} with a few-step LoRA, without guidance.")
            if request.steps not in (None, fast.steps):
                yield Notice("steps", "converted", f"The few-step LoRA of 'high' runs {ran}, not {request.steps}.")
        elif request.acceleration not in (None, self._acceleration(request)):
            detail = "There is no faster way here yet: the exact one, 'none', was used."
            if self.checkpoint.faster_steps is not None:
                detail = f"It means fewer steps here, and 'steps' was given: exactly {request.steps} ran."
            yield Notice("acceleration", "converted", detail)
        elif request.acceleration is Acceleration.HIGH and self.checkpoint.block_cache:
            detail = "No few-step LoRA is loaded here, so 'high' reuses blocks over steps, more boldly than 'regular'."
            yield Notice("acceleration", "converted", detail)

    def price_microusd(self, usage: Usage) -> int:
        return self.model.price.of(usage.images, usage.pixels)


def _check_range(field: str, value: float | None, limits: Limits | None) -> None:
    if value is None or limits is None:
        return
    if not limits.minimum <= value <= limits.maximum:
        raise OutOfRange(field, value, minimum=limits.minimum, maximum=limits.maximum)


class Catalog:
    """Which model ids exist here and which checkpoint serves each."""

    def __init__(self, routes: Mapping[str, Route], named: Mapping[str, Route] | None = None) -> None:
        """routes: by public id. named: by other names that lead elsewhere than the id they stand for."""
        self._routes = dict(routes)
        self._forced: dict[str, Route] = {}
        self._leads: Callable[[str], tuple[bool, bool]] | None = None
        self._targets: Callable[[str], Sequence[ServedTarget]] | None = None
        self._named = dict(named or {})

    @classmethod
    def serving(cls, *checkpoints: Checkpoint) -> Catalog:
        """Serve every model id with the checkpoint of its name, or else with the first one given.

        Another name of an id leads to the checkpoint that it names, when that is a different one.
        Raises InvalidSetting for two checkpoints of one name, and for one that no id leads to.
        """
        loaded: dict[str, Checkpoint] = {}
        for checkpoint in checkpoints:
            if checkpoint.name.lower() in loaded:
                raise InvalidSetting(f"Two checkpoints are called '{checkpoint.name}'; --model takes each name once.")
            loaded[checkpoint.name.lower()] = checkpoint
        named = loaded | {each.source.lower(): each for each in checkpoints if each.source is not None}
        routes, others = {}, {}
        for model in MODELS:
            names = (model.id, *model.checkpoints)
            own = next((loaded[name] for name in names if name in loaded), checkpoints[0])
            routes[model.id] = Route(model, own)
            for alias in model.aliases:
                meant = named.get(alias.lower(), own)
                if meant is not own:
                    others[alias] = Route(replace(model, id=alias, aliases=()), meant)
        catalog = cls(routes, others)
        for checkpoint in checkpoints:
            if checkpoint.name not in catalog.queues:
                wanted = dict.fromkeys(name for model in MODELS for name in model.checkpoints)
                raise InvalidSetting(
                    f"No model id would lead to '{checkpoint.name}': the first checkpoint, '{checkpoints[0].name}', "
                    f"serves every id without one of its own. Name '{checkpoint.name}' first, or give its folder the "
                    f"name of one of {', '.join(wanted)}."
                )
        return catalog

    def lead(
        self,
        leads: Callable[[str], tuple[bool, bool]],
        forced: Mapping[str, Model],
        targets: Callable[[str], Sequence[ServedTarget]] | None = None,
    ) -> None:
        """From now on models also lead to upstreams; what an earlier call said is replaced.

        leads: whether edits of an id may run here, and whether they may go to an upstream; an id of which neither is
        true is no longer served. forced: more ids, all of whose edits go to one upstream; they stay known, so that
        old jobs can be read. targets: of an id, in their order.
        """
        self._forced |= {name: Route(replace(model, id=name, aliases=()), HOSTED) for name, model in forced.items()}
        self._leads = leads
        self._targets = targets

    def targets(self, route: Route) -> Sequence[ServedTarget]:
        """Where the edits of a model are made: our own queue, unless a routes file says otherwise."""
        plain = route.model.id.removeprefix(LOCAL_PREFIX)
        led = () if self._targets is None else tuple(self._targets(plain))
        led = led or (ServedTarget(LOCAL, local_profile()),)
        here = tuple(target for target in led if target.profile.local)
        return here if here and plain != route.model.id else led

    def route(self, model_id: str, *, queue: str | None = None) -> Route:
        """The route of a public id, or of one with LOCAL_PREFIX, which leads nowhere else; queue: of a job, which has
        taken its way. Raises UnknownModel with a suggestion, and for one that is not made here.
        """
        plain = model_id.removeprefix(LOCAL_PREFIX)
        if plain != model_id and queue is None and self._leads is not None:
            here = self._route(plain)
            if here.checkpoint is HOSTED:
                raise UnknownModel(f"The model '{here.model.id}' is not made here.", field="model")
            return Route(replace(here.model, id=f"{LOCAL_PREFIX}{here.model.id}", aliases=()), here.checkpoint)
        route = self._led(self._route(plain))
        return route.decided(upstream=True) if queue == HOSTED.name else route

    def _led(self, route: Route) -> Route:
        if self._leads is None or route.checkpoint is HOSTED:
            return route
        here, upstream = self._leads(route.model.id)
        if here:
            return replace(route, hosted=upstream)
        return Route(route.model, HOSTED)  # also where no route is for it, which the dispatch says

    def _route(self, model_id: str) -> Route:
        route = self._routes.get(model_id) or self._named.get(model_id) or self._forced.get(model_id)
        if route is not None:
            return route
        for candidate in self._routes.values():
            if model_id in candidate.model.aliases:
                return candidate
        near = difflib.get_close_matches(model_id, self._routes, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(self._routes)}."
        raise UnknownModel(f"There is no model '{model_id[:100]}' here.{hint}", field="model")

    @property
    def routes(self) -> tuple[Route, ...]:
        every, leads = (*self._routes.values(), *self._named.values()), self._leads
        return tuple(self._led(route) for route in every if leads is None or any(leads(route.model.id)))

    @property
    def queues(self) -> tuple[str, ...]:
        """Names of the queues that some model id leads to."""
        led = [*self.routes, *(self._led(route) for route in self._forced.values())]
        hosted = [HOSTED.name] if any(route.hosted for route in led) else []
        return tuple(dict.fromkeys([*(route.queue for route in led), *hosted]))
