"""Reads the parameters of `images.edit`, whatever form they arrived in: types, aliases, allowed words, refusals.

Form text and native JSON values give the same result. `Fields` remembers which name was read for what, so that errors
point at what the caller wrote and nothing is ignored in silence. What a parameter does to an image is not decided here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from retouch import sizes
from retouch.edit import Acceleration, Lora, Notice, OutputFormat, SizeRequest
from retouch.errors import (
    InvalidRequest,
    InvalidType,
    MissingParameter,
    NotOneOf,
    OutOfRange,
    UnsupportedParameter,
)
from retouch.protocols.loras import parse_loras, parse_scale

DEFAULT_OUTPUT_QUALITY = 100
"""OpenAI's default of `output_compression`."""

_FORMATS = ("png", "jpeg", "webp", "gif", "avif")
_STREAMED_FORMATS = frozenset({OutputFormat.PNG, OutputFormat.JPEG, OutputFormat.WEBP})
_NO_QUALITY_FORMATS = frozenset({OutputFormat.PNG, OutputFormat.GIF})

_REFUSED: Mapping[str, str] = {
    "markup": "Draw on a copy of the image and send it as a second image.",
    "frame_count": "Answers are still images.",
    "frame_duration_ms": "Answers are still images.",
    "svg": "Answers are pixels.",
}
"""Known parameters that would change the image and are not offered here."""

_WITHOUT_EFFECT: Mapping[str, tuple[tuple[str, ...], str]] = {
    "input_fidelity": (("high", "low"), "References are always read at the model's full size."),
    "complexity": (("low", "medium", "high"), "There is no planning step."),
    "moderation": (("auto", "low"), "The safety checker has one level."),
    "style": (("vivid", "natural"), "Say the style in the prompt."),
}
"""Accepted words that change nothing here: (allowed words, why)."""

_ABSENT_WORDS = frozenset({"", "null", "None", "undefined"})
_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no"})
_INTEGER = re.compile(r"[+-]?\d{1,30}(\.0*)?")


class Fields:
    """The named values of one call.

    written: canonical name to the name the caller used. notices: parameters not used as written.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._read: set[str] = set()
        self.written: dict[str, str] = {}
        self.notices: list[Notice] = []

    def take(self, canonical: str, *names: str) -> tuple[str, object | None]:
        """(name, value) of the first of `names` that is present, or (canonical, None).

        Without `names` the name is the canonical one. A second alias beside the first is reported as ignored.
        """
        found: tuple[str, object | None] | None = None
        for name in names or (canonical,):
            self._read.add(name)
            value = self._values.get(name)
            if is_absent(value):
                continue
            if found is None:
                found = (name, value)
                self.written[canonical] = name
            elif value != found[1]:
                self.notice(name, "ignored", f"'{found[0]}' was given too and was used.")
        return found or (canonical, None)

    def exactly(self, name: str) -> object | None:
        """The value under `name` as it came, blank or not."""
        self._read.add(name)
        return self._values.get(name)

    def text(self, canonical: str, *names: str) -> str | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_text(name, value)

    def word(self, canonical: str, allowed: Sequence[str], *names: str) -> str | None:
        """One of `allowed`, in small letters."""
        name, value = self.take(canonical, *names)
        if value is None:
            return None
        word = to_text(name, value).strip().lower()
        if word not in allowed:
            raise NotOneOf(name, word, tuple(allowed))
        return word

    def integer(self, canonical: str, *names: str) -> int | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_integer(name, value)

    def number(self, canonical: str, *names: str) -> float | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_number(name, value)

    def boolean(self, canonical: str, *names: str) -> bool | None:
        name, value = self.take(canonical, *names)
        return None if value is None else to_boolean(name, value)

    def notice(self, parameter: str, action: str, detail: str) -> None:
        self.notices.append(Notice(parameter, action, detail))

    def unread(self) -> tuple[str, ...]:
        """Names that were not read, in the caller's order."""
        return tuple(name for name in self._values if name not in self._read)


def is_absent(value: object) -> bool:
    """Whether an optional parameter with this value was not given: null, blank, or a word for null."""
    return value is None or (isinstance(value, str) and value.strip() in _ABSENT_WORDS)


