"""Where a model's file holds the bytes of weights, read off protobuf's wire format.

The file itself is packed, not a model made of it: what is not understood stays as it is, so that
the bytes that come out are those that went in. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnxcomp.container.damage import DamageError

VARINT, FIXED64, SIZED, FIXED32 = 0, 1, 2, 5
# Message -> field -> the message in it, for those that tensors can lie in.
INSIDE = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
DIMS, DATA_TYPE, FLOAT_DATA, NAME, RAW_DATA, DOUBLE_DATA, EXTERNAL, LOCATION = (
    *(1, 2, 4, 8, 9, 10, 13, 14),
)
GRAPH = 7
MAX_DEPTH = 64
FLOAT, DOUBLE = 1, 11
# onnx.TensorProto.DataType -> bits of a value, where they are fixed.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64,
    14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A weight's bytes: from `start` to `end` of the model's file, or of the file `location`."""

    name: str
    data_type: int
    start: int
    end: int
    location: str | None = None

    @property
    def values(self) -> int:
        """Return how many values the bytes hold."""
        return (self.end - self.start) * 8 // BITS.get(self.data_type, 8)


@dataclass(frozen=True)
class Field:
    """A field on the wire: its number and kind, and a number's value or where its bytes lie."""

    number: int
    kind: int
    value: int
    start: int
    end: int


def find_tensors(data: memoryview) -> Iterator[Tensor]:
    """Yield the weights of a ModelProto; raises `DamageError` where it is none."""
    if not any(field.number == GRAPH for field in fields(data, 0, len(data))):
        raise DamageError("it has no graph")
    yield from _walk(data, "Model", 0, len(data), 0)


def _walk(data: memoryview, message: str, start: int, end: int, depth: int) -> Iterator[Tensor]:
    if depth > MAX_DEPTH:  # deeper ones are packed as plain bytes
        return
    if message == "Tensor":
        yield from _tensor(data, start, end)
        return
    inside = INSIDE[message]
    for field in fields(data, start, end):
        if field.kind == SIZED and field.number in inside:
            yield from _walk(data, inside[field.number], field.start, field.end, depth + 1)


def _tensor(data: memoryview, start: int, end: int) -> Iterator[Tensor]:
    """Yield the bytes that a TensorProto has, inside or in a file."""
    found = list(fields(data, start, end))
    name, data_type = "", 0
    for field in found:
        if field.number == NAME and field.kind == SIZED:
            name = bytes(data[field.start : field.end]).decode("utf-8", "replace")
        if field.number == DATA_TYPE and field.kind == VARINT:
            data_type = field.value
    kinds = {RAW_DATA: data_type, FLOAT_DATA: FLOAT, DOUBLE_DATA: DOUBLE}
    for field in found:
        if field.kind == SIZED and field.number in kinds:
            yield Tensor(name, kinds[field.number], field.start, field.end)
    if any(field.number == LOCATION and field.value == 1 for field in found):
        yield _external(data, found, name, data_type)


def _external(data: memoryview, found: list[Field], name: str, data_type: int) -> Tensor:
    entries = {}
    for field in found:
        if field.number == EXTERNAL and field.kind == SIZED:
            pair = {item.number: item for item in fields(data, field.start, field.end)}
            key, value = (
                bytes(data[pair[index].start : pair[index].end]).decode("utf-8", "replace")
                if index in pair
                else ""
                for index in (1, 2)
            )
            entries[key] = value
    location = entries.get("location", "")
    try:
        offset = int(entries.get("offset") or 0)
        size = int(entries.get("length") or _bytes(data, found, data_type))
    except ValueError as error:
        raise DamageError(f"the place of {name} in {location} is not a number") from error
    if offset < 0 or size < 0:
        raise DamageError(f"the place of {name} in {location} is negative")
    return Tensor(name, data_type, offset, offset + size, location)


def _bytes(data: memoryview, found: list[Field], data_type: int) -> int:
    dims: list[int] = []
    for field in found:
        if field.number == DIMS and field.kind == VARINT:
            dims.append(field.value)
        elif field.number == DIMS and field.kind == SIZED:
            at = field.start
            while at < field.end:
                dim, at = _varint(data, at, field.end)
                dims.append(dim)
    return -(-math.prod(dims) * BITS.get(data_type, 8) // 8)


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two places."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        number, kind, value, begin = key >> 3, key & 7, 0, at
        if kind == VARINT:
            value, at = _varint(data, at, end)
        elif kind == SIZED:
            size, begin = _varint(data, at, end)
            at = begin + size
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise DamageError(f"a field of kind {kind} at byte {at}")
        if at > end or number == 0:
            raise DamageError(f"field {number} at byte {begin} does not fit its message")
        yield Field(number, kind, value, begin, at)


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return the number at a place, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise DamageError(f"a number at byte {at} does not end")
