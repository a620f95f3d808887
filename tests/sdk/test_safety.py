"""What each vendor's unmodified client sees of a refusal, of a check that was not made, and of a rewritten prompt."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fal_client
import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image

from retouch.engine.pipelines.null import NullPipeline
from retouch.engine.prompt_safety import Judgement, PromptChecker
from retouch.engine.rewrite import PromptExpander
from retouch.engine.safety import ImageChecker
from retouch.images import Pixels
from retouch.worker.policy import JobPolicy
from retouch.worker.staging import Moderation
from tests.harness import Deployment, gated_server
from tests.live_server import LiveServer, clean_environment, free_port, live_server
from tests.sdk import runpod_client
from tests.sdk.fal import EDIT, PLUS, TWO, arguments, image_at, photo, pointed_at
from tests.waiting import until
from tests.webhook_receiver import webhook_receiver

PROMPT = "make it snow"


@pytest.fixture(scope="module")
def flagging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The command line's own server, which flags every image it checks."""
    folder = tmp_path_factory.mktemp("flagging")
    with live_server(folder, model="null", arguments=("--safety-threshold", "0")) as running:
        yield running


def openai_client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def edit(client: OpenAI, **more: Any) -> Any:
    return client.images.edit(**{"model": "qwen-image-edit", "image": ("a.png", photo()), "prompt": PROMPT} | more)


def is_black(image: Image.Image) -> bool:
    return image.convert("RGB").getextrema() == ((0, 0), (0, 0), (0, 0))


# --- every image flagged, by the real command line


@pytest.mark.parametrize("endpoint", [EDIT, PLUS])
@pytest.mark.parametrize("inline", [False, True])
def test_fals_edit_endpoints_answer_black_images_that_are_marked(
    flagging: LiveServer, endpoint: str, inline: bool
) -> None:
    with pointed_at(flagging) as client:
        result = client.run(endpoint, arguments(endpoint, sync_mode=inline, image_size={"width": 256, "height": 192}))
    assert result["has_nsfw_concepts"] == [True]
    black = image_at(result["images"][0]["url"])
    assert (black.size, black.mode) == ((256, 192), "RGB")
    assert is_black(black)


def test_fals_newer_endpoint_refuses_the_first_input(flagging: LiveServer) -> None:
    with pointed_at(flagging) as client, pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.run(TWO, arguments(TWO))
    answer = refused.value.response
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["type"] == "content_policy_violation"
    assert problem["loc"] == ["body", "image_urls", 0]
    assert answer.headers["x-fal-retryable"] == "false"
    assert answer.headers["x-fal-billable-units"] == "0"
    assert "score" not in answer.text


def test_fals_queue_ends_completed_and_its_result_and_webhook_refuse(tmp_path: Path) -> None:
    with webhook_receiver() as receiver:
        options = ("--safety-threshold", "0", "--allow-private", receiver.address)
        with live_server(tmp_path, model="null", arguments=options) as server, pointed_at(server) as client:
            handle = client.submit(TWO, arguments(TWO), webhook_url=receiver.url)
            posted = json.loads(receiver.next().body)
            assert isinstance(handle.status(), fal_client.Completed)
            with pytest.raises(fal_client.FalClientHTTPError) as refused:
                handle.get()
    assert refused.value.response.status_code == 422
    assert posted["status"] == "ERROR"
    assert posted["payload"]["detail"] == refused.value.response.json()["detail"]


def test_openai_answers_its_policy_error_and_the_retry_is_the_same_refusal(flagging: LiveServer) -> None:
    with openai_client(flagging.url) as client:
        for _ in range(2):
            with pytest.raises(openai.BadRequestError) as refused:
                edit(client, extra_headers={"Idempotency-Key": "one"})
            assert refused.value.code == "content_policy_violation"
            assert refused.value.type == "invalid_request_error"
            assert refused.value.param == "image[0]"
            body = refused.value.body
            assert isinstance(body, dict)
            assert body["gateway_code"] == "CONTENT_POLICY_VIOLATION"
            assert body["moderation_details"] == {"moderation_stage": "input", "categories": ["sexual"]}


