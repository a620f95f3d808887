"""The unmodified `openai` package against a live server. Numbers are those of openai.md's checklist."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import itertools
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent, ImagesResponse
from PIL import Image

from retouch import watch
from retouch.jobs.job import JobState
from retouch.protocols.openai import errors, routes, streaming
from retouch.service import ServiceSettings
from tests.harness import OUTPUT, USAGE, Deployment, gated_server
from tests.live_server import LiveServer, live_server
from tests.waiting import until

MODEL = "qwen-image-edit"
RED, BLUE = (200, 30, 40), (20, 60, 220)
SIZE = "128x128"


def plain_image(colour: tuple[int, ...] = RED, size: tuple[int, int] = (160, 128), **save: Any) -> bytes:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[len(colour)]
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, **{"format": "PNG"} | save)
    return out.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def decoded(item: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


def colour_of(item: Any) -> tuple[int, ...]:
    return decoded(item).convert("RGB").getpixel((5, 5))


def close_to(colour: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 3) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(colour, expected, strict=True))


STREAMED = {"image": data_uri(plain_image()), "prompt": "x", "stream": True}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=30) as made:
        yield made


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Deployment]:
    with gated_server(tmp_path / "gated") as running:
        yield running


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Deployment]:
    """A server in this process without a worker: its database is used by what callers want only."""
    with Deployment(tmp_path / "waiting") as deployment, deployment.server():
        yield deployment


def edit(client: OpenAI, **parameters: Any) -> ImagesResponse:
    return client.images.edit(
        **{"image": plain_image(), "prompt": "paint it", "model": MODEL, "size": SIZE} | parameters
    )


def refused(client: OpenAI, **parameters: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as raised:
        edit(client, **parameters)
    return raised.value


class TestInputs:
    def test_1_2_every_way_python_has_to_pass_a_file(self, client: OpenAI, tmp_path: Path):
        path, bare, wrong = tmp_path / "a.png", tmp_path / "noext", tmp_path / "c.jpg"
        for file in (path, bare, wrong):
            file.write_bytes(plain_image())
        webp = plain_image(format="WEBP", lossless=True)
        with path.open("rb") as opened, bare.open("rb") as without, wrong.open("rb") as lying:
            ways = (
                opened,
                path,
                plain_image(),
                io.BytesIO(plain_image()),
                ("x.webp", webp, "image/webp"),
                without,
                lying,
            )
            answers = [edit(client, image=way) for way in ways]
        assert [len(answer.data) for answer in answers] == [1] * len(ways)
        assert all(close_to(colour_of(answer.data[0]), RED) for answer in answers)

    def test_4_lists_of_one_and_two_keep_their_order(self, client: OpenAI):
        assert close_to(colour_of(edit(client, image=[plain_image(BLUE)]).data[0]), BLUE)
        assert close_to(colour_of(edit(client, image=[plain_image(BLUE), plain_image(RED)]).data[0]), BLUE)
        assert close_to(colour_of(edit(client, image=[plain_image(RED), plain_image(BLUE)]).data[0]), RED)

    def test_5_repeated_and_mixed_and_numbered_names_all_count(self, http: httpx2.Client):
        red, blue = ("a.png", plain_image(RED)), ("b.png", plain_image(BLUE))
        wide = ("c.png", plain_image(RED, (256, 128)))
        for names in (("image", "image"), ("image", "image[]"), ("image[0]", "image[1]")):
            files = [(names[0], blue), (names[1], wide)]
            answer = http.post("/v1/images/edits", data={"prompt": "x", "response_format": "b64_json"}, files=files)
            item = answer.json()["data"][0]
            drawn = Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))
            assert close_to(drawn.convert("RGB").getpixel((5, 5)), BLUE), names
            assert drawn.width > 1.9 * drawn.height, "the last image gives the shape"
        swapped = http.post("/v1/images/edits", data={"prompt": "x"}, files=[("image[1]", red), ("image[0]", blue)])
        pixels = Image.open(io.BytesIO(base64.b64decode(swapped.json()["data"][0]["b64_json"])))
        assert close_to(pixels.convert("RGB").getpixel((5, 5)), BLUE)

    def test_6_data_uris_beside_an_empty_list(self, client: OpenAI):
        answer = edit(client, image=[], extra_body={"url": [data_uri(plain_image(BLUE)), data_uri(plain_image(RED))]})
        assert close_to(colour_of(answer.data[0]), BLUE)

    def test_7_a_javascript_buffer_is_refused_with_advice_and_soon(self, http: httpx2.Client):
        boundary = "----formdata-undici-000000000001"
        parts = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="image[{i}]"\r\n\r\n{i % 256}\r\n'.encode()
            for i in range(100_000)
        )
        body = parts + f"--{boundary}--\r\n".encode()
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        answer = http.post("/v1/images/edits", content=body, headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_type", "image")
        assert "toFile" in error["message"]
        assert answer.elapsed.total_seconds() < 5

    def test_8_a_missing_image_or_prompt_is_named(self, client: OpenAI):
        for parameters, param in (({"image": []}, "image"), ({"prompt": ""}, "prompt"), ({"prompt": " \n"}, "prompt")):
            error = refused(client, **parameters)
            assert isinstance(error, openai.BadRequestError)
            assert (error.code, error.param, error.type) == (
                "missing_required_parameter",
                param,
                "invalid_request_error",
            )

    def test_9_files_that_are_no_images_are_refused(self, client: OpenAI):
        bomb = _png_header(60_000, 60_000)
        for data in (b"just text, not an image", plain_image()[:200], b"", bomb, plain_image()[:40]):
            error = refused(client, image=[plain_image(), ("b.png", data, "image/png")])
            assert (error.status_code, error.code, error.param) == (400, "invalid_image", "image[1]"), data[:20]
            assert error.body["gateway_code"] == "INVALID_REQUEST"

    def test_10_too_many_images_and_too_many_bytes(self, client: OpenAI):
        error = refused(client, image=[plain_image()] * 17)
        assert (error.status_code, error.code, error.param) == (400, "too_many_images", "image")
        error = refused(client, image=[("a.png", plain_image() + bytes(70 << 20), "image/png")])
        assert (error.status_code, error.code) == (413, "image_too_large")
        assert error.request_id

    def test_11_odd_images_are_read_upright(self, client: OpenAI):
        exif = Image.Exif()
        exif[0x0112] = 6
        frames = [Image.new("RGB", (64, 64), colour) for colour in (RED, BLUE)]
        out = io.BytesIO()
        frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
        palette = io.BytesIO()
        Image.new("RGB", (64, 64), RED).quantize(16).save(palette, "PNG")
        cmyk = io.BytesIO()
        Image.new("RGB", (64, 64), RED).convert("CMYK").save(cmyk, "JPEG")
        sixteen = io.BytesIO()
        Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(sixteen, "PNG")
        for data in (out, palette, cmyk, sixteen):
            assert edit(client, image=data.getvalue()).data
        assert close_to(colour_of(edit(client, image=out.getvalue()).data[0]), RED, 12)
        assert close_to(colour_of(edit(client, image=plain_image((*BLUE, 0))).data[0]), (255, 255, 255))
        turned = edit(client, image=plain_image(RED, (256, 128), format="JPEG", exif=exif), size="auto")
        assert decoded(turned.data[0]).height > 1.9 * decoded(turned.data[0]).width

    def test_12_a_json_body_and_a_link_to_a_private_network(self, http: httpx2.Client):
        body = {"images": [{"image_url": data_uri(plain_image(BLUE))}], "prompt": "x", "n": 2, "size": SIZE}
        answer = http.post("/v1/images/edits", json=body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == 2
        for address in ("http://127.0.0.1:9/a.png", "http://169.254.169.254/latest", "http://10.0.0.1/a.png"):
            answer = http.post("/v1/images/edits", json={"images": [{"image_url": address}], "prompt": "x"})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (
                400,
                "invalid_image_url",
                "images[0].image_url",
            )

    def test_links_do_not_follow_what_any_caller_says_about_the_address(self, http: httpx2.Client, server: LiveServer):
        forged = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
        body = {"image": data_uri(plain_image()), "prompt": "x", "size": SIZE, "response_format": "url"}
        answer = http.post("/v1/images/edits", json=body, headers=forged)
        assert answer.json()["data"][0]["url"].startswith(f"{server.url}/files/")

    def test_an_answers_own_link_is_an_input_again(self, client: OpenAI):
        link = edit(client, image=plain_image(BLUE), response_format="url").data[0].url
        again = edit(client, image=[], extra_body={"image_url": link})
        assert close_to(colour_of(again.data[0]), BLUE)

    def test_a_body_that_is_neither_form_nor_json_is_415_and_a_broken_one_400(self, http: httpx2.Client):
        for content_type, body, status, code in (
            ("text/plain", b"prompt=x", 415, "unsupported_media_type"),
            ("", b"x", 415, "unsupported_media_type"),
            ("application/json", b"{not json", 400, "invalid_value"),
            ("application/json", b"[]", 400, "invalid_type"),
            ("multipart/form-data", b"x", 400, "invalid_value"),
            ("multipart/form-data; boundary=b", b"--b\r\nbroken", 400, "invalid_value"),
            ("multipart/form-data; boundary=b", b"garbage", 400, "invalid_value"),
            ("multipart/form-data; boundary=b", b"", 400, "invalid_value"),
        ):
            answer = http.post("/v1/images/edits", content=body, headers={"content-type": content_type})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), (content_type, body)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(64)


class TestParameters:
    def test_13_extensions_are_decoded_from_the_form(self, client: OpenAI):
        answer = edit(
            client,
            extra_body={
                "seed": 42,
                "true_cfg_scale": 4.0,
                "num_inference_steps": 3,
                "nested": {"a": {"b": 1}},
                "tags": ["a"],
                "none": None,
            },
        )
        assert answer.data[0].seed == 42
        metadata = answer.metadata
        assert sorted(metadata["ignored_parameters"]) == ["nested", "tags"]
        assert {"parameter": "true_cfg_scale", "action": "converted"}.items() <= metadata["notices"][-1].items()

    def test_15_seeds_are_returned_and_zero_is_one(self, client: OpenAI):
        assert edit(client, extra_body={"seed": 0}).data[0].seed == 0
        assert edit(client, extra_body={"seed": "-1"}).data[0].seed >= 0
        assert edit(client).data[0].seed != edit(client).data[0].seed

    def test_17_sizes_are_exact(self, client: OpenAI):
        for size, output in (
            ("200x100", (200, 100)),
            ("250x250", (250, 250)),
            ("64x64", (64, 64)),
            ("1920x1080", (1920, 1080)),
        ):
            answer = edit(client, size=size)
            assert answer.size == size
            assert decoded(answer.data[0]).size == output
        error = refused(client, size="1024x")
        assert (error.status_code, error.code, error.param) == (400, "invalid_value", "size")

    def test_18_several_images_count_their_seeds_up(self, client: OpenAI):
        answer = edit(client, n=3, extra_body={"seed": 7})
        assert [item.seed for item in answer.data] == [7, 8, 9]
        for n in (0, 11, "x"):
            error = refused(client, n=n)
            assert (error.status_code, error.param) == (400, "n")

    def test_19_formats_have_their_own_first_bytes(self, client: OpenAI):
        begins = {
            "png": b"\x89PNG",
            "jpeg": b"\xff\xd8\xff",
            "webp": b"RIFF",
            "gif": b"GIF8",
            "avif": b"ftypavif",
            "jpg": b"\xff\xd8\xff",
        }
        for name, begin in begins.items():
            answer = edit(client, output_format=name)
            data = base64.b64decode(answer.data[0].b64_json)
            assert begin in data[:12], name
            assert answer.output_format == {"jpg": "jpeg", "avif": None}.get(name, name)
        noise = Image.effect_noise((128, 128), 80).convert("RGB")
        out = io.BytesIO()
        noise.save(out, "PNG")
        sizes = [
            len(edit(client, image=out.getvalue(), output_format="jpeg", output_compression=quality).data[0].b64_json)
            for quality in (10, 90)
        ]
        assert sizes[0] < sizes[1] / 2
        for parameters, param in (
            ({"output_format": "svg"}, "output_format"),
            ({"frame_count": 4}, "frame_count"),
            ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ):
            error = refused(client, **parameters)
            assert (error.status_code, error.param) == (400, param)

    def test_20_urls_are_absolute_and_need_no_key(self, client: OpenAI, server: LiveServer):
        both = edit(client).data[0]
        assert both.url.startswith(f"{server.url}/files/")
        fetched = httpx2.get(both.url)
        assert fetched.content == base64.b64decode(both.b64_json)
        assert fetched.headers["content-type"] == "image/png"
        assert edit(client, response_format="url").data[0].b64_json is None
        assert edit(client, response_format="b64_json").data[0].url is None
        inline = edit(client, response_format="url", extra_body={"sync_mode": True}).data[0]
        assert inline.url.startswith("data:image/png;base64,")
        assert refused(client, response_format="hex").param == "response_format"
        forged = both.url.replace("signature=", "signature=0")
        assert httpx2.get(forged).status_code in (403, 404)

    def test_21_every_quality_is_answered_by_a_plain_one(self, client: OpenAI):
        qualities = {
            q: edit(client, quality=q).quality
            for q in ("low", "medium", "high", "xhigh", "max", "auto", "standard", "hd")
        }
        assert set(qualities.values()) <= {"low", "medium", "high"}
        assert (qualities["standard"], qualities["hd"]) == ("medium", "high")

    def test_22_a_mask_protects_what_is_opaque(self, client: OpenAI):
        mask = Image.new("RGBA", (160, 128), (0, 0, 0, 255))
        mask.paste((0, 0, 0, 0), (0, 0, 80, 128))
        out = io.BytesIO()
        mask.save(out, "PNG")
        answer = edit(client, image=[plain_image(RED), plain_image(BLUE)], mask=out.getvalue(), size="160x128")
        assert close_to(decoded(answer.data[0]).convert("RGB").getpixel((150, 60)), RED)
        error = refused(client, mask=plain_image((0, 0, 0, 0), (64, 64)))
        assert (error.status_code, error.param) == (400, "mask")

    def test_23_unknown_parameters_are_listed_and_transparency_is_refused(self, client: OpenAI):
        raw = client.images.with_raw_response.edit(
            image=plain_image(), prompt="x", model=MODEL, size=SIZE, extra_body={"frobnicate": 1, "b\u00e4d": 2}
        )
        assert (
            raw.headers["x-ignored-parameters"] == "b?d, frobnicate"
            or raw.headers["x-ignored-parameters"] == "frobnicate, b?d"
        )
        assert raw.parse().metadata["ignored_parameters"] == ["frobnicate", "b\u00e4d"]
        error = refused(client, background="transparent")
        assert (error.code, error.param) == ("unsupported_parameter", "background")

    def test_24_extra_body_wins_over_the_argument(self, client: OpenAI):
        answer = edit(client, size="64x64", extra_body={"size": "2:1"})
        assert decoded(answer.data[0]).width > 1.9 * decoded(answer.data[0]).height


class TestAnswers:
    def test_25_strict_clients_parse_the_answer_and_the_events(self, server: LiveServer):
        with OpenAI(base_url=f"{server.url}/v1", api_key="any", _strict_response_validation=True) as strict:
            answer = edit(strict)
            assert answer.usage.total_tokens == answer.usage.output_tokens > 0
            assert isinstance(answer.created, int)
            (event,) = list(edit(strict, stream=True))
        assert isinstance(event, ImageEditCompletedEvent)

    def test_26_a_request_id_is_on_every_answer(self, client: OpenAI, http: httpx2.Client):
        assert edit(client)._request_id
        for error in (refused(client, model="gpt-image-1"), refused(client, n=0)):
            assert error.request_id
        ids = {http.get(path).headers["x-request-id"] for path in ("/v1/models", "/v1/nothing", "/v1/images/edits")}
        assert len(ids) == 3

    def test_27_openais_shape_on_every_path(self, http: httpx2.Client):
        for method, path, status in (
            ("GET", "/v1/nothing", 404), ("POST", "/v1/images/nothing", 404), ("GET", "/v1/images/edits", 405), ("DELETE", "/v1/models", 405),
            ("POST", "/v1/models/x", 405), ("GET", "/v1/models/none", 404), ("POST", "/v1/images/variations", 404), ("POST", "/openai/v1/nothing", 404),
            ("PUT", "/v1/images/generations", 405), ("GET", "/v1/", 404),
        ):  # fmt: skip
            answer = http.request(method, path)
            assert answer.status_code == status, (method, path)
            assert answer.headers["content-type"] == "application/json"
            assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}, (method, path)

    def test_a_browser_is_let_in(self, http: httpx2.Client):
        headers = {
            "origin": "http://localhost:3000",
            "access-control-request-headers": "authorization,x-stainless-lang",
            "access-control-request-method": "POST",
        }
        preflight = http.options("/v1/images/edits", headers=headers)
        assert preflight.is_success
        assert preflight.headers["access-control-allow-headers"] == "authorization,x-stainless-lang"
        answer = http.get("/v1/models", headers={"origin": "http://localhost:3000"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


class TestErrors:
    def test_32_unknown_models_and_text_to_image(self, client: OpenAI):
        error = refused(client, model="qwen-image-edti")
        assert isinstance(error, openai.NotFoundError)
        assert error.code == "model_not_found"
        assert "Did you mean 'qwen-image-edit'" in error.body["message"]
        with pytest.raises(openai.BadRequestError) as raised:
            client.images.generate(prompt="a cat", model=MODEL)
        assert raised.value.code == "unsupported_mode"
        with pytest.raises(openai.NotFoundError):
            client.post("/images/variations", cast_to=object)

    def test_32_a_wrong_key_is_reported_after_the_whole_upload(self, tmp_path: Path):
        with live_server(tmp_path / "keys", key=True, arguments=("--workers", "0"), ready=False) as guarded:
            with OpenAI(base_url=f"{guarded.url}/v1", api_key="rt_wrong") as stranger:
                error = refused(stranger, image=("a.png", plain_image() + bytes(20 << 20), "image/png"))
                assert isinstance(error, openai.AuthenticationError)
                assert (error.code, error.type) == ("invalid_api_key", "authentication_error")
                assert error.request_id
            with OpenAI(base_url=f"{guarded.url}/v1", api_key=guarded.key) as friend:
                assert [model.id for model in friend.models.list()]

    def test_37_models(self, client: OpenAI):
        ids = [model.id for model in client.models.list()]
        assert ids == ["qwen-image-edit", "qwen-image-edit-plus", "qwen-image-2"]
        assert client.models.retrieve("Qwen/Qwen-Image-Edit-2511").id == "qwen-image-edit-plus"
        assert client.models.retrieve("fal-ai/qwen-image-edit").object == "model"
        assert client.models.retrieve("qwen-image-2").model_extra["capabilities"]["modes"] == ["edit"]
        [target] = client.models.retrieve("qwen-image-2").model_extra["targets"]
        assert target["target"] == "local"
        assert target["parameters"]["cfg_scale"] == {"behavior": "passthrough", "sent_as": "guidance_scale"}

    def test_38_a_dry_run_estimates_and_runs_nothing(self, client: OpenAI, http: httpx2.Client):
        query = {"dryRun": "true"}
        estimate = edit(client, n=2, extra_query=query, extra_body={"frobnicate": 1}).model_extra
        assert estimate["estimated"] is True
        assert estimate["components"][0]["quantity"] == 2
        assert estimate["resolved"]["output"] == SIZE
        assert estimate["resolved"]["ignored_parameters"] == ["frobnicate"]
        assert estimate["resolved"]["acceleration"] == edit(client).metadata["applied"]["acceleration"]
        followed = edit(client, image=plain_image(RED, (256, 128)), size="auto", extra_query=query).model_extra
        width, height = followed["resolved"]["output"].split("x")
        assert int(width) > 1.9 * int(height)
        assert refused(client, n=0, extra_query=query).param == "n"
        assert refused(client, image=b"no image", extra_query=query).code == "invalid_image"
        assert refused(client, mask=plain_image((0, 0, 0, 0), (64, 64)), extra_query=query).param == "mask"
        link = {"image_url": "https://example.com/a.png", "resolution": "0.5K"}
        hidden = edit(client, image=[], size="auto", extra_body=link, extra_query=query).model_extra
        square = edit(client, size="512x512", extra_query=query).model_extra
        assert (hidden["resolved"]["output"], square["resolved"]["output"]) == (None, "512x512")
        assert hidden["total_cost_micros"] == square["total_cost_micros"] > 0

    def test_38_39_both_prefixes_with_and_without_a_slash_and_never_a_redirect(
        self, server: LiveServer, http: httpx2.Client
    ):
        for base in ("/v1", "/v1/", "/openai/v1", "/openai/v1/"):
            with OpenAI(base_url=server.url + base, api_key="any", max_retries=0) as client:
                assert edit(client).data
        for path in (
            "/v1/images/edits",
            "/v1/images/edits/",
            "/openai/v1/images/edits/",
            "/v1/images/generations/",
            "/v1/images/variations/",
        ):
            assert http.post(path, json={}, follow_redirects=False).status_code in (400, 404)

    def test_36_twenty_calls_at_once_do_not_mix(self, server: LiveServer):
        async def one(client: AsyncOpenAI, number: int) -> bool:
            colour = (number * 12, 255 - number * 12, 77)
            answer = await client.images.edit(
                image=plain_image(colour), prompt="x", model=MODEL, size=SIZE, extra_body={"seed": number}
            )
            return answer.data[0].seed == number and close_to(colour_of(answer.data[0]), colour)

        async def all_of_them() -> list[bool]:
            async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
                return await asyncio.gather(*(one(client, number) for number in range(20)))

        assert asyncio.run(all_of_them()) == [True] * 20


class TestStreaming:
    def test_28_one_completed_event_for_each_image(self, client: OpenAI):
        events = list(edit(client, stream=True, n=2, output_format="webp", extra_body={"seed": 5}))
        assert [type(event) for event in events] == [ImageEditCompletedEvent] * 2
        assert [(event.image_index, event.seed) for event in events] == [(0, 5), (1, 6)]
        assert decoded(events[0]).format == "WEBP"
        whole = edit(client, n=2, output_format="webp", extra_body={"seed": 5})
        assert [event.b64_json for event in events] == [item.b64_json for item in whole.data]

    @pytest.mark.parametrize("wanted", [1, 3])
    def test_28_partial_images_come_in_order_and_at_the_final_size(self, gated: Deployment, wanted: int):
        with OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=0) as client:
            stream = edit(client, stream=True, partial_images=wanted, size="100x60", extra_body={"steps": 40})
            walker = threading.Thread(target=_walk, args=(gated, 40))
            walker.start()
            events = list(stream)
            walker.join()
        partials, completed = events[:-1], events[-1]
        assert [type(event) for event in partials] == [ImageEditPartialImageEvent] * wanted
        assert [event.partial_image_index for event in partials] == list(range(wanted))
        assert {event.size for event in events} == {"100x60"}
        assert {decoded(event).size for event in events} == {(100, 60)}
        assert isinstance(completed, ImageEditCompletedEvent)
        assert close_to(colour_of(completed), RED)

    def test_28_partial_images_of_several_images_say_which_they_are_of(self, tmp_path: Path):
        wanted, steps = 2, 8
        with (
            gated_server(tmp_path / "two", running=2) as gated,
            OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=0) as client,
        ):
            stream = edit(client, stream=True, n=2, partial_images=wanted, extra_body={"steps": steps})
            walker = threading.Thread(target=_walk, args=(gated, 2 * steps))
            walker.start()
            events = list(stream)
            walker.join()
        partials = [event for event in events if isinstance(event, ImageEditPartialImageEvent)]
        for image in (0, 1):
            own = [event.partial_image_index for event in partials if event.image_index == image]
            assert own == list(range(wanted)), image
        assert [event.image_index for event in events[len(partials) :]] == [0, 1]

    def test_29_a_waiting_stream_speaks_at_once(self, gated: Deployment):
        body = {"image": data_uri(plain_image()), "prompt": "x", "stream": True}
        with ThreadPoolExecutor(1) as pool, httpx2.Client(base_url=gated.url, timeout=20) as http:
            first = pool.submit(http.post, "/v1/images/edits", json=body | {"stream": False})
            gated.running()
            with http.stream("POST", "/v1/images/edits", json=body) as answer:
                lines = answer.iter_lines()
                assert re.fullmatch(r": queued position=0 seconds_left=\d+\.\d", next(lines))
                assert float(answer.headers["x-estimated-seconds"]) > 0
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert answer.headers["x-accel-buffering"] == "no"
                assert "content-encoding" not in answer.headers
                gated.gate.open()
                assert any(line == "event: image_edit.completed" for line in lines)
            assert first.result().status_code == 200

    def test_29_silence_is_broken_by_comments(self, gated: Deployment, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.05)
        body = {"image": data_uri(plain_image()), "prompt": "x", "stream": True}
        with httpx2.stream("POST", f"{gated.url}/v1/images/edits", json=body, timeout=20) as answer:
            comments = (line for line in answer.iter_lines() if line.startswith(": running"))
            assert all(next(comments).startswith(": running step 0/4 seconds_left=") for _ in range(3))
            gated.gate.open()

    def test_30_failures_before_and_in_the_stream(self, client: OpenAI):
        assert refused(client, stream=True, partial_images=4).param == "partial_images"
        assert refused(client, stream=True, output_format="gif").code == "unsupported_parameter"
        with pytest.raises(openai.APIError) as raised:
            list(edit(client, stream=True, image=[plain_image(), plain_image()[:100]]))
        assert (raised.value.code, raised.value.param) == ("invalid_image", "image[1]")

    def test_31_a_consumer_that_leaves_frees_the_device(self, gated: Deployment):
        with OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=0) as client:
            stream = edit(client, stream=True, partial_images=1, extra_body={"steps": 50})
            gated.running()
            stream.close()
            gated.newest_once(lambda job: job.cancel_requested or job.state is JobState.CANCELLED)
            gated.gate.let(1)
            assert gated.newest_once(lambda job: job.state.final).state is JobState.CANCELLED
            gated.gate.open()
            assert edit(client).data

    def test_an_edit_whose_stream_cannot_begin_is_stopped(self, waiting: Deployment):
        with waiting.outage(since="edit accepted"):
            answer = httpx2.post(f"{waiting.url}/v1/images/edits", json=STREAMED, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert waiting.newest_once(lambda job: job.state.final).state is JobState.CANCELLED

    def test_an_outage_as_a_stream_begins_is_an_error_event_and_stops_the_edit(self, waiting: Deployment):
        with waiting.outage(since="edit accepted", reads=1):  # the one for x-estimated-seconds
            answer = httpx2.post(f"{waiting.url}/v1/images/edits", json=STREAMED, timeout=20)
        assert answer.status_code == 200
        [event, data] = answer.text.strip().splitlines()
        assert event == "event: error"
        assert '"code":"database_unavailable"' in data
        assert waiting.newest_once(lambda job: job.state.final).state is JobState.CANCELLED


def _walk(gated: Deployment, steps: int) -> None:
    """Let the model take its steps one by one, each after the last was told."""
    gated.running()
    for step in range(1, steps + 1):
        gated.gate.let()
        if step < steps:
            gated.newest_once(lambda job, step=step: job.step >= step or job.state.final)


def large_buffers() -> list[bytes | bytearray | str]:
    """Everything of a megabyte or more that some object of this process refers to, running coroutines among them."""
    gc.collect()
    found = {
        id(buffer): buffer
        for holder in gc.get_objects()
        for buffer in gc.get_referents(holder)
        # By its type: asking a deprecated object of some library for its class is a warning.
        if type(buffer) in (bytes, bytearray, str) and len(buffer) > 1 << 20
    }
    return list(found.values())


@contextlib.contextmanager
def cutting_proxy(target: str, cut: tuple[int, ...]) -> Iterator[str]:
    """An address that leads to `target`; the connections with these numbers break within the upload."""
    host, port = target.removeprefix("http://").split(":")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket, number: int) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            if number in cut:
                server.sendall(client.recv(4096))
                return
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client, number), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


class TestRetries:
    def test_33_a_full_queue_is_429_and_a_retry_gets_through(self, tmp_path: Path):
        with (
            gated_server(tmp_path / "full", settings=ServiceSettings(max_waiting_per_account=1)) as gated,
            ThreadPoolExecutor(2) as pool,
            OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=0) as client,
        ):
            first = pool.submit(edit, client)
            gated.running()
            second = pool.submit(edit, client)
            gated.newest_once(lambda job: job.state is JobState.QUEUED)
            error = refused(client)
            assert isinstance(error, openai.RateLimitError)
            assert error.code == "queue_full"
            assert 1 <= int(error.response.headers["retry-after"]) <= 60
            gated.gate.open()
            assert first.result().data
            assert second.result().data
        uploads = list((tmp_path / "full" / "files" / "uploads").rglob("*.png"))
        assert len(uploads) == 2, "a refused call leaves nothing behind"

    def test_34_a_deterministic_failure_is_sent_once(self, server: LiveServer):
        sent: list[httpx2.Request] = []
        counting = httpx2.Client(event_hooks={"request": [sent.append]})
        with OpenAI(base_url=f"{server.url}/v1", api_key="any", http_client=counting) as client:
            refused(client, image=plain_image()[:100])
        assert len(sent) == 1

    def test_35_an_idempotency_key_runs_once(self, gated: Deployment):
        key = {"Idempotency-Key": "abc"}
        with OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=0) as client, ThreadPoolExecutor(2) as pool:
            calls = [
                pool.submit(
                    client.images.with_raw_response.edit,
                    image=plain_image(),
                    prompt="x",
                    model=MODEL,
                    size=SIZE,
                    extra_headers=key,
                )
                for _ in range(2)
            ]
            gated.running()
            gated.gate.open()
            answers = [call.result() for call in calls]
            again = client.images.with_raw_response.edit(
                image=plain_image(), prompt="x", model=MODEL, size=SIZE, extra_headers=key
            )
            images = {answer.parse().data[0].b64_json for answer in (*answers, again)}
            assert len(images) == 1
            assert len(gated.jobs()) == 1
            assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", "true"]
            assert again.headers["idempotent-replayed"] == "true"
            error = refused(client, prompt="other", extra_headers=key)
            assert isinstance(error, openai.UnprocessableEntityError)
            assert error.code == "idempotency_key_reused"

    def test_a_call_repeated_after_a_timeout_joins_the_running_job(self, gated: Deployment):
        sent: list[str] = []
        http = httpx2.Client(
            timeout=httpx2.Timeout(20, read=1.0),
            event_hooks={"request": [lambda request: sent.append(request.headers["x-stainless-retry-count"])]},
        )
        with OpenAI(base_url=f"{gated.url}/v1", api_key="any", max_retries=1, http_client=http) as client:
            patient = client.with_options(timeout=httpx2.Timeout(20, read=1.0))
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(edit, patient)
                until(lambda: len(sent) == 2)
                gated.gate.open()
                assert call.result().data
        assert sent == ["0", "1"]
        assert [job.state for job in gated.jobs()] == [JobState.SUCCEEDED]

    @pytest.mark.parametrize("cut", [(), (0, 2, 3)], ids=["every upload arrives", "some uploads are cut off"])
    def test_an_impatient_client_with_many_retries_starts_one_edit(self, gated: Deployment, cut: tuple[int, ...]):
        """Its pauses grow to 8 s, and what it repeats is kept for as long."""
        sent: list[str] = []
        hooks = {"request": [lambda request: sent.append(request.headers["x-stainless-retry-count"])]}
        with (
            cutting_proxy(gated.url, cut) as url,
            httpx2.Client(event_hooks=hooks) as http,
            OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=6, timeout=0.5, http_client=http) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            call = pool.submit(edit, client, image=plain_image() + bytes(100_000))
            until(lambda: "4" in sent)
            gated.gate.open()
            assert call.result().data
        assert [job.state for job in gated.jobs()] == [JobState.SUCCEEDED]

    def test_a_call_repeated_after_an_outage_is_answered_by_the_same_job(
        self, waiting: Deployment, monkeypatch: pytest.MonkeyPatch
    ):
        """The SDKs wait as long as the answer says, which is longer than their own pause."""
        monkeypatch.setattr(watch, "PATIENCE_S", 0.0)
        for name in ("FIRST_PAUSE_S", "MARGIN_S"):
            monkeypatch.setattr(routes, name, 0.0)
        row = replace(errors.ROWS["database_unavailable"], retry_after_s=40)
        monkeypatch.setattr(errors, "ROWS", {**errors.ROWS, "database_unavailable": row})

        def post(attempt: int) -> httpx2.Response:
            headers = {"x-stainless-retry-count": str(attempt)}
            body = {"image": data_uri(plain_image()), "prompt": "x"}
            return httpx2.post(f"{waiting.url}/v1/images/edits", json=body, headers=headers, timeout=20)

        with waiting.outage(since="edit accepted"):
            refused = post(0)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "40")
        image = replace(OUTPUT.images[0], blob=waiting.blobs.put(plain_image(), "image/png", folder="outputs"))
        waiting.service.finish(waiting.lease(), replace(OUTPUT, images=(image,)), USAGE)
        answer = post(1)
        assert answer.json()["metadata"]["job_id"] == waiting.jobs()[0].id
        assert len(waiting.jobs()) == 1

    def test_a_call_that_an_outage_ends_for_good_stops_its_edit(
        self, waiting: Deployment, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(watch, "PATIENCE_S", 0.0)
        body = {"image": data_uri(plain_image()), "prompt": "x"}
        with waiting.outage(since="edit accepted"):
            assert httpx2.post(f"{waiting.url}/v1/images/edits", json=body, timeout=20).status_code == 503
        assert waiting.newest_once(lambda job: job.state.final).state is JobState.CANCELLED

    @pytest.mark.parametrize("form", [True, False], ids=["form", "json"])
    def test_a_waiting_call_holds_no_image(self, gated: Deployment, tmp_path: Path, form: bool):
        """The client reads its body from a file, so whatever is as large as the upload is the server's."""
        noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).save(out, "PNG")
        body, content_type = tmp_path / "body", "application/json"
        if form:
            content_type = "multipart/form-data; boundary=b"
            head = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b\r\n'
            head += b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            body.write_bytes(head + out.getvalue() + b"\r\n--b--\r\n")
        else:
            body.write_text(f'{{"prompt": "x", "image": "{data_uri(out.getvalue())}"}}')
        del out, noise

        def post() -> int:
            with body.open("rb") as file:
                pieces = iter(lambda: file.read(1 << 16), b"")
                headers = {"content-type": content_type, "x-stainless-retry-count": "0"}
                url = f"{gated.url}/v1/images/edits"
                return httpx2.post(url, content=pieces, headers=headers, timeout=20).status_code

        before = {id(buffer) for buffer in large_buffers()}
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(post)
            gated.running()
            gated.gate.let()
            gated.newest_once(lambda job: job.step >= 1)
            held = [len(buffer) for buffer in large_buffers() if id(buffer) not in before]
            gated.gate.open()
            assert call.result() == 200
        assert held == []

    def test_an_answer_that_takes_too_long_names_the_job_that_goes_on(
        self, gated: Deployment, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(routes, "ANSWER_WITHIN_S", 0.2)
        with OpenAI(base_url=f"{gated.url}/v1", api_key="any") as client:
            error = refused(client)
        (job,) = gated.jobs()
        assert (error.status_code, error.code) == (504, "generation_timeout")
        assert error.response.headers["x-should-retry"] == "false"
        assert job.id in error.body["message"]
        gated.gate.open()
        assert gated.newest_once(lambda job: job.state.final).state is JobState.SUCCEEDED

    def test_two_equal_calls_that_are_no_retries_are_two_jobs(self, gated: Deployment):
        gated.gate.open()
        with OpenAI(base_url=f"{gated.url}/v1", api_key="any") as client:
            assert edit(client).data[0].seed != edit(client).data[0].seed
        assert len(gated.jobs()) == 2

    def test_a_caller_that_hangs_up_stops_its_edit(self, gated: Deployment):
        body = {"image": data_uri(plain_image()), "prompt": "x", "steps": 50}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{gated.url}/v1/images/edits", json=body, timeout=httpx2.Timeout(20, read=0.7))
        gated.newest_once(lambda job: job.cancel_requested or job.state is JobState.CANCELLED)

    def test_a_caller_with_an_idempotency_key_may_hang_up_and_fetch_later(self, gated: Deployment):
        body, key = {"image": data_uri(plain_image()), "prompt": "x"}, {"idempotency-key": "later"}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{gated.url}/v1/images/edits", json=body, headers=key, timeout=httpx2.Timeout(20, read=0.7))
        gated.gate.open()
        answer = httpx2.post(f"{gated.url}/v1/images/edits", json=body, headers=key, timeout=20)
        assert answer.json()["data"]
        assert len(gated.jobs()) == 1
