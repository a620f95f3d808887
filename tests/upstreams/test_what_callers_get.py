"""What a caller asks for is what they get, whatever the provider makes: sizes, masks, formats, seeds, counts."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retouch import images
from retouch.catalog.normaliser import Normaliser
from retouch.edit import OutputFormat, SizeRequest
from retouch.errors import InvalidRequest
from retouch.jobs.job import Job, JobState
from retouch.upstreams.routes import GatewaySettings, RouteRule, Routes
from tests.harness import png
from tests.upstreams.gateway_world import GatewayWorld
from tests.upstreams.stubs.server import PRICE_MICROUSD

MakeWorld = Callable[..., GatewayWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeWorld]:
    made: list[GatewayWorld] = []

    def world(*names: str) -> GatewayWorld:
        patient = GatewaySettings(deadline_s=60.0)
        made.append(GatewayWorld(tmp_path / str(len(made)), "", *names, settings=patient, answer_s=30.0))
        return made[-1]

    yield world
    for each in made:
        each.close()


def done(world: GatewayWorld, **named: Any) -> Job:
    with world.gateway():
        job = world.finished(world.edit(**named).id)
    assert job.state is JobState.SUCCEEDED, job.failure
    return job


def delivered(world: GatewayWorld, job: Job) -> list[bytes]:
    assert job.output is not None
    return [world.blobs.get(image.blob).data for image in job.output.images]


def notices(job: Job) -> set[tuple[str, str]]:
    assert job.output is not None
    return {(notice.parameter, notice.action) for notice in job.output.notices}


def webp(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "WEBP", lossless=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "sent"), [("dashscope", "1008*1008"), ("runpod", "1024*1024"), ("fal", {"width": 1008, "height": 1008})]
)
def test_an_exact_size_is_delivered_by_a_provider_that_rounds(make: MakeWorld, kind: str, sent: object) -> None:
    world = make(kind)
    world.stub(kind).image = png(1024, 1024) if kind == "runpod" else png(1008, 1008)
    job = done(world, images=(world.upload(png(512, 512)),), size=SizeRequest(width=1000, height=1000))
    assert job.output is not None
    (image,) = job.output.images
    assert (image.width, image.height) == (1000, 1000)
    assert images.decode(delivered(world, job)[0]).shape == (1000, 1000, 3)
    (given,) = [each.input for each in world.stub(kind).jobs.values()]
    assert sent in given.values()
    assert ("size", "emulated") in notices(job)


@pytest.mark.parametrize("kind", ["dashscope", "replicate"])
def test_every_format_is_delivered_by_providers_of_png_or_webp(make: MakeWorld, kind: str) -> None:
    world = make(kind)
    made = png(32, 24)
    world.stub(kind).image = webp(made) if kind == "replicate" else made  # replicate's as if it were not asked
    with world.gateway():
        jobs = {wanted: world.edit(output_format=wanted).id for wanted in OutputFormat}
        for wanted, job_id in jobs.items():
            job = world.finished(job_id)
            assert job.output is not None, job.failure
            (data,) = delivered(world, job)
            assert images.probe(data).format == wanted.value
            assert images.decode(data).shape == (24, 32, 3)
            assert job.output.images[0].media_type == wanted.media_type


@pytest.mark.parametrize("kind", ["fal", "runpod", "replicate", "dashscope"])
def test_outside_the_mask_the_pixels_are_the_sources_own_and_no_mask_is_sent(make: MakeWorld, kind: str) -> None:
    world = make(kind)
    source, edited = png(64, 64, seed=1), png(64, 64, seed=2)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[16:48, 8:40] = 0
    out = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((64, 64, 3), np.uint8), alpha])).save(out, "PNG")
    world.stub(kind).image = edited
    mask = replace(world.upload(out.getvalue()), field="mask")
    job = done(world, images=(world.upload(source),), mask=mask)
    made = images.decode(delivered(world, job)[0])
    where = alpha == 0
    assert (made[~where] == images.decode(source)[~where]).all()
    assert (made[where] == images.decode(edited)[where]).all()
    assert ("mask", "emulated") in notices(job)
    assert not any(b"mask" in seen.body for seen in world.stub(kind).at("submit"))


def test_four_images_of_a_provider_of_one_have_four_seeds_and_four_charges(make: MakeWorld) -> None:
    world = make("runpod")
    job = done(world, num_images=4, seed=41)
    assert job.output is not None
    assert [image.seed for image in job.output.images] == [41, 42, 43, 44]
    sent = sorted(each.input["seed"] for each in world.stub("runpod").jobs.values())
    assert sent == [41, 42, 43, 44]
    assert world.submits("runpod") == 4
    assert job.usage is not None
    assert job.usage.price_microusd == world.bill() == 4 * PRICE_MICROUSD


def test_a_seed_that_was_not_given_is_drawn_sent_and_reported(make: MakeWorld) -> None:
    world = make("fal")
    job = done(world, seed=None)
    assert job.output is not None
    (given,) = [each.input for each in world.stub("fal").jobs.values()]
    assert given["seed"] == job.output.images[0].seed < 2**31


def test_a_long_prompt_is_cut_only_where_it_is_not_read_and_reported(make: MakeWorld) -> None:
    alone, both = make("dashscope"), make("dashscope", "fal")
    job = done(alone, prompt="x" * 801)
    assert ("prompt", "ignored") in notices(job)
    assert b'"' + b"x" * 800 + b'"' in alone.stub("dashscope").at("submit")[0].body
    job = done(both, prompt="x" * 801)
    assert ("prompt", "ignored") not in notices(job)
    assert both.submits("dashscope") == 0
    assert b"x" * 801 in both.stub("fal").at("submit")[0].body


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("dashscope", {"steps": 20, "strict": True}, "steps"),
        ("runpod", {"negative_prompt": "blur", "strict": True}, "negative_prompt"),
        ("replicate", {"guidance_scale": 3.0, "strict": True}, "guidance_scale"),
        ("runpod", {"images": 4}, "images"),
    ],
)
def test_what_a_target_cannot_do_is_refused_before_any_connection(
    make: MakeWorld, kind: str, fields: dict[str, Any], field: str
) -> None:
    world = make(kind)
    if isinstance(fields.get("images"), int):
        fields = {"images": tuple(replace(world.upload(), field=f"images[{n}]") for n in range(fields["images"]))}
    with pytest.raises(InvalidRequest) as refused:
        world.edit(**fields)
    assert refused.value.field == field
    assert world.stub(kind).seen == []


def test_a_strict_route_asks_a_target_that_drops_nothing(make: MakeWorld) -> None:
    world = make("dashscope", "fal")
    rules = [replace(world.providers[name].target, normalise=strict(world, name)) for name in ("dashscope", "fal")]
    world.routes = Routes((RouteRule("*", tuple(rules), strict=True),), world.routes.connect, world.routes.settings)
    job = done(world, steps=20)
    assert world.submits("dashscope") == 0
    assert world.submits("fal") == 1
    assert not any(action == "ignored" for _, action in notices(job))


def strict(world: GatewayWorld, name: str) -> Normaliser:
    normalise = world.providers[name].target.normalise
    assert isinstance(normalise, Normaliser)
    return Normaliser(normalise.profile, normalise.endpoint, strict=True)


def test_defaults_that_differ_are_reported_on_the_wire(make: MakeWorld) -> None:
    for kind, expected in (
        ("fal", {"output_format": "png", "num_images": 1}),
        ("runpod", {"output_format": "png"}),
        ("replicate", {"output_format": "png", "disable_safety_checker": False}),
        ("dashscope", {"n": 1, "prompt_extend": False, "watermark": False}),
    ):
        world = make(kind)
        done(world)
        (given,) = [each.input for each in world.stub(kind).jobs.values()]
        assert {name: given[name] for name in expected} == expected
