"""A weight's bytes as words: the unsigned integers that its values are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """How a data type lies in bytes: `width` of a value, and whether its top bit is a sign.

    Of floats the sign goes to the bottom, so that the exponent has the top byte for itself.
    """

    width: int = 1
    rotated: bool = False


BYTES = Form()
_FLOAT = {2: Form(2, True), 4: Form(4, True), 8: Form(8, True)}
# onnx.TensorProto.DataType -> form; types of 8 bits and less, and unknown ones, are bytes.
FORMS = {
    1: _FLOAT[4], 4: Form(2), 5: Form(2), 6: Form(4), 7: Form(8), 10: _FLOAT[2], 11: _FLOAT[8],
    12: Form(4), 13: Form(8), 14: _FLOAT[4], 15: _FLOAT[8], 16: _FLOAT[2],
}  # fmt: skip


def as_words(data: bytes | memoryview, width: int) -> Words:
    """Return little-endian words of `width` bytes, without a copy."""
    return np.frombuffer(data, dtype=f"<u{width}")


def to_planes(words: Words, *, rotated: bool) -> list[bytes]:
    """Return one plane per byte of a word, the lowest first."""
    if rotated:
        bits = words.itemsize * 8
        words = (words << 1) | (words >> (bits - 1))
    matrix = words.view(np.uint8).reshape(-1, words.itemsize)
    return [np.ascontiguousarray(plane).tobytes() for plane in matrix.T]


def from_planes(planes: list[bytes], *, rotated: bool) -> Words:
    """Return the words of their planes; undoes `to_planes`."""
    width = len(planes)
    matrix = np.empty((len(planes[0]), width), np.uint8)
    for index, plane in enumerate(planes):
        matrix[:, index] = np.frombuffer(plane, np.uint8)
    words: Words = matrix.reshape(-1).view(f"<u{width}")
    if rotated:
        words = (words >> 1) | (words << (width * 8 - 1))
    return words


def pack_bits(codes: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Return codes of 1, 2, 4 or 8 bits side by side, the first in the lowest bits of a byte."""
    per_byte = 8 // bits
    padded = np.zeros(-(-len(codes) // per_byte) * per_byte, np.uint8)
    padded[: len(codes)] = codes
    out = np.zeros(len(padded) // per_byte, np.uint8)
    for index in range(per_byte):
        out |= padded[index::per_byte] << np.uint8(index * bits)
    return out.tobytes()


def unpack_bits(data: bytes, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Return `count` codes; undoes `pack_bits`."""
    per_byte = 8 // bits
    packed = np.frombuffer(data, np.uint8)
    out = np.empty(len(packed) * per_byte, np.uint8)
    for index in range(per_byte):
        out[index::per_byte] = (packed >> np.uint8(index * bits)) & np.uint8((1 << bits) - 1)
    return out[:count]