def to_text(name: str, value: object) -> str:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest(f"The field '{name}' holds a NUL character.", field=name)
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    raise InvalidType(name, "string", _printable(value))


def to_integer(name: str, value: object) -> int:
    """Whole numbers, also as `4.0`, `"4"` and `"4.0"`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    raise InvalidType(name, "integer", _printable(value))


def to_number(name: str, value: object) -> float:
    """Finite numbers, also as text."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise InvalidType(name, "number", _printable(value))


def to_boolean(name: str, value: object) -> bool:
    """true and false, and the words and digits forms use for them."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidType(name, "boolean", _printable(value))


def _printable(value: object) -> object:
    return "a file" if isinstance(value, bytes) else value


def read_prompt(fields: Fields) -> str:
    """The prompt as written, with one kind of line end; the word "null" is a prompt too."""
    value = fields.exactly("prompt")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise MissingParameter("prompt")
    if not isinstance(value, str):
        raise InvalidType("prompt", "string", "a file" if isinstance(value, bytes) else value)
    return with_plain_line_ends(to_text("prompt", value)) or ""


def with_plain_line_ends(text: str | None) -> str | None:
    """JavaScript's forms turn line ends into CRLF, its streams and Python do not: one call, one prompt."""
    return None if text is None else text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_what_is_not_offered(fields: Fields) -> None:
    for name, advice in _REFUSED.items():
        _, value = fields.take(name)
        if value not in (None, [], "[]"):
            raise UnsupportedParameter(f"The field '{name}' is not supported. {advice}", field=name)
    if fields.word("background", ("auto", "opaque", "transparent")) == "transparent":
        raise UnsupportedParameter(
            "A transparent 'background' is not supported: answers are opaque.", field="background"
        )


def take_what_has_no_effect(fields: Fields) -> None:
    for name, (words, why) in _WITHOUT_EFFECT.items():
        word = fields.word(name, words)
        if word not in (None, "auto"):
            fields.notice(name, "ignored", why)
    tokens = fields.integer("max_sequence_length")
    if tokens is not None:
        fields.notice("max_sequence_length", "ignored", "The prompt is read up to the model's own limit.")


def read_output(fields: Fields) -> tuple[OutputFormat, int]:
    name, value = fields.take("output_format")
    word = "png" if value is None else to_text(name, value).strip().lower()
    if word == "svg":
        raise UnsupportedParameter("The output format 'svg' is not supported: answers are pixels.", field=name)
    word = "jpeg" if word == "jpg" else word
    if word not in _FORMATS:
        raise NotOneOf(name, word, _FORMATS)
    output_format = OutputFormat(word)
    quality = fields.integer("output_quality", "output_compression", "output_quality")
    if quality is not None and output_format in _NO_QUALITY_FORMATS:
        name = fields.written["output_quality"]
        fields.notice(name, "ignored", f"The format {word} has no quality setting.")
    return output_format, DEFAULT_OUTPUT_QUALITY if quality is None else quality


def read_size(fields: Fields) -> SizeRequest:
    size = fields.text("size")
    aspect_ratio, resolution = fields.text("aspect_ratio"), fields.text("resolution")
    width, height = fields.integer("width"), fields.integer("height")
    name, image_size = fields.take("image_size")
    if isinstance(image_size, str) and image_size.lstrip().startswith("{"):
        image_size = _json_object(name, image_size)
    if image_size is not None and (size is not None or width is not None):
        other = "size" if size is not None else "width"
        fields.notice(name, "ignored", f"'{other}' was given too and was used.")
    elif isinstance(image_size, dict):
        width, height = (to_integer(f"{name}[{side}]", image_size.get(side)) for side in ("width", "height"))
    elif image_size is not None:
        size = to_text(name, image_size)
        fields.written["size"] = name
    index = fields.integer("reference_image", "reference_image_index")
    try:
        request, by_size = sizes.parse(size, aspect_ratio, resolution, width, height, index), sizes.parse(size)
    except InvalidRequest as error:
        error.field = fields.written.get(error.field or "", error.field)
        raise
    exact = by_size.width is not None
    overruled = {
        "aspect_ratio": exact or width is not None or by_size.aspect_ratio is not None,
        "resolution": exact or width is not None or by_size.pixels is not None,
        "width": exact,
        "height": exact,
    }
    for name, ignored in overruled.items():
        _, value = fields.take(name)
        if ignored and not is_absent(value) and str(value).strip().lower() != "auto":
            fields.notice(name, "ignored", "The size that was given is more specific.")
    # Later notices about the shape or the scale name the parameter that gave it.
    if by_size.aspect_ratio is not None:
        fields.written["aspect_ratio"] = fields.written["size"]
    if by_size.pixels is not None:
        fields.written["resolution"] = fields.written["size"]
    return request


