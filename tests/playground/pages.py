"""What the tests of the playground do on a page: small images, one edit, the pixels on the screen."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from retouch.accounts.keys import Keys
from tests.harness import Deployment

ANSWER_WITHIN_MS = 60_000

KEEPS_SIZE = "fal-ai/qwen-image-2/edit"
"""The endpoint whose answer has the input's own size: a small image is edited in a second."""

OpenPage = Callable[..., Page]


def image_file(colour: tuple[int, int, int] = (200, 60, 40), size: tuple[int, int] = (128, 128)) -> bytes:
    """A PNG with a soft gradient of one colour, so that an edit has something to change."""
    width, height = size
    ramp = np.linspace(0.35, 1.0, width)[None, :, None] * np.linspace(0.6, 1.0, height)[:, None, None]
    pixels = (ramp * np.array(colour)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def payload(name: str, data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """A file as the chooser hands it over."""
    return {"name": name, "mimeType": media_type, "buffer": data}


def use_small_image(page: Page, *images: bytes) -> None:
    """One's own small image in place of the sample, on the endpoint that keeps its size."""
    files = [payload(f"{n}.png", data) for n, data in enumerate(images or (image_file(),), 1)]
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_role("combobox", name="Model").select_option(KEEPS_SIZE)
    page.get_by_label("Images").set_input_files(files)
    expect(page.locator(".thumbnails li")).to_have_count(len(files))


def run_edit(page: Page, instruction: str) -> None:
    """Say what to change, press Enter, wait for the answer."""
    box = page.get_by_role("textbox", name="Instruction")
    box.fill(instruction)
    before = history(page).count()
    box.press("Enter")
    expect(history(page)).to_have_count(before + 1)
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    expect(page.get_by_role("img", name="Result")).to_be_visible()


def history(page: Page) -> Any:
    return page.get_by_role("region", name="History").get_by_role("article")


def shown_pixels(page: Page, name: str) -> np.ndarray[Any, Any]:
    """The pixels of the image with that name, at its own size, as (height, width, 3)."""
    image = page.get_by_role("img", name=name, exact=True)
    expect(image).to_be_visible()
    data = image.evaluate("async (image) => [...new Uint8Array(await (await fetch(image.src)).arrayBuffer())]")
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB")).astype(np.int16)


def key_of(world: Deployment, name: str | None = None) -> str:
    """A key of an account of its own, so that a test sees its own runs only."""
    return Keys(world.database).create(name or f"test-{secrets.token_hex(4)}")


@contextmanager
def no_network(page: Page) -> Iterator[None]:
    """The browser cannot reach the server, as when a cable is pulled."""
    page.context.set_offline(True)
    yield
    page.context.set_offline(False)
