"""Keys that are equal for equal tensors, to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir


def outline(tensor: ir.TensorProtocol) -> Hashable:
    """Return what can be compared without reading data: the type and the shape."""
    return tensor.dtype, tuple(tensor.shape)


def content(tensor: ir.TensorProtocol) -> Hashable:
    """Return the type, the shape and a digest of the bytes: 0.0 is not -0.0, nor NaNs alike.

    The data is hashed where it lies (a memory map stays one), not copied.
    """
    if isinstance(tensor, ir.StringTensor):
        return outline(tensor), tuple(tensor.string_data())
    flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
    return outline(tensor), hashlib.blake2b(flat.view(np.uint8).data, digest_size=20).digest()
