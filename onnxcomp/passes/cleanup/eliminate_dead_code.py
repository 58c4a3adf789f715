"""Nodes, weights and functions whose results nothing reads."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import sweep
from onnxcomp.registry import Effect, register


@register(Effect.EXACT)
def eliminate_dead_code(model: ir.Model) -> int:
    """Drop nodes, weights and functions whose results nothing reads.

    A value is live when it is a graph output or when a live node reads it, in its own graph or in
    a subgraph of it. Exporters leave dead chains behind, and runtimes load their weights.

    Left alone when the node is of a foreign domain, since it may do more than compute its outputs,
    and when the value is an input: inputs are part of the interface, read or not.
    """
    return sweep(model)
