"""prune-channels: budgets, whole blocks, every criterion, and what repair brings back."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import normal_feeds, samples_of, set_weight, sqnr_db, weight
from lossless import passes_of_the_graph
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.channels.walk import find_channels
from onnxcomp.cost import measure
from onnxcomp.edits import sweep
from onnxcomp.errors import ContractError, OnnxcompError, RecipeError, UsageError
from onnxcomp.graph import tensor
from onnxcomp.model_io import load_model
from onnxcomp.passes.prune import _timing
from onnxcomp.passes.prune._observed import shrunk
from onnxcomp.passes.prune._ranking import CRITERIA
from onnxcomp.presets import LOSSLESS
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, inline_bytes, input_specs
from onnxcomp.targets import TARGETS

MODELS = Path(__file__).parent.parent / "models"
DATA = {"encoder": "encoder.npz", "unet": "unet.npz"}
NAMES = ("digits_cnn", "digits_resnet", "digits_mobile", "digits_mlp", "encoder", "unet")
BLOCK = TARGETS["x86"].channel_block


@cache
def fused(name: str) -> tuple[ir.Model, ir.Model]:
    """Return a model as the lossless recipe leaves it, and as it was."""
    original = load_model(MODELS / f"{name}.onnx")
    model = original.clone()
    graph_only = set(passes_of_the_graph())
    for each in LOSSLESS:
        if each in graph_only:
            apply(find_pass(each), model)
    sweep(model)
    return model, original


@cache
def data_of(name: str, count: int = 128) -> Samples:
    model, _ = fused(name)
    file = MODELS / DATA.get(name, "digits.npz")
    return open_samples(str(file), input_specs(model), limit=count, model=model)


def prune(name: str, count: int = 128, **options: Any) -> ir.Model:
    model, original = fused(name)
    return pruned(model, data_of(name, count), original, **options)[0]


def pruned(
    model: ir.Model, samples: Samples, unfused: ir.Model, target: str = "x86", **options: Any
) -> tuple[ir.Model, Outcome]:
    after = model.clone()
    needs: dict[str, object] = {"samples": samples, "target": TARGETS[target], "unfused": unfused}
    outcome = apply(find_pass("prune-channels"), after, options, needs)
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    return after, outcome


def macs_left(name: str, after: ir.Model) -> float:
    feeds = next(iter(data_of(name)))
    return measure(after, feeds).macs / measure(fused(name)[0], feeds).macs


def accuracy(model: ir.Model) -> float:
    """Return the accuracy on the digits that no test calibrates with."""
    with np.load(MODELS / "digits.npz") as data:
        images, labels = data["image"][256:], data["labels"][256:]
    [answers] = Session(model, optimize=True).run({"image": images}).values()
    return float((answers.argmax(axis=1) == labels).mean())


# ---------------------------------------------------------------- budgets
@settings(max_examples=12, deadline=None)
@given(st.floats(0.02, 0.8), st.sampled_from(["global", "local"]), st.sampled_from(NAMES[:4]))
def test_the_share_of_macs_is_met_and_every_weight_keeps_whole_blocks(
    ratio: float, scope: str, name: str
) -> None:
    after = prune(name, ratio=ratio, scope=scope, criterion="l2", repair=False)
    left = macs_left(name, after)
    assert left <= 1 - ratio + 1e-9
    assert left >= 1 - ratio - 0.26  # a block of the widest layer that meets two others
    before = {node.name: node for node in fused(name)[0].graph}
    for node in after.graph:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        old, new = (tensor(each.inputs[1]) for each in (before[node.name], node))
        assert old is not None
        assert new is not None
        for was, now in list(zip(old.shape, new.shape, strict=True))[:2]:
            assert isinstance(now, int)
            assert now == was or now % BLOCK == 0


@pytest.mark.parametrize(("kind", "share"), [("params", 0.6), ("bytes", 0.6), ("bytes", 0.3)])
def test_a_size_is_met(kind: str, share: float) -> None:
    before = getattr(measure(fused("digits_cnn")[0]), kind)
    after = prune("digits_cnn", **{kind: share * before})
    assert getattr(measure(after), kind) <= share * before
    assert getattr(measure(after), kind) >= 0.6 * share * before


def test_milliseconds_are_met_by_the_largest_that_was_fast_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A millisecond is said to be a million MACs, so that the test does not depend on a clock."""
    whole = measure(fused("digits_cnn")[0]).macs / 1e6

    def milliseconds(
        self: _timing.Clock, counts: np.ndarray[tuple[int], np.dtype[np.intp]]
    ) -> float:
        return self.plan.costs.total("macs", counts) / 1e6

    monkeypatch.setattr(_timing.Clock, "milliseconds", milliseconds)
    after = prune("digits_cnn", milliseconds=0.5 * whole, criterion="l2", repair=False)
    assert 0.35 <= macs_left("digits_cnn", after) <= 0.5
    same = prune("digits_cnn", milliseconds=whole, criterion="l2")
    assert macs_left("digits_cnn", same) == 1
    with pytest.raises(ContractError, match=r"cannot reach 0.001 ms.*takes 0\.\d+ ms"):
        prune("digits_cnn", milliseconds=0.001, criterion="l2")


