"""The options of the command line, grouped as the components of `settings.py` that read them.

A command says which groups it takes and reads each from what was given; so `serve` and `worker` cannot differ in an
option that both have. Whether a value is allowed is decided in `settings.py`, which is imported when a command runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Generic, TypeAlias, TypeVar

import typer

from retouch.protocols.options import FORWARD_PROXY_ALIASES

if TYPE_CHECKING:
    from retouch import settings

Settings = TypeVar("Settings", bound="settings.Component")

Given: TypeAlias = Mapping[str, object]
"""What a command was given, by the names of its options; None for those that were left out."""

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
NoAuth = Annotated[bool | None, typer.Option("--no-auth", help="Accept every caller without a key, on any address.")]
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
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile", help="Compile the network's blocks on a GPU: the first edits take minutes more. Not measured yet."
    ),
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
FastLora = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|OWNER/NAME/FILE|URL",
        help="Few-step LoRA that acceleration high runs on the first model. [default: none, high reuses blocks]",
    ),
]
FastLoraSteps = Annotated[
    int | None, typer.Option(metavar="N", help="Steps of the fast LoRA. [default: the number in its name, as 8steps]")
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
        help="What expands prompts: the loaded model, or the /v1 address of a chat server, whose key is in "
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
RoutesFile = Annotated[
    Path | None,
    typer.Option("--routes", metavar="FILE", help="Lead edits to hosted providers by this file, read again at SIGHUP."),
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")]


@dataclass(frozen=True, slots=True)
class Group(Generic[Settings]):
    """Options of one component. component: a class of `settings.py`. options: by the names of its fields."""

    component: str
    options: Mapping[str, Any]

    def only(self, *names: str) -> Group[Settings]:
        return Group(self.component, {name: self.options[name] for name in names})

    def read(self, given: Given) -> Settings:
        """The component; its options are taken from everything that was given. Raises InvalidSetting."""
        from retouch import settings

        component: type[Settings] = getattr(settings, self.component)
        return settings.read(component, **{name: given[name] for name in self.options if name in given})


HTTP: Group[settings.HttpSettings] = Group(
    "HttpSettings",
    {
        "host": Host,
        "port": Port,
        "public_url": PublicUrl,
        "no_auth": NoAuth,
        "tls": Tls,
        "forward_proxy": ForwardProxy,
        "forwarded_allow_ips": ForwardedAllowIps,
    },
)
STORE: Group[settings.StoreSettings] = Group(
    "StoreSettings", {"data": Data, "database": DatabaseUrl, "storage": StorageUrl, "retention_days": RetentionDays}
)
MODELS: Group[settings.ModelSettings] = Group(
    "ModelSettings",
    {
        "model": Models,
        "device": Device,
        "precision": Precision,
        "offload": Offload,
        "compile": Compile,
        "accept_research_licence": AcceptLicence,
    },
)
ONE_MODEL: Group[settings.ModelSettings] = Group(MODELS.component, {**MODELS.options, "model": Model})
LORAS: Group[settings.LoraSettings] = Group(
    "LoraSettings", {"lora_dir": LoraDir, "fast_lora": FastLora, "fast_lora_steps": FastLoraSteps}
)
NETWORK: Group[settings.NetworkSettings] = Group("NetworkSettings", {"allow_private": AllowPrivate})
PROCESSES: Group[settings.ProcessSettings] = Group("ProcessSettings", {"workers": Workers, "log_level": LogLevel})
SAFETY: Group[settings.SafetySettings] = Group(
    "SafetySettings",
    {
        "safety_checker": SafetyChecker,
        "safety_threshold": SafetyThreshold,
        "safety_labels": SafetyLabels,
        "safety_failure": SafetyFailure,
        "safety_enforce": SafetyEnforce,
        "prompt_checker": PromptCheckerName,
        "prompt_threshold": PromptThreshold,
    },
)
ROUTES: Group[settings.RoutesSettings] = Group("RoutesSettings", {"routes": RoutesFile})
REWRITER: Group[settings.RewriterSettings] = Group(
    "RewriterSettings",
    {"rewriter": RewriterName, "rewriter_model": RewriterModel, "rewriter_prompt": RewriterPrompt},
)
PROVENANCE: Group[settings.ProvenanceSettings] = Group(
    "ProvenanceSettings",
    {"provenance": ProvenanceMode, "provenance_cert": ProvenanceCert, "provenance_key": ProvenanceKey},
)


def takes(*groups: Group[Any]) -> Callable[[Callable[Concatenate[Given, ...], None]], Callable[..., None]]:
    """Give a command the options of `groups` behind its own keyword-only ones."""

    def with_options(command: Callable[Concatenate[Given, ...], None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for group in groups
            for name, option in group.options.items()
        ]

        def called(**given: object) -> None:
            command(given, **{parameter.name: given[parameter.name] for parameter in own})

        # What typer reads a command's options from.
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        return called

    return with_options
