"""Documentation holds: generated pages are fresh, links lead somewhere, the README stays short."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.joinpath("docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["errors.md", "models.md", "providers.md", "commands.md"])
def test_a_generated_page_says_what_the_code_says(name: str, monkeypatch: pytest.MonkeyPatch):
    for variable in [v for v in os.environ if v.startswith("RETOUCH_")]:
        monkeypatch.delenv(variable)
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == generator().page(name), "stale: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if not (page.parent / link).exists()]
    assert dead == []


def test_the_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_no_tracked_file_holds_a_path_of_somebodys_machine_or_a_download_address_in_a_lock():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    locks = [name for name in tracked.stdout.splitlines() if name.endswith(("lock.json", ".lock", "constraints.txt"))]
    offenders = [name for name in locks if "://" in (ROOT / name).read_text(encoding="utf-8")]
    assert offenders == []
