"""Faces do not know each other: a protocol is one folder and one line in the registry."""

from __future__ import annotations

from itertools import permutations

import grimp
import pytest

from retouch.protocols.registry import FACES

FOLDERS = [f"retouch.protocols.{face.name}" for face in FACES]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("retouch")


@pytest.mark.parametrize(("face", "other"), list(permutations(FOLDERS, 2)))
def test_no_face_imports_another(graph: grimp.ImportGraph, face: str, other: str) -> None:
    assert not graph.chain_exists(importer=face, imported=other, as_packages=True)


@pytest.mark.parametrize("face", FOLDERS)
def test_only_the_registry_and_the_face_itself_import_a_face(graph: grimp.ImportGraph, face: str) -> None:
    inside = {face, *graph.find_descendants(face)}
    importers = {importer for module in inside for importer in graph.find_modules_that_directly_import(module)}
    assert importers - inside <= {"retouch.protocols.registry"}