def _json_object(name: str, text: str) -> dict[str, object]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidType(name, "object", text)
    return value


def read_seed(fields: Fields) -> int | None:
    """The seed; -1 asks for a random one as absence does, and 0 is a seed like any other."""
    seed = fields.integer("seed")
    return None if seed == -1 else seed


def read_acceleration(fields: Fields) -> Acceleration | None:
    word = fields.word("acceleration", tuple(a.value for a in Acceleration))
    go_fast = fields.boolean("go_fast")
    if word is not None:
        if go_fast is not None:
            fields.notice("go_fast", "ignored", "'acceleration' was given too and was used.")
        return Acceleration(word)
    if go_fast is None:
        return None
    fields.written["acceleration"] = "go_fast"
    return Acceleration.HIGH if go_fast else Acceleration.NONE


def read_loras(fields: Fields) -> tuple[Lora, ...]:
    """`loras`, or as other servers name one: `lora`, or `lora_weights` with `lora_scale`."""
    name, value = fields.take("loras", "loras", "lora", "lora_weights")
    scale_name, scale = fields.take("lora_scale")
    loras = () if value is None else parse_loras(name, value)
    if scale is not None and (name != "lora_weights" or len(loras) != 1):
        raise InvalidRequest("'lora_scale' goes with one path in 'lora_weights'.", field=scale_name)
    if scale is not None:
        loras = (replace(loras[0], scale=parse_scale(scale_name, scale)),)
        fields.written["loras[0].scale"] = scale_name
    if name != "loras":
        fields.written["loras[0].path"] = name
    return loras


def read_safety(fields: Fields) -> bool:
    enable, disable = fields.boolean("enable_safety_checker"), fields.boolean("disable_safety_checker")
    if enable is not None and disable is not None and enable == disable:
        raise InvalidRequest(
            "'enable_safety_checker' and 'disable_safety_checker' contradict each other.",
            field="disable_safety_checker",
        )
    if disable is not None:
        fields.written["enable_safety_checker"] = "disable_safety_checker"
    return not disable if enable is None else enable


def read_expansion(fields: Fields) -> bool:
    """Whether the prompt may be rewritten; only where the caller says so."""
    names = ("enable_prompt_expansion", "enhance_prompt", "prompt_extend")
    return bool(fields.boolean("enable_prompt_expansion", *names))


def read_strict(fields: Fields, size_policy: str | None) -> bool:
    name, value = fields.take("strict")
    if value is None:
        name, value = "X-Param-Policy", size_policy
    if value is None or isinstance(value, bool):
        return bool(value)
    word = to_text(name, value).strip().lower()
    if word not in ("nearest", "error", "true", "false", "1", "0"):
        raise NotOneOf(name, word, ("nearest", "error"))
    return word in ("error", "true", "1")


def read_stream(fields: Fields, output_format: OutputFormat) -> tuple[bool, int]:
    stream = bool(fields.boolean("stream"))
    partial_images = fields.integer("partial_images")
    if partial_images is not None and not 0 <= partial_images <= 3:
        raise OutOfRange("partial_images", partial_images, minimum=0, maximum=3)
    if partial_images and not stream:
        fields.notice("partial_images", "ignored", "Partial images are sent in a stream only; add 'stream'.")
    if stream and output_format not in _STREAMED_FORMATS:
        raise UnsupportedParameter(
            f"The output format '{output_format}' cannot be streamed; png, jpeg and webp can.", field="output_format"
        )
    return stream, partial_images or 0
