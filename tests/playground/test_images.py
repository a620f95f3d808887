"""Images: dropped, pasted, chosen and linked; in order; marked with a mask; refused with a sentence."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.harness import Deployment
from tests.playground.pages import (
    ANSWER_WITHIN_MS,
    OpenPage,
    history,
    image_file,
    payload,
    run_edit,
    shown_pixels,
    use_small_image,
)

RED, GREEN, BLUE = (220, 40, 40), (40, 200, 60), (50, 80, 220)


def expect_order(page: Page, *names: str) -> None:
    """That the images to be sent are these files, in this order; they are loaded one after the other."""
    images = page.locator(".thumbnails img")
    expect(images).to_have_count(len(names))
    for index, name in enumerate(names):
        expect(images.nth(index)).to_have_attribute("title", name)


def hand_over(page: Page, event: str, name: str, data: bytes) -> None:
    """A paste or a drop of one file, as the browser reports it."""
    page.evaluate(
        """([type, name, text]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            const event = type === "paste"
                ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
                : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [event, name, base64.b64encode(data).decode()],
    )


def test_images_come_by_choice_paste_drop_and_link_and_keep_their_order(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_label("Images").set_input_files([payload("red.png", image_file(RED))])
    expect(page.locator(".thumbnails li")).to_have_count(1)
    expect_order(page, "red.png")  # one's own image takes the sample's place
    hand_over(page, "paste", "green.png", image_file(GREEN))
    expect(page.locator(".thumbnails li")).to_have_count(2)
    expect(page.get_by_text("qwen-image-edit takes 1 image, so the model is now qwen-image-2/edit")).to_be_visible()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("fal-ai/qwen-image-2/edit")
    hand_over(page, "drop", "blue.png", image_file(BLUE))
    expect(page.locator(".thumbnails li")).to_have_count(3)
    expect_order(page, "red.png", "green.png", "blue.png")

    page.get_by_role("button", name="Move image 3 earlier").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Image 3 is now image 2.")).to_be_attached()
    expect_order(page, "red.png", "blue.png", "green.png")
    page.locator(".thumbnails li").nth(2).drag_to(page.locator(".thumbnails li").nth(0))
    expect_order(page, "green.png", "red.png", "blue.png")
    page.get_by_role("button", name="Remove image 2").click()
    expect_order(page, "green.png", "blue.png")

    page.get_by_text("Link", exact=True).click()
    page.get_by_role("textbox", name="Link to an image").fill("https://example.com/a.png")
    page.get_by_role("button", name="Add link").click()
    expect(page.locator(".thumbnails li")).to_have_count(3)
    page.get_by_role("tab", name="JSON").click()
    body = page.get_by_role("textbox")
    expect(body).to_have_value(re.compile(r'green\.png[^,]*,\s*"[^,]*blue\.png[^,]*,\s*"https://example\.com/a\.png'))


def test_two_images_are_sent_in_their_order(open_page: OpenPage) -> None:
    page = open_page()
    use_small_image(page, image_file((150, 150, 150)), image_file(BLUE))
    page.get_by_role("button", name="use the colors of the second picture").click()
    run_edit(page, "use the colors of the second picture")
    red, _, blue = shown_pixels(page, "Result").mean((0, 1))
    assert blue > red + 40


def test_what_is_no_image_is_refused_with_a_sentence_and_nothing_is_lost(
    open_page: OpenPage, quick: Deployment
) -> None:
    page = open_page(quick.url)
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_role("textbox", name="Instruction").fill("make it blue")
    page.get_by_label("Images").set_input_files([payload("notes.png", b"not an image")])
    expect(page.get_by_text("“notes.png” is not an image that this browser can show.")).to_be_visible()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it blue")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()


def test_a_file_that_is_no_image_after_all_is_refused_beside_the_images(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, allowed="Failed to load resource")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    link = page.evaluate(
        """async () => {
            const begin = await fetch("/fal/rest/storage/upload/initiate", { method: "POST", body: "{}" });
            const { upload_url, file_url } = await begin.json();
            await fetch(upload_url, { method: "PUT", body: "half an image" });
            return file_url;
        }"""
    )
    page.get_by_role("button", name="Remove image 1").click()
    page.get_by_text("Link", exact=True).click()
    page.get_by_role("textbox", name="Link to an image").fill(link)
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="Instruction").fill("make it blue")
    page.get_by_role("textbox", name="Instruction").press("Enter")
    expect(page.locator(".inputs").get_by_role("alert")).to_contain_text(
        "is text; send one of", timeout=ANSWER_WITHIN_MS
    )
    expect(history(page).first.locator(".problem")).to_contain_text("is text")
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it blue")
    expect(page.locator(".thumbnails li")).to_have_count(1)


