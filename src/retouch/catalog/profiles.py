"""Every hosted model as a row: what it takes, what it costs, and what becomes of each of our parameters there.

The rows are data, in `hosted.toml`; here are their types. One row is one model of one kind of provider. It knows no
address, no key and no body: `normaliser.py` turns an edit into what a row takes, a folder of `upstreams/` writes it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from retouch.catalog.checkpoints import K1, QWEN_SIZES
from retouch.edit import OutputFormat
from retouch.sizes import SizeProfile

ImageShape: TypeAlias = Literal["one", "list", "content", "file", "files"]
"""How a provider wants its input images: a string, an array of strings, parts of a chat message, one file part, or
several file parts."""

DEFAULT_LIKE = "qwen-image-edit-plus"

LOCAL = "local"
"""The name of this server's own queue among upstreams, and of its column."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A number's range and the value an absent one takes."""

    minimum: float
    maximum: float
    default: float


class Behaviour(StrEnum):
    """What becomes of a parameter."""

    PASSTHROUGH = "passthrough"  #: same value and name
    RENAMED = "renamed"  #: same value, the provider's name
    CONVERTED = "converted"  #: another value that means the same, or the nearest there is
    EMULATED = "emulated"  #: done by the gateway
    DROPPED = "dropped"  #: not done; the answer says so, and a strict request is refused
    REFUSED = "refused"  #: refused by name, or another target is taken


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of ours at one column. name: the provider's own, or ours where it is the same."""

    behaviour: Behaviour
    name: str

    @property
    def sent(self) -> bool:
        """Whether the provider gets the parameter."""
        return self.behaviour in (Behaviour.PASSTHROUGH, Behaviour.RENAMED, Behaviour.CONVERTED)


class SizeWay(StrEnum):
    """How far the size of an image can be chosen."""

    EXACT = "exact"
    ROUNDED = "rounded"
    ENUMERATED = "enumerated"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class SizeRule:
    """What sizes a hosted model makes.

    limits: of what it is asked for, in pixels. min_side: the least side it takes. choices: the provider's word and the
    width and height it means, for ENUMERATED; like_input: its word for the shape of the input.
    """

    way: SizeWay
    limits: SizeProfile
    min_side: int = 1
    choices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    like_input: str | None = None


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a target costs, in whole millionths of a US dollar; the parts add up.

    A megapixel is 1,000,000 pixels of the images that came; a second is one between `accepted` and the end. reported:
    each answer tells its own cost, which counts before this sheet.
    """

    per_image_microusd: int = 0
    per_megapixel_microusd: int = 0
    per_second_microusd: int = 0
    per_input_image_microusd: int = 0
    reported: bool = False

    def of(self, images: int, pixels: int, seconds: float = 0.0, *, inputs: int = 0) -> int:
        """For so many images with `pixels` in all, made from `inputs` images in `seconds`; rounded half up."""
        by_area = (self.per_megapixel_microusd * pixels + 500_000) // 1_000_000
        by_time = round(self.per_second_microusd * seconds)
        return self.per_image_microusd * images + by_area + by_time + self.per_input_image_microusd * inputs

    @property
    def per_unit_microusd(self) -> int | None:
        """Of the one thing that is priced, image or megapixel, for a provider that counts it in its answers."""
        priced = [each for each in (self.per_image_microusd, self.per_megapixel_microusd) if each]
        return priced[0] if len(priced) == 1 and not self.per_input_image_microusd else None

    @property
    def known(self) -> bool:
        """Whether anything can be booked: a figure, or the provider's own word."""
        return self.reported or self != Sheet()

    def to_json(self) -> dict[str, int | bool]:
        return {name: value for name, value in asdict(self).items() if value}

    def __str__(self) -> str:
        parts = (
            (self.per_image_microusd, "an image"),
            (self.per_megapixel_microusd, "a megapixel"),
            (self.per_second_microusd, "a second"),
            (self.per_input_image_microusd, "an input image"),
        )
        prices = " + ".join(f"{microusd / 1e6:g} USD {unit}" for microusd, unit in parts if microusd)
        return ", ".join(filter(None, (prices, "as reported" if self.reported else "")))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of provider. base_url: where it is unless an operator says otherwise. reports: it tells what an edit cost.

    paid: a submit may cost money.
    """

    name: str
    title: str
    base_url: str | None = None
    paid: bool = True
    reports: bool = False

    @property
    def endpoints(self) -> str:
        """The provider's own ids that have a row, for a sentence."""
        return ", ".join(profile.endpoint for profile in hosted().profiles.values() if profile.kind == self.name)


