"""No link of a caller makes this server connect to an address that is not globally routable.

The listener stands on 127.0.0.1 and counts what reaches it; an audit hook sees every connection this
process tries, so that "0 connections" is about the whole machine and not only about the listener. The only
thing replaced is the look-up of names.
"""

from __future__ import annotations

import gzip
import http.server
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import brotli
import httpx2
import pytest
import zstandard

from retouch.errors import ForbiddenAddress, ImageTooLarge, ImageUnreachable, InvalidRequest
from retouch.storage.addresses import OpenedAddresses, is_public
from retouch.storage.fetch import Fetcher
from retouch.storage.guard import addresses_to_try, guarded_client

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9
BOMB_BYTES = 1_000_000


def packed() -> dict[str, tuple[str, bytes]]:
    """Content-Encoding and body, by what they are."""
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = bare.compress(IMAGE) + bare.flush()
    zeros = bytes(BOMB_BYTES)
    words = ("", " ", ",", "identity", "aws-chunked", "utf-8", "UTF-8", "binary", "none", "base64", "8bit", "image/png")
    labels = ("gzip", "br", "zstd", "deflate")
    return {
        **{f"plain {word!r}": (word, IMAGE) for word in words},
        **{f"plain labelled {word}": (word, IMAGE) for word in labels},
        "packed gzip": ("gzip", gzip.compress(IMAGE)),
        "packed members": ("GZip", gzip.compress(IMAGE[:99]) + gzip.compress(IMAGE[99:]) + b"\0\0"),
        "packed x-gzip": ("x-gzip", gzip.compress(IMAGE)),
        "packed by S3": ("aws-chunked,gzip", gzip.compress(IMAGE)),
        "packed twice": ("gzip, br", brotli.compress(gzip.compress(IMAGE))),
        "packed deflate": ("deflate", zlib.compress(IMAGE)),
        "packed bare deflate": ("deflate", deflated),
        "packed br": ("br", brotli.compress(IMAGE)),
        "packed zstd": ("zstd", zstandard.compress(IMAGE)),
        "bomb gzip": ("gzip", gzip.compress(zeros)),
        "bomb deflate": ("deflate", zlib.compress(zeros)),
        "bomb br": ("br", brotli.compress(zeros)),
        "bomb zstd": ("zstd", zstandard.compress(zeros)),
        "bomb twice": ("gzip, gzip", gzip.compress(gzip.compress(zeros))),
        "bad gzip": ("gzip", gzip.compress(IMAGE)[:-20]),
        "bad br": ("br", brotli.compress(IMAGE)[:-20]),
        "bad compress": ("compress", IMAGE),
        "bad many": (",".join(["gzip"] * 9), gzip.compress(IMAGE)),
    }


tried: list[tuple] = []
"""Addresses of every connection tried by the thread under watch."""

_watched_threads: set[int] = set()


def _note_connections(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and threading.get_ident() in _watched_threads:
        tried.append(arguments[1])


sys.addaudithook(_note_connections)


@contextmanager
def watched() -> Iterator[list[tuple]]:
    tried.clear()
    _watched_threads.add(threading.get_ident())
    try:
        yield tried
    finally:
        _watched_threads.discard(threading.get_ident())


@dataclass
class Listener:
    """A web server on 127.0.0.1. Paths: `/image`, `/status/404`, `/to/<url>` and the unkind ones below."""

    port: int
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, host: str = "open.test") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with _listening(_Answers) as found:
        yield found