def test_a_candidate_is_timed() -> None:
    before = prune("digits_mlp", milliseconds=1e6, criterion="l2")
    assert inline_bytes(before) == inline_bytes(fused("digits_mlp")[0])
    with pytest.raises(ContractError, match="cannot reach 1e-06 ms"):
        prune("digits_mlp", milliseconds=1e-6, criterion="l2")


@pytest.mark.parametrize("name", NAMES)
def test_a_ratio_of_nothing_changes_nothing(name: str) -> None:
    model, original = fused(name)
    after, outcome = pruned(model, data_of(name), original, ratio=0.0)
    assert outcome.sites == 0
    assert inline_bytes(after) == inline_bytes(model)


@pytest.mark.parametrize("options", [{"ratio": 0.99}, {"params": 100.0}, {"bytes": 1000.0}])
def test_a_budget_out_of_reach_is_refused_with_the_best(options: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=r"cannot reach [\d,]+ \w+: .* [\d.]+% less") as error:
        prune("digits_cnn", **options)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"criterion": "magic"}, RecipeError, "no criterion 'magic'; choose from obs, l1"),
        ({"scope": "layer"}, RecipeError, "scope is global or local, not 'layer'"),
        ({"rounds": 0}, RecipeError, "rounds must be at least 1"),
        ({"exclude": "nothing*"}, UsageError, "matches no node"),
        ({"ratio": 0.5, "params": 10.0}, RecipeError, "takes one of"),
    ],
)
def test_options_without_sense_are_refused(
    options: dict[str, Any], kind: type[OnnxcompError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        prune("digits_cnn", **options)


def test_criteria_that_need_what_is_not_there_are_refused() -> None:
    model, original = fused("digits_cnn")
    random = open_samples("random:4", input_specs(model), model=model)
    with pytest.raises(UsageError, match="'apoz' needs real samples"):
        pruned(model, random, original, criterion="apoz")
    with pytest.raises(UsageError, match="'bn' needs layers with BatchNormalization"):
        prune("digits_mlp", criterion="bn")


# ---------------------------------------------------------------- criteria
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_runs_on_every_model(name: str, criterion: str) -> None:
    if criterion == "bn" and name in ("digits_mlp", "encoder"):
        pytest.skip("it has no normalization of batches")
    after = prune(name, 16, criterion=criterion, ratio=0.2, repair=False)
    assert macs_left(name, after) <= 0.8
    feeds = next(iter(data_of(name)))
    for answer in Session(after, optimize=True).run(feeds).values():
        assert np.isfinite(answer).all()


@pytest.mark.parametrize("options", [{}, {"rounds": 2}, {"criterion": "random", "seed": 3}])
def test_the_same_input_gives_the_same_bytes(options: dict[str, Any]) -> None:
    first, second = (prune("digits_mobile", 32, ratio=0.4, **options)
                     for _ in range(2))  # fmt: skip
    assert inline_bytes(first) == inline_bytes(second)


def test_another_seed_draws_other_channels() -> None:
    first, second = (
        prune("digits_cnn", criterion="random", seed=seed, repair=False) for seed in (0, 1)
    )
    assert inline_bytes(first) != inline_bytes(second)


def test_random_samples_rank_by_weights_and_know_the_means_of_normalization() -> None:
    model, original = fused("digits_cnn")
    random = open_samples("random:4", input_specs(model), model=model)
    with_means, _ = pruned(model, random, original, ratio=0.4)
    without, _ = pruned(model, random, model, ratio=0.4)  # nothing normalizes in it
    assert accuracy(with_means) > 0.8
    assert accuracy(with_means) > accuracy(without)


DOUBLES = """agraph (float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y)
<float[32, 4, 3, 3] w1, float[32] b1, float[3, 32, 1, 1] w2>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    y = Conv (r, w2)
}"""


@pytest.mark.parametrize("criterion", ["redundancy", "obs"])
def test_a_filter_that_is_another_times_a_factor_goes_without_loss(criterion: str) -> None:
    model = parse(DOUBLES, 17)
    made, bias = weight(model, "a").copy(), np.linspace(-0.5, 0.5, 32, dtype=np.float32)
    factor = np.linspace(0.5, 2, 16, dtype=np.float32)
    made[16:] = made[:16] * factor[:, None, None, None]
    bias[16:] = bias[:16] * factor
    set_weight(model, "a", made)
    set_weight(model, "a", bias, 2)
    sweep(model)
    feeds = normal_feeds("x", (1, 4, 6, 6), 32)
    repair = criterion == "obs"
    after, _ = pruned(
        model, samples_of(model, feeds), model, ratio=0.5, criterion=criterion, repair=repair
    )
    assert weight(after, "a").shape[0] == 16
    assert sqnr_db(model, after, feeds) > (60 if criterion == "redundancy" else 30)


def test_constant_channels_go_into_the_bias_exactly() -> None:
    model = parse(DOUBLES, 17)
    made, bias = weight(model, "a").copy(), np.ones(32, np.float32)
    made[::2] = 0  # Relu(1) = 1 wherever it is looked at
    set_weight(model, "a", made)
    set_weight(model, "a", bias, 2)
    sweep(model)
    feeds = normal_feeds("x", (1, 4, 6, 6), 8)
    samples = samples_of(model, feeds)
    after, outcome = pruned(model, samples, model, ratio=0.5, criterion="l2", repair=False)
    assert outcome.sites == 1
    assert weight(after, "a").shape[0] == 16
    assert sqnr_db(model, after, feeds) > 100


def test_few_rows_are_drawn_towards_independence() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        shrunk(np.cov(rng.standard_normal((count, 100)), rowvar=False, bias=True), count)
        for count in (10, 100_000)
    )
    off = ~np.eye(100, dtype=bool)
    assert np.abs(few[off]).max() < 0.2
    assert np.allclose(many, np.eye(100), atol=0.05)


# ---------------------------------------------------------------- what is left alone
def test_excluded_layers_keep_their_channels() -> None:
    after = prune("digits_cnn", ratio=0.3, exclude="/conv4/*", criterion="l2")
    before = {node.name: node for node in fused("digits_cnn")[0].graph}
    for node in after.graph:
        if node.op_type == "Conv" and (node.name or "").startswith("/conv4/"):
            old, new = (tensor(each.inputs[1]) for each in (before[node.name], node))
            assert old is not None
            assert new is not None
            assert old.shape == new.shape
            assert np.array_equal(old.numpy(), new.numpy())


def test_what_stays_is_said_with_the_reason() -> None:
    model, original = fused("unet")
    _, outcome = pruned(model, data_of("unet"), original, "portable", ratio=0.1, repair=False)
    reasons = {left.node: left.reason for left in outcome.left}
    assert "16 channels are too few to leave whole blocks of 16" in reasons.values()


def test_a_transformer_loses_heads_and_hidden_units() -> None:
    model, _ = fused("encoder")
    after = prune("encoder", ratio=0.4)
    before, left = ({g.name: g.channels for g in find_channels(m).groups} for m in (model, after))
    assert left.keys() == before.keys()
    assert sum(left.values()) < sum(before.values())
    assert any(left[name] < 4 for name, count in before.items() if count == 4)
    feeds = next(iter(data_of("encoder")))
    shapes = [{n: a.shape for n, a in Session(m).run(feeds).items()} for m in (model, after)]
    assert shapes[0] == shapes[1]


# ---------------------------------------------------------------- what repair brings back
@pytest.mark.parametrize(
    ("name", "ratio", "lost"),
    [("digits_cnn", 0.5, 0.03), ("digits_resnet", 0.5, 0.03), ("digits_mobile", 0.5, 0.3)],
)
def test_half_of_the_macs_go_within_a_point_with_repair(
    name: str, ratio: float, lost: float
) -> None:
    model = fused(name)[0]
    repaired = accuracy(prune(name, ratio=ratio))
    alone = accuracy(prune(name, ratio=ratio, repair=False))
    assert repaired >= accuracy(model) - 0.01
    assert alone <= accuracy(model) - lost


def test_a_quarter_of_the_hidden_units_is_within_a_point_with_repair() -> None:
    options: dict[str, Any] = {"ratio": 0.871, "scope": "local"}
    after = prune("digits_mlp", 256, **options)
    gemms = [node for node in after.graph if node.op_type == "Gemm"]
    shapes = [tensor(node.inputs[1]) for node in gemms]
    assert [list(each.shape) for each in shapes if each] == [[64, 64], [32, 64], [10, 32]]
    assert accuracy(after) >= accuracy(fused("digits_mlp")[0]) - 0.01
    assert accuracy(prune("digits_mlp", 256, repair=False, **options)) < 0.6


def test_repair_says_how_much_nearer_each_layer_is() -> None:
    model, original = fused("digits_cnn")
    _, outcome = pruned(model, data_of("digits_cnn"), original, ratio=0.4)
    assert outcome.measured
    assert all(each.after >= each.before for each in outcome.measured)


def test_layers_that_share_a_bias_by_chance_are_pruned_apart() -> None:
    text = """agraph (float[1, 16, 8, 8] x) => (float[1, 16, 2, 2] y)
    <float[32, 16, 3, 3] w1, float[32, 32, 3, 3] w2, float[16, 32, 3, 3] w3, float[32] b>
    { c = Conv (x, w1, b)  d = Relu (c)  e = Conv (d, w2, b)  f = Relu (e)  y = Conv (f, w3) }"""
    model = parse(text, 17)
    assert len(find_channels(model).groups) == 1
    samples = samples_of(model, normal_feeds("x", (1, 16, 8, 8), 4))
    options: dict[str, Any] = {"criterion": "l2", "repair": False, "scope": "local"}
    after, outcome = pruned(model, samples, model, ratio=0.4, **options)
    assert outcome.sites == 2
    assert measure(after).macs <= 0.6 * measure(model).macs
