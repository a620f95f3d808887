"""The OpenAI face's shapes: bodies taken apart, parameters read, answers and errors dumped."""

from __future__ import annotations

import dataclasses
import string
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch import errors, sizes
from retouch.catalog import CHECKPOINTS, Catalog, Checkpoint, Route
from retouch.edit import Acceleration, EditOutput, EditRequest, Notice, OutputFormat, OutputImage, SizeRequest, Usage
from retouch.errors import Failure, InvalidRequest, InvalidType, MissingParameter, RetouchError, UnsupportedParameter
from retouch.jobs.job import Job, JobState
from retouch.protocols.events import sse_comment, sse_data
from retouch.protocols.openai import dump
from retouch.protocols.openai.dump import DeliveredImage
from retouch.protocols.openai.errors import ROWS, dump_error
from retouch.protocols.openai.form import Body, Part, decode_form, decode_json, nest
from retouch.protocols.openai.parse import EditCall, parse_call, resolve, route_of
from retouch.protocols.outcome import failure_in_wire_names, notices_in_wire_names

GOLDEN = Path(__file__).parents[2] / "golden" / "wire" / "openai"
MOMENT = datetime(2026, 8, 20, 12, 0, tzinfo=UTC)
FILE = b"\x89PNG\r\n\x1a\n pixels"
QWEN, DEMO, NULL = CHECKPOINTS[3], CHECKPOINTS[0], CHECKPOINTS[-1]


def text(name: str, value: str) -> Part:
    return Part(name, None, value.encode())


def file(name: str, data: bytes = FILE, filename: str = "a.png") -> Part:
    return Part(name, filename, data)


def form(**fields: str) -> Body:
    return decode_form(
        [file("image"), *(text(name, value) for name, value in {"prompt": "paint it", **fields}.items())]
    )


def call(**fields: str) -> EditCall:
    return parse_call(form(**fields))


def json_call(**fields: object) -> EditCall:
    body = {"images": [{"image_url": "https://example.com/a.png"}], "prompt": "paint it"}
    return parse_call(decode_json(body | fields))


def route(checkpoint: Checkpoint = QWEN, model: str = "qwen-image-edit") -> Route:
    return Catalog.serving(checkpoint).route(model)


def complete(parsed: EditCall, its_route: Route) -> tuple[EditCall, EditRequest, tuple[Notice, ...]]:
    """The call fitted to the route's model, its request as it will run, and every notice, as a submit finds them."""
    resolved = resolve(parsed, its_route)
    completed, notices = its_route.complete(resolved.request, image_count=len(parsed.image_names))
    return resolved, completed, resolved.notices + notices_in_wire_names(notices, parsed.wire_name)


def ignored(parsed: EditCall) -> list[str]:
    return [notice.parameter for notice in parsed.notices if notice.action == "ignored"]


