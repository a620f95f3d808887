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

| model | input images | pictures | steps | guidance scale | formats | prompt, characters | checked |
|---|---|---|---|---|---|---|---|
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

    def limits(value: Limits | None) -> str:
        return "–" if value is None else f"{value.minimum:g} to {value.maximum:g}, default {value.default:g}"

    public = (
        _row(
            f"`{m.id}`",
            m.max_images,
            m.max_num_images,
            limits(m.steps),
            limits(m.guidance),
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


PAGES: dict[str, Callable[[], str]] = {"errors.md": error_codes, "models.md": models, "commands.md": commands}


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
