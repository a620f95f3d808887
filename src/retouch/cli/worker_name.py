"""Names of those who lease jobs."""

from __future__ import annotations

import os
import secrets
import socket


def worker_name() -> str:
    """Unique over machines and restarts, and readable."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
