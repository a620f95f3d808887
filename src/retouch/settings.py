"""What an operator can set: one small frozen class per component, read once from options and variables.

Every option of the command line is also `RETOUCH_<NAME>`; an option wins over a variable, a variable over
the default. A variable that begins with RETOUCH_ and is none of ours is refused, so that a misspelt name is not a
silent default; but what Kubernetes and Docker put beside a service named `retouch` or `retouch-…` is passed over.
This module reads nothing at import and knows no component.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from retouch.errors import InvalidSetting

PREFIX = "RETOUCH_"

_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_SERVICE_NAME = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|PORT_START|PORT_END|START|END))?)"
)

LogLevel = Literal["debug", "info", "warning", "error"]


def default_data_folder() -> Path:
    """`$XDG_DATA_HOME/retouch`, or `~/.local/share/retouch`."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "retouch"


def split_commas(value: object) -> object:
    """The members of a comma list in a variable; any other value as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Component(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)


class HttpSettings(Component):
    """Where the server listens and what it is called from outside."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    public_url: str | None = Field(None, description="this server's address as callers see it; default: per request")
    no_auth: bool = Field(default=False, description="accept every caller without a key, on any address")
    tls: Literal["off", "auto"] = Field("off", description="auto: speak https with a certificate made here")
    forward_proxy: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port of a forward proxy that leads the vendors' host names here; needs --tls auto",
    )
    forwarded_allow_ips: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="proxies whose X-Forwarded headers are believed: addresses, networks, * for every peer",
    )

    @field_validator("forwarded_allow_ips", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("port", mode="before")
    @classmethod
    def _pass_over_a_service_address(cls, value: object) -> object:
        """Beside a Kubernetes service named `retouch`, RETOUCH_PORT is `tcp://10.0.0.7:8000`: not a setting."""
        is_address = isinstance(value, str) and _SERVICE_ADDRESS.fullmatch(value)
        return cls.model_fields["port"].default if is_address else value

    @field_validator("public_url")
    @classmethod
    def _must_be_a_web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """The address to print and to open in a browser."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        scheme = "https" if self.tls == "auto" else "http"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"


class StoreSettings(Component):
    """Where jobs, keys and images are kept."""

    data: Path = Field(default_factory=default_data_folder, description="folder for the database and all files")
    database: str | None = Field(None, description="postgresql://… or sqlite:///…; default: a file in the data folder")
    storage: str | None = Field(None, description="s3://bucket/prefix or another store; default: the data folder")
    retention_days: float = Field(7.0, gt=0, le=3650, description="how long results and their files are kept")

    @field_validator("data")
    @classmethod
    def _must_be_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'retouch.db'}"

    @property
    def retention_s(self) -> float:
        return self.retention_days * 86_400


class ModelSettings(Component):
    """Which weights run, and on what."""

    model: Annotated[tuple[str, ...], NoDecode] = Field(
        ("demo",), min_length=1, description="checkpoints: names of the catalogue, or folders; the first is the default"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:<n>")
    precision: str = Field("auto", description="bf16, fp8, int8, nf4, gguf[:FILE], or auto: the most exact that fits")
    offload: str = Field("auto", description="none, encoder, blocks: on the device only while it is used; or auto")
    compile: bool = Field(default=False, description="compile the network's blocks, on a GPU")
    accept_research_licence: bool = Field(default=False, description="allow weights licensed for research only")

    @field_validator("model", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return split_commas(",".join(map(str, value)) if isinstance(value, list | tuple) else value)

    @model_validator(mode="after")
    def _a_file_is_of_one_model(self) -> Self:
        if len(self.model) > 1 and self.precision.startswith("gguf:"):
            raise ValueError("a file holds one model, and there are several: put each into its folder and say gguf")
        return self

    @property
    def only_model(self) -> str:
        """The one checkpoint of a command that runs no more. Raises InvalidSetting for several."""
        if len(self.model) > 1:
            raise InvalidSetting(f"One model at a time here, not {', '.join(self.model)}; name it with --model.")
        return self.model[0]


class LoraSettings(Component):
    """Where callers' LoRAs may come from besides the hub, links and uploads; and the one of `acceleration: high`."""

    lora_dir: Path | None = Field(None, description="folder whose LoRAs callers may name by their path in it")
    fast_lora: str | None = Field(
        None, description="few-step LoRA that acceleration high runs: file, hub repository or link; for the first model"
    )
    fast_lora_steps: int | None = Field(
        None, ge=1, le=100, description="steps of it; default: the number in its name, such as 8steps"
    )

    @field_validator("lora_dir")
    @classmethod
    def _must_be_a_folder(cls, value: Path | None) -> Path | None:
        folder = None if value is None else value.expanduser().absolute()
        if folder is not None and not folder.is_dir():
            raise ValueError("is no folder")
        return folder


class NetworkSettings(Component):
    """Which addresses a caller's link may lead to beyond the public internet."""

    allow_private: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="HOST or HOST:PORT that links and webhooks may reach although it is not public"
    )

    @field_validator("allow_private", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return split_commas(value)


class ProcessSettings(Component):
    """How `serve` runs."""

    workers: int = Field(1, ge=0, le=64, description="worker processes to run; 0 when they run elsewhere")
    log_level: LogLevel = Field("info", description="debug, info, warning or error")


class SafetySettings(Component):
    """What is checked before an edit is made and before it is delivered."""

    safety_checker: str = Field("auto", description="auto: the packaged one; off; or an image classifier by name")
    safety_threshold: float | None = Field(
        None, ge=0, le=1, description="an image is flagged at this score; default: 0.8, or 0.5 for a classifier by name"
    )
    safety_labels: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="labels of the classifier that mean unsafe; default: decided by their names"
    )
    safety_failure: Literal["refuse", "pass"] = Field("refuse", description="what happens when a checker fails")
    safety_enforce: bool = Field(default=False, description="callers may not switch the checks off")
    prompt_checker: str = Field("off", description="off; resident: the loaded model; or a guard model by name")
    prompt_threshold: float | None = Field(
        None, ge=0, le=1, description="a prompt is flagged at this score of the resident checker; default: 0.5"
    )

    @field_validator("safety_labels", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return split_commas(value)


class RewriterSettings(Component):
    """Who rewrites prompts for callers that ask for it. The key is a variable only, never an option."""

    rewriter: str = Field("auto", description="auto, off, resident, or the /v1 address of a chat server")
    rewriter_model: str | None = Field(None, description="the chat server's model; default: default")
    rewriter_prompt: Path | None = Field(None, description="file with other rules for the rewriter")
    rewriter_key: SecretStr | None = Field(None, description="the chat server's key")


class RoutesSettings(Component):
    """Where edits may go besides our own workers."""

    routes: Path | None = Field(None, description="file that leads edits to hosted providers, such as retouch.toml")


class ProvenanceSettings(Component):
    """What output files say of their making."""

    provenance: Literal["metadata", "off", "c2pa"] = Field("metadata", description="how output files are marked")
    provenance_cert: Path | None = Field(None, description="PEM file: the signer's certificate and its chain")
    provenance_key: Path | None = Field(None, description="PEM file: the signer's private key")


COMPONENTS: tuple[type[Component], ...] = (
    HttpSettings,
    StoreSettings,
    ModelSettings,
    LoraSettings,
    NetworkSettings,
    ProcessSettings,
    SafetySettings,
    RewriterSettings,
    ProvenanceSettings,
    RoutesSettings,
)

_Settings = TypeVar("_Settings", bound=Component)


def known_names() -> tuple[str, ...]:
    """Every setting by its option name, in the order of the reference page."""
    return tuple(name for component in COMPONENTS for name in component.model_fields)


def read(component: type[_Settings], **options: object) -> _Settings:
    """The settings of one component; `options` that are None are taken as not given.

    Raises InvalidSetting with one sentence that names the setting and what is wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return component(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        shown = f"--{name.replace('_', '-')}" if name in given else PREFIX + name.upper()
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidSetting(f"{shown} is {first['input']!r}: {reason[0].lower()}{reason[1:]}.") from None


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Raise InvalidSetting when a variable begins with RETOUCH_ and is none of ours."""
    known = [PREFIX + name.upper() for name in known_names()]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not _describes_a_service(name, environment[name]):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
            raise InvalidSetting(f"The variable {name} is not a setting of Retouch. {hint}")


def _describes_a_service(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker has set this variable for a service or linked container named like us.

    Source: kubernetes.io, "Discovering services"; Docker, "Legacy container links".
    """
    if _SERVICE_NAME.fullmatch(name):
        return True
    if name.endswith("_NAME"):
        return value.startswith("/") and value.count("/") == 2
    return name.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value) is not None
