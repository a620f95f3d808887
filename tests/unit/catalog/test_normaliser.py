"""What each target is asked for, cell by cell; what is dropped is told, and refused when the request is strict."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch.catalog.normalised import ImageSizes
from retouch.catalog.normaliser import Normaliser, needs_sizes, normalise
from retouch.catalog.profiles import Behaviour, Profile, Sheet, SizeWay, hosted
from retouch.edit import Acceleration, EditRequest, Expansion, ImageInput, Lora, OutputFormat, SizeRequest
from retouch.errors import InvalidRequest, OutOfRange, TooLong, TooManyImages

PROFILES = hosted().profiles
ALL = [pytest.param(profile, id=name) for name, profile in PROFILES.items()]
SQUARE: ImageSizes = {f"images[{index}]": (1024, 1024) for index in range(16)}


def image(index: int = 0) -> ImageInput:
    return ImageInput(blob=f"blob-{index}", field=f"images[{index}]")


MASK = ImageInput(blob="mask", field="mask")
PLAIN = EditRequest(model="qwen-image-edit", prompt="make it snow", images=(image(),))
LORA = Lora("https://example.com/oil.safetensors", 0.8)

REQUESTS: dict[str, tuple[EditRequest, object]] = {
    "prompt": (PLAIN, "make it snow"),
    "negative_prompt": (replace(PLAIN, negative_prompt="blur"), "blur"),
    "images": (PLAIN, None),
    "mask": (replace(PLAIN, mask=MASK), None),
    "size": (replace(PLAIN, size=SizeRequest(width=1000, height=1000)), None),
    "aspect_ratio": (replace(PLAIN, size=SizeRequest(aspect_ratio=16 / 9, words="16:9")), None),
    "seed": (replace(PLAIN, seed=7), 7),
    "num_images": (replace(PLAIN, num_images=2), None),
    "steps": (replace(PLAIN, steps=20), 20),
    "guidance_scale": (replace(PLAIN, guidance_scale=3.5), 3.5),
    "acceleration": (replace(PLAIN, acceleration=Acceleration.NONE), "none"),
    "output_format": (replace(PLAIN, output_format=OutputFormat.JPEG), "jpeg"),
    "output_quality": (replace(PLAIN, output_format=OutputFormat.JPEG, output_quality=80), None),
    "enable_safety_checker": (replace(PLAIN, enable_safety_checker=False), False),
    "enable_prompt_expansion": (replace(PLAIN, enable_prompt_expansion=True), True),
    "loras": (replace(PLAIN, loras=(LORA,)), None),
}


def notices_of(profile: Profile, request: EditRequest, sizes: ImageSizes = SQUARE) -> dict[str, list[str]]:
    notices: dict[str, list[str]] = {}
    for notice in normalise(request, profile, sizes).notices:
        notices.setdefault(notice.parameter, []).append(notice.action)
    return notices


@pytest.mark.parametrize("field", REQUESTS)
@pytest.mark.parametrize("profile", ALL)
def test_a_cell_does_what_it_says(profile: Profile, field: str) -> None:
    request, value = REQUESTS[field]
    cell = profile.cells[field]
    if cell.behaviour is Behaviour.REFUSED:
        with pytest.raises(InvalidRequest) as refused:
            normalise(request, profile, SQUARE)
        assert refused.value.field == field
        return
    made = normalise(request, profile, SQUARE)
    notices = notices_of(profile, request)
    if cell.behaviour is Behaviour.DROPPED:
        assert notices.get(field) == ["ignored"]
        assert cell.name not in made.parameters
        with pytest.raises(InvalidRequest) as refused:
            normalise(replace(request, strict=True), profile, SQUARE)
        assert refused.value.field == field
        return
    if field == "enable_prompt_expansion" and cell.behaviour is Behaviour.EMULATED:
        assert notices[field] == ["ignored"]  # it was not rewritten
        return
    assert "ignored" not in notices.get(field, [])
    if cell.sent and value is not None and cell.behaviour is not Behaviour.CONVERTED:
        sent = made.parameters[cell.name]
        assert sent == value or made.images_per_call < request.num_images
    if not cell.sent and field not in ("size", "aspect_ratio", "output_quality"):
        assert cell.name not in made.parameters


@pytest.mark.parametrize("profile", ALL)
def test_defaults_that_differ_upstream_are_always_reported(profile: Profile) -> None:
    sent = normalise(PLAIN, profile, SQUARE).parameters
    expected: dict[str, Any] = {}
    for field, value in (
        ("output_format", profile.output_formats.get(OutputFormat.PNG)),
        ("num_images", 1),
        ("enable_prompt_expansion", False),
    ):
        if profile.cells[field].sent:
            expected[profile.cells[field].name] = value
    if profile.kind == "dashscope":
        expected["watermark"] = False
    assert {name: sent[name] for name in expected} == expected
    assert profile.kind != "dashscope" or sent.get("prompt_extend", False) is False


@pytest.mark.parametrize("profile", ALL)
def test_a_prompt_is_never_cut_in_silence(profile: Profile) -> None:
    long = replace(PLAIN, prompt="é" * 801, seed=1)
    if profile.max_prompt_characters > 801:
        assert normalise(long, profile, SQUARE).parameters["prompt"] == long.prompt
        return
    with pytest.raises(TooLong) as refused:
        normalise(long, profile, SQUARE)
    assert refused.value.field == "prompt"
    made = normalise(long, profile, SQUARE, cut_prompt=True)
    assert made.parameters["prompt"] == "é" * 800
    assert [(n.parameter, n.action) for n in made.notices if n.parameter == "prompt"] == [("prompt", "ignored")]
    assert "800" in next(n.detail for n in made.notices if n.parameter == "prompt")
    with pytest.raises(TooLong):
        normalise(replace(long, strict=True), profile, SQUARE, cut_prompt=True)
    assert normalise(replace(PLAIN, prompt="é" * 800), profile, SQUARE).parameters["prompt"] == "é" * 800


@pytest.mark.parametrize("profile", ALL)
def test_a_seed_is_sent_and_reported_or_its_loss_is(profile: Profile) -> None:
    made = normalise(replace(PLAIN, seed=7), profile, SQUARE)
    if not profile.cells["seed"].sent:
        assert made.seed_field is None
        assert not made.seed_honoured
        return
    assert made.seed == 7
    assert made.parameters[str(made.seed_field)] == 7
    assert made.seed_honoured == (profile.kind != "dashscope")
    drawn = normalise(PLAIN, profile, SQUARE)
    assert 0 <= drawn.seed < 2**31
    assert drawn.parameters[str(drawn.seed_field)] == drawn.seed


def test_a_seed_beyond_the_providers_range_is_converted_and_reported() -> None:
    request = replace(PLAIN, seed=2**31 + 5)
    made = normalise(request, PROFILES["fal/fal-ai/qwen-image-2/edit"], SQUARE)
    assert made.seed == made.parameters["seed"] == 5
    assert notices_of(PROFILES["fal/fal-ai/qwen-image-2/edit"], request)["seed"] == ["converted"]
    assert normalise(request, PROFILES["retouch/fal-ai/qwen-image-edit"], SQUARE).seed == 2**31 + 5


def test_a_provider_that_takes_zero_for_no_seed_never_gets_zero() -> None:
    profile = PROFILES["vllm-omni/*"]
    made = normalise(replace(PLAIN, seed=0), profile, SQUARE)
    assert made.parameters["seed"] == made.seed > 0
    assert notices_of(profile, replace(PLAIN, seed=0))["seed"] == ["converted"]
    assert normalise(replace(PLAIN, seed=0), PROFILES["sglang/*"], SQUARE).parameters["seed"] == 0


@pytest.mark.parametrize(
    ("model", "seed", "count", "calls", "each"),
    [
        ("runpod/qwen-image-edit", 7, 4, 4, 1),
        ("runpod/qwen-image-edit", None, 4, 4, 1),
        ("fal/fal-ai/qwen-image-edit", None, 4, 1, 4),
        ("fal/fal-ai/qwen-image-edit", 7, 4, 4, 1),
        ("fal/fal-ai/qwen-image-edit", None, 10, 5, 2),
        ("dashscope/qwen-image-edit-plus", None, 6, 1, 6),
        ("dashscope/qwen-image-edit-plus", None, 7, 7, 1),
        ("openai/*", 7, 10, 1, 10),
        ("retouch/fal-ai/qwen-image-edit-plus", 7, 4, 1, 4),
    ],
)
def test_calls_make_exactly_as_many_images_as_are_asked_for(
    model: str, seed: int | None, count: int, calls: int, each: int
) -> None:
    made = normalise(replace(PLAIN, seed=seed, num_images=count), PROFILES[model], SQUARE)
    assert (made.calls, made.images_per_call) == (calls, each)
    name = PROFILES[model].cells["num_images"]
    assert not name.sent or made.parameters[name.name] == each


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("fal/fal-ai/qwen-image-edit", {"image_size": {"width": 1008, "height": 1008}}),
        ("dashscope/qwen-image-edit-plus", {"size": "1008*1008"}),
        ("runpod/qwen-image-edit-2511", {"size": "1024*1024"}),
        ("replicate/qwen/qwen-image-edit-plus", {"aspect_ratio": "1:1"}),
        ("openai/*", {"size": "1024x1024"}),
        ("lumenfall/*", {"size": "1000x1000"}),
        ("vllm-omni/*", {"size": "1008x1008"}),
        ("runpod/qwen-image-edit", {}),
    ],
)
def test_an_exact_size_is_delivered_from_whatever_sizes_there_are(model: str, sent: dict[str, Any]) -> None:
    request = replace(PLAIN, size=SizeRequest(width=1000, height=1000))
    made = normalise(request, PROFILES[model], SQUARE)
    assert made.emulation.size == (1000, 1000)
    assert {name: made.parameters[name] for name in sent} == sent
    if not sent:
        assert not {"size", "image_size", "aspect_ratio"} & set(made.parameters)
    if PROFILES[model].cells["output_format"].sent:
        assert made.parameters[PROFILES[model].cells["output_format"].name] == "png"


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((1033, 1032), (1040, 1040)), ((2048, 512), (2048, 512)), ((600, 300), (1024, 512)), ((300, 300), (512, 512))],
)
def test_sides_stay_within_what_a_provider_takes(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    request = replace(PLAIN, size=SizeRequest(width=size[0], height=size[1]))
    made = normalise(request, PROFILES["dashscope/qwen-image-edit-plus"], SQUARE)
    assert made.parameters["size"] == f"{canvas[0]}*{canvas[1]}"
    assert made.emulation.size == size


def test_without_a_size_the_answer_follows_the_input_everywhere() -> None:
    wide: ImageSizes = {"images[0]": (1600, 900)}
    assert normalise(PLAIN, PROFILES["fal/fal-ai/qwen-image-edit-plus"], wide).parameters["image_size"] == {
        "width": 1376,
        "height": 768,
    }
    assert normalise(PLAIN, PROFILES["replicate/qwen/qwen-image-edit-plus"], wide).parameters["aspect_ratio"] == (
        "match_input_image"
    )
    nearest = normalise(PLAIN, PROFILES["runpod/qwen-image-edit-2511"], wide)
    assert nearest.parameters["size"] == "1536*1080"
    assert [(n.parameter, n.action) for n in nearest.notices] == [("aspect_ratio", "converted")]
    for model in ("fal/fal-ai/qwen-image-edit-plus", "runpod/qwen-image-edit", "runpod/qwen-image-edit-2511"):
        assert normalise(PLAIN, PROFILES[model], wide).emulation.size is None


def test_a_linked_input_of_unknown_size_leaves_the_size_to_the_provider() -> None:
    linked = replace(PLAIN, images=(ImageInput(url="https://example.com/a.png"),))
    assert "image_size" not in normalise(linked, PROFILES["fal/fal-ai/qwen-image-edit"]).parameters
    scaled = replace(linked, size=SizeRequest(pixels=2048 * 2048, words="2K"))
    assert needs_sizes(scaled)
    assert not needs_sizes(replace(linked, size=SizeRequest(width=64, height=64)))
    made = normalise(scaled, PROFILES["fal/fal-ai/qwen-image-edit"])
    assert [(n.parameter, n.action) for n in made.notices] == [("resolution", "ignored")]
    with pytest.raises(InvalidRequest):
        normalise(replace(scaled, strict=True), PROFILES["fal/fal-ai/qwen-image-edit"])


def test_a_shape_that_has_no_word_is_the_nearest_or_cropped() -> None:
    wide = replace(PLAIN, size=SizeRequest(aspect_ratio=21 / 9, words="21:9"))
    nearest = normalise(wide, PROFILES["replicate/qwen/qwen-image-edit-plus"], SQUARE)
    assert nearest.parameters["aspect_ratio"] == "16:9"
    assert [(n.parameter, n.action) for n in nearest.notices] == [("aspect_ratio", "converted")]
    cropped = normalise(wide, PROFILES["runpod/qwen-image-edit"], SQUARE)
    assert cropped.emulation.size == (1024, 439)
    assert [(n.parameter, n.action) for n in cropped.notices] == [("aspect_ratio", "emulated")]
    for model in ("replicate/qwen/qwen-image-edit-plus", "runpod/qwen-image-edit", "openai/*"):
        with pytest.raises(InvalidRequest) as refused:
            normalise(replace(wide, strict=True), PROFILES[model], SQUARE)
        assert refused.value.field == "aspect_ratio"


@pytest.mark.parametrize("profile", ALL)
def test_a_mask_is_never_sent_where_it_is_ignored(profile: Profile) -> None:
    made = normalise(replace(PLAIN, mask=MASK), profile, SQUARE)
    if profile.kind in ("openai", "lumenfall", "litellm"):
        assert made.mask is not None
        assert made.mask.images == (MASK,)
        assert made.emulation.mask == (None if profile.kind == "openai" else MASK)
        return
    assert made.mask is None
    assert made.emulation.mask == MASK
    assert "mask" not in json.dumps(dict(made.parameters))
    assert ("mask", "emulated") in [(n.parameter, n.action) for n in made.notices]


def test_a_mask_needs_the_shape_of_its_source() -> None:
    masked = replace(PLAIN, mask=MASK, size=SizeRequest(width=1600, height=900))
    for model in ("fal/fal-ai/qwen-image-edit", "runpod/qwen-image-edit", "replicate/qwen/qwen-image-edit-plus"):
        with pytest.raises(InvalidRequest) as refused:
            normalise(masked, PROFILES[model], SQUARE)
        assert refused.value.field == "mask"
    two = replace(PLAIN, mask=MASK, images=(image(0), image(1)))
    with pytest.raises(InvalidRequest):
        normalise(two, PROFILES["dashscope/qwen-image-edit"], {"images[0]": (900, 900), "images[1]": (1600, 900)})


@pytest.mark.parametrize(
    ("model", "count", "name", "shape"),
    [
        ("fal/fal-ai/qwen-image-edit", 1, "image_url", "one"),
        ("fal/fal-ai/qwen-image-edit-plus", 2, "image_urls", "list"),
        ("runpod/qwen-image-edit", 1, "image", "one"),
        ("runpod/qwen-image-edit-2511", 3, "images", "list"),
        ("replicate/qwen/qwen-image-edit", 1, "image", "one"),
        ("replicate/qwen/qwen-image-edit-plus", 1, "image", "list"),
        ("dashscope/qwen-image-2.1-pro", 10, "image", "content"),
        ("openai/*", 1, "image", "file"),
        ("litellm/*", 2, "image[]", "files"),
    ],
)
def test_images_have_the_providers_name_and_shape(model: str, count: int, name: str, shape: str) -> None:
    request = replace(PLAIN, images=tuple(image(index) for index in range(count)))
    made = normalise(request, PROFILES[model], SQUARE)
    assert (made.images.name, made.images.shape, made.images.images) == (name, shape, request.images)


@pytest.mark.parametrize("profile", ALL)
def test_more_images_than_a_model_takes_are_refused(profile: Profile) -> None:
    request = replace(PLAIN, images=tuple(image(index) for index in range(profile.max_images + 1)))
    with pytest.raises(TooManyImages) as refused:
        normalise(request, profile, SQUARE)
    assert refused.value.field == "images"


def test_words_of_speed_are_the_providers() -> None:
    high = replace(PLAIN, acceleration=Acceleration.HIGH)
    plus = normalise(high, PROFILES["fal/fal-ai/qwen-image-edit-plus"], SQUARE)
    assert plus.parameters["acceleration"] == "regular"
    assert [(n.parameter, n.action) for n in plus.notices] == [("acceleration", "converted")]
    assert normalise(high, PROFILES["fal/fal-ai/qwen-image-edit"], SQUARE).parameters["acceleration"] == "high"
    replicate = PROFILES["replicate/qwen/qwen-image-edit"]
    assert normalise(high, replicate, SQUARE).parameters["go_fast"] is True
    none = replace(PLAIN, acceleration=Acceleration.NONE)
    assert normalise(none, replicate, SQUARE).parameters["go_fast"] is False


def test_steps_outside_a_models_range_are_refused_by_name() -> None:
    with pytest.raises(OutOfRange) as refused:
        normalise(replace(PLAIN, steps=80), PROFILES["fal/fal-ai/qwen-image-edit"], SQUARE)
    assert refused.value.field == "steps"
    assert normalise(replace(PLAIN, steps=80), PROFILES["fal/fal-ai/qwen-image-edit-plus"], SQUARE)


@pytest.mark.parametrize(
    ("model", "wanted", "quality", "size", "provider_format"),
    [
        ("fal/fal-ai/qwen-image-edit", "jpeg", 95, None, "jpeg"),
        ("fal/fal-ai/qwen-image-edit", "jpeg", 80, None, "png"),
        ("fal/fal-ai/qwen-image-edit", "webp", 95, None, "png"),
        ("fal/fal-ai/qwen-image-edit", "jpeg", 95, (1000, 1000), "png"),
        ("fal/fal-ai/qwen-image-edit", "jpeg", 95, (1024, 1024), "jpeg"),
        ("replicate/qwen/qwen-image-edit", "jpeg", 80, None, "jpg"),
        ("replicate/qwen/qwen-image-edit", "avif", 95, None, "png"),
        ("lumenfall/*", "avif", 60, None, "avif"),
    ],
)
def test_png_is_asked_for_when_the_file_will_be_written_again(
    model: str, wanted: str, quality: int, size: tuple[int, int] | None, provider_format: str
) -> None:
    size_request = SizeRequest() if size is None else SizeRequest(width=size[0], height=size[1])
    request = replace(PLAIN, output_format=OutputFormat(wanted), output_quality=quality, size=size_request)
    made = normalise(request, PROFILES[model], SQUARE)
    assert made.parameters["output_format"] == provider_format
    assert made.emulation.output_format == OutputFormat(wanted)
    assert made.emulation.output_quality == quality
    name = PROFILES[model].cells["output_quality"]
    assert (name.name in made.parameters) == (name.sent and provider_format != "png")


def test_a_rewritten_prompt_is_sent_and_not_rewritten_again() -> None:
    request = replace(PLAIN, enable_prompt_expansion=True, expansion=Expansion("deep snow on every roof"))
    two = normalise(request, PROFILES["fal/fal-ai/qwen-image-2/edit"], SQUARE)
    assert two.parameters["prompt"] == "deep snow on every roof"
    assert two.parameters["enable_prompt_expansion"] is False
    assert not normalise(request, PROFILES["fal/fal-ai/qwen-image-edit"], SQUARE).notices


def test_a_lora_goes_to_the_endpoint_that_takes_it() -> None:
    request = replace(PLAIN, loras=(LORA,))
    fal = normalise(request, PROFILES["fal/fal-ai/qwen-image-edit-2511"], SQUARE)
    assert fal.endpoint == "fal-ai/qwen-image-edit-2511/lora"
    assert fal.parameters["loras"] == [{"path": LORA.path, "scale": 0.8}]
    replicate = normalise(request, PROFILES["replicate/qwen/qwen-image-edit-plus"], SQUARE)
    assert replicate.endpoint == "qwen/qwen-image-edit-plus-lora"
    assert (replicate.parameters["lora_weights"], replicate.parameters["lora_scale"]) == (LORA.path, 0.8)
    own = normalise(request, PROFILES["vllm-omni/*"], SQUARE)
    assert json.loads(own.parameters["lora"]) == {"name": "oil.safetensors", "path": LORA.path, "scale": 0.8}
    for model, loras in (
        ("replicate/qwen/qwen-image-edit-plus", (LORA, LORA)),
        ("fal/fal-ai/qwen-image-edit", (Lora("oil.safetensors"),)),
    ):
        with pytest.raises(InvalidRequest) as refused:
            normalise(replace(PLAIN, loras=loras), PROFILES[model], SQUARE)
        assert str(refused.value.field).startswith("loras")


def test_a_lora_costs_what_its_endpoint_costs_unless_the_operator_has_a_price() -> None:
    profile = PROFILES["fal/fal-ai/qwen-image-edit-2511"]
    with_lora = replace(PLAIN, loras=(LORA,))
    assert Normaliser(profile)(PLAIN, SQUARE).sheet is None
    assert Normaliser(profile)(with_lora, SQUARE).sheet == Sheet(per_megapixel_microusd=35_000)
    assert Normaliser(profile, priced=True)(with_lora, SQUARE).sheet is None


def test_a_lora_is_refused_at_an_endpoint_of_the_operators_own() -> None:
    own = Normaliser(PROFILES["runpod/qwen-image-edit-2511"], endpoint="abc123xyz")
    assert own(PLAIN, SQUARE).endpoint == "abc123xyz"
    with pytest.raises(InvalidRequest, match="LoRA"):
        own(replace(PLAIN, loras=(LORA,)), SQUARE)


def test_unknown_keys_go_through_their_own_door_only() -> None:
    request = replace(PLAIN, upstream_options={"fal": {"video_codec": "x"}, "replicate": {"seed_lock": 1}})
    fal = Normaliser(PROFILES["fal/fal-ai/qwen-image-edit"], options={"queue_hint": "eu", "video_codec": "y"})
    assert fal(request, SQUARE).options == {"queue_hint": "eu", "video_codec": "x"}
    assert "video_codec" not in fal(request, SQUARE).parameters
    for name, why in (
        ("prompt", "prompt"),
        ("image_url", "images"),
        ("num_images", "num_images"),
        ("sync_mode", "own"),
    ):
        with pytest.raises(InvalidRequest, match=why) as refused:
            fal(replace(PLAIN, upstream_options={"fal": {name: 1}}), SQUARE)
        assert refused.value.field == f"upstream_options.fal.{name}"


def test_an_operators_defaults_fill_what_the_request_leaves_open() -> None:
    profile = PROFILES["dashscope/qwen-image-2.0"]
    made = Normaliser(profile, defaults={"prompt_extend": True, "watermark": True, "seed": 3})(
        replace(PLAIN, seed=7), SQUARE
    )
    assert made.parameters["prompt_extend"] is True
    assert made.parameters["watermark"] is True
    assert made.parameters["seed"] == 7


def test_a_strict_route_refuses_what_it_would_drop() -> None:
    strict = Normaliser(PROFILES["openai/*"], strict=True)
    with pytest.raises(InvalidRequest) as refused:
        strict(replace(PLAIN, seed=3), SQUARE)
    assert refused.value.field == "seed"


# ------------------------------------------------------------------------------------------------ any request at all

sizes = st.one_of(
    st.just(SizeRequest()),
    st.builds(SizeRequest, width=st.integers(64, 4096), height=st.integers(64, 4096)),
    st.builds(SizeRequest, aspect_ratio=st.floats(0.2, 5), pixels=st.none() | st.integers(2**16, 2**23)),
    st.builds(SizeRequest, pixels=st.integers(2**16, 2**23)),
    st.just(SizeRequest(like_reference=True)),
)
requests = st.builds(
    EditRequest,
    model=st.just("qwen-image-edit"),
    prompt=st.text(min_size=1, max_size=900),
    images=st.integers(1, 4).map(lambda count: tuple(image(index) for index in range(count))),
    negative_prompt=st.none() | st.text(max_size=520),
    mask=st.none() | st.just(MASK),
    size=sizes,
    seed=st.none() | st.integers(0, 2**63 - 1),
    num_images=st.integers(1, 10),
    steps=st.none() | st.integers(1, 60),
    guidance_scale=st.none() | st.floats(0, 20),
    acceleration=st.none() | st.sampled_from(Acceleration),
    output_format=st.sampled_from(OutputFormat),
    output_quality=st.sampled_from([0, 50, 95, 100]),
    enable_safety_checker=st.booleans(),
    enable_prompt_expansion=st.booleans(),
    strict=st.booleans(),
    loras=st.just(()) | st.just((LORA,)),
)
known_sizes = st.dictionaries(
    st.sampled_from([f"images[{index}]" for index in range(4)]), st.tuples(st.integers(64, 5000), st.integers(64, 5000))
)
CANONICAL = {*REQUESTS, "resolution", "size"}


@given(requests, st.sampled_from(sorted(PROFILES)), known_sizes, st.booleans())
@settings(max_examples=600, deadline=None)
def test_any_request_is_normalised_whole_or_refused_by_name(
    request: EditRequest, model: str, known: ImageSizes, cut: bool
) -> None:
    profile = PROFILES[model]
    try:
        made = normalise(request, profile, known, cut_prompt=cut)
    except InvalidRequest as error:
        refused = error.field
    else:
        refused = None
    if refused is not None:
        assert refused in CANONICAL
        return
    assert made.calls * made.images_per_call == request.num_images
    assert made.images_per_call <= profile.max_num_images
    assert made.images.images == request.images
    assert None not in made.parameters.values()
    json.dumps(dict(made.parameters))
    names = {notice.parameter for notice in made.notices}
    assert len(made.notices) == len(set(made.notices))
    if request.strict:
        assert all(notice.action != "ignored" for notice in made.notices)
    for field, requested in (
        ("steps", request.steps),
        ("guidance_scale", request.guidance_scale),
        ("acceleration", request.acceleration),
        ("seed", request.seed),
        ("negative_prompt", (request.negative_prompt or "").strip() or None),
    ):
        cell = profile.cells[field]
        assert requested is None or field in names or cell.name in made.parameters
    assert request.mask is None or made.mask is not None or made.emulation.mask == request.mask
    if request.size.width is not None:
        assert made.emulation.size is not None
    check_sent_size(profile, made.parameters.get(profile.cells["size"].name))


def check_sent_size(profile: Profile, sent: object) -> None:
    rule = profile.sizes
    if sent is None:
        return
    if rule.way is SizeWay.ENUMERATED:
        assert sent in rule.choices or sent == rule.like_input
        return
    if isinstance(sent, dict):
        width, height = sent["width"], sent["height"]
    else:
        width, height = (int(side) for side in str(sent).replace("*", "x").split("x"))
    assert width % rule.limits.grid == height % rule.limits.grid == 0
    assert width * height <= rule.limits.max_area
    assert max(width, height) <= rule.limits.max_side
    assert min(width, height) >= rule.min_side
    assert abs(math.log(width / height)) <= math.log(rule.limits.max_ratio) + 0.2
