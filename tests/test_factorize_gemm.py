"""factorize-gemm: exact at full rank, the least error at any other, and never more than asked."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxcomp
from case_pages import parse
from int8_nets import normal_feeds, run_pass, set_weight, weight
from onnxcomp.calibration.samples import open_samples, split
from onnxcomp.cli import cli
from onnxcomp.cost import measure
from onnxcomp.edits import add_constant, sweep
from onnxcomp.errors import ContractError, RecipeError, UsageError
from onnxcomp.graph import Array, is_op
from onnxcomp.linear.layers import find_layers
from onnxcomp.model_io import load_model
from onnxcomp.passes.factorize._allocation import by_cost
from onnxcomp.passes.factorize._forms import Chain, Form, Part, Site
from onnxcomp.passes.factorize._moments import Moments, Wanted, observe
from onnxcomp.passes.factorize._principal import energy_without, of_outputs, of_weight
from onnxcomp.passes.factorize._timing import Clock
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Recipe, Step, with_low_rank
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Feeds, Session, inline_bytes, input_specs
from onnxcomp.targets import find_target

MODELS = Path(__file__).parent.parent / "models"
PASS = "factorize-gemm"


def outputs(model: ir.Model, feeds: Sequence[Feeds], name: str = "") -> Array:
    """Return what a model makes of all feeds, [rows, channels]."""
    session = Session(model)
    made = [session.run(each)[name or session.outputs[0]] for each in feeds]
    return np.concatenate([data.reshape(-1, data.shape[-1]) for data in made]).astype(np.float64)


def left_out(wanted: Array, made: Array) -> float:
    """Return the share of the energy about the mean that is lost."""
    spread = wanted - wanted.mean(axis=0)
    return float(np.square(wanted - made).sum() / np.square(spread).sum())


def prepared(name: str) -> ir.Model:
    model = load_model(MODELS / f"{name}.onnx")
    return run_lossless(model, load_recipe("lossless").steps, None)[0]


def mixed_feeds(shape: tuple[int, ...], count: int, seed: int) -> list[Feeds]:
    """Return feeds whose features go together, about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((shape[-1], shape[-1])) * 0.8 ** np.arange(shape[-1])
    offset = rng.standard_normal(shape[-1])
    rows = [rng.standard_normal(shape) @ mixing.T + offset for _ in range(count)]
    return [{"x": each.astype(np.float32)} for each in rows]


# ---------------------------------------------------------------- exactness
@settings(deadline=None, max_examples=40)
@given(
    inner=st.integers(2, 9),
    out=st.integers(2, 9),
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.25, 0.0]),
    bias=st.sampled_from(["", "1", "out", "1, out", "5, 1", "input"]),
    opset=st.sampled_from([9, 17]),
)
def test_a_gemm_at_full_rank_is_the_same(
    inner: int,
    out: int,
    trans_a: bool,
    trans_b: bool,
    alpha: float,
    beta: float,
    bias: str,
    opset: int,
) -> None:
    bias = bias or ("1" if opset < 11 else "")
    x = f"{inner}, 5" if trans_a else f"5, {inner}"
    w = f"{out}, {inner}" if trans_b else f"{inner}, {out}"
    given_c = f", float[{out}] c" if bias == "input" else ""
    c = bias.replace("out", str(out))
    constant = f", float[{c}] c" if bias not in ("", "input") else ""
    model = parse(
        f"agraph (float[{x}] x{given_c}) => (float[5, {out}] y) <float[{w}] w{constant}> {{ y = "
        f"Gemm <transA = {int(trans_a)}, transB = {int(trans_b)}, alpha = {alpha}, beta = {beta}> "
        f"(x, w{', c' if bias else ''}) }}",
        opset,
    )
    rng = np.random.default_rng(0)
    feeds: list[Feeds] = [
        {value.name or "": rng.standard_normal(value.shape.numpy()).astype(np.float32) + 1
         for value in model.graph.inputs if value.shape is not None}
        for _ in range(4)
    ]  # fmt: skip
    whole = min(inner, out)
    after, outcome = run_pass(PASS, model, feeds, ranks={"Gemm -> y": whole}, repair=False)
    assert outcome.sites == 1
    assert len(after.graph) == 2
    before, found = outputs(model, feeds), outputs(after, feeds)
    np.testing.assert_allclose(found, before, atol=2e-5 * np.abs(before).max())


