"""The oracle of a removal: the same model with the channels silenced instead of taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.groups import Group, Part
from onnxcomp.channels.twins import learn_shapes, twins
from onnxcomp.edits import add_constant
from onnxcomp.graph import array, is_op, label, tensor
from onnxcomp.symbolic.facts import Facts


def neutralise_channels(model: ir.Model, removed: Mapping[Group, Sequence[int]]) -> ir.Model:
    """Return a copy whose outputs are those of the model without these channels.

    The weights that read the channels are zero there, so all shapes stay. Where a product of two
    computed values sums over the channels, so are those that make them, with their biases.
    """
    copy = model.clone()
    values = dict(twins(model.graph, copy.graph))
    nodes, facts = dict(zip(model.graph, copy.graph, strict=True)), learn_shapes(model)
    for group, channels in removed.items():
        chosen = np.array(sorted(channels), np.intp)
        if not len(chosen):
            continue
        for port in group.readers:
            for index, value in enumerate(port.node.inputs):
                if value is port.part.value:
                    _silence(nodes[port.node], index, port.part, chosen, facts)
        if _is_summed(group, facts):
            for part in group.parts:
                _silence_uses(part, values[part.value], chosen, facts)
    return copy


def _is_summed(group: Group, facts: Facts) -> bool:
    """Say whether a product of two computed values sums over the channels."""
    weights = {part.value for port in (*group.makers, *group.readers) for part in [port.part]}
    for part in group.parts:
        for node, index in part.value.uses():
            if is_op(node, "MatMul", "Gemm") and not weights & set(node.inputs) and index < 2:
                turned = node.attributes.get_int("transA" if index == 0 else "transB", 0) != 0
                rank = len(facts.shape(part.value) or ())
                summed = rank - 1 if (index == 0) != turned else rank - 2
                if part.axis == summed:
                    return True
    return False


def _silence_uses(part: Part, twin: ir.Value, chosen: NDArray[np.intp], facts: Facts) -> None:
    if tensor(part.value) is None:
        return
    for node, index in list(twin.uses()):
        if not (is_op(node, "BatchNormalization") and index == 4):
            _silence(node, index, part, chosen, facts)


def _silence(node: ir.Node, index: int, part: Part, chosen: NDArray[np.intp], facts: Facts) -> None:
    """Let a node read zeros at the places of some channels of an operand."""
    graph, value, shape = node.graph, node.inputs[index], facts.shape(part.value)
    assert isinstance(graph, ir.Graph)
    assert value is not None
    assert shape is not None
    places, data = part.places[chosen].reshape(-1), array(value)
    if data is not None:
        data = np.array(data)
        data[(slice(None),) * part.axis + (places,)] = 0
        node.replace_input_with(index, add_constant(graph, data, f"{value.name}.silent"))
        return
    mask = np.ones([int(shape[part.axis]), *[1] * (len(shape) - part.axis - 1)], np.float32)
    mask[places] = 0
    factor = add_constant(graph, mask, f"{value.name}.mask")
    product = ir.Node("", "Mul", [value, factor])
    product.name = product.outputs[0].name = f"{label(node)}.silent{index}"
    graph.insert_before(node, product)
    node.replace_input_with(index, product.outputs[0])
