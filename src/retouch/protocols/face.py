"""What a protocol is to the rest of the server: one record. Adding one is a folder and a line in `registry.py`.

The server mounts it, the log and CORS layers know its headers, the webhook sender asks it for its message, the command
line asks it for the exports of its official client. Nothing outside `protocols/` names a vendor.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from starlette.types import ASGIApp

from retouch.jobs.job import Job
from retouch.jobs.outbox import PATIENT, RetrySchedule
from retouch.protocols.dependencies import AppDependencies


@dataclass(frozen=True, slots=True)
class Mount:
    """An application of the face and the path it answers under.

    request_id_headers: names, beside x-request-id, under which its answers carry the request id.
    """

    path: str
    create: Callable[[AppDependencies], ASGIApp]
    request_id_headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """One delivery, ready to be posted."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """Where an official client is to be led.

    url: this server without a trailing slash. forward_proxy: the address of the forward proxy for vendors' host names,
    or None when there is none.
    """

    url: str
    forward_proxy: str | None = None


def export_lines(**variables: str) -> str:
    """Shell text that sets these environment variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


@dataclass(frozen=True, slots=True)
class ExampleCall:
    """What a first edit from the shell needs: the photo, and what a caller of this server must show and trust.

    certificate: the file of the authority to trust, or None for a server that a public one vouches for.
    """

    url: str
    photo: str
    instruction: str
    needs_key: bool
    certificate: str | None


@dataclass(frozen=True, slots=True)
class Face:
    """One vendor's HTTP contract.

    name: as `Delivery.protocol` keeps it and as `retouch env` takes it. webhook: the message about an ended job at a
    moment, which a signature names; None for a protocol without webhooks. webhook_schedule: when one that was not
    acknowledged is sent again. vendor_hosts: host names its clients may reach us by, each with the path it stands for;
    by_host: wraps the application to follow them. quiet_paths: paths that waiting callers ask many times a second,
    logged at debug level. exposed_headers: what a browser's script may read. client_exports: the shell lines that lead
    its official client here; None where there is no such client. example_command: one shell line that edits a photo;
    None where that takes more than a line.
    """

    name: str
    mounts: tuple[Mount, ...]
    webhook: Callable[[AppDependencies, Job, datetime], WebhookMessage] | None = None
    webhook_schedule: RetrySchedule = PATIENT
    vendor_hosts: Mapping[str, str] = field(default_factory=dict)
    by_host: Callable[[ASGIApp], ASGIApp] | None = None
    quiet_paths: re.Pattern[str] | None = None
    exposed_headers: tuple[str, ...] = ()
    client_exports: Callable[[ClientAddress], str] | None = None
    example_command: Callable[[ExampleCall], str] | None = None
