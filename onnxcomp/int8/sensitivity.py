"""What each quantized value costs the outputs, and ranges with which it costs less."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import measure
from onnxcomp.graph import Array
from onnxcomp.int8.switchboard import Switchboard, make_switchboard
from onnxcomp.passes.quantize._numbers import grid_of

# A sweep runs the model so often that it multiplies so many times, within limits: work and not
# seconds, so that a busy machine finds the same.
WORK = 6e10
FEWEST, MOST = 16, 120
# The seconds after which it ends where the model takes long but multiplies little.
SECONDS = 8.0
# The blocks of values that halving starts from.
BLOCKS = 8
# What has less than this share of all the noise is not looked at closer.
SMALL = 0.02
# The dearest values, for which other ranges are tried; one has to lower the noise to this share.
REFINED = 12
GAIN = 0.8


@dataclass(frozen=True)
class Cost:
    """What a group of values, on one grid, costs the outputs when it alone is quantized.

    `noise` is that of the worst output, as noise power over signal power; `nodes` are those that
    must be float for the values to be so.
    """

    values: tuple[str, ...]
    nodes: tuple[str, ...]
    noise: float

    @property
    def sqnr_db(self) -> float:
        """The signal-to-noise ratio of the worst output in dB."""
        return float(-10 * np.log10(max(self.noise, 1e-20)))


@dataclass(frozen=True)
class Sweep:
    """What each quantized activation costs, the dearest first, and ranges that cost less.

    `refined` are the costs with these ranges.
    """

    costs: tuple[Cost, ...]
    refined: tuple[Cost, ...]
    ranges: Mapping[str, Range] = field(default_factory=dict)


def sweep(
    exact: ir.Model,
    quantized: ir.Model,
    samples: Samples,
    ranges: Ranges,
    runs: int | None = None,
) -> Sweep:
    """Measure what each quantized activation costs the outputs, and look for better ranges.

    `quantized` was made from `exact`: values have the same names in both. Groups of values are
    quantized alone, on a few samples; no activations are kept. Where one costs much, other ranges
    between the calibrated one and the extremes are tried, as far as that leaves runs. These are
    about `runs` on the few samples, by default as many as the model's work allows; what costs most
    is looked at first.
    """
    board = make_switchboard(exact, quantized, samples)
    runs = _affordable(exact, board) if runs is None else runs
    until = time.perf_counter() + SECONDS
    noise, left = _noises(board, runs, until)
    refined, better = noise.copy(), dict[str, Range]()
    for index in np.argsort(-noise)[:REFINED]:
        if noise[index] < SMALL * noise.sum() or left <= 0 or time.perf_counter() > until:
            break
        name = board.groups[index].values[0]
        for candidate in _alternatives(name, ranges):
            left -= 1
            found = board.noise([index], {index: grid_of(candidate)})
            if found < GAIN * refined[index]:
                refined[index] = found
                better[name] = candidate
    return Sweep(_costs(board, noise), _costs(board, refined), better)


def _affordable(model: ir.Model, board: Switchboard) -> int:
    """Return how often the model runs on the samples in a sweep."""
    work = sum(measure(model, feeds).macs for feeds in board.feeds)
    return int(min(max(WORK / max(work, 1), FEWEST), MOST))


def _costs(board: Switchboard, noise: Array) -> tuple[Cost, ...]:
    """Return what each group costs, the dearest first."""
    costs = [
        Cost(group.values, group.nodes, float(each))
        for group, each in zip(board.groups, noise, strict=True)
    ]
    return tuple(sorted(costs, key=lambda cost: -cost.noise))


def _noises(board: Switchboard, runs: int, until: float) -> tuple[Array, int]:
    """Return the noise of each group, found by halving, and how many of the runs are left.

    The block with most of it comes first. What is not divided after so many runs, or has little of
    the noise, shares it evenly.
    """
    count = len(board.groups)
    noise = np.zeros(count)
    size = max(1, -(-count // BLOCKS))
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    open_blocks = [(-board.noise(block), block.start, block) for block in blocks]
    heapq.heapify(open_blocks)
    total, left = -sum(cost for cost, *_ in open_blocks), runs - len(blocks)
    while open_blocks:
        cost, _, block = heapq.heappop(open_blocks)
        late = left <= 0 or time.perf_counter() > until
        if len(block) == 1 or -cost < SMALL * total or late:
            noise[block] = -cost / len(block)
            continue
        left -= 2
        for half in (block[: len(block) // 2], block[len(block) // 2 :]):
            heapq.heappush(open_blocks, (-board.noise(half), half.start, half))
    return noise, max(left, 0)


def _alternatives(name: str, ranges: Ranges) -> list[Range]:
    """Return other ranges of a value: on the way to its extremes, those, and a narrower one."""
    now = ranges.values.get(name)
    if now is None:
        return []
    far = ranges.extremes.get(name, now)
    found = [
        Range(now.lo + share * (far.lo - now.lo), now.hi + share * (far.hi - now.hi))
        for share in (1.0, 0.5, 0.2)
        if far != now
    ]
    return [*found, Range(now.lo * 0.8, now.hi * 0.8), Range(now.lo * 0.6, now.hi * 0.6)]
