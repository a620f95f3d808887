"""The form made from the endpoint's schema, its JSON, the price before a run, and what the server says about a field."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

from playwright.sync_api import expect

from retouch.catalog import checkpoint_named
from tests.harness import Deployment
from tests.live_server import LiveServer
from tests.playground.pages import KEEPS_SIZE, OpenPage, run_edit, use_small_image


def schema_of(server: LiveServer, endpoint: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/fal/openapi.json?endpoint_id={endpoint}") as answer:
        document = json.load(answer)
    name = document["paths"][f"/run/{endpoint}"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    properties: dict[str, Any] = document["components"]["schemas"][name.rsplit("/", 1)[-1]]["properties"]
    return properties


def test_the_form_has_a_control_for_every_parameter_of_the_chosen_model(
    open_page: OpenPage, demo_server: LiveServer
) -> None:
    page = open_page()
    model = page.get_by_role("combobox", name="Model")
    expect(model).to_be_visible()
    page.get_by_text("More settings").click()
    ids = model.locator("option").evaluate_all("options => options.map((option) => option.value)")
    assert len(ids) >= 3
    for endpoint in ids:
        model.select_option(endpoint)
        properties = schema_of(demo_server, endpoint)
        placed = {"prompt", "image_url", "image_urls"}
        expect(page.locator(".fields .field")).to_have_count(len(set(properties) - placed))
        steps = properties.get("num_inference_steps")
        field = page.get_by_role("spinbutton", name="Steps")
        if steps is None:
            expect(field).to_have_count(0)
        else:
            expect(field).to_have_attribute("aria-valuemax", str(steps["maximum"]))
        formats = page.get_by_role("combobox", name="File format").locator("option").all_inner_texts()
        assert sorted(formats) == sorted(properties["output_format"]["enum"])


def test_a_value_outside_its_range_is_refused_where_it_stands(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    steps = page.get_by_role("spinbutton", name="Steps")
    steps.fill("1000")
    expect(page.get_by_role("alert")).to_have_text("This must be at most 50.")
    expect(steps).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("status")).to_have_text("See the notes in the form.")
    steps.fill("7")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("textbox", name="Instruction").fill("")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("alert")).to_have_text("Say what to change.")


def test_json_and_form_change_each_other(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    page.get_by_role("spinbutton", name="Steps").fill("9")
    page.get_by_role("tab", name="JSON").click()
    text = page.get_by_role("textbox")
    expect(text).to_have_value(re.compile('"image_url": "http.*"num_inference_steps": 9', re.DOTALL))
    body = json.loads(text.input_value())
    text.fill("{ not json")
    expect(page.get_by_role("alert")).to_contain_text("not valid JSON")
    text.fill(json.dumps({**body, "sneed": 1}))
    expect(page.get_by_role("alert")).to_contain_text("“sneed”")
    text.fill(json.dumps({**body, "prompt": "make it darker", "seed": 5, "image_size": {"width": 320, "height": 200}}))
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("tab", name="Form").click()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("make it darker")
    expect(page.get_by_role("spinbutton", name="Seed")).to_have_value("5")
    expect(page.get_by_role("spinbutton", name="Width")).to_have_value("320")
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()


def test_a_dry_run_tells_the_price_the_canvas_and_the_steps(open_page: OpenPage) -> None:
    page = open_page()
    price = page.locator(".price")
    expect(price).to_contain_text("$0.0078")
    page.get_by_role("spinbutton", name="How many").fill("2")
    expect(price).to_contain_text("$0.0156")
    page.get_by_role("combobox", name="Size").select_option("landscape_16_9")
    expect(page.get_by_text("delivered at 1024 × 576 pixels")).to_be_visible()
    page.get_by_text("More settings").click()
    page.get_by_role("combobox", name="Acceleration").select_option("none")
    own = str(checkpoint_named("demo").steps)
    expect(page.get_by_role("spinbutton", name="Steps")).to_have_attribute("placeholder", own)


def test_the_seed_of_the_last_run_can_be_kept(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url)
    use_small_image(page)
    run_edit(page, "make it brighter")
    page.get_by_label("Keep the seed of the last run").check()
    seed = page.get_by_role("spinbutton", name="Seed").input_value()
    assert seed.isdecimal()
    run_edit(page, "make it darker")
    facts = page.get_by_role("region", name="History").get_by_role("article").first
    expect(facts).to_contain_text(f"Seed {seed}")
    page.get_by_label("Keep the seed of the last run").uncheck()
    expect(page.get_by_role("spinbutton", name="Seed")).to_have_value("")


def test_what_was_not_done_as_asked_is_reported_below_the_image_and_beside_the_field(open_page: OpenPage) -> None:
    page = open_page()
    use_small_image(page)
    page.get_by_role("combobox", name="Model").select_option(KEEPS_SIZE)
    page.get_by_text("More settings").click()
    page.get_by_role("textbox", name="Negative prompt").fill("noise")
    run_edit(page, "make it brighter")
    expect(page.get_by_role("note").filter(has_text="not done as asked")).to_contain_text("negative_prompt")
    beside = page.locator(".field").filter(has_text="Negative prompt").locator(".note")
    expect(beside).to_contain_text("nothing reads it")


def test_a_list_of_objects_has_a_row_for_each_with_its_own_boxes(open_page: OpenPage, quick: Deployment) -> None:
    page = open_page(quick.url, allowed="Failed to load resource")  # this server has no LoRA to run
    model = page.get_by_role("combobox", name="Model")
    model.select_option("fal-ai/qwen-image-edit-lora")
    field = page.locator(".field.list")
    expect(field).to_contain_text("LoRAs")
    field.get_by_role("button", name="LoRAs").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    first = field.get_by_role("group", name="Entry 1")
    first.get_by_role("textbox", name="Link, hub name or file").fill("someone/style")
    first.get_by_role("spinbutton", name="Strength").fill("9")
    expect(field.get_by_role("alert")).to_have_text("Entry 1: This must be at most 4.")
    first.get_by_role("spinbutton", name="Strength").fill("0.5")
    expect(field.get_by_role("alert")).to_have_count(0)
    page.get_by_role("tab", name="JSON").click()
    text = page.get_by_role("textbox")
    expect(text).to_have_value(re.compile("someone/style"))
    assert json.loads(text.input_value())["loras"] == [{"path": "someone/style", "scale": 0.5}]
    page.get_by_role("tab", name="Form").click()
    field.get_by_role("button", name="LoRAs").click()
    page.get_by_role("button", name="Edit").click()
    expect(field.get_by_role("alert")).to_have_text("Entry 2: Link, hub name or file is missing.")
    field.get_by_role("button", name="Remove entry 2").click()
    expect(field.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Edit").click()
    expect(field.get_by_role("alert")).to_contain_text("LoRA")
    expect(first.get_by_role("textbox", name="Link, hub name or file")).to_have_value("someone/style")