@pytest.mark.parametrize("add", ["", "y = Add (p, b)", "y = Add (b, p)", "y = Add (p, one)"])
@pytest.mark.parametrize("dims", ["4", "2, 3, 4", "4, 4"])
def test_a_matmul_at_full_rank_is_the_same(dims: str, add: str) -> None:
    shape = dims.removesuffix("4")
    model = parse(
        f"agraph (float[{dims}] x) => (float[{shape}6] y) <float[4, 6] w, float[6] b, float[1] one>"
        f"{{ {'p' if add else 'y'} = MatMul (x, w) {add} }}",
        17,
    )
    feeds = normal_feeds("x", [int(dim) for dim in dims.split(",")], 8)
    name = "MatMul -> p" if add else "MatMul -> y"
    after, outcome = run_pass(PASS, model, feeds, ranks={name: 4}, repair=False)
    assert outcome.sites == 1
    np.testing.assert_allclose(outputs(after, feeds), outputs(model, feeds), atol=1e-5)


# ---------------------------------------------------------------- the least error
@settings(deadline=None, max_examples=12)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_the_error_is_the_energy_left_out(
    inner: int, out: int, rank: int, seed: int, more: bool
) -> None:
    """On the samples that were fitted the error is the sum of the other eigenvalues."""
    rank = min(rank, inner, out)
    middle = ", 7" if more else ""
    op = "MatMul (x, w)" if more else "Gemm (x, w, b)"
    constants = f"float[{inner}, {out}] w" + ("" if more else f", float[{out}] b")
    model = parse(
        f"agraph (float[5{middle}, {inner}] x) => (float[5{middle}, {out}] y) <{constants}>"
        f"{{ y = {op} }}",
        17,
    )
    feeds = mixed_feeds((5, 7, inner) if more else (5, inner), 12, seed)
    name = f"{op.split()[0]} -> y"
    after, _ = run_pass(PASS, model, feeds, ranks={name: rank}, repair=False)
    wanted, made = outputs(model, feeds), outputs(after, feeds)
    values = np.linalg.eigvalsh(np.cov(wanted.T, bias=True).reshape(out, out))[::-1]
    expected = values[rank:].sum() / values.sum()
    assert left_out(wanted, made) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(  # and the mean is kept
        made.mean(axis=0), wanted.mean(axis=0), atol=1e-5 * np.abs(wanted).max()
    )


@pytest.mark.parametrize("name", ["digits_mlp", "encoder"])
def test_outputs_beat_the_weights_alone_at_every_rank(name: str) -> None:
    model = prepared(name)
    data = "digits" if name.startswith("digits") else name
    feeds = list(itertools.islice(open_samples(MODELS / f"{data}.npz", input_specs(model)), 24))
    layers = [layer for layer in find_layers(model.graph) if not is_op(layer.node, "Conv")]
    wanted = [Wanted(layer.node.outputs[0].name or "", -1, layer.rows) for layer in layers]
    seen = observe(model, wanted, feeds)
    for layer, each in zip(layers, wanted, strict=True):
        own = of_outputs([seen[each]], layer.matrices[0])
        plain = of_weight(layer.matrices[0]).basis
        scatter = seen[each].whole().scatter
        for rank in range(1, min(layer.rows, layer.columns)):
            other = energy_without(plain, rank, scatter)
            assert own.errors[rank] <= other + 1e-9
            if other > 1e-2:
                assert own.errors[rank] < 0.999 * other, rank


