"""What makes two models, or two sets of samples, the same."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

from onnxcomp.graph import all_graphs
from onnxcomp.runtime import INLINE_LIMIT, inline_bytes, weight_bytes
from onnxcomp.shapes import skeleton


def digest_of_model(model: ir.Model) -> str:
    """Return a digest of a model's file, weights included, as 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    if weight_bytes(model) < INLINE_LIMIT:
        found.update(inline_bytes(model))
        return found.hexdigest()
    found.update(skeleton(model).SerializeToString(deterministic=True))
    for graph in all_graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                found.update(name.encode())
                found.update(value.const_value.tobytes())
    return found.hexdigest()
