"""A vendor's name stands in its own folder; the rest of the package serves whatever the registry lists."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import retouch

PACKAGE = Path(retouch.__file__).parent
VENDOR = re.compile(r"(?<![a-z])(fal|openai|runpod|lumenfall)(?![a-z])", re.IGNORECASE)

REGISTRIES = ("registry.py", "options.py")


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every name and string of a module; comments and docstrings may say where a fact is from."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in prose:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.arg(arg=text):
                yield node.lineno, text
            case ast.FunctionDef(name=text) | ast.AsyncFunctionDef(name=text) | ast.ClassDef(name=text):
                yield node.lineno, text
            case ast.ImportFrom(module=str(text)):
                yield node.lineno, text


def modules() -> Iterator[Path]:
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        in_own_folder = place.parts[0] in ("protocols", "upstreams") and len(place.parts) > 2
        if not (in_own_folder or place.name in REGISTRIES):
            yield path


def test_no_vendor_is_named_outside_its_folder() -> None:
    named = [f"{path}:{line}: {text}" for path in modules() for line, text in words_of(path) if VENDOR.search(text)]
    assert not named, "\n".join(named)


def test_no_import_contract_names_a_vendor() -> None:
    contracts = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert not VENDOR.search(str(contracts))
