"""Reconstruction by least squares: exact where it can be, never worse on what is held out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import normal_feeds, samples_of, set_weight, weight
from onnxcomp.calibration.samples import open_samples, split
from onnxcomp.edits import add_constant, sweep
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, array, is_op, label
from onnxcomp.linear import effort, least_squares, pieces
from onnxcomp.linear import reconstruct as reconstruct_module
from onnxcomp.linear.layers import find_layers
from onnxcomp.linear.least_squares import Affine, Equations, error_of, solve
from onnxcomp.linear.reconstruct import Fit, Fitted, reconstruct
from onnxcomp.linear.statistics import match
from onnxcomp.model_io import load_model
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Feeds, Session, input_specs

MODELS = Path(__file__).parent.parent / "models"
PASS = "reconstruct-layers"


def fit_all(student: ir.Model, teacher: ir.Model, feeds: Sequence[Feeds]) -> list[Fitted]:
    fits = [Fit(label(layer.node)) for layer in find_layers(student.graph)]
    return reconstruct(student, teacher, fits, samples_of(teacher, feeds))


def run_pass(
    student: ir.Model, teacher: ir.Model, feeds: Sequence[Feeds], **options: object
) -> Outcome:
    needs = {"samples": samples_of(teacher, feeds), "original": teacher}
    return apply(find_pass(PASS), student, options, needs)


def output(model: ir.Model, feeds: Sequence[Feeds]) -> Array:
    session = Session(model)
    return np.concatenate([session.run(each)[session.outputs[0]].reshape(-1) for each in feeds])


def noise(student: ir.Model, teacher: ir.Model, feeds: Sequence[Feeds]) -> float:
    """Return the relative error of the first output."""
    wanted = output(teacher, feeds)
    error = np.square(output(student, feeds) - wanted, dtype=np.float64).sum()
    return float(error / np.square(wanted, dtype=np.float64).sum())


def with_weights(model: ir.Model, seed: int = 1, scale: float = 0.3) -> ir.Model:
    """Return a copy whose weights are off by random numbers."""
    after, rng = model.clone(), np.random.default_rng(seed)
    for layer in find_layers(after.graph):
        data = layer.matrices + scale * rng.standard_normal(layer.matrices.shape)
        name = layer.node.outputs[0].name or ""
        set_weight(after, name, layer.weight_of(data))
    return after


# ---------------------------------------------------------------- the equations
def equations_of(
    x: Array, y: Array, held: tuple[Array, Array], columns: int | None = None
) -> Equations:
    found = Equations(x.shape[0], y.shape[2], x.shape[2] if columns is None else columns)
    found.hold_out(*held)
    for start in range(0, x.shape[1], 37):
        found.add(x[:, start : start + 37], y[:, start : start + 37])
    return found


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 12),
    st.integers(1, 60), st.integers(1, 3), st.booleans(), st.booleans(),
)  # fmt: skip
def test_never_worse_on_the_rows_held_out(
    seed: int, groups: int, rows: int, channels: int, count: int, taps: int,
    has_bias: bool, sparse: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    columns = channels * taps

    def draw(number: int) -> tuple[Array, Array]:
        x = rng.standard_normal((groups, number, columns)) * 10.0 ** rng.uniform(-2, 2, columns)
        x[..., rng.integers(columns)] *= rng.integers(2)  # a dead input, or not
        y = x @ true.transpose(0, 2, 1) + rng.standard_normal((groups, number, rows))
        return x.astype(np.float32), y.astype(np.float32)

    true = rng.standard_normal((groups, rows, columns))
    present = true + rng.uniform(0, 2) * rng.standard_normal(true.shape)
    if sparse:
        present *= rng.integers(2, size=present.shape)
    bias = rng.standard_normal((groups, rows)).astype(np.float32)
    before = Affine(present.astype(np.float32), bias)
    found = equations_of(*draw(count), draw(8))
    solved = solve(found, before, taps, has_bias=has_bias)
    if solved is None:
        return
    assert solved.before == error_of(before, found)
    assert solved.after == error_of(solved.affine, found) < solved.before
    if least_squares.pattern(before.weight) is not None:
        assert not solved.affine.weight[before.weight == 0].any()
    if not has_bias:
        assert np.array_equal(solved.affine.bias, bias)


def test_the_sums_do_not_depend_on_how_rows_come(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300, 5)), rng.standard_normal((2, 300, 3))
    whole = equations_of(x, y, (x[:, :9], y[:, :9])).moments(centred=True)
    monkeypatch.setattr(least_squares, "CHUNK", 100)
    parted = equations_of(x, y, (x[:, :9], y[:, :9])).moments(centred=True)
    for first, second in ((whole.xx, parted.xx), (whole.yx, parted.yx), (whole.x, parted.x)):
        np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-12)
    centre = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(whole.xx, centre.transpose(0, 2, 1) @ centre / 300, atol=1e-12)


def test_the_ridge_is_the_one_that_is_best_on_the_rows_held_out() -> None:
    """Few noisy rows want a strong pull to a weight that is nearly right, exact ones none."""
    rng = np.random.default_rng(3)
    true = rng.standard_normal((1, 4, 30))
    before = Affine((true + 0.1 * rng.standard_normal(true.shape)).astype(np.float32),
                    np.zeros((1, 4), np.float32))  # fmt: skip

    def moved(count: int, spread: float) -> float:
        x = rng.standard_normal((1, count, 30))
        y = x @ true.transpose(0, 2, 1) + spread * rng.standard_normal((1, count, 4))
        other = rng.standard_normal((1, 500, 30))
        held = (other, other @ true.transpose(0, 2, 1))
        solved = solve(equations_of(x, y, held), before, 1, has_bias=False)
        assert solved is not None
        return float(np.linalg.norm(solved.affine.weight - true) / np.linalg.norm(before.weight))

    assert moved(2000, 0.0) < 1e-4
    assert 0.01 < moved(40, 1.0) < 0.1


def test_with_fewer_rows_than_columns_a_factor_for_each_input_channel_is_found() -> None:
    rng = np.random.default_rng(0)
    channels, taps = 6, 9
    present = rng.standard_normal((1, 40, channels * taps)).astype(np.float32)
    factors = rng.uniform(0.5, 2, channels)
    true = present * np.repeat(factors, taps)
    x, other = (rng.standard_normal((1, count, channels * taps)) for count in (20, 50))
    held = (other, other @ true.transpose(0, 2, 1))
    before = Affine(present, np.zeros((1, 40), np.float32))
    solved = solve(equations_of(x, x @ true.transpose(0, 2, 1), held), before, taps, has_bias=False)
    assert solved is not None
    assert solved.after < 1e-6
    np.testing.assert_allclose(solved.affine.weight, true, rtol=1e-3)
    true *= 100  # such factors are refused
    held = (other, other @ true.transpose(0, 2, 1))
    solved = solve(equations_of(x, x @ true.transpose(0, 2, 1), held), before, taps, has_bias=False)
    assert solved is None or solved.after > 0.1


def test_within_a_pattern_the_solution_is_that_of_each_row_alone() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(2, size=(1, 5, 8)).astype(bool)
    x = rng.standard_normal((1, 400, 8)) @ rng.standard_normal((8, 8))
    y = x @ rng.standard_normal((1, 5, 8)).transpose(0, 2, 1)
    found = equations_of(x, y, (x, y))
    before = Affine((rng.standard_normal((1, 5, 8)) * mask).astype(np.float32), np.zeros((1, 5)))
    solved = solve(found, before, 1, has_bias=False)
    assert solved is not None
    for row, inside in enumerate(mask[0]):
        wanted = np.linalg.lstsq(x[0][:, inside], y[0, :, row])[0]
        np.testing.assert_allclose(solved.affine.weight[0, row, inside], wanted, atol=2e-2)


def test_statistics_are_matched_or_only_means_or_nothing() -> None:
    rng = np.random.default_rng(0)
    wanted = [rng.standard_normal((2, 50, 3)) * 2 + 5 for _ in range(8)]
    made = [(each - 1) / 3 for each in wanted]
    found = match(list(zip(made[:6], wanted[:6], strict=True)),
                  list(zip(made[6:], wanted[6:], strict=True)))  # fmt: skip
    assert found is not None
    assert found.after < 1e-20 < found.before
    np.testing.assert_allclose(found.factor, 3)
    np.testing.assert_allclose(found.shift, 1)
    other = [rng.standard_normal(each.shape) * 0.3 for each in wanted]  # only the mean helps
    found = match(list(zip(other[:6], wanted[:6], strict=True)),
                  list(zip(other[6:], wanted[6:], strict=True)))  # fmt: skip
    assert found is not None
    assert (found.factor == 1).all()
    same = list(zip(wanted, wanted, strict=True))
    assert match(same[:6], same[6:]) is None


# ---------------------------------------------------------------- layers of a model
CHAIN = """agraph (float[N, 4, 9, 8] x) => (float[N, 3] y)
<float[6, 4, 3, 3] w1, float[6] b1, float[6, 1, 3, 2] w2, float[6, 3, 1, 1] w3, float[6] b3,
 float[6, 5] w4, float[5] b4, float[3, 5] w5>
{
    c = Conv <pads = [1, 1, 0, 1], strides = [2, 1]> (x, w1, b1)
    r = Relu (c)
    d = Conv <group = 6, dilations = [1, 2]> (r, w2)
    e = Conv <group = 2> (d, w3, b3)
    g = GlobalAveragePool (e)
    f = Flatten (g)
    m = MatMul (f, w4)
    a = Add (m, b4)
    t = Tanh (a)
    y = Gemm <transB = 1> (t, w5)
}"""


def test_every_kind_of_layer_gets_back_the_weight_that_it_had() -> None:
    teacher = parse(CHAIN, 17)
    student, feeds = with_weights(teacher), normal_feeds("x", (1, 4, 9, 8), 60)
    assert noise(student, teacher, feeds) > 0.1
    fitted = fit_all(student, teacher, feeds)
    assert [each.node for each in fitted] == [
        f"{op} -> {out}"
        for op, out in [("Conv", "c"), ("Conv", "d"), ("Conv", "e"), ("MatMul", "m"), ("Gemm", "y")]
    ]
    assert noise(student, teacher, normal_feeds("x", (2, 4, 9, 8), 5, seed=9)) < 1e-5
    for name in ("c", "d", "e"):  # behind these, channels depend on each other
        np.testing.assert_allclose(weight(student, name), weight(teacher, name), atol=0.02)
    sweep(student)
    onnx.checker.check_model(ir.to_proto(student), full_check=True)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 2), st.integers(0, 2),
)  # fmt: skip
def test_conv_is_what_lstsq_over_all_patches_gives(
    seed: int, group: int, kernel: int, stride: int, dilation: int, pad: int
) -> None:
    """The target is no linear map of the student's input, so that the solution is not exact."""
    attributes = (
        f"group = {group}, strides = [{stride}, 1], dilations = [1, {dilation}], "
        f"pads = [{pad}, 0, {pad}, 1]"
    )
    text = f"""agraph (float[N, 4, 7, 8] x) => (float[N, 4, H, W] y)
    <float[4, {4 // group}, {kernel}, 2] w, float[4] b>
    {{ y = Conv <{attributes}> (x, w, b) }}"""
    plain = parse(text, 17)
    squared = text.replace("{ y =", "{ s = Mul (x, x)  y =").replace("(x, w, b)", "(s, w, b)")
    teacher = with_weights(parse(squared, 17), seed)
    feeds = normal_feeds("x", (1, 4, 7, 8), 24, seed)
    fitted = fit_all(plain, teacher, feeds)
    assert len(fitted) == 1
    found = [w for value in plain.graph[0].inputs[1:] if (w := array(value)) is not None]

    layer = next(iter(find_layers(plain.graph)))
    session = Session(teacher)
    rows, wanted = [], []
    for index, each in enumerate(feeds):
        if index % 4 == 3:
            continue
        x = np.pad(each["x"], [(0, 0), (0, 0), (pad, pad), (0, 1)])
        y = session.run(each)["y"]
        for i, j in itertools.product(range(y.shape[2]), range(y.shape[3])):
            rows.append(x[0, :, i * stride : i * stride + kernel, j : j + dilation + 1 : dilation])
            wanted.append(y[0, :, i, j])
    patches = np.array(rows).reshape(len(rows), layer.groups, layer.columns)
    targets = np.array(wanted).reshape(len(rows), layer.groups, layer.rows)
    made = np.zeros_like(targets)
    best = np.zeros_like(targets)
    for number in range(layer.groups):
        design = np.column_stack([patches[:, number], np.ones(len(rows))])
        best[:, number] = design @ np.linalg.lstsq(design, targets[:, number])[0]
        own = found[0].reshape(layer.groups, layer.rows, layer.columns)[number]
        bias = found[1].reshape(layer.groups, layer.rows)[number]
        made[:, number] = patches[:, number] @ own.T + bias
    least = np.square(targets - best, dtype=np.float64).sum()
    assert np.square(targets - made, dtype=np.float64).sum() <= least * 1.03