@dataclass(frozen=True, slots=True)
class Profile:
    """One hosted model, or one of our own.

    id: kind and endpoint, `fal/fal-ai/qwen-image-edit`. endpoint: the provider's own id; `*` for any that has no row.
    cells: by our field. output_formats: what it makes itself, by its own words. default_format: what it makes when
    none is asked for. loras: how many it takes in one request; lora: the row that takes over when some are asked for.
    always: sent whatever is asked, because the provider's default differs. accelerations: ours to the provider's value.
    seed_stable: the same seed gives the same image. seed_never_zero: it takes 0 for no seed. counts_seeds: the images
    of one request have the seeds from the one given up, as ours have. checks_mask: what comes back is composited all
    the same. serves: our public ids it is asked for when no model is named; like: the row of
    ours it resembles. unverified: facts of this row that no page of the provider says.
    """

    id: str
    kind: str
    endpoint: str
    column: str
    cells: Mapping[str, Cell]
    sizes: SizeRule
    max_images: int
    max_num_images: int
    output_formats: Mapping[OutputFormat, str]
    default_format: OutputFormat = OutputFormat.PNG
    price: Sheet | None = None
    steps: Limits | None = None
    guidance: Limits | None = None
    max_prompt_characters: int = 32_000
    max_negative_prompt_characters: int = 32_000
    max_image_bytes: int | None = None
    max_seed: int = 2**31 - 1
    seed_stable: bool = True
    seed_never_zero: bool = False
    counts_seeds: bool = False
    serves: tuple[str, ...] = ()
    like: str = DEFAULT_LIKE
    image_shape: ImageShape = "list"
    size_form: str = "word"
    accelerations: Mapping[str, str | bool] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    loras: int = 0
    lora: str | None = None
    lora_form: str = "list"
    checks_mask: bool = False
    unverified: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        return self.kind == LOCAL

    def __hash__(self) -> int:
        return hash(self.id)


_LETTERS: Mapping[str, Behaviour] = {
    "P": Behaviour.PASSTHROUGH,
    "R": Behaviour.RENAMED,
    "C": Behaviour.CONVERTED,
    "E": Behaviour.EMULATED,
    "D": Behaviour.DROPPED,
    "X": Behaviour.REFUSED,
}

NOT_CELLS = frozenset(
    {
        "title",
        "image_shape",
        "size_form",
        "format_words",
        "accelerations",
        "lora_form",
        "always",
        "checks_mask",
        "seed_never_zero",
    }
)
"""What a column holds besides its cells."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """All of `hosted.toml`. columns: titles by name, and column_cells: what they say. fields: the rows, in their order.

    everywhere: those that the gateway sees to whatever is behind it, which are no rows. same_as: public ids of ours to
    those that ask for the same.
    """

    kinds: Mapping[str, Kind]
    profiles: Mapping[str, Profile]
    columns: Mapping[str, str]
    column_cells: Mapping[str, Mapping[str, Cell]]
    fields: tuple[str, ...]
    everywhere: tuple[str, ...]
    same_as: Mapping[str, str]

    def profile(self, kind: str, endpoint: str) -> Profile | None:
        """The row of a provider's model, or that of any model of its kind."""
        return self.profiles.get(f"{kind}/{endpoint}") or self.profiles.get(f"{kind}/*")

    def serving(self, kind: str, model_id: str) -> Profile | None:
        """The row that a kind of provider has for one of our public ids, or for the id that asks for the same."""
        same = self.same_as.get(model_id, model_id)
        rows = [profile for profile in self.profiles.values() if profile.kind == kind]
        return next((row for each in (model_id, same) for row in rows if each in row.serves), None)


@cache
def hosted() -> Hosted:
    """The table, read once; a mistake in it is ours and raises."""
    data = tomllib.loads(files(__package__).joinpath("hosted.toml").read_text(encoding="utf-8"))
    columns: Mapping[str, Mapping[str, Any]] = data["columns"]
    local = columns[LOCAL]
    rows = tuple(name for name in local if name not in NOT_CELLS)
    kinds = {name: Kind(name, **values) for name, values in data["kinds"].items()}
    profiles: dict[str, Profile] = {}
    for name, values in data["models"].items():
        for profile in _profiles(name, values, columns, data["everywhere"], data["sizes"]):
            profiles[profile.id] = profile
    titles = {name: str(column["title"]) for name, column in columns.items()}
    cells = {name: _cells(column, data["everywhere"], {}, lora=True) for name, column in columns.items()}
    return Hosted(kinds, profiles, titles, cells, rows, tuple(data["everywhere"]), data["same_as"])


@cache
def local_profile() -> Profile:
    """This server's own checkpoints: everything is done as asked, within the limits of the model and checkpoint."""
    data = tomllib.loads(files(__package__).joinpath("hosted.toml").read_text(encoding="utf-8"))
    cells = _cells(data["columns"][LOCAL], data["everywhere"], {})
    rule = SizeRule(SizeWay.EXACT, QWEN_SIZES)
    formats = {each: each.value for each in OutputFormat}
    return Profile(LOCAL, LOCAL, LOCAL, LOCAL, cells, rule, 16, 10, formats, max_seed=2**63 - 1)


