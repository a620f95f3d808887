"""The runs that were made: filtered, exported, deleted, and those that the key has made elsewhere."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from retouch.accounts.keys import Keys
from retouch.jobs.job import JobState
from tests.harness import Deployment
from tests.playground.pages import (
    ANSWER_WITHIN_MS,
    OpenPage,
    history,
    image_file,
    key_of,
    no_network,
    run_edit,
    shown_pixels,
    use_small_image,
)
from tests.waiting import until


def test_history_is_filtered_exported_deleted_and_opened_again(
    open_page: OpenPage, quick: Deployment, tmp_path: Path
) -> None:
    page = open_page(quick.url)
    use_small_image(page, image_file((90, 90, 200)))
    for instruction in ("make it brighter", "make it darker", "make it cooler", "invert the colors"):
        run_edit(page, instruction)
    answer = shown_pixels(page, "Result")
    page.get_by_role("searchbox", name="Filter").fill("darker")
    expect(history(page)).to_have_count(1)
    page.get_by_role("searchbox", name="Filter").fill("")
    with page.expect_download() as download:
        history(page).first.get_by_role("button", name="Export").click()
    file = tmp_path / "run.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["run"]["draft"]["prompt"] == "invert the colors"
    while history(page).count():
        left = history(page).count()
        history(page).first.get_by_role("button", name="Delete").click()
        expect(history(page)).to_have_count(left - 1)
    page.reload()
    expect(page.get_by_text("stays in this browser")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a file").click()
    chooser.value.set_files(file)
    expect(history(page)).to_have_count(1)
    expect(history(page).first).to_contain_text("invert the colors")
    assert np.array_equal(shown_pixels(page, "Result"), answer)


def test_what_a_key_has_made_is_there_in_another_browser(open_page: OpenPage, keyed: Deployment) -> None:
    key = key_of(keyed)
    first = open_page(keyed.url, key=key)
    use_small_image(first, image_file((90, 90, 200)))
    first.get_by_role("spinbutton", name="How many").fill("2")
    first.get_by_role("spinbutton", name="Seed").fill("41")
    run_edit(first, "make it brighter")
    answer = shown_pixels(first, "Result")

    other = open_page(keyed.url, key=key)
    expect(history(other)).to_have_count(1)
    run = history(other).first
    expect(run).to_contain_text("make it brighter")
    expect(run).to_contain_text("made elsewhere")
    expect(run).to_contain_text("Seed 41")
    width = "(image) => image.decode().then(() => image.naturalWidth)"
    assert run.locator("img").evaluate(width) == 128
    expect(other.get_by_role("img", name="Result")).to_have_count(0)
    run.get_by_role("button", name="Show this run").click()
    assert np.array_equal(shown_pixels(other, "Result"), answer)
    expect(other.get_by_role("img", name="Original")).to_be_visible()
    expect(other.get_by_role("button", name="Seed 42")).to_be_visible()
    expect(run).not_to_contain_text("made elsewhere")
    run.get_by_role("button", name="Same again").click()
    expect(history(other)).to_have_count(2)
    expect(other.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    other.reload()
    expect(history(other)).to_have_count(2)

    stranger = open_page(keyed.url, key=key_of(keyed))
    expect(stranger.get_by_text("what this key has made in other browsers")).to_be_visible()
    expect(history(stranger)).to_have_count(0)


def test_a_long_history_comes_in_pages(open_page: OpenPage, idle: Deployment) -> None:
    keys = Keys(idle.database)
    key = keys.create("many")
    account = keys.verify(key)
    for number in range(50):
        request = urllib.request.Request(
            f"{idle.url}/fal/queue/fal-ai/qwen-image-edit",
            json.dumps({"prompt": f"edit {number}", "image_url": "https://example.com/cat.png"}).encode(),
            {"authorization": f"Key {key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            idle.service.cancel(account, json.load(answer)["request_id"])
    page = open_page(idle.url, key=key)
    expect(history(page)).to_have_count(48)
    expect(history(page).first).to_contain_text("edit 49")
    expect(history(page).first.locator(".linked")).to_contain_text("cat.png")
    page.get_by_role("button", name="Show older").click()
    expect(history(page)).to_have_count(50)
    expect(page.get_by_role("button", name="Show older")).to_have_count(0)
    expect(history(page).last).to_contain_text("edit 0")


@pytest.mark.parametrize("away", [False, True])
def test_a_deleted_run_is_gone_from_the_server_too_even_if_that_was_away(
    open_page: OpenPage, keyed: Deployment, away: bool
) -> None:
    key = key_of(keyed)
    page = open_page(keyed.url, key=key, allowed="ERR_INTERNET_DISCONNECTED")
    use_small_image(page)
    run_edit(page, "make it brighter")
    (job,) = keyed.service.recent(Keys(keyed.database).verify(key), 2)
    link = result_of(keyed, job.id, key)["images"][0]["url"]
    if away:
        with no_network(page):
            history(page).first.get_by_role("button", name="Delete").click()
            expect(page.get_by_text("1 run waits to be deleted on the server")).to_be_visible()
    else:
        history(page).first.get_by_role("button", name="Delete").click()
    expect(history(page)).to_have_count(0)
    until(lambda: is_gone(link))
    assert keyed.job(job.id).payload_deleted
    expect(page.get_by_text("waits to be deleted")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    expect(history(page)).to_have_count(0)


def test_a_run_that_waits_is_cancelled_before_it_is_deleted(open_page: OpenPage, idle: Deployment) -> None:
    key = key_of(idle)
    page = open_page(idle.url, key=key)
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("status")).to_contain_text("in the queue")
    (job,) = idle.service.recent(Keys(idle.database).verify(key), 2)
    history(page).first.get_by_role("button", name="Delete").click()
    expect(history(page)).to_have_count(0)
    until(lambda: idle.job(job.id).payload_deleted)
    assert idle.state(job.id) is JobState.CANCELLED


def is_gone(link: str) -> bool:
    try:
        urllib.request.urlopen(link).close()
    except urllib.error.HTTPError as error:
        return error.code == 404
    return False


def result_of(world: Deployment, request_id: str, key: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{world.url}/fal/queue/fal-ai/auto/requests/{request_id}", headers={"authorization": f"Key {key}"}
    )
    with urllib.request.urlopen(request) as answer:
        return dict(json.load(answer))
