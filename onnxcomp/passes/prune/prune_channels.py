"""Whole channels removed from the layers that miss them least, until a budget is met."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.channel_block import block_of
from onnxcomp.channels.removal import remove_channels
from onnxcomp.channels.sharing import unshare_vectors
from onnxcomp.cost import measure
from onnxcomp.edits import sweep
from onnxcomp.errors import ContractError, RecipeError
from onnxcomp.exclusion import read_globs
from onnxcomp.graph import Array, label
from onnxcomp.linear.layers import find_layers
from onnxcomp.passes.prune._allocation import SCOPES
from onnxcomp.passes.prune._budget import Budget, read_budget, say
from onnxcomp.passes.prune._compensation import Kept, compensate, compensations, output_axis
from onnxcomp.passes.prune._cost import Counts
from onnxcomp.passes.prune._plan import How, Plan, kept_of, make_plan
from onnxcomp.passes.prune._ranking import check_criterion
from onnxcomp.passes.prune._repair import repair_layers
from onnxcomp.passes.prune._timing import macs_for
from onnxcomp.registry import Effect, register, settle
from onnxcomp.targets import Target

# Biases that layers get may take a model over a budget of bytes; then a little more goes.
MORE = 3


@register(Effect.LOSSY, strengths={"ratio": 0.0}, for_speed=True)
def prune_channels(
    model: ir.Model,
    samples: Samples,
    target: Target,
    unfused: ir.Model,
    *,
    ratio: float | None = None,
    params: float | None = None,
    bytes: float | None = None,  # noqa: A002 (the name that a recipe uses)
    milliseconds: float | None = None,
    criterion: str = "obs",
    scope: str = "global",
    repair: bool = True,
    rounds: int = 1,
    exclude: str = "",
    seed: int = 0,
    block: int = 0,
) -> int:
    """Remove the channels that the layers behind them miss least, until a budget is met.

    Channels that must go together, through residual sums, depthwise layers, gates, Concat or
    attention heads, are one group; what is removed is gone from every weight, [out, in, kh, kw], so
    that the model is smaller and faster on any runtime. Along each weight whole blocks of `block`
    channels stay, as many as the target's kernels compute at once (0: what is known of the target):
    other counts may take longer than all.

    One budget: `ratio`, the share of MACs that goes (0.25 where none is given), or at most so many
    `params`, `bytes` or `milliseconds` (measured on this machine, one thread, the first sample).
    `scope`: "global" takes the block of least relative error per cost saved, reckoned anew after
    each, "local" the same share of every group. An eighth of a group stays, and a block.

    `criterion`: "obs", the error of the layers that read a channel once the others make up for it,
    from the covariance of what they read (by "product" where samples are random); "l1", "l2",
    "product" (norms of the weights that make and that read a channel), "median" (distance to the
    other filters), "redundancy" (one of two alike goes, what read it reads the other), "bn"
    (|gamma| of normalization); "mean", "apoz", "entropy" of activations; "random".

    The mean of what goes is added to the biases behind, W E[x], from samples or batch
    normalization. `repair` then fits each layer behind to the original's outputs by least squares.
    `rounds` go a part of the way each, with repair between. `exclude` names nodes to leave as they
    are: globs, separated by commas. Raises `ContractError` when the budget is out of reach.

    Left alone where inputs, outputs or operators that mix channels need them all, and where
    channels are too few for whole blocks.
    """
    budget = read_budget(ratio, params, bytes, milliseconds)
    _check(scope, rounds, block, criterion, samples)
    read_globs(model, exclude, "prune-channels")
    if budget.is_nothing:
        return 0
    block = block or block_of(target)
    settle("block", block)
    unshare_vectors(model)  # equal biases that were merged would tie the channels of their layers
    how = How(criterion, scope, exclude, seed, block)
    pruning = _Pruning(model, unfused, samples, how, model.clone())
    return pruning.run(budget, rounds, repair=repair)


def _check(scope: str, rounds: int, block: int, criterion: str, samples: Samples) -> None:
    if scope not in SCOPES:
        raise RecipeError(f"prune-channels: scope is {' or '.join(SCOPES)}, not {scope!r}")
    if block < 0:
        raise RecipeError(f"prune-channels: block is 0 (the target's) or more, not {block}")
    if rounds < 1:
        raise RecipeError(f"prune-channels: rounds must be at least 1, not {rounds}")
    check_criterion(criterion, samples)


@dataclass
class _Pruning:
    """A model on its way to a budget.

    `rows` are the channels of the original's outputs that layers still have, by label; `touched`
    the layers that lost inputs; `shrunk` the names of groups.
    """

    model: ir.Model
    unfused: ir.Model
    samples: Samples
    how: How
    original: ir.Model
    rows: dict[str, Array] = field(default_factory=dict)
    touched: dict[str, None] = field(default_factory=dict)
    shrunk: set[str] = field(default_factory=set)

    def run(self, budget: Budget, rounds: int, *, repair: bool) -> int:
        """Remove channels in so many rounds, and a few more where biases have taken too much."""
        plan = make_plan(self.model, self.unfused, self.samples, self.how)
        kind, limit = self._limit(plan, budget)
        whole = plan.costs.total(kind, plan.costs.channels)
        if whole <= limit:
            return 0
        for done in range(1, rounds + MORE + 1):
            aim = whole * (limit / whole) ** min(1.0, done / rounds)
            self._shrink(plan, plan.counts(kind, aim))
            if repair and not self.samples.synthetic:
                self._repair()
            if done >= rounds and self._cost(kind) <= limit:
                return len(self.shrunk)
            plan = make_plan(self.model, self.unfused, self.samples, self.how, plan)
        raise ContractError(
            f"prune-channels cannot reach {say(kind, limit)}: {self._reached(kind)}"
        )

    def _limit(self, plan: Plan, budget: Budget) -> tuple[str, float]:
        """Return what is to be at most how much; raise where that is out of reach."""
        if budget.kind == "milliseconds":
            feeds = next(iter(self.samples))
            macs = macs_for(self.model, plan, self.how.exclude, feeds, budget.amount)
            settle("milliseconds", None)
            settle("ratio", 1 - macs / plan.costs.total("macs", plan.costs.channels))
            return "macs", macs
        whole, least = plan.costs.total(budget.kind, plan.costs.channels), plan.least(budget.kind)
        limit = budget.limit(whole)
        if least > limit:
            raise ContractError(
                f"prune-channels cannot reach {say(budget.kind, limit)}: with all removed that can "
                f"be, {say(budget.kind, least)} of {say(budget.kind, whole)} are left, "
                f"{1 - least / whole:.1%} less"
            )
        return budget.kind, limit

    def _shrink(self, plan: Plan, counts: Counts) -> None:
        removals = plan.removals(counts)
        kept = Kept(removals)
        given = compensations(removals, kept)
        self._note(kept)
        self.touched |= {label(port.node): None for r in removals for port in r.group.readers}
        self.shrunk |= {removal.group.name for removal in removals}
        remove_channels(self.model, kept_of(plan, counts, plan.groups))
        compensate(self.model.graph, given)
        sweep(self.model)

    def _note(self, kept: Kept) -> None:
        """Note which of the original's channels each layer still has."""
        for layer in find_layers(self.model.graph):
            node, axis = layer.node, output_axis(layer.node)
            if not kept.loses(node.outputs[0], axis):
                continue
            size = layer.groups * layer.rows
            before = self.rows.get(label(node), np.arange(size))
            self.rows[label(node)] = before[kept.along(node.outputs[0], axis, size)]

    def _repair(self) -> None:
        exclude = self.how.exclude
        touched = list(self.touched)
        repair_layers(self.model, self.original, touched, self.rows, self.samples, exclude)
        sweep(self.model)

    def _cost(self, kind: str) -> float:
        found = measure(self.model, next(iter(self.samples), None))
        return float({"macs": found.macs, "params": found.params, "bytes": found.bytes}[kind])

    def _reached(self, kind: str) -> str:
        return f"with all removed that can be, {say(kind, self._cost(kind))} are left"