class TestImages:
    @pytest.mark.parametrize("name", ["image", "image[]", "image[0]", "images", "images[]", "url", "image_url"])
    def test_a_single_file_is_taken_under_every_name(self, name: str):
        body = decode_form([text("prompt", "x"), file(name)])
        assert [image.source for image in body.images] == [FILE]

    def test_names_that_are_mixed_are_merged_in_document_order(self):
        parts = [
            file("image[]", b"1"),
            text("url", "https://a/2"),
            file("image", b"3"),
            text("image_urls[]", "https://a/4"),
        ]
        assert [image.source for image in decode_form(parts).images] == [b"1", "https://a/2", b"3", "https://a/4"]

    def test_numbered_files_are_sorted_by_their_number(self):
        body = decode_form([file("image[10]", b"c"), file("image[2]", b"b"), file("image[0]", b"a")])
        assert [image.source for image in body.images] == [b"a", b"b", b"c"]
        assert [image.name for image in body.images] == ["image[0]", "image[1]", "image[2]"]

    def test_a_blank_text_and_an_empty_file_input_of_a_browser_are_no_images(self):
        assert decode_form([text("image", " "), file("image", b"", "")]).images == ()

    def test_an_empty_file_with_a_name_is_an_image_that_will_be_refused(self):
        assert [image.source for image in decode_form([file("image", b"")]).images] == [b""]

    def test_a_javascript_buffer_is_recognised_and_the_way_out_is_reported(self):
        with pytest.raises(InvalidType, match="toFile") as raised:
            decode_form([text("prompt", "x"), *(text(f"image[{i}]", str(byte)) for i, byte in enumerate(FILE))])
        assert raised.value.field == "image"
        assert raised.value.code == "invalid_type"

    def test_a_json_list_of_links_in_one_text_field_is_several_images(self):
        body = decode_form([text("image_urls", '["https://a/1", "https://a/2"]')])
        assert [image.source for image in body.images] == ["https://a/1", "https://a/2"]

    @pytest.mark.parametrize("name", ["mask", "mask[]", "mask_image", "mask_url"])
    def test_the_mask_is_taken_under_every_name(self, name: str):
        body = decode_form([file("image"), file(name, b"m")])
        assert body.mask is not None
        assert body.mask.source == b"m"

    def test_two_masks_are_refused(self):
        with pytest.raises(InvalidRequest, match="one mask"):
            decode_form([file("mask"), file("mask")])

    @pytest.mark.parametrize(
        ("body", "name"),
        [
            ({"images": [{"image_url": "https://a/1"}]}, "images[0].image_url"),
            ({"image": "https://a/1"}, "image[0]"),
            ({"image": ["https://a/1"]}, "image[0]"),
            ({"image_url": "https://a/1"}, "image_url"),
            ({"image_urls": ["https://a/1"]}, "image_urls[0]"),
            ({"images": [{"image_url": {"url": "https://a/1"}}]}, "images[0].image_url.url"),
        ],
    )
    def test_a_json_body_names_its_images_in_every_documented_way(self, body: dict[str, Any], name: str):
        (image,) = decode_json(body).images
        assert (image.source, image.name) == ("https://a/1", name)

    def test_a_file_id_is_refused_by_its_place(self):
        with pytest.raises(UnsupportedParameter) as raised:
            decode_json({"images": [{"image_url": "https://a/1"}, {"file_id": "file-1"}]})
        assert raised.value.field == "images[1].file_id"

    @pytest.mark.parametrize("body", [[], "text", 1, None, {"images": [3]}, {"images": [{}]}, {"mask": [1]}])
    def test_a_json_body_of_another_shape_is_a_wrong_type(self, body: object):
        with pytest.raises(InvalidType):
            decode_json(body)


class TestBrackets:
    def test_lora_lists_decode_alike_grouped_and_interleaved(self):
        grouped = [("loras[][path]", "a"), ("loras[][path]", "b"), ("loras[][scale]", "1"), ("loras[][scale]", "2")]
        interleaved = [grouped[0], grouped[2], grouped[1], grouped[3]]
        expected = {"loras": [{"path": "a", "scale": "1"}, {"path": "b", "scale": "2"}]}
        assert nest(grouped) == nest(interleaved) == expected

    def test_objects_lists_and_numbers_nest(self):
        pairs = [
            ("svg[reasoning][effort]", "low"),
            ("tags[]", "a"),
            ("tags[]", "b"),
            ("o[1][x]", "2"),
            ("o[0][x]", "1"),
        ]
        assert nest(pairs) == {
            "svg": {"reasoning": {"effort": "low"}},
            "tags": ["a", "b"],
            "o": [{"x": "1"}, {"x": "2"}],
        }

    @pytest.mark.parametrize(
        "names",
        [("a[][x]", "a[][x]", "a[][y]"), ("a", "a[x]"), ("a[]", "a[x]"), ("a[b][c][d][e][f][g][h]",)],
    )
    def test_names_that_contradict_each_other_are_refused(self, names: tuple[str, ...]):
        with pytest.raises(InvalidRequest) as raised:
            nest([(name, "1") for name in names])
        assert raised.value.field == "a"

    def test_a_name_with_broken_brackets_is_a_name(self):
        assert nest([("a[b", "1"), ("]", "2"), ("", "3")]) == {"a[b": "1", "]": "2", "": "3"}


_leaves = st.one_of(
    st.text(string.printable, min_size=1).filter(lambda t: t.strip() == t and "\0" not in t),
    st.integers(-(10**12), 10**12),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
_names = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8).filter(lambda t: not t.isdigit())
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(_names, inner, min_size=1, max_size=3),
    max_leaves=6,
)