def _profiles(
    name: str,
    values: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, Any]],
    everywhere: Mapping[str, str],
    sizes: Mapping[str, Mapping[str, Any]],
) -> list[Profile]:
    """The row of a model, and one for each of its other names."""
    row = dict(values)
    kind, _, endpoint = name.partition("/")
    column_name, others = row.pop("column"), row.pop("also", [])
    column = columns[column_name]
    words = {**column.get("format_words", {})}
    price = row.pop("price", None)
    shared = {key: column[key] for key in ("always", "checks_mask", "seed_never_zero", "lora_form") if key in column}
    shared |= {key: row.pop(key) for key in ("seed_stable", "counts_seeds", "checks_mask") if key in row}
    shared |= {key: row.pop(key) for key in ("loras", "lora") if key in row}
    common: dict[str, Any] = {
        "kind": kind,
        "column": column_name,
        "cells": _cells(column, everywhere, row.pop("cells", {}), lora="lora" in shared or "loras" in shared),
        "sizes": _size_rule(sizes[row.pop("sizes")]),
        "max_images": row.pop("images"),
        "max_num_images": row.pop("n"),
        "output_formats": {OutputFormat(word): words.get(word, word) for word in row.pop("formats")},
        "default_format": OutputFormat(row.pop("default_format", "png")),
        "price": None if price is None else sheet_of_dollars(price),
        "steps": _limits(row.pop("steps", None)),
        "guidance": _limits(row.pop("guidance", None)),
        "max_prompt_characters": row.pop("prompt_characters", 32_000),
        "max_negative_prompt_characters": row.pop("negative_prompt_characters", 32_000),
        "max_image_bytes": row.pop("image_bytes", None),
        "max_seed": 2 ** row.pop("seed_bits", 31) - 1,
        "image_shape": row.pop("image_shape", column.get("image_shape", "list")),
        "size_form": column.get("size_form", "word"),
        "accelerations": row.pop("accelerations", column.get("accelerations", {})),
        "unverified": tuple(row.pop("unverified", ())),
        **shared,
    }
    serves = tuple(row.pop("serves", ()))
    common["like"] = row.pop("like", serves[0] if serves else DEFAULT_LIKE)
    assert not row, f"hosted.toml: {name} holds {', '.join(row)}"
    first = Profile(id=name, endpoint=endpoint, serves=serves, **common)
    return [first, *(Profile(id=f"{kind}/{other}", endpoint=other, **common) for other in others)]


def _cells(
    column: Mapping[str, Any], everywhere: Mapping[str, str], own: Mapping[str, str], *, lora: bool = False
) -> dict[str, Cell]:
    written = {name: cell for name, cell in column.items() if name not in NOT_CELLS} | dict(everywhere) | dict(own)
    if written["loras"] == "C" and not lora:
        written["loras"] = "X"
    cells = {}
    for field_name, cell in written.items():
        letter, _, name = cell.partition(" ")
        cells[field_name] = Cell(_LETTERS[letter], name or field_name)
    return cells


def _size_rule(values: Mapping[str, Any]) -> SizeRule:
    max_area = values.get("max_area", QWEN_SIZES.max_area)
    limits = SizeProfile(
        tiers=tuple(values.get("tiers", QWEN_SIZES.tiers)),
        default_area=K1,
        min_area=QWEN_SIZES.min_area,
        max_area=max_area,
        max_output_area=QWEN_SIZES.max_output_area,
        grid=values.get("grid", QWEN_SIZES.grid),
        derived_grid=QWEN_SIZES.derived_grid,
        max_ratio=values.get("max_ratio", QWEN_SIZES.max_ratio),
        max_side=values.get("max_side", QWEN_SIZES.max_side),
    )
    choices = {word: (size[0], size[1]) for word, size in values.get("choices", {}).items()}
    return SizeRule(SizeWay(values["way"]), limits, values.get("min_side", 1), choices, values.get("like_input"))


def sheet_of_dollars(values: Mapping[str, Any]) -> Sheet:
    """From dollars, as files write them; raises KeyError naming a member that is none of a price."""
    dollars = {
        "per_image_usd": "per_image_microusd",
        "per_megapixel_usd": "per_megapixel_microusd",
        "per_second_usd": "per_second_microusd",
        "per_input_image_usd": "per_input_image_microusd",
    }
    known = {name: round(value * 1_000_000) for name, value in values.items() if name != "reported"}
    return Sheet(
        **{dollars[name]: microusd for name, microusd in known.items()}, reported=bool(values.get("reported", False))
    )


def _limits(values: list[float] | None) -> Limits | None:
    return None if values is None else Limits(*values)
