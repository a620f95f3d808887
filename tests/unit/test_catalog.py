"""The catalogue: routes, limits, defaults, and what a distilled checkpoint does to guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retouch.catalog import (
    CHECKPOINTS,
    MODELS,
    Catalog,
    Checkpoint,
    FastLora,
    Price,
    Route,
    checkpoint_named,
    checkpoints_named,
    model_named,
    routing,
)
from retouch.edit import Acceleration, EditRequest, ImageInput, OutputFormat
from retouch.errors import InvalidRequest, InvalidSetting, NotOneOf, OutOfRange, TooLong, TooManyImages, UnknownModel

DEMO, EDIT, EDIT_2509, EDIT_2511, *_, NULL = CHECKPOINTS


def request(model: str = "qwen-image-edit", images: int = 1, **values: object) -> EditRequest:
    inputs = tuple(ImageInput(blob=f"uploads/{i}.png", field=f"images[{i}]") for i in range(images))
    return EditRequest(model, "make it night", inputs, **values)  # type: ignore[arg-type]


def test_every_model_is_served_by_the_one_loaded_checkpoint():
    catalog = Catalog.serving(DEMO)
    assert {route.checkpoint.name for route in catalog.routes} == {"demo"}
    assert len(catalog.routes) == len(MODELS)


def test_a_checkpoint_serves_the_model_of_its_own_name():
    catalog = Catalog.serving(DEMO, EDIT)
    assert catalog.route("qwen-image-edit").queue == "qwen-image-edit"
    assert catalog.route("qwen-image-edit-plus").queue == "demo"
    assert set(catalog.queues) == {"demo", "qwen-image-edit"}


def test_ids_go_to_the_checkpoint_they_mean_and_the_others_to_the_first():
    catalog = Catalog.serving(EDIT_2509, EDIT, EDIT_2511)
    assert {route.model.id: route.queue for route in catalog.routes} == {
        "qwen-image-edit": "qwen-image-edit",
        "qwen-image-edit-plus": "qwen-image-edit-2511",
        "qwen-image-2": "qwen-image-edit-2509",
        "fal-ai/qwen-image-edit": "qwen-image-edit",
        "fal-ai/qwen-image-edit-lora": "qwen-image-edit",
        "fal-ai/qwen-image-edit-plus-lora": "qwen-image-edit-2511",
        "fal-ai/qwen-image-edit-2511/lora": "qwen-image-edit-2511",
        "fal-ai/qwen-image-edit-plus": "qwen-image-edit-2511",
        "fal-ai/qwen-image-2/edit": "qwen-image-edit-2509",
        "qwen-image-edit-2509": "qwen-image-edit-2509",
        "Qwen/Qwen-Image-Edit-2509": "qwen-image-edit-2509",
    }


def test_a_name_that_leads_elsewhere_than_its_row_keeps_the_rows_limits():
    catalog = Catalog.serving(EDIT_2511, EDIT_2509)
    named, row = catalog.route("qwen-image-edit-2509").model, model_named("qwen-image-edit-plus")
    assert row is not None
    assert replace(named, id=row.id, aliases=row.aliases) == row
    assert model_named(named.id) == row
    assert catalog.route("qwen-image-edit-2511").model == row


def test_a_folder_serves_the_ids_of_the_checkpoint_it_is_named_after():
    catalog = Catalog.serving(DEMO, checkpoint_named("./weights/Qwen-Image-Edit-2511"))
    assert catalog.route("fal-ai/qwen-image-edit-plus").queue == "Qwen-Image-Edit-2511"
    assert catalog.route("fal-ai/qwen-image-edit").queue == "demo"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("qwen-image-edit-2511", "demo"), "No model id would lead to 'demo'"),
        (("demo", "demo"), "Two checkpoints are called 'demo'"),
        (("./a/edit", "./b/Edit"), "Two checkpoints are called 'Edit'"),
    ],
)
def test_checkpoints_that_would_never_run_are_refused(names: tuple[str, ...], reason: str):
    with pytest.raises(InvalidSetting, match=reason):
        Catalog.serving(*checkpoints_named(names))


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(UnknownModel, match="Did you mean 'qwen-image-edit'"):
        Catalog.serving(DEMO).route("qwen-image-edti")


def test_open_fields_take_the_models_defaults():
    completed, notices = (
        Catalog.serving(EDIT_2511).route("fal-ai/qwen-image-edit").complete(request("fal-ai/qwen-image-edit"))
    )
    assert (completed.steps, completed.guidance_scale, completed.negative_prompt) == (30, 4, " ")
    assert completed.acceleration is Acceleration.REGULAR
    assert completed.seed is not None
    assert notices == ()


def test_given_values_stay_as_they_are():
    given = request(seed=0, steps=7, guidance_scale=2.5, negative_prompt="blurry", acceleration=Acceleration.NONE)
    completed, _ = Catalog.serving(EDIT_2511).route("qwen-image-edit").complete(given)
    assert completed == given


def test_a_distilled_checkpoint_converts_guidance_and_says_so():
    given = request(guidance_scale=4.0, negative_prompt="blurry")
    completed, notices = Catalog.serving(DEMO).route("qwen-image-edit").complete(given)
    assert completed.guidance_scale == 1.0
    assert (completed.steps, completed.acceleration) == (2, Acceleration.REGULAR)
    assert [(n.parameter, n.action) for n in notices] == [
        ("guidance_scale", "converted"),
        ("negative_prompt", "ignored"),
    ]


def notices_of(checkpoint: Checkpoint, model: str = "qwen-image-edit", **values: object) -> list[tuple[str, str]]:
    _, notices = Catalog.serving(checkpoint).route(model).complete(request(model, **values))
    return [(notice.parameter, notice.action) for notice in notices]


@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("checkpoint", [DEMO, EDIT_2511])
def test_guidance_below_one_is_none_and_says_so(checkpoint: Checkpoint, wanted: float):
    given = request(guidance_scale=wanted)
    completed, notices = Catalog.serving(checkpoint).route("qwen-image-edit").complete(given)
    assert completed.guidance_scale == 1.0
    assert [(notice.parameter, notice.action) for notice in notices] == [("guidance_scale", "converted")]
    assert "1 was used" in notices[0].detail


@pytest.mark.parametrize(("guidance", "read"), [(0.0, False), (1.0, False), (1.5, True), (4.0, True), (None, True)])
def test_a_negative_prompt_that_nothing_reads_is_reported(guidance: float | None, read: bool):
    found = notices_of(EDIT_2511, negative_prompt="blurry", guidance_scale=guidance)
    assert (("negative_prompt", "ignored") not in found) is read
    assert notices_of(EDIT_2511, negative_prompt=" ", guidance_scale=1.0) == []


def test_the_vendors_default_steps_that_the_demo_does_not_run_are_reported():
    fal = "fal-ai/qwen-image-edit"
    assert notices_of(DEMO, fal) == [("steps", "converted")]
    assert notices_of(DEMO, fal, steps=30) == []
    assert notices_of(DEMO, "fal-ai/qwen-image-edit-plus") == [("steps", "converted")]
    assert notices_of(DEMO, "fal-ai/qwen-image-2/edit") == []
    assert notices_of(EDIT_2511, fal) == []


def test_several_images_of_a_network_without_chance_are_told_to_be_alike():
    assert notices_of(DEMO, num_images=2) == [("num_images", "converted")]
    assert notices_of(DEMO, num_images=1) == []
    assert notices_of(EDIT_2511, num_images=4) == []


@pytest.mark.parametrize("images", range(1, 7))
def test_the_plus_checkpoints_take_six_images_and_advise_three(images: int):
    for checkpoint in (checkpoint_named("qwen-image-edit-2509"), EDIT_2511):
        expected = [("images", "advised")] if images > 3 else []
        assert notices_of(checkpoint, "fal-ai/qwen-image-2/edit", images=images) == expected
    with pytest.raises(TooManyImages):
        notices_of(EDIT_2511, "qwen-image-2", images=7)


@pytest.mark.parametrize("wanted", [Acceleration.REGULAR, Acceleration.HIGH])
def test_an_acceleration_that_was_asked_for_and_is_not_there_is_reported(wanted: Acceleration):
    completed, notices = Catalog.serving(NULL).route("qwen-image-edit").complete(request(acceleration=wanted))
    assert completed.acceleration is Acceleration.NONE
    assert [(n.parameter, n.action) for n in notices] == [("acceleration", "converted")]


@pytest.mark.parametrize(("wanted", "steps"), [("none", 4), ("regular", 2), ("high", 1)])
def test_acceleration_is_fewer_steps_of_a_checkpoint_that_needs_few(wanted: str, steps: int):
    route = Catalog.serving(DEMO).route("qwen-image-edit")
    completed, notices = route.complete(request(acceleration=Acceleration(wanted)))
    assert (completed.steps, completed.acceleration, notices) == (steps, wanted, ())


def test_steps_that_were_given_are_run_whatever_the_acceleration():
    route = Catalog.serving(DEMO).route("qwen-image-edit")
    completed, notices = route.complete(request(steps=9))
    assert (completed.steps, completed.acceleration, notices) == (9, "none", ())
    completed, notices = route.complete(request(steps=9, acceleration=Acceleration.HIGH))
    assert (completed.steps, completed.acceleration) == (9, "none")
    assert [(n.parameter, n.action) for n in notices] == [("acceleration", "converted")]


def test_high_without_a_few_step_lora_says_what_it_is_instead():
    assert notices_of(EDIT_2511, acceleration=Acceleration.REGULAR) == []
    assert notices_of(EDIT_2511, acceleration=Acceleration.HIGH) == [("acceleration", "converted")]


def test_images_that_the_checkpoint_does_not_look_at_are_reported():
    route = Catalog.serving(DEMO).route("qwen-image-edit-plus")
    _, notices = route.complete(request("qwen-image-edit-plus", images=3))
    assert [(n.parameter, n.detail) for n in notices] == [("images", "'demo' looks at the first 2 of 3 images only.")]
    assert route.complete(request("qwen-image-edit-plus", images=1))[1] == ()


@pytest.mark.parametrize(
    ("values", "error", "field"),
    [
        ({"steps": 0}, OutOfRange, "steps"),
        ({"steps": 101}, OutOfRange, "steps"),
        ({"guidance_scale": 20.5}, OutOfRange, "guidance_scale"),
        ({"num_images": 0}, OutOfRange, "num_images"),
        ({"num_images": 11}, OutOfRange, "num_images"),
    ],
)
def test_numbers_outside_the_models_limits_are_refused(values, error, field):
    with pytest.raises(error) as caught:
        Catalog.serving(EDIT_2511).route("qwen-image-edit").complete(request(**values))
    assert caught.value.field == field


def test_the_checkpoint_limits_the_number_of_images():
    with pytest.raises(TooManyImages, match="at most 1 image, not 2"):
        Catalog.serving(EDIT).route("qwen-image-edit").complete(request(images=2))


def test_fals_own_limits_hold_for_fals_ids():
    route = Catalog.serving(EDIT_2511).route("fal-ai/qwen-image-2/edit")
    with pytest.raises(TooLong):
        route.complete(EditRequest("fal-ai/qwen-image-2/edit", "x" * 801, request().images))
    with pytest.raises(NotOneOf):
        route.complete(request("fal-ai/qwen-image-2/edit", output_format=OutputFormat.GIF))


def test_a_row_of_the_table_may_say_which_accelerations_its_model_takes():
    plain = {"id": "own", "title": "Own", "max_images": 1, "max_num_images": 1, "price": {"per_image_microusd": 1}}
    own = routing._model(plain | {"accelerations": ["none", "regular"], "acceleration": "none"})
    assert (own.acceleration, own.steps, own.guidance) == (Acceleration.NONE, None, None)
    with pytest.raises(NotOneOf, match="none"):
        Route(own, DEMO).complete(request("own", acceleration=Acceleration.HIGH))
    with pytest.raises(ValueError, match="fast"):
        routing._model(plain | {"accelerations": ["fast"]})


def test_a_price_counts_images_and_megapixels_in_whole_millionths():
    assert Price(per_megapixel_microusd=20_000).of(images=1, pixels=1024 * 1024) == 20_972
    assert Price(per_image_microusd=20_000).of(images=3, pixels=1) == 60_000


def test_research_weights_need_the_operators_word():
    with pytest.raises(InvalidRequest, match="--accept-research-licence"):
        checkpoint_named("qwen-image-2.1")
    assert checkpoint_named("qwen-image-2.1", accept_research_licence=True).research_only


def test_a_folder_is_a_checkpoint():
    assert checkpoint_named("./weights/my-edit/").source == "./weights/my-edit/"
    assert checkpoint_named("./weights/my-edit/").name == "my-edit"


def test_a_misspelt_checkpoint_is_refused_with_the_list():
    with pytest.raises(InvalidRequest, match="qwen-image-edit-2511"):
        checkpoint_named("qwen")


def test_a_folder_has_the_limits_and_the_licence_of_the_checkpoint_it_is_named_after():
    assert checkpoint_named("./weights/Qwen-Image-Edit").max_images == EDIT.max_images
    with pytest.raises(InvalidRequest, match="Qwen Research License"):
        checkpoint_named("./weights/Qwen-Image-2.1")
    assert checkpoint_named("./weights/Qwen-Image-2.1", accept_research_licence=True).sizes.grid == 32


FAST = replace(EDIT_2511, fast_lora=FastLora("lightning-8steps.safetensors", 8))


def test_high_runs_the_few_steps_of_a_lora_where_the_operator_has_one():
    route = Route(model_named("qwen-image-edit-plus"), FAST)
    completed, notices = route.complete(request("qwen-image-edit-plus", acceleration=Acceleration.HIGH))
    assert (completed.steps, completed.guidance_scale, completed.acceleration) == (8, 1.0, Acceleration.HIGH)
    assert [(n.parameter, n.action) for n in notices] == [("acceleration", "applied")]
    assert "8 steps" in notices[0].detail


def test_what_a_few_step_lora_cannot_honour_is_reported():
    route = Route(model_named("qwen-image-edit-plus"), FAST)
    wanted = {"acceleration": Acceleration.HIGH, "steps": 30, "guidance_scale": 4.0, "negative_prompt": "blurry"}
    completed, notices = route.complete(request("qwen-image-edit-plus", **wanted))
    assert (completed.steps, completed.guidance_scale) == (8, 1.0)
    actions = {n.parameter: n.action for n in notices}
    assert actions == {
        "acceleration": "applied",
        "steps": "converted",
        "guidance_scale": "converted",
        "negative_prompt": "ignored",
    }


@pytest.mark.parametrize("acceleration", [None, Acceleration.NONE, Acceleration.REGULAR])
def test_without_high_a_few_step_lora_changes_nothing(acceleration: Acceleration | None):
    wanted = request("qwen-image-edit-plus", acceleration=acceleration, seed=1)
    plain, fast = (Route(model_named("qwen-image-edit-plus"), row).complete(wanted) for row in (EDIT_2511, FAST))
    assert plain == fast