def test_runpod_fails_the_job_with_one_sentence_and_no_cost(flagging: LiveServer) -> None:
    answer = runpod_client.call(flagging, "POST", "runsync", json={"input": runpod_client.an_input()})
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "FAILED"
    assert body["error"] == "The image in 'image' was refused by the safety checker."
    assert "output" not in body
    with runpod_client.pointed_at(flagging.url) as endpoint:
        job = endpoint.run({"input": runpod_client.an_input()})
        until(lambda: job.status() == "FAILED")


def test_metrics_count_the_verdicts(flagging: LiveServer) -> None:
    with openai_client(flagging.url) as client, pytest.raises(openai.BadRequestError):
        edit(client)

    def counted() -> bool:
        text = flagging.get("/metrics")[1].decode()
        return 'stage="input",verdict="flagged"' in text and "retouch_safety_seconds_total" in text

    assert until(counted)


# --- a checker of our own, to flag one image of several


class Shaded(NullPipeline):
    """Image i of a job is one grey of 40 (i + 1), for the seed 7; remembers the prompts it got."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def prepare(self, spec, images, inputs=None):
        self.prompts.append(spec.prompt)
        return super().prepare(spec, images, inputs)

    def decode(self, state) -> Pixels:
        return np.full_like(super().decode(state), 40 * ((state.spec.seed - 6) % 6))


@dataclass
class Classifier:
    flags: Callable[[Pixels], bool]
    error: Exception | None = None
    name: str = "told"
    category: str | None = "sexual"
    default_threshold: float = 0.5
    timeout_s: float | None = None

    def score(self, image: Pixels) -> float:
        if self.error is not None:
            raise self.error
        return float(self.flags(image))


@dataclass
class Guard:
    name: str = "guard"

    def judge(self, prompt: str) -> Judgement:
        return Judgement("weapon" in prompt, "violence")


@dataclass
class Rewriter:
    replies: list[str]
    name: str = "told"

    def answer(self, prompt: str, images: Sequence[Pixels], cancelled: Callable[[], bool]) -> str:
        return self.replies.pop(0)


def policy(flags: Callable[[Pixels], bool] = lambda image: False, **more: Any) -> JobPolicy:
    error, rewrites = more.pop("error", None), more.pop("rewrites", None)
    moderation = Moderation(ImageChecker(Classifier(flags, error)), PromptChecker(Guard()), **more)
    expander = None if rewrites is None else PromptExpander(Rewriter([json.dumps({"Rewritten": r}) for r in rewrites]))
    return JobPolicy(moderation, expander)


@contextlib.contextmanager
def serving(folder: Path, rules: JobPolicy) -> Iterator[tuple[Deployment, Shaded]]:
    pipeline = Shaded()
    with gated_server(folder, pipeline=pipeline, policy=rules) as server:
        yield server, pipeline


def second(image: Pixels) -> bool:
    return bool((image == 80).all())


def shaded(image: Pixels) -> bool:
    return bool((image == image[0, 0, 0]).all())


def test_one_flagged_of_two_is_black_in_its_place_on_every_face(tmp_path: Path) -> None:
    with serving(tmp_path, policy(second)) as (server, _):
        with pointed_at(server) as fal:
            for endpoint in (EDIT, TWO):
                result = fal.run(endpoint, arguments(endpoint, num_images=2, seed=7))
                images = [image_at(each["url"]) for each in result["images"]]
                assert [is_black(image) for image in images] == [False, True]
                if endpoint == EDIT:
                    assert result["has_nsfw_concepts"] == [False, True]
                else:
                    assert "image 2 of 2" in json.dumps(result["notices"])
        with openai_client(server.url) as client:
            answer = edit(client, n=2, extra_body={"seed": 7})
        assert [item.has_nsfw_concepts for item in answer.data] == [False, True]
        last = Image.open(io.BytesIO(base64.b64decode(answer.data[1].b64_json)))
        assert is_black(last)
        usage = [job.usage for job in server.jobs()]
        assert [each.images for each in usage if each is not None] == [1, 1, 1]


def test_a_flagged_prompt_is_refused_on_every_face_and_takes_no_step(tmp_path: Path) -> None:
    with serving(tmp_path, policy()) as (server, pipeline):
        with pointed_at(server) as fal, pytest.raises(fal_client.FalClientHTTPError) as refused:
            fal.run(EDIT, arguments(EDIT) | {"prompt": "add a weapon"})
        assert refused.value.response.json()["detail"][0]["loc"] == ["body", "prompt"]
        with openai_client(server.url) as client, pytest.raises(openai.BadRequestError) as policy_error:
            edit(client, prompt="add a weapon")
        assert policy_error.value.param == "prompt"
        assert policy_error.value.body["moderation_details"]["categories"] == ["violence"]  # type: ignore[index]
        answer = runpod_client.call(
            server.url, "POST", "runsync", json={"input": runpod_client.an_input() | {"prompt": "add a weapon"}}
        )
        assert answer.json()["error"] == "The prompt was refused by the safety checker."
        assert pipeline.prompts == []
        assert all(job.usage is None and job.step == 0 for job in server.jobs())


def test_when_every_output_is_flagged_the_newer_endpoint_and_openai_refuse(tmp_path: Path) -> None:
    with serving(tmp_path, policy(shaded)) as (server, _):
        with pointed_at(server) as fal, pytest.raises(fal_client.FalClientHTTPError) as refused:
            fal.run(TWO, arguments(TWO, seed=7))
        assert refused.value.response.json()["detail"][0]["loc"] == ["body"]
        with openai_client(server.url) as client:
            with pytest.raises(openai.BadRequestError) as error:
                edit(client, extra_body={"seed": 7})
            assert error.value.param is None
            assert error.value.body["moderation_details"]["moderation_stage"] == "output"  # type: ignore[index]
            with (
                pytest.raises(openai.APIError) as streamed,
                edit(client, stream=True, extra_body={"seed": 7}) as events,
            ):
                list(events)
            assert "refused by the safety checker" in str(streamed.value)


def test_a_checker_that_fails_is_a_server_that_is_away(tmp_path: Path) -> None:
    with serving(tmp_path, policy(error=RuntimeError("broken"))) as (server, _):
        fal = httpx.post(f"{server.url}/fal/run/{EDIT}", json=arguments(EDIT), timeout=30)
        assert (fal.status_code, fal.json()["error_type"]) == (503, "runner_server_error")
        with openai_client(server.url) as client, pytest.raises(openai.InternalServerError) as away:
            edit(client)
        assert (away.value.status_code, away.value.code) == (503, "safety_unavailable")
        assert away.value.response.headers["retry-after"] == "5"
        job = runpod_client.call(server.url, "POST", "runsync", json={"input": runpod_client.an_input()}).json()
        assert (job["status"], job["error"]) == ("FAILED", "The safety checker is not available; try again.")


def test_or_it_delivers_with_a_notice_where_the_operator_says_so(tmp_path: Path) -> None:
    rules = policy(error=RuntimeError("broken"), failure="pass")
    with serving(tmp_path, rules) as (server, _), pointed_at(server) as fal:
        result = fal.run(EDIT, arguments(EDIT))
        assert result["has_nsfw_concepts"] != [True]
        assert "Not checked: the safety checker failed." in json.dumps(result["notices"])


def test_a_caller_may_switch_the_check_off_unless_the_operator_enforces_it(tmp_path: Path) -> None:
    off = {"enable_safety_checker": False, "seed": 7}
    with serving(tmp_path / "free", policy(shaded)) as (server, _), pointed_at(server) as fal:
        result = fal.run(EDIT, arguments(EDIT, **off))
        assert result["has_nsfw_concepts"] == [False]
        assert not is_black(image_at(result["images"][0]["url"]))
    with serving(tmp_path / "enforced", policy(shaded, enforce=True)) as (server, _):
        with pointed_at(server) as fal:
            result = fal.run(EDIT, arguments(EDIT, **off))
        assert result["has_nsfw_concepts"] == [True]
        notices = [(notice["parameter"], notice["action"]) for notice in result["notices"]]
        assert ("enable_safety_checker", "converted") in notices


def test_the_prompt_that_was_used_is_reported_as_each_face_can(tmp_path: Path) -> None:
    rewrites = ["Add soft snow to the roof.", "Add light snow.", "Cover the ground with snow."]
    with serving(tmp_path, policy(rewrites=list(rewrites))) as (server, pipeline):
        with pointed_at(server) as fal:
            newer = fal.run(TWO, arguments(TWO, seed=1))
            plain = fal.run(EDIT, arguments(EDIT))
        assert {"parameter": "enable_prompt_expansion", "action": "converted", "detail": rewrites[0]} in newer[
            "notices"
        ]
        assert plain["prompt"] == PROMPT
        with openai_client(server.url) as client:
            answer = edit(client, image=("b.png", photo(200, 100)), extra_body={"enhance_prompt": True})
            untouched = edit(client)
        assert answer.data[0].revised_prompt == rewrites[1]
        assert untouched.data[0].revised_prompt == PROMPT
        wide = "data:image/png;base64," + base64.b64encode(photo(300, 100)).decode()
        wanted = runpod_client.an_input(enable_prompt_expansion=True) | {"image": wide}
        job = runpod_client.call(server.url, "POST", "runsync", json={"input": wanted}).json()
        assert job["output"]["revised_prompt"] == rewrites[2]
        assert pipeline.prompts == [rewrites[0], PROMPT, rewrites[1], PROMPT, rewrites[2]]


def test_a_rewrite_that_cannot_be_used_is_a_notice_and_the_edit_succeeds(tmp_path: Path) -> None:
    rules = policy(rewrites=['Write "SALE" on it.'])
    with serving(tmp_path, rules) as (server, pipeline), pointed_at(server) as fal:
        result = fal.run(TWO, arguments(TWO))
    [notice] = [each for each in result["notices"] if each["parameter"] == "enable_prompt_expansion"]
    assert notice["action"] == "ignored"
    assert "quotes what the prompt does not say" in notice["detail"]
    assert pipeline.prompts == [PROMPT]


# --- servers that check nothing, or cannot


def test_without_a_checker_every_answer_says_that_nothing_was_checked(tmp_path: Path) -> None:
    options = ("--safety-checker", "off", "--safety-threshold", "0")
    with live_server(tmp_path, model="null", arguments=options) as server, pointed_at(server) as fal:
        result = fal.run(EDIT, arguments(EDIT))
        assert result["has_nsfw_concepts"] != [True]
        assert not is_black(image_at(result["images"][0]["url"]))
        assert "the images were not checked" in json.dumps(result["notices"])
        with openai_client(server.url) as client:
            answer = edit(client, extra_body={"enable_safety_checker": True})
        assert answer.data[0].has_nsfw_concepts is None


def test_a_checker_that_cannot_be_loaded_keeps_the_server_unready_and_says_why(tmp_path: Path) -> None:
    with live_server(tmp_path, model="null", arguments=("--workers", "0"), ready=False) as server:
        command = (sys.executable, "-m", "retouch", "worker", "--data", str(server.data), "--model", "null")
        ended = subprocess.run(
            (*command, "--safety-checker", "/nowhere"),
            env=clean_environment({}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr.strip().endswith("--safety-checker: there is no folder '/nowhere'.")
        status, body = server.get("/ready")
        assert status == 503
        assert "there is no folder '/nowhere'" in body.decode()


def test_the_server_ends_with_the_sentence_when_its_own_worker_cannot_check(tmp_path: Path) -> None:
    command = (
        sys.executable,
        "-m",
        "retouch",
        "serve",
        "--port",
        str(free_port()),
        "--data",
        str(tmp_path),
        "--model",
        "null",
    )
    for options, sentence in (
        (("--safety-threshold", "1.5"), "--safety-threshold is 1.5"),
        (("--rewriter", "https://user:word@host/v1"), "the key belongs in RETOUCH_REWRITER_KEY"),
        (("--prompt-checker", "resident"), "--prompt-checker resident needs a checkpoint"),
    ):
        ended = subprocess.run(
            (*command, *options), env=clean_environment({}), capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 1
        assert sentence in ended.stderr
