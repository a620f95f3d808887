"""A browser and servers for the tests of the playground: Debian's Chromium, driven by Playwright.

Three servers. `demo_server` is a real `retouch serve` with the demo model, for what a person sees of an edit. `quick` and
`idle` are whole installations in the test's own process: `quick` answers at once with its input, `idle` has no worker, so
that what is submitted waits. Every test has a browser profile of its own, and a key of its own where it needs one.

Every page records what it wrote to the console and what it requested from which origin; both are checked when its
test has ended.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from retouch.accounts.keys import Keys
from retouch.engine.pipelines.null import NullPipeline
from retouch.service import ServiceSettings
from tests.harness import Deployment, gated_server
from tests.live_server import LiveServer, live_server
from tests.playground.pages import OpenPage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed (Debian: apt-get install chromium)"))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not for the whole session: as long as it lives, Playwright's event loop counts as running in this thread, and
    asynchronous tests of other folders could not start theirs.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("demo"), model="demo") as server:
        yield server


@pytest.fixture(scope="package")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Without a key, so that any caller may come."""
    with gated_server(tmp_path_factory.mktemp("quick"), pipeline=NullPipeline(), running=4) as world:
        yield world


@pytest.fixture(scope="package")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The same with keys: `key_of` makes one for a test."""
    with gated_server(tmp_path_factory.mktemp("keyed"), pipeline=NullPipeline(), running=4) as world:
        Keys(world.database).create("operator's own")
        yield world


@pytest.fixture(scope="package")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two edits of an account may wait, a third is refused."""
    settings = ServiceSettings(max_waiting_per_account=2)
    with Deployment(tmp_path_factory.mktemp("idle"), settings=settings) as world, world.server():
        Keys(world.database).create("operator's own")  # a server whose last key is revoked lets every caller in
        yield world


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Deployment]:
    """An edit stands still before each step until the gate lets it on."""
    with gated_server(tmp_path) as world:
        yield world


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Opens the playground in a fresh profile, on `demo_server` unless another url is given.

    key: what the page sends, as if it had been entered before. allowed: a part of a console message that a test
    provokes.
    """
    opened: list[tuple[Any, list[str], list[str], str | None, str]] = []

    def open_it(
        url: str | None = None, *, key: str | None = None, allowed: str | None = None, path: str = "/", **options: Any
    ) -> Page:
        server: str = url or request.getfixturevalue("demo_server").url
        context = browser.new_context(
            **{
                "viewport": {"width": 1280, "height": 900},
                "locale": "en-US",
                "color_scheme": "light",
                "reduced_motion": "reduce",
                **options,
            }
        )
        context.set_default_timeout(15_000)
        if key is not None:
            known = json.dumps(key)
            context.add_init_script(f"localStorage['retouch.key'] ??= {known}")
        page = context.new_page()
        console: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"error: {error}"))
        page.on("request", lambda request: requests.append(request.url))
        opened.append((context, console, requests, allowed, server))
        page.goto(server + path)
        return page

    yield open_it
    for context, console, requests, allowed, url in opened:
        context.close()
        assert [line for line in console if allowed is None or allowed not in line] == []
        elsewhere = [link for link in requests if not link.startswith((url, "data:", "blob:"))]
        assert elsewhere == [], f"requests that left {urlsplit(url).netloc}"
