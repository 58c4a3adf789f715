"""quantize-weights: how numbers are rounded, who shares scales, and that loading undoes it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxcomp
from case_pages import parse
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.errors import UsageError
from onnxcomp.graph import all_nodes, array, tensor
from onnxcomp.parity import compare_outputs
from onnxcomp.passes.quantize import _storage
from onnxcomp.passes.quantize._storage import round_weight, rounding_sqnr, scales_of
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import LEVELS, Session, inline_bytes, load, session_options

PASS = find_pass("quantize-weights")

LSTM_IN_BRANCHES = """agraph (float[6, N, 16] x, bool fast) => (float[6, 1, N, 8] y)
<float[1, 32, 8] r, float[1, 64] b>
{
    y = If (fast) <
        then_branch = a () => (float[6, 1, N, 8] t)
        <float[1, 32, 16] w1> { t = LSTM <hidden_size = 8> (x, w1, r, b) },
        else_branch = c () => (float[6, 1, N, 8] e)
        <float[1, 32, 16] w2> { e = LSTM <hidden_size = 8> (x, w2, r) }
    >
}"""


def stored(text: str | ir.Model, *, opset: int = 17, **options: object) -> tuple[ir.Model, Outcome]:
    """Store weights in int8 and check what every result promises."""
    before = parse(text, opset) if isinstance(text, str) else text
    after = before.clone()
    outcome = apply(PASS, after, {"least": 64, **options})
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    if outcome.sites:
        for feeds in runnable_feeds(before, count=2):
            wanted, found = Session(before).run(feeds), Session(after).run(feeds)
            assert compare_outputs(wanted, found).sqnr_db > 30
        for level in LEVELS[1:3]:  # above these only memory layouts change
            assert kernels(after, level) == kernels(before, level)
    assert apply(PASS, after.clone(), {"least": 64, **options}).sites == 0
    return after, outcome


def kernels(model: ir.Model, level: str) -> Counter[str]:
    """Count the operators that ONNX Runtime runs of a model, at a level of optimization."""
    options = session_options(optimize=level, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        load(inline_bytes(model), options)
        nodes = all_nodes(ir.load(options.optimized_model_filepath))
        return Counter(node.op_type for node in nodes if node.op_type != "Constant")


def scale_shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight's scales by the name of the weight."""
    found = {}
    for node in all_nodes(model):
        if node.op_type == "Cast":
            (scaled,) = node.outputs[0].consumers()
            scale, steps = array(scaled.inputs[1]), node.inputs[0]
            assert scale is not None
            assert steps is not None
            found[(steps.name or "").removesuffix(".int8")] = scale.shape
    return found


def weights_of(model: ir.Model) -> list[ir.DataType]:
    graphs = (model.graph, *model.graph.subgraphs())
    values = [value for graph in graphs for value in graph.initializers.values()]
    return [found.dtype for value in values if (found := tensor(value)) and found.size >= 64]


# ---------------------------------------------------------------- numbers
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.data(),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.integers(1, 40),
)
def test_no_number_moves_more_than_half_a_step(
    shape: list[int], data: st.DataObject, size: float, block: int
) -> None:
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    seed = data.draw(st.integers(0, 9))
    weight = (np.random.default_rng(seed).normal(size=shape) * size).astype(np.float32)
    scale = scales_of(weight, axes)
    assert scale is not None
    assert scale.shape == tuple(n if i in axes else 1 for i, n in enumerate(shape))
    whole = round_weight(weight, scale)
    assert np.all(np.abs(whole.astype(np.float64) * scale - weight) <= 0.501 * scale)
    assert np.abs(whole.astype(np.int32)).max() <= 127
    error = weight - whole * scale
    sqnr = rounding_sqnr(weight, scale)
    share = np.square(error, dtype=np.float64).sum() / np.square(weight, dtype=np.float64).sum()
    assert 10 ** (-sqnr / 10) == pytest.approx(share, rel=0.01, abs=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_storage, "BLOCK", block)
        assert np.array_equal(round_weight(weight, scale), whole)
        assert rounding_sqnr(weight, scale) == pytest.approx(sqnr)


