"""The vendor's Python client with variables of the environment only, against `--tls auto`.

Each program runs in a process of its own, as the client reads its variables when it is imported.
"""

from __future__ import annotations

import json
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.live_server import LiveServer, clean_environment, free_port, live_server, retouch
from tests.sdk.fal import EDIT, TWO, photo

VENDORS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(scope="module")
def proxy_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, proxy_port: int) -> Iterator[LiveServer]:
    proxy = ("--fal-proxy", str(proxy_port))
    with live_server(tmp_path_factory.mktemp("fal-tls"), tls=True, arguments=proxy) as running:
        yield running


def printed(server: LiveServer, client: str, *more: str) -> str:
    """What `retouch env` prints."""
    command = retouch("env", client, "--tls", "auto", "--port", str(server.port), "--data", str(server.data), *more)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bare_environment() -> dict[str, str]:
    return {name: value for name, value in clean_environment().items() if name not in VENDORS and "FAL_" not in name}


def exported(text: str) -> dict[str, str]:
    """The variables a shell would have after `eval`."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    pairs = [words[1].partition("=") for words in lines if words[:1] == ["export"]]
    return {name: value for name, _, value in pairs}


def python(code: str, environment: Mapping[str, str], folder: Path) -> str:
    """What a program prints on its last line."""
    image = folder / "cat.png"
    image.write_bytes(photo())
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**bare_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip().splitlines()[-1]


FOUR_VERBS = f"""
import json, httpx, fal_client
image = fal_client.encode_file("cat.png")
edit = {{"prompt": "make it snow", "image_url": image, "seed": 7}}
words = []
answers = [
    fal_client.run({EDIT!r}, edit),
    fal_client.subscribe({EDIT!r}, edit, with_logs=True, on_queue_update=lambda s: words.append(type(s).__name__)),
    fal_client.submit({TWO!r}, {{"prompt": "p", "image_urls": [image], "seed": 7}}).get(),
    list(fal_client.stream({EDIT!r}, edit))[-1],
]
links = [each["images"][0]["url"] for each in answers]
files = [httpx.get(link) for link in links]
print(json.dumps({{
    "seeds": [each["seed"] for each in answers],
    "links": links,
    "types": [file.headers["content-type"] for file in files],
    "words": words,
}}))
"""


def test_python_comes_here_with_variables_only(server: LiveServer, tmp_path: Path):
    """Checklist 51: recipe 16.1, TLS included; the links in the answers are https and readable too."""
    returned = json.loads(python(FOUR_VERBS, exported(printed(server, "fal")), tmp_path))
    assert returned["seeds"] == [7, 7, 7, 7]
    assert returned["types"] == ["image/png"] * 4
    assert all(link.startswith(f"{server.url}/files/") for link in returned["links"])
    assert returned["words"][-1] == "Completed"


REALTIME = f"""
import fal_client
with fal_client.realtime({EDIT!r}, use_jwt=WITH_TOKEN) as connection:
    connection.send({{"prompt": "p", "image_url": fal_client.encode_file("cat.png"), "seed": 3}})
    print(connection.recv()["seed"])
"""


@pytest.mark.parametrize(("by_proxy", "with_token"), [(False, False), (True, False), (True, True)])
def test_realtime_comes_here_too(
    server: LiveServer, proxy_port: int, tmp_path: Path, *, by_proxy: bool, with_token: bool
):
    """Checklist 49 and 51: by recipe 16.1 with the key, through the proxy with a token as well."""
    more = ("--fal-proxy", str(proxy_port)) if by_proxy else ()
    code = REALTIME.replace("WITH_TOKEN", str(with_token))
    assert python(code, exported(printed(server, "fal", *more)), tmp_path) == "3"


def test_the_lines_printed_for_uploads_work(server: LiveServer, tmp_path: Path):
    """Checklist 51: what the variables do not redirect, the printed comment does."""
    text = printed(server, "fal")
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    pointing = "\n".join(line for line in lines if "client" in line and "fal.config" not in line)
    upload = "import fal_client, httpx; print(httpx.get(fal_client.upload_file('cat.png')).content == open('cat.png','rb').read())"
    assert python(f"{pointing}\n{upload}", exported(text), tmp_path) == "True"


NAME_OVERRIDE = """
import os, socket
real = socket.getaddrinfo
def here(host, port, *more, **options):
    assert host.endswith(("fal.run", "falrun.com", "fal.ai", "fal.media")), f"{host} was asked for"
    return real("127.0.0.1", int(os.environ["HERE"]), *more, **options)