def written(value: object) -> str:
    """A scalar as both SDKs put it in a form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def as_pairs(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in as_pairs(f"{name}[{key}]", inner)]
    if isinstance(value, list):
        return [pair for inner in value for pair in as_pairs(f"{name}[]", inner)]
    return [(name, written(value))]


def as_text(value: object) -> object:
    if isinstance(value, dict):
        return {key: as_text(inner) for key, inner in value.items()}
    return [as_text(inner) for inner in value] if isinstance(value, list) else written(value)


@given(
    st.dictionaries(
        _names,
        st.one_of(
            _leaves, st.lists(_leaves, min_size=1, max_size=4), st.dictionaries(_names, _leaves, min_size=1, max_size=3)
        ),
    )
)
def test_values_come_back_from_the_brackets_of_a_form(values: dict[str, object]):
    pairs = [pair for name, value in values.items() for pair in as_pairs(name, value)]
    assert nest(pairs) == {name: as_text(value) for name, value in values.items()}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(-1, 2**63 - 1),
            "n": st.integers(1, 10),
            "size": st.sampled_from(["auto", "1024x768", "16:9", "2K"]),
            "aspect_ratio": st.sampled_from(["3:2", "auto"]),
            "resolution": st.sampled_from(["1K", "0.25"]),
            "num_inference_steps": st.integers(1, 100),
            "true_cfg_scale": st.floats(0, 20),
            "quality": st.sampled_from(["low", "standard", "high", "auto"]),
            "negative_prompt": st.text(string.printable, max_size=20),
            "output_format": st.sampled_from(["png", "jpg", "jpeg", "webp", "avif"]),
            "output_compression": st.integers(0, 100),
            "stream": st.booleans(),
            "partial_images": st.integers(0, 3),
            "acceleration": st.sampled_from(list(Acceleration)).map(str),
            "enable_safety_checker": st.booleans(),
            "strict": st.booleans(),
            "user": st.text(string.ascii_letters, max_size=8),
        },
    )
)
def test_a_form_and_a_json_body_of_the_same_call_mean_the_same(values: dict[str, Any]):
    def parsed(body: Body) -> EditCall | str:
        try:
            return dataclasses.replace(parse_call(body), image_names=())
        except InvalidRequest as error:
            return error.message

    fields = {name: written(value) for name, value in values.items()}
    assert parsed(form(**fields)) == parsed(decode_json({"image": "https://a/1", "prompt": "paint it"} | values))


@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from(["prompt", "n", "seed", "size", "image", "stream", "strict", "image_size", "model"]),
            st.text(max_size=6),
        ),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        ),
    )
)
def test_any_json_body_is_a_call_or_a_refusal(body: dict[str, Any]):
    try:
        complete(parse_call(decode_json({"prompt": "x", "image": "https://a/1"} | body)), route())
    except RetouchError as error:
        answer = dump_error(error.failure)
        assert answer.status in (400, 404)
        orjson.dumps(answer.body)


class TestCoercion:
    @pytest.mark.parametrize(
        ("written_as", "seed"),
        [
            ("0", 0),
            ("42", 42),
            ("42.0", 42),
            (" 7 ", 7),
            ("-1", None),
            ("", None),
            ("null", None),
            ("None", None),
            ("undefined", None),
        ],
    )
    def test_seeds(self, written_as: str, seed: int | None):
        assert call(seed=written_as).request.seed == seed

    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("true", True),
            ("TRUE", True),
            ("1", True),
            ("on", True),
            ("yes", True),
            ("false", False),
            ("0", False),
            ("off", False),
            ("No", False),
        ],
    )
    def test_booleans(self, word: str, value: bool):
        assert call(stream=word).stream is value

    @pytest.mark.parametrize("value", [4, 4.0, "4", "4.0", "4e0"])
    def test_numbers_are_equal_however_they_are_written(self, value: object):
        assert json_call(cfg_scale=value).request.guidance_scale == 4.0

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("n", "x"), ("n", "1.5"), ("n", [1]), ("n", True), ("n", {}), ("seed", "1e3"), ("seed", "abc"), ("seed", 1.5), ("cfg_scale", "much"),
            ("cfg_scale", "inf"), ("cfg_scale", "nan"), ("cfg_scale", True), ("stream", "maybe"), ("stream", 2), ("stream", []),
            ("partial_images", "few"), ("steps", "ten"), ("size", True), ("size", []), ("model", {}), ("output_compression", "x"),
            ("width", "wide"), ("reference_image_index", "last"), ("prompt", 3), ("negative_prompt", ["a"]), ("user", []),
        ],
    )  # fmt: skip
    def test_a_value_of_the_wrong_type_is_refused_by_its_name(self, field: str, value: object):
        with pytest.raises(InvalidType) as raised:
            json_call(**{field: value})
        assert raised.value.field == field

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("quality", "best"), ("response_format", "hex"), ("output_format", "bmp"), ("background", "green"), ("acceleration", "warp"),
            ("size", "1024x"), ("size", "0x100"), ("aspect_ratio", "16-9"), ("resolution", "big"), ("partial_images", "4"), ("partial_images", "-1"),
            ("strict", "maybe"), ("input_fidelity", "medium"), ("moderation", "high"), ("complexity", "none"), ("image_size", "huge"),
            ("reference_image_index", "-1"), ("width", "0"), ("prompt", "a\0b"), ("negative_prompt", "a\0b"),
        ],
    )  # fmt: skip
    def test_a_value_outside_the_allowed_ones_is_refused_by_its_name(self, field: str, value: str):
        fields = {"width": "8", "height": "8"} if field == "width" else {}
        with pytest.raises(InvalidRequest) as raised:
            call(**fields | {field: value})
        assert raised.value.field == field
        assert dump_error(raised.value.failure).status == 400

    @pytest.mark.parametrize("field", ["markup", "svg[model]", "frame_count", "frame_duration_ms"])
    def test_what_would_change_the_image_and_is_not_offered_is_refused(self, field: str):
        with pytest.raises(UnsupportedParameter) as raised:
            call(**{field: "2"})
        assert raised.value.field == field.partition("[")[0]

    @pytest.mark.parametrize(("field", "value"), [("background", "transparent"), ("output_format", "svg")])
    def test_a_word_that_is_not_offered_is_refused(self, field: str, value: str):
        with pytest.raises(UnsupportedParameter) as raised:
            call(**{field: value})
        assert raised.value.field == field

    @pytest.mark.parametrize("output_format", ["gif", "avif"])
    def test_formats_that_events_cannot_carry_are_refused_for_streams(self, output_format: str):
        with pytest.raises(UnsupportedParameter):
            call(stream="true", output_format=output_format)

    @pytest.mark.parametrize("prompt", [None, "", "  \n"])
    def test_a_blank_prompt_is_missing(self, prompt: str | None):
        with pytest.raises(MissingParameter) as raised:
            json_call(prompt=prompt)
        assert raised.value.field == "prompt"

    def test_no_image_is_a_missing_image(self):
        with pytest.raises(MissingParameter) as raised:
            parse_call(decode_form([text("prompt", "x")]))
        assert raised.value.field == "image"

    def test_a_file_where_text_is_due_is_a_wrong_type(self):
        with pytest.raises(InvalidType) as raised:
            parse_call(decode_form([file("image"), file("prompt")]))
        assert raised.value.field == "prompt"

    def test_text_that_is_not_utf_8_is_refused(self):
        with pytest.raises(InvalidRequest, match="UTF-8"):
            decode_form([Part("prompt", None, b"\xff\xfe")])


class TestMeaning:
    def test_line_ends_are_the_same_from_every_client(self):
        prompts = {call(prompt=prompt, negative_prompt=prompt).request for prompt in ("a\nb", "a\r\nb", "a\rb")}
        assert [(edit.prompt, edit.negative_prompt) for edit in prompts] == [("a\nb", "a\nb")]

    def test_spaces_around_a_prompt_are_kept_and_the_word_null_is_a_prompt(self):
        assert call(prompt=" a ").request.prompt == " a "
        assert call(prompt="null").request.prompt == "null"

    @pytest.mark.parametrize("name", ["cfg_scale", "true_cfg_scale", "guidance_scale"])
    def test_guidance_has_three_names(self, name: str):
        parsed = call(**{name: "3.5"})
        assert parsed.request.guidance_scale == 3.5
        assert parsed.names["guidance_scale"] == name

    def test_the_more_specific_of_two_names_wins_and_the_other_is_reported(self):
        parsed = call(true_cfg_scale="4", guidance_scale="1")
        assert parsed.request.guidance_scale == 4
        assert ignored(parsed) == ["guidance_scale"]

    def test_the_name_that_was_used_is_not_among_the_ignored_ones(self):
        parsed = call(true_cfg_scale="4", guidance_scale="1", num_inference_steps="4", steps="5")
        body = dump.dump_response(resolve(parsed, route(DEMO)), a_job(parsed), (DeliveredImage("AAAA"),))
        assert body["metadata"]["ignored_parameters"] == ["steps", "guidance_scale"]
        headers = dump.answer_headers(resolve(parsed, route(DEMO)), a_job(parsed), replayed=False)
        assert headers["x-ignored-parameters"] == "steps, guidance_scale"

    def test_what_is_said_of_a_shape_names_the_parameter_that_gave_it(self):
        assert call(size="16:9").wire_name("aspect_ratio") == "size"
        assert call(image_size="2K").wire_name("resolution") == "image_size"
        assert call(aspect_ratio="16:9").wire_name("aspect_ratio") == "aspect_ratio"

    @pytest.mark.parametrize(("word", "acceleration"), [("true", Acceleration.HIGH), ("false", Acceleration.NONE)])
    def test_go_fast_is_acceleration(self, word: str, acceleration: Acceleration):
        assert call(go_fast=word).request.acceleration is acceleration

    def test_the_safety_checker_is_on_unless_it_is_turned_off_in_either_way(self):
        assert call().request.enable_safety_checker
        assert not call(enable_safety_checker="false").request.enable_safety_checker
        assert not call(disable_safety_checker="true").request.enable_safety_checker
        with pytest.raises(InvalidRequest, match="contradict"):
            call(enable_safety_checker="true", disable_safety_checker="true")

    @pytest.mark.parametrize(
        ("name", "value"), [("enable_safety_checker", "true"), ("disable_safety_checker", "false")]
    )
    def test_who_asks_for_the_safety_checker_is_told_when_nothing_was_checked(self, name: str, value: str):
        parsed = call(**{name: value})
        assert ignored(parsed) == []
        body = dump.dump_response(resolve(parsed, route(DEMO)), a_job(parsed), (DeliveredImage("AAAA"),))
        assert body["data"][0]["has_nsfw_concepts"] is None
        assert name in body["metadata"]["ignored_parameters"]
        assert ignored(call(moderation="low")) == ["moderation"]

    @pytest.mark.parametrize("name", ["enable_prompt_expansion", "enhance_prompt", "prompt_extend"])
    def test_a_prompt_is_expanded_for_those_who_say_so_in_any_of_the_words(self, name: str):
        assert not call().request.enable_prompt_expansion
        assert not call(**{name: "false"}).request.enable_prompt_expansion
        parsed = call(**{name: "true"})
        assert parsed.request.enable_prompt_expansion
        assert parsed.wire_name("enable_prompt_expansion") == name

    def test_jpg_is_jpeg_and_compression_is_the_encoders_quality(self):
        edit = call(output_format="jpg", output_compression="80").request
        assert (edit.output_format, edit.output_quality) == (OutputFormat.JPEG, 80)
        assert call(output_format="webp", output_quality="70").request.output_quality == 70
        assert call().request.output_quality == 100

    def test_compression_of_a_lossless_format_is_reported_as_ignored(self):
        assert ignored(call(output_compression="10")) == ["output_compression"]

    @pytest.mark.parametrize(
        ("fields", "size"),
        [
            ({}, SizeRequest(words="auto")),
            ({"size": "1024x768"}, SizeRequest(width=1024, height=768, words="1024x768")),
            ({"size": "1024x768", "aspect_ratio": "1:1"}, SizeRequest(width=1024, height=768, words="1024x768")),
            ({"width": "640", "height": "480"}, SizeRequest(width=640, height=480, words="640x480")),
            ({"image_size[width]": "640", "image_size[height]": "480"}, SizeRequest(width=640, height=480, words="640x480")),
            ({"image_size": '{"width":640,"height":480}'}, SizeRequest(width=640, height=480, words="640x480")),
            ({"image_size": "square_hd"}, SizeRequest(width=1024, height=1024, words="square_hd")),
            ({"reference_image_index": "0"}, SizeRequest(reference_image=0, words="auto")),
        ],
    )  # fmt: skip
    def test_sizes(self, fields: dict[str, str], size: SizeRequest):
        assert call(**fields).request.size == size

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"size": "1280x720", "aspect_ratio": "1:1", "resolution": "4K"}, ["aspect_ratio", "resolution"]),
            ({"size": "16:9", "aspect_ratio": "1:1", "resolution": "2K"}, ["aspect_ratio"]),
            ({"size": "2K", "aspect_ratio": "4:3", "resolution": "1K"}, ["resolution"]),
            ({"width": "64", "height": "64", "resolution": "1K"}, ["resolution"]),
            ({"size": "auto", "aspect_ratio": "auto", "resolution": "auto"}, []),
            ({"size": "1024x1024", "image_size": "square"}, ["image_size"]),
        ],
    )
    def test_words_on_size_that_lose_are_reported(self, fields: dict[str, str], names: list[str]):
        assert ignored(call(**fields)) == names

    def test_the_size_policy_may_come_as_a_header_and_the_body_wins(self):
        assert parse_call(form(), size_policy="error").request.strict
        assert not parse_call(form(strict="nearest"), size_policy="error").request.strict
        with pytest.raises(InvalidRequest):
            parse_call(form(), size_policy="sometimes")

    def test_unknown_parameters_are_reported_and_never_dropped_in_silence(self):
        parsed = call(style="vivid", frobnicate="1", **{"tags[]": "a"})
        assert ignored(parsed) == ["style", "frobnicate", "tags"]

    def test_words_without_effect_are_reported(self):
        parsed = call(
            input_fidelity="high", complexity="low", moderation="low", max_sequence_length="512", partial_images="2"
        )
        assert sorted(ignored(parsed)) == [
            "complexity",
            "input_fidelity",
            "max_sequence_length",
            "moderation",
            "partial_images",
        ]

    def test_a_plain_call_has_nothing_to_report(self):
        parsed = call(
            model="qwen-image-edit",
            n="1",
            size="auto",
            quality="auto",
            background="auto",
            response_format="url",
            user="u",
            moderation="auto",
        )
        assert complete(parsed, route())[2] == ()

    def test_the_delivery_keeps_what_the_answer_needs(self):
        delivery = call(stream="true", partial_images="2", sync_mode="true", model="qwen-image-edit").delivery()
        assert (delivery.protocol, delivery.endpoint, delivery.inline) == ("openai", "qwen-image-edit", True)
        assert (delivery.options, delivery.previews) == ({"response_format": "both"}, 2)
        assert call(partial_images="2").delivery().previews == 0


class TestResolving:
    @pytest.mark.parametrize(
        ("quality", "steps", "word"),
        [
            ("low", 20, "low"),
            ("medium", 30, "medium"),
            ("standard", 30, "medium"),
            ("high", 50, "high"),
            ("hd", 50, "high"),
            ("xhigh", 50, "high"),
            ("max", 50, "high"),
            ("auto", 30, "medium"),
        ],
    )
    def test_quality_becomes_steps(self, quality: str, steps: int, word: str):
        resolved, completed, _ = complete(call(quality=quality), route())
        assert (completed.steps, resolved.reported_quality(completed.steps)) == (steps, word)

    def test_explicit_steps_win_over_quality_and_that_is_reported(self):
        _, completed, notices = complete(call(quality="low", steps="44"), route())
        assert completed.steps == 44
        assert [notice.parameter for notice in notices] == ["quality"]

    def test_a_distilled_checkpoint_keeps_its_own_steps(self):
        resolved, completed, notices = complete(call(quality="low", acceleration="none"), route(DEMO))
        assert (completed.steps, resolved.reported_quality(completed.steps)) == (DEMO.steps, "low")
        assert [(notice.parameter, notice.action) for notice in notices] == [("quality", "converted")]

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"n": "0"}, "n"), ({"n": "11"}, "n"), ({"n": "-1"}, "n"), ({"steps": "0"}, "steps"), ({"num_inference_steps": "101"}, "num_inference_steps"),
            ({"guidance_scale": "21"}, "guidance_scale"), ({"true_cfg_scale": "-1"}, "true_cfg_scale"), ({"seed": "-2"}, "seed"),
            ({"output_format": "jpeg", "output_compression": "101"}, "output_compression"), ({"prompt": "x" * 32_001}, "prompt"),
            ({"reference_image_index": "1"}, "reference_image_index"),
        ],
    )  # fmt: skip
    def test_limits_of_the_model_are_reported_in_the_callers_words(self, fields: dict[str, str], param: str):
        parsed = call(**fields)
        with pytest.raises(InvalidRequest) as raised:
            complete(parsed, route())
        failure = failure_in_wire_names(raised.value.failure, parsed.wire_name)
        assert failure.field == param
        assert f"'{param}'" in failure.message

    def test_a_limit_is_printed_in_full(self):
        parsed = call(seed=str(2**63))
        with pytest.raises(errors.OutOfRange) as raised:
            complete(parsed, route())
        assert f"from 0 to {2**63 - 1}, not {2**63}." in raised.value.message

    def test_too_many_images_are_refused_before_anything_is_stored(self):
        parsed = parse_call(decode_form([text("prompt", "x"), *(file("image[]") for _ in range(9))]))
        with pytest.raises(errors.TooManyImages) as raised:
            complete(parsed, route())
        assert failure_in_wire_names(raised.value.failure, parsed.wire_name).field == "image"

    def test_an_image_found_bad_later_is_named_as_the_caller_named_it(self):
        parsed = json_call(images=[{"image_url": "https://a/1"}, {"image_url": "https://a/2"}])
        failure = Failure("invalid_image", "The image in 'images[1]' is damaged.", field="images[1]")
        assert failure_in_wire_names(failure, parsed.wire_name) == dataclasses.replace(
            failure, message="The image in 'images[1].image_url' is damaged.", field="images[1].image_url"
        )

    def test_models_are_found_bare_and_with_this_providers_name(self):
        catalog = Catalog.serving(DEMO)
        assert route_of(catalog, None).model.id == "qwen-image-edit"
        assert route_of(catalog, "local/qwen-image-2").model.id == "qwen-image-2"
        with pytest.raises(errors.UnknownModel):
            route_of(catalog, "gpt-image-1")


class TestDigest:
    def test_the_order_and_the_form_of_parts_do_not_change_it(self):
        one = decode_form([text("a", "1"), text("b", "2"), file("image")])
        other = decode_form([file("image", filename="other.png"), text("b", "2"), text("a", "1")])
        assert one.digest() == other.digest()

    def test_every_word_and_every_pixel_changes_it(self):
        digests = {
            decode_form(parts).digest()
            for parts in (
                [text("a", "1"), file("image")],
                [text("a", "2"), file("image")],
                [text("a", "1"), file("image", FILE + b"x")],
                [text("a", "1"), file("image"), file("image", b"2")],
                [text("a", "1"), file("image"), file("mask", b"2")],
                [file("a", b"1"), file("image")],
            )
        }
        assert len(digests) == 6


def a_job(parsed: EditCall, **changes: Any) -> Job:
    _, completed, _ = complete(parsed, route(DEMO))
    _, notices = route(DEMO).complete(resolve(parsed, route(DEMO)).request, image_count=1)
    output = EditOutput(
        images=tuple(
            OutputImage(f"outputs/{i}.png", 1280, 720, completed.output_format.media_type, 3, seed=42 + i)
            for i in range(parsed.request.num_images)
        ),
        prompt=parsed.request.prompt,
        timings={"stage_in": 0.01, "inference": 1.5},
        canvas=(1280, 720),
        notices=(Notice("steps", "clamped", "Fewer were run."),),
        applied={"acceleration": "none"},
    )
    job = Job(
        id="00000000-0000-4000-8000-000000000000", account_id="a", queue="demo", state=JobState.SUCCEEDED,
        request=dataclasses.replace(completed, images=(), seed=42), delivery=parsed.delivery(), sequence=1, priority=100,
        attempt=1, cancel_requested=False, step=4, steps=4, created_at=MOMENT, queued_at=MOMENT, started_at=MOMENT, finished_at=MOMENT,
        output=output, usage=Usage(1, 921_600, 4, 1500, price_microusd=18_432), notices=notices,
    )  # fmt: skip
    return dataclasses.replace(job, **changes)


def compare(name: str, body: object, golden: bool) -> None:
    """The body as it is kept beside the test; `--golden` writes it again."""
    path = GOLDEN / f"{name}.json"
    indented = orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"
    if golden:
        path.write_bytes(indented)
    assert indented.decode() == path.read_text()


class TestAnswers:
    def test_an_answer_is_the_golden_one(self, golden: bool):
        parsed = call(
            model="local/qwen-image-edit", n="2", num_inference_steps="4", safety_identifier="s", frobnicate="1"
        )
        delivered = (DeliveredImage("AAAA", "https://e/0.png"), DeliveredImage("BBBB", "https://e/1.png"))
        compare("images_response", dump.dump_response(resolve(parsed, route(DEMO)), a_job(parsed), delivered), golden)

    def test_events_are_the_golden_ones(self, golden: bool):
        parsed = call(stream="true", partial_images="1")
        resolved, job = resolve(parsed, route(DEMO)), a_job(parsed)
        partial = dump.dump_partial(
            resolved, job.request, b64_json="AA==", index=0, size=(1280, 720), now_s=1_787_227_200, image=0
        )
        completed = dump.dump_completed(resolved, job, 0, DeliveredImage("AAAA"))
        compare("stream_events", [partial, completed], golden)

    def test_the_model_list_is_the_golden_one(self, golden: bool):
        routes = [route for route in Catalog.serving(DEMO).routes if "/" not in route.model.id]
        compare("models", dump.dump_models(routes), golden)

    def test_an_estimate_is_the_golden_one(self, golden: bool):
        parsed = call(n="2", quality="hd", unknown="1", acceleration="none")
        resolved = resolve(parsed, route())
        completed, notices = route().complete(resolved.request, image_count=1)
        square = sizes.resolve(completed.size, QWEN.sizes, None)
        body = dump.dump_estimate(resolved, completed, route(), square, notices, size_known=False)
        compare("estimate", body, golden)

    @pytest.mark.parametrize(("checkpoint", "runs"), [(QWEN, "high"), (DEMO, "high"), (NULL, "none")])
    def test_an_estimate_names_the_acceleration_that_runs(self, checkpoint: Checkpoint, runs: str):
        resolved = resolve(call(go_fast="true"), route(checkpoint))
        completed, notices = route(checkpoint).complete(resolved.request, image_count=1)
        square = sizes.resolve(completed.size, QWEN.sizes, None)
        body = dump.dump_estimate(resolved, completed, route(checkpoint), square, notices, size_known=False)
        assert body["resolved"]["acceleration"] == runs

    def test_seconds_are_told_to_a_tenth_of_a_millisecond_and_prices_to_a_billionth(self):
        parsed = call(n="3")
        job = a_job(parsed)
        assert job.output is not None
        job = dataclasses.replace(job, output=dataclasses.replace(job.output, timings={"inference": 1 / 3}))
        body = dump.dump_response(resolve(parsed, route(DEMO)), job, (DeliveredImage("AAAA"),) * 3)
        assert body["timings"] == {"inference": 0.3333}
        completed, notices = route(DEMO).complete(resolve(parsed, route(DEMO)).request, image_count=1)
        square = sizes.resolve(completed.size, DEMO.sizes, None)
        estimate = dump.dump_estimate(parsed, completed, route(DEMO), square, notices, size_known=True)
        component = estimate["components"][0]
        assert component["unit_price"] == round(component["unit_price"], 9)
        assert component["total_cost"] * 1e6 == pytest.approx(estimate["total_cost_micros"])

    def test_avif_is_reported_beside_the_types_of_the_sdk(self):
        parsed = call(output_format="avif")
        body = dump.dump_response(resolve(parsed, route(DEMO)), a_job(parsed), (DeliveredImage("AAAA"),))
        assert "output_format" not in body
        assert body["metadata"]["output_format"] == "avif"

    def test_a_member_that_was_not_asked_for_is_left_out(self):
        parsed = call(response_format="url")
        body = dump.dump_response(
            resolve(parsed, route(DEMO)), a_job(parsed), (DeliveredImage(None, "https://e/0.png"),)
        )
        assert "b64_json" not in body["data"][0]

    def test_a_frame_ends_with_a_blank_line(self):
        assert sse_data({"type": "x"}, "x") == b'event: x\ndata: {"type":"x"}\n\n'
        assert sse_comment("queued") == b": queued\n\n"


class TestErrors:
    def test_every_code_of_ours_has_a_row(self):
        def tree(parent: type[RetouchError]) -> set[str]:
            return {parent.code}.union(
                *(tree(child) for child in parent.__subclasses__() if child.__module__ == errors.__name__)
            )

        not_of_a_call = {"invalid_setting"}
        assert tree(RetouchError) - set(ROWS) - not_of_a_call == set()

    def test_the_table_is_the_golden_one(self, golden: bool):
        table = {}
        for code in ROWS:
            answer = dump_error(Failure(code, "Why.", field="image[0]"))
            table[code] = {"status": answer.status, "headers": answer.headers, **answer.body}
        compare("errors", table, golden)

    def test_too_many_bytes_are_413_and_too_many_pixels_400(self):
        assert dump_error(Failure("image_too_large", "m", context={"max_bytes": 5})).status == 413
        assert (
            dump_error(Failure("image_too_large", "m", context={"max_pixels": 5})).body["error"]["code"]
            == "invalid_image"
        )

    @pytest.mark.parametrize(("wait_s", "header"), [(None, "5"), (30.2, "30"), (0, "1"), (600, "60")])
    def test_a_client_is_never_told_to_wait_longer_than_a_minute(self, wait_s: float | None, header: str):
        context = {} if wait_s is None else {"retry_after_s": wait_s}
        assert dump_error(Failure("queue_full", "m", context=context)).headers["retry-after"] == header

    def test_a_fault_of_a_moment_leaves_the_retry_to_the_client(self):
        assert dump_error(Failure("internal_error", "m")).headers == {"x-should-retry": "false"}
        assert dump_error(Failure("internal_error", "m"), transient=True).headers == {}


class _Members(dict[str, object]):
    """Values that remember which names were looked for."""

    def __init__(self) -> None:
        super().__init__(prompt="x")
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> object:
        self.names.add(name)
        return super().get(name, default)


def test_every_parameter_is_on_the_reference_page():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "openai.md").read_text(encoding="utf-8")
    values = _Members()
    parse_call(Body(values, decode_form([file("image")]).images, None))
    assert [name for name in sorted(values.names) if f"`{name}`" not in page] == []