# ---------------------------------------------------------------- who shares a scale
def test_convolutions_have_a_scale_for_each_output_channel() -> None:
    model, outcome = stored("""agraph (float[N, 8, 9, 9] x) => (float[N, M, H, W] y)
<float[8, 4, 3, 3] grouped, float[8, 1, 3, 3] depthwise, float[8, 6, 3, 3] up,
 float[6, 1, 4, 4] up_depthwise>
{
    a = Conv <group = 2> (x, grouped)
    b = Conv <group = 8> (a, depthwise)
    c = ConvTranspose (b, up)
    y = ConvTranspose <group = 6> (c, up_depthwise)
}""")
    assert scale_shapes(model) == {
        "grouped": (8, 1, 1, 1),
        "depthwise": (8, 1, 1, 1),
        "up": (1, 6, 1, 1),
        "up_depthwise": (6, 1, 1, 1),
    }
    assert outcome.sites == 4


def test_products_have_a_scale_for_each_column() -> None:
    model, _ = (
        stored("""agraph (float[8, 16] x) => (float[2, 8, 8] y, float[16, 8] l, float[16, 8] t)
<float[16, 8] a, float[16, 8] b, float[2, 8, 8] batch, float[16, 8] left, float[8, 16] left_t>
{
    p = Gemm (x, a)
    r = MatMul (x, b)
    s = Add (p, r)
    y = MatMul (s, batch)
    l = MatMul (left, s)
    t = Gemm <transA = 1> (left_t, s)
}""")
    )
    found = scale_shapes(model)
    assert found == {
        "a": (1, 8),
        "b": (1, 8),
        "batch": (2, 1, 8),
        "left": (16, 1),
        "left_t": (1, 16),
    }


def test_recurrent_weights_in_branches_are_stored_where_they_are_and_once() -> None:
    model, outcome = stored(LSTM_IN_BRANCHES)
    assert outcome.sites == 3
    assert scale_shapes(model) == {"w1": (1, 32, 1), "w2": (1, 32, 1), "r": (1, 32, 1)}
    assert list(model.graph.initializers) == ["b", "r.int8", "r.scale"]
    assert sum(node.op_type == "Cast" for node in model.graph) == 1


def test_constant_nodes_are_stored_too() -> None:
    model = parse(LSTM_IN_BRANCHES, 17)
    graphs = {value.name: graph for graph in (model.graph, *model.graph.subgraphs())
              for value in graph.initializers.values()}  # fmt: skip
    for name in ("w1", "r"):
        graph = graphs[name]
        old = graph.initializers.pop(name)
        assert old.const_value is not None
        node = ir.Node("", "Constant", [], [ir.AttrTensor("value", old.const_value)])
        node.outputs[0].name = f"{name}.constant"
        graph.insert_before(graph[0], node)
        old.replace_all_uses_with(node.outputs[0])
    after, outcome = stored(model)
    assert outcome.sites == 3
    assert not any(node.op_type == "Constant" for node in all_nodes(after))
    assert scale_shapes(after).keys() == {"w1.constant", "r.constant", "w2"}


@pytest.mark.parametrize(
    ("reader", "shape"),
    [
        ("wt = Transpose <perm = [1, 0]> (w)  y = MatMul (e, wt)", (32, 1)),
        ("y = Gemm <transB = 1> (e, w)", (32, 1)),
        ("y = MatMul (e, w)", (1, 1)),
    ],
)
def test_a_weight_of_two_readers_has_scales_that_suit_both(
    reader: str, shape: tuple[int, ...]
) -> None:
    size = 8 if "Transp" in reader or "transB" in reader else 32
    model, outcome = (
        stored(f"""agraph (int64[N] i, float[N, {size}] e) => (float[N, 8] g, float[N, M] y)
<float[32, 8] w> {{ g = Gather (w, i)  {reader} }}""")
    )
    assert outcome.sites == 1
    assert scale_shapes(model) == {"w": shape}


