"""How large the model sees a reference: in the catalogue's area, or on the canvas' own grid."""

from __future__ import annotations

from dataclasses import replace

from retouch.edit import EditSpec
from retouch.engine.pipelines import load_pipeline
from tests import tiny_checkpoints

SPEC = EditSpec("make it grayscale", width=128, height=64, seed=1, steps=1)
IMAGES = [tiny_checkpoints.coloured_blocks(1, 200, 90), tiny_checkpoints.coloured_blocks(2, 64, 64)]
TINY = tiny_checkpoints.checkpoint(tiny_checkpoints.shared("plus-2511"))


def test_a_reference_keeps_its_shape_within_the_catalogues_area():
    key = load_pipeline(TINY, device="cpu").prepare(SPEC, IMAGES).key
    assert key.target == (4, 8)
    assert key.references[1][0] == key.references[1][1]
    assert key.references[0] != key.target


def test_a_network_trained_on_one_grid_sees_every_reference_on_the_canvas():
    pipeline = load_pipeline(replace(TINY, references_fit_canvas=True), device="cpu")
    assert pipeline.prepare(SPEC, IMAGES).key.references == ((4, 8), (4, 8))
    taller = replace(SPEC, width=64, height=128)
    assert pipeline.prepare(taller, IMAGES).key.references == ((8, 4), (8, 4)), "no copy of another canvas is reused"