def test_a_layer_that_rows_say_little_of_is_judged_by_those_held_out() -> None:
    model = parse("agraph (float[1, 64] x) => (float[1, 64] y) <float[64, 64] w> "
                  "{ y = MatMul (x, w) }", 17)  # fmt: skip
    feeds = normal_feeds("x", (1, 64), 24)
    _, outcome = run_pass(PASS, model, feeds, energy=0.9, smaller=True)
    assert outcome.sites == 0  # 24 rows have at most 24 directions: no reason to keep only these
    assert "keeps 0.9 of its output's energy" in outcome.left[0].reason


# ---------------------------------------------------------------- trained models
def digits(fraction: float, **options: object) -> tuple[float, float]:
    """Return the accuracy of digits_mlp on samples held out at a share of its numbers, and that."""
    model = prepared("digits_mlp")
    samples = open_samples(MODELS / "digits.npz", input_specs(model))
    calibration, held = split(samples)
    whole = measure(model).params
    needs = {"samples": calibration, "original": model, "target": find_target("x86-vnni")}
    after = model.clone()
    asked = {"params": fraction * whole, "smaller": True, **options}
    apply(find_pass(PASS), after, {} if fraction == 1 else asked, needs)
    sweep(after)
    assert held.labels is not None
    right = outputs(after, list(held)).argmax(axis=1) == held.labels.reshape(-1)
    return float(right.mean()), measure(after).params / whole


def test_a_third_of_the_numbers_of_digits_costs_less_than_a_point() -> None:
    dense = np.mean(
        outputs(prepared("digits_mlp"), list(held_out())).argmax(axis=1) == labels_held_out()
    )
    accuracy, share = digits(1 / 3)
    assert share <= 1 / 3
    assert accuracy >= dense - 0.01
    plain, _ = digits(1 / 5, method="weights", repair=False)
    projected, _ = digits(1 / 5, repair=False)
    repaired, share = digits(1 / 5)
    assert share <= 1 / 5
    assert plain < projected <= repaired


def held_out() -> Sequence[Feeds]:
    model = load_model(MODELS / "digits_mlp.onnx")
    return list(split(open_samples(MODELS / "digits.npz", input_specs(model)))[1])


def labels_held_out() -> Array:
    model = load_model(MODELS / "digits_mlp.onnx")
    labels = split(open_samples(MODELS / "digits.npz", input_specs(model)))[1].labels
    assert labels is not None
    return labels.reshape(-1)


# ---------------------------------------------------------------- budgets
NET = """agraph (float[N, 64] x) => (float[N, 64] y)
<float[64, 96] w1, float[96] b1, float[96, 128] w2, float[128] b2, float[128, 64] w3, float[64] b3>
{
    h1 = Gemm (x, w1, b1)
    r1 = Relu (h1)
    h2 = Gemm (r1, w2, b2)
    r2 = Relu (h2)
    y = Gemm (r2, w3, b3)
}"""


def net() -> ir.Model:
    model, rng = parse(NET, 17), np.random.default_rng(3)
    for node, power in (("h1", 0.95), ("h2", 0.9), ("y", 0.85)):
        shape = weight(model, node).shape
        left, _ = np.linalg.qr(rng.standard_normal((shape[0], min(shape))))
        right, _ = np.linalg.qr(rng.standard_normal((shape[1], min(shape))))
        set_weight(model, node, 4 * (left * power ** np.arange(min(shape))) @ right.T)
    sweep(model)
    return model


FEEDS = normal_feeds("x", (1, 64), 400)


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_ratio_removes_that_share_of_the_multiplications(ratio: float) -> None:
    model = net()
    after, outcome = run_pass(PASS, model, FEEDS, target="portable", ratio=ratio)
    share = 1 - measure(after).macs / measure(model).macs
    assert ratio <= share <= ratio + 0.2
    assert outcome.settled["ratio"] is None
    assert isinstance(outcome.settled["ranks"], dict)


