"""Keys, a server that is away or refuses, a cancel by another program, and the operator's view."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from retouch.accounts.keys import Keys
from tests.harness import Deployment
from tests.playground.pages import ANSWER_WITHIN_MS, OpenPage, history, key_of, no_network, run_edit, use_small_image
from tests.waiting import until


def instruction(page: Page) -> str:
    """What is typed there, and that the image is there still: nothing may be lost."""
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    return page.get_by_role("textbox", name="Instruction").input_value()


def test_a_server_with_keys_asks_for_one_and_takes_it(open_page: OpenPage, keyed: Deployment) -> None:
    key = key_of(keyed)
    page = open_page(keyed.url, allowed="401")
    dialog = page.get_by_role("dialog", name="This server needs a key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not accepted")
    dialog.get_by_label("API key").fill(key)
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
    assert instruction(page) == "make it darker"


def test_a_lost_server_is_waited_for_and_nothing_is_lost(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, allowed="ERR_INTERNET_DISCONNECTED")
    use_small_image(page)
    page.get_by_role("textbox", name="Instruction").fill("make it warmer")
    with no_network(page):
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("does not answer")
        assert instruction(page) == "make it warmer"
    expect(page.get_by_role("status")).to_contain_text("Done in", timeout=ANSWER_WITHIN_MS)
    expect(history(page)).to_have_count(1)


def test_a_key_revoked_while_an_edit_waits_is_asked_for_again(open_page: OpenPage, idle: Deployment) -> None:
    key, keys = key_of(idle, "leaver"), Keys(idle.database)
    page = open_page(idle.url, key=key, allowed="401")
    page.get_by_role("textbox", name="Instruction").fill("make it redder")
    for ahead in ("Next in the queue", "1 edit ahead"):
        page.get_by_role("button", name="Edit").click()
        expect(page.get_by_role("status")).to_contain_text(ahead)
    keys.revoke("leaver")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("revoked", timeout=ANSWER_WITHIN_MS)
    page.get_by_role("button", name="Close").click()
    expect(history(page)).to_have_count(2)
    expect(history(page).first).to_contain_text("queue")
    assert instruction(page) == "make it redder"
    page.get_by_role("button", name="Key").click()
    page.get_by_label("API key").fill(keys.create("leaver"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    for _ in range(2):
        history(page).first.get_by_role("button", name="Delete").click()
    expect(history(page)).to_have_count(0)


def test_a_full_queue_is_reported_where_the_button_is_and_the_edit_stays_in_the_form(
    open_page: OpenPage, idle: Deployment
) -> None:
    page = open_page(idle.url, key=key_of(idle), allowed="429")
    page.get_by_role("textbox", name="Instruction").fill("make it blue")
    page.get_by_role("spinbutton", name="Seed").fill("12")
    for _ in range(2):
        page.get_by_role("button", name="Edit").click()
        expect(page.get_by_role("status")).to_contain_text("queue")
    page.get_by_role("button", name="Edit").click()
    alert = page.locator(".actions").get_by_role("alert")
    expect(alert).to_contain_text("The queue is full. Nothing you entered is lost")
    expect(alert).to_contain_text("at most 2 may")
    expect(history(page)).to_have_count(2)
    assert instruction(page) == "make it blue"
    expect(page.get_by_role("spinbutton", name="Seed")).to_have_value("12")
    history(page).first.get_by_role("button", name="Delete").click()
    expect(history(page)).to_have_count(1)
    until(lambda: page.evaluate("localStorage['retouch.deleting']") == "[]")
    page.get_by_role("button", name="Edit").click()
    expect(history(page)).to_have_count(2)
    expect(alert).to_have_count(0)


def test_a_cancel_by_another_program_is_reported(open_page: OpenPage, idle: Deployment) -> None:
    key = key_of(idle)
    page = open_page(idle.url, key=key)
    page.get_by_role("textbox", name="Instruction").fill("make it green")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("status")).to_contain_text("queue")
    account = Keys(idle.database).verify(key)
    (job,) = idle.service.recent(account, 2)
    idle.service.cancel(account, job.id)
    expect(page.get_by_role("status")).to_contain_text("Another page or program cancelled this.")
    assert instruction(page) == "make it green"


def test_the_operator_sees_the_queue_the_pace_and_the_usage_of_each_key(open_page: OpenPage, keyed: Deployment) -> None:
    studio, operator = key_of(keyed, "studio"), Keys(keyed.database).create("me", operator=True)
    page = open_page(keyed.url, key=studio, allowed="ERR_INTERNET_DISCONNECTED")
    use_small_image(page)
    run_edit(page, "make it brighter")
    page.get_by_role("button", name="Server").click()
    dialog = page.get_by_role("dialog", name="This server, live")
    expect(dialog).to_contain_text("shown to an operator's key")
    expect(dialog.get_by_role("list").first).to_contain_text("ready")
    expect(dialog.locator("figure")).to_have_count(3)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    page.get_by_role("button", name="Key").click()
    page.get_by_label("API key").fill(operator)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Server").click()
    row = dialog.get_by_role("region", name="Usage by key").get_by_role("row").filter(has_text="studio")
    expect(row.get_by_role("cell").nth(0)).to_have_text("1")
    expect(row.locator("polyline")).to_have_count(1)
    wait = dialog.locator("figure").filter(has_text="Seconds of an edit").locator(".number")
    expect(wait.nth(1)).to_contain_text("run")
    expect(wait.nth(1)).not_to_contain_text("–")
    with no_network(page):
        expect(dialog.get_by_role("alert")).to_contain_text("did not give its metrics")
        expect(row).to_be_visible()
    expect(dialog.get_by_role("alert")).to_have_count(0)
