"""Every error of Retouch, in one tree.

    RetouchError
    ├── InvalidRequest              the caller must change the request; names the field
    │   ├── MissingParameter        a required field is absent or blank
    │   ├── InvalidType             a value of the wrong JSON or form type
    │   ├── OutOfRange              a number outside its limits
    │   ├── NotOneOf                a word that is not in the list of allowed words
    │   ├── TooLong                 text above its limit of characters
    │   ├── TooManyImages           more input images than the model takes
    │   ├── UnsupportedParameter    known, but this model or build cannot honour it
    │   ├── UnsupportedMode         another task than editing, such as text to image
    │   ├── UnsupportedMediaType    a body in a form this address does not read
    │   ├── BodyTooLarge            a request body above the server's limit
    │   ├── InvalidImage            bytes that are not a decodable image
    │   │   ├── UnsupportedImageFormat
    │   │   ├── ImageTooSmall
    │   │   └── ImageTooLarge       too many bytes or pixels
    │   ├── InvalidLora             a file that is no LoRA, or none for this network
    │   └── ImageUnreachable        a link that could not be fetched
    │       └── ForbiddenAddress    a link to an address that is not globally routable
    ├── InvalidSetting              an option or variable the operator must change
    ├── InvalidKey                  no key, or not one of ours
    ├── PermissionDenied            a good key without the right
    ├── NotFound
    │   ├── UnknownModel
    │   ├── UnknownJob              no such job, or another key's
    │   ├── UnknownFile
    │   └── UnknownUrl
    ├── IdempotencyKeyReused        same key, other body
    ├── JobNotFinished              its result is not there yet
    ├── JobFinished                 too late to cancel
    ├── QueueFull                   the caller's own limit on waiting jobs is reached
    ├── LeaseLost                   this worker no longer owns the job (internal to workers)
    ├── EditFailed                  the job ended without an image
    │   ├── EditCancelled           by its owner
    │   ├── StartTimeout            it did not start in the time the caller allowed
    │   ├── EditTimeout             it ran longer than the server allows
    │   ├── WorkerLost              the worker died on every attempt
    │   ├── OutOfMemory             this size does not fit the device
    │   ├── ContentRefused          the safety checker said no
    │   ├── SafetyUnavailable       the safety checker failed; the same request may succeed
    │   ├── AllProvidersExhausted   no hosted provider that takes the edit could make it
    │   ├── UpstreamOutcomeUnknown  it cannot be known whether a provider has taken, and charged, the edit
    │   ├── UpstreamResultLost      a provider made the image, and it can no longer be had
    │   ├── UpstreamBadImage        what a provider delivered is no image
    │   ├── GenerationTimeout       a provider did not end in the time there was
    │   └── InternalError           a bug of ours
    └── Unavailable                 nothing is wrong with the request; try again
        ├── ModelLoading
        ├── DatabaseUnavailable
        └── StorageUnavailable      disk full or object store out of reach

A lower layer raises one of these; a protocol turns its `code` into that protocol's status and shape in
one table. The code is stable: callers may branch on it. `Failure` is the same facts as a plain value,
as a job row keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import ClassVar, TypeAlias

ContextValue: TypeAlias = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as data: what a failed job keeps and a face answers with.

    `context` holds the numbers a face may want to name (`ge`, `le`, `max_length`, `expected`, …).
    """

    code: str
    message: str
    field: str | None = None
    context: Mapping[str, ContextValue] = dataclass_field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        context = {k: list(v) if isinstance(v, tuple) else v for k, v in self.context.items()}
        return {
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "context": context,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Failure:
        raw = data.get("context") or {}
        assert isinstance(raw, Mapping)
        context = {str(k): tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        name = data.get("field")
        return cls(
            code=str(data["code"]),
            message=str(data["message"]),
            field=None if name is None else str(name),
            context=context,
        )


class RetouchError(Exception):
    """Base of everything Retouch raises on purpose.

    `message` is one sentence for a human; it names the value and what is allowed. `field` is the
    canonical field of `EditRequest` it is about, if any; a face translates it to its own name.
    """

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, **context: ContextValue) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.context: dict[str, ContextValue] = context

    @property
    def failure(self) -> Failure:
        return Failure(self.code, self.message, self.field, self.context)


class InvalidRequest(RetouchError):
    """The caller must change the request."""

    code = "invalid_value"


class MissingParameter(InvalidRequest):
    """A required field is absent or blank."""

    code = "missing_parameter"

    def __init__(self, field: str) -> None:
        super().__init__(f"The field '{field}' is required.", field=field)


class InvalidType(InvalidRequest):
    """A value of the wrong type; context `expected_type` is one of string, integer, number, boolean, array, object."""

    code = "invalid_type"

    def __init__(self, field: str, expected_type: str, got: object) -> None:
        super().__init__(
            f"The field '{field}' must be a valid {expected_type}, not {_short(got)}.",
            field=field,
            expected_type=expected_type,
        )


class OutOfRange(InvalidRequest):
    """A number outside its limits; context `ge` and `le` (either may be absent)."""

    code = "out_of_range"

    def __init__(self, field: str, value: float, *, minimum: float | None = None, maximum: float | None = None) -> None:
        if minimum is not None and maximum is not None:
            allowed = f"from {_number(minimum)} to {_number(maximum)}"
        elif minimum is not None:
            allowed = f"at least {_number(minimum)}"
        else:
            allowed = f"at most {_number(maximum or 0)}"
        limits: dict[str, ContextValue] = {}
        if minimum is not None:
            limits["ge"] = minimum
        if maximum is not None:
            limits["le"] = maximum
        super().__init__(f"The field '{field}' must be {allowed}, not {_number(value)}.", field=field, **limits)


class NotOneOf(InvalidRequest):
    """A word that is not in the list; context `expected`."""

    code = "not_one_of"

    def __init__(self, field: str, value: object, expected: tuple[str, ...]) -> None:
        words = ", ".join(expected)
        super().__init__(
            f"The field '{field}' must be one of {words}, not {_short(value)}.", field=field, expected=expected
        )


class TooLong(InvalidRequest):
    """Text above its limit; context `max_length` in `unit`, which is characters or tokens."""

    code = "too_long"

    def __init__(self, field: str, length: int, max_length: int, *, unit: str = "characters") -> None:
        super().__init__(
            f"The field '{field}' has {length} {unit}; at most {max_length} are allowed.",
            field=field,
            max_length=max_length,
        )


class TooManyImages(InvalidRequest):
    """More input images than the model takes; context `max_length`."""

    code = "too_many_images"

    def __init__(self, field: str, count: int, max_length: int, model: str) -> None:
        images = "image" if max_length == 1 else "images"
        super().__init__(
            f"The model '{model}' takes at most {max_length} {images}, not {count}.",
            field=field,
            max_length=max_length,
        )


class UnsupportedParameter(InvalidRequest):
    """A known parameter that cannot be honoured here."""

    code = "unsupported_parameter"


class UnsupportedMode(InvalidRequest):
    """Another task than editing, such as text to image."""

    code = "unsupported_mode"


class UnsupportedMediaType(InvalidRequest):
    """A body in a form this address does not read."""

    code = "unsupported_media_type"


class BodyTooLarge(InvalidRequest):
    """A request body above the server's limit; context `max_bytes`."""

    code = "body_too_large"


class InvalidImage(InvalidRequest):
    """Bytes that are not a decodable image."""

    code = "invalid_image"


class UnsupportedImageFormat(InvalidImage):
    """A file format that is not read; context `supported_formats`."""

    code = "unsupported_image_format"


class ImageTooSmall(InvalidImage):
    """Context `min_width`, `min_height` in pixels."""

    code = "image_too_small"


class ImageTooLarge(InvalidImage):
    """Context `max_pixels`, or `max_width` and `max_height`, or `max_bytes`."""

    code = "image_too_large"


class InvalidLora(InvalidRequest):
    """A LoRA that cannot be had, is none, is too large, or was made for another network; context `max_bytes`."""

    code = "invalid_lora"


class ImageUnreachable(InvalidRequest):
    """A link that could not be fetched."""

    code = "image_unreachable"


class ForbiddenAddress(ImageUnreachable):
    """A link to an address that is not globally routable and that the operator has not opened."""

    code = "forbidden_address"


class InvalidSetting(RetouchError):
    """An option, variable or file the operator must change before the command can run."""

    code = "invalid_setting"


class InvalidKey(RetouchError):
    """No key, or not one of ours."""

    code = "invalid_key"


class PermissionDenied(RetouchError):
    """A good key without the right."""

    code = "permission_denied"


class NotFound(RetouchError):
    code = "not_found"


class UnknownModel(NotFound):
    code = "unknown_model"


class UnknownJob(NotFound):
    """No such job, or another key's: the two look the same on purpose."""

    code = "unknown_job"


class UnknownFile(NotFound):
    code = "unknown_file"


class UnknownUrl(NotFound):
    code = "unknown_url"


class IdempotencyKeyReused(RetouchError):
    """The same idempotency key came with another body."""

    code = "idempotency_key_reused"


class JobNotFinished(RetouchError):
    code = "job_not_finished"
    retryable = True


class JobFinished(RetouchError):
    code = "job_finished"


class QueueFull(RetouchError):
    """The limit on waiting jobs is reached; nothing was queued."""

    code = "queue_full"
    retryable = True


class LeaseLost(RetouchError):
    """This worker no longer owns the job; whatever it made must be dropped."""

    code = "lease_lost"


class EditFailed(RetouchError):
    """The job ended without an image."""

    code = "edit_failed"


class EditCancelled(EditFailed):
    code = "cancelled"


class StartTimeout(EditFailed):
    code = "start_timeout"


class EditTimeout(EditFailed):
    code = "edit_timeout"


class WorkerLost(EditFailed):
    code = "worker_lost"
    retryable = True


class OutOfMemory(EditFailed):
    code = "out_of_memory"


class ContentRefused(EditFailed):
    """The safety checker said no; context `stage` is prompt, input or output, `category` a general word."""

    code = "content_refused"


class SafetyUnavailable(EditFailed):
    """The safety checker itself failed, so nothing is said of the content."""

    code = "safety_unavailable"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The safety checker is not available; try again.")


class AllProvidersExhausted(EditFailed):
    """No target is left; context `attempts` has one text per target tried: its name, the cause, the time it took.

    `may_be_owed`: whether one of them may have made an image that is charged, so that the same request again may be
    paid for twice.
    """

    code = "all_providers_exhausted"
    retryable = True


class UpstreamOutcomeUnknown(EditFailed):
    """Whether a provider took the edit cannot be found out; the same request again may be paid for twice."""

    code = "upstream_outcome_unknown"


class UpstreamResultLost(EditFailed):
    """A provider made the image, and its link is dead."""

    code = "upstream_result_lost"


class UpstreamBadImage(EditFailed):
    """What a provider delivered as an image is none."""

    code = "upstream_bad_image"


class GenerationTimeout(EditFailed):
    """A hosted provider did not end in the time there was."""

    code = "generation_timeout"


class InternalError(EditFailed):
    """A bug of ours; the message tells the caller so and holds no detail of the server."""

    code = "internal_error"


class Unavailable(RetouchError):
    """Nothing is wrong with the request; try again."""

    code = "unavailable"
    retryable = True


class ModelLoading(Unavailable):
    code = "model_loading"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"


def _number(value: float) -> str:
    """A number in full: `:g` alone would tell a caller that a seed may be 9.22337e+18. Hundreds of digits are cut."""
    if isinstance(value, int):
        return _short(value)
    whole = value.is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else f"{value:.12g}"


def _short(value: object) -> str:
    """A caller's value as an error may repeat it: short, so that no data URI is echoed."""
    try:
        text = repr(value)
    except RecursionError:  # JSON may be nested more deeply than Python prints
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