def test_params_counts_the_whole_model() -> None:
    model = net()
    after, _ = run_pass(PASS, model, FEEDS, target="portable", params=15_000, smaller=True)
    assert 10_000 < measure(after).params <= 15_000


def test_each_layer_by_itself_keeps_its_energy_in_aligned_ranks() -> None:
    model = net()
    after, outcome = run_pass(
        PASS, model, FEEDS, target="portable", energy=0.9, repair=False, method="outputs"
    )
    ranks = outcome.settled["ranks"]
    assert isinstance(ranks, dict)
    assert ranks
    assert all(rank % 16 == 0 for rank in ranks.values())
    assert "Gemm -> y" in ranks
    alone, _ = run_pass(PASS, model, FEEDS, repair=False, ranks={"Gemm -> y": ranks["Gemm -> y"]})
    assert left_out(outputs(model, FEEDS), outputs(alone, FEEDS)) <= 0.1 + 1e-6
    assert len(after.graph) == len(model.graph) + len(ranks)


def test_no_strength_is_nothing() -> None:
    assert run_pass(PASS, net(), FEEDS, energy=1.0)[1].sites == 0
    assert run_pass(PASS, net(), FEEDS, ratio=0.0)[1].sites == 0


def test_what_is_not_faster_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "speedup", lambda self, site, form: 0.9)
    monkeypatch.setattr("onnxcomp.passes.factorize._run.find_target", lambda name: TARGET)
    _, outcome = run_pass(PASS, net(), FEEDS, energy=0.8)
    assert outcome.sites == 0
    assert {leave.reason for leave in outcome.left} >= {
        "small layers in its place are not measured to be faster"
    }
    assert run_pass(PASS, net(), FEEDS, energy=0.8, smaller=True)[1].sites == 3


TARGET = find_target("x86-vnni")


