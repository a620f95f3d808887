"""What `retouch serve` prints on the terminal: that the model loads, that the server is ready, how to send an edit.

It looks through the service only; log lines are not its matter.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rich.console import Console

from retouch.catalog import HOSTED, Catalog
from retouch.jobs.liveness import READY
from retouch.protocols.face import ExampleCall
from retouch.protocols.registry import FACES
from retouch.service import Service
from retouch.settings import HttpSettings

CHECK_S = 0.2


@dataclass(frozen=True, slots=True)
class StartupBanner:
    """workers: how many this server runs itself. certificate: the file clients must trust, if any."""

    http: HttpSettings
    catalog: Catalog
    workers: int
    needs_key: bool = False
    certificate: Path | None = None

    def tell(self, service: Service, stop: threading.Event) -> None:
        """Say what is waited for until an edit can be run, then the welcome; or nothing more after `stop`."""
        own = self._own()
        if not own:
            expects = "Edits go to hosted providers."
        elif self.workers == 0:
            options = " ".join(f"--model {shlex.quote(name)}" for name in own)
            expects = f"It waits for a worker: retouch worker {options}"
        else:
            expects = f"Loading {self._models()} …"
        sys.stdout.write(f"Retouch listens at {self.http.address}. {expects}\n")
        sys.stdout.flush()
        # What the first line has reported already, in the words of `Service.ready`.
        words = ("No worker serves '{}'.", "The model '{}' is loading.")
        printed = {sentence.format(name) for name in self.catalog.queues for sentence in words}
        console = Console()
        moves = console.is_terminal and self.workers > 0
        with console.status(f"Loading {', '.join(own)}") if moves else nullcontext():
            while (reason := service.ready()) is not None:
                if reason not in printed:
                    printed.add(reason)
                    sys.stdout.write(f"Not ready yet: {reason}\n")
                    sys.stdout.flush()
                if stop.wait(CHECK_S):
                    return
        states = service.models()
        for model, state in states.items():
            if state != READY and len(states) > 1:
                sys.stdout.write(f"Not served: '{model}'. {state}\n")
        sys.stdout.write(self.welcome([model for model, state in states.items() if state != READY]))
        sys.stdout.flush()

    def welcome(self, missing: Sequence[str] = ()) -> str:
        """The address, the models, and one line that edits the sample photo. missing: those that cannot run."""
        call = ExampleCall(
            url=self.http.address,
            photo=str(resources.files("retouch") / "samples" / "cat.jpg"),
            instruction="make it grayscale",
            needs_key=self.needs_key,
            certificate=str(self.certificate) if self.certificate else None,
        )
        command = next(face.example_command for face in FACES if face.example_command is not None)(call)
        served = ""
        if len(self.catalog.queues) > 1:  # which ids lead to which of several models
            for queue in self.catalog.queues:
                if queue not in missing:
                    ids = [route.model.id for route in self.catalog.routes if route.queue == queue]
                    served += f"  '{queue}' serves {', '.join(ids)}\n"
        return (
            f"\nRetouch is ready at {self.http.address} with {self._models(missing)}.\n{served}\n"
            f"Edit the sample photo:\n\n  {command}\n\n"
        )

    def _models(self, missing: Sequence[str] = ()) -> str:
        own = [name for name in self._own() if name not in missing]
        names = " and ".join(f"'{name}'" for name in own)
        models = [f"the model{'s' if len(own) > 1 else ''} {names}"] if own else []
        return " and ".join([*models, *(["hosted providers"] if HOSTED.name in self.catalog.queues else [])])

    def _own(self) -> tuple[str, ...]:
        """The models that run on workers of ours."""
        return tuple(name for name in self.catalog.queues if name != HOSTED.name)