def test_a_layer_makes_up_for_the_channel_that_was_taken_out() -> None:
    """Of two equal channels one goes: what reads them needs twice the weight of the other."""
    text = """agraph (float[N, 5] x) => (float[N, 4] y)
    <float[8, 5] w1, float[8] b1, float[4, 8] w2, float[4] b2>
    { h = Gemm <transB = 1> (x, w1, b1)  r = Relu (h)  y = Gemm <transB = 1> (r, w2, b2) }"""
    teacher = parse(text, 17)
    first = weight(teacher, "h").copy()
    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    first[7], bias[7] = first[2], bias[2]
    set_weight(teacher, "h", first)
    set_weight(teacher, "h", bias, index=2)
    student = teacher.clone()
    kept = np.arange(7)
    set_weight(student, "h", first[kept])
    set_weight(student, "h", bias[kept], index=2)
    set_weight(student, "y", weight(teacher, "y")[:, kept])
    feeds = normal_feeds("x", (1, 5), 200)
    assert noise(student, teacher, feeds) > 0.01
    samples = samples_of(teacher, feeds)
    (fitted,) = reconstruct(student, teacher, [Fit("Gemm -> h", kept), Fit("Gemm -> y")], samples)
    assert fitted.node == "Gemm -> y"
    assert fitted.after < 1e-6 < fitted.before
    assert noise(student, teacher, normal_feeds("x", (1, 5), 50, seed=4)) < 1e-6
    wanted = weight(teacher, "y")[:, 2] + weight(teacher, "y")[:, 7]
    np.testing.assert_allclose(weight(student, "y")[:, 2], wanted, atol=1e-3)


