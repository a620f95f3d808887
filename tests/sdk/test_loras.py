"""LoRAs through the vendors' own clients on the demo checkpoint: each face's form, each face's way of saying no."""

from __future__ import annotations

import base64
import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import httpx
import numpy as np
import openai
import pytest
from diffusers import QwenImageTransformer2DModel

from retouch.engine.pipelines.folders import PACKAGED_DEMO
from tests import tiny_loras
from tests.live_server import LiveServer, live_server
from tests.sdk.fal import call, image_at, photo, pointed_at

LORA = "fal-ai/qwen-image-edit-lora"
PROMPT = "make it grayscale"

PHOTO = photo(128, 96)
DATA_URI = "data:image/png;base64," + base64.b64encode(PHOTO).decode()

# The vendor's client opens a connection for each upload and leaves closing it to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that was made for the demo's network."""
    network = QwenImageTransformer2DModel.from_pretrained(PACKAGED_DEMO / "transformer")
    blocks = len(network.transformer_blocks)
    made = tiny_loras.matrices(network, tiny_loras.in_blocks(("attn.to_q", "img_mlp.net.2"), blocks))
    return tiny_loras.write(tmp_path_factory.mktemp("loras") / "style.safetensors", made, "kohya")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, style: Path) -> Iterator[LiveServer]:
    folder = style.parent
    (folder / "style.pt").write_bytes(pickle.dumps({"lora": 1}))
    made = tiny_loras.matrices(QwenImageTransformer2DModel(num_layers=1), ["transformer_blocks.0.attn.to_q"])
    tiny_loras.write(folder / "large.safetensors", made)
    (folder.parent / "outside.safetensors").write_bytes(style.read_bytes())
    environment = {"RETOUCH_LORA_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    with live_server(tmp_path_factory.mktemp("data"), model="demo", environment=environment) as running:
        yield running


@pytest.fixture
def fal(server: LiveServer) -> Iterator[fal_client.SyncClient]:
    with pointed_at(server) as client:
        yield client
    gc.collect()


def body(*loras: object, **more: Any) -> dict[str, Any]:
    given = {"loras": list(loras)} if loras else {}
    size = {"width": 128, "height": 128}
    return {"prompt": PROMPT, "image_url": DATA_URI, "image_size": size, "seed": 1, **given, **more}


def pixels(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(image_at(answer["images"][0]["url"]).convert("RGB"), dtype=int)


def test_a_lora_changes_its_own_edit_and_no_other(fal: fal_client.SyncClient) -> None:
    plain = pixels(fal.subscribe(LORA, body()))
    with_style = pixels(fal.subscribe(LORA, body({"path": "style.safetensors", "scale": 2})))
    again = pixels(fal.subscribe(LORA, body({"path": "style.safetensors", "scale": 0})))
    assert np.abs(with_style - plain).mean() > 1
    np.testing.assert_array_equal(again, plain)


def test_an_upload_is_a_lora_and_the_same_as_the_file(fal: fal_client.SyncClient, style: Path) -> None:
    link = fal.upload(style.read_bytes(), "application/octet-stream", "style.safetensors")
    uploaded = pixels(fal.subscribe(LORA, body({"path": link})))
    named = pixels(fal.subscribe(LORA, body({"path": "style.safetensors"})))
    np.testing.assert_array_equal(uploaded, named)


def test_openai_and_runpod_run_the_same_loras(server: LiveServer, fal: fal_client.SyncClient) -> None:
    expected = pixels(fal.subscribe(LORA, body({"path": "style.safetensors", "scale": 0.5})))
    loras = [{"path": "style.safetensors", "scale": 0.5}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        more = {"loras": loras, "seed": 1, "acceleration": "regular"}
        made = client.images.edit(image=("a.png", PHOTO, "image/png"), prompt=PROMPT, size="128x128", extra_body=more)  # type: ignore[call-overload]
        found = np.asarray(image_at(made.data[0].url).convert("RGB"), dtype=int)
    np.testing.assert_array_equal(found, expected)

    given = {"prompt": PROMPT, "image": DATA_URI, "seed": 1, "loras": loras, "output_format": "png"}
    url = f"{server.url}/v2/qwen-image-edit-2511-lora/runsync"
    job = httpx.post(url, json={"input": {**given, "size": "128*128"}}, timeout=60).json()
    assert job["status"] == "COMPLETED", job


BAD = {
    "style.pt": "is a pickle",
    "large.safetensors": "does not fit this network",
    "../outside.safetensors": "There is no LoRA",
    "/etc/passwd": "There is no LoRA",
    "owner/name": "could not be fetched",
    "http://127.0.0.1:1/l.safetensors": "not a public address",
}


@pytest.mark.parametrize(("path", "says"), BAD.items())
def test_a_bad_lora_is_one_sentence_in_each_faces_shape_and_the_server_stays_up(
    server: LiveServer, path: str, says: str
) -> None:
    lora = {"path": path}
    answer = call(server, "POST", f"/run/{LORA}", json=body(lora))
    assert answer.status_code == 422, answer.text
    [problem] = answer.json()["detail"]
    assert problem["loc"] == ["body", "loras", 0, "path"]
    assert says in problem["msg"]

    given = {"prompt": PROMPT, "image": DATA_URI, "loras": [lora]}
    error = httpx.post(f"{server.url}/v1/images/edits", json=given, timeout=60)
    assert error.status_code == 400
    assert error.json()["error"]["param"] == "loras[0].path"
    assert says in error.json()["error"]["message"]

    job = httpx.post(f"{server.url}/v2/qwen-image-edit-2511-lora/runsync", json={"input": given}, timeout=60).json()
    assert job["status"] == "FAILED"
    assert says in job["error"]
    assert server.get("/ready")[0] == 200


def test_the_list_of_models_says_how_many_each_takes(server: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        capabilities = {model.id: model.capabilities for model in client.models.list()}  # type: ignore[attr-defined]
    assert capabilities["qwen-image-edit"]["max_loras"] == 3
    assert b"`loras`" in server.get(f"/fal/models/{LORA}/llms.txt")[1]
