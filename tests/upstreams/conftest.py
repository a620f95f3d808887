"""One upstream of every kind before its stub, and the calls that are made to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retouch.catalog.normalised import Emulation, ImageField, ImageShape, Normalised
from retouch.edit import ImageInput
from retouch.storage.objects import LocalBlobs
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.registry import open_upstream
from retouch.upstreams.upstream import Call, Finished, Pending, PollOutcome, Ticket, Unreadable, Upstream
from tests.upstreams.gateway_world import GatewayWorld, MakeWorld
from tests.upstreams.stubs.dashscope import DashScopeStub
from tests.upstreams.stubs.fal import FalStub
from tests.upstreams.stubs.openai import OpenAIStub
from tests.upstreams.stubs.replicate import ReplicateStub
from tests.upstreams.stubs.runpod import RunPodStub
from tests.upstreams.stubs.server import StubProvider, png

KEY = "sk-a-very-secret-key-0123456789"
SEED = 1234567


@dataclass(frozen=True)
class Kind:
    """How one kind is asked. many: the shape of its images."""

    name: str
    stub: Callable[[], StubProvider]
    scheme: str
    endpoint: str
    images: str
    shape: ImageShape
    parameters: Mapping[str, Any]
    root: bool = False  #: its base_url is the server itself


FAL_PARAMETERS = {"prompt": "make it rain", "seed": SEED, "num_images": 1, "output_format": "png"}
DASHSCOPE_PARAMETERS = {
    "prompt": "make it rain",
    "negative_prompt": "",
    "n": 1,
    "seed": SEED,
    "size": "1024*1024",
    "prompt_extend": False,
    "watermark": False,
}
OPENAI_PARAMETERS = {"prompt": "make it rain", "n": 1, "size": "1024x1024", "output_format": "png"}

KINDS = {
    kind.name: kind
    for kind in (
        Kind("fal", FalStub, "Key", "fal-ai/qwen-image-edit-plus", "image_urls", "list", FAL_PARAMETERS),
        Kind(
            "runpod",
            RunPodStub,
            "Bearer",
            "qwen-image-edit-2511",
            "images",
            "list",
            {"prompt": "make it rain", "seed": SEED, "output_format": "png", "size": "1024*1024"},
        ),
        Kind(
            "replicate",
            ReplicateStub,
            "Bearer",
            "qwen/qwen-image-edit-plus",
            "image",
            "list",
            {"prompt": "make it rain", "seed": SEED, "output_format": "png", "go_fast": False},
        ),
        Kind("dashscope", DashScopeStub, "Bearer", "qwen-image-edit-plus", "image", "content", DASHSCOPE_PARAMETERS),
        Kind("dashscope task", DashScopeStub, "Bearer", "qwen-image-3.0", "image", "content", DASHSCOPE_PARAMETERS),
        Kind(
            "retouch",
            partial(FalStub, "/fal"),
            "Key",
            "fal-ai/qwen-image-edit-plus",
            "image_urls",
            "list",
            FAL_PARAMETERS,
            root=True,
        ),
        Kind("openai", OpenAIStub, "Bearer", "gpt-image-1", "image", "files", OPENAI_PARAMETERS),
        Kind(
            "lumenfall", OpenAIStub, "Bearer", "qwen-image-edit", "image", "files", {**OPENAI_PARAMETERS, "seed": SEED}
        ),
        Kind("litellm", OpenAIStub, "Bearer", "qwen-image-edit", "image", "files", OPENAI_PARAMETERS),
    )
}

QUEUED = ("fal", "runpod", "replicate", "dashscope task", "retouch")
"""Kinds that answer a submit with the id of a job."""


@dataclass
class World:
    """An upstream, its stub and a store."""

    kind: Kind
    stub: StubProvider
    blobs: LocalBlobs
    options: UpstreamOptions
    upstream: Upstream
    folder: Path
    opened: list[Upstream] = field(default_factory=list)

    def open(self, **options: Any) -> Upstream:
        """The same upstream with other options."""
        self.opened.append(open_upstream(self.kind.name.partition(" ")[0], replace(self.options, **options)))
        return self.opened[-1]

    def close(self) -> None:
        for upstream in (self.upstream, *self.opened):
            upstream.close()
        self.stub.close()

    def store(self, data: bytes | None = None) -> ImageInput:
        return ImageInput(blob=self.blobs.put(data or png(), "image/png", folder="uploads", sync=False))

    def call(
        self,
        *images: ImageInput,
        links: bool = False,
        attempt: str = "",
        webhook: str | None = None,
        seconds: float = 30,
        **parameters: Any,
    ) -> Call:
        inputs = images or (self.store(),)
        placed = tuple(replace(image, field=f"images[{number}]") for number, image in enumerate(inputs))
        given = {**self.kind.parameters, **parameters}
        normalised = Normalised(
            endpoint=self.kind.endpoint,
            parameters=given,
            images=ImageField(self.kind.images, self.kind.shape, placed),
            mask=None,
            seed=SEED,
            seed_field="seed" if "seed" in given else None,
            seed_honoured="seed" in given,
            calls=1,
            images_per_call=1,
            emulation=Emulation(),
        )
        linked = {image.field: f"https://edit.example.com/files/{image.field}" for image in placed} if links else {}
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        return Call(attempt or str(uuid.uuid4()), normalised, SEED, linked, webhook, deadline)

    def end(self, ticket: Ticket, upstream: Upstream | None = None) -> PollOutcome:
        """Poll until the job has ended."""
        for _ in range(200):
            outcome = (upstream or self.upstream).poll(ticket)
            if not isinstance(outcome, Pending | Unreadable):
                return outcome
        raise AssertionError("the job does not end")

    def run(self, call: Call | None = None, upstream: Upstream | None = None) -> PollOutcome:
        """Submit and wait for the end."""
        outcome = (upstream or self.upstream).submit(call or self.call())
        return self.end(outcome.ticket, upstream) if hasattr(outcome, "ticket") else outcome

    def finished(self, call: Call | None = None, upstream: Upstream | None = None) -> Finished:
        outcome = self.run(call, upstream)
        assert isinstance(outcome, Finished), outcome
        return outcome


def make_world(kind: Kind, folder: Path, *, key: str = KEY) -> World:
    stub = kind.stub()
    blobs = LocalBlobs(folder, b"s" * 32)
    options = UpstreamOptions(
        blobs,
        lambda scheme: f"{scheme} {key}",
        stub.url if kind.root else stub.base_url,
        pauses_s=(0.01, 0.02),
    )
    return World(kind, stub, blobs, options, open_upstream(kind.name.partition(" ")[0], options), folder)


@pytest.fixture(params=KINDS.values(), ids=lambda kind: kind.name)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Every kind."""
    made = make_world(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[KINDS[name] for name in QUEUED], ids=lambda kind: kind.name)
def queue_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The kinds that queue."""
    made = make_world(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeWorld]:
    """Gateways before stub providers, each in a folder of its own; closed at the end."""
    made: list[GatewayWorld] = []

    def world(*names: str, **how: object) -> GatewayWorld:
        made.append(GatewayWorld(tmp_path / str(len(made)), "", *names, **how))  # type: ignore[arg-type]
        return made[-1]

    yield world
    for each in made:
        each.close()
