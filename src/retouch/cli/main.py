"""The command `retouch`: names, options and help of every subcommand. The work is in the modules beside it.

Those are imported when they are called, so that `--help` is quick and `serve` never sees what `edit` needs.
"""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from retouch.cli.options import (
    HTTP,
    LORAS,
    MODELS,
    NETWORK,
    ONE_MODEL,
    PROCESSES,
    PROVENANCE,
    REWRITER,
    ROUTES,
    SAFETY,
    STORE,
    Given,
    PublicUrl,
    takes,
)
from retouch.edit import Acceleration
from retouch.errors import RetouchError

STAND_INS = {"…": "...", "×": "x", "–": "-", "—": "-", "→": "->", "‘": "'", "’": "'", "“": '"', "”": '"', "━": "-"}
"""For characters that an output stream cannot write."""

EVERY_OPTION = "Every option is also a variable: --public-url is RETOUCH_PUBLIC_URL."

app = typer.Typer(
    name="retouch",
    help="Edit images by instruction: a server for Qwen-Image-Edit that speaks the protocols of the hosted services.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys = typer.Typer(help="Issue, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys, name="keys")
webhooks = typer.Typer(
    help="List and repeat webhooks that were not acknowledged.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(webhooks, name="webhooks")

routes = typer.Typer(
    help="Check and show the file that leads edits to hosted providers.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(routes, name="routes")

DATABASE = STORE.only("data", "database")
FAST_LORA = LORAS.only("fast_lora", "fast_lora_steps")


def run() -> None:
    """The console script: every foreseen error is one sentence on the terminal, never a traceback."""
    # PYTHONIOENCODING=ascii, a Latin-1 terminal, a file name that is no UTF-8: the streams must not fail on these.
    codecs.register_error("retouch", stand_in)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="retouch")
    try:
        app()
    except RetouchError as error:
        _give_up(error.message)
    except OSError as error:
        _give_up(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
    except UnicodeEncodeError as error:
        if not any("\udc80" <= character <= "\udcff" for character in error.object):
            raise
        _give_up("An argument holds bytes that are not UTF-8; write it in UTF-8.")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("RETOUCH_LOG_LEVEL") == "debug":
            raise
        cause = f"{type(error).__name__}: {error}".partition("\n")[0]
        _give_up(f"Something went wrong inside Retouch ({cause}). RETOUCH_LOG_LEVEL=debug shows where.")


def _give_up(sentence: str) -> None:
    sys.stderr.write(f"retouch: {sentence}\n")
    sys.exit(1)


def stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written for characters that a stream's encoding does not have (an error handler of `codecs`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = ""
    for character in error.object[error.start : error.end]:
        spinner = "*" if unicodedata.category(character) == "So" else None  # its frames, and what else is drawn
        plain = character.encode("ascii", "backslashreplace").decode()
        written += STAND_INS.get(character) or spinner or plain
    return written, error.end


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"retouch {version('retouch')}\n")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[  # noqa: ARG001 - acted on by its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    from retouch.settings import refuse_unknown_variables

    refuse_unknown_variables(os.environ)


@app.command(epilog=EVERY_OPTION)
@takes(HTTP, STORE, MODELS, LORAS, NETWORK, PROCESSES, SAFETY, REWRITER, PROVENANCE, ROUTES)
def serve(given: Given) -> None:
    """Start the server and its workers."""
    from retouch.cli.serve import serve as start

    start(
        HTTP.read(given),
        STORE.read(given),
        MODELS.read(given),
        LORAS.read(given),
        NETWORK.read(given),
        PROCESSES.read(given),
        SAFETY.read(given),
        REWRITER.read(given),
        PROVENANCE.read(given),
        ROUTES.read(given),
    )


@app.command(epilog=EVERY_OPTION)
@takes(STORE, MODELS, LORAS, NETWORK, PROCESSES.only("log_level"), SAFETY, REWRITER, PROVENANCE)
def worker(given: Given, *, attached: Annotated[bool, typer.Option(hidden=True)] = False) -> None:
    """Run one worker by itself, beside `serve --workers 0`, on this machine or another."""
    from retouch.cli.worker import work

    work(
        STORE.read(given),
        MODELS.read(given),
        LORAS.read(given),
        NETWORK.read(given),
        PROCESSES.read(given),
        SAFETY.read(given),
        REWRITER.read(given),
        PROVENANCE.read(given),
        attached=attached,
    )


@app.command(epilog='Example: retouch edit photo.jpg "make it grayscale" -o grey.png')
@takes(ONE_MODEL, SAFETY.only(*(name for name in SAFETY.options if name != "safety_enforce")), PROVENANCE, FAST_LORA)
def edit(
    given: Given,
    *,
    arguments: Annotated[
        list[str], typer.Argument(metavar="IN… INSTRUCTION", help="One or more images, then what to do with them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .png, .jpg, .webp, .avif or .gif.")],
    seed: Annotated[int | None, typer.Option(help="Same seed, same image. [default: a random one]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoise steps. [default: the model's own]")] = None,
    size: Annotated[
        str | None,
        typer.Option(help="1024x768, a ratio such as 16:9, or a scale such as 1K. [default: as the input]"),
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of guidance. [default: the model's own]")
    ] = None,
    acceleration: Annotated[
        Acceleration, typer.Option(help="How much exactness may be traded for time.")
    ] = Acceleration.NONE,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[=SCALE]", help="LoRA to apply: a file, a hub repository or a link; repeatable."),
    ] = None,
) -> None:
    """Edit images here and now, with no server and no database."""
    from retouch.cli.edit import edit as edit_once

    edit_once(
        ONE_MODEL.read(given),
        SAFETY.read(given),
        PROVENANCE.read(given),
        LORAS.read(given),
        arguments,
        out,
        seed=seed,
        steps=steps,
        size=size,
        guidance_scale=guidance_scale,
        acceleration=acceleration,
        named_loras=lora or (),
    )


@app.command()
@takes(MODELS.only("model", "device"))
def doctor(given: Given) -> None:
    """Say what this machine has, and which checkpoint it can run in which precision."""
    from retouch.cli.doctor import examine

    examine(MODELS.read(given))


@app.command()
@takes(ONE_MODEL, FAST_LORA)
def bench(
    given: Given, *, rounds: Annotated[int, typer.Option(min=1, help="Edits for each acceleration.")] = 3
) -> None:
    """Measure edits of the sample photo on this machine, with each acceleration."""
    from retouch.cli.bench import measure

    measure(ONE_MODEL.read(given), LORAS.read(given), rounds)


@app.command()
@takes(HTTP.only("host", "port", "public_url", "tls", "forward_proxy"), STORE.only("data"))
def env(
    given: Given,
    *,
    client: Annotated[
        str,
        typer.Argument(metavar="CLIENT", help="Whose official client is to come here; any other word lists them."),
    ],
) -> None:
    """Print the exports that point an official client at this server; use as: eval "$(retouch env CLIENT)"."""
    from retouch.cli.env import exports

    sys.stdout.write(exports(client, HTTP.read(given), STORE.read(given)))


@keys.command("create")
@takes(DATABASE)
def create_key(
    given: Given,
    *,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    operator: Annotated[
        bool, typer.Option("--operator", help="It may also read what every key has used, on /metrics.")
    ] = False,
) -> None:
    """Make a key and print it on the last line; it is shown this once."""
    from retouch.cli import keys as verbs

    verbs.create(STORE.read(given), name, operator=operator)


@keys.command("list")
@takes(DATABASE)
def list_keys(given: Given) -> None:
    """List the keys; never their secrets."""
    from retouch.cli import keys as verbs

    verbs.list_all(STORE.read(given))


@keys.command("revoke")
@takes(DATABASE)
def revoke_key(
    given: Given, *, name: Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="As `keys list` shows it.")]
) -> None:
    """Revoke a key; calls with it are refused from now on."""
    from retouch.cli import keys as verbs

    verbs.revoke(STORE.read(given), name)


