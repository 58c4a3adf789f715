"""Passes of a careless user, for the pipeline to catch: each stands in a recipe as module:name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import all_nodes, is_op


class DoubleEveryWeight(ir.passes.InPlacePass):
    """Changes the answers."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.graph.meta.get("doubled"):
            return ir.passes.PassResult(model, False)
        model.graph.meta["doubled"] = True
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy() * np.float32(2))
        return ir.passes.PassResult(model, True)


class RaiseHalfWay(ir.passes.InPlacePass):
    """Edits the graph, then raises."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in all_nodes(model):
            if is_op(node, "Relu"):
                node.op_type = "Neg"
        raise ValueError("out of ideas")


class RenameInput(ir.passes.InPlacePass):
    """Breaks the interface."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = model.graph.inputs[0].name != "renamed"
        model.graph.inputs[0].name = "renamed"
        return ir.passes.PassResult(model, changed)


class ReverseNodes(ir.passes.InPlacePass):
    """Leaves a graph that reads values before they are made."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(model.graph)
        model.graph.remove(nodes)
        model.graph.extend(reversed(nodes))
        return ir.passes.PassResult(model, True)


class Count(ir.passes.InPlacePass):
    """Changes nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, False)


NOT_A_PASS = 3
