"""Which targets an edit is offered to: order, weights, conditions, overflow, breakers, forced targets."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from retouch.catalog.normalised import NO_SIZES, Emulation, ImageField, ImageSizes, Normalised
from retouch.catalog.profiles import Sheet
from retouch.edit import EditRequest, ImageInput, SizeRequest
from retouch.errors import InvalidRequest, TooLong
from retouch.upstreams.routes import LOCAL_TARGET, Circumstances, Conditions, RouteRule, Routes, Target, plan

REQUEST = EditRequest(model="qwen-image-edit-plus", prompt="make it snow", images=(ImageInput(blob="a"),))
NOW = Circumstances("studio", local_wait_s=1.0)
PLAIN = Normalised("m", {}, ImageField("image", "one", ()), None, 1, None, True, 1, 1, Emulation())


@dataclass(frozen=True)
class TakesPrompts:
    """A target's normaliser that refuses a prompt of more than `longest` characters unless it may cut it."""

    longest: int

    def __call__(self, request: EditRequest, sizes: ImageSizes = NO_SIZES, *, cut_prompt: bool = False) -> Normalised:
        if len(request.prompt) > self.longest and not cut_prompt:
            raise TooLong("prompt", len(request.prompt), self.longest)
        return PLAIN


@dataclass(frozen=True)
class RefusesMasks:
    def __call__(self, request: EditRequest, sizes: ImageSizes = NO_SIZES, *, cut_prompt: bool = False) -> Normalised:
        raise InvalidRequest("No masks there.", field="mask")


A = Target("fal/a", "fal", "a")
B = Target("burst/b", "burst", "b")
C = Target("ali/c", "ali", "c", region="ap-southeast-1", sheet=Sheet(per_image_microusd=75_000))


def routes(*targets: Target, **rule: object) -> Routes:
    return Routes((RouteRule("qwen-image-edit-plus", targets, **rule),), lambda name, account: None)  # type: ignore[arg-type]


def names(given: Routes, request: EditRequest = REQUEST, now: Circumstances = NOW) -> list[str]:
    made = plan(given, request, now)
    assert made is not None
    return [target.name for target in made.targets]


def test_targets_are_asked_in_the_order_of_the_file() -> None:
    assert names(routes(LOCAL_TARGET, A, B)) == ["local", "fal/a", "burst/b"]


def test_no_route_fits_a_model_that_none_names() -> None:
    assert plan(routes(A), replace(REQUEST, model="qwen-image-2"), NOW) is None


@pytest.mark.parametrize(
    ("when", "request_", "account", "fits"),
    [
        (Conditions(max_images=1), REQUEST, "x", True),
        (Conditions(max_images=1), replace(REQUEST, images=REQUEST.images * 2), "x", False),
        (Conditions(max_pixels=1_000_000), replace(REQUEST, size=SizeRequest(width=1000, height=1000)), "x", True),
        (Conditions(max_pixels=1_000_000), replace(REQUEST, size=SizeRequest(width=1001, height=1000)), "x", False),
        (Conditions(keys=("studio", "web-*")), REQUEST, "web-7", True),
        (Conditions(keys=("studio", "web-*")), REQUEST, "mobile", False),
    ],
)
def test_a_route_fits_when_its_conditions_do(when: Conditions, request_: EditRequest, account: str, fits: bool) -> None:
    given = Routes((RouteRule("*", (A,), when=when), RouteRule("*", (B,))), lambda name, account: None)
    assert names(given, request_, replace(NOW, account=account)) == (["fal/a"] if fits else ["burst/b"])


def test_targets_outside_the_region_or_above_the_price_are_left_out() -> None:
    near = Conditions(regions=("ap-southeast-1",))
    made = plan(routes(A, C, when=near), REQUEST, NOW)
    assert made is not None
    assert [target.name for target in made.targets] == ["ali/c"]
    assert made.left_out == {"fal/a": "its region or its price is not what the route allows"}
    assert names(routes(A, C, when=Conditions(max_price_microusd=74_999))) == ["fal/a"]
    assert names(routes(A, C, when=Conditions(max_price_microusd=75_000))) == ["fal/a", "ali/c"]


