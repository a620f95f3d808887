"""For everyone: screen readers, keyboards, a phone, light and dark, English and Chinese."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.harness import Deployment
from tests.playground.pages import OpenPage, history, image_file, payload, run_edit, use_small_image

PLAYGROUND = Path(__file__).parents[2] / "playground"
AXE = PLAYGROUND / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, installed by npm where it is not there yet."""
    if not AXE.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed, which brings axe-core")
        command = [npm, "ci", "--ignore-scripts", "--no-progress"]
        installed = subprocess.run(command, cwd=PLAYGROUND, capture_output=True, text=True, check=False, timeout=240)
        assert installed.returncode == 0, installed.stderr
    return AXE.read_text()


def violations(page: Page, *, colours: bool = False) -> list[str]:
    """What axe finds serious or worse, as readable lines. colours: in contrast only."""
    options = {"runOnly": {"type": "rule", "values": ["color-contrast"]}} if colours else {}
    found: list[dict[str, Any]] = page.evaluate(
        "(options) => axe.run(options).then((result) => result.violations)", options
    )
    return [
        f"{violation['impact']} {violation['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def test_axe_finds_nothing_serious_in_light_and_dark(open_page: OpenPage, quick: Deployment, axe: str) -> None:
    page = open_page(quick.url, bypass_csp=True)  # axe is put in by the test, which the policy forbids
    use_small_image(page)
    page.get_by_text("More settings").click()
    run_edit(page, "add a hat")
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        dark = scheme == "dark"  # the other rules do not look at colours
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert violations(page, colours=dark) == []
        for name in ("JSON", "Code", "Form"):
            page.get_by_role("tab", name=name).click()
            assert violations(page, colours=dark) == []
        for button, close in (("Paint a mask", "Done"), ("Server", "Close"), ("Key", "Close")):
            page.get_by_role("button", name=button).click()
            if button == "Server":
                expect(page.locator("figure.figure")).to_have_count(3)
                expect(page.get_by_role("region", name="Usage by key").get_by_role("row")).not_to_have_count(0)
            assert violations(page, colours=dark) == []
            page.get_by_role("button", name=close).first.click()


def test_everything_of_an_edit_can_be_done_by_keyboard(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    use_small_image(page)
    page.get_by_role("textbox", name="Instruction").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("make it cooler")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=60_000)
    page.get_by_role("tab", name="Form").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="JSON")).to_be_focused()
    expect(page.get_by_role("tab", name="JSON")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Code")).to_be_focused()
    slider = page.get_by_role("slider", name="Before and after")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > 50
    history(page).first.get_by_role("button", name="Use as input").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name="Result")).to_have_count(0)


def test_a_phone_shows_everything_without_scrolling_sideways(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
    use_small_image(page)
    run_edit(page, "invert the colors")
    for _ in range(2):
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 375
        page.get_by_role("tab", name="Code").click()
    expect(page.get_by_role("button", name="Edit")).to_be_in_viewport()


def test_dark_follows_the_system_and_can_be_chosen(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, color_scheme="dark")
    lightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert page.evaluate(lightness) < 60
    page.get_by_role("button", name="Appearance: Auto").click()
    assert page.evaluate(lightness) > 200
    page.reload()
    expect(page.get_by_role("button", name="Appearance: Light")).to_be_visible()
    assert page.evaluate(lightness) > 200


def test_the_page_speaks_chinese(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, locale="zh-CN")
    expect(page.get_by_role("textbox", name="指令")).to_have_value("做成复古的棕褐色照片")
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_role("combobox", name="模型").select_option("fal-ai/qwen-image-2/edit")
    page.get_by_label("图片", exact=True).set_input_files([payload("1.png", image_file())])
    expect(page.get_by_text("128 × 128")).to_be_visible()
    page.get_by_role("button", name="开始编辑").click()
    expect(page.get_by_role("status")).to_contain_text("完成", timeout=60_000)
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("button", name="Edit")).to_be_visible()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it look like an old sepia photograph")
