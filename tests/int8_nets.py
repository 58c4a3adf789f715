"""Small seeded nets for the passes around quantization, and how noisy their int8 form is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from case_pages import parse
from onnxcomp.calibration.find import collect_ranges
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.edits import add_constant, sweep
from onnxcomp.graph import Array, array
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

Feeds = Mapping[str, Array]


def samples_of(model: ir.Model, feeds: Sequence[Feeds]) -> Samples:
    """Return feeds as a pass reads them."""
    return open_samples(list(feeds), input_specs(model))


def normal_feeds(name: str, shape: Sequence[int], count: int, seed: int = 0) -> list[Feeds]:
    """Return seeded feeds for a model of one input."""
    rng = np.random.default_rng(seed)
    return [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def run_pass(
    name: str, model: ir.Model, feeds: Sequence[Feeds], target: str = "x86-vnni", **more: object
) -> tuple[ir.Model, Outcome]:
    """Return what a pass makes of a model; `original` in `more` is a need, the rest are options."""
    needs: dict[str, object] = {"samples": samples_of(model, feeds), "target": TARGETS[target]}
    needs["original"] = needs["unfused"] = more.pop("original", model)
    after = model.clone()
    outcome = apply(find_pass(name), after, more, needs)
    sweep(after)
    return after, outcome


def quantized(
    model: ir.Model, feeds: Sequence[Feeds], target: str = "x86-vnni", **options: object
) -> ir.Model:
    """Return the static int8 form of a model, with the ranges of these feeds."""
    after = model.clone()
    ranges = collect_ranges(after, samples_of(model, feeds))
    needs = {"ranges": ranges, "target": TARGETS[target]}
    assert apply(find_pass("quantize-static"), after, options, needs).sites
    sweep(after)
    return after


def sqnr_db(exact: ir.Model, other: ir.Model, feeds: Sequence[Feeds]) -> float:
    """Return the least signal-to-noise ratio of an output over feeds run together."""
    before, after = Session(exact), Session(other)
    joined = {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
    return compare_outputs(before.run(joined), after.run(joined)).sqnr_db


def weight(model: ir.Model, node: str) -> Array:
    """Return the weight of a node by the name of its first output."""
    found = next(each for each in model.graph if each.outputs[0].name == node)
    data = array(found.inputs[1])
    assert data is not None
    return data


def set_weight(model: ir.Model, node: str, data: Array, index: int = 1) -> None:
    """Give a node another constant."""
    found = next(each for each in model.graph if each.outputs[0].name == node)
    value = add_constant(model.graph, data.astype(np.float32), f"{node}.given")
    found.replace_input_with(index, value)


MOBILE = """agraph (float[N, 3, 16, 16] x) => (float[N, 5] y)
<float[8, 3, 3, 3] ws, float[8] bs,
 float[24, 8, 1, 1] w1, float[24] b1, float[24, 1, 3, 3] w2, float[24] b2,
 float[8, 24, 1, 1] w3, float[8] b3,
 float[24, 8, 1, 1] w4, float[24] b4, float[24, 1, 3, 3] w5, float[24] b5,
 float[8, 24, 1, 1] w6, float[8] b6,
 float[32, 8, 1, 1] w7, float[32] b7, float[32, 5] w8, float[5] b8>
{
    stem = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, ws, bs)
    e1 = Conv (stem, w1, b1)
    r1 = Relu (e1)
    d1 = Conv <group = 24, pads = [1, 1, 1, 1]> (r1, w2, b2)
    r2 = Relu (d1)
    p1 = Conv (r2, w3, b3)
    a1 = Add (p1, stem)
    e2 = Conv (a1, w4, b4)
    r3 = Relu (e2)
    d2 = Conv <group = 24, pads = [1, 1, 1, 1]> (r3, w5, b5)
    r4 = Relu (d2)
    p2 = Conv (r4, w6, b6)
    a2 = Add (p2, a1)
    head = Conv (a2, w7, b7)
    r5 = Relu (head)
    g = GlobalAveragePool (r5)
    f = Flatten (g)
    y = Gemm (f, w8, b8)
}"""


def mobile_net(spread: float = 1000.0, seed: int = 0) -> ir.Model:
    """Return a MobileNetV2-like net whose channels have weights that differ by up to `spread`.

    The channels of an even net are multiplied by factors, and divided by them in what reads them,
    as training with weight decay and batch normalization leaves real ones.
    """
    model, rng = parse(MOBILE, 17), np.random.default_rng(seed)
    fans = {"stem": 27, "e1": 8, "d1": 9, "p1": 24, "e2": 8, "d2": 9, "p2": 24, "head": 8, "y": 32}
    for node, fan in fans.items():
        shape = weight(model, node).shape
        set_weight(model, node, rng.standard_normal(shape) * np.sqrt(1.5 / fan))
        rows = shape[1] if node == "y" else shape[0]
        set_weight(model, node, np.asarray(0.1 * rng.standard_normal(rows)), index=2)
    for makers, readers, size in (
        (("stem", "p1", "p2"), ("e1", "e2", "head"), 8),
        (("e1",), ("d1",), 24),
        (("d1",), ("p1",), 24),
        (("e2",), ("d2",), 24),
        (("d2",), ("p2",), 24),
    ):
        factor = spread ** rng.uniform(-0.5, 0.5, size)
        factor[:2] = spread**-0.5, spread**0.5
        for node in makers:
            bias = next(each for each in model.graph if each.outputs[0].name == node).inputs[2]
            data = array(bias)
            assert data is not None
            set_weight(model, node, weight(model, node) * factor.reshape(-1, 1, 1, 1))
            set_weight(model, node, data * factor, index=2)
        for node in readers:
            own = (-1, 1, 1, 1) if node in ("d1", "d2") else (1, -1, 1, 1)
            set_weight(model, node, weight(model, node) / factor.reshape(own))
    sweep(model)
    return model
