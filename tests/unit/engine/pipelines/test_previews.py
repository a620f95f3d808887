"""The linear map from latents to colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from retouch.engine.pipelines.previews import PreviewMap, fit_preview, load_preview

CPU = torch.device("cpu")
MIX = torch.tensor([[0.5, 0.2, 0.1], [0.0, 1.0, 0.3], [0.2, 0.0, -0.8], [0.1, 0.1, 0.1]])


class LinearCodec:
    """An autoencoder whose latents really are a straight line in the colours."""

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        small = F.interpolate(signal, scale_factor=1 / 8, mode="area")
        return torch.einsum("kc,bchw->bkhw", MIX, small) + 0.25

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def test_the_fit_finds_a_linear_relation_and_always_the_same() -> None:
    fitted = fit_preview(LinearCodec(), CPU)
    again = fit_preview(LinearCodec(), CPU)
    assert torch.equal(fitted.weight, again.weight)
    colour = torch.tensor([0.6, -0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    image = fitted.image(LinearCodec().encode(colour))
    assert image.shape == (2, 2, 3)
    np.testing.assert_allclose(image[0, 0], [204, 76, 153], atol=1)


def test_a_checkpoint_may_bring_its_own_map(tmp_path: Path) -> None:
    assert load_preview(tmp_path, CPU) is None
    (tmp_path / "preview.json").write_text(json.dumps({"matrix": [[0.5, 0, 0], [0, 0.5, 0]], "bias": [0.5, 0.5, 1]}))
    loaded = load_preview(tmp_path, CPU)
    assert loaded is not None
    assert loaded.image(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)).tolist() == [[[255, 0, 255]]]


def test_an_estimate_beyond_the_colours_is_clipped() -> None:
    steep = PreviewMap(torch.full((3, 1), 100.0), torch.zeros(3))
    assert steep.image(torch.ones(1, 1, 1, 1)).tolist() == [[[255, 255, 255]]]
