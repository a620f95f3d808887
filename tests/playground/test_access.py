"""Keys, a server that is away or refuses, a cancel by another program, and the operator's view."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.live_server import LiveServer, clean_environment, live_server, retouch
from tests.playground.pages import ANSWER_WITHIN_MS, OpenPage, history, no_network, run_edit, use_small_image


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One that needs a key; the model that answers at once is enough for it."""
    with live_server(tmp_path_factory.mktemp("locked"), model="null", key=True) as server:
        yield server


def test_a_server_with_keys_asks_for_one_and_takes_it(open_page: OpenPage, locked_server: LiveServer) -> None:
    page = open_page(locked_server.url, allowed="401")
    dialog = page.get_by_role("dialog", name="This server needs a key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not accepted")
    assert locked_server.key is not None
    dialog.get_by_label("API key").fill(locked_server.key)
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    run_edit(page, "make it brighter")
    page.reload()
    expect(page.get_by_role("img", name="Result")).to_be_visible()
    run_edit(page, "make it darker")
    page.get_by_role("button", name="Key").click()
    page.get_by_role("dialog").get_by_label("API key").fill("revoked")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("not accepted")


def test_a_lost_server_is_waited_for_and_nothing_is_lost(open_page: OpenPage) -> None:
    page = open_page(allowed="ERR_INTERNET_DISCONNECTED")
    use_small_image(page)
    page.get_by_role("textbox", name="Instruction").fill("make it warmer")
    with no_network(page):
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("does not answer")
        expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it warmer")
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    expect(history(page)).to_have_count(1)


def test_a_key_revoked_while_an_edit_waits_is_asked_for_again(
    open_page: OpenPage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("revoked")
    with live_server(data, model="null", key=True, ready=False, arguments=("--workers", "0")) as server:
        # Another key stays: without any, a server on this machine would let everybody in.
        keys = [
            retouch("keys", action, name, "--data", str(data))
            for action, name in (("create", "other"), ("revoke", "test"))
        ]
        subprocess.run(keys[0], check=True, env=clean_environment(), stdout=subprocess.DEVNULL)
        page = open_page(server.url, allowed="401")
        assert server.key is not None
        page.get_by_label("API key").fill(server.key)
        page.keyboard.press("Enter")
        for ahead in ("Next in the queue", "1 edit ahead"):
            page.get_by_role("button", name="Edit").click()
            expect(page.get_by_role("status")).to_contain_text(ahead)
        subprocess.run(keys[1], check=True, env=clean_environment(), stdout=subprocess.DEVNULL)
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("revoked", timeout=ANSWER_WITHIN_MS)
        page.get_by_role("button", name="Close").click()
        expect(history(page)).to_have_count(2)
        expect(history(page).first).to_contain_text("queue")
        expect(page.get_by_role("textbox", name="Instruction")).not_to_have_value("")
        page.close()


def test_a_cancel_by_another_program_is_told_as_that(open_page: OpenPage, demo_server: LiveServer) -> None:
    page = open_page()
    page.get_by_role("spinbutton", name="Steps").fill("50")
    with page.expect_response(re.compile("/fal/queue/fal-ai/qwen-image-edit$")) as submitted:
        page.get_by_role("button", name="Edit").click()
    request = urllib.request.Request(submitted.value.json()["cancel_url"], method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["status"] == "CANCELLATION_REQUESTED"
    expect(page.get_by_role("status")).to_contain_text(
        "Another page or program cancelled this.", timeout=ANSWER_WITHIN_MS
    )
    expect(page.get_by_role("textbox", name="Instruction")).not_to_have_value("")


def test_the_operator_sees_queue_workers_and_times(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Server").click()
    dialog = page.get_by_role("dialog", name="This server, live")
    expect(dialog.get_by_text("Waiting")).to_be_visible()
    expect(dialog.get_by_role("list").first).to_contain_text("demo")
    expect(dialog.locator("polyline")).to_have_count(4)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
