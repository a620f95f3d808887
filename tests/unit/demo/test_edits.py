"""True edits stay images, and each is its own."""

import pytest

torch = pytest.importorskip("torch")

from demo import edits  # noqa: E402


@pytest.mark.parametrize("name", edits.NAMES)
def test_an_edit_of_a_image_is_a_image(name):
    image = torch.rand(2, 3, 64, 96)
    answer = edits.EDITS[name](image)
    assert answer.shape == image.shape
    assert answer.min() >= -1e-5
    assert answer.max() <= 1 + 1e-5


def test_apply_gives_each_image_its_own_edit():
    images = torch.rand(2, 3, 32, 32)
    invert, gray = edits.NAMES.index("invert"), edits.NAMES.index("grayscale")
    answers = edits.apply(images, torch.tensor([invert, gray]))
    assert torch.equal(answers[0], 1 - images[0])
    assert torch.equal(answers[1, 0], answers[1, 2])


@pytest.mark.parametrize("name", edits.NAMES)
def test_rounding_beyond_white_or_black_makes_no_hole(name):
    image = torch.tensor([-1e-6, 1 + 1e-6]).repeat(1, 3, 64, 32)
    assert torch.isfinite(edits.UNCLIPPED[name](image)).all()
