"""The page as a newcomer meets it: an image and an instruction are there, Enter makes an edit."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from tests.playground.pages import ANSWER_WITHIN_MS, OpenPage, history, run_edit, shown_pixels, use_small_image

ROOT = Path(__file__).parents[2]


def test_one_key_press_edits_the_sample(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_role("textbox", name="Instruction")).to_be_focused()
    expect(page.get_by_role("img", name="Original")).to_be_visible()
    expect(page.get_by_role("img", name="Result")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text(
        re.compile(r"Step \d of \d|Making the image"), timeout=ANSWER_WITHIN_MS
    )
    expect(page.get_by_role("img", name="Result")).to_be_visible(timeout=ANSWER_WITHIN_MS)
    expect(page.get_by_role("slider", name="Before and after")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(history(page)).to_have_count(1)
    original, sepia = shown_pixels(page, "Original"), shown_pixels(page, "Result")
    spread = [np_image[..., 0].astype(float) - np_image[..., 2] for np_image in (original, sepia)]
    assert spread[1].min() > spread[0].min(), "sepia has no bluish pixel left"
    assert spread[1].std() < spread[0].std()


def test_an_answer_that_changed_nothing_says_what_the_model_can_do(open_page: OpenPage) -> None:
    page = open_page()
    use_small_image(page)
    run_edit(page, "add a hat")
    note = page.get_by_role("note").filter(has_text="nearly as it was")
    expect(note).to_be_visible()
    note.get_by_role("button", name="invert the colors").click()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("invert the colors")
    page.get_by_role("textbox", name="Instruction").press("Enter")
    expect(history(page)).to_have_count(2)
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    expect(note).to_have_count(0)


def test_the_demo_suggestions_are_edits_of_its_model_card() -> None:
    card = (ROOT / "src/retouch/demo_model/README.md").read_text().partition("## What it does not do")[0].lower()
    source = (ROOT / "playground/src/suggestions.ts").read_text().partition("const LARGE")[0]
    english = re.findall(r'"([a-z][a-z0-9 ]{9,})"', source.partition("zh: {")[0])
    assert len(english) >= 10
    known = {
        "sepia": "sepia", "grayscale": "grayscale", "invert": "invert", "warmer": "warmer", "mirror": "mirror",
        "180": "turn by 180", "border": "border", "pixelate": "pixelate", "square": "square", "vignette": "vignette",
        "saturated": "saturation", "second picture": "second picture",
    }  # fmt: skip
    for sentence in english:
        word = next((part for part in known if part in sentence), None)
        assert word is not None, sentence
        assert known[word] in card, sentence
