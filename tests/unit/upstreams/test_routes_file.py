"""The routes file: what the documented examples come to, and every mistake with its line and reason."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch.catalog import Catalog, checkpoint_named
from retouch.catalog.normaliser import Normaliser
from retouch.catalog.profiles import Sheet
from retouch.catalog.routing import MODELS, model_named
from retouch.edit import EditRequest, ImageInput
from retouch.errors import InvalidSetting, UnknownModel
from retouch.protocols.openai.dump import dump_targets
from retouch.protocols.openai.parse import route_of
from retouch.upstreams.routes import Circumstances, plan
from retouch.upstreams.routes_file import InvalidRoutesFile, RoutesFile, load_routes
from retouch.upstreams.toml_tables import TomlLines

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "lead-edits-to-hosted-providers.md"
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
VALUE = "sk-of-the-routes-file-01"
ENVIRONMENT = {"FAL_KEY": VALUE, "PEER_KEY": "peer-key-0001", "DASHSCOPE_API_KEY": "sk-dashscope-0001"}

FAL = """
[upstreams.fal]
kind = "fal"
key = "env:FAL_KEY"
"""
TO_FAL = """
[[routes]]
model = "*"
targets = [{ to = "fal" }]
"""


def load(folder: Path, text: str, **environment: str) -> RoutesFile:
    file = folder / "retouch.toml"
    file.write_text(textwrap.dedent(text), "utf-8")
    return load_routes(file, environment={**ENVIRONMENT, **environment})


def secret_file(folder: Path, text: str, mode: int = 0o600) -> None:
    folder.joinpath("secrets").mkdir(exist_ok=True)
    file = folder / "secrets" / "runpod.key"
    file.write_text(text)
    file.chmod(mode)


def problems(folder: Path, text: str) -> list[tuple[int, str]]:
    with pytest.raises(InvalidRoutesFile) as refused:
        load(folder, text)
    return list(refused.value.problems)


def targets(file: RoutesFile, model: str) -> list[str]:
    return next([target.name for target in rule.targets] for rule in file.rules if rule.model == model)


# ------------------------------------------------------------------------------------------------- the documented ones


def test_everything_goes_to_fal(tmp_path: Path) -> None:
    file = load(tmp_path, EXAMPLES[0])
    assert {rule.model for rule in file.rules} == {model.id for model in MODELS}
    assert targets(file, "qwen-image-edit") == ["fal/fal-ai/qwen-image-edit"]
    assert targets(file, "qwen-image-2") == ["fal/fal-ai/qwen-image-2/edit"]
    assert file.rules[0].targets[0].sheet == Sheet(per_megapixel_microusd=30_000)
    assert str(file.upstreams["fal"].key.secret) not in ("", VALUE)


def test_our_own_gpu_first_then_a_rented_one_then_fal(tmp_path: Path) -> None:
    secret_file(tmp_path, "rp-secret-key-01\n")
    file = load(tmp_path, EXAMPLES[1])
    assert (file.settings.public_url, file.settings.deadline_s) == ("https://edit.example.com", 300)
    rule = file.rules[0]
    assert (rule.model, rule.when.max_images, rule.when.max_pixels) == ("qwen-image-edit-plus", 3, 4_194_304)
    assert [target.name for target in rule.targets] == ["local", "burst/abc123xyz", "fal/fal-ai/qwen-image-edit-2511"]
    assert rule.targets[0].overflow_after_s == 20
    assert rule.targets[1].sheet == Sheet(per_second_microusd=760)
    burst = file.upstreams["burst"]
    assert burst.key.secret is not None
    assert burst.key.secret.open() == "rp-secret-key-01"
    assert (burst.ttl_s, burst.execution_s, burst.max_in_flight) == (600, 300, 8)
    normalise = rule.targets[1].normalise
    assert isinstance(normalise, Normaliser)
    assert normalise.profile.id == "runpod/qwen-image-edit-2511"
    assert targets(file, "fal-ai/qwen-image-edit") == ["local"]


def test_a_team_shares_targets_by_weight(tmp_path: Path) -> None:
    file = load(tmp_path, EXAMPLES[2])
    first, second = file.rules
    assert (first.model, first.strict, first.when.max_price_microusd) == ("qwen-image-2", True, 80_000)
    assert first.when.keys == ("studio", "web-*")
    assert second.policy == "weighted"
    assert second.hedge_after_s == 25
    assert [(target.name, target.weight) for target in second.targets] == [
        ("peer/fal-ai/qwen-image-edit-plus", 8),
        ("replicate/qwen/qwen-image-edit-plus", 1),
        ("ali/qwen-image-edit-plus", 1),
    ]
    assert second.targets[0].sheet is None
    assert file.upstreams["replicate"].key.caller == "replicate"
    assert file.upstreams["replicate"].key.secret is None
    request = EditRequest(model="qwen-image-2", prompt="x", images=(ImageInput(blob="a"),))
    routes = file.routes(lambda name, account: None)
    made = plan(routes, request, Circumstances("web-3"))
    assert made is not None
    assert [target.name for target in made.targets] == ["ali/qwen-image-2.0-pro"]
    assert plan(routes, request, Circumstances("mobile")) is None


def test_options_of_a_route_reach_its_targets(tmp_path: Path) -> None:
    file = load(tmp_path, EXAMPLES[3])
    request = EditRequest(model="qwen-image-edit", prompt="x", images=(ImageInput(blob="a"),))
    normalise = file.rules[0].targets[0].normalise
    assert normalise is not None
    assert normalise(request).options == {"use_turbo": True}


def test_every_target_can_be_forced_by_the_providers_id_and_by_ours(tmp_path: Path) -> None:
    file = load(tmp_path, EXAMPLES[0])
    assert file.forced["fal/qwen-image-edit"].name == "fal/fal-ai/qwen-image-edit"
    assert file.forced["fal/fal-ai/qwen-image-edit-2511"].name == "fal/fal-ai/qwen-image-edit-2511"
    assert file.forced_models["fal/fal-ai/qwen-image-edit-2511"].id == "qwen-image-edit-plus"
    assert file.forced_models["fal/fal-ai/qwen-image-2/pro/edit"].id == "qwen-image-2"
    assert "fal/fal-ai/flux/dev" not in file.forced


def test_the_catalogue_knows_which_targets_a_model_has(tmp_path: Path) -> None:
    secret_file(tmp_path, "rp-secret-key-01")
    catalog = Catalog.serving(checkpoint_named("demo"))
    assert [target.name for target in catalog.targets(catalog.route("qwen-image-edit-plus"))] == ["local"]
    file = load(tmp_path, EXAMPLES[1])
    file.lead(catalog)
    route = catalog.route("qwen-image-edit-plus")
    assert route.hosted
    assert [target.name for target in catalog.targets(route)] == [
        "local",
        "burst/abc123xyz",
        "fal/fal-ai/qwen-image-edit-2511",
    ]
    forced = catalog.route("fal/fal-ai/qwen-image-edit-2511")
    assert [target.name for target in catalog.targets(forced)] == ["fal/fal-ai/qwen-image-edit-2511"]
    [_, burst, fal] = dump_targets(catalog.targets(route))
    assert burst["price"] == {"per_second_microusd": 760}
    assert fal["parameters"]["num_inference_steps"] == {"behavior": "renamed", "sent_as": "num_inference_steps"}
    assert fal["parameters"]["mask"] == {"behavior": "emulated", "sent_as": None}
    assert burst["parameters"]["cfg_scale"] == {"behavior": "dropped", "sent_as": None}


def test_our_own_workers_can_be_forced_where_they_are_a_target(tmp_path: Path) -> None:
    secret_file(tmp_path, "rp-secret-key-01")
    catalog = Catalog.serving(checkpoint_named("demo"))
    assert route_of(catalog, "local/qwen-image-edit-2511").model.id == "qwen-image-edit-plus"
    load(tmp_path, EXAMPLES[1]).lead(catalog)
    forced = route_of(catalog, "local/qwen-image-edit-2511")
    assert (forced.model.id, forced.hosted, forced.queue) == ("local/qwen-image-edit-plus", False, "demo")
    assert catalog.route(forced.model.id) == forced
    assert model_named(forced.model.id) is model_named("qwen-image-edit-plus")
    assert [target.name for target in catalog.targets(forced)] == ["local"]
    load(tmp_path, EXAMPLES[0]).lead(catalog)
    with pytest.raises(UnknownModel, match="not made here"):
        route_of(catalog, "local/qwen-image-edit")


# --------------------------------------------------------------------------------------------------------- mistakes

WRONG = {
    "a kind there is not": ('[upstreams.fal]\nkind = "fall"\nkey = "env:FAL_KEY"\n' + TO_FAL, 2, "did you mean 'fal'"),
    "no kind": ('[upstreams.fal]\nkey = "env:FAL_KEY"\n' + TO_FAL, 1, "no 'kind'"),
    "an unknown key of an upstream": (FAL + "regoin = 'eu'\n" + TO_FAL, 5, "did you mean 'region'"),
    "an unknown table": (FAL + TO_FAL + "[gatewy]\ndeadline_s = 3\n", 9, "did you mean 'gateway'"),
    "an unknown key of the gateway": ("[gateway]\ndeadline = 3\n" + FAL + TO_FAL, 2, "did you mean 'deadline_s'"),
    "a number out of range": ("[gateway]\ndeadline_s = 0\n" + FAL + TO_FAL, 2, "at least 1"),
    "a deadline that never comes": ("[gateway]\ndeadline_s = inf\n" + FAL + TO_FAL, 2, "at most 1,000,000,000"),
    "a deadline beyond every date": ("[gateway]\ndeadline_s = 1e300\n" + FAL + TO_FAL, 2, "at most 1,000,000,000"),
    "a price without end": (FAL + "price = { per_image_usd = inf }\n" + TO_FAL, 5, "at most 1,000,000,000"),
    "a count of fifty digits": (FAL + f"max_in_flight = {'9' * 50}\n" + TO_FAL, 5, "at most 1,000,000,000"),
    "a public address with a password": (
        '[gateway]\npublic_url = "https://user:pw@edit.example.com"\n' + FAL + TO_FAL,
        2,
        "no key, query or fragment",
    ),
    "a public address with a query": (
        '[gateway]\npublic_url = "https://edit.example.com/?a=1"\n' + FAL + TO_FAL,
        2,
        "no key, query or fragment",
    ),
    "a public address without a host": (
        '[gateway]\npublic_url = "https://"\n' + FAL + TO_FAL,
        2,
        "http(s)://HOST",
    ),
    "a word out of its list": ('[gateway]\non_unknown = "retry"\n' + FAL + TO_FAL, 2, "fail, repeat"),
    "a value of the wrong type": (FAL + "max_in_flight = 'many'\n" + TO_FAL, 5, "a whole number"),
    "true for a number": (FAL + "max_in_flight = true\n" + TO_FAL, 5, "a whole number"),
    "no key": ('[upstreams.fal]\nkind = "fal"\n' + TO_FAL, 1, "env:NAME, file:PATH or caller:NAME"),
    "a variable that is not set": (FAL.replace("FAL_KEY", "NO_SUCH") + TO_FAL, 4, "the variable NO_SUCH is not set"),
    "a file that is not there": (
        FAL.replace("env:FAL_KEY", "file:none.key") + TO_FAL,
        4,
        "cannot be read: No such file",
    ),
    "an upstream there is not": (FAL + TO_FAL.replace('"fal"', '"fla"'), 8, "did you mean 'fal'"),
    "a model there is not": (FAL + TO_FAL.replace('"*"', '"qwen-image-edti"'), 7, "did you mean 'qwen-image-edit'"),
    "a provider's model without a profile": (
        FAL + TO_FAL.replace('to = "fal"', 'to = "fal", model = "fal-ai/flux/dev"'),
        8,
        "no profile for 'fal-ai/flux/dev'",
    ),
    "a profile there is not": (
        FAL + 'models = { "qwen-image-edit" = { id = "x", profile = "fal/none" } }\n' + TO_FAL,
        5,
        "no profile 'fal/none'",
    ),
    "a profile of another kind": (
        FAL + 'models = { "qwen-image-edit" = { id = "x", profile = "runpod/qwen-image-edit" } }\n' + TO_FAL,
        5,
        "no profile",
    ),
    "no price": (
        '[upstreams.ali]\nkind = "dashscope"\nkey = "env:DASHSCOPE_API_KEY"\n'
        '[[routes]]\nmodel = "qwen-image-2"\ntargets = [\n  { to = "ali", model = "qwen-image-2.1-pro" },\n]\n',
        7,
        "no price is known for ali/qwen-image-2.1-pro",
    ),
    "a price of nothing": (FAL + "price = { per_image_usd = 0 }\n" + TO_FAL, 5, 'charge = "none"'),
    "a price by a wrong name": (FAL + "price = { per_picture_usd = 1 }\n" + TO_FAL, 5, "'per_picture_usd'"),
    "links without an address": (FAL + 'images = "link"\n' + TO_FAL, 5, "public_url"),
    "an address without a host": (FAL + 'base_url = "queue.fal.run"\n' + TO_FAL, 5, "http(s)://HOST"),
    "a key in an address": (FAL + 'base_url = "https://user:pw@fal.run"\n' + TO_FAL, 5, "no key"),
    "no address of a server of one's own": (
        '[upstreams.own]\nkind = "vllm-omni"\n[[routes]]\nmodel = "*"\ntargets = [{ to = "own" }]\n',
        1,
        "needs a base_url",
    ),
    "a weight without the policy": (FAL + TO_FAL.replace('to = "fal"', 'to = "fal", weight = 2'), 8, "weighted"),
    "overflow of another server's queue": (
        FAL + TO_FAL.replace('to = "fal"', 'to = "fal", overflow_after_s = 2'),
        8,
        "only our own queue",
    ),
    "a model for our own queue": (
        TO_FAL.replace('to = "fal"', 'to = "local", model = "x"'),
        4,
        "leave 'model' out",
    ),
    "a target without a name": (FAL + TO_FAL.replace('to = "fal"', "weight = 1"), 8, "no 'to'"),
    "a route without targets": (FAL + '[[routes]]\nmodel = "*"\n', 5, "no 'targets'"),
    "a route with an empty list of targets": (FAL + '[[routes]]\nmodel = "*"\ntargets = []\n', 7, "'targets' is empty"),
    "targets that serve none of the route's models": (
        FAL
        + '[upstreams.oa]\nkind = "openai"\nkey = "env:FAL_KEY"\n'
        + TO_FAL
        + '[[routes]]\nmodel = "*"\ntargets = [{ to = "oa" }]\n',
        14,
        "none of its targets",
    ),
    "a route behind one that takes everything": (
        FAL + TO_FAL + '[[routes]]\nmodel = "qwen-image-edit"\ntargets = [{ to = "local" }]\n',
        10,
        "no edit reaches the route for 'qwen-image-edit': the route in line 6 takes",
    ),
    "a route behind one with the same conditions": (
        FAL + 2 * '[[routes]]\nmodel = "qwen-image-edit"\nwhen = { keys = ["a", "b"] }\ntargets = [{ to = "fal" }]\n',
        10,
        "no edit reaches the route for 'qwen-image-edit': the route in line 5 takes",
    ),
    "a route for many behind one for each": (
        FAL
        + "".join(f'[[routes]]\nmodel = "{model.id}"\ntargets = [{{ to = "fal" }}]\n' for model in MODELS[:2])
        + f'[[routes]]\nmodel = "{MODELS[0].id}*"\ntargets = [{{ to = "local" }}]\n',
        12,
        "no edit reaches the route for 'qwen-image-edit*': the routes in lines 5, 8 take",
    ),
    "a hedge with one target": (
        FAL + '[[routes]]\nmodel = "*"\nhedge_after_s = 5\ntargets = [{ to = "local" }, { to = "fal" }]\n',
        7,
        "fewer than two",
    ),
    "a route without a model": (FAL + TO_FAL.replace('model = "*"\n', ""), 6, "no 'model'"),
    "no route at all": (FAL, 1, "no [[routes]]"),
    "a name that is taken": (FAL.replace("upstreams.fal]", "upstreams.local]") + TO_FAL, 2, "cannot name an upstream"),
    "options of no kind": (
        FAL + TO_FAL.replace("targets", "upstream_options = { fla = { a = 1 } }\ntargets"),
        8,
        "'fla'",
    ),
    "not TOML": (FAL + "[[routes]\n", 5, "this is not TOML"),
    "a name given twice": (FAL + 'kind = "fal"\n', 5, "this is not TOML"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_reported_with_its_line_and_reason(mistake: str, tmp_path: Path) -> None:
    text, line, reason = WRONG[mistake]
    found = problems(tmp_path, text)
    assert [at for at, message in found if reason in message] == [line], found


@pytest.mark.parametrize(
    "when",
    [
        ("keys = ['studio']", ""),
        ("keys = ['studio']", "keys = ['studio', 'web-*']"),
        ("max_images = 1", "max_images = 2"),
        ("max_images = 1", "keys = ['studio']"),
        ("max_pixels = 4096", "max_images = 1"),
    ],
)
def test_a_route_behind_a_narrower_one_is_reached(when: tuple[str, str], tmp_path: Path) -> None:
    routes = [f'[[routes]]\nmodel = "qwen-image-edit"\nwhen = {{ {w} }}\ntargets = [{{ to = "fal" }}]\n' for w in when]
    assert len(load(tmp_path, FAL + "".join(routes)).rules) == 2


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = "[gateway]\ndeadline_s = 0\n" + FAL + "regoin = 'eu'\n" + TO_FAL + '[[routes]]\nmodel = "*"\ntargets = 3\n'
    assert [line for line, _ in problems(tmp_path, text)] == [2, 7, 14]


def test_a_broken_upstream_is_not_told_again_by_its_targets(tmp_path: Path) -> None:
    assert len(problems(tmp_path, '[upstreams.fal]\nkind = "fal"\nkey = "env:NONE"\n' + TO_FAL)) == 1


def test_no_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot be read: No such file"):
        load_routes(tmp_path / "none.toml")


# ------------------------------------------------------------------------------------------------------------- keys


def test_a_key_in_the_file_itself_is_refused_and_not_repeated(tmp_path: Path) -> None:
    found = problems(tmp_path, FAL.replace("env:FAL_KEY", "fal-0123:4567-literal-key") + TO_FAL)
    assert found == [(4, found[0][1])]
    assert "env:NAME, file:PATH or caller:NAME" in found[0][1]
    assert "literal-key" not in str(found)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_key_file_that_other_users_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    secret_file(tmp_path, VALUE, mode)
    found = problems(tmp_path, FAL.replace("env:FAL_KEY", "file:secrets/runpod.key") + TO_FAL)
    assert found[0][0] == 4
    assert "chmod 600" in found[0][1]


@pytest.mark.parametrize("text", ["", "\n", "two lines\nof text", "with blank", "kéy"])
def test_a_key_file_holds_one_line_that_a_header_may_hold(text: str, tmp_path: Path) -> None:
    secret_file(tmp_path, text)
    found = problems(tmp_path, FAL.replace("env:FAL_KEY", "file:secrets/runpod.key") + TO_FAL)
    assert found[0][0] == 4
    assert text.strip() == "" or text not in str(found)


def test_a_loaded_file_shows_no_key_however_it_is_printed(tmp_path: Path) -> None:
    file = load(tmp_path, EXAMPLES[0])
    assert VALUE not in repr(file)
    assert VALUE not in str(file.upstreams)
    assert "••••" in repr(file.upstreams["fal"])


# ----------------------------------------------------------------------------------------------------------- lines


def test_lines_are_found_in_long_values_and_dotted_tables() -> None:
    lines = TomlLines(
        '# a comment with [brackets] and "quotes"\n'
        "[a.b]\n"
        "x = 1\n"
        "list = [\n"
        '  { to = "one, [two]" },\n'
        "\n"
        "  # not the { last\n"
        '  { to = "three", weight = 2 },\n'
        "]\n"
        "[[r]]\n"
        "y = 1\n"
        "[r.when]\n"
        "keys = ['q']\n"
        "[[r]]\n"
        'text = """\n'
        "y = 9\n"
        '"""\n'
        "y = 2\n"
    )
    assert lines.line_of(("a", "b", "x")) == 3
    assert lines.line_of(("a", "b", "list", 0, "to")) == 5
    assert lines.line_of(("a", "b", "list", 1)) == 8
    assert lines.line_of(("a", "b", "list", 1, "weight")) == 8
    assert lines.line_of(("a", "b", "none")) == 2
    assert lines.line_of(("r", 0, "when", "keys")) == 13
    assert lines.line_of(("r", 1, "y")) == 18
    assert lines.line_of(("z",)) == 1


@given(
    st.text(max_size=200)
    | st.sampled_from(EXAMPLES).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at]))
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_routes_file_or_is_refused_with_lines(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("any") / "retouch.toml"
    file.write_text(text, "utf-8", newline="")
    try:
        load_routes(file, environment=ENVIRONMENT)
    except InvalidRoutesFile as error:
        found = error.problems
    else:
        return
    assert found
    assert all(1 <= line <= text.count("\n") + 2 for line, _ in found)
