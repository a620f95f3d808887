"""A small codec, fitted like the real one to procedural pictures."""

import pytest


@pytest.fixture(scope="session")
def codec():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import numpy as np

    from demo.pictures import picture
    from demo.vae import fit_codec

    rng = np.random.default_rng(1)
    return fit_codec(np.stack([picture(rng, 128) for _ in range(40)]))
