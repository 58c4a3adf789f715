"""Which groups give how many channels: budgets, whole blocks, and the order of removal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.channels.groups import Group, Part, Port
from onnxcomp.cost import measure
from onnxcomp.edits import add_constant
from onnxcomp.errors import RecipeError
from onnxcomp.passes.prune._allocation import Ranking, allocate
from onnxcomp.passes.prune._budget import Budget, read_budget
from onnxcomp.passes.prune._cost import Axis, Costs, Terms, find_costs
from onnxcomp.passes.prune._importance import by_apoz, by_entropy, by_median, rank_by_scores
from onnxcomp.passes.prune._levels import FLOOR, find_levels
from onnxcomp.passes.prune._obs import Problem, rank_by_obs

CHAIN = """agraph (float[1, 3, 8, 8] x) => (float[1, 10, 8, 8] y)
<float[32, 3, 3, 3] w1, float[32] b1, float[64, 32, 3, 3] w2, float[10, 64, 1, 1] w3>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    b = Conv <pads = [1, 1, 1, 1]> (a, w2)
    y = Conv (b, w3)
}"""


def chain() -> tuple[ir.Model, list[Group]]:
    """Return three convolutions and the two groups between them, written by hand."""
    model = parse(CHAIN, 17)
    first, second, third = model.graph
    return model, [_between(first, second, 32), _between(second, third, 64)]


def _between(maker: ir.Node, reader: ir.Node, channels: int) -> Group:
    places = np.arange(channels)[:, None]
    values = [maker.inputs[1], *maker.inputs[2:], maker.outputs[0]]
    rows = [Part(value, 1 if value is maker.outputs[0] else 0, places) for value in values if value]
    weight = reader.inputs[1]
    assert weight is not None
    read = Part(weight, 1, places)
    name = maker.outputs[0].name or ""
    return Group(name, channels, (*rows, read), (Port(maker, rows[0]),), (Port(reader, read),))


def even(channels: int, *, scale: float = 1.0) -> Ranking:
    """Return a ranking in which each channel costs the same."""
    return Ranking(np.arange(channels), scale * np.arange(channels + 1) / channels)


def test_the_cost_is_that_of_the_model_and_bilinear() -> None:
    model, groups = chain()
    costs = find_costs(model, groups, None)
    whole = measure(model)
    full = costs.channels
    assert costs.total("macs", full) == whole.macs
    assert costs.total("params", full) == whole.params
    assert costs.total("bytes", full) == whole.bytes
    kept = np.array([16, 32])
    assert costs.total("macs", kept) == 64 * (16 * 27 + 32 * 16 * 9 + 10 * 32)
    assert costs.total("params", kept) == 16 * 28 + 32 * 16 * 9 + 10 * 32
    assert whole.bytes - costs.total("bytes", kept) == 4 * (whole.params - 16 * 28 - 4608 - 320)


@settings(max_examples=60)
@given(
    st.floats(0.01, 0.9), st.sampled_from(["macs", "params", "bytes"]),
    st.sampled_from(["global", "local"]), st.sampled_from([4, 8, 16]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_budget_is_met_within_one_block(
    share: float, kind: str, scope: str, block: int, seed: int
) -> None:
    model, groups = chain()
    costs = find_costs(model, groups, None)
    levels = find_levels(costs, block)
    rng = np.random.default_rng(seed)
    rankings = [rank_by_scores(rng.uniform(0.1, 1, g.channels)) for g in groups]
    budget = costs.total(kind, costs.channels) * (1 - share)
    kept, cost = allocate(costs, levels, rankings, kind=kind, budget=budget, scope=scope)
    assert cost == costs.total(kind, kept)
    smallest = np.array([each.counts[-1] for each in levels])
    if costs.total(kind, smallest) > budget:
        assert np.array_equal(kept, smallest)
        return
    assert cost <= budget
    assert (kept % block == 0).all()
    assert (kept >= FLOOR * costs.channels).all()
    undone = [kept + block * np.eye(len(kept), dtype=int)[g] for g in range(len(kept))]
    assert any(
        costs.total(kind, each) > budget for each in undone if (each <= costs.channels).all()
    )


def test_local_takes_the_same_share_of_each_and_global_what_matters_least() -> None:
    model, groups = chain()
    costs = find_costs(model, groups, None)
    levels = find_levels(costs, 8)
    rankings = [even(32, scale=1e6), even(64)]
    macs = costs.total("macs", costs.channels)
    local, _ = allocate(costs, levels, rankings, kind="macs", budget=0.3 * macs, scope="local")
    assert np.array_equal(local, [16, 32])
    everywhere, _ = allocate(costs, levels, rankings, kind="macs", budget=macs / 2)
    assert everywhere[0] == 32
    assert everywhere[1] <= 32


def test_gains_are_reckoned_anew_where_groups_meet() -> None:
    """Greedy over exact costs is never worse than over those of the whole model."""
    model, groups = chain()
    costs = find_costs(model, groups, None)
    levels = find_levels(costs, 8)
    rankings = [even(32), even(64)]
    budget = 0.3 * costs.total("macs", costs.channels)
    kept, cost = allocate(costs, levels, rankings, kind="macs", budget=budget)
    error = sum(r.error(int(k)) for r, k in zip(rankings, kept, strict=True))
    choices = [(costs.channels[g], *levels[g].counts) for g in range(2)]
    best = min(
        sum(r.error(int(k)) for r, k in zip(rankings, each, strict=True))
        for each in itertools.product(*choices)
        if costs.total("macs", np.array(each)) <= budget
    )
    assert cost <= budget
    assert error <= best + 0.13


# ---------------------------------------------------------------- whole blocks
def shared(axes: Sequence[Axis], channels: Sequence[int]) -> Costs:
    """Return costs in which nothing but the axes counts."""
    nothing = Terms(np.zeros(0), np.zeros((0, 1), np.intp), 0.0)
    return Costs(np.array(channels, np.intp), tuple(axes), {"macs": nothing})


@pytest.mark.parametrize(
    ("axes", "channels", "counts"),
    [
        ([Axis(48, {0: 1}, weight=True)], [48], [(32, 16)]),
        ([Axis(40, {0: 1}, weight=True)], [40], [(32, 16)]),  # rounded down by the first step
        ([Axis(16, {0: 1}, weight=True)], [16], [()]),
        ([Axis(12, {0: 1}, weight=True)], [12], [()]),
        ([Axis(256, {0: 64}, weight=True)], [4], [(3, 2, 1)]),  # heads
        ([Axis(96, {0: 24}, weight=True)], [4], [(2,)]),
        ([Axis(40, {0: 1}, weight=False)], [40], [tuple(range(39, 4, -1))]),
        # 3 of 35 are not the group's: its maker decides
        ([Axis(35, {0: 1}, weight=True), Axis(32, {0: 1}, weight=True)], [32], [(16,)]),
        ([Axis(64, {0: 1, 1: 1}, weight=True)], [32, 32], [(16,), (16,)]),
    ],
)  # fmt: skip
def test_levels_are_whole_blocks(
    axes: Sequence[Axis], channels: Sequence[int], counts: list[tuple[int, ...]]
) -> None:
    assert [each.counts for each in find_levels(shared(axes, channels), 16)] == counts


def test_groups_on_a_ragged_axis_go_down_together() -> None:
    axes = [
        Axis(24, {0: 1}, weight=True), Axis(24, {1: 1}, weight=True),
        Axis(48, {0: 1, 1: 1}, weight=True), Axis(64, {2: 1}, weight=True),
    ]  # fmt: skip
    levels = find_levels(shared(axes, [24, 24, 64]), 16)
    assert levels[0].counts == (16,)
    assert levels[0].together == (1,)
    assert levels[1].together == (0,)
    assert levels[2].together == ()


def test_an_axis_of_whole_blocks_stays_one_beside_a_group_that_cannot_shrink() -> None:
    axes = [Axis(32, {0: 1, 1: 1}, weight=True)]
    assert find_levels(shared(axes, [20, 12]), 16)[0].counts == (4,)
    axes.append(Axis(20, {0: 1}, weight=True))
    assert find_levels(shared(axes, [20, 12]), 16)[0].counts == ()


# ---------------------------------------------------------------- the order of removal
def problem(rows: int, channels: int, width: int, seed: int, count: int = 400) -> Problem:
    rng = np.random.default_rng(seed)
    columns = channels * width
    x = rng.standard_normal((count, columns)) @ rng.standard_normal((columns, columns))
    weight = rng.standard_normal((rows, columns))
    covariance = np.cov(x, rowvar=False, bias=True)
    places = rng.permutation(columns).reshape(channels, width)
    return Problem(weight, covariance, places, float(((weight @ covariance) * weight).sum()))


def least_squares_error(found: Problem, gone: Sequence[int], damping: float = 0.01) -> float:
    """Return the error when the columns that are left make up for those that are gone."""
    h = found.covariance + damping * np.trace(found.covariance) / len(found.covariance) * np.eye(
        len(found.covariance)
    )
    out = found.columns[list(gone)].ravel()
    left = np.setdiff1d(np.arange(len(h)), out)
    w = found.weight
    fitted = w[:, left] + w[:, out] @ h[np.ix_(out, left)] @ np.linalg.inv(h[np.ix_(left, left)])
    change = w.copy()
    change[:, left] -= fitted
    return float(((change @ h) * change).sum()) / found.signal


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_obs_takes_at_each_step_what_brute_force_takes(width: int, seed: int) -> None:
    found = [problem(5, 8, width, seed), problem(3, 8, width, seed + 100)]
    ranking = rank_by_obs(found, np.zeros(8), 1)
    gone: list[int] = []
    for step in range(7):
        left = [c for c in range(8) if c not in gone]
        errors = [sum(least_squares_error(each, [*gone, c]) for each in found) for c in left]
        best = left[int(np.argmin(errors))]
        assert ranking.order[step] == best
        assert ranking.errors[step + 1] == pytest.approx(min(errors), rel=1e-6)
        gone.append(best)


def test_obs_finds_channels_that_others_can_stand_for() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 128))
    x[:, 64:] = x[:, :64] @ rng.standard_normal((64, 64))  # a half is a mixture of the other
    weight = rng.standard_normal((20, 128))
    h = np.cov(x, rowvar=False, bias=True)
    found = Problem(weight, h, np.arange(128)[:, None], float(((weight @ h) * weight).sum()))
    ranking = rank_by_obs([found], np.zeros(128), 16)
    assert ranking.errors[60] < 0.02  # of 128 that are removed two at a time
    assert ranking.errors[100] > 0.1
    assert sorted(ranking.order) == list(range(128))
    assert (np.diff(ranking.errors) >= -1e-12).all()


def test_scores_of_activations() -> None:
    rows = np.zeros((640, 3, 2), np.float32)
    rows[:, 1] = 0.5
    rows[:, 2] = np.repeat(np.arange(64), 20).reshape(640, 2) / 63
    entropy = by_entropy(rows, 64)
    assert entropy[:2] == pytest.approx([0, 0], abs=1e-9)
    assert entropy[2] == pytest.approx(np.log(64))
    assert by_apoz(rows) == pytest.approx([0, 1, 1 - 1 / 64])


def test_the_median_is_what_others_can_stand_for() -> None:
    _, groups = chain()
    rows = np.concatenate([np.zeros((1, 4)), np.eye(4), -np.eye(4)])  # 0 is their median
    part = Part(add_constant(ir.Graph([], [], nodes=[]), rows, "w"), 0, np.arange(9)[:, None])
    scores = by_median(Group("g", 9, (), (Port(groups[0].makers[0].node, part),), ()), {})
    assert int(np.argmin(scores)) == 0


# ---------------------------------------------------------------- budgets
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((0.5, 100.0, None, None), "one of ratio, params, bytes and milliseconds"),
        ((1.0, None, None, None), "from 0 to below 1, not 1"),
        ((-0.1, None, None, None), "from 0 to below 1"),
        ((None, 0.0, None, None), "params must be more than 0"),
        ((float("nan"), None, None, None), "from 0 to below 1"),
    ],
)
def test_a_budget_without_sense_is_refused(options: tuple[float | None, ...], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        read_budget(*options)


def test_budgets() -> None:
    assert read_budget(None, None, None, None) == Budget("macs", 0.25)
    assert read_budget(0.0, None, None, None).is_nothing
    assert Budget("macs", 0.25).limit(100) == 75
    assert Budget("params", 30).limit(100) == 30
    assert even(4).kept(2).tolist() == [2, 3]