def test_weights_are_kept_within_three_per_cent_over_two_thousand_jobs() -> None:
    targets = [replace(A, weight=8), replace(B, weight=1), replace(C, weight=1)]
    given = routes(*targets, policy="weighted")
    draw = random.Random(20_261_130).random
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for _ in range(2_000):
        made = plan(given, REQUEST, NOW, draw)
        assert made is not None
        assert len(made.targets) == 3
        first[made.targets[0].name] += 1
        second[made.targets[1].name] += 1
    for target in targets:
        assert abs(first[target.name] / 2_000 - target.weight / 10) <= 0.03
    # Behind the heavy one the two light ones are as likely.
    assert abs(second["burst/b"] - second["ali/c"]) / 2_000 <= 0.06


def test_a_target_of_weight_zero_is_never_asked() -> None:
    assert names(routes(A, replace(B, weight=0), policy="weighted")) == ["fal/a"]


@pytest.mark.parametrize(("wait", "first"), [(0.0, "local"), (20.0, "local"), (20.1, "fal/a"), (None, "fal/a")])
def test_an_edit_flows_over_when_it_would_wait_too_long_here(wait: float | None, first: str) -> None:
    ours = replace(LOCAL_TARGET, overflow_after_s=20)
    order = names(routes(ours, A, B), now=replace(NOW, local_wait_s=wait))
    assert order[0] == first
    assert set(order) == {"local", "fal/a", "burst/b"}
    assert order == [name for name in ("local", "fal/a", "burst/b") if name != "local"] + ["local"] or first == "local"


def test_our_queue_waits_as_long_as_it_takes_when_no_overflow_is_set() -> None:
    assert names(routes(LOCAL_TARGET, A), now=replace(NOW, local_wait_s=3600.0))[0] == "local"


def test_targets_with_an_open_breaker_are_left_out() -> None:
    made = plan(routes(A, B), REQUEST, replace(NOW, open_since={"fal/a": 5.0}))
    assert made is not None
    assert [target.name for target in made.targets] == ["burst/b"]
    assert made.left_out == {"fal/a": "its breaker is open"}


def test_with_all_breakers_open_the_one_left_alone_for_the_longest_is_tried() -> None:
    now = replace(NOW, open_since={"fal/a": 5.0, "burst/b": 3.0})
    made = plan(routes(A, B), REQUEST, now)
    assert made is not None
    assert [target.name for target in made.targets] == ["burst/b"]
    assert len(made.targets) < 2


def test_a_caller_without_a_stored_key_never_gets_the_target_that_needs_one() -> None:
    made = plan(routes(A, B), REQUEST, replace(NOW, without_key={"fal"}))
    assert made is not None
    assert [target.name for target in made.targets] == ["burst/b"]
    assert "no key" in made.left_out["fal/a"]


def test_a_forced_target_is_the_only_one() -> None:
    given = Routes(routes(LOCAL_TARGET, A, B).rules, lambda name, account: None, forced={"burst/b": B})
    assert names(given, replace(REQUEST, model="burst/b")) == ["burst/b"]


def test_a_target_that_cannot_take_the_request_is_left_out_with_the_reason() -> None:
    made = plan(routes(replace(A, normalise=RefusesMasks()), B), REQUEST, NOW)
    assert made is not None
    assert [target.name for target in made.targets] == ["burst/b"]
    assert made.left_out == {"fal/a": "No masks there."}


def test_when_no_target_can_take_it_the_first_refusal_is_reported() -> None:
    with pytest.raises(InvalidRequest, match="No masks there") as refused:
        plan(routes(replace(A, normalise=RefusesMasks())), REQUEST, NOW)
    assert refused.value.field == "mask"


def test_a_long_prompt_goes_to_a_target_that_reads_all_of_it() -> None:
    short, long = replace(A, normalise=TakesPrompts(800)), replace(B, normalise=TakesPrompts(5_000))
    request = replace(REQUEST, prompt="x" * 801)
    made = plan(routes(short, long), request, NOW)
    assert made is not None
    assert [target.name for target in made.targets] == ["burst/b"]
    assert not made.cut_prompt
    made = plan(routes(short), request, NOW)
    assert made is not None
    assert [target.name for target in made.targets] == ["fal/a"]
    assert made.cut_prompt
