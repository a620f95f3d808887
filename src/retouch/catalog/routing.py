"""Which checkpoint serves a public model id here, and what a request to it comes to. It loads nothing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from retouch.catalog.checkpoints import HOSTED, Checkpoint, FastLora
from retouch.catalog.models import LOCAL_PREFIX, MODELS, Limits, Model
from retouch.catalog.profiles import LOCAL, ServedTarget, local_profile
from retouch.edit import Acceleration, EditRequest, Notice, Usage, random_seed
from retouch.errors import (
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
        self._check_limits(request, len(request.images) if image_count is None else image_count)

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
        asked = request.acceleration or self.model.acceleration
        if asked is Acceleration.HIGH and self.checkpoint.fast_lora is not None:
            return asked
        if self.checkpoint.faster_steps is not None:
            return asked if request.steps is None else Acceleration.NONE
        return asked if self.checkpoint.block_cache else Acceleration.NONE

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
            yield Notice("acceleration", "converted", self._no_faster_way(request))
        elif request.acceleration is Acceleration.HIGH and self.checkpoint.block_cache:
            detail = "No few-step LoRA is loaded here, so 'high' reuses blocks over steps, more boldly than 'regular'."
            yield Notice("acceleration", "converted", detail)

    def _no_faster_way(self, request: EditRequest) -> str:
        if self.checkpoint.faster_steps is not None:
            return f"It means fewer steps here, and 'steps' was given: exactly {request.steps} ran."
        return "There is no faster way here yet: the exact one, 'none', was used."

    def _check_limits(self, request: EditRequest, image_count: int) -> None:
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
        self._check_loras(len(request.loras))

    def _check_loras(self, count: int) -> None:
        most = self.model.max_loras
        if count and not most:
            raise UnsupportedParameter(f"The model '{self.model.id}' takes no LoRAs.", field="loras")
        if count > most:
            raise InvalidRequest(
                f"The model '{self.model.id}' takes at most {most} LoRAs, not {count}.", field="loras", max_length=most
            )
        if count and not self.hosted and not self.checkpoint.takes_loras:
            raise UnsupportedParameter(f"'{self.checkpoint.name}' takes no LoRAs here.", field="loras")

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
                raise InvalidSetting(_leads_nowhere(checkpoint, checkpoints[0]))
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
            return self._only_here(self._route(plain))
        route = self._led(self._route(plain))
        return route.decided(upstream=True) if queue == HOSTED.name else route

    def _only_here(self, route: Route) -> Route:
        if route.checkpoint is HOSTED:
            raise UnknownModel(f"The model '{route.model.id}' is not made here.", field="model")
        return Route(replace(route.model, id=f"{LOCAL_PREFIX}{route.model.id}", aliases=()), route.checkpoint)

    def _led(self, route: Route) -> Route:
        if self._leads is None or route.checkpoint is HOSTED:
            return route
        here, upstream = self._leads(route.model.id)
        if here:
            return replace(route, hosted=upstream)
        return Route(route.model, HOSTED)  # also where no route is for it, which the dispatch says

    def _is_led(self, model_id: str) -> bool:
        return self._leads is None or any(self._leads(model_id))

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
        every = (*self._routes.values(), *self._named.values())
        return tuple(self._led(route) for route in every if self._is_led(route.model.id))

    @property
    def queues(self) -> tuple[str, ...]:
        """Names of the queues that some model id leads to."""
        led = [*self.routes, *(self._led(route) for route in self._forced.values())]
        hosted = [HOSTED.name] if any(route.hosted for route in led) else []
        return tuple(dict.fromkeys([*(route.queue for route in led), *hosted]))


def _leads_nowhere(checkpoint: Checkpoint, first: Checkpoint) -> str:
    names = dict.fromkeys(name for model in MODELS for name in model.checkpoints)
    return (
        f"No model id would lead to '{checkpoint.name}': the first checkpoint, '{first.name}', serves every id without "
        f"one of its own. Name '{checkpoint.name}' first, or give its folder the name of one of {', '.join(names)}."
    )
