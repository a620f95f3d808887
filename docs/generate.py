"""Writes the reference pages that are made from the code: error codes, models, commands.

`python docs/generate.py` writes them; a test fails when a committed page is stale.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from retouch.catalog import CHECKPOINTS, MODELS, Limits
from retouch.catalog.profiles import Behaviour, Cell, Profile, SizeWay, hosted
from retouch.errors import RetouchError

REFERENCE = Path(__file__).parent / "reference"
HEAD = "<!-- Written by docs/generate.py; change the code, then run `make docs`. -->\n\n"


ERRORS_HEAD = """# Error codes

The code of an error is stable. Each face puts it into its vendor's shape and words; the sentence that comes
with it names the value and what is allowed.

| code | when | may a retry help |
|---|---|---|
"""

PUBLIC_HEAD = """# Models

## What callers may ask for

| model | input images | images made | steps | guidance scale | LoRAs | formats | prompt, characters | checked |
|---|---|---|---|---|---|---|---|---|
"""

LOADABLE_HEAD = """
A model takes no more input images than the checkpoint that serves it. A distilled checkpoint uses its own
number of steps when none is asked for, and runs without guidance; a guidance scale or negative prompt is then
answered with a notice.

*Checked* is what the [safety checker](safety.md) looks at.

## What can be loaded with `--model`

| checkpoint | weights | input images | steps | guidance scale | distilled | licence |
|---|---|---|---|---|---|---|
"""

LOADABLE_TAIL = """
A path to a folder in the hub's layout works as well.

## Acceleration

| `acceleration` | `demo` | `qwen-image-edit`, 2509, 2511 |
|---|---|---|
| `none` | 4 steps | every step is computed |
| `regular`, where callers name none | 2 steps, at least 71 dB to `none` | reuses blocks below a change of 0.12 |
| `high` | 1 step, at least 62 dB to `none` | reuses blocks below a change of 0.24 |

To reuse blocks: a step whose first block adds nearly what it added in the last whole step takes the other blocks' part
from there. The first 4 steps are always whole; so are the last 2 of `regular`, where at most 2 in a row reuse, and the
last of `high`, where 3 may.

With a mask, `regular` and `high` denoise the first fifth of the steps everywhere and then only the tokens of the mask
and two tokens around it; the rest of the image is the input's anyway. `none` denoises everything.