def test_what_is_faster_is_kept_and_equal_shapes_are_timed_once() -> None:
    clock = Clock()
    model = net()
    layer = next(iter(find_layers(model.graph)))
    rng = np.random.default_rng(0)

    def build() -> Chain:
        parts = Part("Gemm", rng.random((64, 8))), Part("Gemm", rng.random((8, 96)))
        return Chain(parts, (None,))

    form = Form("pair", (8,), 1280, 1280, 0.1, build)
    site = Site((layer,), 6144, 6144, (4, 64), (form,), lambda kind, ranks: None)
    first = clock.speedup(site, form)
    assert first > 0
    assert clock.speedup(site, form) == first
    assert len(clock.known) == 1


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_other_choice_has_less_error_for_as_little(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    forms: dict[Site, list[Form]] = {}
    for _ in range(count):
        dense = data.draw(st.integers(10, 100))
        known = [
            Form("pair", (rank,), cost, cost, error, lambda: Chain((), ()))
            for rank, (cost, error) in enumerate(
                data.draw(st.lists(st.tuples(st.integers(1, 90), st.floats(0.001, 1)), max_size=4))
            )
        ]
        site = Site((), dense, dense, (), tuple(known), lambda kind, ranks: None)
        forms[site] = known
    limit = data.draw(st.integers(1, 300))
    least = sum(min([site.macs, *(f.macs for f in known)]) for site, known in forms.items())
    if least > limit:
        with pytest.raises(ContractError, match="cannot reach"):
            by_cost(forms, limit, params=False, name=PASS)
        return
    chosen = by_cost(forms, limit, params=False, name=PASS)
    cost = sum((form or site).macs for site, form in chosen.items())
    error = sum(form.error for form in chosen.values() if form is not None)
    assert cost <= limit
    for other in itertools.product(*([None, *known] for known in forms.values())):
        pairs = list(zip(forms, other, strict=True))
        if sum((form or site).macs for site, form in pairs) <= cost:
            assert error <= sum(form.error for _, form in pairs if form is not None) + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_merge_to_those_of_all_rows(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((size, 3)) + 5 for size in sizes]
    found = Moments()
    for part in parts:
        found.add(part)
    rows = np.concatenate(parts)
    assert found.count == len(rows)
    if len(rows):
        np.testing.assert_allclose(found.mean, rows.mean(axis=0))
        np.testing.assert_allclose(found.scatter, len(rows) * np.cov(rows.T, bias=True), atol=1e-9)


# ---------------------------------------------------------------- special cases
def test_nodes_that_share_a_weight_each_keep_their_mean() -> None:
    model = parse(
        "agraph (float[N, 8] x, float[N, 8] z) => (float[N, 8] y, float[N, 8] u) <float[8, 8] w> "
        "{ y = MatMul (x, w)  u = MatMul (z, w) }",
        17,
    )
    feeds: list[Feeds] = [
        {"x": one["x"], "z": other["x"] + np.float32(3)}
        for one, other in zip(mixed_feeds((5, 8), 8, 0), mixed_feeds((5, 8), 8, 1), strict=True)
    ]
    after, outcome = run_pass(PASS, model, feeds, ranks={"MatMul -> y": 3})
    assert outcome.sites == 2
    products = [node for node in after.graph if is_op(node, "MatMul")]
    assert len({node.inputs[1] for node in products}) == 2
    for name in ("y", "u"):
        wanted, made = outputs(model, feeds, name), outputs(after, feeds, name)
        np.testing.assert_allclose(made.mean(axis=0), wanted.mean(axis=0), atol=1e-4)


def test_an_embedding_keeps_the_energy_of_its_table() -> None:
    model = parse(
        "agraph (int64[N] i) => (float[N, 32] y) <float[50, 32] table> { y = Gather (table, i) }",
        17,
    )
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 32))
    table += 0.01 * rng.standard_normal(table.shape)
    node = model.graph[0]
    node.replace_input_with(0, add_constant(model.graph, table.astype(np.float32), "t"))
    feeds: list[Feeds] = [{"i": np.arange(50)}]
    options: dict[str, Any] = {"energy": 0.99, "embeddings": True}
    after, outcome = run_pass(PASS, model, feeds, **options)
    assert outcome.sites == 1
    assert outcome.settled["ranks"] == {"Gather -> y": 16}
    wanted, made = outputs(model, feeds), outputs(after, feeds)
    assert np.square(wanted - made).sum() <= 0.01 * np.square(wanted).sum()
    assert measure(after).params < measure(model).params


def test_random_samples_take_the_weight_alone() -> None:
    model = net()
    samples = open_samples("random:4", input_specs(model), model=model)
    needs = {"samples": samples, "original": model, "target": find_target("portable")}
    one, other = model.clone(), model.clone()
    found = apply(find_pass(PASS), one, {"energy": 0.9}, needs)
    again = apply(find_pass(PASS), other, {"energy": 0.9, "method": "weights"}, needs)
    assert found.sites == again.sites > 0
    assert not found.measured
    assert inline_bytes(one) == inline_bytes(other)


def test_inputs_that_are_not_finite_leave_a_layer() -> None:
    model = net()
    feeds: list[Feeds] = [{"x": np.full((2, 64), np.nan, dtype=np.float32)}] * 4
    _, outcome = run_pass(PASS, model, feeds, energy=0.5)
    assert outcome.sites == 0
    assert {leave.reason for leave in outcome.left} == {"its output is empty or not finite"}


def test_exclude_names_nodes() -> None:
    _, outcome = run_pass(
        PASS, net(), FEEDS, target="portable", rank=16, exclude="Gemm -> h*, nothing"
    )
    assert outcome.sites == 1


