"""What the terminal says while a server gets ready."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from retouch.catalog import Catalog, checkpoint_named
from retouch.cli.startup_banner import StartupBanner
from retouch.settings import HttpSettings, read
from tests.harness import Deployment

NULL = Catalog.serving(checkpoint_named("null"))


@pytest.fixture
def http() -> HttpSettings:
    return read(HttpSettings, port=8123)


def test_it_says_that_the_model_loads_and_then_how_to_edit(
    tmp_path: Path, http: HttpSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Deployment(tmp_path)
    stop = threading.Event()
    teller = threading.Thread(target=StartupBanner(http, NULL, 1).tell, args=(bench.service, stop))
    teller.start()
    bench.service.beat("w", ("null",), "cpu", "ready")
    teller.join(15)
    bench.close()
    printed = capfd.readouterr().out
    assert printed.startswith("Retouch listens at http://127.0.0.1:8123. Loading the model 'null' …\n")
    assert "Retouch is ready at http://127.0.0.1:8123" in printed
    assert printed.count("curl") == 1


def test_a_stop_ends_the_wait(tmp_path: Path, http: HttpSettings, capfd: pytest.CaptureFixture[str]) -> None:
    bench = Deployment(tmp_path)
    stop = threading.Event()
    stop.set()
    StartupBanner(http, NULL, 0).tell(bench.service, stop)
    bench.close()
    printed = capfd.readouterr().out
    assert "retouch worker --model null" in printed
    assert "ready at" not in printed


def test_the_one_line_carries_a_key_and_a_certificate_where_they_are_needed(http: HttpSettings) -> None:
    plain = StartupBanner(http, NULL, 1).welcome()
    assert "Bearer" not in plain
    assert "--cacert" not in plain
    full = StartupBanner(http, NULL, 1, needs_key=True, certificate=Path("/a b/ca.pem")).welcome()
    assert '-H "Authorization: Bearer $OPENAI_API_KEY"' in full
    assert "--cacert '/a b/ca.pem'" in full