socket.getaddrinfo = here
"""


def test_python_comes_here_by_the_vendors_names(server: LiveServer, tmp_path: Path):
    """Checklist 4 and 51: recipe 16.4, the names lead here, uploads included; links keep those names."""
    variables = exported(printed(server, "fal"))
    environment = {"FAL_KEY": "any", "SSL_CERT_FILE": variables["SSL_CERT_FILE"], "HERE": str(server.port)}
    upload = "\nlink = fal_client.upload_file('cat.png')\nprint(json.dumps([link, httpx.get(link).status_code, links]))"
    link, status, links = json.loads(python(NAME_OVERRIDE + FOUR_VERBS + upload, environment, tmp_path))
    assert status == 200
    assert all(each.startswith("https://v3.fal.media/files/") for each in (link, *links))


def test_python_comes_here_through_the_proxy_uploads_included(server: LiveServer, proxy_port: int, tmp_path: Path):
    """Checklist 51: recipe 16.3; variables only, and everything by the vendor's names."""
    variables = exported(printed(server, "fal", "--fal-proxy", str(proxy_port)))
    upload = "\nlink = fal_client.upload_file('cat.png')\nprint(json.dumps([link, httpx.get(link).status_code, links]))"
    link, status, links = json.loads(python(FOUR_VERBS + upload, variables, tmp_path))
    assert status == 200
    assert all(each.startswith("https://v3.fal.media/files/") for each in (link, *links))


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"CONNECT example.com:443 HTTP/1.1", b"403"),
        (b"CONNECT fal.run:80 HTTP/1.1", b"403"),
        (b"CONNECT 127.0.0.1:443 HTTP/1.1", b"403"),
        (b"CONNECT fal.run HTTP/1.1", b"403"),
        (b"CONNECT ", b"403"),
        (b"GET http://fal.run/ HTTP/1.1", b"405"),
        (b"\xff\x00", b"405"),
        (b"CONNECT " + b"a" * 9000, b""),
        (b"CONNECT FAL.run.:443 HTTP/1.1", b"200"),
    ],
)
def test_the_proxy_leads_nowhere_else(server: LiveServer, proxy_port: int, request_line: bytes, status: bytes):
    with socket.create_connection(("127.0.0.1", proxy_port), timeout=10) as raw:
        raw.sendall(request_line + b"\r\nHost: x\r\n\r\n")
        try:
            answer = raw.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert answer.partition(b" ")[2][:3] == status
    assert server.get("/health")[0] == 200
    assert "Traceback" not in server.log()


def test_a_stop_does_not_wait_for_callers_of_the_proxy(tmp_path: Path):
    port = free_port()
    arguments = ("--workers", "0", "--fal-proxy", str(port))
    with live_server(tmp_path, tls=True, ready=False, arguments=arguments) as server:
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(silent.getpeername()) as joined,
        ):
            joined.sendall(b"CONNECT fal.run:443 HTTP/1.1\r\n\r\n")
            assert b" 200 " in joined.recv(100)
            assert server.stop() == 0
            assert (silent.recv(1), joined.recv(1)) == (b"", b"")
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--fal-proxy", "PORT"), "--forward-proxy needs --tls auto"),
        (("--tls", "auto", "--port", "PORT", "--fal-proxy", "PORT"), "the proxy needs a port of its own"),
        (("--tls", "on"), "--tls is 'on'"),
    ],
)
def test_settings_that_make_no_sense_are_reported(tmp_path: Path, arguments: tuple[str, ...], sentence: str):
    port = str(free_port())
    given = [port if word == "PORT" else word for word in arguments]
    command = retouch("serve", "--data", str(tmp_path), "--model", "null", "--workers", "0", *given)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(), timeout=60)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_goes_to_the_backup_hosts_when_the_server_is_away(server: LiveServer, tmp_path: Path):
    """Checklist 52: with other host names the client knows no backup."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        code = """
import socket
names, real = set(), socket.getaddrinfo
def noting(host, *more, **options):
    names.add(host)
    return real(host, *more, **options)
socket.getaddrinfo = noting
import fal_client.client, time
fal_client.client.time.sleep = lambda seconds: None
try:
    fal_client.submit("fal-ai/qwen-image-edit", {})
except Exception as error:
    print(type(error).__name__, sorted(names))
"""
        variables = {"FAL_KEY": "any", "FAL_RUN_HOST": f"{place}/fal/run", "FAL_QUEUE_RUN_HOST": f"{place}/fal/queue"}
        assert python(code, variables, tmp_path) == "ConnectError ['127.0.0.1']"


def test_openai_and_the_printed_command_trust_it_too(server: LiveServer, tmp_path: Path):
    code = "import openai; print([model.id for model in openai.OpenAI().models.list()])"
    assert "qwen-image-edit" in python(code, exported(printed(server, "openai")), tmp_path)
    command = next(line.strip() for line in server.log().splitlines() if line.strip().startswith("curl "))
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "edited.png").stat().st_size > 0


def test_env_says_when_there_is_no_certificate_yet(tmp_path: Path):
    command = retouch("env", "fal", "--tls", "auto", "--data", str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(), timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Start 'retouch serve --tls auto'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "fal.run", "queue.fal.run", "rest.fal.ai", "v3.fal.media"])
def test_the_certificate_is_good_for_each_name(server: LiveServer, name: str):
    trust = ssl.create_default_context(cafile=server.data / "tls" / "authority.pem")
    trust.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", server.port)) as raw,
        trust.wrap_socket(raw, server_hostname=name) as it,
    ):
        assert it.version() in ("TLSv1.2", "TLSv1.3")


def test_plain_http_on_the_port_is_no_traceback(server: LiveServer):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in raw.recv(100)
    assert server.get("/health")[0] == 200
    assert "Traceback" not in server.log()