def test_kept_channels_are_compared_with_theirs() -> None:
    teacher = parse(CHAIN, 17)
    student = with_weights(teacher)
    kept = np.array([4, 0, 3])
    conv = next(node for node in student.graph if is_op(node, "Conv"))
    for index, value in enumerate(conv.inputs[1:], start=1):
        data = array(value)
        assert data is not None
        conv.replace_input_with(index, add_constant(student.graph, data[kept], "cut"))
    fit = Fit("Conv -> c", kept)
    feeds = normal_feeds("x", (1, 4, 9, 8), 40)
    (fitted,) = reconstruct(student, teacher, [fit], samples_of(teacher, feeds))
    assert fitted.after < 1e-6
    np.testing.assert_allclose(weight(student, "c"), weight(teacher, "c")[kept], atol=1e-2)


RESIDUAL = """agraph (float[N, 6] x) => (float[N, 6] y)
<float[6, 6] w1, float[6] b1, float[6, 6] w2, float[6] b2>
{
    s = Gemm (x, w1, b1)
    d = Gemm (x, w2, b2)
    y = Add (s, d)
}"""


def test_a_branch_makes_up_for_what_it_is_added_to() -> None:
    """The shortcut is wrong and stays so; the branch that comes last can take its error over."""
    teacher = parse(RESIDUAL, 17)
    student = with_weights(teacher)
    fitted = reconstruct(
        student, teacher, [Fit("Gemm -> d")], samples_of(teacher, normal_feeds("x", (1, 6), 80))
    )
    assert len(fitted) == 1
    assert noise(student, teacher, normal_feeds("x", (4, 6), 5, seed=3)) < 1e-6
    assert np.abs(weight(student, "d") - weight(teacher, "d")).max() > 0.1


