"""Every hosted model of the catalogue, from a request of ours to what its provider gets, with the real normaliser."""

from __future__ import annotations

import base64
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retouch.catalog.normaliser import normalise
from retouch.catalog.profiles import Profile, hosted
from retouch.edit import EditRequest, ImageInput, OutputFormat
from retouch.upstreams.upstream import Call, Finished, ImageMode
from tests.upstreams.conftest import KINDS, World, make_world
from tests.upstreams.stubs.fal import FalStub
from tests.upstreams.stubs.openai import OpenAIStub, fields_of
from tests.upstreams.stubs.server import Seen, png

HOSTED = [pytest.param(profile, id=name) for name, profile in hosted().profiles.items() if not profile.local]

EXPLICIT = {
    "fal": {"num_images", "output_format"},
    "retouch": {"num_images", "output_format"},
    "runpod": {"output_format"},
    "replicate": {"output_format"},
    "dashscope": {"watermark"},
    "openai": {"n"},
    "lumenfall": {"n"},
    "litellm": {"n"},
}
"""What is sent although it was not requested: the provider's own choice is another one, or is not known."""

EXPANDING = {"enable_prompt_expansion", "prompt_extend"}
"""True at the providers that have them; ours is false."""


def world_of(profile: Profile, folder: Path) -> World:
    if profile.kind in KINDS:
        kind = KINDS[profile.kind]
    else:
        kind = replace(KINDS["litellm"], name=profile.kind, stub=OpenAIStub)
    if profile.kind == "retouch":
        kind = replace(kind, stub=partial(FalStub, "/fal"))
    return make_world(kind, folder)


def sent(seen: Seen) -> dict[str, Any]:
    """The parameters as the provider reads them, by name."""
    if seen.headers["content-type"].startswith("multipart/"):
        return dict(fields_of(seen))
    body = seen.json
    inner = {**body.get("parameters", {})} if "messages" in str(body.get("input", "")) else body.get("input", body)
    return dict(inner)


def edit_of(world: World, profile: Profile, **fields: Any) -> tuple[Call, Any]:
    image = ImageInput(blob=world.store(png(64, 64)).blob, field="images[0]")
    request = EditRequest(model="qwen-image-edit-plus", prompt="make it snow", images=(image,), **fields)
    made = normalise(request, profile, {"images[0]": (64, 64)})
    return replace(world.call(), normalised=made, seed=made.seed), made


@pytest.mark.parametrize("profile", HOSTED)
def test_what_differs_at_the_provider_is_sent_explicitly(profile: Profile, tmp_path: Path) -> None:
    world = world_of(profile, tmp_path)
    call, made = edit_of(world, profile)
    outcome = world.run(call, world.open(images=ImageMode.INLINE))
    assert isinstance(outcome, Finished), outcome
    (submit,) = world.stub.at("submit")
    given = sent(submit)
    assert EXPLICIT.get(profile.kind, set()) <= set(given)
    for name in EXPANDING & set(given):
        assert given[name] in (False, "false")
    if made.seed_field is not None:
        assert int(given[made.seed_field]) == made.seed
    assert "make it snow" in submit.body.decode("latin-1")
    assert made.endpoint in submit.path + submit.body.decode("latin-1")
    world.close()


@pytest.mark.parametrize("profile", HOSTED)
def test_every_name_that_was_decided_on_reaches_the_provider(profile: Profile, tmp_path: Path) -> None:
    world = world_of(profile, tmp_path)
    call, made = edit_of(world, profile, negative_prompt="blur", output_format=OutputFormat.JPEG, output_quality=80)
    world.run(call, world.open(images=ImageMode.INLINE))
    given = sent(world.stub.at("submit")[0])
    assert {name for name, value in made.parameters.items() if value is not None} - set(given) <= {"prompt"}
    world.close()


@pytest.mark.parametrize("profile", HOSTED)
def test_a_mask_is_sent_where_it_is_read_and_nowhere_else(profile: Profile, tmp_path: Path) -> None:
    world = world_of(profile, tmp_path)
    data = png(64, 64, shade=7)
    call, made = edit_of(world, profile, mask=ImageInput(blob=world.store(data).blob, field="mask"))
    assert isinstance(world.run(call, world.open(images=ImageMode.INLINE)), Finished)
    body = world.stub.at("submit")[0].body
    there = data in body or base64.b64encode(data) in body
    assert there == (made.mask is not None)
    assert made.mask is None or made.mask.name.encode() in body
    assert (made.emulation.mask is not None) >= (made.mask is None)
    world.close()
