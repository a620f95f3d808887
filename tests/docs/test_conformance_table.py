"""The table of conformance checks of the fal face: complete, and each test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests/sdk/conformance_fal.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (R?\d+) \| .* \|$", TABLE, re.MULTILINE)
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE)
CHECKS = [*map(str, range(1, 53)), "R40", "R41", "R42", "R43"]


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


def test_every_check_has_a_row():
    assert ROWS == CHECKS


def test_every_test_the_table_names_exists():
    assert NAMED
    assert sorted(set(NAMED) - written()) == []
