"""Networks with seeded random weights of known shapes, and noise for them.

ResNet-18's (He et al., 2016) and MobileNetV2's (Sandler et al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

SIDE = 224
# Channels and stride of the eight residual blocks.
BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
# Expansion, channels, stride and number of the inverted residual blocks.
INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 2, 3),
    (6, 64, 2, 4),
    (6, 96, 1, 3),
    (6, 160, 2, 3),
    (6, 320, 1, 1),
)


@dataclass
class _Builder:
    """Adds layers to a tape; with `batch_norm`, one follows each convolution without bias."""

    batch_norm: bool = False
    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    weights: list[ir.Value] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, data: np.ndarray) -> ir.Value:
        name = f"weight{len(self.weights)}"
        tensor = ir.tensor(data.astype(np.float32), name=name)
        self.weights.append(ir.val(name, const_value=tensor))
        return self.weights[-1]

    def weight(self, *shape: int) -> ir.Value:
        scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def conv(
        self, x: ir.Value, shape: tuple[int, int, int], stride: int, groups: int = 1
    ) -> ir.Value:
        channels, source, kernel = shape
        inputs = [x, self.weight(channels, source // groups, kernel, kernel)]
        if not self.batch_norm:
            inputs.append(self.weight(channels))
        attributes = {"strides": [stride, stride], "pads": [kernel // 2] * 4, "group": groups}
        if groups == 1:
            del attributes["group"]
        made = self.tape.op("Conv", inputs, attributes)
        return self.norm(made, channels) if self.batch_norm else made

    def norm(self, x: ir.Value, channels: int) -> ir.Value:
        """Add a BatchNormalization as training leaves one: near, and not at, the identity."""
        draw = self.rng.uniform
        scale, variance = draw(0.6, 1.4, channels), draw(0.6, 1.4, channels)
        bias, mean = draw(-0.3, 0.3, channels), draw(-0.3, 0.3, channels)
        return self.tape.op(
            "BatchNormalization", [x, *map(self.constant, (scale, bias, mean, variance))]
        )

    def head(self, x: ir.Value, channels: int) -> ir.Value:
        flat = self.tape.op("Flatten", [self.tape.op("GlobalAveragePool", [x])])
        inputs = [flat, self.weight(1000, channels), self.weight(1000)]
        return self.tape.op("Gemm", inputs, {"transB": 1})

    def save(self, path: Path, x: ir.Value, y: ir.Value) -> None:
        y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 1000])
        graph = ir.Graph(
            [x],
            [y],
            nodes=self.tape.nodes,
            initializers=self.weights,
            opset_imports={"": 17},
            name=path.stem,
        )
        ir.save(ir.Model(graph, ir_version=8), path)


def _image() -> ir.Value:
    return ir.val("x", dtype=ir.DataType.FLOAT, shape=("N", 3, SIDE, SIDE))


def write_resnet18(path: Path, *, batch_norm: bool = False) -> None:
    """Write the network: float[N,3,224,224] x to float[N,1000] y, 21 convolutions and sums."""
    make, x = _Builder(batch_norm), _image()
    value = make.tape.op("Relu", [make.conv(x, (64, 3, 7), 2)])
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    value, source = make.tape.op("MaxPool", [value], window), 64
    for channels, stride in BLOCKS:
        inner = make.tape.op("Relu", [make.conv(value, (channels, source, 3), stride)])
        inner = make.conv(inner, (channels, channels, 3), 1)
        if (channels, stride) != (source, 1):
            value = make.conv(value, (channels, source, 1), stride)
        value, source = make.tape.op("Relu", [make.tape.op("Add", [inner, value])]), channels
    make.save(path, x, make.head(value, source))


def write_mobilenet(path: Path) -> None:
    """Write the network: float[N,3,224,224] x to float[N,1000] y, 52 convolutions, Relu6 as Clip.

    A BatchNormalization follows each convolution.
    """
    make, x = _Builder(batch_norm=True), _image()
    limits = [make.constant(np.array(0.0)), make.constant(np.array(6.0))]
    value, source = _relu6(make, make.conv(x, (32, 3, 3), 2), limits), 32
    for expansion, channels, stride, count in INVERTED:
        for index in range(count):
            step = stride if index == 0 else 1
            inner, wide = value, source * expansion
            if expansion > 1:
                inner = _relu6(make, make.conv(inner, (wide, source, 1), 1), limits)
            inner = _relu6(make, make.conv(inner, (wide, wide, 3), step, groups=wide), limits)
            inner = make.conv(inner, (channels, wide, 1), 1)
            same = (step, channels) == (1, source)
            value, source = make.tape.op("Add", [inner, value]) if same else inner, channels
    value = _relu6(make, make.conv(value, (1280, source, 1), 1), limits)
    make.save(path, x, make.head(value, 1280))


def _relu6(make: _Builder, x: ir.Value, limits: Sequence[ir.Value]) -> ir.Value:
    return make.tape.op("Clip", [x, *limits])


def noise(count: int, seed: int = 1) -> np.ndarray:
    """Return samples of seeded noise, smoothed so that it has edges and plains as pictures do."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, SIDE // 16, SIDE // 16)).astype(np.float32)
    smooth = coarse.repeat(16, axis=2).repeat(16, axis=3)
    return smooth + 0.2 * rng.standard_normal(smooth.shape).astype(np.float32)


def write_noise(path: Path, count: int) -> None:
    """Write samples of noise to an .npy."""
    np.save(path, noise(count))
