"""A real `retouch serve` in its own process, for tests that speak to it over a socket.

How to use it, in a fixture of your own test file:

    @pytest.fixture(scope="module")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
        with live_server(tmp_path_factory.mktemp("data")) as running:
            yield running

    def test_an_edit(server: LiveServer) -> None:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")

`server.url` is `http://127.0.0.1:<port>` without a trailing slash (https with `tls=True`); `server.data` is its
data folder.
No key exists, so any key or none is accepted; `key=True` makes one before the start and puts it in
`server.key`, and from then on a good key is needed. `model="null"` answers with the first image resized
and needs no torch; any other name or folder works too. `arguments` are added to the command line and
`environment` to the variables, e.g. `live_server(folder, arguments=("--workers", "0"))`. Leaving the `with` stops the
server as an operator would (SIGTERM) and its workers with it. What the process wrote is in
`server.log()`; it is part of the error when the server does not get ready. It does not share anything
between two servers but the data folder they are given.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import until

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 20.0


@dataclass(slots=True)
class LiveServer:
    """A running server: where it listens, what it keeps, and its process."""

    url: str
    port: int
    data: Path
    process: subprocess.Popen[bytes]
    log_file: Path
    key: str | None = None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str, *, timeout_s: float = 10) -> tuple[int, bytes]:
        """Status and body of a plain GET, without raising for 4xx and 5xx."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout_s, context=self._trust()) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _trust(self) -> ssl.SSLContext | None:
        if self.url.startswith("http:"):
            return None
        return ssl.create_default_context(cafile=self.data / "tls" / "authority.pem")

    def kill(self) -> None:
        """SIGKILL the server process, as a crash would; its workers notice by themselves."""
        self.process.kill()
        self.process.wait(STOPPED_WITHIN_S)

    def stop(self) -> int:
        """Stop as an operator would; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server did not stop in {STOPPED_WITHIN_S} s\n{self.log()}") from None


@contextlib.contextmanager
def live_server(
    data: Path,
    *,
    model: str = "null",
    key: bool = False,
    ready: bool = True,
    tls: bool = False,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[LiveServer]:
    """Start a server on a free port of 127.0.0.1, wait until /ready says 200, stop it at the end.

    `ready=False` waits for /health only, e.g. for a server without workers.
    """
    data.mkdir(parents=True, exist_ok=True)
    secret = _make_key(data) if key else None
    server = start_server(data, model=model, tls=tls, arguments=arguments, environment=environment)
    server.key = secret
    try:
        wait_until_answering(server, "/ready" if ready else "/health")
        yield server
    finally:
        server.stop()


def start_server(
    data: Path,
    *,
    model: str = "null",
    port: int | None = None,
    tls: bool = False,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> LiveServer:
    """Start the process and return at once; the caller waits and stops it."""
    port = port or free_port()
    log_file = data / f"serve-{port}.log"
    command = (*retouch("serve"), "--port", str(port), "--data", str(data), "--model", model, *arguments)
    if tls:
        command += ("--tls", "auto")
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(environment)
        )
    return LiveServer(f"{'https' if tls else 'http'}://127.0.0.1:{port}", port, data, process, log_file)


def wait_until_answering(server: LiveServer, path: str, *, within_s: float = READY_WITHIN_S) -> None:
    """Wait until `path` answers 200; fails with the server's log when it exits or takes too long."""

    def answers() -> bool:
        assert server.process.poll() is None, f"the server ended with {server.process.returncode}\n{server.log()}"
        with contextlib.suppress(OSError):
            return server.get(path, timeout_s=5)[0] == 200
        return False

    until(answers, within_s=within_s, otherwise=lambda: f"{path} is not 200: {server.log()}")


def retouch(*arguments: str) -> tuple[str, ...]:
    """The command line that runs `retouch` with this interpreter."""
    return (sys.executable, "-m", "retouch", *arguments)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any setting of Retouch, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RETOUCH_")}
    return {**kept, **(extra or {})}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_key(data: Path) -> str:
    """The secret of a new key named `test`, made by the command line."""
    command = retouch("keys", "create", "test", "--data", str(data))
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
    assert made.returncode == 0, made.stderr
    return made.stdout.strip().splitlines()[-1]
