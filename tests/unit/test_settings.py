"""Options win over variables, variables over defaults; what is not a setting is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from retouch import settings
from retouch.errors import InvalidSetting


def test_an_option_wins_over_a_variable_and_a_variable_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read(settings.HttpSettings).port == 8000
    monkeypatch.setenv("RETOUCH_PORT", "9000")
    assert settings.read(settings.HttpSettings, port=None).port == 9000
    assert settings.read(settings.HttpSettings, port=9001).port == 9001


def test_an_empty_variable_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_PUBLIC_URL", "")
    assert settings.read(settings.HttpSettings).public_url is None


def test_a_wrong_value_is_one_sentence_that_names_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSetting, match=r"^--port is 99999: .*65535\.$"):
        settings.read(settings.HttpSettings, port=99999)
    with pytest.raises(InvalidSetting, match=r"^--public-url is 'example.com': must begin with http"):
        settings.read(settings.HttpSettings, public_url="example.com")
    with pytest.raises(InvalidSetting, match=r"^--log-level is 'loud'"):
        settings.read(settings.ProcessSettings, log_level="loud")
    monkeypatch.setenv("RETOUCH_PORT", "many")
    with pytest.raises(InvalidSetting, match=r"^RETOUCH_PORT is 'many': .*integer"):
        settings.read(settings.HttpSettings)


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    settings.refuse_unknown_variables({"RETOUCH_PORT": "1", "HOME": "/"})
    with pytest.raises(InvalidSetting, match=r"RETOUCH_PROT is not a setting of Retouch\. Did you mean RETOUCH_PORT\?"):
        settings.refuse_unknown_variables({"RETOUCH_PROT": "1"})
    with pytest.raises(InvalidSetting, match="There are: RETOUCH_HOST"):
        settings.refuse_unknown_variables({"RETOUCH_XYZZY": "1"})


def kubernetes(service: str, port: int = 8000, port_name: str = "") -> dict[str, str]:
    """What a pod finds in its environment for one service, as the kubelet writes it."""
    name, address = service.upper().replace("-", "_"), "10.96.0.7"
    named = {f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}": str(port)} if port_name else {}
    return named | {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_PORT": f"tcp://{address}:{port}",
        f"{name}_PORT_{port}_TCP": f"tcp://{address}:{port}",
        f"{name}_PORT_{port}_TCP_PROTO": "tcp",
        f"{name}_PORT_{port}_TCP_PORT": str(port),
        f"{name}_PORT_{port}_TCP_ADDR": address,
    }


@pytest.mark.parametrize(
    "service",
    ["retouch", "retouch-api", "retouch-worker-2", "retouch-port", "retouch-data", "retouch-fal-proxy", "retouch-log"],
)
@pytest.mark.parametrize("port_name", ["", "http", "http-alt"])
def test_what_kubernetes_sets_beside_a_service_of_our_name_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, service: str, port_name: str
) -> None:
    variables = kubernetes(service, 9000, port_name)
    settings.refuse_unknown_variables(variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings.read(settings.HttpSettings).port == 8000
    assert settings.read(settings.HttpSettings, port=7000).port == 7000


@pytest.mark.parametrize("address", ["tcp://[fd00::7]:8000", "udp://10.0.0.7:53", "sctp://10.0.0.7:36412"])
def test_every_form_of_a_service_address_is_passed_over(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RETOUCH_PORT", address)
    assert settings.read(settings.HttpSettings).port == 8000


def test_what_docker_sets_for_a_linked_container_is_passed_over() -> None:
    settings.refuse_unknown_variables({"RETOUCH_NAME": "/app/retouch", "RETOUCH_PORT_8000_TCP_START": "tcp://a:8000"})


@pytest.mark.parametrize(
    "variables",
    [
        {"RETOUCH_API_PORT": "8000"},
        {"RETOUCH_HTTP_PORT": "http://x:1"},
        {"RETOUCH_NAME": "x"},
        {"RETOUCH_SERVICE": "x"},
    ],
)
def test_what_only_looks_like_a_service_is_still_refused(variables: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting, match="is not a setting of Retouch"):
        settings.refuse_unknown_variables(variables)


def test_private_addresses_come_as_a_list_or_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read(settings.NetworkSettings, allow_private=["a", "b:1"]).allow_private == ("a", "b:1")
    monkeypatch.setenv("RETOUCH_ALLOW_PRIVATE", "images.internal, 10.0.0.7:9000,")
    assert settings.read(settings.NetworkSettings).allow_private == ("images.internal", "10.0.0.7:9000")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.com", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, loopback: bool) -> None:
    assert settings.read(settings.HttpSettings, host=host).loopback is loopback


def test_the_printed_address_can_be_opened() -> None:
    assert settings.read(settings.HttpSettings, host="0.0.0.0", port=1).address == "http://127.0.0.1:1"
    assert settings.read(settings.HttpSettings, host="::1", port=1).address == "http://[::1]:1"


def test_the_data_folder_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    store = settings.read(settings.StoreSettings)
    assert store.data == tmp_path / "retouch"
    assert store.database_url == f"sqlite:///{tmp_path}/retouch/retouch.db"
    assert settings.read(settings.StoreSettings, database="postgresql://db/x").database_url == "postgresql://db/x"


def test_several_models_are_an_option_each_or_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read(settings.ModelSettings).model == ("demo",)
    assert settings.read(settings.ModelSettings, model=["a", "b,c"]).model == ("a", "b", "c")
    monkeypatch.setenv("RETOUCH_MODEL", "demo, ./weights/edit")
    several = settings.read(settings.ModelSettings)
    assert several.model == ("demo", "./weights/edit")
    with pytest.raises(InvalidSetting, match="One model at a time here"):
        _ = several.only_model
    with pytest.raises(InvalidSetting, match="--model"):
        settings.read(settings.ModelSettings, model=",")
    with pytest.raises(InvalidSetting, match="a file holds one model, and there are several"):
        settings.read(settings.ModelSettings, precision="gguf:network.gguf")
