"""The process an operator starts as a gateway: no local model, no torch, every face, one routes file."""

from __future__ import annotations

import base64
import json
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from retouch import images
from retouch.catalog.profiles import hosted
from tests.harness import png
from tests.live_server import LiveServer, free_port, live_server, start_server
from tests.upstreams.stubs.dashscope import DashScopeStub
from tests.upstreams.stubs.fal import FalStub
from tests.upstreams.stubs.openai import OpenAIStub
from tests.upstreams.stubs.server import Closes, Says, StubProvider
from tests.waiting import until

KEY = "sk-a-very-secret-key-0123456789"
MEMORY_LIMIT_BYTES = 150 * 1024 * 1024


def routes_file(folder: Path, stubs: dict[str, StubProvider], *, extra: str = "") -> Path:
    lines = [extra]
    for name, stub in stubs.items():
        lines.append(f'[upstreams.{name}]\nkind = "{name}"\nkey = "env:STUB_KEY"\nbase_url = "{stub.base_url}"')
        lines.append('images = "inline"\nprice = { per_image_usd = 0.03 }')
    targets = ", ".join(f'{{ to = "{name}" }}' for name in stubs)
    lines.append(f'[[routes]]\nmodel = "*"\ntargets = [{targets}]')
    file = folder / "retouch.toml"
    file.write_text("\n".join(lines))
    return file


@contextmanager
def gateway_server(folder: Path, stubs: dict[str, StubProvider], **how: Any) -> Iterator[LiveServer]:
    folder.mkdir(exist_ok=True)
    extra = how.pop("extra", "")
    arguments = ("--workers", "0", "--routes", str(routes_file(folder, stubs, extra=extra)), *how.pop("arguments", ()))
    try:
        with live_server(folder, arguments=arguments, environment={"STUB_KEY": KEY}, **how) as server:
            yield server
    finally:
        for stub in stubs.values():
            stub.close()


def call(server: LiveServer, path: str, body: object | None = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.loads(error.read())}


def data_uri() -> str:
    return images.data_uri(png(), "image/png")


def test_every_face_serves_a_hosted_edit_and_the_process_is_light(tmp_path: Path) -> None:
    stub = FalStub()
    with gateway_server(tmp_path, {"fal": stub}) as server:
        assert server.get("/ready")[0] == 200
        queued = call(server, "/fal/queue/fal-ai/qwen-image-edit-plus", {"prompt": "x", "image_urls": [data_uri()]})
        place = f"/fal/queue/fal-ai/qwen-image-edit-plus/requests/{queued['request_id']}"
        until(lambda: call(server, f"{place}/status")["status"] == "COMPLETED")
        (image,) = call(server, place)["images"]
        with urllib.request.urlopen(image["url"], timeout=10) as answer:
            assert answer.read().startswith(b"\x89PNG")
        answer = call(
            server, "/v1/images/edits", {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}
        )
        assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(b"\x89PNG")
        answer = call(server, "/v2/qwen-image-edit/runsync", {"input": {"prompt": "x", "image": data_uri()}})
        assert answer["status"] == "COMPLETED", answer
        page = server.get("/metrics")[1].decode()
        assert 'retouch_upstream_attempts_total{outcome="done",target="fal/fal-ai/qwen-image-edit-plus"} 2.0' in page
        assert "retouch_upstream_cost_usd_total" in page
        pid = server.process.pid
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        (pss,) = (
            line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
        )
        assert int(pss.split()[1]) * 1024 < MEMORY_LIMIT_BYTES
        assert KEY not in server.log()
        assert "Edits go to hosted providers." in server.log()


def test_every_face_tells_the_cost_that_the_ledger_has(tmp_path: Path) -> None:
    with gateway_server(tmp_path, {"fal": FalStub()}) as server:
        body = {"model": "qwen-image-edit", "prompt": "x", "images": [data_uri()]}
        assert call(server, "/v1/images/edits", body)["metadata"]["cost"] == 0.03
        answer = call(server, "/v2/qwen-image-edit/runsync", {"input": {"prompt": "x", "image": data_uri()}})
        assert answer["output"]["cost"] == 0.03
        page = server.get("/metrics")[1].decode()
        assert 'retouch_upstream_cost_usd_total{target="fal/fal-ai/qwen-image-edit"} 0.06' in page