def test_an_operand_that_comes_later_is_not_waited_for() -> None:
    teacher = parse(RESIDUAL, 17)
    student = with_weights(teacher)
    samples = samples_of(teacher, normal_feeds("x", (1, 6), 80))
    (fitted,) = reconstruct(student, teacher, [Fit("Gemm -> s")], samples)
    assert fitted.after < 1e-6
    np.testing.assert_allclose(weight(student, "s"), weight(teacher, "s"), atol=1e-2)


def test_a_conv_without_a_bias_gets_one() -> None:
    teacher = parse(CHAIN, 17)
    student = teacher.clone()
    first, second = (node for node in student.graph if label(node) in ("Conv -> c", "Conv -> d"))
    bias = array(first.inputs[2])
    assert bias is not None
    first.replace_input_with(2, add_constant(student.graph, bias + 3, "shifted"))
    fit = Fit(label(second))
    feeds = normal_feeds("x", (1, 4, 9, 8), 40)
    reconstruct(student, teacher, [fit], samples_of(teacher, feeds))
    assert len(second.inputs) == 3
    made = array(second.inputs[2])
    assert made is not None
    assert made.shape == (6,)
    assert np.abs(made).max() > 0.1
    onnx.checker.check_model(ir.to_proto(student), full_check=True)


