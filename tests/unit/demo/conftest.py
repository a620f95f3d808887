"""Procedural images and a small codec, fitted like the real one."""

import pytest


@pytest.fixture(scope="session")
def bank():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import numpy as np

    from demo.images import draw_image

    rng = np.random.default_rng(1)
    return np.stack([draw_image(rng, 128) for _ in range(40)])


@pytest.fixture(scope="session")
def codec(bank):
    from demo.vae import fit_codec

    return fit_codec(bank)


@pytest.fixture(scope="session")
def images(bank):
    """(40, 3, 128, 128), 0..1."""
    from demo.stages import to_images

    return to_images(bank)
