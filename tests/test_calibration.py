"""Ranges over streamed samples: equal to brute force, whatever the sizes, masks and types."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.calibration.collect import Effort
from onnxcomp.calibration.find import collect_ranges
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import first_runs
from onnxcomp.calibration.taps import float_values
from onnxcomp.errors import ModelError, SamplesError
from onnxcomp.runtime import Session, input_specs


def build(body: str, inputs: str = "float[N,4] x", outputs: str = "float[N,4] y") -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )


def collect(model: ir.Model, given: Any, **options: Any) -> Ranges:
    return collect_ranges(model, open_samples(given, input_specs(model)), **options)


def draw(*shapes: tuple[int, ...], scale: float = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(shape) * scale).astype(np.float32) for shape in shapes]


CHAIN = build(
    "two = Constant<value_float = 2.0>()  a = Mul(x, two)  b = Relu(a)  c = Exp(a)  y = Sub(b, c)"
)


def test_equals_brute_force() -> None:
    samples = draw(*[(2, 4)] * 9)
    ranges = collect(CHAIN, samples)
    runs = [Session(CHAIN, taps=["a", "b", "c"]).run({"x": x}) | {"x": x} for x in samples]
    for name in ("x", "a", "b", "c", "y"):
        every = np.concatenate([run[name] for run in runs])
        assert ranges.values[name] == Range(float(every.min()) + 0.0, float(every.max()))
    assert list(ranges.values) == ["x", "a", "b", "c", "y"]
    assert (ranges.method, ranges.samples, ranges.source) == ("minmax", 9, "list")
    assert ranges.nonfinite == {}


IDENTITY = build("y = Identity(x)")


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_any_input_gives_the_extremes_of_what_is_finite(feeds: list[list[float]]) -> None:
    ranges = collect(IDENTITY, [np.array([row], np.float32) for row in feeds])
    every = np.array(feeds, np.float32)
    finite = every[np.abs(every) < 0.99 * np.finfo(np.float32).max]
    if finite.size:
        wanted = Range(float(finite.min()) + 0.0, float(finite.max()) + 0.0)
        assert ranges.values == {"x": wanted, "y": wanted}
    else:
        assert ranges.values == {}
    nan = int(np.isnan(every).sum())
    assert ranges.nan.get("x", 0) == nan
    assert ranges.nonfinite.get("x", 0) == every.size - finite.size - nan


def test_ragged_batches_and_dynamic_sizes() -> None:
    model = build("y = Relu(x)", "float[N,1,H,W] x", "float[N,1,H,W] y")
    samples = draw((2, 1, 8, 8), (2, 1, 5, 9), (1, 1, 16, 3))
    highest = max(float(x.max()) for x in samples)
    assert collect(model, samples).values["y"] == Range(0.0, highest)


MASKED = "float[N,4] x, bool[N,4] keep, float[] zero, float[] low"


@pytest.mark.parametrize("low", [-np.inf, np.finfo(np.float32).min], ids=["inf", "least"])
def test_a_mask_does_not_set_the_range(low: float) -> None:
    model = build("m = Where(keep, zero, low)  a = Add(x, m)  y = Softmax(a)", MASKED)
    x = draw((1, 4), scale=0.1)[0]
    keep = np.array([[True, True, False, True]])
    ranges = collect(model, [{"x": x, "keep": keep, "zero": 0.0, "low": low}])
    seen = x[keep]
    assert ranges.values["m"] == Range(0.0, 0.0)
    assert ranges.values["a"] == Range(float(seen.min()), float(seen.max()))
    assert ranges.nonfinite == {"low": 1, "m": 1, "a": 1}


def test_nan_is_left_out() -> None:
    model = build("r = Sqrt(x)  y = Neg(r)")
    ranges = collect(model, [np.array([[4, -1, 9, 0]], np.float32)])
    assert ranges.values["y"] == Range(-3.0, 0.0)
    assert (ranges.nan, ranges.nonfinite) == ({"r": 1, "y": 1}, {})


def test_nothing_finite_or_nothing_at_all_gives_no_range() -> None:
    body = "n = Log(x)  e = Compress<axis = 0>(x, none)  y = Identity(x)"
    model = build(body, "float[N,4] x, bool[N] none")
    ranges = collect(model, [{"x": np.full((1, 4), -1.0), "none": np.array([False])}])
    assert set(ranges.values) == {"x", "y"}
    assert ranges.nan == {"n": 4}


def test_half_and_double() -> None:
    body = "h = Cast<to = 10>(x)  d = Cast<to = 11>(h)  y = Cast<to = 1>(d)"
    ranges = collect(build(body), [np.array([[0.1, 1, 2, 3]], np.float32)])
    lowest = float(np.float16(0.1))
    assert {ranges.values[name] for name in "hdy"} == {Range(lowest, 3.0)}
    assert ranges.values["x"].lo == float(np.float32(0.1))


def test_integers_have_no_range() -> None:
    body = "s = Shape(x)  t = Gather(x, i)  k = Add(i, i)  y = Identity(x)"
    model = build(body, "float[N,4] x, int64[K] i")
    ranges = collect(model, [{"x": np.ones((2, 4), np.float32), "i": np.array([1, 0])}])
    assert set(ranges.values) == {"x", "t", "y"}


def test_sequences_are_passed_over_typed_or_not() -> None:
    body = "s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis = 0>(s)"
    for typed in (False, True):
        model = build(body)
        if typed:
            sequence = model.graph[0].outputs[0]
            sequence.type = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))
            assert float_values(model) == ["y"]
        assert set(collect(model, draw((1, 4))).values) == {"x", "y"}


def test_values_that_cannot_be_returned_are_passed_over() -> None:
    model = build("b = Cast<to = 16>(x)  c = Cast<to = 1>(b)  y = Abs(c)")
    assert set(collect(model, draw((1, 4))).values) == {"x", "c", "y"}


def test_what_only_an_activation_reads_is_not_looked_at() -> None:
    bounds = "lo = Constant<value_float = -1.0>()  hi = Constant<value_float = 6.0>()"
    bodies = {
        "a = Abs(x)  y = Relu(a)": {"x", "y"},
        f"{bounds}  a = Abs(x)  y = Clip(a, lo, hi)": {"x", "y"},
        f"{bounds}  a = Abs(x)  y = Clip(a, hi)": {"x", "a", "y"},  # at least 6: no zero
        "a = Abs(x)  b = Relu(a)  y = Add(a, b)": {"x", "a", "b", "y"},
        "y = Relu(x)": {"x", "y"},
    }
    for body, seen in bodies.items():
        assert set(collect(build(body), draw((2, 4))).values) == seen
    both = build("a = Abs(x)  y = Relu(a)", outputs="float[N,4] y, float[N,4] a")
    assert set(collect(both, draw((2, 4))).values) == {"x", "a", "y"}
    chosen = collect(build("a = Abs(x)  y = Relu(a)"), draw((2, 4)), per_channel=["a"])
    assert len(chosen.channels["a"]) == 4


def test_what_only_a_pool_reads_has_the_range_that_the_pool_leaves() -> None:
    shape = {"inputs": "float[1,1,4,4] x", "outputs": "float[1,1,2,2] y"}
    pool = "MaxPool<kernel_shape=[2,2], strides=[2,2]>"
    model = build(f"a = Abs(x)  b = {pool}(a)  y = Neg(b)", **shape)
    feeds = [{"x": np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)}]
    found = collect(model, feeds)
    assert found.values["a"] == found.values["b"] == Range(6.0, 16.0)
    asked = collect(model, feeds, per_channel=["a"])
    assert asked.values["a"] == asked.channels["a"][0] == Range(1.0, 16.0)
    branched = build(f"a = Abs(x)  b = {pool}(a)  c = {pool}(a)  y = Add(b, c)", **shape)
    assert collect(branched, feeds).values["a"] == Range(1.0, 16.0)


def test_subgraphs_stay_shut_but_what_they_return_counts() -> None:
    model = build(
        "s = ReduceSum<keepdims = 0>(x)  p = Greater(s, s)"
        "y = If(p) <then_branch = t () => (float[N,4] a) { a = Neg(x) },"
        " else_branch = e () => (float[N,4] b) { i = Exp(x)  b = Relu(i) }>"
    )
    assert set(collect(model, draw((1, 4))).values) == {"x", "s", "y"}


def test_known_ranges_need_no_sample_that_reaches_them() -> None:
    body = "a = Softmax(x)  b = Sigmoid(x)  c = HardSigmoid(x)  d = Tanh(x)  y = Relu(d)"
    values = collect(build(body), [np.full((1, 4), 0.5, np.float32)]).values
    assert [values[name] for name in "abc"] == [Range(0.0, 1.0)] * 3
    assert values["d"] == Range(-1.0, 1.0)
    assert values["y"].lo == values["y"].hi == pytest.approx(0.4621, abs=1e-4)


def test_progress_counts_samples_and_threads_change_nothing() -> None:
    done: list[tuple[int, int | None]] = []

    def progress(count: int, total: int | None) -> None:
        done.append((count, total))

    one = collect(CHAIN, draw((2, 4), (3, 4)), effort=Effort(threads=1), progress=progress)
    assert done == [(1, 2), (2, 2)]
    assert collect(CHAIN, draw((2, 4), (3, 4)), effort=Effort(threads=2)) == one


def test_memory_does_not_grow_with_samples() -> None:
    def feeds(count: int) -> Iterator[Any]:
        return (np.full((1000, 4), index, np.float32) for index in range(count))

    peaks = []
    for count in (64, 1024):  # two are counted at once, which fewer may not happen to be
        samples = open_samples(lambda n=count: feeds(n), input_specs(CHAIN))
        tracemalloc.start()
        collect_ranges(CHAIN, samples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 50_000


def test_a_sample_that_does_not_run_is_named() -> None:
    model = build("y = Add(x, z)", "float[N,4] x, float[M,4] z")
    pairs = [{"x": np.ones((n, 4), np.float32), "z": np.ones((2, 4), np.float32)} for n in (2, 3)]
    with pytest.raises(ModelError, match=r"cannot run the model.*\(on list, sample 1\)"):
        collect(model, pairs)


def test_a_sample_that_does_not_fit_is_named() -> None:
    with pytest.raises(SamplesError, match="list, sample 1: input"):
        collect(CHAIN, draw((1, 4), (1, 3)))


class Refusing(Session):
    """Notes how many numbers it is given, and runs on none."""

    def __init__(self) -> None:
        self.most = 0

    def run(self, feeds: Any) -> dict[str, Any]:
        self.most = max(self.most, sum(data.size for data in feeds.values()))
        raise ModelError("no such size")


def test_sizes_that_are_tried_take_little_memory() -> None:
    session = Refusing()
    with pytest.raises(ModelError, match=r"no random input runs.*no such size.*pass real data"):
        first_runs(build("y = Relu(x)", "float[N,4,H,W] x", "float[N,4,H,W] y"), 1, 0, session)
    assert 1 << 20 < session.most <= 1 << 24
    large = Refusing()
    with pytest.raises(ModelError, match="no such size"):
        first_runs(build("y = Relu(x)", "float[N,6000,3000] x", "float[N,A,B] y"), 1, 0, large)
    assert large.most == 2 * 6000 * 3000
