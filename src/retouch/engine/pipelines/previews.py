"""Latents to a small image by one linear map, so that progress can be seen without the decoder.

The map comes from `preview.json` beside the weights, or is fitted once: the best
straight line from the latents of made-up images to their colours. Does not know steps or noise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from retouch.engine.pipelines.preprocessing import to_pixels
from retouch.engine.pipelines.vae import ImageCodec
from retouch.images import Pixels

FITTING_SIDE = 128
FITTING_IMAGES = 4


@dataclass(frozen=True, slots=True)
class PreviewMap:
    """colour from -1 to 1 = weight x latents + bias; weight: (3, channels), bias: (3,), float32."""

    weight: torch.Tensor
    bias: torch.Tensor

    def image(self, latents: torch.Tensor) -> Pixels:
        """(1, channels, height, width) to uint8 (height, width, 3): one pixel per latent cell."""
        signal = F.conv2d(latents.float(), self.weight[:, :, None, None], self.bias)
        return to_pixels(signal.clamp(-1, 1))


def load_preview(folder: Path, device: torch.device) -> PreviewMap | None:
    """The map of `preview.json`, or None when there is none.

    The file holds `matrix`, a row of red, green and blue for each latent channel, and `bias`, the colour
    of all-zero latents; colours there are from 0 to 1.
    """
    file = folder / "preview.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text())
    matrix = torch.tensor(values["matrix"], dtype=torch.float32, device=device)
    bias = torch.tensor(values["bias"], dtype=torch.float32, device=device)
    return PreviewMap(2 * matrix.T.contiguous(), 2 * bias - 1)


def fit_preview(codec: ImageCodec, device: torch.device) -> PreviewMap:
    """Least squares over a few smooth made-up images; the same map every time."""
    generator = torch.Generator().manual_seed(0)
    latents, colours = [], []
    size = (FITTING_SIDE, FITTING_SIDE)
    for _ in range(FITTING_IMAGES):
        clouds = [  # coloured ones of three sizes
            F.interpolate(torch.randn(1, 3, cells, cells, generator=generator), size, mode="bicubic") * strength
            for cells, strength in ((3, 0.5), (8, 0.25), (24, 0.1))
        ]
        image = torch.stack(clouds).sum(0).clamp(-1, 1).to(device)
        encoded = codec.encode(image).float()
        small = F.interpolate(image, encoded.shape[-2:], mode="area")
        latents.append(encoded[0].flatten(1).T.cpu())
        colours.append(small[0].flatten(1).T.cpu())
    known = torch.cat(latents).double()
    known = torch.cat([known, torch.ones(len(known), 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(known, torch.cat(colours).double()).solution.float().to(device)
    return PreviewMap(solution[:-1].T.contiguous(), solution[-1].contiguous())
