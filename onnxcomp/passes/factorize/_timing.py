"""Whether small layers are faster than the one that they stand for, measured at its real shape."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import array
from onnxcomp.latency import measure_in_turns
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._forms import Chain, Form, Site
from onnxcomp.passes.factorize._rewrite import rewrite
from onnxcomp.runtime import Session

# What counts as faster, and how long one comparison takes.
FASTER, SECONDS = 1.05, 0.2
# Any that has the operators as they are today.
OPSET, IR_VERSION = 17, 8


@dataclass
class Clock:
    """Times layers by themselves, on one thread; equal shapes once."""

    known: dict[object, float] = field(default_factory=dict)

    def speedup(self, site: Site, form: Form) -> float:
        """Return how many times faster a form is."""
        layer = site.layers[0]
        weight = layer.node.inputs[1]
        assert weight is not None
        attributes = sorted((name, str(attr)) for name, attr in layer.node.attributes.items())
        key = (
            layer.node.op_type, str(attributes), str(weight.shape), site.x_shape,
            form.kind, form.ranks,
        )  # fmt: skip
        if key not in self.known:
            self.known[key] = _measure(layer, site.x_shape, form.build())
        return self.known[key]

    def passes(self, site: Site, form: Form) -> bool:
        """Say whether a form is faster; one without multiplications before is not for speed."""
        return site.macs == 0 or self.speedup(site, form) >= FASTER


def _measure(layer: Layer, x_shape: tuple[int, ...], chain: Chain) -> float:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal(x_shape).astype(np.float32)}
    dense, small = (_alone(layer, x_shape) for _ in range(2))
    [node] = small.graph
    alone = Layer(node, layer.groups, layer.rows, layer.columns)
    rewrite(small.graph, [alone], Chain(chain.parts, (None,)), OPSET)
    small.graph.initializers.pop("w")
    sessions = [Session(model, optimize=True) for model in (dense, small)]
    return measure_in_turns(sessions[0], sessions[1], [feeds], SECONDS).speedup


def _alone(layer: Layer, x_shape: tuple[int, ...]) -> ir.Model:
    """Return a model of one layer without its bias."""
    data = array(layer.node.inputs[1])
    assert data is not None
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(x_shape), type=float32)
    node = ir.Node("", layer.node.op_type, [x], list(layer.node.attributes.values()), name="y")
    node.outputs[0].name, node.outputs[0].type = "y", float32
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": OPSET}, name="alone")
    node.resize_inputs(2)
    node.replace_input_with(1, add_constant(graph, data, "w"))
    return ir.Model(graph, ir_version=IR_VERSION)
