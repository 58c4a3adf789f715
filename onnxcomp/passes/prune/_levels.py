"""How many channels may stay: whole blocks along every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxcomp.passes.prune._cost import Axis, Costs, Counts

# The least share of a group that stays.
FLOOR = 1 / 8


@dataclass(frozen=True)
class Levels:
    """How a group may shrink: `counts` of channels that may stay, falling; all of them is not one.

    `together` are groups on an axis that is no whole number of blocks: it becomes one only when all
    of them have gone down at least once.
    """

    counts: tuple[int, ...]
    together: tuple[int, ...] = ()


def floors(channels: Counts) -> Counts:
    """Return how many channels of each group have to stay."""
    return np.asarray(np.maximum(1, np.ceil(FLOOR * channels)), np.intp)


def find_levels(costs: Costs, block: int, least: Counts | None = None) -> list[Levels]:
    """Return the levels of each group, with no `counts` where it has to stay as it is.

    Kernels compute whole blocks of channels, so a count that is none costs as much as the next
    one, or more. Along each axis of each weight what stays is a multiple of `block`: a channel that
    owns 64 indices may go alone, and where groups share an axis each leaves whole blocks. An axis
    that is no multiple is rounded down by the first step; one that cannot become a multiple, since
    some of it is not the groups', does not count. `least` [groups] channels stay (`floors`).
    """
    least = floors(costs.channels) if least is None else least
    rules = _Blocks(costs, block, least)
    counts = [rules.counts(group) for group in range(len(least))]
    ragged = [rules.ragged_neighbours(group) for group in range(len(least))]
    return [Levels(own, _together(group, ragged, counts)) for group, own in enumerate(counts)]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """What is a whole number of blocks."""

    costs: Costs
    block: int
    least: Counts

    def counts(self, group: int) -> tuple[int, ...]:
        kept = self._candidates(group)
        axes = [axis for axis in self.costs.axes if axis.weight and group in axis.widths]
        for wanted in (axes, [axis for axis in axes if self._can_be_whole(axis, group)]):
            good = np.ones(len(kept), bool)
            for axis in wanted:
                good &= self._is_whole(axis, group, kept)
            if good.any():
                return tuple(int(count) for count in kept[good])
        return ()

    def ragged_neighbours(self, group: int) -> set[int]:
        """Return the groups that share an axis with one and have no whole blocks there as yet."""
        shared = (a for a in self.costs.axes if a.weight and len(a.widths) > 1)
        return {
            other
            for axis in shared
            if group in axis.widths and self._has_whole_parts(axis)
            for other, width in axis.widths.items()
            if int(self.costs.channels[other]) * width % self.block
        }

    def _candidates(self, group: int) -> Counts:
        channels = int(self.costs.channels[group])
        return np.arange(channels - 1, int(self.least[group]) - 1, -1, dtype=np.intp)

    def _is_whole(self, axis: Axis, group: int, kept: Counts) -> NDArray[np.bool_]:
        width = axis.widths[group]
        if len(axis.widths) > 1 and self._has_whole_parts(axis):
            return np.asarray(kept * width % self.block == 0)
        gone = (int(self.costs.channels[group]) - kept) * width
        return np.asarray((axis.size - gone) % self.block == 0)

    def _can_be_whole(self, axis: Axis, group: int) -> bool:
        is_own = axis.size == int(self.costs.channels[group]) * axis.widths[group]
        return is_own or axis.size % self.block == 0 or self._has_whole_parts(axis)

    def _has_whole_parts(self, axis: Axis) -> bool:
        """Say whether an axis can be whole blocks of each group, and whole blocks of the rest."""
        channels = self.costs.channels
        rest = axis.size - sum(int(channels[g]) * width for g, width in axis.widths.items())
        return rest % self.block == 0 and all(
            (np.append(self._candidates(g), channels[g]) * width % self.block == 0).any()
            for g, width in axis.widths.items()
        )


def _together(
    group: int, ragged: Sequence[set[int]], counts: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the other groups that go down with the first step of a group, and with theirs."""
    found, waiting = {group}, [group]
    while waiting:
        new = {other for other in ragged[waiting.pop()] - found if counts[other]}
        found |= new
        waiting += sorted(new)
    return tuple(sorted(found - {group}))
