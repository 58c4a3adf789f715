"""A network of ResNet-18's shape (He et al., 2016) with seeded random weights, and noise for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

SIDE = 224
# Channels and stride of the eight residual blocks.
BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


class _Builder:
    def __init__(self) -> None:
        self.tape = ir.tape.Tape()
        self.weights: list[ir.Value] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> ir.Value:
        scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
        data = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        name = f"weight{len(self.weights)}"
        self.weights.append(ir.val(name, const_value=ir.tensor(data, name=name)))
        return self.weights[-1]

    def conv(self, x: ir.Value, shape: tuple[int, int, int], stride: int) -> ir.Value:
        channels, source, kernel = shape
        inputs = [x, self.weight(channels, source, kernel, kernel), self.weight(channels)]
        pads = [kernel // 2] * 4
        return self.tape.op("Conv", inputs, {"strides": [stride, stride], "pads": pads})


def write_resnet18(path: Path) -> None:
    """Write the network: float[N,3,224,224] x to float[N,1000] y, 21 convolutions and sums."""
    make = _Builder()
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=("N", 3, SIDE, SIDE))
    value = make.tape.op("Relu", [make.conv(x, (64, 3, 7), 2)])
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    value, source = make.tape.op("MaxPool", [value], window), 64
    for channels, stride in BLOCKS:
        inner = make.tape.op("Relu", [make.conv(value, (channels, source, 3), stride)])
        inner = make.conv(inner, (channels, channels, 3), 1)
        if (channels, stride) != (source, 1):
            value = make.conv(value, (channels, source, 1), stride)
        value, source = make.tape.op("Relu", [make.tape.op("Add", [inner, value])]), channels
    value = make.tape.op("Flatten", [make.tape.op("GlobalAveragePool", [value])])
    y = make.tape.op("Gemm", [value, make.weight(1000, source), make.weight(1000)], {"transB": 1})
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 1000])
    graph = ir.Graph(
        [x],
        [y],
        nodes=make.tape.nodes,
        initializers=make.weights,
        opset_imports={"": 17},
        name="resnet18",
    )
    ir.save(ir.Model(graph, ir_version=8), path)


def write_noise(path: Path, count: int) -> None:
    """Write samples of seeded noise, smoothed so that it has edges and plains as pictures do."""
    rng = np.random.default_rng(1)
    coarse = rng.standard_normal((count, 3, SIDE // 16, SIDE // 16)).astype(np.float32)
    smooth = coarse.repeat(16, axis=2).repeat(16, axis=3)
    np.save(path, smooth + 0.2 * rng.standard_normal(smooth.shape).astype(np.float32))
