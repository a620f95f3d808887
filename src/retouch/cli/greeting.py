"""What `retouch serve` says on the terminal: that the model loads, that the server is ready, how to send an edit.

It looks through the service only; log lines are not its matter.
"""

from __future__ import annotations

import shlex
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rich.console import Console

from retouch.service import Service
from retouch.settings import HttpSettings

CHECK_S = 0.2


@dataclass(frozen=True, slots=True)
class Greeting:
    """workers: how many this server runs itself. certificate: the file clients must trust, if any."""

    http: HttpSettings
    model: str
    workers: int
    needs_key: bool = False
    certificate: Path | None = None

    def tell(self, service: Service, stop: threading.Event) -> None:
        """Say what is waited for until an edit can be run, then the welcome; or nothing more after `stop`."""
        said = self._expected()
        sys.stdout.write(f"Retouch listens at {self.http.address}. {self._first_line()}\n")
        sys.stdout.flush()
        with self._spinner():
            while (reason := service.ready()) is not None:
                if reason not in said:
                    said = {*said, reason}
                    sys.stdout.write(f"Not ready yet: {reason}\n")
                    sys.stdout.flush()
                if stop.wait(CHECK_S):
                    return
        sys.stdout.write(self.welcome())
        sys.stdout.flush()

    def welcome(self) -> str:
        """The address, and one line that edits the sample photo."""
        photo = resources.files("retouch") / "samples" / "cat.jpg"
        trust = f"--cacert {shlex.quote(str(self.certificate))} " if self.certificate else ""
        key = '-H "Authorization: Bearer $OPENAI_API_KEY" ' if self.needs_key else ""
        decode = (
            "import base64, json, sys; "
            "open('edited.png', 'wb').write(base64.b64decode(json.load(sys.stdin)['data'][0]['b64_json']))"
        )
        command = (
            f"curl -s {trust}{key}{self.http.address}/v1/images/edits -F image=@{shlex.quote(str(photo))} "
            f'-F prompt="make it grayscale" -F response_format=b64_json | python3 -c "{decode}"'
        )
        return (
            f"\nRetouch is ready at {self.http.address} with the model '{self.model}'.\n\n"
            f"Edit the sample photo:\n\n  {command}\n\n"
        )

    def _first_line(self) -> str:
        if self.workers == 0:
            return f"It waits for a worker: retouch worker --model {shlex.quote(self.model)}"
        return f"Loading the model '{self.model}' …"

    def _expected(self) -> set[str]:
        """What the first line has said already, in the words of `Service.ready`."""
        return {f"No worker serves '{self.model}'.", f"The model '{self.model}' is loading."}

    def _spinner(self) -> AbstractContextManager[object]:
        """Something that moves, where somebody may be watching."""
        console = Console()
        if not console.is_terminal or self.workers == 0:
            return nullcontext()
        return console.status(f"Loading {self.model}")