@keys.command("store")
@takes(DATABASE)
def store_provider_key(
    given: Given,
    *,
    name: Annotated[str, typer.Argument(help="Whose it is, as `keys list` shows it.")],
    provider: Annotated[str, typer.Argument(metavar="CALLER_NAME", help="What stands behind caller: in the file.")],
) -> None:
    """Keep a caller's own key to a hosted provider, encrypted; it is read from standard input."""
    from retouch.cli import keys as verbs

    verbs.store(STORE.read(given), name, provider)


@keys.command("forget")
@takes(DATABASE)
def forget_provider_key(
    given: Given,
    *,
    name: Annotated[str, typer.Argument(help="Whose it is, as `keys list` shows it.")],
    provider: Annotated[str, typer.Argument(metavar="CALLER_NAME", help="What stands behind caller: in the file.")],
) -> None:
    """Delete a caller's own key to a hosted provider."""
    from retouch.cli import keys as verbs

    verbs.forget(STORE.read(given), name, provider)


@routes.command("check")
def check_routes(
    file: Annotated[Path | None, typer.Argument(help="The file. [default: RETOUCH_ROUTES, or retouch.toml]")] = None,
    *,
    public_url: PublicUrl = None,
) -> None:
    """Say what is wrong in a routes file, each mistake with its line; nothing is contacted."""
    from retouch import settings
    from retouch.cli import routes as verbs

    verbs.check(
        settings.read(settings.RoutesSettings, routes=file), settings.read(settings.HttpSettings, public_url=public_url)
    )


@routes.command("show")
def show_routes(
    model: Annotated[str | None, typer.Argument(help="A model, or UPSTREAM/MODEL. [default: all models]")] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="The file. [default: RETOUCH_ROUTES, or retouch.toml]")] = None,
    public_url: PublicUrl = None,
) -> None:
    """Show where edits go: targets in order, conditions, prices, and what becomes of parameters there."""
    from retouch import settings
    from retouch.cli import routes as verbs

    verbs.show(
        settings.read(settings.RoutesSettings, routes=file),
        settings.read(settings.HttpSettings, public_url=public_url),
        model,
    )


@webhooks.command("list")
@takes(DATABASE)
def list_webhooks(given: Given) -> None:
    """List the webhooks that were given up: request, time, address, last trouble."""
    from retouch.cli import webhooks as verbs

    verbs.list_given_up(STORE.read(given))


@webhooks.command("replay")
@takes(DATABASE)
def replay_webhook(
    given: Given,
    *,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As `webhooks list` shows it.")],
) -> None:
    """Have a webhook sent again, whatever became of it before."""
    from retouch.cli import webhooks as verbs

    verbs.replay(STORE.read(given), request_id)
