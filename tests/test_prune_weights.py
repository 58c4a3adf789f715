"""prune-weights: patterns hold, the ratio is met, and what the samples say is never worse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import Feeds, normal_feeds, run_pass, set_weight, weight
from onnxcomp.api import make_recipe
from onnxcomp.calibration.samples import open_samples
from onnxcomp.cli import cli
from onnxcomp.edits import sweep
from onnxcomp.errors import OnnxcompError, RecipeError, UsageError
from onnxcomp.graph import Array, array
from onnxcomp.linear.layers import decibels
from onnxcomp.model_io import load_model
from onnxcomp.passes.prune import _inputs, _zeroing
from onnxcomp.passes.prune._one_shot import DAMPING, Choice, one_shot, refit, towards
from onnxcomp.passes.prune._patterns import (
    by_unit,
    holds,
    lowest,
    pattern_problem,
    read_pattern,
    unit_count,
    zero_units,
)
from onnxcomp.passes.prune._scores import CRITERIA, share_out
from onnxcomp.passes.prune._sites import end_nodes, find_sites
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.sparsity import sparsity_of

PASS = "prune-weights"
MODELS = Path(__file__).parent.parent / "models"
PATTERNS = ("unstructured", "row", "kernel", "vector", "block", "2x2", "1x8", "2:4", "4:8")

LAYERS = """agraph (float[N, 8, 6, 6] x) => (float[N, 8] y)
<float[16, 8, 3, 3] w1, float[16] b1, float[16, 8, 3, 2] w2, float[16, 8, 2, 2] w3,
 float[16, 1, 3, 3] w4, float[8, 24] w5, float[24, 8] w6>
{
    c = Conv <pads = [1, 0, 0, 1], strides = [2, 1], dilations = [1, 2]> (x, w1, b1)
    d = Conv <group = 2, pads = [1, 1, 1, 1]> (c, w2)
    t = ConvTranspose <group = 2, strides = [2, 2]> (d, w3)
    e = Conv <group = 16> (t, w4)
    g = GlobalAveragePool (e)
    f = Flatten (g)
    s = Slice (f, zero, eight, one)
    h = MatMul (s, w5)
    k = Relu (h)
    y = Gemm <transB = 0> (k, w6)
}"""
LAYERS = LAYERS.replace(
    "float[24, 8] w6>",
    "float[24, 8] w6, int64[1] zero = {0}, int64[1] eight = {8}, int64[1] one = {1}>",
)
PRUNED = ("c", "d", "t", "h", "y")


def layers_net() -> ir.Model:
    """Return a net of every kind of layer, with weights of a normal distribution."""
    model, rng = parse(LAYERS, 17), np.random.default_rng(3)
    for node in (*PRUNED, "e"):
        shape = weight(model, node).shape
        set_weight(model, node, rng.standard_normal(shape) * 0.3)
    sweep(model)
    return model


def feeds_for(count: int = 24) -> list[Feeds]:
    return normal_feeds("x", (1, 8, 6, 6), count)


def cubes(model: ir.Model) -> dict[str, Array]:
    """Return each pruned weight as [groups, outputs, taps, inputs]."""
    found = find_sites(model.graph, 0.5, {}, exclude="", ends=True, least=1)
    return {site.node.outputs[0].name or "": site.cube for site in found}


def pruned(
    model: ir.Model, feeds: list[Feeds] | None = None, **options: object
) -> tuple[ir.Model, Outcome]:
    return run_pass(PASS, model, feeds or feeds_for(), "x86-vnni", ends=True, least=1, **options)


# ---------------------------------------------------------------- patterns
@settings(max_examples=80)
@given(
    st.sampled_from(PATTERNS), st.integers(0, 2**32 - 1), st.floats(0, 0.99),
    st.integers(1, 2), st.sampled_from([4, 8, 12]), st.integers(1, 4), st.sampled_from([8, 16]),
)  # fmt: skip
def test_boxes_are_zeroed_whole_and_the_cheapest_ones(
    name: str, seed: int, ratio: float, groups: int, outputs: int, taps: int, inputs: int
) -> None:
    pattern, shape = read_pattern(name), (groups, outputs, taps, inputs)
    assert pattern_problem(pattern, shape) is None
    scores = np.random.default_rng(seed).random(shape)
    count = int(ratio * unit_count(pattern, shape))
    gone = lowest(pattern, scores, count)
    cube = np.where(gone, 0.0, 1.0)
    if pattern.of:
        assert holds(pattern, cube)
        assert gone.sum() * pattern.of == gone.size * (pattern.of - pattern.keep)
        return
    assert zero_units(pattern, cube) == count
    assert gone.sum() * unit_count(pattern, shape) == count * gone.size
    sums, whole = by_unit(pattern, scores), by_unit(pattern, gone.astype(int)) > 0
    if 0 < count < sums.size:
        assert sums[whole].max() <= sums[~whole].min()


def test_a_weight_that_does_not_divide_has_no_pattern() -> None:
    assert "6 input channels are not a multiple of 4" in str(
        pattern_problem(read_pattern("2:4"), (1, 4, 1, 6))
    )
    assert "6 output channels are not a multiple of 4" in str(
        pattern_problem(read_pattern("block"), (1, 6, 1, 8))
    )


@pytest.mark.parametrize("criterion", ["l2", "auto"])
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_and_ratio_hold_in_every_kind_of_layer(name: str, criterion: str) -> None:
    model, pattern = layers_net(), read_pattern(name)
    after, outcome = pruned(model, pattern=name, criterion=criterion)
    assert any("depthwise" in left.reason for left in outcome.left)
    found, before = cubes(after), cubes(model)
    assert found.keys() == before.keys() == set(PRUNED)
    without = {"h", "y"} if name == "kernel" else set()
    assert outcome.sites == len(PRUNED) - len(without)
    for node in set(PRUNED) - without:
        cube = found[node]
        assert np.isfinite(cube).all()
        if pattern.of:
            assert holds(pattern, cube), node
            assert (cube == 0).mean() == pattern.ratio, node
        else:
            assert zero_units(pattern, cube) == unit_count(pattern, cube.shape) // 2, node
            assert (cube == 0).mean() <= 0.5, node
        if criterion == "l2":
            assert np.array_equal(cube[cube != 0], before[node][cube != 0])
    ir.to_proto(after)
    Session(after).run(dict(feeds_for(1)[0]))


# ---------------------------------------------------------------- the order of columns
def reference(w: Array, gram: Array, keep: int, of: int, gone: Array | None) -> Array:
    """Zero columns from the left, each time with the best of all behind, by solving for them."""
    found, size = w.copy(), w.shape[1]
    gone = np.zeros(w.shape, bool) if gone is None else gone.copy()
    for row in range(len(w)):
        for j in range(size):
            if of and j % of == 0:
                cost = [
                    found[row, k] ** 2 / np.linalg.inv(gram[k:, k:])[0, 0] for k in range(j, j + of)
                ]
                gone[row, j + np.argsort(cost, kind="stable")[: of - keep]] = True
            if gone[row, j]:
                found[row, j] = 0
            behind, here = slice(j + 1, None), slice(0, j + 1)
            error = gram[behind, here] @ (w[row, here] - found[row, here])
            if j + 1 < size:
                found[row, behind] = w[row, behind] + np.linalg.solve(gram[behind, behind], error)
    return found


@pytest.mark.parametrize("columns", [8, 136])
def test_one_shot_is_what_solving_for_the_columns_behind_gives(columns: int) -> None:
    rng = np.random.default_rng(columns)
    w = rng.standard_normal((1, 3, columns))
    rows = rng.standard_normal((400, columns)) @ rng.standard_normal((columns, columns))
    gram = (rows.T @ rows / len(rows))[np.newaxis]
    damped = gram[0] + DAMPING * np.trace(gram[0]) / columns * np.eye(columns)
    gone = rng.random(w.shape) < 0.4
    np.testing.assert_allclose(
        one_shot(w, gram, Choice(zeroed=gone))[0],
        reference(w[0], damped, 0, 0, gone[0]),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip
    np.testing.assert_allclose(
        one_shot(w, gram, Choice(keep=2, of=4))[0],
        reference(w[0], damped, 2, 4, None),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5), st.floats(0, 0.95))
def test_refitting_never_raises_the_error(seed: int, groups: int, rows: int, ratio: float) -> None:
    rng, columns = np.random.default_rng(seed), 20
    w = rng.standard_normal((groups, rows, columns))
    seen = rng.standard_normal((groups, 7, columns)) * 10 ** rng.uniform(-2, 2, columns)
    gram = seen.transpose(0, 2, 1) @ seen
    count = int(ratio * w.size)
    first = one_shot(w, gram, Choice(count))
    assert (first == 0).sum() == count
    again = refit(w, first, gram)
    assert np.array_equal(again == 0, first == 0)
    ridge = DAMPING * np.einsum("gkk->g", gram)[:, None, None] / columns * np.eye(columns)

    def error(found: Array) -> float:
        return float((((w - found) @ (gram + ridge)) * (w - found)).sum())

    assert error(again) <= error(first) * (1 + 1e-9)


@given(st.integers(0, 2**32 - 1))
def test_the_weight_for_other_inputs_is_that_of_least_squares(seed: int) -> None:
    rng, columns = np.random.default_rng(seed), 5
    w, exact = rng.standard_normal((1, 3, columns)), rng.standard_normal((1, 40, columns))
    seen = exact + 0.3 * rng.standard_normal(exact.shape)
    gram, cross = seen.transpose(0, 2, 1) @ seen, exact.transpose(0, 2, 1) @ seen
    np.testing.assert_allclose(towards(w, gram, gram.copy()), w, rtol=1e-9, atol=1e-9)
    # The damping is a few more positions, at which both inputs are the same.
    extra = np.sqrt(DAMPING * np.trace(gram[0]) / columns) * np.eye(columns)
    before, after = (np.concatenate([each[0], extra]) for each in (exact, seen))
    wanted = np.linalg.lstsq(after, before @ w[0].T, rcond=None)[0].T
    np.testing.assert_allclose(towards(w, gram, cross)[0], wanted, rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------- trained models
def digits(name: str) -> tuple[ir.Model, list[Feeds], Array, Array]:
    model = load_model(MODELS / f"{name}.onnx")
    with np.load(MODELS / "digits.npz") as samples:
        images, labels = samples["image"].astype(np.float32), samples["labels"]
    feeds: list[Feeds] = [{"image": images[i : i + 1]} for i in range(256)]
    return model, feeds, images[256:], labels[256:]


def accuracy(model: ir.Model, images: Array, labels: Array) -> float:
    out = model.graph.outputs[0].name or ""
    return float((Session(model).run({"image": images})[out].argmax(1) == labels).mean())


def layer_noise(model: ir.Model, after: ir.Model, images: Array) -> dict[str, float]:
    """Return the SQNR of each layer by itself, on images held out, in dB."""
    nodes = [n for n in model.graph if n.op_type == "Gemm"]
    sources = [n.inputs[0].name or "" for n in nodes if n.inputs[0] is not None]
    taps = Session(model, taps=sources).run({"image": images})
    found = {}
    for node, source in zip(nodes, sources, strict=True):
        name = node.outputs[0].name or ""
        old, new = weight(model, name), weight(after, name)
        signal, noise = (np.square(taps[source] @ m.T).sum() for m in (old, old - new))
        found[name] = decibels(float(signal), float(noise))
    return found


@pytest.mark.parametrize(("ratio", "least"), [(0.5, 0.96), (0.7, 0.95), (0.8, 0.94), (0.9, 0.88)])
def test_samples_beat_magnitude_on_images_held_out(ratio: float, least: float) -> None:
    model, feeds, images, labels = digits("digits_mlp")
    plain, _ = run_pass(PASS, model, feeds, ratio=ratio, ends=True, criterion="l2")
    after, outcome = run_pass(PASS, model, feeds, ratio=ratio, ends=True)
    assert outcome.sites == len(outcome.measured) == 3
    assert all(found.after > found.before for found in outcome.measured)
    worse, better = layer_noise(model, plain, images), layer_noise(model, after, images)
    assert all(better[name] > worse[name] for name in worse)
    assert accuracy(after, images, labels) >= least
    assert accuracy(after, images, labels) > accuracy(plain, images, labels)
    assert abs(sparsity_of(after).in_layers - ratio) < 1e-3


def test_layers_make_up_for_those_before_them() -> None:
    model, feeds, images, labels = digits("digits_mobile")
    after, _ = run_pass(PASS, model, feeds, ratio=0.7)
    assert accuracy(after, images, labels) >= 0.96  # 0.41 where each is fitted by itself


def test_what_the_samples_kept_back_refuse_is_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zeroing, "refit", lambda weight, found, gram: found * 5)
    model = layers_net()
    after, outcome = pruned(model)
    plain, _ = pruned(model, criterion="l2")
    assert all(found.after == found.before for found in outcome.measured)
    assert all(np.array_equal(weight(after, node), weight(plain, node)) for node in PRUNED)


def test_too_large_matrices_are_zeroed_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inputs, "COLUMNS", 10)
    monkeypatch.setattr(_inputs, "MEMORY", 100)
    model = layers_net()
    after, outcome = pruned(model)
    plain, _ = pruned(model, criterion="l2")
    assert outcome.sites == len(PRUNED)
    assert {found.node.split()[-1] for found in outcome.measured} == {"t", "h"}
    assert np.array_equal(weight(after, "c"), weight(plain, "c"))
    assert not np.array_equal(weight(after, "h"), weight(plain, "h"))


# ---------------------------------------------------------------- scope, layers, ends
@pytest.mark.parametrize("criterion", ["l1", "l2", "wanda", "auto"])
def test_one_threshold_for_all_layers_zeroes_as_many_in_all(criterion: str) -> None:
    model = layers_net()
    set_weight(model, "h", weight(model, "h") ** 5)  # a few large weights: most cost nothing
    local, _ = pruned(model, criterion=criterion, ratio=0.6)
    after, _ = pruned(model, criterion=criterion, ratio=0.6, scope="global")
    zeros = {name: float((cube == 0).mean()) for name, cube in cubes(after).items()}
    sizes = {name: cube.size for name, cube in cubes(after).items()}
    share = sum(zeros[name] * sizes[name] for name in zeros) / sum(sizes.values())
    assert abs(share - 0.6) <= 1 / sum(sizes.values())
    assert zeros["h"] > 0.65 > 0.6 > zeros["d"]
    assert max(zeros.values()) <= 0.8
    assert all((cube == 0).mean() < 0.601 for cube in cubes(local).values())
    assert apply(find_pass(PASS), after, {"ends": True, "least": 1, "ratio": 0.6, "scope": "global",
                 "criterion": criterion}, {"samples": open_samples(feeds_for(), input_specs(after))}
                 ).sites == 0  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_shares_are_the_ratio_in_all_and_spare_each_layer(seed: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    scores = [rng.random(int(rng.integers(4, 200))) * 10.0 ** rng.integers(-3, 3) for _ in range(4)]
    sizes = [int(rng.integers(1, 9)) for _ in scores]
    counts = share_out(scores, sizes, ratio)
    total = sum(units.size * size for units, size in zip(scores, sizes, strict=True))
    gone = sum(count * size for count, size in zip(counts, sizes, strict=True))
    assert gone <= ratio * total + 1e-6
    assert gone > ratio * total - 4 * max(sizes)
    assert all(c <= u.size * (1 + ratio) / 2 for c, u in zip(counts, scores, strict=True))


def test_first_and_last_layers_and_small_ones_stay_dense() -> None:
    model = layers_net()
    after, outcome = run_pass(PASS, model, feeds_for(), least=193)
    reasons = {left.node.split()[-1]: left.reason for left in outcome.left}
    assert "first or last" in reasons["c"]
    assert reasons["y"] == reasons["h"] == "its weight has 192 elements, fewer than 193"
    assert outcome.sites == 2
    assert np.array_equal(weight(after, "c"), weight(model, "c"))
    named, _ = run_pass(PASS, model, feeds_for(), least=193, layers={"*c": 0.25, "*[hy]": 0.75})
    share = {name: float((cube == 0).mean()) for name, cube in cubes(named).items()}
    assert share == {"c": 0.25, "d": 0.5, "t": 0.5, "h": 0.75, "y": 0.75}


def test_ends_are_where_no_other_layer_comes_before_or_behind() -> None:
    model = parse(
        """agraph (float[N, 4] x, int64[N] i) => (float[N, 4] y, float[N, 4] z)
        <float[4, 4] a, float[4, 4] b, float[4, 4] c, float[4, 4] d, float[9, 4] table>
        {
            t = Gather (table, i)
            p = MatMul (x, a)
            q = MatMul (t, b)
            s = Add (p, q)
            y = MatMul (s, c)
            r = Relu (s)
            z = MatMul (r, d)
        }""",
        17,
    )
    names = {node.outputs[0].name for node in end_nodes(model.graph)}
    assert names == {"t", "p", "y", "z"}


def test_excluded_layers_keep_their_weights() -> None:
    model = layers_net()
    after, outcome = pruned(model, exclude="*c, Gemm*")
    assert outcome.sites == 3
    assert np.array_equal(weight(after, "c"), weight(model, "c"))
    assert np.array_equal(weight(after, "y"), weight(model, "y"))


def test_a_shared_weight_is_pruned_once_for_all_that_read_it() -> None:
    text = """agraph (float[N, 16] x) => (float[N, 16] y)
    <float[16, 16] w> { a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, w) }"""
    model, feeds = parse(text, 17), normal_feeds("x", (8, 16), 12)
    after, outcome = pruned(model, feeds)
    readers = [node for node in after.graph if node.op_type == "MatMul"]
    assert outcome.sites == len(outcome.measured) == 1
    assert readers[0].inputs[1] is readers[1].inputs[1]
    assert (weight(after, "a") == 0).sum() == 128
    text = text.replace("y = MatMul (b, w)", "y = Gemm <transB = 1> (b, w)")
    model = parse(text, 17)
    after, outcome = pruned(model, feeds)
    assert [left.reason for left in outcome.left] == ["its weight is read in another way too"] * 2
    assert ir.to_proto(after) == ir.to_proto(model)


# ---------------------------------------------------------------- what is asked, and refused
@pytest.mark.parametrize("criterion", CRITERIA)
def test_ratio_0_is_exact_and_a_second_run_finds_nothing(criterion: str) -> None:
    model = layers_net()
    after, outcome = pruned(model, criterion=criterion, ratio=0.0)
    assert outcome.sites == 0
    assert ir.to_proto(after) == ir.to_proto(model)
    after, outcome = pruned(model, criterion=criterion)
    assert outcome.sites == len(PRUNED)
    assert pruned(after, criterion=criterion)[1].sites == 0


@pytest.mark.parametrize("criterion", ["auto", "random"])
def test_the_same_samples_give_the_same_bytes(criterion: str) -> None:
    first, second = (
        ir.to_proto(pruned(layers_net(), criterion=criterion)[0]).SerializeToString()
        for _ in range(2)
    )
    assert first == second


def test_random_samples_say_nothing() -> None:
    model = layers_net()
    needs = {"samples": open_samples("random:4", input_specs(model), model=model)}
    options: dict[str, object] = {"ends": True, "least": 1}
    outcome = apply(find_pass(PASS), after := model.clone(), options, needs)
    assert outcome.sites == len(PRUNED)
    assert not outcome.measured
    plain, _ = pruned(model, criterion="l2")
    assert np.array_equal(weight(after, "c"), weight(plain, "c"))
    with pytest.raises(RecipeError, match="sparsegpt needs real samples: pass --calib DIR"):
        apply(find_pass(PASS), model.clone(), {"criterion": "sparsegpt"}, needs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio is the share to zero, from 0 to below 1, got 1.0"),
        ({"ratio": -0.1}, "from 0 to below 1, got -0.1"),
        ({"ratio": float("nan")}, "from 0 to below 1, got nan"),
        ({"layers": {"*": "half"}}, r"layers '\*' is the share to zero"),
        ({"layers": {"nothing": 0.5}}, "'nothing' matches no node"),
        ({"exclude": "nothing"}, "'nothing' matches no node"),
        ({"pattern": "4:2"}, "there is no pattern '4:2'; choose from unstructured"),
        ({"pattern": "0x4"}, "there is no pattern '0x4'"),
        ({"pattern": "1:4"}, "1:4 zeroes 0.75 of the weights, and ratio is 0.5"),
        ({"pattern": "2:4", "scope": "global"}, "2:4 zeroes the same share of each layer"),
        ({"criterion": "best"}, "there is no criterion 'best'; choose from auto, l1"),
        ({"scope": "some"}, "there is no scope 'some'; choose from local, global"),
        ({"ratio": "half"}, "ratio must be a float"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OnnxcompError, match=message):
        run_pass(PASS, layers_net(), feeds_for(1), "x86-vnni", **options)


# ---------------------------------------------------------------- numbers
@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_floats_keep_their_type(kind: str) -> None:
    text = f"""agraph ({kind}[N, 16] x) => ({kind}[N, 16] y)
    <{kind}[16, 16] w, {kind}[16, 16] v> {{ a = MatMul (x, w)  y = MatMul (a, v) }}"""
    model, rng = parse(text, 17), np.random.default_rng(0)
    dtype = {"float16": np.float16, "double": np.float64}[kind]
    feeds: list[Feeds] = [{"x": rng.standard_normal((4, 16)).astype(dtype)} for _ in range(16)]
    after, outcome = pruned(model, feeds)
    assert outcome.sites == len(outcome.measured) == 2
    assert weight(after, "a").dtype == dtype
    assert (weight(after, "a") == 0).mean() == 0.5
    plain, _ = pruned(model, feeds, criterion="l1")
    kept = weight(plain, "a") != 0
    assert np.array_equal(weight(plain, "a")[kept], weight(model, "a")[kept])


def test_no_denormal_is_made_and_bad_weights_are_left() -> None:
    model = layers_net()
    set_weight(model, "h", weight(model, "h") * 1e-37)
    set_weight(model, "y", np.full((24, 8), np.nan))
    after, outcome = pruned(model)
    assert [left.reason for left in outcome.left if "finite" in left.reason]
    data, old = weight(after, "h"), weight(model, "h")
    tiny = (np.abs(data) < np.finfo(np.float32).tiny) & (data != 0)
    assert np.array_equal(data[tiny], old[tiny])
    assert (data == 0).mean() >= 0.5


def test_zeros_survive_rounding_to_int8() -> None:
    model, feeds, *_ = digits("digits_cnn")
    after, _ = run_pass(PASS, model, feeds, pattern="2:4", criterion="l2")
    rounded, outcome = run_pass("round-weights", after, feeds, target="x86")
    assert outcome.sites == 5
    kept = [layer.node for layer in sparsity_of(rounded).layers if "2:4" in layer.patterns]
    assert len(kept) == 3


# ---------------------------------------------------------------- the report
def test_sparsity_counts_zeros_patterns_and_bytes() -> None:
    model = layers_net()
    dense, after = sparsity_of(model), sparsity_of(pruned(model, pattern="2:4")[0])
    assert dense.zeros < 0.01
    assert not any(layer.patterns for layer in dense.layers)
    assert {layer.node.split()[-1]: layer.patterns for layer in after.layers} == {
        **dict.fromkeys("cdthy", ("2:4", "4:8")), "e": ()
    }  # fmt: skip
    assert after.bytes == dense.bytes
    assert after.compressed < 0.8 * dense.compressed
    weights = sum(layer.weights for layer in after.layers)
    assert after.in_layers == pytest.approx(0.5 * (1 - 144 / weights))


def test_sparsity_sees_weights_in_int8() -> None:
    text = """agraph (float[N, 4] x) => (float[N, 2] y)
    <int8[4, 2] q = {3, 5, 0, 5, 1, 0, 3, 5}, float[2] s = {0.5, 0.25}, int8[2] p = {3, 5}>
    { w = DequantizeLinear <axis = 1> (q, s, p)  y = MatMul (x, w) }"""
    (layer,) = sparsity_of(parse(text, 17)).layers
    assert layer.zeros == 5 / 8
    assert layer.patterns == ("2:4",)
    text = """agraph (float[N, 4] x) => (float[N, 1] y)
    <int8[4, 1] q = {0, 0, 1, 0}, float[1] s = {0.5}>
    { c = Cast <to = 1> (q)  w = Mul (c, s)  y = MatMul (x, w) }"""
    (layer,) = sparsity_of(parse(text, 17)).layers
    assert layer.zeros == 0.75
    assert layer.patterns == ("1:4", "2:4")


def test_sparsity_sees_weights_in_codes() -> None:
    text = """agraph (float[N, 4] x) => (float[N, 1] y)
    <uint8[4, 1] q = {2, 2, 1, 0}, float[3] book = {0.5, -1, 0}>
    { c = Cast <to = 6> (q)  w = Gather (book, c)  y = MatMul (x, w) }"""
    found = sparsity_of(parse(text, 17))
    assert found.layers[0].zeros == 0.5
    assert found.zeros == 3 / 7  # two codes, and the entry that they stand for


def test_the_command_line_prunes_and_says_what_it_is_worth(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    command = ["optimize", str(MODELS / "digits_mlp.onnx"), "--prune", "0.5", "--prune-pattern"]
    command += ["2:4", "--calib", str(MODELS / "digits.npz"), "-o", str(out)]
    result = CliRunner().invoke(cli, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    step = next(step for step in report["steps"] if step["pass"] == PASS)
    assert step["status"] == "applied"
    assert report["int8"] is None
    found = report["sparsity"]
    assert [layer["patterns"] for layer in found["layers"]] == [[], ["2:4", "4:8"], []]
    assert found["compressed"] < found["bytes"] < out.stat().st_size
    assert sparsity_of(load_model(out)).to_dict() == found
    table = CliRunner().invoke(cli, command)
    assert "2:4 in 1 of 3 layers" in table.stdout
    assert "by zlib" in table.stdout
    lossless = CliRunner().invoke(cli, [*command[:2], "--dry-run", "--json"])
    assert json.loads(lossless.stdout)["sparsity"] is None


def test_prune_is_a_step_of_the_recipe() -> None:
    recipe = make_recipe(prune=0.6, prune_pattern="row")
    assert recipe.steps[-1].name == PASS
    assert recipe.steps[-1].options == {"ratio": 0.6, "pattern": "row"}
    assert make_recipe().steps == recipe.steps[:-1]
    with pytest.raises(UsageError, match="from 0 to below 1, got 1"):
        make_recipe(prune=1.0)
    with pytest.raises(UsageError, match="add --prune R"):
        make_recipe(prune_pattern="2:4")


def test_weights_that_are_no_constants_are_left() -> None:
    text = """agraph (float[N, 4, 5, 5] x, float[4, 4, 3, 3] w) => (float[N, 4, 3, 3] y)
    { y = Conv (x, w) }"""
    feeds: list[Feeds] = [
        {"x": np.ones((1, 4, 5, 5), np.float32), "w": np.ones((4, 4, 3, 3), np.float32)}
    ]
    _, outcome = pruned(parse(text, 17), feeds)
    assert [left.reason for left in outcome.left] == ["its weight is no constant of floats"]
    assert array(None) is None
