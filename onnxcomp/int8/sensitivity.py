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
from onnxcomp.graph import Array
from onnxcomp.int8.switchboard import Switchboard, make_switchboard
from onnxcomp.passes.quantize._numbers import grid_of

# About how long a sweep takes, and the share of it for ranking.
SECONDS = 3.5
RANKING = 0.6
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
    seconds: float = SECONDS,
) -> Sweep:
    """Measure what each quantized activation costs the outputs, and look for better ranges.

    `quantized` was made from `exact`: values have the same names in both. Groups of values are
    quantized alone, on a few samples; no activations are kept. Where one costs much, other ranges
    between the calibrated one and the extremes are tried. It takes about so many seconds: what
    costs most is looked at first.
    """
    started = time.perf_counter()
    board = make_switchboard(exact, quantized, samples)
    noise = _noises(board, started + RANKING * seconds)
    refined, better = noise.copy(), dict[str, Range]()
    for index in np.argsort(-noise)[:REFINED]:
        if noise[index] < SMALL * noise.sum() or time.perf_counter() > started + seconds:
            break
        name = board.groups[index].values[0]
        for candidate in _alternatives(name, ranges):
            found = board.noise([index], {index: grid_of(candidate)})
            if found < GAIN * refined[index]:
                refined[index] = found
                better[name] = candidate
    return Sweep(_costs(board, noise), _costs(board, refined), better)


def _costs(board: Switchboard, noise: Array) -> tuple[Cost, ...]:
    """Return what each group costs, the dearest first."""
    costs = [
        Cost(group.values, group.nodes, float(each))
        for group, each in zip(board.groups, noise, strict=True)
    ]
    return tuple(sorted(costs, key=lambda cost: -cost.noise))


def _noises(board: Switchboard, until: float) -> Array:
    """Return the noise of each group, found by halving: the block with most of it comes first.

    What is not divided when the time is up, or has little of the noise, shares it evenly.
    """
    count = len(board.groups)
    noise = np.zeros(count)
    size = max(1, -(-count // BLOCKS))
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    open_blocks = [(-board.noise(block), block.start, block) for block in blocks]
    heapq.heapify(open_blocks)
    total = -sum(cost for cost, *_ in open_blocks)
    while open_blocks:
        cost, _, block = heapq.heappop(open_blocks)
        if len(block) == 1 or -cost < SMALL * total or time.perf_counter() > until:
            noise[block] = -cost / len(block)
            continue
        for half in (block[: len(block) // 2], block[len(block) // 2 :]):
            heapq.heappush(open_blocks, (-board.noise(half), half.start, half))
    return noise


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
