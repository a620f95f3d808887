"""Makes the screenshots of the playground's page, and prints the bytes of its script and the time to first paint.

`make screenshots` runs it; it needs Chromium. Nothing is retouched: a real server with the demo model answers.
"""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.live_server import live_server

TARGET = Path(__file__).parent / "images" / "playground"
BUILD = Path(__file__).parents[1] / "src" / "retouch" / "server" / "playground" / "assets"

ANSWER_WITHIN_MS = 120_000
WIDE = {"width": 1360, "height": 850}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("Chromium is not installed.")
    TARGET.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        live_server(Path(folder), model="demo") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = opened(browser, server.url, WIDE)
        print(f"first contentful paint: {first_paint_ms(page):.0f} ms")
        edited(page, "make it look like an old sepia photograph")
        save(page, "light")
        edited(page, "mirror it left to right")
        entries = page.get_by_role("region", name="History").get_by_role("article")
        entries.nth(1).get_by_role("button", name="Compare").click()
        entries.nth(0).get_by_role("button", name="Compare with this").click()
        expect(page.get_by_role("img", name="Run B")).to_be_visible()
        save(page, "compare", height=1000)
        page.get_by_role("button", name="Stop comparing").click()
        page.get_by_role("spinbutton", name="How many").fill("4")
        page.get_by_role("textbox", name="Instruction").press("Enter")
        page.get_by_role("button", name="Server").click()
        page.get_by_role("button", name="Close").wait_for()
        finished = page.locator(".figure .number").nth(3)
        expect(finished).not_to_have_text("–", timeout=ANSWER_WITHIN_MS)
        save(page, "operator")
        page.context.close()

        page = opened(browser, server.url, WIDE, color_scheme="dark")
        page.get_by_role("button", name="invert the colors").click()
        edited(page, "invert the colors")
        page.get_by_role("tab", name="Code").click()
        page.get_by_role("tab", name="Python").click()
        expect(page.get_by_role("button", name="Copy")).to_be_enabled()
        save(page, "dark")
        page.context.close()

        page = opened(browser, server.url, PHONE, device_scale_factor=2, has_touch=True, is_mobile=True)
        edited(page, "make it grayscale")
        page.get_by_role("img", name="Result").scroll_into_view_if_needed()
        save(page, "phone")
        browser.close()
    for script in BUILD.glob("*.js"):
        data = script.read_bytes()
        print(f"{script.name}: {len(data)} bytes, {len(gzip.compress(data, mtime=0))} compressed")


def opened(browser: Browser, url: str, viewport: dict[str, int], **options: Any) -> Page:
    page = browser.new_context(viewport=viewport, locale="en-US", reduced_motion="reduce", **options).new_page()
    page.goto(url)
    expect(page.get_by_role("img", name="Original")).to_be_visible()
    return page


def edited(page: Page, instruction: str) -> None:
    page.get_by_role("textbox", name="Instruction").fill(instruction)
    page.get_by_role("textbox", name="Instruction").press("Enter")
    expect(page.get_by_role("img", name="Result")).to_be_visible(timeout=ANSWER_WITHIN_MS)
    expect(page.locator(".price:not(.old)")).to_be_visible()


def save(page: Page, name: str, *, height: int | None = None) -> None:
    """As JPEG: half the bytes of a PNG, and no detail of a page is lost that anybody reads."""
    page.mouse.move(0, 0)
    if height is not None:
        page.set_viewport_size({"width": WIDE["width"], "height": height})
        page.evaluate("scrollTo(0, 0)")
    data = page.screenshot()
    if height is not None:
        page.set_viewport_size(WIDE)
    Image.open(io.BytesIO(data)).convert("RGB").save(TARGET / f"{name}.jpg", quality=86, optimize=True)


def first_paint_ms(page: Page) -> float:
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


if __name__ == "__main__":
    main()
