"""The command `retouch`: names, options and help of every subcommand. The work is in the modules beside it.

Those are imported when they are called, so that `--help` is quick and `serve` never sees what `edit` needs.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from retouch.cli.streams import write_everything
from retouch.edit import Acceleration
from retouch.errors import RetouchError
from retouch.protocols.options import FORWARD_PROXY_ALIASES

EVERY_OPTION = "Every option is also a variable: --public-url is RETOUCH_PUBLIC_URL."

app = typer.Typer(
    name="retouch",
    help="Edit pictures by instruction: a server for Qwen-Image-Edit that speaks the protocols of the hosted services.",
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

Host = Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on. [default: 8000]")]
PublicUrl = Annotated[
    str | None, typer.Option(help="This server's address as callers see it. [default: taken from each request]")
]
Data = Annotated[
    Path | None, typer.Option(help="Folder for the database and all files. [default: ~/.local/share/retouch]")
]
Model = Annotated[str | None, typer.Option(help="Checkpoint: a name of the catalogue, or a folder. [default: demo]")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Checkpoint: a name of the catalogue, or a folder; repeatable, the first serves every model id that has "
        "none of its own. [default: demo]",
    ),
]
Workers = Annotated[int | None, typer.Option(help="Worker processes to run; 0 when they run elsewhere. [default: 1]")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="postgresql://… or sqlite:///…; default: a file in the data folder.")
]
StorageUrl = Annotated[
    str | None, typer.Option("--storage", help="s3://bucket/prefix or another store; default: the data folder.")
]
RetentionDays = Annotated[
    float | None, typer.Option(help="How many days results and their files are kept. [default: 7]")
]
NoAuth = Annotated[bool | None, typer.Option("--no-auth", help="Let everybody in without a key, on any address.")]
Tls = Annotated[
    str | None,
    typer.Option(metavar="auto", help="auto: speak https with a certificate made in the data folder. [default: off]"),
]
ForwardProxy = Annotated[
    int | None,
    typer.Option(
        "--forward-proxy",
        *FORWARD_PROXY_ALIASES,
        metavar="PORT",
        help="Port of a forward proxy that leads the vendors' host names here; needs --tls auto. [default: none]",
    ),
]
ForwardedAllowIps = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS", help="Believe the X-Forwarded headers of this proxy: an address, a network, *; repeatable."
    ),
]
AllowPrivate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST[:PORT]", help="Let callers' links reach this address although it is not public; repeatable."
    ),
]
AcceptLicence = Annotated[
    bool | None, typer.Option("--accept-research-licence", help="Allow weights that are licensed for research only.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:<n>. [default: auto]")]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="auto|bf16|fp8|int8|nf4|gguf[:FILE]",
        help="How weights are kept; auto: the most exact that fits; gguf: in a file's bits. [default: auto]",
    ),
]
Offload = Annotated[
    str | None,
    typer.Option(
        metavar="auto|none|encoder|blocks",
        help="What is on the GPU only while it is used: the text encoder, or the network's blocks as well; auto: as "
        "little as fits. [default: auto]",
    ),
]
LoraDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder whose LoRAs callers may name by their path in it.")
]
RoutesFile = Annotated[
    Path | None,
    typer.Option("--routes", metavar="FILE", help="Lead edits to hosted providers by this file, read again at SIGHUP."),
]
SafetyChecker = Annotated[
    str | None,
    typer.Option(
        metavar="auto|off|NAME",
        help="auto: the packaged image classifier; else a hub id or folder of one. [default: auto]",
    ),
]
SafetyThreshold = Annotated[
    float | None,
    typer.Option(metavar="0..1", help="An image is flagged at this score or more. [default: 0.8, or 0.5 for a NAME]"),
]
SafetyLabels = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Labels of the classifier that mean unsafe. [default: decided by their names]"),
]
SafetyFailure = Annotated[
    str | None,
    typer.Option(metavar="refuse|pass", help="What happens to an edit when a checker fails. [default: refuse]"),
]
SafetyEnforce = Annotated[
    bool | None, typer.Option("--safety-enforce", help="Callers may not switch the safety checks off.")
]
PromptCheckerName = Annotated[
    str | None,
    typer.Option(
        "--prompt-checker",
        metavar="off|resident|NAME",
        help="resident: the loaded model judges; else a hub id or folder of Qwen3Guard-Gen or Llama Guard. "
        "[default: off]",
    ),
]
PromptThreshold = Annotated[
    float | None,
    typer.Option(metavar="0..1", help="A prompt is flagged at this score of the resident checker. [default: 0.5]"),
]
RewriterName = Annotated[
    str | None,
    typer.Option(
        "--rewriter",
        metavar="auto|off|resident|URL",
        help="Who expands prompts: the loaded model, or the /v1 address of a chat server, whose key is in "
        "RETOUCH_REWRITER_KEY. [default: auto, the loaded model on a GPU]",
    ),
]
RewriterModel = Annotated[str | None, typer.Option(metavar="NAME", help="Model of the chat server. [default: default]")]
RewriterPrompt = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with other rules for the rewriter. [default: our own]")
]
ProvenanceMode = Annotated[
    str | None,
    typer.Option(
        "--provenance",
        metavar="metadata|off|c2pa",
        help="How output files are marked as made with a model. [default: metadata]",
    ),
]
ProvenanceCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM of the certificate and its chain, for c2pa.")
]
ProvenanceKey = Annotated[Path | None, typer.Option(metavar="FILE", help="PEM of the private key, for c2pa.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")]


def run() -> None:
    """The console script: every foreseen error is one sentence on the terminal, never a traceback."""
    write_everything()
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
def serve(
    *,
    host: Host = None,
    port: Port = None,
    public_url: PublicUrl = None,
    data: Data = None,
    model: Models = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = None,
    offload: Offload = None,
    database: DatabaseUrl = None,
    storage: StorageUrl = None,
    retention_days: RetentionDays = None,
    no_auth: NoAuth = None,
    tls: Tls = None,
    forward_proxy: ForwardProxy = None,
    forwarded_allow_ips: ForwardedAllowIps = None,
    allow_private: AllowPrivate = None,
    lora_dir: LoraDir = None,
    accept_research_licence: AcceptLicence = None,
    safety_checker: SafetyChecker = None,
    safety_threshold: SafetyThreshold = None,
    safety_labels: SafetyLabels = None,
    safety_failure: SafetyFailure = None,
    safety_enforce: SafetyEnforce = None,
    prompt_checker: PromptCheckerName = None,
    prompt_threshold: PromptThreshold = None,
    rewriter: RewriterName = None,
    rewriter_model: RewriterModel = None,
    rewriter_prompt: RewriterPrompt = None,
    provenance: ProvenanceMode = None,
    provenance_cert: ProvenanceCert = None,
    provenance_key: ProvenanceKey = None,
    routes: RoutesFile = None,
    log_level: LogLevel = None,
) -> None:
    """Start the server and its workers."""
    from retouch import settings
    from retouch.cli.serve import serve as start

    start(
        settings.read(
            settings.HttpSettings,
            host=host,
            port=port,
            public_url=public_url,
            no_auth=no_auth,
            tls=tls,
            forward_proxy=forward_proxy,
            forwarded_allow_ips=forwarded_allow_ips,
        ),
        settings.read(
            settings.StoreSettings, data=data, database=database, storage=storage, retention_days=retention_days
        ),
        settings.read(
            settings.ModelSettings,
            model=model,
            device=device,
            precision=precision,
            offload=offload,
            accept_research_licence=accept_research_licence,
        ),
        settings.read(settings.LoraSettings, lora_dir=lora_dir),
        settings.read(settings.NetworkSettings, allow_private=allow_private),
        settings.read(settings.ProcessSettings, workers=workers, log_level=log_level),
        settings.read(
            settings.SafetySettings,
            safety_checker=safety_checker,
            safety_threshold=safety_threshold,
            safety_labels=safety_labels,
            safety_failure=safety_failure,
            safety_enforce=safety_enforce,
            prompt_checker=prompt_checker,
            prompt_threshold=prompt_threshold,
        ),
        settings.read(
            settings.RewriterSettings,
            rewriter=rewriter,
            rewriter_model=rewriter_model,
            rewriter_prompt=rewriter_prompt,
        ),
        settings.read(
            settings.ProvenanceSettings,
            provenance=provenance,
            provenance_cert=provenance_cert,
            provenance_key=provenance_key,
        ),
        settings.read(settings.RoutesSettings, routes=routes),
    )


@app.command(epilog=EVERY_OPTION)
def worker(
    *,
    data: Data = None,
    model: Models = None,
    device: Device = None,
    precision: Precision = None,
    offload: Offload = None,
    database: DatabaseUrl = None,
    storage: StorageUrl = None,
    retention_days: RetentionDays = None,
    allow_private: AllowPrivate = None,
    lora_dir: LoraDir = None,
    accept_research_licence: AcceptLicence = None,
    safety_checker: SafetyChecker = None,
    safety_threshold: SafetyThreshold = None,
    safety_labels: SafetyLabels = None,
    safety_failure: SafetyFailure = None,
    safety_enforce: SafetyEnforce = None,
    prompt_checker: PromptCheckerName = None,
    prompt_threshold: PromptThreshold = None,
    rewriter: RewriterName = None,
    rewriter_model: RewriterModel = None,
    rewriter_prompt: RewriterPrompt = None,
    provenance: ProvenanceMode = None,
    provenance_cert: ProvenanceCert = None,
    provenance_key: ProvenanceKey = None,
    log_level: LogLevel = None,
    attached: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run one worker by itself, beside `serve --workers 0`, on this machine or another."""
    from retouch import settings
    from retouch.cli.worker import work

    work(
        settings.read(
            settings.StoreSettings, data=data, database=database, storage=storage, retention_days=retention_days
        ),
        settings.read(
            settings.ModelSettings,
            model=model,
            device=device,
            precision=precision,
            offload=offload,
            accept_research_licence=accept_research_licence,
        ),
        settings.read(settings.LoraSettings, lora_dir=lora_dir),
        settings.read(settings.NetworkSettings, allow_private=allow_private),
        settings.read(settings.ProcessSettings, log_level=log_level),
        settings.read(
            settings.SafetySettings,
            safety_checker=safety_checker,
            safety_threshold=safety_threshold,
            safety_labels=safety_labels,
            safety_failure=safety_failure,
            safety_enforce=safety_enforce,
            prompt_checker=prompt_checker,
            prompt_threshold=prompt_threshold,
        ),
        settings.read(
            settings.RewriterSettings,
            rewriter=rewriter,
            rewriter_model=rewriter_model,
            rewriter_prompt=rewriter_prompt,
        ),
        settings.read(
            settings.ProvenanceSettings,
            provenance=provenance,
            provenance_cert=provenance_cert,
            provenance_key=provenance_key,
        ),
        attached=attached,
    )


