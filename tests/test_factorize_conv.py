"""factorize-conv: each form exact at full rank, with errors as foretold, and smaller as asked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import onnxcomp
from case_pages import parse
from int8_nets import normal_feeds, run_pass, samples_of, set_weight, weight
from onnxcomp.calibration.samples import open_samples, split
from onnxcomp.cost import measure
from onnxcomp.edits import sweep
from onnxcomp.errors import RecipeError
from onnxcomp.graph import Array, is_op
from onnxcomp.linear.layers import find_layers
from onnxcomp.model_io import load_model
from onnxcomp.passes.factorize._moments import Wanted, observe
from onnxcomp.passes.factorize._principal import energy_without, of_outputs, of_weight, root_of
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Recipe, Step
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Feeds, Session, inline_bytes, input_specs
from onnxcomp.targets import find_target

MODELS = Path(__file__).parent.parent / "models"
PASS = "factorize-conv"


def outputs(model: ir.Model, feeds: Sequence[Feeds], name: str = "") -> Array:
    """Return what a model makes of all feeds, [positions, channels]."""
    session = Session(model)
    made = [np.moveaxis(session.run(each)[name or session.outputs[0]], 1, -1) for each in feeds]
    return np.concatenate([data.reshape(-1, data.shape[-1]) for data in made]).astype(np.float64)


def left_out(wanted: Array, made: Array) -> float:
    spread = wanted - wanted.mean(axis=0)
    return float(np.square(wanted - made).sum() / np.square(spread).sum())


def smooth_feeds(shape: tuple[int, ...], count: int, seed: int = 0) -> list[Feeds]:
    """Return images whose channels and pixels go together, about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((shape[1], shape[1])) * 0.7 ** np.arange(shape[1])
    feeds: list[Feeds] = []
    for _ in range(count):
        data = rng.standard_normal(shape)
        for axis in range(2, len(shape)):
            data = data + np.roll(data, 1, axis)
        feeds.append({"x": (np.einsum("oc,nc...->no...", mixing, data) + 1).astype(np.float32)})
    return feeds


def conv(x: str, y: str, w: str, attributes: str = "", bias: int = 0, opset: int = 17) -> ir.Model:
    constants = f"float[{w}] w" + (f", float[{bias}] b" if bias else "")
    return parse(
        f"agraph (float[{x}] x) => (float[{y}] y) <{constants}> "
        f"{{ y = Conv {f'<{attributes}>' if attributes else ''} (x, w{', b' if bias else ''}) }}",
        opset,
    )


# ---------------------------------------------------------------- exactness
@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["channel", "spatial", "tucker"]),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    auto_pad=st.sampled_from(["", "", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    bias=st.booleans(),
)
def test_each_form_at_full_rank_is_the_same(
    kind: str,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    auto_pad: str,
    bias: bool,
) -> None:
    assume(kind != "spatial" or min(kernel) > 1)
    assume(not auto_pad.startswith("SAME") or dilations == (1, 1))
    out, into = channels
    tall, wide = kernel
    where = f'auto_pad = "{auto_pad}"' if auto_pad else f"pads = {list(pads)}"
    model = conv(
        f"2, {into}, 9, 8", f"2, {out}, a, b", f"{out}, {into}, {tall}, {wide}",
        f"strides = {list(strides)}, dilations = {list(dilations)}, {where}", out if bias else 0,
    )  # fmt: skip
    whole = {
        "channel": f"channel {min(out, into * tall * wide)}",
        "spatial": f"spatial {min(into * tall, out * wide)}",
        "tucker": f"tucker {min(into, out * tall * wide)} {min(out, into * tall * wide)}",
    }[kind]
    feeds = smooth_feeds((2, into, 9, 8), 4)
    after, outcome = run_pass(PASS, model, feeds, ranks={"Conv -> y": whole}, repair=False)
    assert outcome.sites == 1
    assert len(after.graph) == (3 if kind == "tucker" else 2)
    before, found = outputs(model, feeds), outputs(after, feeds)
    np.testing.assert_allclose(found, before, atol=1e-5 * max(1, np.abs(before).max()))


@pytest.mark.parametrize("spatial", [1, 3])
@pytest.mark.parametrize("form", ["channel 6", "tucker 4 6"])
def test_any_number_of_axes(spatial: int, form: str) -> None:
    dims = ", ".join(["7"] * spatial)
    model = conv(f"2, 4, {dims}", f"2, 6, {dims}", f"6, 4, {', '.join(['3'] * spatial)}",
                 f"pads = {[1] * 2 * spatial}, strides = {[1] * spatial}", 6)  # fmt: skip
    feeds = smooth_feeds((2, 4, *[7] * spatial), 4)
    after, _ = run_pass(PASS, model, feeds, ranks={"Conv -> y": form}, repair=False)
    before = outputs(model, feeds)
    np.testing.assert_allclose(outputs(after, feeds), before, atol=1e-5 * np.abs(before).max())


# ---------------------------------------------------------------- errors
@settings(deadline=None, max_examples=10)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_the_error_of_fewer_filters_is_the_energy_left_out(
    into: int, out: int, rank: int, seed: int, bias: bool
) -> None:
    rank = min(rank, out)
    model = conv(f"2, {into}, 8, 8", f"2, {out}, 4, 4", f"{out}, {into}, 3, 3",
                 "pads = [1, 1, 1, 1], strides = [2, 2]", out if bias else 0)  # fmt: skip
    feeds = smooth_feeds((2, into, 8, 8), 6, seed)
    form = {"Conv -> y": f"channel {rank}"}
    after, _ = run_pass(PASS, model, feeds, ranks=form, repair=False)
    wanted, made = outputs(model, feeds), outputs(after, feeds)
    values = np.linalg.eigvalsh(np.cov(wanted.T, bias=True))[::-1]
    assert left_out(wanted, made) == pytest.approx(values[rank:].sum() / values.sum(), abs=1e-6)


@pytest.mark.parametrize("form", ["spatial 6", "tucker 6 8"])
def test_inputs_made_white_beat_the_kernel_alone(form: str) -> None:
    model = conv("1, 16, 8, 8", "1, 16, 8, 8", "16, 16, 3, 3", "pads = [1, 1, 1, 1]", 16)
    feeds = smooth_feeds((1, 16, 8, 8), 24)
    found = []
    for samples in (
        samples_of(model, feeds),
        open_samples("random:4", input_specs(model), model=model),
    ):
        after = model.clone()
        needs = {"samples": samples, "original": model, "target": find_target("portable")}
        apply(find_pass(PASS), after, {"ranks": {"Conv -> y": form}, "repair": False}, needs)
        sweep(after)
        found.append(left_out(outputs(model, feeds), outputs(after, feeds)))
    assert found[0] < 0.7 * found[1]


def test_the_root_of_a_deficient_moment_has_a_pseudo_inverse() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 5))
    root, inverse = root_of(rows.T @ rows)
    np.testing.assert_allclose(root @ root, rows.T @ rows, atol=1e-9)
    np.testing.assert_allclose(root @ inverse @ root, root, atol=1e-9)