def test_a_layer_in_two_parts_is_fitted_to_the_one_of_the_teacher() -> None:
    """As a factorization leaves it: another label, another shape inside, the same output."""
    teacher = parse("""agraph (float[N, 8] x) => (float[N, 6] y)
    <float[8, 6] w, float[6] b> { y = Gemm (x, w, b) }""", 17)  # fmt: skip
    student = parse(
        """agraph (float[N, 8] x) => (float[N, 6] y)
    <float[3, 8] w1, float[3, 6] w2, float[6] b>
    { h = Gemm <transB = 1> (x, w1)  m = MatMul (h, w2)  y = Add (m, b) }""",
        17,
    )
    rows, _, columns = np.linalg.svd(weight(teacher, "y").T)
    low = rows[:, :3] @ columns[:3]
    set_weight(teacher, "y", low.T)
    set_weight(student, "h", columns[:3])
    feeds = normal_feeds("x", (1, 8), 60)
    fit = Fit("MatMul -> m", teacher="Gemm -> y")
    (fitted,) = reconstruct(student, teacher, [fit], samples_of(teacher, feeds))
    assert fitted.node == "MatMul -> m"
    assert noise(student, teacher, feeds) < 1e-6


def test_same_input_same_bytes_and_constants_are_not_changed_in_place() -> None:
    teacher = parse(CHAIN, 17)
    feeds = normal_feeds("x", (3, 4, 9, 8), 12)
    before = ir.to_proto(teacher).SerializeToString(deterministic=True)
    made = set()
    for _ in range(2):
        student = with_weights(teacher)
        frozen = student.clone()
        kept = ir.to_proto(frozen).SerializeToString(deterministic=True)
        assert fit_all(student, teacher, feeds)
        assert ir.to_proto(frozen).SerializeToString(deterministic=True) == kept
        made.add(ir.to_proto(student).SerializeToString(deterministic=True))
    assert len(made) == 1
    assert ir.to_proto(teacher).SerializeToString(deterministic=True) == before


def test_each_sample_of_a_batch_counts() -> None:
    """Three feeds of eight samples are as good as 24 of one."""
    teacher = parse(CHAIN, 17)
    many = normal_feeds("x", (1, 4, 9, 8), 24)
    packed = [
        {"x": np.concatenate([each["x"] for each in many[start : start + 8]])}
        for start in (0, 8, 16)
    ]
    results = []
    for feeds in (many, packed):
        student = with_weights(teacher)
        fit_all(student, teacher, feeds)
        results.append(ir.to_proto(student).SerializeToString(deterministic=True))
    assert results[0] == results[1]


# ---------------------------------------------------------------- what is left alone
def test_a_model_that_is_the_original_stays_as_it_is() -> None:
    teacher = parse(CHAIN, 17)
    student = teacher.clone()
    outcome = run_pass(student, teacher, normal_feeds("x", (1, 4, 9, 8), 20))
    assert outcome.sites == 0
    assert ir.to_proto(student) == ir.to_proto(teacher)


def test_random_samples_do_nothing() -> None:
    teacher = parse(
        CHAIN.replace("float[N, 4", "float[1, 4").replace("float[N, 3", "float[1, 3"), 17
    )
    student = with_weights(teacher)
    samples = open_samples("random:8", input_specs(teacher), model=teacher)
    needs = {"samples": samples, "original": teacher}
    outcome = apply(find_pass(PASS), student, {}, needs)
    assert outcome.sites == 0
    assert {each.reason for each in outcome.left} == {"random samples say nothing about its inputs"}


REASONS = {
    "its weight is shared": """agraph (float[N, 6] x) => (float[N, 6] y) <float[6, 6] w>
        { h = MatMul (x, w)  y = MatMul (h, w) }""",
    "its products are scaled by alpha or beta": """agraph (float[N, 6] x) => (float[N, 6] y)
        <float[6, 6] w> { y = Gemm <alpha = 0.5> (x, w) }""",
    "its bias is not a float32 constant of one number per channel": """agraph
        (float[2, 6] x, float[2, 6] b) => (float[2, 6] y) <float[6, 6] w> { y = Gemm (x, w, b) }""",
}