@app.command(epilog='Example: retouch edit photo.jpg "make it grayscale" -o grey.png')
def edit(
    arguments: Annotated[
        list[str], typer.Argument(metavar="IN… INSTRUCTION", help="One or more pictures, then what to do with them.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .png, .jpg, .webp, .avif or .gif.")],
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    offload: Offload = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture. [default: a random one]")] = None,
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
    accept_research_licence: AcceptLicence = None,
    safety_checker: SafetyChecker = None,
    safety_threshold: SafetyThreshold = None,
    safety_labels: SafetyLabels = None,
    safety_failure: SafetyFailure = None,
    prompt_checker: PromptCheckerName = None,
    prompt_threshold: PromptThreshold = None,
    provenance: ProvenanceMode = None,
    provenance_cert: ProvenanceCert = None,
    provenance_key: ProvenanceKey = None,
) -> None:
    """Edit pictures here and now, with no server and no database."""
    from retouch import settings
    from retouch.cli.edit import edit as edit_once

    edit_once(
        settings.read(
            settings.ModelSettings,
            model=model,
            device=device,
            precision=precision,
            offload=offload,
            accept_research_licence=accept_research_licence,
        ),
        settings.read(
            settings.SafetySettings,
            safety_checker=safety_checker,
            safety_threshold=safety_threshold,
            safety_labels=safety_labels,
            safety_failure=safety_failure,
            prompt_checker=prompt_checker,
            prompt_threshold=prompt_threshold,
        ),
        settings.read(
            settings.ProvenanceSettings,
            provenance=provenance,
            provenance_cert=provenance_cert,
            provenance_key=provenance_key,
        ),
        arguments,
        out,
        seed=seed,
        steps=steps,
        size=size,
        guidance_scale=guidance_scale,
        acceleration=acceleration,
    )