def test_an_unknown_outcome_is_a_502_that_no_sdk_repeats(tmp_path: Path) -> None:
    stub = OpenAIStub()
    stub.script("submit", Closes())
    with gateway_server(tmp_path, {"lumenfall": stub}) as server:
        body = json.dumps({"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}).encode()
        request = urllib.request.Request(f"{server.url}/v1/images/edits", body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=30)
        with raised.value as error:
            assert error.code == 502
            assert error.headers["x-should-retry"] == "false"
            assert json.loads(error.read())["error"]["code"] == "upstream_outcome_unknown"
    assert len(stub.at("submit")) == 1


def test_an_edit_that_may_be_charged_is_not_repeated_by_an_sdk(tmp_path: Path) -> None:
    stub = FalStub()
    stub.script("result", *[Says.json(200, {"images": []})] * 30)
    with gateway_server(tmp_path, {"fal": stub}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
        with pytest.raises(openai.InternalServerError, match="may charge for it") as raised:
            client.images.edit(model="qwen-image-edit-plus", prompt="x", image=("a.png", png(), "image/png"))
        assert raised.value.code == "all_providers_exhausted"
    assert len(stub.at("submit")) == 1


def test_a_webhook_names_a_lost_submit_and_nothing_else_does_anything(tmp_path: Path) -> None:
    stub = FalStub()
    stub.lists_history = False
    stub.script("submit", Closes())
    port = free_port()
    public_url = f"http://127.0.0.1:{port}"
    file = routes_file(tmp_path, {"fal": stub}, extra=f'[gateway]\npublic_url = "{public_url}"')
    server = start_server(
        tmp_path, port=port, arguments=("--workers", "0", "--routes", str(file)), environment={"STUB_KEY": KEY}
    )
    try:
        until(lambda: _answers(server))
        queued = call(server, "/fal/queue/fal-ai/qwen-image-edit-plus", {"prompt": "x", "image_urls": [data_uri()]})
        place = f"/fal/queue/fal-ai/qwen-image-edit-plus/requests/{queued['request_id']}"
        job = until(lambda: next(iter(stub.jobs.values()), None))
        assert job.webhook is not None
        assert job.webhook.startswith(f"{public_url}/upstreams/webhooks/")
        headers, body = stub.webhook(job)
        forged = {**headers, "X-Fal-Webhook-Signature": "00" * 64}
        assert post(job.webhook, body, forged) == 401
        assert post(f"{public_url}/upstreams/webhooks/another", body, headers) == 404
        assert call(server, f"{place}/status")["status"] == "IN_PROGRESS"
        assert post(job.webhook, body, headers) == 200
        until(lambda: call(server, f"{place}/status")["status"] == "COMPLETED")
        assert len(call(server, place)["images"]) == 1
        assert post(job.webhook, body, headers) == 200, "twice, and late"
        assert len(stub.at("submit")) == 1
        assert len(stub.bill) == 1
    finally:
        server.stop()
        stub.close()


def _answers(server: LiveServer) -> bool:
    try:
        return server.get("/ready", timeout_s=5)[0] == 200
    except OSError:
        return False


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_wrong_file_stops_the_start_and_a_wrong_reload_keeps_the_old_one(tmp_path: Path) -> None:
    stub, other = FalStub(), OpenAIStub()
    file = routes_file(tmp_path, {"fal": stub})
    good = file.read_text()
    file.write_text(good.replace('kind = "fal"', 'kind = "fall"'))
    environment = {"STUB_KEY": KEY}
    failed = start_server(tmp_path, arguments=("--workers", "0", "--routes", str(file)), environment=environment)
    assert failed.process.wait(40) == 1
    assert "line 3" in failed.log()
    assert "'fall' is no kind of upstream" in failed.log()
    with gateway_server(tmp_path, {"fal": stub}) as server:
        file.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the old one stays" in server.log())
        body = {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}
        assert "data" in call(server, "/v1/images/edits", body)
        routes_file(tmp_path, {"lumenfall": other})
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "read again" in server.log())
        assert "data" in call(server, "/v1/images/edits", body)
    assert len(stub.at("submit")) == len(other.at("submit")) == 1
    other.close()


def test_a_model_without_a_route_is_refused_by_name(tmp_path: Path) -> None:
    stub = FalStub()
    with gateway_server(tmp_path, {"fal": stub}) as server:
        file = tmp_path / "retouch.toml"
        file.write_text(file.read_text().replace('model = "*"', 'model = "qwen-image-edit-plus"'))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "read again" in server.log())
        refused = call(server, "/v1/images/edits", {"model": "qwen-image-2", "prompt": "x", "images": [data_uri()]})
        assert refused["status"] == 404, refused
        names = [entry["id"] for entry in call(server, "/v1/models")["data"]]
        assert names == ["qwen-image-edit-plus"]


def test_no_answer_and_no_log_line_shows_a_key_that_a_provider_echoes(tmp_path: Path) -> None:
    stub = OpenAIStub()
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key", "type": "x"}}
    stub.script("submit", *[Says.json(401, echo)] * 5)
    with gateway_server(tmp_path, {"lumenfall": stub}) as server:
        body = {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}
        answer = call(server, "/v1/images/edits", body)
        assert answer["status"] == 502
        assert answer["error"]["code"] == "all_providers_exhausted"
        assert "authentication" in answer["error"]["message"]
        assert KEY not in json.dumps(answer)
        assert KEY not in server.log()
        assert KEY not in server.get("/metrics")[1].decode()
    assert all(KEY.encode() not in each.read_bytes() for each in tmp_path.glob("retouch.db*"))


def test_the_openai_face_says_who_made_an_edit_and_what_each_provider_does(tmp_path: Path) -> None:
    stub = FalStub()
    edit = {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()], "size": "1000x1000", "n": 2}
    with gateway_server(tmp_path, {"fal": stub}) as server:
        estimate = call(server, "/v1/images/edits?dryRun=true", {**edit, "seed": 7})
        assert (estimate["provider"], estimate["total_cost_micros"]) == ("fal", 60_000)
        assert estimate["resolved"]["executed_model"] == "fal/fal-ai/qwen-image-edit-plus"
        assert estimate["resolved"]["output"] == "1000x1000"
        assert {"size", "n"} <= {notice["parameter"] for notice in estimate["resolved"]["notices"]}
        assert not stub.seen
        answer = call(server, "/v1/images/edits", edit)
        assert answer["metadata"]["provider"] == answer["metadata"]["provider_name"] == "fal"
        assert answer["metadata"]["executed_model"] == "fal/fal-ai/qwen-image-edit-plus"
        assert answer["size"] == "1000x1000"
        listed = call(server, "/v1/models")["data"]
        assert {model["executed_model"].partition("/")[0] for model in listed} == {"fal"}
        [target] = call(server, "/v1/models/qwen-image-edit-plus")["targets"]
        assert target["target"] == "fal/fal-ai/qwen-image-edit-plus"
        assert target["parameters"]["mask"]["behavior"] == "emulated"
        refused = call(server, "/v1/images/edits?dryRun=true", {**edit, "model": "qwen-image-2", "loras": ["a/b"]})
        assert refused["status"] == 400
        forced = call(server, "/v1/models/fal/fal-ai/qwen-image-2/pro/edit")
        assert [each["target"] for each in forced["targets"]] == ["fal/fal-ai/qwen-image-2/pro/edit"]


