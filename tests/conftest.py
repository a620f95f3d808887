"""What every test shares: the `--golden` switch, and an environment without our own variables."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, and not whether the code is right.
settings.register_profile("retouch", deadline=None)
settings.load_profile("retouch")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden files again instead of comparing")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written again; read the difference before you commit it."""
    return bool(request.config.getoption("--golden"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_person_who_runs_the_tests() -> None:
    for name in [name for name in os.environ if name.startswith("RETOUCH_")]:
        del os.environ[name]