@app.command()
def doctor(*, model: Models = None, device: Device = None) -> None:
    """Say what this machine has, and which checkpoint it can run in which precision."""
    from retouch import settings
    from retouch.cli.doctor import examine

    examine(settings.read(settings.ModelSettings, model=model, device=device))


@app.command()
def bench(
    *,
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    offload: Offload = None,
    rounds: Annotated[int, typer.Option(min=1, help="Edits for each acceleration.")] = 3,
    accept_research_licence: AcceptLicence = None,
) -> None:
    """Measure edits of the sample photo on this machine, with each acceleration."""
    from retouch import settings
    from retouch.cli.bench import measure

    measure(
        settings.read(
            settings.ModelSettings,
            model=model,
            device=device,
            precision=precision,
            offload=offload,
            accept_research_licence=accept_research_licence,
        ),
        rounds,
    )


@app.command()
def env(
    client: Annotated[
        str,
        typer.Argument(metavar="CLIENT", help="Whose official client is to come here; any other word lists them."),
    ],
    *,
    host: Host = None,
    port: Port = None,
    public_url: PublicUrl = None,
    tls: Tls = None,
    forward_proxy: ForwardProxy = None,
    data: Data = None,
) -> None:
    """Print the exports that point an official client at this server; use as: eval "$(retouch env CLIENT)"."""
    from retouch import settings
    from retouch.cli.env import exports

    http = settings.read(
        settings.HttpSettings, host=host, port=port, public_url=public_url, tls=tls, forward_proxy=forward_proxy
    )
    sys.stdout.write(exports(client, http, settings.read(settings.StoreSettings, data=data)))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    operator: Annotated[
        bool, typer.Option("--operator", help="It may also read what every key has used, on /metrics.")
    ] = False,
    data: Data = None,
    database: DatabaseUrl = None,
) -> None:
    """Make a key and print it on the last line; it is shown this once."""
    from retouch import settings
    from retouch.cli import keys as verbs

    verbs.create(settings.read(settings.StoreSettings, data=data, database=database), name, operator=operator)


