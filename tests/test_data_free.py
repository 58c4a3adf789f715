"""Ranges from batch normalization are near those of the data that it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxcomp
from onnxcomp.calibration.data_free import completed, estimate_ranges
from onnxcomp.calibration.find import collect_ranges
from onnxcomp.calibration.moments import (
    Moments,
    normal,
    of_function,
    of_linear,
    of_mean,
    of_product,
    of_sum,
)
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import open_samples
from onnxcomp.graph import Array
from onnxcomp.runtime import Session, input_specs

COUNT = 400_000
RNG = np.random.default_rng(0)


class Net:
    """Builds a network whose normalizations know the statistics of Gaussian images."""

    def __init__(self) -> None:
        self.images = RNG.standard_normal((64, 3, 12, 12)).astype(np.float32) * 2 + 0.5
        self.x = ir.val("x", dtype=ir.DataType.FLOAT, shape=("N", 3, 12, 12))
        self.graph = ir.Graph([self.x], [], nodes=[], opset_imports={"": 20}, name="net")

    def constant(self, data: Any) -> ir.Value:
        name = f"w{len(self.graph.initializers)}"
        value = ir.val(name, const_value=ir.tensor(np.asarray(data, np.float32), name=name))
        self.graph.register_initializer(value)
        return value

    def op(self, kind: str, *inputs: ir.Value, name: str = "", **attributes: Any) -> ir.Value:
        node = ir.node(kind, list(inputs), attributes)
        node.outputs[0].name = name or f"{kind.lower()}{len(self.graph)}"
        self.graph.append(node)
        return node.outputs[0]

    def normalized(self, x: ir.Value, name: str) -> ir.Value:
        seen = Session(self.model(x)).run({"x": self.images})[x.name or ""]
        channels = seen.shape[1]
        gamma, beta = RNG.uniform(0.5, 2, channels), RNG.standard_normal(channels)
        statistics = seen.mean(axis=(0, 2, 3)), seen.var(axis=(0, 2, 3))
        parts = [self.constant(part) for part in (gamma, beta, *statistics)]
        return self.op("BatchNormalization", x, *parts, name=name)

    def conv(self, x: ir.Value, shape: tuple[int, int], group: int = 1) -> ir.Value:
        weight = self.constant(RNG.standard_normal((*shape, 3, 3)) * 0.3)
        return self.op("Conv", x, weight, pads=[1, 1, 1, 1], group=group)

    def model(self, *outputs: ir.Value) -> ir.Model:
        self.graph.sort()
        model = ir.Model(self.graph, ir_version=10).clone()
        by_name = {value.name: value for node in model.graph for value in node.outputs}
        for output in outputs:
            value = by_name[output.name]
            value.type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(value)
        return model

    def ratios(self, model: ir.Model) -> dict[str, float]:
        """Return estimated over real spans, on the model as the lossless passes leave it."""
        result = onnxcomp.optimize(model).model
        real = collect_ranges(result, open_samples([self.images], input_specs(result)))
        found = estimate_ranges(model, result)
        return {
            name: (found[name].hi - found[name].lo) / (each.hi - each.lo)
            for name, each in real.values.items()
            if name in found
        }


def residual() -> tuple[Net, ir.Model]:
    net = Net()
    a = net.op("Relu", net.normalized(net.conv(net.x, (16, 3)), "bn1"), name="relu1")
    b = net.normalized(net.conv(a, (16, 16)), "bn2")
    c = net.op("Relu", net.op("Add", a, b, name="sum"), name="relu2")
    d = net.normalized(net.conv(c, (16, 1), group=16), "bn3")
    six = [net.constant(0.0), net.constant(6.0)]
    e = net.op("Concat", net.op("Clip", d, *six, name="clip"), c, axis=1, name="concat")
    f = net.op("MaxPool", e, kernel_shape=[2, 2], strides=[2, 2], name="pool")
    g = net.op("Conv", f, net.constant(RNG.standard_normal((8, 32, 1, 1)) * 0.2), name="head")
    h = net.op("GlobalAveragePool", net.op("HardSwish", g, name="swish"), name="mean")
    return net, net.model(net.op("Flatten", h, name="y"))


def test_estimates_are_near_what_the_data_show() -> None:
    net, model = residual()
    ratios = net.ratios(model)
    assert {"relu1", "relu2", "concat", "pool", "head", "mean", "y"} <= ratios.keys()
    assert all(0.5 <= ratio <= 4 for ratio in ratios.values()), ratios
    assert 0.8 <= np.median(list(ratios.values())) <= 2


def test_activations_cut_what_they_cut() -> None:
    _, model = residual()
    found = estimate_ranges(model, model)
    assert found["relu1"].lo == found["relu2"].lo == found["clip"].lo == 0
    assert found["clip"].hi <= 6
    assert found["bn1"].lo < 0


def test_without_normalization_nothing_is_estimated() -> None:
    net = Net()
    model = net.model(net.op("Relu", net.conv(net.x, (4, 3))))
    assert estimate_ranges(model, model) == {}


@pytest.mark.parametrize("kind", ["training", "computed"])
def test_normalizations_that_say_nothing(kind: str) -> None:
    net = Net()
    made = net.normalized(net.conv(net.x, (3, 3)), "bn")
    node = made.producer()
    assert node is not None
    if kind == "training":
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    else:
        mean = net.op("ReduceMean", net.x, keepdims=0)
        node.replace_input_with(2, net.op("Expand", mean, net.constant([3.0])))
    model = net.model(made)
    assert estimate_ranges(model, model) == {}


def test_an_operator_without_a_rule_ends_the_chain() -> None:
    net = Net()
    made = net.op("TopK", net.normalized(net.conv(net.x, (3, 3)), "bn"), net.constant([2.0]))
    model = net.model(net.op("Relu", made, name="y"))
    assert set(estimate_ranges(model, model)) == {"bn"}


def test_estimates_go_before_random_samples() -> None:
    random = Ranges({"a": Range(0, 1), "b": Range(-1, 1)}, "minmax", 4, "random")
    found = completed({"b": Range(-3, 3), "gone": Range(0, 1)}, random)
    assert found.values == {"a": Range(0, 1), "b": Range(-3, 3)}
    assert (found.estimated, found.method, found.samples) == (("b",), "minmax", 4)


def test_int8_without_data_is_better_for_them() -> None:
    net, model = residual()
    result = onnxcomp.optimize(model).model
    random = collect_ranges(result, open_samples("random:8", input_specs(result), model=result))
    both = completed(estimate_ranges(model, result), random)
    found = []
    for ranges in (random, both):
        int8 = onnxcomp.optimize(model, int8=True, ranges=ranges, verify=False)
        compared = onnxcomp.compare(model, int8.model, calib=[net.images])
        found.append(compared.parity.sqnr_db)
    assert found[1] > found[0]
    assert found[1] > 10


def test_what_was_used_is_said() -> None:
    _, model = residual()
    said: list[str] = []
    result = onnxcomp.optimize(model, int8=True, say=said.append)
    assert any("ranges come from batch normalization" in line for line in said)
    assert result.report.to_dict()["ranges"]["estimated"] == 9


# ---------------------------------------------------------------- the rules against sampling
def drawn(x: Moments) -> Array:
    return RNG.normal(x.mean, np.sqrt(x.variance), (COUNT, len(x.mean)))


def near(found: Moments, data: Array, tolerance: float = 0.02) -> None:
    scale = np.sqrt(found.variance) + 1e-3
    assert np.all(np.abs(found.mean - data.mean(axis=0)) < tolerance * scale + 1e-3)
    assert np.allclose(np.sqrt(found.variance), data.std(axis=0), rtol=tolerance, atol=2e-3)
    slack = 0.01 * (found.hi - found.lo) + 1e-6
    assert np.all(found.lo <= data.min(axis=0) + slack)
    assert np.all(found.hi >= data.max(axis=0) - slack)


X = normal(np.array([0.0, 1.0, -2.0]), np.array([1.0, 4.0, 0.25]))
Y = normal(np.array([3.0, 0.0, 1.0]), np.array([0.5, 1.0, 2.0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.maximum(x, 0),
        lambda x: np.clip(x, 0, 6),
        np.tanh,
        lambda x: x / (1 + np.exp(-x)),
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        np.abs,
    ],
)
def test_functions(function: Callable[[Array], Array]) -> None:
    near(of_function(function, X), function(drawn(X)), tolerance=0.04)


def test_sums_and_products() -> None:
    near(of_sum(X, Y), drawn(X) + drawn(Y))
    near(of_sum(X, Y, -1.0), drawn(X) - drawn(Y))
    product, data = of_product(X, Y), drawn(X) * drawn(Y)
    assert np.allclose(product.mean, data.mean(axis=0), atol=0.02)
    assert np.allclose(product.variance, data.var(axis=0), rtol=0.02)


@pytest.mark.parametrize("groups", [1, 3])
def test_linear_maps(groups: int) -> None:
    weight, bias = RNG.standard_normal((6, 3 // groups)), RNG.standard_normal(6)
    x = drawn(X)
    parts = np.split(x, groups, axis=1)
    rows = np.split(weight, groups)
    data = np.concatenate([p @ w.T for p, w in zip(parts, rows, strict=True)], axis=1) + bias
    near(of_linear(X, weight, bias, groups), data)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 50)), min_size=1, max_size=4))
def test_bounds_hold_the_mean(pairs: list[tuple[float, float]]) -> None:
    x = normal(np.array([mean for mean, _ in pairs]), np.array([var for _, var in pairs]))
    for found in (x, of_sum(x, x), of_product(x, x), of_mean(x), x.collapsed()):
        assert np.all(found.lo <= found.mean + 1e-9)
        assert np.all(found.mean <= found.hi + 1e-9)
        assert np.isfinite(found.lo).all()
        assert np.isfinite(found.hi).all()