@pytest.mark.parametrize("reason", REASONS)
def test_layers_that_cannot_be_changed(reason: str) -> None:
    teacher = parse(REASONS[reason], 17)
    student, rng = teacher.clone(), np.random.default_rng(0)
    for value in list(student.graph.initializers.values()):
        data = array(value)
        assert data is not None
        moved = data + rng.standard_normal(data.shape).astype(np.float32)
        value.replace_all_uses_with(add_constant(student.graph, moved, "moved"))
    names = [value.name or "" for value in teacher.graph.inputs]
    rows = 2 if len(names) > 1 else 1
    feeds = [
        {name: rng.standard_normal((rows, 6)).astype(np.float32) for name in names}
        for _ in range(20)
    ]
    outcome = run_pass(student, teacher, feeds)
    assert outcome.sites == 0
    assert {each.reason for each in outcome.left} == {reason}


def test_another_shape_than_the_original_has() -> None:
    teacher = parse(CHAIN, 17)
    student = with_weights(teacher)
    conv = next(node for node in student.graph if label(node) == "Conv -> c")
    conv.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    outcome = run_pass(student, teacher, normal_feeds("x", (1, 4, 9, 8), 24))
    reasons = {each.node: each.reason for each in outcome.left}
    assert reasons["Conv -> c"] == "its output has another shape than the original's"


def test_numbers_that_are_not_finite() -> None:
    teacher = parse(CHAIN, 17)
    student = with_weights(teacher)
    feeds = normal_feeds("x", (1, 4, 9, 8), 20)
    broken = [{"x": each["x"] * np.float32(np.nan)} for each in feeds]
    before = ir.to_proto(student)
    outcome = run_pass(student, teacher, broken)
    assert outcome.sites == 0
    assert len(outcome.left) == 5
    assert ir.to_proto(student) == before
    assert run_pass(student, teacher, [*broken[:10], *feeds]).sites == 5
    assert np.isfinite(output(student, feeds)).all()


def test_what_is_too_large_has_its_statistics_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = parse(CHAIN, 17)
    feeds, other = (normal_feeds("x", (1, 4, 9, 8), 40, seed) for seed in (0, 1))
    student = with_weights(teacher, scale=0.05)
    bias = next(node for node in student.graph if label(node) == "Conv -> c").inputs[2]
    data = array(bias)
    assert data is not None
    set_weight(student, "c", weight(teacher, "c") * np.float32(0.5))
    set_weight(student, "c", data * 2 + 1, index=2)
    damaged = noise(student, teacher, other)
    monkeypatch.setattr(effort, "COLUMNS", 0)
    monkeypatch.setattr(reconstruct_module, "_solve", None)
    outcome = run_pass(student, teacher, feeds)
    assert outcome.measured[0].node == "Conv -> c"
    assert outcome.measured[0].after > 50 > outcome.measured[0].before  # exactly made up for
    assert noise(student, teacher, other) < damaged
    assert weight(student, "c") == pytest.approx(weight(teacher, "c"), rel=1e-3)


def test_the_largest_layers_go_first_where_the_work_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = parse(CHAIN, 17)
    monkeypatch.setattr(effort, "WORK", 2e5)
    monkeypatch.setattr(reconstruct_module, "_match", lambda *_: None)
    outcome = run_pass(with_weights(teacher), teacher, normal_feeds("x", (1, 4, 9, 8), 40))
    left = {each.node: each.reason for each in outcome.left}
    assert left["Conv -> c"] == "fitting it takes too long"
    assert outcome.sites == 5 - len(left) > 0


def test_memory_bounds_how_many_samples_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = parse(CHAIN, 17)
    monkeypatch.setattr(reconstruct_module, "MEMORY", 20_000)
    run: list[int] = []
    original = pieces.Pieces.before

    def counted(
        self: pieces.Pieces, node: ir.Node, names: Sequence[str]
    ) -> list[tuple[Array, ...]]:
        found = original(self, node, names)
        run.append(len(found))
        return found

    monkeypatch.setattr(pieces.Pieces, "before", counted)
    fit_all(with_weights(teacher), teacher, normal_feeds("x", (1, 4, 9, 8), 60))
    assert 4 <= run[-1] < 60
    assert run == sorted(run, reverse=True)


