"""Well-known architectures with lazy weights: shapes without data, for counting MACs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


class Net:
    """Builds a graph of convolutions; channels are tracked, weights are never made."""

    def __init__(self, size: int = 224) -> None:
        self.model_input = ir.Value(
            name="x", shape=ir.Shape([1, 3, size, size]), type=ir.TensorType(ir.DataType.FLOAT)
        )
        self.tape = ir.tape.Tape()
        self.weights: list[ir.Value] = []
        self.channels = {self.model_input: 3}

    def weight(self, *shape: int) -> ir.Value:
        name = f"w{len(self.weights)}"
        data = ir.LazyTensor(
            lambda: ir.tensor(np.zeros(shape, np.float32)),
            ir.DataType.FLOAT,
            ir.Shape(shape),
            name=name,
        )
        value = ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=data,
        )
        self.weights.append(value)
        return value

    def conv(
        self, x: ir.Value, out: int, kernel: int, stride: int = 1, *, depthwise: bool = False
    ) -> ir.Value:
        groups = self.channels[x] if depthwise else 1
        weight = self.weight(out, self.channels[x] // groups, kernel, kernel)
        y = self.tape.op(
            "Conv",
            [x, weight],
            {
                "kernel_shape": [kernel, kernel],
                "strides": [stride, stride],
                "pads": [kernel // 2] * 4,
                "group": groups,
            },
        )
        self.channels[y] = out
        return y

    def relu(self, x: ir.Value) -> ir.Value:
        return self.keep(self.tape.op("Relu", [x]), x)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.keep(self.tape.op("Add", [x, y]), x)

    def keep(self, y: ir.Value, x: ir.Value) -> ir.Value:
        self.channels[y] = self.channels[x]
        return y

    def finish(self, x: ir.Value, classes: int = 1000) -> ir.Model:
        pooled = self.tape.op("Flatten", [self.tape.op("GlobalAveragePool", [x])])
        weight = self.weight(classes, self.channels[x])
        y = self.tape.op("Gemm", [pooled, weight], {"transB": 1})
        y.name, y.shape = "y", ir.Shape([1, classes])
        y.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.model_input],
            [y],
            nodes=self.tape.nodes,
            initializers=self.weights,
            opset_imports={"": 17},
            name="g",
        )
        return ir.Model(graph, ir_version=8)


def resnet50() -> ir.Model:
    """Return ResNet-50 v1.5 for 224x224 (He et al., arXiv:1512.03385; stride in the 3x3)."""
    net = Net()
    x = net.relu(net.conv(net.model_input, 64, 7, 2))
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    x = net.keep(net.tape.op("MaxPool", [x], pool), x)
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = net.relu(net.conv(x, width, 1))
            y = net.relu(net.conv(y, width, 3, stride))
            y = net.conv(y, width * 4, 1)
            x = net.relu(net.add(y, x if block else net.conv(x, width * 4, 1, stride)))
    return net.finish(x)


def mobilenet_v2() -> ir.Model:
    """Return MobileNetV2 1.0 for 224x224 (Sandler et al., arXiv:1801.04381, table 2)."""
    net = Net()
    x = net.relu(net.conv(net.model_input, 32, 3, 2))
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    for expand, out, repeats, first in [*table, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for index in range(repeats):
            stride, wide = (first if not index else 1), net.channels[x] * expand
            y = net.relu(net.conv(x, wide, 1)) if expand > 1 else x
            y = net.relu(net.conv(y, wide, 3, stride, depthwise=True))
            y = net.conv(y, out, 1)
            x = net.add(y, x) if stride == 1 and net.channels[x] == out else y
    return net.finish(net.relu(net.conv(x, 1280, 1)))