@keys.command("list")
def list_keys(*, data: Data = None, database: DatabaseUrl = None) -> None:
    """List the keys; never their secrets."""
    from retouch import settings
    from retouch.cli import keys as verbs

    verbs.list_all(settings.read(settings.StoreSettings, data=data, database=database))


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="As `keys list` shows it.")],
    *,
    data: Data = None,
    database: DatabaseUrl = None,
) -> None:
    """Revoke a key; calls with it are refused from now on."""
    from retouch import settings
    from retouch.cli import keys as verbs

    verbs.revoke(settings.read(settings.StoreSettings, data=data, database=database), name)


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
def list_webhooks(*, data: Data = None, database: DatabaseUrl = None) -> None:
    """List the webhooks that were given up: request, time, address, last trouble."""
    from retouch import settings
    from retouch.cli import webhooks as verbs

    verbs.list_given_up(settings.read(settings.StoreSettings, data=data, database=database))


@webhooks.command("replay")
def replay_webhook(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As `webhooks list` shows it.")],
    *,
    data: Data = None,
    database: DatabaseUrl = None,
) -> None:
    """Have a webhook sent again, whatever became of it before."""
    from retouch import settings
    from retouch.cli import webhooks as verbs

    verbs.replay(settings.read(settings.StoreSettings, data=data, database=database), request_id)
