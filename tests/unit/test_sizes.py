"""The size rules: the worked examples of the specification as a table, and what must hold for any request."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.catalog import DEMO_SIZES, QWEN_SIZES
from retouch.edit import SizeRequest
from retouch.errors import InvalidRequest, OutOfRange
from retouch.sizes import NAMED_SIZES, parse, resolve

F = QWEN_SIZES

# number, profile, size, aspect_ratio, resolution, reference, canvas, output
EXAMPLES = [
    (9, F, None, None, None, (1024, 768), (1184, 896), (1184, 896)),
    (10, F, None, None, None, (514, 556), (992, 1056), (992, 1056)),
    (11, F, "auto", "auto", "auto", (1080, 1920), (768, 1376), (768, 1376)),
    (12, F, "1024x1024", None, None, (1080, 1920), (1024, 1024), (1024, 1024)),
    (13, F, "1920x1080", None, None, None, (1920, 1088), (1920, 1080)),
    (14, F, "1280x720", "1:1", "4K", None, (1280, 720), (1280, 720)),
    (15, F, "1000x1000", None, None, None, (1008, 1008), (1000, 1000)),
    (16, F, "256x256", None, None, None, (512, 512), (256, 256)),
    (17, F, "3840x2160", None, None, None, (2720, 1536), (2720, 1536)),
    (18, F, "16:9", None, "2K", None, (2720, 1536), (2720, 1536)),
    (19, F, "9:16", "1:1", None, None, (768, 1376), (768, 1376)),
    (20, F, None, "16:9", "0.5K", None, (672, 384), (672, 384)),
    (21, F, None, "16:9", "0.25", None, (672, 384), (672, 384)),
    (22, F, None, "3:2", "3K", None, (2496, 1664), (2496, 1664)),
    (23, F, None, None, "1.5K", (1, 1), (2048, 2048), (2048, 2048)),
    (24, F, None, None, "1.25K", (1, 1), (1024, 1024), (1024, 1024)),
    (25, F, None, "1:1", "4K", None, (2048, 2048), (2048, 2048)),
    (26, F, None, "7:1", None, None, (2048, 512), (2048, 512)),
    (27, F, "2K", "4:3", None, None, (2368, 1760), (2368, 1760)),
    (28, F, "landscape_16_9", None, None, None, (1024, 576), (1024, 576)),
    (29, F, None, "match_input_image", "2K", (1500, 1000), (2496, 1664), (2496, 1664)),
    (30, F, "1024x", None, None, None, None, "size"),
    (31, F, "0x100", None, None, None, None, "size"),
    (32, F, None, "16-9", None, None, None, "aspect_ratio"),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"example_{example[0]}")
def test_every_worked_example_of_the_specification_holds(example: tuple) -> None:
    _, profile, size, aspect_ratio, resolution, reference, canvas, output = example
    if canvas is None:
        with pytest.raises(InvalidRequest) as caught:
            parse(size, aspect_ratio, resolution)
        assert caught.value.field == output
        assert caught.value.code == "invalid_value"
        return
    sizes = resolve(parse(size, aspect_ratio, resolution), profile, reference)
    assert (sizes.canvas, sizes.output) == (canvas, output)


DEMO_EXAMPLES = [
    ("1024x1024", None, (528, 528), (1024, 1024)),
    ("1920x1080", None, (688, 400), (1920, 1080)),
    ("500x400", None, (512, 400), (500, 400)),
    ("64x48", None, (144, 112), (64, 48)),
    ("3840x2160", None, (688, 400), (2720, 1536)),
    (None, (1024, 768), (592, 448), (592, 448)),
    ("1K", (1, 1), (512, 512), (512, 512)),
    ("1500x1000", None, (640, 432), (1500, 1000)),
]


@pytest.mark.parametrize(("size", "reference", "canvas", "output"), DEMO_EXAMPLES)
def test_a_small_model_still_delivers_an_exact_size_exactly(size, reference, canvas, output) -> None:
    sizes = resolve(parse(size), DEMO_SIZES, reference)
    assert (sizes.canvas, sizes.output) == (canvas, output)


@pytest.mark.parametrize(("name", "size"), NAMED_SIZES.items())
def test_a_name_of_fals_is_an_exact_size(name: str, size: tuple[int, int]) -> None:
    assert resolve(parse(f" {name.upper()} "), F, None).output == size


@pytest.mark.parametrize("text", ["1024x768", "1024 X 768", "1024×768", "1024*768", " 1024x768\n"])
def test_an_exact_size_may_be_written_in_several_ways(text: str) -> None:
    request = parse(text)
    assert (request.width, request.height) == (1024, 768)


@pytest.mark.parametrize("text", ["16:9", "16/9", "16 : 9", "1.6:0.9", "1920:1080"])
def test_a_shape_may_be_written_in_several_ways(text: str) -> None:
    assert parse(aspect_ratio=text).aspect_ratio == pytest.approx(16 / 9)


@pytest.mark.parametrize(
    ("text", "pixels"),
    [("1K", 1024**2), ("0.5k", 512**2), ("2 K", 2048**2), ("1", 1024**2), ("0.25MP", 512**2), ("512", 512**2)],
)
def test_a_scale_may_be_written_in_several_ways(text: str, pixels: int) -> None:
    assert parse(resolution=text).pixels == pixels
    assert parse(text).pixels == pixels


@pytest.mark.parametrize("text", ["", "auto", "AUTO", "null", "None", " ", "undefined"])
def test_words_for_absent_are_absent(text: str) -> None:
    assert parse(text, text, text) == SizeRequest()


def test_size_wins_over_width_and_height_which_win_over_the_rest() -> None:
    assert parse("640x480", width=100, height=100).width == 640
    assert parse("16:9", width=100, height=100).width is None
    request = parse(None, "16:9", "2K", 300, 200)
    assert (request.width, request.height, request.aspect_ratio, request.pixels) == (300, 200, None, None)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"size": "big"}, "size"),
        ({"size": "1024x768x3"}, "size"),
        ({"size": "9999999x1"}, "size"),
        ({"size": "16:0"}, "size"),
        ({"size": "-1x5"}, "size"),
        ({"aspect_ratio": "0:1"}, "aspect_ratio"),
        ({"aspect_ratio": "1.5"}, "aspect_ratio"),
        ({"resolution": "0"}, "resolution"),
        ({"resolution": "0K"}, "resolution"),
        ({"resolution": "1080p"}, "resolution"),
        ({"resolution": "nan"}, "resolution"),
        ({"width": 5}, "height"),
        ({"height": 5}, "width"),
        ({"width": 0, "height": 5}, "width"),
        ({"width": 5, "height": -1}, "height"),
        ({"reference_image": -1}, "reference_image"),
    ],
)
def test_words_that_make_no_sense_are_refused_by_name(words: dict, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**words)
    assert caught.value.field == field


def test_a_side_of_zero_tells_the_smallest_allowed() -> None:
    with pytest.raises(OutOfRange) as caught:
        parse(width=0, height=5)
    assert caught.value.context == {"ge": 1}


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"size": "3840x2160"}, "size"),
        ({"size": "5000x1000"}, "size"),
        ({"aspect_ratio": "7:1"}, "aspect_ratio"),
        ({"resolution": "4K"}, "resolution"),
    ],
)
def test_strict_refuses_what_would_be_replaced_by_the_nearest(words: dict, field: str) -> None:
    request = parse(**words)
    with pytest.raises(InvalidRequest) as caught:
        resolve(request, F, (100, 100), strict=True)
    assert caught.value.field == field
    assert [(notice.parameter, notice.action) for notice in resolve(request, F, (100, 100)).notices] == [
        (field, "converted" if field == "resolution" else "clamped")
    ]


def test_an_input_of_an_extreme_shape_is_clamped_even_when_strict() -> None:
    sizes = resolve(SizeRequest(), F, (10_000, 100), strict=True)
    assert sizes.output == (2048, 512)
    assert sizes.notices[0].action == "clamped"


def test_what_can_be_given_exactly_gives_no_notice() -> None:
    for request in (parse(), parse("16:9", None, "2K"), parse("1920x1080"), parse("256x256"), parse("0.25")):
        assert resolve(request, F, (640, 480), strict=True).notices == ()


sides = st.integers(1, 6000)
profiles = st.sampled_from((F, DEMO_SIZES))
requests = st.one_of(
    st.builds(lambda width, height: SizeRequest(width=width, height=height), sides, sides),
    st.builds(
        lambda ratio, pixels: SizeRequest(aspect_ratio=ratio, pixels=pixels),
        st.none() | st.floats(0.01, 100),
        st.none() | st.integers(1, 10**8),
    ),
)


@given(requests, profiles, st.tuples(sides, sides))
def test_a_canvas_is_on_the_grid_and_within_the_models_limits(request, profile, reference) -> None:
    width, height = resolve(request, profile, reference).canvas
    assert width % profile.grid == height % profile.grid == 0
    assert width * height <= profile.max_area
    assert 0 < width <= profile.max_side
    assert 0 < height <= profile.max_side


@given(requests, profiles, st.tuples(sides, sides))
def test_the_canvas_has_nearly_the_shape_of_the_output(request, profile, reference) -> None:
    sizes = resolve(request, profile, reference)
    (canvas_width, canvas_height), (width, height) = sizes.canvas, sizes.output
    error = abs(math.log(canvas_width / canvas_height / (width / height)))
    shortest = min(*sizes.canvas, *sizes.output)
    # Each side is off by at most one step of the grid in all: half by rounding, the rest by the area limit.
    assert error <= 2.5 * profile.derived_grid / shortest


@given(requests, profiles, st.tuples(sides, sides))
def test_a_derived_size_has_about_the_area_of_its_tier(request, profile, reference) -> None:
    sizes = resolve(request, profile, reference)
    if request.width is None:
        area = sizes.canvas[0] * sizes.canvas[1]
        assert min(abs(math.log(area / tier)) for tier in profile.tiers) <= profile.derived_grid / min(sizes.canvas) * 2


@given(st.tuples(sides, sides), profiles)
def test_an_exact_size_within_the_limits_is_delivered_exactly(size, profile) -> None:
    width, height = size
    sizes = resolve(SizeRequest(width=width, height=height), profile, None)
    allowed = max(width / height, height / width) <= 4 and width * height <= profile.max_output_area
    assert (sizes.output == size) or not allowed
    actions = {notice.action for notice in sizes.notices}
    assert ("clamped" in actions) == (not allowed)
    assert ("converted" in actions) == (math.prod(sizes.output) > 1.1 * math.prod(sizes.canvas))


@given(requests, profiles, st.tuples(sides, sides))
def test_asking_for_what_was_delivered_delivers_the_same(request, profile, reference) -> None:
    output = resolve(request, profile, reference).output
    again = resolve(SizeRequest(width=output[0], height=output[1]), profile, None)
    if max(output) / min(output) <= profile.max_ratio:  # rounding 4:1 to the grid may end just beyond it
        assert again.output == output


@given(requests, profiles, st.tuples(sides, sides))
def test_a_turned_request_gives_the_turned_answer(request, profile, reference) -> None:
    turned = SizeRequest(
        width=request.height,
        height=request.width,
        aspect_ratio=request.aspect_ratio and 1 / request.aspect_ratio,
        pixels=request.pixels,
    )
    sizes = resolve(request, profile, reference)
    other = resolve(turned, profile, reference[::-1])
    # sqrt(area * ratio) may fall on the other side of a rounding tie by the last bit of a float
    grid = profile.derived_grid
    assert all(abs(a - b) <= grid for a, b in zip(sizes.canvas, other.canvas[::-1], strict=True))


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (1500, 1000)])
def test_a_photo_larger_than_its_answer_is_reported(size: tuple[int, int]) -> None:
    for profile in (DEMO_SIZES, QWEN_SIZES):
        decided = resolve(SizeRequest(), profile, size)
        [notice] = decided.notices
        assert (notice.parameter, notice.action) == ("size", "converted")
        assert f"{size[0]}x{size[1]}" in notice.detail
        assert f"{decided.output[0]}x{decided.output[1]}" in notice.detail


def test_a_photo_of_about_the_models_size_or_a_scale_that_was_asked_for_needs_no_word() -> None:
    assert resolve(SizeRequest(), QWEN_SIZES, (1024, 1024)).notices == ()
    assert resolve(SizeRequest(), QWEN_SIZES, (1040, 1030)).notices == ()
    assert resolve(SizeRequest(), QWEN_SIZES, (300, 200)).notices == ()
    assert resolve(parse(resolution="1K"), QWEN_SIZES, (4000, 3000)).notices == ()


@pytest.mark.parametrize("size", ["1024x1024", "2048x2048", "700x700", "2048x1024"])
def test_a_size_that_is_reached_by_enlarging_is_reported(size: str) -> None:
    decided = resolve(parse(size=size), DEMO_SIZES, None)
    assert "x".join(map(str, decided.output)) == size
    [notice] = decided.notices
    assert (notice.parameter, notice.action) == ("size", "converted")
    assert f"made at {decided.canvas[0]}x{decided.canvas[1]} and enlarged" in notice.detail


@pytest.mark.parametrize("size", ["512x512", "500x333", "100x100", "64x64"])
def test_a_size_within_the_models_reach_needs_no_word(size: str) -> None:
    assert resolve(parse(size=size), DEMO_SIZES, None).notices == ()


def test_a_size_that_is_both_clamped_and_enlarged_is_reported_as_both() -> None:
    assert [notice.action for notice in resolve(parse(size="9000x9000"), DEMO_SIZES, None).notices] == [
        "clamped",
        "converted",
    ]
