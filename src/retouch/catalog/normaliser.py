"""An edit as one target is asked for it: every field of ours goes the way that the target's column of the table says.

What the table says is data, in `hosted.toml`; here is what each way means for each field. A field that cannot be done
is dropped with a notice, or refused by its name when the request is strict; nothing is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, Protocol, TypeVar

from retouch.catalog.normalised import NO_SIZES, Emulation, ImageField, ImageSizes, Normalised
from retouch.catalog.profiles import Behaviour, Cell, Profile, Sheet, hosted
from retouch.catalog.target_sizes import TargetSize, choose_size, shapes_differ
from retouch.edit import EditRequest, Notice, OutputFormat, random_seed
from retouch.errors import InvalidRequest, OutOfRange, TooLong, TooManyImages, UnsupportedParameter

_SEED_FOR_ZERO: Final = 2**30
"""Instead of 0, where that counts as absent; far from the end of the range, so that counting up never wraps."""

_DEFAULT_QUALITY: Final = 95
_LOSSY: Final = frozenset({OutputFormat.JPEG, OutputFormat.WEBP, OutputFormat.AVIF})

_NOT_OPTIONS: Final = frozenset(
    {
        "webhook",
        "webhook_events_filter",
        "sync_mode",
        "stream",
        "response_format",
        "model",
        "n",
        "num_images",
        "num_outputs",
        "batch_size",
    }
)
"""What a provider is told by the gateway itself: how to answer, and how much to make, which is money."""


class Normalise(Protocol):
    """A request as one target is asked for it. cut_prompt: leave out the end of one that is too long there.

    Raises InvalidRequest naming the field when the target cannot take it or, of a strict request, would drop something.
    """

    def __call__(self, request: EditRequest, sizes: ImageSizes = ..., *, cut_prompt: bool = ...) -> Normalised: ...


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """One place where a model's edits may be made. name: `local`, or `upstream/model`. price: None where none is
    owed. normalise: None for our own queue."""

    name: str
    profile: Profile
    price: Sheet | None = None
    normalise: Normalise | None = None


class _Target(Protocol):
    """A place that takes edits under the provider's names, or our own queue."""

    @property
    def name(self) -> str: ...

    @property
    def normalise(self) -> Normalise | None: ...


_T = TypeVar("_T", bound=_Target)


def able(targets: Iterable[_T], request: EditRequest, sizes: ImageSizes) -> tuple[list[_T], bool, dict[str, str]]:
    """Those that take the request, as a whole if any does, else with the end of its prompt left out.

    The second value says which of the two; the third why each of the others does not, by name. When none takes it, the
    InvalidRequest of the first one is raised.
    """
    refused: dict[str, InvalidRequest] = {}
    for cut_prompt in (False, True):
        found = []
        for target in targets:
            try:
                if target.normalise is not None:
                    target.normalise(request, sizes, cut_prompt=cut_prompt)
                found.append(target)
            except InvalidRequest as error:
                refused.setdefault(target.name, error)
        if found:
            names = {target.name for target in found}
            return found, cut_prompt, {name: error.message for name, error in refused.items() if name not in names}
    if refused:
        raise next(iter(refused.values()))
    return [], False, {}


@dataclass(eq=False, frozen=True, slots=True)
class Normaliser:
    """A profile as one target of a routes file uses it.

    endpoint: the provider's id, where that is not the profile's. strict: of the route. priced: the operator has set a
    price, which is that of every endpoint. defaults: sent where the request
    leaves the choice; options: sent as they are, both by the provider's names.
    """

    profile: Profile
    endpoint: str = ""
    strict: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    priced: bool = False

    def __call__(self, request: EditRequest, sizes: ImageSizes = NO_SIZES, *, cut_prompt: bool = False) -> Normalised:
        """See `normalise`."""
        request = replace(request, strict=True) if self.strict else request
        own = self.endpoint not in ("", self.profile.endpoint)
        profile = replace(self.profile, lora=None) if own else self.profile  # whose endpoint is not the operator's
        made = normalise(request, profile, sizes, cut_prompt=cut_prompt, options=self.options)
        made = replace(made, endpoint=self.endpoint) if own else made
        if not self.priced and made.endpoint != self.profile.endpoint and not own:
            made = replace(made, sheet=hosted().profiles[f"{profile.kind}/{made.endpoint}"].price)
        given = {name: value for name, value in self.defaults.items() if _is_open(name, request, self.profile, made)}
        return replace(made, parameters={**made.parameters, **given})


