"""What `pack` and `unpack` report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PackedTensor:
    """One weight: its bytes before and after, and what other codes would take.

    `entropy_bits` is of order zero over distinct values, or over the bytes of each plane where
    there are more than 256; `huffman_bytes` is the paper's code with its tables.
    """

    name: str
    dtype: str
    values: int
    before: int
    after: int
    entropy_bits: float
    huffman_bytes: int
    coding: str

    def to_dict(self) -> dict[str, Any]:
        """Return the weight as JSON data."""
        return {**asdict(self), "bits_per_value": bits_per_value(self.after, self.values)}


@dataclass(frozen=True)
class Packed:
    """A model that was packed; weights below half a kilobyte are counted with the graph."""

    path: str
    written: str
    before: int
    after: int
    tensors: tuple[PackedTensor, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {
            "schema": 1,
            "path": self.path,
            "written": self.written,
            "before": self.before,
            "after": self.after,
            "ratio": self.after / self.before,
            "seconds": self.seconds,
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }


@dataclass(frozen=True)
class Unpacked:
    """A model that was unpacked: the container, and the files written, the model first."""

    path: str
    before: int
    after: int
    written: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {"schema": 1, **asdict(self)}


def bits_per_value(size: int, values: int) -> float:
    """Return the bits that each value takes of some bytes."""
    return 8 * size / values if values else 0.0


def type_name(data_type: int) -> str:
    """Return the name of an `onnx.TensorProto.DataType`, as `float16`."""
    import onnx

    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    name = str(names.get(data_type, data_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