def estimate_and_answer(server: LiveServer, **changes: Any) -> tuple[Any, Any]:
    """What a dry run says of an edit, and what the edit then says."""
    body = {"prompt": "x", "images": [data_uri()], "size": "1000x1000", **changes}
    return call(server, "/v1/images/edits?dryRun=true", body), call(server, "/v1/images/edits", body)


def test_a_dry_run_cuts_a_prompt_and_prices_a_lora_as_the_edit_does(tmp_path: Path) -> None:
    fal, at_its_price = FalStub(), "[upstreams.plain]\nkind = 'fal'\nkey = 'env:STUB_KEY'\nimages = 'inline'"
    extra = f"{at_its_price}\nbase_url = '{fal.base_url}'"
    with gateway_server(tmp_path, {"fal": fal, "dashscope": DashScopeStub()}, extra=extra) as server:
        estimate, answer = estimate_and_answer(server, model="dashscope/qwen-image-edit-plus", prompt="x " * 450)
        assert estimate["resolved"]["notices"] == answer["metadata"]["notices"]
        assert "cut at 800 characters" in str(answer["metadata"]["notices"])
        loras = ["https://example.com/a.safetensors"]
        estimate, answer = estimate_and_answer(server, model="plain/qwen-image-edit-plus", loras=loras)
        assert estimate["total_cost_micros"] == 1e6 * answer["metadata"]["cost"] == 35_000