def prepared(name: str) -> ir.Model:
    model = load_model(MODELS / f"{name}.onnx")
    return run_lossless(model, load_recipe("lossless").steps, None)[0]


def test_outputs_beat_the_weights_alone_at_every_rank_of_a_trained_model() -> None:
    model = prepared("digits_cnn")
    feeds = list(itertools.islice(open_samples(MODELS / "digits.npz", input_specs(model)), 32))
    layers = [layer for layer in find_layers(model.graph) if is_op(layer.node, "Conv")]
    wanted = [Wanted(layer.node.outputs[0].name or "", 1, layer.rows) for layer in layers]
    seen = observe(model, wanted, feeds)
    for layer, each in zip(layers, wanted, strict=True):
        own, scatter = of_outputs([seen[each]], layer.matrices[0]), seen[each].whole().scatter
        plain = of_weight(layer.matrices[0]).basis
        for rank in range(1, plain.shape[1]):
            other = energy_without(plain, rank, scatter)
            assert own.errors[rank] <= other + 1e-9
            if other > 1e-2:
                assert own.errors[rank] < 0.999 * other, rank


# ---------------------------------------------------------------- trained models
def run_digits(**options: Any) -> tuple[float, float, Outcome]:
    """Return the accuracy of digits_cnn on samples held out, and the share of MACs left."""
    model = prepared("digits_cnn")
    calibration, held = split(open_samples(MODELS / "digits.npz", input_specs(model)))
    after = model.clone()
    needs = {"samples": calibration, "original": model, "target": find_target("portable")}
    outcome = apply(find_pass(PASS), after, options, needs)
    sweep(after)
    session = Session(after, optimize=True)
    answers = [session.run(each)[session.outputs[0]].argmax() for each in held]
    assert held.labels is not None
    accuracy = np.mean(np.asarray(answers) == held.labels.reshape(-1))
    return float(accuracy), measure(after).macs / measure(model).macs, outcome


def test_a_trained_model_keeps_its_answers_at_under_half_the_multiplications() -> None:
    dense, whole, _ = run_digits(ratio=0.0)
    assert whole == 1
    accuracy, share, outcome = run_digits(ratio=0.55)
    assert share <= 0.47  # the first layer is not in reach
    assert accuracy >= dense - 0.01
    fitted = [each for each in outcome.measured if each.after > each.before]
    assert len(fitted) >= outcome.sites


def test_the_best_kind_is_no_worse_than_any() -> None:
    shares = {
        kind: run_digits(energy=0.97, kind=kind, repair=False)[1]
        for kind in ("channel", "spatial", "tucker", "auto")
    }
    assert shares["auto"] <= min(shares.values()) + 1e-9
    assert shares["auto"] < 0.8


