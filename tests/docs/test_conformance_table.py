"""The tables of conformance checks (fal, RunPod, safety): complete, and each test they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKS = {
    "conformance_fal.md": [*map(str, range(1, 56)), "R40", "R41", "R42", "R43"],
    "conformance_runpod.md": [*map(str, range(1, 40))],
    "conformance_safety.md": [*map(str, range(1, 36))],
}


def table(page: str) -> str:
    return (ROOT / "tests/sdk" / page).read_text(encoding="utf-8")


def written() -> set[tuple[str, str]]:
    """File name and function name of every test there is."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        (path.name, node.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        if "node_modules" not in path.parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, functions)
    }


@pytest.mark.parametrize(("page", "checks"), CHECKS.items())
def test_every_check_has_a_row(page: str, checks: Sequence[str]):
    assert re.findall(r"^\| (R?\d+) \| .* \|$", table(page), re.MULTILINE) == checks


@pytest.mark.parametrize("page", CHECKS)
def test_every_test_the_table_names_exists(page: str):
    rows = [row for row in table(page).splitlines() if re.match(r"\| R?\d", row)]
    named = [re.findall(r"`(test_\w+\.py)::(test_\w+)`", row) for row in rows]
    assert all(named)
    assert sorted({test for tests in named for test in tests} - written()) == []