def normalise(
    request: EditRequest,
    profile: Profile,
    sizes: ImageSizes = NO_SIZES,
    *,
    cut_prompt: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Normalised:
    """What a target is asked, and what is left for the gateway.

    request: as its caller made it, not completed with a local model's defaults; a prompt that was rewritten counts.
    sizes: of the inputs, as far as they are known. cut_prompt: no target reads a prompt of this length, so its end is
    left out. options: the operator's, beside those of the request. Raises InvalidRequest naming the canonical field.
    """
    if request.loras and profile.lora is not None:
        profile = hosted().profiles[profile.lora]
    draft = _Draft(request, profile, [sizes.get(image.field) for image in request.images], cut_prompt)
    for step in _STEPS.values():
        step(draft)
    draft.parameters |= {name: value for name, value in profile.always.items() if name not in draft.parameters}
    return draft.finish(_options(draft, options or {}))


def needs_sizes(request: EditRequest) -> bool:
    """Whether the sizes of the inputs have a say: the answer follows them unless an exact size was asked for."""
    return request.mask is not None or request.size.width is None


def _is_open(name: str, request: EditRequest, profile: Profile, made: Normalised) -> bool:
    """Whether the request leaves a parameter of the provider to the operator's default."""
    expansion, safety = profile.cells["enable_prompt_expansion"], profile.cells["enable_safety_checker"]
    if expansion.sent and name == expansion.name:
        return not request.enable_prompt_expansion and request.expansion is None
    if safety.sent and name == safety.name:
        return request.enable_safety_checker
    return name in profile.always or name not in made.parameters


@dataclass(eq=False, slots=True)
class _Draft:
    """A call while it is put together."""

    request: EditRequest
    profile: Profile
    image_sizes: Sequence[tuple[int, int] | None]
    cut_prompt: bool
    parameters: dict[str, Any] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    images: ImageField | None = None
    mask: ImageField | None = None
    composited: bool = False
    size: TargetSize = field(init=False)
    seed: int = 0
    calls: int = 1
    images_per_call: int = 1

    def cell(self, name: str) -> Cell:
        return self.profile.cells[name]

    def send(self, name: str, value: Any) -> None:
        self.parameters[self.cell(name).name] = value

    def tell(self, parameter: str, action: str, detail: str) -> None:
        self.notices.append(Notice(parameter, action, detail))

    def drop(self, name: str, detail: str) -> None:
        """A notice, or a refusal when the request is strict."""
        if self.request.strict:
            self.refuse(name, detail)
        self.tell(name, "ignored", detail)

    def refuse(self, name: str, detail: str) -> NoReturn:
        raise UnsupportedParameter(f"The field '{name}' cannot be used with {self.profile.id}: {detail}", field=name)

    def finish(self, options: Mapping[str, Any]) -> Normalised:
        assert self.images is not None, "every request has images"
        seed = self.cell("seed")
        return Normalised(
            endpoint=self.profile.endpoint,
            parameters=self.parameters,
            images=self.images,
            mask=self.mask,
            seed=self.seed,
            seed_field=seed.name if seed.sent else None,
            seed_honoured=seed.sent and self.profile.seed_stable,
            calls=self.calls,
            images_per_call=self.images_per_call,
            emulation=Emulation(
                size=self.size.output,
                mask=self.request.mask if self.composited else None,
                output_format=self.request.output_format,
                output_quality=self.request.output_quality,
            ),
            notices=tuple(dict.fromkeys(self.notices)),
            options=options,
        )


# ------------------------------------------------------------------------------------------------ one step a field


def _prompt(draft: _Draft) -> None:
    expansion = draft.request.expansion
    draft.send("prompt", _within(draft, "prompt", draft.request.prompt if expansion is None else expansion.prompt))


def _negative_prompt(draft: _Draft) -> None:
    text = draft.request.negative_prompt
    if text is None or not text.strip():
        return
    if draft.cell("negative_prompt").sent:
        draft.send("negative_prompt", _within(draft, "negative_prompt", text))
    else:
        draft.drop("negative_prompt", "It has no negative prompt.")


def _within(draft: _Draft, name: str, text: str) -> str:
    """The text as far as the provider reads it; it would cut it in silence."""
    profile = draft.profile
    most = profile.max_prompt_characters if name == "prompt" else profile.max_negative_prompt_characters
    if len(text) <= most:
        return text
    if draft.request.strict or not draft.cut_prompt:
        raise TooLong(name, len(text), most)
    draft.tell(name, "ignored", f"It was cut at {most} characters, of {len(text)}: more is not read there.")
    return text[:most]


def _images(draft: _Draft) -> None:
    request, profile = draft.request, draft.profile
    count = len(request.images)
    if count > profile.max_images:
        raise TooManyImages("images", count, profile.max_images, profile.id)
    name, shape = draft.cell("images").name, profile.image_shape
    if shape == "files" and count == 1:
        shape = "file"
    elif shape == "files":
        name += "[]"
    draft.images = ImageField(name, shape, request.images)


def _size(draft: _Draft) -> None:
    request, profile = draft.request, draft.profile
    known = draft.image_sizes
    draft.size = size = choose_size(
        request.size,
        profile.sizes,
        known[request.reference_index],
        known[-1],
        strict=request.strict,
        crop=draft.cell("aspect_ratio").behaviour is Behaviour.EMULATED,
    )
    draft.notices += size.notices
    if size.sent is None:
        return
    name = draft.cell("size").name
    if isinstance(size.sent, str):
        draft.parameters[name] = size.sent
    elif profile.size_form == "object":
        draft.parameters[name] = {"width": size.sent[0], "height": size.sent[1]}
    else:
        draft.parameters[name] = profile.size_form.replace("W", str(size.sent[0])).replace("H", str(size.sent[1]))


def _mask(draft: _Draft) -> None:
    """Sent where it is read; else the untouched source is put back outside it, which needs the source's shape."""
    mask = draft.request.mask
    if mask is None:
        return
    cell = draft.cell("mask")
    if cell.sent:
        draft.mask = ImageField(cell.name, "file" if draft.profile.image_shape == "files" else "one", (mask,))
        draft.composited = draft.profile.checks_mask and not _off_source(draft)
        return
    if _off_source(draft):
        draft.refuse("mask", "what it makes has another shape than the first input, so nothing could be put back.")
    draft.composited = True
    draft.tell("mask", "emulated", "It edits all of the image; outside the mask the first input is put back.")


def _off_source(draft: _Draft) -> bool:
    source, shape = draft.image_sizes[0], draft.size.shape
    return source is not None and shape is not None and shapes_differ(shape, source[0] / source[1])


def _seed(draft: _Draft) -> None:
    given, profile = draft.request.seed, draft.profile
    draft.seed = random_seed() if given is None else given
    if not draft.cell("seed").sent:
        if given is not None:
            draft.drop("seed", "It has no seed.")
        return
    if draft.seed > profile.max_seed:
        draft.seed %= profile.max_seed + 1
        draft.tell("seed", "converted", f"It takes seeds up to {profile.max_seed}: {draft.seed} was used, not {given}.")
    if draft.seed == 0 and profile.seed_never_zero:
        draft.seed = _SEED_FOR_ZERO
        if given is not None:
            draft.tell("seed", "converted", f"It takes 0 for no seed: {draft.seed} was used.")
    if given is not None and not profile.seed_stable:
        draft.tell("seed", "advised", "It is sent, but the same seed may give another image there.")
    draft.send("seed", draft.seed)


def _num_images(draft: _Draft) -> None:
    """As few calls as give exactly so many images, each with the seed it would have alone."""
    count, profile = draft.request.num_images, draft.profile
    cell = draft.cell("num_images")
    by_the_second = profile.price is not None and profile.price.per_second_microusd > 0
    counted = by_the_second or profile.counts_seeds or draft.request.seed is None or not draft.cell("seed").sent
    most = profile.max_num_images if cell.sent and counted else 1
    draft.images_per_call = next(each for each in range(min(most, count), 0, -1) if count % each == 0)
    draft.calls = count // draft.images_per_call
    if cell.sent:
        draft.send("num_images", draft.images_per_call)
    if draft.calls > 1:
        detail = f"{draft.calls} requests of {draft.images_per_call} are made, with seeds that count up."
        draft.tell("num_images", "emulated", detail)


def _number(name: str, what: str) -> Callable[[_Draft], None]:
    """The step of a number with limits, which stays the provider's own when the caller gave none."""

    def step(draft: _Draft) -> None:
        value = getattr(draft.request, name)
        if value is None:
            return
        limits = draft.profile.steps if name == "steps" else draft.profile.guidance
        if not draft.cell(name).sent:
            draft.drop(name, f"{what} cannot be set there.")
        elif limits is not None and not limits.minimum <= value <= limits.maximum:
            raise OutOfRange(name, value, minimum=limits.minimum, maximum=limits.maximum)
        else:
            draft.send(name, value)

    return step


def _acceleration(draft: _Draft) -> None:
    requested = draft.request.acceleration
    if requested is None:
        return
    cell, known = draft.cell("acceleration"), draft.profile.accelerations
    if not cell.sent:
        draft.drop("acceleration", "Its speed cannot be chosen.")
        return
    value = known.get(requested.value, requested.value)
    if isinstance(value, str) and value != requested.value:
        draft.tell("acceleration", "converted", f"It has no '{requested.value}': '{value}' was used.")
    draft.send("acceleration", value)


def _output(draft: _Draft) -> None:
    """The file: the caller's own format where nothing is done to the image, else png, so that it is lossy once at most.

    What a provider makes when it is told nothing differs, so the format is always said where it can be.
    """
    request, profile, size = draft.request, draft.profile, draft.size
    wanted, quality = request.output_format, draft.cell("output_quality")
    touched = draft.composited or (size.output is not None and size.output != size.expected)
    if wanted in _LOSSY and request.output_quality != _DEFAULT_QUALITY and not quality.sent:
        touched = True
    chosen = wanted if wanted in profile.output_formats and not touched else profile.default_format
    if touched and OutputFormat.PNG in profile.output_formats:
        chosen = OutputFormat.PNG
    if chosen is not wanted and OutputFormat.PNG in profile.output_formats:
        chosen = OutputFormat.PNG
    if draft.cell("output_format").sent:
        draft.send("output_format", profile.output_formats[chosen])
        if quality.sent and chosen in _LOSSY:
            draft.send("output_quality", request.output_quality)


def _safety(draft: _Draft) -> None:
    wanted, cell = draft.request.enable_safety_checker, draft.cell("enable_safety_checker")
    if cell.behaviour is Behaviour.CONVERTED:
        draft.send("enable_safety_checker", not wanted)
    elif cell.sent:
        draft.send("enable_safety_checker", wanted)
    elif cell.behaviour is Behaviour.DROPPED and not wanted:
        draft.drop("enable_safety_checker", "Its own checks cannot be switched off.")


def _expansion(draft: _Draft) -> None:
    """Always said where it can be, because two providers rewrite prompts unless they are told not to."""
    request, cell = draft.request, draft.cell("enable_prompt_expansion")
    wanted = request.enable_prompt_expansion and request.expansion is None
    if cell.sent:
        draft.send("enable_prompt_expansion", wanted)
    elif wanted:
        draft.drop("enable_prompt_expansion", "It does not rewrite prompts, and this server has not.")


def _loras(draft: _Draft) -> None:
    """Only those that a provider can fetch: a link, or a repository of the hub."""
    loras, profile = draft.request.loras, draft.profile
    if not loras:
        return
    if profile.loras == 0 or not draft.cell("loras").sent:
        draft.refuse("loras", "it takes no LoRA.")
    if len(loras) > profile.loras:
        draft.refuse("loras", f"it takes at most {profile.loras}, not {len(loras)}.")
    for index, lora in enumerate(loras):
        if "/" not in lora.path:
            draft.refuse(f"loras[{index}].path", "a file of this server's folder is not there; give a link.")
    if profile.lora_form == "list":
        draft.send("loras", [{"path": lora.path, "scale": lora.scale} for lora in loras])
    elif profile.lora_form == "weights":
        draft.send("loras", loras[0].path)
        draft.parameters["lora_scale"] = loras[0].scale
    else:
        name = loras[0].path.rstrip("/").rpartition("/")[2]
        draft.send("loras", json.dumps({"name": name, "path": loras[0].path, "scale": loras[0].scale}))


_STEPS: Final[Mapping[str, Callable[[_Draft], None]]] = {
    "prompt": _prompt,
    "negative_prompt": _negative_prompt,
    "images": _images,
    "size": _size,
    "mask": _mask,
    "seed": _seed,
    "num_images": _num_images,
    "steps": _number("steps", "The number of steps"),
    "guidance_scale": _number("guidance_scale", "Guidance"),
    "acceleration": _acceleration,
    "output": _output,
    "enable_safety_checker": _safety,
    "enable_prompt_expansion": _expansion,
    "loras": _loras,
}
"""In their order: size before mask, because of the shape, and both before the output's format."""


def _options(draft: _Draft, of_route: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed on as it is. Nothing that a field of ours says can be said in this way as well."""
    kind = draft.profile.kind
    merged: dict[str, Any] = {**of_route, **draft.request.upstream_options.get(kind, {})}
    names = {cell.name: name for name, cell in draft.profile.cells.items() if cell.sent and name in _NAMED}
    if draft.images is not None:
        names[draft.images.name] = "images"
    for name in merged:
        place = f"upstream_options.{kind}.{name}"
        if name in _NOT_OPTIONS:
            raise InvalidRequest(f"The field '{place}' is the gateway's own and cannot be set.", field=place)
        if name in names:
            raise InvalidRequest(f"The field '{place}' is what '{names[name]}' says; use that.", field=place)
    return merged


_NAMED: Final = frozenset({*_STEPS, "aspect_ratio", "output_format", "output_quality"}) - {"output"}


def check_upstream_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InvalidRequest when options are for a kind of provider that there is not."""
    for kind in options:
        if kind not in hosted().kinds:
            kinds = ", ".join(hosted().kinds)
            raise InvalidRequest(
                f"The field 'upstream_options' names '{kind[:40]}', which is no kind of provider; there are: {kinds}.",
                field="upstream_options",
            )