# ---------------------------------------------------------------- what stays float
def one_product(weight: np.ndarray) -> ir.Model:
    kind = "float16" if weight.dtype == np.float16 else "float"
    rows, columns = weight.shape
    model = parse(
        f"agraph ({kind}[N, {rows}] x) => ({kind}[N, {columns}] y) "
        f"<{kind}[{rows}, {columns}] w> {{ [product] y = MatMul (x, w) }}",
        17,
    )
    model.graph.initializers["w"].const_value = ir.Tensor(weight, name="w")
    return model


def weight_with(place: float, size: int = 16) -> np.ndarray:
    weight = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    weight[0, :] = place
    return weight


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (weight_with(np.nan), "its weight is not finite"),
        (weight_with(np.inf), "its weight is not finite"),
        (np.zeros((16, 16), np.float32), "its weight is all zero"),
        (weight_with(0.0).astype(np.float16), "its weight is float16, not float32"),
        (weight_with(50.0, 2048)[:, :64], None),
    ],
)
def test_weights_that_rounding_would_spoil_stay_float(
    weight: np.ndarray, reason: str | None
) -> None:
    outcome = (
        apply(PASS, one_product(weight), {})
        if weight.size > 1024
        else apply(PASS, one_product(weight), {"least": 64})
    )
    if reason is None:
        (left,) = outcome.left
        assert left.reason.startswith("its weight would keep only")
    else:
        assert [item.reason for item in outcome.left] == [reason]
    assert outcome.sites == 0


def test_excluded_nodes_keep_their_weights_and_a_glob_must_match() -> None:
    model = one_product(weight_with(0.0))
    _, outcome = stored(model, exclude="prod*")
    assert [item.reason for item in outcome.left] == ["excluded"]
    with pytest.raises(UsageError, match="matches no node"):
        apply(PASS, model, {"exclude": "nothing*"})


def test_an_int8_model_is_left_as_it_is() -> None:
    _, outcome = stored("""agraph (float[N, 16] x) => (float[N, 16] y)
<int8[16, 16] w, float scale = {0.1}, int8 zero = {0}>
{ f = DequantizeLinear (w, scale, zero)  y = MatMul (x, f) }""")
    assert (outcome.sites, outcome.left) == (0, ())


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("opset", [9, 13, 21])
def test_every_opset(opset: int) -> None:
    text = "agraph (float[N, 16] x) => (float[N, 16] y) <float[16, 16] w> { y = MatMul (x, w) }"
    assert stored(text, opset=opset)[1].sites == 1


def test_a_lossless_run_keeps_weights_in_int8(tmp_path: Path) -> None:
    """Each fold would grow the file by less than a fold may, all of them would double it."""
    lines = [f"y{i} = MatMul (x, w{i})" for i in range(40)]
    weights = ", ".join(f"float[16, 16] w{i}" for i in range(40))
    outputs = ", ".join(f"float[N, 16] y{i}" for i in range(40))
    model, outcome = stored(
        f"agraph (float[N, 16] x, int64[M] j) => ({outputs}, float[M, 900] e) "
        f"<{weights}, float[2000, 900] table> {{ {' '.join(lines)} e = Gather (table, j) }}"
    )
    assert outcome.sites == 41
    path = tmp_path / "stored.onnx"
    path.write_bytes(inline_bytes(model))
    result = onnxcomp.optimize(path)
    assert Counter(weights_of(result.model)) == Counter(weights_of(model))
    assert ir.DataType.FLOAT not in weights_of(result.model)[:41]


def test_weights_in_files_are_rounded_when_they_are_read(tmp_path: Path) -> None:
    model = one_product(weight_with(0.0))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    lazy = ir.load(tmp_path / "m.onnx")
    assert apply(PASS, lazy, {"least": 64}).sites == 1
    data = lazy.graph.initializers["w.int8"].const_value
    assert isinstance(data, ir.LazyTensor)
    eager, _ = stored(model)
    sweep(lazy)
    assert inline_bytes(lazy) == inline_bytes(eager)