# ---------------------------------------------------------------- bad options
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"energy": 0.9, "ratio": 0.5}, "one of energy, ratio, params and rank, not energy and r"),
        ({"energy": 1.5}, "energy is the share that is kept"),
        ({"ratio": 1.0}, "from 0 to below 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"params": 0.0}, "params must be at least 1"),
        ({"method": "magic"}, "method is one of auto, outputs, weights, not 'magic'"),
        ({"ranks": {"nowhere": 3}}, "'nowhere', which is no layer"),
        ({"ranks": {"Gemm -> y": 300}}, "the form 300: it cannot have it"),
        ({"ranks": {"Gemm -> y": "x"}}, "the form 'x': it cannot have it"),
        ({"ranks": {"Gemm -> y": ""}}, "the form '': it cannot have it"),
        ({"ranks": {"Gemm -> y": "pair 3 4"}}, "it cannot have it"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        run_pass(PASS, net(), FEEDS[:4], **options)


def test_a_budget_out_of_reach_says_what_can_be_reached() -> None:
    with pytest.raises(ContractError, match=r"cannot reach .* MACs: of the .* are left at least"):
        run_pass(PASS, net(), FEEDS, target="portable", ratio=0.99)
    with pytest.raises(UsageError, match="svd is the share of energy"):
        with_low_rank(Recipe(), 0.0)


# ---------------------------------------------------------------- recipes
def test_lossless_passes_do_not_undo_it() -> None:
    model = net()
    after, outcome = run_pass(PASS, model, FEEDS, target="portable", energy=0.8)
    assert outcome.sites == 2
    again, _ = run_lossless(after, load_recipe("lossless").steps, None)
    assert measure(again).params == measure(after).params
    assert len(again.graph) == len(after.graph)


def test_svd_edits_a_recipe() -> None:
    recipe = with_low_rank(Recipe((Step("factorize-gemm", {"ratio": 0.3, "exclude": "a*"}),)), 0.9)
    assert recipe.steps == (
        Step("factorize-gemm", {"exclude": "a*", "energy": 0.9}),
        Step("factorize-conv", {"energy": 0.9}),
    )
    with pytest.raises(UsageError, match="svd is the share"):
        onnxcomp.optimize(net(), svd=2.0)


def test_svd_on_the_command_line() -> None:
    options = ["--recipe", "none", "--svd", "0.9", "--exclude", "Gemm*", "--print-recipe"]
    answer = CliRunner().invoke(cli, ["optimize", "model.onnx", *options])
    assert answer.exit_code == 0, answer.output
    steps = tomllib.loads(answer.output)["step"]
    assert steps == [
        {"pass": "factorize-conv", "energy": 0.9},
        {"pass": "factorize-gemm", "energy": 0.9},
    ]


def settled_bytes(model: ir.Model, **options: object) -> tuple[bytes, Recipe, Outcome | None]:
    result = onnxcomp.optimize(model, calib=FEEDS[:64], **options)  # type: ignore[arg-type]
    return inline_bytes(result.model), result.recipe, None


def test_the_settled_recipe_repeats_the_run_to_the_byte(tmp_path: Path) -> None:
    step = Step(PASS, {"energy": 0.9, "smaller": True})
    recipe = Recipe((step,), min_sqnr=3.0, never_slower=False)
    first, settled, _ = settled_bytes(net(), recipe=recipe)
    [done] = settled.steps
    assert set(done.options) == {"smaller", "ranks"}
    assert done.options["ranks"]
    path = tmp_path / "settled.toml"
    path.write_text(settled.to_toml(), encoding="utf-8")
    assert settled_bytes(net(), recipe=path)[0] == first
    assert settled_bytes(net(), recipe=settled)[0] == first


def test_less_is_tried_where_the_budget_breaks() -> None:
    step = Step(PASS, {"energy": 0.3, "smaller": True})
    recipe = Recipe((step,), min_sqnr=8.0, never_slower=False)
    result = onnxcomp.optimize(net(), recipe=recipe, calib=FEEDS[:64])
    assert result.report.passed
    [done] = result.recipe.steps
    assert done.options["ranks"]
    assert measure(result.model).params < measure(net()).params
