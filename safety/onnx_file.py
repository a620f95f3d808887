"""Reads the graph and the weights of an ONNX file with nothing but the standard library and NumPy.

Covers what the one file of `convert.py` holds: a handful of operators and float32 or int64 tensors. It runs nothing;
onnxruntime, whose wheels send telemetry once imported, is not needed and never imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FLOAT, INT64 = 1, 7
"""`TensorProto.DataType`."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `ints`: its attributes that are lists of integers."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    ints: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Graph:
    nodes: tuple[Node, ...]
    tensors: dict[str, npt.NDArray[np.generic]]


def read(data: bytes) -> Graph:
    """The graph of a serialised `ModelProto`."""
    [graph] = [value for number, value in _fields(data) if number == 7]
    entries = list(_fields(_bytes(graph)))
    return Graph(
        tuple(_node(_bytes(value)) for number, value in entries if number == 1),
        dict(_tensor(_bytes(value)) for number, value in entries if number == 5),
    )


def _node(data: bytes) -> Node:
    entries = list(_fields(data))
    attributes = (list(_fields(_bytes(value))) for number, value in entries if number == 5)
    ints = {}
    for attribute in attributes:
        [name] = [_bytes(value).decode() for number, value in attribute if number == 1]
        ints[name] = tuple(item for number, value in attribute if number == 8 for item in _integers(value))
    return Node(
        operator=next(_bytes(value).decode() for number, value in entries if number == 4),
        inputs=tuple(_bytes(value).decode() for number, value in entries if number == 1),
        output=next(_bytes(value).decode() for number, value in entries if number == 2),
        ints=ints,
    )


def _tensor(data: bytes) -> tuple[str, npt.NDArray[np.generic]]:
    entries = list(_fields(data))
    shape = [item for number, value in entries if number == 1 for item in _integers(value)]
    kinds: dict[int, npt.DTypeLike] = {FLOAT: np.float32, INT64: np.int64}
    dtype = next(kinds[value] for number, value in entries if number == 2 and isinstance(value, int))
    [name] = [_bytes(value).decode() for number, value in entries if number == 8]
    [raw] = [_bytes(value) for number, value in entries if number == 9]
    return name, np.frombuffer(raw, dtype).reshape(shape)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer message, in order; a group is an error."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
            case 1 | 5 as width:
                size = 8 if width == 1 else 4
                yield key >> 3, data[at : at + size]
                at += size
            case 2:
                size, at = _varint(data, at)
                yield key >> 3, data[at : at + size]
                at += size
            case other:
                raise ValueError(f"wire type {other} at byte {at} is not supported")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _integers(value: int | bytes) -> Iterator[int]:
    """A repeated integer field, packed or not."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        item, at = _varint(value, at)
        yield item


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError(f"expected bytes, found the number {value}")
    return value
