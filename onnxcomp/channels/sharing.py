"""Vectors that several layers share by chance, such as biases of zeros, given to each its own."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import array, tensor


def unshare_vectors(model: ir.Model) -> int:
    """Give every node of the main graph its own copy of a shared vector; return how many were made.

    A constant that two nodes read ties their channels, and equal biases may have been merged. What
    has several indices along one axis only is small, so a copy costs nothing; weights stay shared.
    """
    made = 0
    constants = list(model.graph.initializers.values())
    constants += [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
    for value in constants:
        found = tensor(value)
        if found is None or value.is_graph_output():
            continue
        uses = [use for use in value.uses() if use.node.graph is model.graph]
        long = [size for size in found.shape.numpy() if size > 1]
        readers = list(dict.fromkeys(use.node for use in uses))
        if len(long) != 1 or len(readers) < 2:
            continue
        data = array(value)
        assert data is not None
        for reader in readers[1:]:
            copy = add_constant(model.graph, data, value.name or "constant")
            for node, index in uses:
                if node is reader:
                    node.replace_input_with(index, copy)
            made += 1
    return made
