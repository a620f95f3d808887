"""Makes the screenshots of the playground's page, and prints the bytes of its script and the time to first paint.

`make screenshots` runs it; it needs Chromium. Nothing is retouched: a real server with the demo model answers.
"""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.live_server import LiveServer, clean_environment, live_server, retouch

TARGET = Path(__file__).parent / "images" / "playground"
BUILD = Path(__file__).parents[1] / "src" / "retouch" / "server" / "playground" / "assets"

SAMPLE = Path(__file__).parents[1] / "src" / "retouch" / "samples" / "cat.jpg"

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
        page.context.close()

        operator_view(browser, server)
        browser.close()
    for script in BUILD.glob("*.js"):
        data = script.read_bytes()
        print(f"{script.name}: {len(data)} bytes, {len(gzip.compress(data, mtime=0))} compressed")


def operator_view(browser: Browser, server: LiveServer) -> None:
    """The live figures while two keys have edits made; from here on the server needs a key."""
    keys = {name: new_key(server, name) for name in ("studio", "anna")}
    page = browser.new_context(viewport=WIDE, locale="en-US", reduced_motion="reduce").new_page()
    page.goto(server.url)
    page.get_by_label("API key").fill(new_key(server, "me", "--operator"))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Server").click()
    page.get_by_role("region", name="Usage by key").wait_for()
    for name in ("studio", "studio", "anna", "studio", "studio", "anna", "studio"):
        submit(server, keys[name])
        page.wait_for_timeout(1500)  # so that the lines have a shape
    row = page.get_by_role("row").filter(has_text="studio")
    expect(row.get_by_role("cell").first).to_have_text("5", timeout=ANSWER_WITHIN_MS)
    save(page, "operator")
    page.context.close()


def new_key(server: LiveServer, name: str, *options: str) -> str:
    command = retouch("keys", "create", name, *options, "--data", str(server.data))
    made = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment())  # noqa: S603
    return made.stdout.strip().splitlines()[-1]


def submit(server: LiveServer, key: str) -> None:
    sample = base64.b64encode(SAMPLE.read_bytes()).decode()
    body = {
        "prompt": "make it warmer",
        "image_url": f"data:image/jpeg;base64,{sample}",
        "image_size": {"width": 256, "height": 176},
    }
    url = f"{server.url}/fal/queue/fal-ai/qwen-image-edit"
    httpx2.post(url, json=body, headers={"authorization": f"Key {key}"}).raise_for_status()


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
    """As JPEG: half the bytes of a PNG, and no detail of a page is lost that can be read."""
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