@contextmanager
def _listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[Listener]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    found = Listener(server.server_port)
    server.listener = found
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        listener = self.server.listener
        listener.requests.append((self.path, dict(self.headers)))
        verb, _, rest = self.path[1:].partition("/")
        with suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"answer_{verb}")(rest)

    def do_POST(self) -> None:
        self.do_GET()

    def answer_image(self, _: str) -> None:
        self._head(200, {"Content-Length": "5"})
        self.wfile.write(b"image")

    def answer_status(self, code: str) -> None:
        self._head(int(code), {"Content-Length": "6"})
        self.wfile.write(b"secret")

    def answer_to(self, target: str) -> None:
        location = unquote(target).encode().decode("latin-1")  # whatever is asked for, in UTF-8
        self._head(302, {"Location": location, "Content-Length": "0", "Set-Cookie": "a=b"})

    def answer_loop(self, count: str) -> None:
        self._head(307, {"Location": f"/loop/{int(count) + 1}", "Content-Length": "0"})

    def answer_endless(self, _: str) -> None:
        self._head(200, {})
        while not self.server.listener.stop.is_set():
            self.wfile.write(b"x" * 65536)

    def answer_claims(self, size: str) -> None:
        self._head(200, {"Content-Length": size})
        self.wfile.write(b"x")

    def answer_understates(self, size: str) -> None:
        self._head(200, {"Transfer-Encoding": "chunked"})
        self.wfile.write(b"%x\r\n" % int(size) + b"x" * int(size) + b"\r\n0\r\n\r\n")

    def answer_drip(self, _: str) -> None:
        self._head(200, {"Content-Length": "1000000"})
        while not self.server.listener.stop.wait(0.02):
            self.wfile.write(b"x")

    def answer_drip_of_headers(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.listener.stop.wait(0.02):
            self.wfile.write(b"x")

    def answer_silence(self, _: str) -> None:
        self.server.listener.stop.wait(10)

    def answer_packed(self, name: str) -> None:
        header, body = packed()[unquote(name)]
        self._head(200, {"Content-Encoding": header, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def answer_garbage(self, _: str) -> None:
        self.wfile.write(b"this is not HTTP\r\n\r\n")

    def answer_short(self, _: str) -> None:
        self._head(200, {"Content-Length": "100"})
        self.wfile.write(b"x")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Names:
    """A table of names; each look-up takes the next answer and the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(answer) for name, answer in answers.items()}
        self.looked_up: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        if host in self.answers:
            answer = self.answers[host]
            return answer.pop(0) if len(answer) > 1 else answer[0]
        # Only numbers reach the system's resolver, so that no test asks the network.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [address[0] for *_, address in found]


def open_fetcher(listener: Listener, names: Names | None = None, **limits: float) -> Fetcher:
    """A fetcher to which the operator has opened the listener under the name `open.test`."""
    names = names or Names(open_test=[["127.0.0.1"]])
    return Fetcher([f"open.test:{listener.port}"], resolver=names, **limits)


# Every spelling of this machine and of networks behind it that we know of. `{port}` is the listener's, so that
# each of the first group would reach it if it were let through.
THIS_MACHINE = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7F.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "0177.0.0.01",
    "017700000001",
    "00000000000000000000000000000177.1",
    "0",
    "0.0.0.0",
    "0.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "foo.localhost",
    "localhost.localdomain",
    "127.0.0.1.",
    "127。0。0。1",
    "127%2E0%2E0%2E1",
    "①②⑦.⓪.⓪.①",
    "ⓛocalhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::1%25lo]",
    "[::1%lo]",
    "name-of-loopback.test",
    "name-of-mapped.test",
    "name-of-zone.test",
    "name-of-two-private.test",
]
OTHER_NETWORKS = [
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "0xA9FEA9FE",
    "2852039166",
    "0251.0376.0251.0376",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.1",
    "192.0.0.8",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.1.1.",
    "198.18.0.1",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::8.8.8.8]",
    "[64:ff9b:1::a00:1]",
    "[100::1]",
    "[2001::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[2001:db8::1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:8.8.8.8]",
    "name-of-metadata.test",
    "name-of-private.test",
]


def bad_names() -> Names:
    names = Names()
    names.answers = {
        "name-of-loopback.test": [["127.0.0.1"]],
        "name-of-mapped.test": [["::ffff:127.0.0.1"]],
        "name-of-zone.test": [["fe80::1%lo"]],
        "name-of-two-private.test": [["127.0.0.1", "::1"]],
        "name-of-metadata.test": [["169.254.169.254"]],
        "name-of-private.test": [["192.168.7.7"]],
    }
    return names


@pytest.mark.parametrize("host", THIS_MACHINE + OTHER_NETWORKS)
def test_no_connection_is_made_to_an_address_that_is_not_public(listener: Listener, host: str) -> None:
    fetcher = Fetcher(resolver=bad_names())
    with watched() as connections, pytest.raises(ImageUnreachable) as caught:
        fetcher.fetch(f"http://{host}:{listener.port}/image", field="images[3]")
    assert connections == []
    assert listener.requests == []
    assert caught.value.field == "images[3]"


@pytest.mark.parametrize("host", THIS_MACHINE + OTHER_NETWORKS)
def test_no_connection_is_made_when_a_redirect_leads_there(listener: Listener, host: str) -> None:
    names = bad_names()
    names.answers["open.test"] = [["127.0.0.1"]]
    location = quote(f"http://{host}:{listener.port}/image", safe="")
    with watched() as connections, pytest.raises(ImageUnreachable):
        open_fetcher(listener, names).fetch(listener.url(f"/to/{location}"))
    assert connections == [("127.0.0.1", listener.port)]
    assert len(listener.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "10.0.0.1", "name-of-loopback.test"])
def test_the_refusal_names_the_host_and_nothing_else(listener: Listener, host: str) -> None:
    with pytest.raises(ForbiddenAddress) as caught:
        Fetcher(resolver=bad_names()).fetch(f"http://{host}:{listener.port}/image?token=secret")
    assert caught.value.code == "forbidden_address"
    assert host.strip("[]") in caught.value.message
    assert "secret" not in caught.value.message
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "url",
    [
        "http://user:password@open.test:{port}/image",
        "http://open.test:{port}@127.0.0.1:{port}/image",
        "http://127.0.0.1:{port}#@open.test:{port}/image",
        "http://127.0.0.1:{port}\\@open.test:{port}/image",
        "http://open.test:{port}/image\r\nX-Injected: 1",
        "ftp://open.test/image",
        "file:///etc/passwd",
        "gopher://open.test:{port}/",
        "unix:///run/x.sock",
        "http+unix://run/image",
        "//open.test/image",
        "http:///image",
        "http://:80/image",
        "http://[::1/image",
        "http://open.test:99999/image",
        "http://\x00/",
        "http:",
        "",
        "javascript:alert(1)",
    ],
)
def test_a_link_that_is_no_plain_web_link_is_refused_without_a_connection(listener: Listener, url: str) -> None:
    with watched() as connections, pytest.raises(ImageUnreachable):
        open_fetcher(listener).fetch(url.format(port=listener.port))
    assert connections == []
    assert listener.requests == []


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://open.test/", "http://u:p@open.test/", "http://", "", "http://["]
)
def test_a_redirect_to_something_that_is_no_web_link_is_refused(listener: Listener, location: str) -> None:
    with pytest.raises(ImageUnreachable):
        open_fetcher(listener, timeout_s=5).fetch(listener.url(f"/to/{location}"))
    assert all("/to/" in path for path, _ in listener.requests)


def test_an_opened_name_is_fetched_with_no_credentials_and_no_cookies(listener: Listener) -> None:
    assert open_fetcher(listener).fetch(listener.url(f"/to/{listener.url('/image')}")) == b"image"
    for _, headers in listener.requests:
        assert not {"Authorization", "Cookie", "Proxy-Authorization", "Referer"} & set(headers)
        assert headers["Accept-Encoding"] == "identity"


def test_a_proxy_in_the_environment_is_not_used(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    with _listening(_Answers) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert open_fetcher(listener).fetch(listener.url("/image")) == b"image"
        assert proxy.requests == []


@pytest.mark.parametrize(
    ("entry", "host", "reached"),
    [
        ("127.0.0.1:{port}", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1:1", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("127.0.0.1:{port}", "open.test", True),  # a name of the opened address is the opened address
        ("open.test", "open.test", True),
        ("OPEN.test.:{port}", "open.TEST", True),
        ("open.test", "127.0.0.1", False),
        ("open.test", "other.test", False),
        ("pen.test", "open.test", False),
        ("localhost", "localhost", True),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_the_operator_opens_addresses_one_by_one(listener: Listener, entry: str, host: str, reached: bool) -> None:
    names = Names(open_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]], localhost=[["127.0.0.1"]])
    fetcher = Fetcher([entry.format(port=listener.port)], resolver=names)
    if reached:
        assert fetcher.fetch(listener.url("/image", host)) == b"image"
    else:
        with watched() as connections, pytest.raises(ForbiddenAddress):
            fetcher.fetch(listener.url("/image", host))
        assert connections == []
    assert len(listener.requests) == reached


@pytest.mark.parametrize(
    "entry", ["", "http://x", "x/y", "x:0", "x:70000", "u@x", "x:y", "[::1", "::1::", "[x]:1", "a:b:c:d"]
)
def test_an_entry_that_names_no_address_is_refused(entry: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Fetcher([entry])
    assert caught.value.field == "allow_private"


def test_an_entry_may_be_ipv6() -> None:
    opened = OpenedAddresses.parse(["[::1]:8000", "fd00:0:0::7", "[fd00::8]"])
    assert opened.include("::1", 8000)
    assert opened.include("[0:0:0:0:0:0:0:1]", 8000)
    assert not opened.include("::1", 80)
    assert opened.include("fd00::7", 1)
    assert opened.include("fd00::8", 1)


def test_a_name_that_changes_its_answer_is_looked_up_once_and_reached_where_it_was_judged(listener: Listener) -> None:
    names = Names(open_test=[["127.0.0.1"]], rebinds_test=[["127.0.0.1"], ["127.0.0.9"]])
    fetcher = Fetcher([f"127.0.0.1:{listener.port}"], resolver=names)
    with watched() as connections:
        assert fetcher.fetch(listener.url("/image", "rebinds.test")) == b"image"
    assert names.looked_up == ["rebinds.test"]
    assert connections == [("127.0.0.1", listener.port)]
    with watched() as connections, pytest.raises(ForbiddenAddress):
        fetcher.fetch(listener.url("/image", "rebinds.test"))
    assert connections == []


def test_a_name_that_turns_private_between_two_hops_is_refused_at_the_second(listener: Listener) -> None:
    names = Names(rebinds_test=[["127.0.0.1"], ["127.0.0.9"]])
    fetcher = Fetcher([f"127.0.0.1:{listener.port}"], resolver=names)
    with watched() as connections, pytest.raises(ForbiddenAddress):
        fetcher.fetch(listener.url("/to//image", "rebinds.test"))
    assert connections == [("127.0.0.1", listener.port)]


def test_of_a_names_addresses_only_the_public_ones_are_tried() -> None:
    names = Names(mixed_test=[["10.0.0.1", "93.184.216.34", "::1", "2606:4700::1111", "127.0.0.1"]])
    assert addresses_to_try("mixed.test", 80, OpenedAddresses(), names) == ("93.184.216.34", "2606:4700::1111")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "1.1.1.1", "100.63.255.255", "172.32.0.1", "223.255.255.1"]
)
def test_ordinary_ipv4_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:4860:4860::8888", "2400::1"]
)
def test_ordinary_ipv6_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_the_next_address_is_tried_when_the_first_does_not_answer(listener: Listener) -> None:
    names = Names(open_test=[["127.0.0.9", "127.0.0.1"]])
    assert open_fetcher(listener, names).fetch(listener.url("/image")) == b"image"


def test_redirects_are_followed_up_to_the_limit(listener: Listener) -> None:
    fetcher = open_fetcher(listener, max_redirects=3)
    with pytest.raises(ImageUnreachable, match="more than 3"):
        fetcher.fetch(listener.url("/loop/0"))
    assert [path for path, _ in listener.requests] == ["/loop/0", "/loop/1", "/loop/2", "/loop/3"]


def test_a_body_without_an_end_is_cut_at_the_limit(listener: Listener) -> None:
    with pytest.raises(ImageTooLarge) as caught:
        open_fetcher(listener, max_bytes=100_000).fetch(listener.url("/endless"), field="mask")
    assert caught.value.context == {"max_bytes": 100_000}
    assert caught.value.field == "mask"


@pytest.mark.parametrize("path", ["/claims/1000000", "/understates/200000"])
def test_the_declared_length_is_neither_needed_nor_trusted(listener: Listener, path: str) -> None:
    with pytest.raises(ImageTooLarge):
        open_fetcher(listener, max_bytes=100_000).fetch(listener.url(path))


def test_a_body_of_exactly_the_limit_is_taken(listener: Listener) -> None:
    assert open_fetcher(listener, max_bytes=5).fetch(listener.url("/image")) == b"image"


@pytest.mark.parametrize("path", ["/drip", "/drip_of_headers", "/silence"])
def test_a_server_that_drips_or_says_nothing_is_left_at_the_deadline(listener: Listener, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(ImageUnreachable, match=r"within 0\.3 seconds"):
        open_fetcher(listener, timeout_s=0.3).fetch(listener.url(path))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", [name for name in packed() if name.startswith(("plain ", "packed "))])
def test_whatever_its_content_encoding_says_an_image_arrives_as_it_is(listener: Listener, name: str) -> None:
    assert open_fetcher(listener).fetch(listener.url(f"/packed/{quote(name)}")) == IMAGE


@pytest.mark.parametrize("name", [name for name in packed() if name.startswith("bomb ")])
def test_a_body_is_unpacked_within_the_limit_of_bytes(listener: Listener, name: str) -> None:
    with pytest.raises(ImageTooLarge) as caught:
        open_fetcher(listener, max_bytes=BOMB_BYTES - 1).fetch(listener.url(f"/packed/{quote(name)}"))
    assert caught.value.context == {"max_bytes": BOMB_BYTES - 1}
    assert len(open_fetcher(listener, max_bytes=BOMB_BYTES).fetch(listener.url(f"/packed/{quote(name)}"))) == BOMB_BYTES


@pytest.mark.parametrize("name", [name for name in packed() if name.startswith("bad ")])
def test_a_body_that_cannot_be_unpacked_is_an_unreachable_image(listener: Listener, name: str) -> None:
    with pytest.raises(ImageUnreachable, match="cannot be unpacked"):
        open_fetcher(listener).fetch(listener.url(f"/packed/{quote(name)}"))


@pytest.mark.parametrize("path", ["/garbage", "/short"])
def test_a_server_that_breaks_the_protocol_is_an_unreachable_image(listener: Listener, path: str) -> None:
    with pytest.raises(ImageUnreachable, match="could not be reached"):
        open_fetcher(listener).fetch(listener.url(path))


@pytest.mark.parametrize("status", [201, 204, 304, 400, 404, 500])
def test_a_bad_answer_is_reported_by_its_status_without_its_content(listener: Listener, status: int) -> None:
    with pytest.raises(ImageUnreachable) as caught:
        open_fetcher(listener).fetch(listener.url(f"/status/{status}"))
    assert str(status) in caught.value.message
    assert "secret" not in caught.value.message


def test_an_unknown_name_is_an_unreachable_image() -> None:
    def unknown_name(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(ImageUnreachable, match=r"nowhere\.test"):
        Fetcher(resolver=unknown_name).fetch("http://nowhere.test/image")
    with pytest.raises(ImageUnreachable):
        Fetcher().fetch(f"http://{'a' * 300}.test/image")


def test_a_port_without_a_listener_is_an_unreachable_image(listener: Listener) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ImageUnreachable, match="could not be reached"):
            Fetcher(["127.0.0.1"]).fetch(f"http://127.0.0.1:{port}/")


def test_what_needs_no_look_up_can_be_refused_when_the_link_is_handed_in() -> None:
    names = Names()
    fetcher = Fetcher(resolver=names)
    fetcher.check("https://example.com/cat.png")
    with pytest.raises(ForbiddenAddress) as caught:
        fetcher.check("http://169.254.169.254/latest/meta-data", field="mask")
    assert caught.value.field == "mask"
    assert names.looked_up == []


def test_the_guarded_client_posts_and_is_guarded_too(listener: Listener) -> None:
    names = Names(open_test=[["127.0.0.1"]], closed_test=[["127.0.0.1"]])
    opened = OpenedAddresses.parse(["open.test"])
    with guarded_client(opened, timeout_s=5, resolver=names) as client:
        assert client.post(listener.url("/image"), content=b"{}").status_code == 200
        with watched() as connections, pytest.raises(ForbiddenAddress):
            client.post(listener.url("/image", "closed.test"), content=b"{}")
        assert connections == []
        assert client.post(listener.url("/to/http://10.0.0.1/"), content=b"{}").status_code == 302


def test_the_guarded_client_ends_at_its_deadline(listener: Listener) -> None:
    opened = OpenedAddresses.parse(["127.0.0.1"])
    with guarded_client(opened, timeout_s=0.3) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(listener.url("/drip", "127.0.0.1"), content=b"{}")