def test_a_label_that_no_node_has() -> None:
    teacher = parse(CHAIN, 17)
    samples = samples_of(teacher, normal_feeds("x", (1, 4, 9, 8), 2))
    with pytest.raises(ModelError, match="'nowhere'"):
        reconstruct(teacher.clone(), teacher, [Fit("nowhere")], samples)


def test_exclude_names_layers_that_stay() -> None:
    teacher = parse(CHAIN, 17)
    student = with_weights(teacher)
    kept = weight(student, "d").copy()
    outcome = run_pass(student, teacher, normal_feeds("x", (1, 4, 9, 8), 40), exclude="*d, MatMul*")
    assert {each.node for each in outcome.measured} == {"Conv -> c", "Conv -> e", "Gemm -> y"}
    assert np.array_equal(weight(student, "d"), kept)


# ---------------------------------------------------------------- trained models
def top1(model: ir.Model) -> float:
    with np.load(MODELS / "digits.npz") as samples:
        images, labels = samples["image"], samples["labels"]
    (logits,) = Session(model).run({"image": images}).values()
    return float(np.mean(logits.argmax(axis=1) == labels))


def halved(teacher: ir.Model) -> tuple[ir.Model, list[Fit]]:
    """Return a chain of layers with the half of each one's channels that have the largest norm."""
    student, fits = teacher.clone(), []
    kept: Array | None = None
    layers = list(find_layers(student.graph))
    for layer in layers:
        data, mine = array(layer.node.inputs[1]), None
        assert data is not None
        if layer is not layers[-1]:
            norms = np.linalg.norm(data.reshape(len(data), -1), axis=1)
            mine = np.sort(np.argsort(-norms)[: len(data) // 2])
            follower = next(iter(layer.node.outputs[0].uses())).node
            for node in (layer.node, follower):
                for index, value in enumerate(node.inputs[2 if node is layer.node else 1 :]):
                    numbers = array(value)
                    if numbers is not None:
                        cut = add_constant(student.graph, numbers[mine], "cut")
                        node.replace_input_with(index + (2 if node is layer.node else 1), cut)
        data = data if mine is None else data[mine]
        data = data if kept is None else data[:, kept]
        layer.node.replace_input_with(1, add_constant(student.graph, data, "cut"))
        if kept is not None:
            fits.append(Fit(label(layer.node), mine))
        kept = mine
    sweep(student)
    for value in (out for node in student.graph for out in node.outputs):
        value.shape = value.shape if value.is_graph_output() else None
    return student, fits


@pytest.mark.parametrize(
    ("name", "damaged", "loss"), [("digits_mlp", 0.86, 0.013), ("digits_cnn", 0.3, 0.01)]
)
def test_half_of_the_channels_of_a_trained_model(name: str, damaged: float, loss: float) -> None:
    teacher = load_model(MODELS / f"{name}.onnx")
    student, fits = halved(teacher)
    samples, _ = split(open_samples(str(MODELS / "digits.npz"), input_specs(teacher)))
    assert top1(student) < damaged
    fitted = reconstruct(student, teacher, fits, samples)
    assert [each.node for each in fitted] == [fit.node for fit in fits]
    assert all(each.after < 0.1 * each.before or each.after < 0.06 for each in fitted)
    assert top1(student) > top1(teacher) - loss


def test_zeros_of_pruned_weights_stay_and_what_is_left_makes_up_for_them() -> None:
    """The pass on its own: four weights of five are gone, by magnitude."""
    teacher = load_model(MODELS / "digits_mlp.onnx")
    student = teacher.clone()
    for layer in find_layers(student.graph):
        data = layer.matrices
        data = np.where(np.abs(data) >= np.quantile(np.abs(data), 0.8), data, 0)
        cut = add_constant(student.graph, layer.weight_of(data), "cut")
        layer.node.replace_input_with(1, cut)
    zeros = [layer.matrices == 0 for layer in find_layers(student.graph)]
    samples, _ = split(open_samples(str(MODELS / "digits.npz"), input_specs(teacher)))
    before = top1(student)
    needs = {"samples": samples, "original": teacher}
    outcome = apply(find_pass(PASS), student, {}, needs)
    assert outcome.sites == 3
    assert all(each.after > each.before for each in outcome.measured)
    for layer, mask in zip(find_layers(student.graph), zeros, strict=True):
        assert np.array_equal(layer.matrices == 0, mask)
    assert top1(student) > before + 0.05
