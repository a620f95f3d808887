"""From a request to specs and pixels, and from the engine's image to the one that is delivered."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from retouch import images
from retouch.catalog import Catalog, checkpoint_named
from retouch.edit import MAX_SEED, EditRequest, ImageInput, SizeRequest, seed_of_image
from retouch.errors import InvalidImage
from retouch.worker.staging import Staged, finish_image, stage_in
from tests.harness import png


def jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


CHECKPOINT = checkpoint_named("null")
FILES = {"wide": png(128, 64), "tall": png(64, 128), "mask": png(128, 64), "broken": b"\x89PNG\r\n\x1a\n"}
FILES |= {"photo": jpeg(4800, 2400), "photo mask": png(4800, 2400)}


def staged(
    *names: str, mask: str | None = None, size: SizeRequest | None = None, num_images: int = 1, seed: int = 5
) -> Staged:
    request = EditRequest(
        model="qwen-image-edit",
        prompt="x",
        images=tuple(ImageInput(blob=name, field=f"images[{index}]") for index, name in enumerate(names)),
        mask=ImageInput(blob=mask, field="mask") if mask else None,
        size=size or SizeRequest(),
        num_images=num_images,
        seed=seed,
    )
    completed, _ = Catalog.serving(CHECKPOINT).route(request.model).complete(request)
    read: Callable[[ImageInput], bytes] = lambda image: FILES[image.blob or ""]  # noqa: E731 - names its type
    return stage_in(completed, CHECKPOINT, read)


@pytest.mark.parametrize(
    ("seed", "index", "expected"),
    [
        (0, 0, 0),
        (7, 3, 10),
        (2**31 - 1, 0, 2**31 - 1),
        (2**31 - 1, 1, 0),
        (2**31, 1, 2**31 + 1),
        (MAX_SEED, 0, MAX_SEED),
        (MAX_SEED, 1, 0),
    ],
)
def test_seeds_count_up_within_the_range_their_request_came_from(seed: int, index: int, expected: int) -> None:
    assert seed_of_image(seed, index) == expected


def test_each_image_has_a_spec_of_its_own_that_differs_in_the_seed_only() -> None:
    one = staged("wide", num_images=3, seed=41)
    assert [spec.seed for spec in one.specs] == [41, 42, 43]
    assert len({(spec.prompt, spec.width, spec.height, spec.steps) for spec in one.specs}) == 1
    assert one.steps == 3 * one.specs[0].steps


def shape(one: Staged) -> float:
    width, height = one.sizes.output
    return width / height


def test_the_shape_follows_the_last_image_or_the_masked_or_the_chosen_one() -> None:
    assert shape(staged("wide", "tall")) < 1
    assert shape(staged("wide", "tall", mask="mask")) > 1
    assert shape(staged("wide", "tall", size=SizeRequest(reference_image=0))) > 1


def test_an_error_names_the_input_it_is_about() -> None:
    with pytest.raises(InvalidImage) as error:
        staged("wide", "broken")
    assert error.value.field == "images[1]"
    with pytest.raises(InvalidImage) as error:
        staged("tall", mask="mask")
    assert error.value.field == "mask"


def test_without_a_mask_the_image_is_only_brought_to_its_size() -> None:
    one = staged("wide", size=SizeRequest(width=100, height=50))
    made = np.full((64, 112, 3), 9, dtype=np.uint8)
    finished = finish_image(made, one)
    assert finished.shape == (50, 100, 3)
    assert (finished == 9).all()


def test_a_mask_of_grey_blends_the_image_with_its_source() -> None:
    grey = images.encode(np.full((64, 128, 3), 128, dtype=np.uint8), "png")
    FILES["grey"] = grey
    one = staged("wide", mask="grey", size=SizeRequest(width=128, height=64))
    finished = finish_image(np.full((64, 128, 3), 255, dtype=np.uint8), one)
    expected = (255 * 128 + one.images[0].astype(int) * 127 + 127) // 255
    assert (finished == expected).all()


def test_transparency_and_a_doubtful_mask_are_reported_by_notices() -> None:
    clear, drawn = np.full((64, 128, 4), 255, dtype=np.uint8), np.full((64, 128, 4), 255, dtype=np.uint8)
    clear[:9, :, 3] = 0
    drawn[:, :64, :3] = 0
    drawn[0, 0, 3] = 254
    for name, values in (("clear", clear), ("drawn", drawn)):
        out = io.BytesIO()
        Image.fromarray(values).save(out, "PNG")
        FILES[name] = out.getvalue()
    one = staged("wide", "clear", mask="drawn")
    assert [notice.parameter for notice in one.notices][:2] == ["images[1]", "mask"]
    assert one.mask is not None
    assert set(np.unique(one.mask)) == {0, 255}, "read by brightness, so it edits"


def test_a_photo_is_decoded_at_the_size_the_networks_look_at_but_the_answer_follows_its_file() -> None:
    both = staged("photo", "wide")
    photo, wide = both.images
    assert photo.shape == (1200, 2400, 3)
    assert photo.size >= 3 * 1.5**2 * max(CHECKPOINT.reference_area, CHECKPOINT.vision_area)
    assert wide.shape == (64, 128, 3)
    assert staged("wide", "photo").sizes.output == staged("wide", "wide").sizes.output, "of the same shape"


def test_a_masked_photo_is_decoded_whole_because_what_is_not_masked_stays_as_it_is() -> None:
    assert staged("photo", mask="photo mask").images[0].shape == (2400, 4800, 3)