# ---------------------------------------------------------------- special cases
def test_a_kernel_at_two_scales_is_one_chain() -> None:
    model = parse(
        """agraph (float[1, 8, 9, 9] x) => (float[1, 8, 9, 9] y, float[1, 8, 4, 4] z)
        <float[8, 8, 3, 3] w, float[8] b, float[8] c>
        {
            y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            z = Conv <pads = [1, 1, 1, 1]> (p, w, c)
        }""",
        17,
    )
    feeds = smooth_feeds((1, 8, 9, 9), 12)
    for form in ("channel 3", "spatial 5", "tucker 4 4"):
        after, outcome = run_pass(PASS, model, feeds, ranks={"Conv -> y": form})
        assert outcome.sites == 2
        convs = [node for node in after.graph if is_op(node, "Conv")]
        assert len({node.inputs[1] for node in convs}) == len(convs) / 2
        for name in ("y", "z"):
            wanted, made = outputs(model, feeds, name), outputs(after, feeds, name)
            spread = np.sqrt(np.square(wanted - wanted.mean(axis=0)).mean())
            off = np.abs(made.mean(axis=0) - wanted.mean(axis=0)).max()
            assert off < (1e-4 if form.startswith("channel") else 0.2 * spread)


def test_random_samples_take_the_kernel_alone() -> None:
    model = conv("1, 32, 8, 8", "1, 32, 8, 8", "32, 32, 3, 3", "pads = [1, 1, 1, 1]")
    rng = np.random.default_rng(0)
    low = np.einsum("nr,rcij->ncij", rng.random((32, 4)), rng.random((4, 32, 3, 3)))
    set_weight(model, "y", low)
    samples = open_samples("random:2", input_specs(model), model=model)
    needs = {"samples": samples, "original": model, "target": find_target("portable")}
    after = model.clone()
    assert apply(find_pass(PASS), after, {"energy": 0.999}, needs).sites == 1
    feeds = normal_feeds("x", (1, 32, 8, 8), 2)
    np.testing.assert_allclose(outputs(after, feeds), outputs(model, feeds), atol=1e-2)


def test_an_aligned_form_takes_fewer_multiplications_and_numbers() -> None:
    model = conv("1, 64, 8, 8", "1, 64, 8, 8", "64, 64, 3, 3", "pads = [1, 1, 1, 1]", 64)
    after, outcome = run_pass(PASS, model, smooth_feeds((1, 64, 8, 8), 16), "portable", energy=0.9)
    assert outcome.sites == 1
    before, found = measure(model), measure(after)
    assert found.macs <= 0.8 * before.macs
    for node in after.graph:
        name = node.outputs[0].name or ""
        assert weight(after, name).shape[0] % 16 == 0
    counted = sum(prod(layer.matrices.shape) for layer in find_layers(after.graph))
    assert found.params == counted + 64


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "cp"}, "kind is one of auto, channel, spatial, tucker, not 'cp'"),
        ({"ranks": {"Conv -> y": "spatial 2 3"}}, "it cannot have it"),
        ({"ranks": {"Conv -> y": "channel 0"}}, "it cannot have it"),
        ({"ranks": {"Conv -> y": "channel 99"}}, "it cannot have it"),
        ({"ranks": {"Conv -> y": "tucker 2"}}, "it cannot have it"),
        ({"ranks": {"Conv -> y": "pair 2"}}, "it cannot have it"),
        ({"ranks": {"Conv -> y": 2}}, "it cannot have it"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], reason: str) -> None:
    model = conv("1, 4, 8, 8", "1, 4, 8, 8", "4, 4, 3, 3", "pads = [1, 1, 1, 1]")
    with pytest.raises(RecipeError, match=reason):
        run_pass(PASS, model, smooth_feeds((1, 4, 8, 8), 2), **options)


# ---------------------------------------------------------------- recipes
def test_lossless_passes_do_not_undo_it() -> None:
    model = prepared("digits_cnn")
    calibration, _ = split(open_samples(MODELS / "digits.npz", input_specs(model)))
    for kind in ("channel", "spatial", "tucker"):
        after = model.clone()
        needs = {"samples": calibration, "original": model, "target": find_target("portable")}
        assert apply(
            find_pass(PASS), after, {"ratio": 0.5, "kind": kind, "repair": False}, needs
        ).sites
        sweep(after)
        again, _ = run_lossless(after, load_recipe("lossless").steps, None)
        assert len(again.graph) == len(after.graph)
        assert measure(again).macs == measure(after).macs


def test_the_settled_recipe_repeats_the_run_to_the_byte(tmp_path: Path) -> None:
    step = Step(PASS, {"energy": 0.95, "smaller": True})
    recipe = Recipe((step,), never_slower=False, max_drop=0.05)
    options = {"calib": MODELS / "digits.npz", "samples": 200}
    first = onnxcomp.optimize(MODELS / "digits_cnn.onnx", recipe=recipe, **options)  # type: ignore[arg-type]
    [done] = first.recipe.steps
    assert done.options["ranks"]
    path = tmp_path / "settled.toml"
    path.write_text(first.recipe.to_toml(), encoding="utf-8")
    again = onnxcomp.optimize(MODELS / "digits_cnn.onnx", recipe=path, **options)  # type: ignore[arg-type]
    assert inline_bytes(again.model) == inline_bytes(first.model)
    assert (
        measure(first.model).params < 0.7 * measure(load_model(MODELS / "digits_cnn.onnx")).params
    )
