"""The packaged classifier against the published graph, and that it needs nothing that opens a connection."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retouch.engine.open_nsfw import WEIGHTS, OpenNsfw
from retouch.images import Pixels, decode

IMAGES = Path(__file__).parents[2] / "golden" / "safety"
REFERENCE: dict[str, float] = json.loads((IMAGES / "scores.json").read_text())
PHOTOS = sorted(IMAGES.glob("*.jpg"))


@pytest.fixture(scope="module")
def classifier() -> OpenNsfw:
    return OpenNsfw()


def image(name: str) -> Pixels:
    return decode((IMAGES / name).read_bytes())


@pytest.mark.parametrize("name", REFERENCE)
def test_the_score_of_a_stored_image_is_that_of_the_published_graph(classifier: OpenNsfw, name: str) -> None:
    assert classifier.score(image(name)) == pytest.approx(REFERENCE[name], abs=1e-3)


def test_six_images_are_compared() -> None:
    assert len(REFERENCE) == 6


def test_a_score_repeats_to_the_bit_in_turn_and_at_the_same_time(classifier: OpenNsfw) -> None:
    retina = image("retina.jpg")
    with ThreadPoolExecutor(2) as threads:
        scores = [classifier.score(retina), *threads.map(classifier.score, [retina] * 4)]
    assert len(set(scores)) == 1


def test_no_harmless_photo_comes_near_the_threshold(classifier: OpenNsfw) -> None:
    """Each of twelve photos as it is and four times altered: 60 images, far below 0.8."""
    scores = {}
    for path in PHOTOS:
        photo = decode(path.read_bytes())
        grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
        warm = (photo * np.array([1.0, 0.85, 0.7])).astype(np.uint8)
        for kind, pixels in {
            "as it is": photo,
            "mirrored": np.ascontiguousarray(photo[:, ::-1]),
            "turned": np.ascontiguousarray(np.rot90(photo)),
            "grey": grey,
            "warm": warm,
        }.items():
            scores[path.name, kind] = classifier.score(pixels)
    assert len(scores) == 60
    assert max(scores.values()) < 0.4, max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2)])
def test_an_image_of_any_shape_has_a_score(classifier: OpenNsfw, size: tuple[int, int]) -> None:
    assert 0 <= classifier.score(np.zeros((*size, 3), np.uint8)) <= 1


def test_the_licence_of_the_weights_lies_beside_them() -> None:
    licence = (WEIGHTS.parent / "LICENSE").read_text()
    assert "Copyright (c) 2016, Yahoo Inc." in licence
    assert "Redistributions in binary form must reproduce the above copyright" in licence


def test_the_classifier_loads_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, numpy as np; from retouch.engine.open_nsfw import OpenNsfw;"
        "OpenNsfw().score(np.zeros((8, 8, 3), np.uint8));"
        "sys.exit(bool({'torch', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_source_file_imports_onnxruntime() -> None:
    root = Path(__file__).parents[3]
    for folder in ("src", "tests", "safety", "benchmarks", "demo"):
        for source in (root / folder).rglob("*.py"):
            lines = source.read_text().splitlines()
            assert not [line for line in lines if line.strip().startswith(("import onnx", "from onnx"))], source
