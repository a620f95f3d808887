"""What the gateway makes of a provider's image: the size, the protected part and the format that were asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from retouch import images
from retouch.catalog.normalised import Emulation
from retouch.edit import ImageInput, OutputFormat
from retouch.errors import InvalidImage
from retouch.images import Pixels
from retouch.upstreams.delivery import Originals, emulate

MASK = ImageInput(blob="mask", field="mask")
RANDOM = np.random.default_rng(11)


def noise(width: int, height: int) -> Pixels:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(pixels: Pixels, name: str = "png") -> bytes:
    return images.encode(pixels, name)


def mask_of(edited: Pixels) -> bytes:
    """A mask file: transparent where the boolean array says edit."""
    alpha = np.where(edited, 0, 255).astype(np.uint8)
    rgba = np.dstack([np.full((*alpha.shape, 3), 90, np.uint8), alpha])
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "PNG")
    return out.getvalue()


def test_an_exact_size_comes_of_one_that_was_rounded_to_sixteen() -> None:
    made = emulate(file_of(noise(1008, 1008)), Emulation(size=(1000, 1000), output_format=OutputFormat.PNG))
    assert (made.width, made.height, made.media_type, made.touched) == (1000, 1000, "image/png", True)
    assert images.decode(made.data).shape == (1000, 1000, 3)


def test_another_shape_is_cropped_to_its_middle_and_never_stretched() -> None:
    square = np.zeros((96, 96, 3), np.uint8)
    square[24:72] = 255  # a band across the middle
    made = images.decode(emulate(file_of(square), Emulation(size=(192, 96))).data)
    assert made.shape == (96, 192, 3)
    assert (made > 250).all()


@pytest.mark.parametrize("came", ["png", "webp"])
@pytest.mark.parametrize("wanted", list(OutputFormat))
def test_every_format_is_delivered_from_a_provider_that_makes_one(came: str, wanted: OutputFormat) -> None:
    pixels = np.full((48, 64, 3), (200, 40, 90), np.uint8)
    made = emulate(file_of(pixels, came), Emulation(output_format=wanted))
    header = images.probe(made.data)
    assert (header.format, header.width, header.height) == (wanted.value, 64, 48)
    assert made.media_type == wanted.media_type
    assert made.touched == (came != wanted.value)
    assert np.abs(images.decode(made.data).astype(int) - pixels.astype(int)).max() <= 12


def test_quality_is_the_callers_where_the_file_is_written_here() -> None:
    came = file_of(noise(128, 128))
    small, large = (
        emulate(came, Emulation(output_format=OutputFormat.JPEG, output_quality=quality)) for quality in (20, 95)
    )
    assert len(small.data) < len(large.data) / 2


def test_what_is_right_already_is_passed_on_byte_for_byte() -> None:
    came = file_of(noise(64, 48), "jpeg")
    made = emulate(came, Emulation(size=(64, 48), output_format=OutputFormat.JPEG))
    assert made.data is came
    assert not made.touched


def test_a_jpeg_that_is_called_png_is_delivered_as_what_was_asked_for() -> None:
    came = file_of(noise(64, 48), "jpeg")  # a provider that was asked for png and said it sends one
    assert emulate(came, Emulation(output_format=OutputFormat.PNG)).media_type == "image/png"
    assert emulate(came, Emulation()).media_type == "image/jpeg"


@pytest.mark.parametrize("broken", [b"", b"<html>502</html>", file_of(noise(64, 64))[:900], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_reported_as_the_providers(broken: bytes) -> None:
    with pytest.raises(InvalidImage) as refused:
        emulate(broken, Emulation(output_format=OutputFormat.JPEG))
    assert refused.value.field == "result"


def test_outside_the_mask_every_pixel_is_the_sources_own() -> None:
    source, edited = noise(160, 128), noise(160, 128)
    where = np.zeros((128, 160), bool)
    where[32:96, 40:120] = True
    inputs = Originals.read(file_of(source), mask_of(where))
    made = images.decode(emulate(file_of(edited), Emulation(mask=MASK, output_format=OutputFormat.PNG), inputs).data)
    assert (made[~where] == source[~where]).all()
    assert (made[where] == edited[where]).all()


def test_the_source_is_put_back_by_the_same_resampling_at_another_size() -> None:
    source, edited = noise(160, 128), noise(320, 256)
    where = np.zeros((128, 160), bool)
    where[:64] = True
    inputs = Originals.read(file_of(source), mask_of(where))
    made = images.decode(
        emulate(file_of(edited), Emulation(size=(80, 64), mask=MASK, output_format=OutputFormat.PNG), inputs).data
    )
    expected = images.resize(source, (80, 64))
    assert (made[40:] == expected[40:]).all()
    assert (made[:24] == images.resize(edited, (80, 64))[:24]).all()


def test_nothing_is_put_back_over_an_image_of_another_shape() -> None:
    inputs = Originals.read(file_of(noise(160, 90)), mask_of(np.ones((90, 160), bool)))
    with pytest.raises(InvalidImage, match="another shape") as refused:
        emulate(file_of(noise(96, 96)), Emulation(mask=MASK), inputs)
    assert refused.value.field == "result"


def test_a_mask_of_another_size_than_its_source_is_the_callers_fault() -> None:
    with pytest.raises(InvalidImage) as refused:
        Originals.read(file_of(noise(64, 64)), mask_of(np.ones((32, 64), bool)))
    assert refused.value.field == "mask"
