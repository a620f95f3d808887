"""A browser and a live server for the tests of the playground: Debian's Chromium, driven by Playwright.

Every page records what it wrote to the console and what it requested from which origin; both are checked when its
test has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.live_server import LiveServer, live_server
from tests.playground.pages import OpenPage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed (Debian: apt-get install chromium)"))


@pytest.fixture(scope="module")
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
    """One server with the demo model for all tests; each page has a browser profile of its own."""
    with live_server(tmp_path_factory.mktemp("demo"), model="demo") as server:
        yield server


@pytest.fixture
def open_page(browser: Browser, demo_server: LiveServer) -> Iterator[OpenPage]:
    """Opens the playground in a fresh profile. `allowed`: a part of a console message that a test provokes."""
    opened: list[tuple[Any, list[str], list[str], str | None, str]] = []

    def open_it(url: str = demo_server.url, *, allowed: str | None = None, path: str = "/", **options: Any) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", "color_scheme": "light", **options}
        )
        context.set_default_timeout(15_000)
        page = context.new_page()
        console: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"error: {error}"))
        page.on("request", lambda request: requests.append(request.url))
        opened.append((context, console, requests, allowed, url))
        page.goto(url + path)
        return page

    yield open_it
    for context, console, requests, allowed, url in opened:
        context.close()
        assert [line for line in console if allowed is None or allowed not in line] == []
        elsewhere = [link for link in requests if not link.startswith((url, "data:", "blob:"))]
        assert elsewhere == [], f"requests that left {urlsplit(url).netloc}"
