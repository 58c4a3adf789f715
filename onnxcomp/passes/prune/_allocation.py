"""Which groups give how many channels until a model is within its budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.prune._cost import Costs, Counts
from onnxcomp.passes.prune._levels import Levels

SCOPES = ("global", "local")


@dataclass(frozen=True)
class Ranking:
    """In which order the channels of a group go, and what that costs in accuracy.

    `order` [channels]: the first goes first. `errors` [channels + 1]: the relative error of what
    reads the group once the first so many are gone; rising from 0.
    """

    order: Array
    errors: Array

    def error(self, kept: int) -> float:
        """Return the error when so many channels are left."""
        return float(self.errors[len(self.order) - kept])

    def kept(self, count: int) -> Array:
        """Return the indices of the last `count` channels, rising."""
        return np.sort(self.order[len(self.order) - count :])


@dataclass(frozen=True)
class _Step:
    """The next step down of a group, with those that have to go with it."""

    key: tuple[float, float, int]
    after: tuple[tuple[int, int], ...]


def allocate(
    costs: Costs,
    levels: Sequence[Levels],
    rankings: Sequence[Ranking],
    *,
    kind: str,
    budget: float,
    scope: str = "global",
) -> tuple[Counts, float]:
    """Return how many channels of each group stay, and what the model then costs.

    Steps are taken until the cost of a kind is at most `budget`, or none is left. `global`: that
    of the least error per cost saved (for MACs, the time that they and moving their numbers take)
    comes first, both reckoned anew after each step since groups that meet in a layer save less once
    one of them has shrunk. `local`: that which leaves most of
    its group, so that all end at about the same share.
    """
    kept, cost = costs.channels.copy(), costs.total(kind, costs.channels)
    steps: dict[int, _Step] = {}
    stale = set(range(len(levels)))
    while cost > budget:
        for group in sorted(stale):
            found = _step(costs, levels, rankings, kept, group, kind, cost, scope)
            steps.pop(group, None)
            if found is not None:
                steps[group] = found
        if not steps:
            break
        best = min(steps.values(), key=lambda step: step.key)
        for group, count in best.after:
            kept[group] = count
        cost = costs.total(kind, kept)
        stale = set().union(*(costs.near(kind, group) for group, _ in best.after))
        stale |= {g for g, each in enumerate(levels) for h, _ in best.after if h in each.together}
    return kept, cost


def _step(
    costs: Costs,
    levels: Sequence[Levels],
    rankings: Sequence[Ranking],
    kept: Counts,
    group: int,
    kind: str,
    cost: float,
    scope: str,
) -> _Step | None:
    after = tuple(_after(costs, levels, kept, group))
    if not after:
        return None
    tried = kept.copy()
    error = 0.0
    for each, count in after:
        tried[each] = count
        error += rankings[each].error(count) - rankings[each].error(int(kept[each]))
    saved = cost - costs.total(kind, tried)
    if saved <= 0:
        return None
    if kind == "macs":
        saved = costs.total("work", kept) - costs.total("work", tried)
    share = max(1 - count / costs.channels[each] for each, count in after)
    key = (error / saved, -saved) if scope == "global" else (float(share), error / saved)
    return _Step((*key, group), after)


def _after(
    costs: Costs, levels: Sequence[Levels], kept: Counts, group: int
) -> Iterator[tuple[int, int]]:
    count = next((each for each in levels[group].counts if each < kept[group]), None)
    if count is None:
        return
    yield group, count
    if kept[group] < costs.channels[group]:
        return
    for other in levels[group].together:
        if kept[other] == costs.channels[other]:
            yield other, levels[other].counts[0]
