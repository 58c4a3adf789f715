"""How much has to go for a model to take so many milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.channels.removal import remove_channels
from onnxcomp.channels.walk import find_channels
from onnxcomp.edits import sweep
from onnxcomp.errors import ContractError
from onnxcomp.graph import Array
from onnxcomp.latency import measure_in_turns
from onnxcomp.passes.prune._budget import say
from onnxcomp.passes.prune._cost import Counts
from onnxcomp.passes.prune._plan import Plan, chosen, kept_of
from onnxcomp.runtime import Session

# How often the share of MACs is halved, and how long each candidate is timed.
STEPS, SECONDS = 6, 1.0


@dataclass(frozen=True, eq=False)
class Clock:
    """Times what becomes of a model; weights keep their values, which cost no time."""

    model: ir.Model
    plan: Plan
    exclude: str
    before: Session
    feeds: Mapping[str, Array]

    def milliseconds(self, counts: Counts) -> float:
        """Return the median latency with so many channels of each group, on one thread."""
        copy = self.model.clone()
        groups = chosen(find_channels(copy), self.exclude)
        remove_channels(copy, kept_of(self.plan, counts, groups))
        sweep(copy)
        after = Session(copy, optimize=True)
        return measure_in_turns(self.before, after, [self.feeds], SECONDS).after_ms


def macs_for(
    model: ir.Model, plan: Plan, exclude: str, feeds: Mapping[str, Array], milliseconds: float
) -> float:
    """Return the MACs at which a model takes at most so many milliseconds, by measuring.

    Bisects between all and as few as can be; raises `ContractError` where these take longer. The
    time of a layer falls in steps, so the result is near the largest model that is fast enough.
    """
    clock = Clock(model, plan, exclude, Session(model, optimize=True), feeds)
    whole, least = plan.costs.total("macs", plan.costs.channels), plan.least("macs")
    if clock.milliseconds(plan.costs.channels) <= milliseconds:
        return whole
    best = clock.milliseconds(plan.smallest)
    if best > milliseconds:
        raise ContractError(
            f"prune-channels cannot reach {say('milliseconds', milliseconds)}: with all removed "
            f"that can be, the model takes {say('milliseconds', best)}"
        )
    low, high = least, whole
    for _ in range(STEPS):
        middle = (low + high) / 2
        fits = clock.milliseconds(plan.counts("macs", middle)) <= milliseconds
        low, high = (middle, high) if fits else (low, middle)
    return low
