"""What can be pruned of a model, at what gain and what loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.channels.groups import Channels, Group
from onnxcomp.channels.walk import find_channels
from onnxcomp.errors import UsageError
from onnxcomp.exclusion import is_excluded, split_globs
from onnxcomp.passes.prune._allocation import Ranking, allocate
from onnxcomp.passes.prune._compensation import Removal
from onnxcomp.passes.prune._cost import Costs, Counts, find_costs
from onnxcomp.passes.prune._levels import Levels, find_levels, floors
from onnxcomp.passes.prune._ranking import Ranked, rank
from onnxcomp.registry import leave

SAME = Ranking(np.zeros(0, np.intp), np.zeros(1))


@dataclass(frozen=True)
class How:
    """The options of the pass that say which channels go."""

    criterion: str
    scope: str
    exclude: str
    seed: int
    block: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The groups of a model that may shrink, what each costs, and in which order it goes."""

    groups: tuple[Group, ...]
    costs: Costs
    levels: tuple[Levels, ...]
    ranked: tuple[Ranked, ...]
    scope: str
    floors: Mapping[str, int]

    def least(self, kind: str) -> float:
        """Return the least that the model can cost."""
        return self.costs.total(kind, self.smallest)

    @property
    def smallest(self) -> Counts:
        """The counts of channels that stay when all goes that can."""
        rows = zip(self.levels, self.costs.channels, strict=True)
        return np.array([each.counts[-1] if each.counts else full for each, full in rows], np.intp)

    def counts(self, kind: str, limit: float) -> Counts:
        """Return how many channels of each group stay within a limit, or as few as can."""
        rankings = [each.ranking or SAME for each in self.ranked]
        kept, _ = allocate(
            self.costs, self.levels, rankings, kind=kind, budget=limit, scope=self.scope
        )
        return kept

    def removals(self, counts: Counts) -> list[Removal]:
        """Return what goes from each group that shrinks."""
        return [
            Removal(group, ranking.kept(int(count)), ranking, found.means, found.merges)
            for group, count, found in zip(self.groups, counts, self.ranked, strict=True)
            if (ranking := found.ranking) is not None and count < group.channels
        ]


def make_plan(
    model: ir.Model, unfused: ir.Model, samples: Samples, how: How, before: Plan | None = None
) -> Plan:
    """Find the groups of a model and rank their channels; say why others stay.

    Where there was a plan before, of the model with more channels, its floors hold.
    """
    found = find_channels(model)
    groups = chosen(found, how.exclude)
    costs = find_costs(model, groups, next(iter(samples), None))
    known = {} if before is None else before.floors
    fresh = zip(groups, floors(costs.channels), strict=True)
    least = {group.name: known.get(group.name, int(floor)) for group, floor in fresh}
    levels = find_levels(costs, how.block, np.array([least[g.name] for g in groups], np.intp))
    ranked = rank(
        model, unfused, groups, levels, samples, how.criterion, how.seed,
        compare=how.scope == "global",
    )  # fmt: skip
    if how.criterion == "bn" and groups and not any(of.ranking for of in ranked):
        raise UsageError(
            "prune-channels: criterion 'bn' needs layers with BatchNormalization behind them, and "
            "there is none; without: product"
        )
    able = [
        each if of.ranking is not None else replace(each, counts=())
        for each, of in zip(levels, ranked, strict=True)
    ]
    if before is None:
        _say_what_stays(found, groups, levels, ranked, how)
    return Plan(groups, costs, tuple(able), tuple(ranked), how.scope, least)


def _say_what_stays(
    found: Channels,
    groups: Sequence[Group],
    levels: Sequence[Levels],
    ranked: Sequence[Ranked],
    how: How,
) -> None:
    for node, reason in found.pinned.items():
        leave(node, reason)
    for group, each, of in zip(groups, levels, ranked, strict=True):
        if not each.counts:
            leave(
                group.makers[0].node,
                f"{group.channels} channels are too few to leave whole blocks of {how.block}",
            )
        elif of.ranking is None:
            leave(group.makers[0].node, f"{how.criterion} says nothing of it")


def chosen(found: Channels, exclude: str) -> tuple[Group, ...]:
    """Return the groups none of whose layers are excluded."""
    return tuple(group for group in found.groups if not _is_excluded(group, exclude))


def _is_excluded(group: Group, exclude: str) -> bool:
    globs = split_globs(exclude)
    ports = (*group.makers, *group.readers, *group.depthwise)
    return any(is_excluded(port.node, globs) for port in ports)


def kept_of(plan: Plan, counts: Counts, groups: Sequence[Group]) -> dict[Group, list[int]]:
    """Return which channels stay of each group that shrinks.

    `groups` are those of the plan, or of a copy of its model.
    """
    found = {}
    for group, count, of in zip(groups, counts, plan.ranked, strict=True):
        if of.ranking is not None and count < group.channels:
            found[group] = [int(channel) for channel in of.ranking.kept(int(count))]
    return found
