"""Keys that are equal for equal tensors, to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

# What `sample` reads: this many blocks of this many bytes.
BLOCKS, BLOCK = 16, 4096
# Up to this size the bytes are as short as a digest, and faster.
SHORT = 256


def outline(tensor: ir.TensorProtocol) -> Hashable:
    """Return what can be compared without reading data: the type and the shape."""
    return tensor.dtype, tuple(tensor.shape)


def sample(tensor: ir.TensorProtocol) -> Hashable:
    """Return a digest of some blocks of the data: different for most tensors that differ."""
    if isinstance(tensor, ir.StringTensor) or tensor.nbytes <= BLOCKS * BLOCK:
        return content(tensor)
    data = _bytes(tensor)
    starts = np.linspace(0, max(len(data) - BLOCK, 0), BLOCKS).astype(int)
    digest = hashlib.blake2b(digest_size=20)
    for start in dict.fromkeys(starts.tolist()):
        digest.update(data[start : start + BLOCK].data)
    return outline(tensor), digest.digest()


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def content(tensor: ir.TensorProtocol) -> Hashable:
    """Return the type, the shape and the bytes, or a digest of many.

    To the bit: 0.0 is not -0.0, and NaNs of other bits are other numbers. The data is hashed where
    it lies (a memory map stays one), not copied.
    """
    if isinstance(tensor, ir.StringTensor):
        return outline(tensor), tuple(tensor.string_data())
    if tensor.nbytes <= SHORT:
        return outline(tensor), tensor.tobytes()
    return outline(tensor), hashlib.blake2b(_bytes(tensor).data, digest_size=20).digest()