def test_an_image_too_large_for_the_server_is_not_even_sent(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_role("textbox", name="Instruction").fill("make it blue")
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(129 * 1024 * 1024)], "huge.png", { type: "image/png" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        }"""
    )
    expect(page.get_by_text("“huge.png” is larger than 128 MB")).to_be_visible()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it blue")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()


def test_an_image_too_large_for_the_model_is_refused_beside_the_images(open_page: OpenPage, quick: Deployment) -> None:
    """This model takes files of 10 MB."""
    noise = np.random.default_rng(0).integers(0, 256, (1900, 1900, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    page = open_page(quick.url, allowed="Failed to load resource")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_role("combobox", name="Model").select_option("fal-ai/qwen-image-2/edit")
    page.get_by_role("textbox", name="Instruction").fill("make it blue")
    page.get_by_label("Images").set_input_files([payload("noise.png", out.getvalue())])
    expect(page.get_by_text("1900 × 1900")).to_be_visible()
    page.get_by_role("textbox", name="Instruction").press("Enter")
    expect(page.locator(".inputs").get_by_role("alert")).to_contain_text("at most 10000000", timeout=ANSWER_WITHIN_MS)
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it blue")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("fal-ai/qwen-image-2/edit")


def test_a_link_to_a_file_of_this_server_becomes_an_image(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    use_small_image(page, image_file(GREEN))
    run_edit(page, "make it brighter")
    page.get_by_role("tab", name="JSON").click()
    body = page.get_by_role("textbox")
    expect(body).to_have_value(re.compile("image_urls"))  # the form's own box leaves a moment later
    link = json.loads(body.input_value())["image_urls"][0]
    page.get_by_role("tab", name="Form").click()
    page.get_by_role("button", name="Remove image 1").click()
    page.get_by_text("Link", exact=True).click()
    page.get_by_role("textbox", name="Link to an image").fill(link)
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    expect(page.locator(".thumbnails li")).to_contain_text("128 × 128")
    page.get_by_role("textbox", name="Link to an image").fill("https://example.com/far/away.png")
    page.keyboard.press("Enter")
    tile = page.locator(".thumbnails").get_by_role("img", name="Image 2")
    expect(tile).to_contain_text("away.png")
    expect(tile).to_contain_text("example.com")


def test_a_link_the_server_refuses_is_explained_beside_the_images(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, allowed="422")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_role("button", name="Remove image 1").click()
    page.get_by_text("Link", exact=True).click()
    page.get_by_role("textbox", name="Link to an image").fill("http://10.0.0.1/a.png")
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="Instruction").press("Enter")
    expect(page.locator(".inputs").get_by_role("alert")).to_contain_text("10.0.0.1", timeout=30_000)
    expect(page.get_by_role("textbox", name="Instruction")).not_to_have_value("")


def test_only_what_the_mask_marks_changes(open_page: OpenPage) -> None:
    page = open_page()
    use_small_image(page, image_file((60, 160, 200)))
    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.get_by_role("application", name="Mask")
    box = canvas.bounding_box()
    assert box is not None
    page.get_by_role("slider", name="Brush size").fill("30")
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3, steps=4)
    page.mouse.up()
    canvas.focus()
    page.keyboard.press("Space")  # a dot by keyboard, and back
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Invert", exact=True).click()
    page.get_by_role("button", name="Invert", exact=True).click()
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Masked")).to_be_visible()
    run_edit(page, "invert the colors")
    before, after = shown_pixels(page, "Original"), shown_pixels(page, "Result")
    height, width = after.shape[:2]
    change = np.abs(after - before).mean(2)
    assert change[int(height * 0.28), int(width * 0.28)] > 25
    assert change[height // 2 :, width // 2 :].max() == 0
    expect(page.get_by_role("note").get_by_text("takes no mask")).to_be_visible()


def test_a_large_image_is_shown_small_and_sent_whole(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    page.get_by_label("Images").set_input_files([payload("large.png", image_file(GREEN, (1600, 900)))])
    expect(page.get_by_text("1600 × 900")).to_be_visible()
    small = page.get_by_role("img", name="Image 1").evaluate("(image) => image.decode().then(() => image.naturalWidth)")
    assert small <= 400
    page.get_by_role("tab", name="JSON").click()
    expect(page.get_by_role("textbox")).to_have_value(re.compile("large.png"))
    link = json.loads(page.get_by_role("textbox").input_value())["image_url"]
    sent = page.evaluate("async (link) => (await createImageBitmap(await (await fetch(link)).blob())).width", link)
    assert sent == 1600
    expect(history(page)).to_have_count(0)