Where the operator names a few-step LoRA ([`--fast-lora`](../how-to/use-loras.md#a-few-step-lora-for-high)), `high` runs
that instead: its own steps and noise schedule, without guidance, whatever steps and guidance a caller gives, which the
notices say.

Steps that a caller gives are run as given on the demo, whatever the acceleration. On the large checkpoints the limits
are those that other engines use with Qwen-Image; speed and likeness have not been measured with their weights here. The
notice `acceleration` of an answer says what happened. Prices do not change.
"""


def error_codes() -> str:
    """The tree of `errors.py` as a table, in the order of the tree."""

    def tree(error: type[RetouchError]) -> Iterator[type[RetouchError]]:
        for child in error.__subclasses__():
            if child.__module__ == RetouchError.__module__:  # a face may have its own kinds of these
                yield child
                yield from tree(child)

    rows = (
        _row(f"`{error.code}`", _summary(error), "yes" if error.retryable else "no") for error in tree(RetouchError)
    )
    return ERRORS_HEAD + "".join(rows)


def models() -> str:
    """The catalogue: public models and checkpoints."""
    public = (
        _row(
            f"`{m.id}`",
            m.max_images,
            m.max_num_images,
            _limits(m.steps, default=True),
            _limits(m.guidance, default=True),
            m.max_loras or "–",
            ", ".join(f.value for f in m.output_formats),
            f"{m.max_prompt_characters:,}",
            m.checks.value.replace("+", " and "),
        )
        for m in MODELS
    )
    loadable = (
        _row(
            f"`{c.name}`",
            "in the package" if c.source is None else f"`{c.source}`",
            c.max_images,
            c.steps,
            f"{c.guidance_scale:g}",
            "yes" if c.distilled else "no",
            c.licence,
        )
        for c in CHECKPOINTS
    )
    return PUBLIC_HEAD + "".join(public) + LOADABLE_HEAD + "".join(loadable) + LOADABLE_TAIL


def commands() -> str:
    """`--help` of every command."""
    # Late, so that the other pages can be written while the command line is being changed.
    import typer.main
    from click import Context
    from typer.core import TyperGroup

    from retouch.cli.main import app

    root = typer.main.get_command(app)

    def walk(command: object, path: str) -> Iterator[tuple[str, str]]:
        context = Context(command, info_name=path, max_content_width=100, terminal_width=100)  # type: ignore[arg-type]
        yield path, command.get_help(context)  # type: ignore[attr-defined]
        if isinstance(command, TyperGroup):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None and not child.hidden:
                    yield from walk(child, f"{path} {name}")

    parts = [f"## `{path}`\n\n```\n{text.strip()}\n```\n" for path, text in walk(root, "retouch")]
    return "# Commands\n\n" + "\n".join(parts)


PROVIDERS_HEAD = """# What each provider does with a parameter

Callers send the same request wherever it is made. What becomes of each parameter at a target is data, and this page and
the answer of `GET /v1/models/{id}` are made from it.

| letter | meaning | what the answer says |
|---|---|---|
| P | passthrough: sent as it is | nothing |
| R | renamed: sent under the provider's name, which follows | nothing |
| C | converted: another value that means the same, or the nearest there is | a notice where it is not the same |
| E | emulated: done by the gateway | a notice where the image was changed here |
| D | dropped | a notice `ignored`; a request that is `strict` is refused instead |
| X | refused by its name, or another target is asked | the error, if no target can take it |

## Parameters

"""

PROVIDERS_RULES = """
Whatever is behind it, the gateway itself sees to {everywhere}.

- **prompt**: a provider that reads 800 characters gets no longer one in silence. Another target is asked; where there
  is none, the end is left out and a notice says so.
- **images**: more than a model takes are refused, or another target is asked.
- **mask**: where none is read, the provider edits all of the image and the untouched first input is put back outside
  the mask, pixel for pixel. That needs the shape of the first input.
- **size**: an exact size is delivered exactly. What a provider cannot be told is resized, and cut to its middle where
  the shape is another. Without a size the answer follows the input, as everywhere.
- **aspect_ratio** is the shape without a size, and the scale.
- **seed**: absent, one is drawn below 2³¹, sent and reported. A notice says where the same seed may give another image.
- **num_images**: as many requests as it takes. With a seed of the caller's each image has a request and a seed of its
  own, from the given one up, so that each can be made again alone.
- **output_format**: always said, because what providers make by themselves differs. png is asked for when the file is
  written again here, so that it is lossy once at most.
- **enable_prompt_expansion** and a watermark are always said to be off unless they are asked for; two providers do both
  by themselves.
- **loras**: links and repositories of the hub; some providers have them at another endpoint, with another price.
- Parameters of a provider that have no row here: `upstream_options`, by kind.

## Models

Prices are those of the providers' pages in 2026, in US dollars; write your own into the [routes
file](../how-to/lead-edits-to-hosted-providers.md). *Unverified* is what no page of the provider says.

| model | column, and what differs | inputs | images | sizes | steps | guidance scale | makes | price | unverified |
|---|---|---|---|---|---|---|---|---|---|
"""

_SIZE_WORDS = {
    SizeWay.EXACT: "any",
    SizeWay.ROUNDED: "any, rounded to 16",
    SizeWay.ENUMERATED: "one of {count}",
    SizeWay.FIXED: "not chosen, about a megapixel",
}
_LETTERS = {
    Behaviour.PASSTHROUGH: "P",
    Behaviour.RENAMED: "R",
    Behaviour.CONVERTED: "C",
    Behaviour.EMULATED: "E",
    Behaviour.DROPPED: "D",
    Behaviour.REFUSED: "X",
}


def providers() -> str:
    """The table of parameters by column, and every hosted model."""
    table = hosted()

    def cell(field: str, cell: Cell) -> str:
        name = f" `{cell.name}`" if cell.sent and cell.name != field else ""
        return _LETTERS[cell.behaviour] + name

    head = _row("parameter", *table.columns.values()) + "|---" * (len(table.columns) + 1) + "|\n"
    rows = [_row(f"`{name}`", *(cell(name, c[name]) for c in table.column_cells.values())) for name in table.fields]
    everywhere = ", ".join(f"`{name}`" for name in table.everywhere if name != "model")
    listed = [_row(*_profile_cells(profile, cell)) for profile in table.profiles.values()]
    rules = PROVIDERS_RULES.replace("{everywhere}", everywhere)
    return PROVIDERS_HEAD + head + "".join(rows) + rules + "".join(listed)


def _profile_cells(profile: Profile, shown: Callable[[str, Cell], str]) -> list[object]:
    table = hosted()
    common = table.column_cells[profile.column]
    own = [f"`{name}` {shown(name, cell)}" for name, cell in profile.cells.items() if cell != common[name]]
    return [
        f"`{profile.id}`",
        ", ".join([table.columns[profile.column], *own]),
        profile.max_images,
        profile.max_num_images,
        _SIZE_WORDS[profile.sizes.way].format(count=len(profile.sizes.choices)),
        _limits(profile.steps),
        _limits(profile.guidance),
        ", ".join(each.value for each in profile.output_formats),
        "–" if profile.price is None else str(profile.price),
        ", ".join(profile.unverified) or "–",
    ]


PAGES: dict[str, Callable[[], str]] = {
    "errors.md": error_codes,
    "models.md": models,
    "providers.md": providers,
    "commands.md": commands,
}


def _limits(value: Limits | None, *, default: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value.minimum:g} to {value.maximum:g}" + (f", default {value.default:g}" if default else "")


def _summary(error: type[RetouchError]) -> str:
    own = error.__dict__.get("__doc__")
    return inspect.cleandoc(own).split("\n\n")[0].replace("\n", " ") if own else ""


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def page(name: str) -> str:
    return HEAD + PAGES[name]()


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    REFERENCE.mkdir(exist_ok=True)
    for name in PAGES:
        (REFERENCE / name).write_text(page(name), encoding="utf-8")
        sys.stdout.write(f"wrote docs/reference/{name}\n")
