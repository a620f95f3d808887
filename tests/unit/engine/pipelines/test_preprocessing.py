"""Areas, ranges and packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from retouch.engine.pipelines import preprocessing
from retouch.errors import InvalidImage

MEGAPIXEL = 1024 * 1024
EYES = 384 * 384


@pytest.mark.parametrize(
    ("area", "original", "expected"),
    [
        (EYES, (1000, 1000), (384, 384)),
        (MEGAPIXEL, (200, 200), (1024, 1024)),
        (EYES, (1600, 900), (512, 288)),
        (MEGAPIXEL, (1600, 900), (1376, 768)),
        (EYES, (4000, 3000), (448, 320)),
        (MEGAPIXEL, (4000, 3000), (1184, 896)),
        (EYES, (300, 200), (480, 320)),
        (MEGAPIXEL, (300, 200), (1248, 832)),
        (EYES, (2100, 900), (576, 256)),
        (MEGAPIXEL, (2100, 900), (1568, 672)),
        (64 * 64, (640, 10), (512, 32)),
    ],
)
def test_references_are_resized_as_the_weights_were_trained(
    area: int, original: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert preprocessing.reference_size(area, *original) == expected


def test_an_image_too_narrow_to_see_is_refused_by_its_number() -> None:
    with pytest.raises(InvalidImage, match="650 x 10") as raised:
        preprocessing.check_shape(np.zeros((10, 650, 3), np.uint8), 2)
    assert raised.value.field == "images[2]"
    preprocessing.check_shape(np.zeros((640, 10, 3), np.uint8), 0)


def test_every_colour_survives_the_way_to_the_network_and_back() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    signal = preprocessing.to_signal(Image.fromarray(ramp))
    assert (signal.min(), signal.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(preprocessing.to_pixels(signal), ramp)


def test_values_out_of_range_are_clipped() -> None:
    assert preprocessing.to_pixels(torch.full((1, 3, 1, 1), 1.5)).max() == 255
    assert preprocessing.to_pixels(torch.full((1, 3, 1, 1), -1.5)).min() == 0


def test_packing_puts_two_by_two_cells_into_a_token() -> None:
    latents = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    tokens = preprocessing.pack(latents)
    assert tokens.shape == (1, 6, 8)
    assert tokens[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31]
    assert torch.equal(preprocessing.unpack(tokens, 2, 3), latents)