def test_a_dry_run_refuses_what_a_strict_route_refuses(tmp_path: Path) -> None:
    strict = "[[routes]]\nmodel = 'qwen-image-2'\nstrict = true\ntargets = [{ to = 'fal' }]"
    with gateway_server(tmp_path, {"fal": FalStub()}, extra=strict) as server:
        estimate, answer = estimate_and_answer(server, model="qwen-image-2", steps=10)
        assert estimate == answer
        assert answer["error"]["param"] == "steps"


def test_the_units_that_a_provider_counts_are_booked_at_its_own_price(tmp_path: Path) -> None:
    stub = FalStub()
    lines = routes_file(tmp_path, {"fal": stub}).read_text().replace("price = { per_image_usd = 0.03 }", "")
    file = tmp_path / "own.toml"
    file.write_text(lines)
    arguments = ("--workers", "0", "--routes", str(file))
    with live_server(tmp_path / "data", arguments=arguments, environment={"STUB_KEY": KEY}) as server:
        body = {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}
        assert call(server, "/v1/images/edits", body)["data"], server.log()
        page = server.get("/metrics")[1].decode()
    stub.close()
    (booked,) = (line for line in page.splitlines() if line.startswith("retouch_upstream_cost_usd_total"))
    assert (
        float(booked.rpartition(" ")[2])
        == hosted().profiles["fal/fal-ai/qwen-image-edit-plus"].price.per_unit_microusd / 1e6
    )  # type: ignore[union-attr]


def test_callers_bring_their_own_keys_which_are_used_for_them_alone(tmp_path: Path) -> None:
    stub = FalStub()
    file = routes_file(tmp_path, {"fal": stub})
    file.write_text(file.read_text().replace("env:STUB_KEY", "caller:fal"))
    arguments = ("--workers", "0", "--routes", str(file))
    with live_server(tmp_path, arguments=arguments, key=True) as server:

        def ask(path: str, body: object | None = None, method: str | None = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
            request = urllib.request.Request(server.url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    return {"status": error.code, **json.loads(error.read())}

        edit = {"model": "qwen-image-edit-plus", "prompt": "x", "images": [data_uri()]}
        assert ask("/v1/images/edits", edit)["status"] == 400
        assert call(server, "/upstreams/keys")["status"] == 401
        assert ask("/upstreams/keys/fal", {"kee": 1}, "PUT")["status"] == 400
        stored = ask("/upstreams/keys/fal", {"key": "fk-of-this-caller"}, "PUT")
        assert ask("/upstreams/keys") == {"keys": [stored]}
        assert "data" in ask("/v1/images/edits", edit)
        assert ask("/upstreams/keys/fal", method="DELETE")["deleted"] is True
        assert ask("/upstreams/keys/fal", method="DELETE")["status"] == 404
        assert "fk-of-this-caller" not in server.log()
    (submit,) = stub.at("submit")
    assert submit.headers["authorization"] == "Key fk-of-this-caller"
    assert all(b"fk-of-this-caller" not in each.read_bytes() for each in tmp_path.glob("retouch.db*"))
    stub.close()
