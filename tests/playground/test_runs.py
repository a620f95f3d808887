"""A run while it goes, when it is done, beside another, and after a reload."""

from __future__ import annotations

import re

import numpy as np
from playwright.sync_api import Route, expect

from tests.harness import Deployment
from tests.playground.pages import (
    ANSWER_WITHIN_MS,
    OpenPage,
    history,
    run_edit,
    shown_pixels,
    use_small_image,
)


def test_a_run_shows_its_steps_and_previews_and_can_be_cancelled(open_page: OpenPage, gated: Deployment) -> None:
    page = open_page(gated.url)
    page.get_by_role("spinbutton", name="Steps").fill("20")
    page.get_by_role("button", name="Edit").click()
    status = page.get_by_role("status")
    gated.gate.let(3)
    expect(status).to_have_text(re.compile(r"Step 3 of 20, (about \d+ s|a moment) left\."), timeout=ANSWER_WITHIN_MS)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "15")
    gated.gate.let(2)
    expect(page.get_by_role("img", name="Preview of the edit")).to_be_visible(timeout=ANSWER_WITHIN_MS)
    page.get_by_role("button", name="Edit").click()
    expect(status).to_contain_text("queue")
    page.get_by_role("button", name="Cancel").click()
    expect(status).to_contain_text("Cancelled.")
    history(page).nth(1).get_by_role("button", name="Show this run").click()
    held: list[Route] = []  # so that the server does not answer before "Stopping" was seen
    page.route("**/cancel", lambda route: held.append(route))  # noqa: PLW0108 - it marks the function
    page.get_by_role("button", name="Cancel").click()
    expect(status).to_contain_text("Stopping")
    held.pop().continue_()
    expect(status).to_contain_text("Cancelled.", timeout=ANSWER_WITHIN_MS)
    gated.gate.open()
    expect(page.get_by_role("textbox", name="Instruction")).not_to_have_value("")


def test_original_and_result_are_compared_by_slider_side_by_side_and_difference(
    open_page: OpenPage, quick: Deployment
) -> None:
    page = open_page(quick.url)
    use_small_image(page)
    run_edit(page, "invert the colors")
    slider, after = page.get_by_role("slider", name="Before and after"), page.locator(".layer.after")
    slider.focus()
    page.keyboard.press("Home")
    assert "0%" in (after.get_attribute("style") or "")
    box = page.locator(".viewer").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=5)
    page.mouse.up()
    share = float(slider.input_value())
    assert 72 < share < 78, "the slider is where the pointer is"

    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom in").click()
    moves = [
        page.get_by_role("img", name=name).evaluate("(image) => image.style.transform")
        for name in ("Original", "Result")
    ]
    assert moves[0] == moves[1]
    assert "scale(2.25)" in moves[0]
    page.get_by_role("group", name="Canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert "translate(60px" in page.get_by_role("img", name="Result").evaluate("(image) => image.style.transform")
    page.keyboard.press("0")

    page.get_by_role("button", name="Side by side").click()
    left, right = (page.get_by_role("img", name=name).bounding_box() for name in ("Original", "Result"))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"] + 2
    page.get_by_role("button", name="Difference").click()
    assert after.evaluate("(layer) => getComputedStyle(layer).mixBlendMode") == "difference"


def test_several_seeds_are_a_grid_of_answers(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    use_small_image(page)
    page.get_by_role("spinbutton", name="How many").fill("3")
    page.get_by_role("spinbutton", name="Seed").fill("41")
    run_edit(page, "make it warmer")
    for seed in (41, 42, 43):
        expect(page.get_by_role("button", name=f"Seed {seed}")).to_be_visible()
    page.get_by_role("button", name="Grid").click()
    page.get_by_role("button", name="Seed 43").click()
    page.get_by_role("button", name="Slider").click()
    expect(page.get_by_role("button", name="Seed 43")).to_have_attribute("aria-pressed", "true")


def test_an_answer_becomes_the_input_and_a_run_is_made_again_and_compared(
    open_page: OpenPage, quick: Deployment
) -> None:
    page = open_page(quick.url)
    use_small_image(page)
    run_edit(page, "invert the colors")
    first = shown_pixels(page, "Result")
    history(page).first.get_by_role("button", name="Same again").click()
    expect(history(page)).to_have_count(2)
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    history(page).first.get_by_role("button", name="Use as input").click()
    expect(page.get_by_role("img", name="Result")).to_have_count(0)
    run_edit(page, "make it grayscale")
    assert np.abs(shown_pixels(page, "Original") - first).max() <= 2
    page.get_by_role("spinbutton", name="Seed").fill("7")

    entries = history(page)
    entries.nth(0).get_by_role("button", name="Compare").click()
    entries.nth(2).get_by_role("button", name="Compare with this").click()
    expect(page.get_by_role("img", name="Run A")).to_be_visible()
    expect(page.get_by_role("img", name="Run B")).to_be_visible()
    marked = page.locator("tr.changed th").all_inner_texts()
    assert any("Instruction" in name for name in marked)
    assert any("Images" in name for name in marked)
    assert not any("Model" in name for name in marked)
    page.get_by_role("button", name="Stop comparing").click()
    expect(page.get_by_role("img", name="Result")).to_be_visible()


def test_a_reload_in_the_middle_of_an_edit_loses_nothing(open_page: OpenPage, gated: Deployment) -> None:
    page = open_page(gated.url)
    page.get_by_role("spinbutton", name="Steps").fill("12")
    page.get_by_role("combobox", name="Size").select_option("custom")
    page.get_by_role("spinbutton", name="Width").fill("256")
    page.get_by_role("spinbutton", name="Height").fill("176")
    page.get_by_role("textbox", name="Instruction").fill("make it look like an old sepia photograph")
    page.keyboard.press("Enter")
    gated.gate.let(4)
    expect(page.get_by_role("status")).to_contain_text("Step 4 of 12", timeout=ANSWER_WITHIN_MS)
    page.get_by_role("textbox", name="Instruction").fill("half a sentence")
    page.reload()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("half a sentence")
    expect(page.get_by_role("spinbutton", name="Steps")).to_have_value("12")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    expect(history(page)).to_have_count(1)
    expect(page.get_by_role("status")).to_contain_text("Step 4 of 12")
    gated.gate.open()
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    assert shown_pixels(page, "Result").shape == (176, 256, 3)
    page.reload()
    expect(page.get_by_role("img", name="Result")).to_be_visible()
