"""What each quantized value costs the outputs, measured in a model where each can be switched."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import one_sample
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, label, opset_version
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._numbers import Grid, grid_of
from onnxcomp.runtime import Session

# About how long a sweep takes, and the share of it for ranking; samples that each run takes.
SECONDS = 8.0
RANKING = 0.6
SAMPLES = 2
# The blocks of values that halving starts from.
BLOCKS = 8
# What has less than this share of all the noise is not looked at closer.
SMALL = 0.02
# The dearest values, for which other ranges are tried; one has to lower the noise to this share.
REFINED = 12
GAIN = 0.8
SWITCHES, SCALES, ZEROS = "onnxcomp.switches", "onnxcomp.scales", "onnxcomp.zeros"
OPSET = 13


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
class _Group:
    """Values that lie on one grid since only movement is between them."""

    values: tuple[str, ...]
    nodes: tuple[str, ...]
    scale: Array
    zero_point: Array


@dataclass(frozen=True)
class Sweep:
    """What each quantized activation costs, the dearest first, and ranges that cost less."""

    costs: tuple[Cost, ...]
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
    board = _switchboard(exact, quantized, samples)
    noise = _noises(board, started + RANKING * seconds)
    better: dict[str, Range] = {}
    for index in np.argsort(-noise)[:REFINED]:
        if noise[index] < SMALL * noise.sum() or time.perf_counter() > started + seconds:
            break
        name = board.groups[index].values[0]
        for candidate in _alternatives(name, ranges):
            found = board.noise([index], {index: grid_of(candidate)})
            if found < GAIN * noise[index]:
                noise[index] = found
                better[name] = candidate
    costs = [
        Cost(group.values, group.nodes, float(each))
        for group, each in zip(board.groups, noise, strict=True)
    ]
    return Sweep(tuple(sorted(costs, key=lambda cost: -cost.noise)), better)


def _noises(board: _Switchboard, until: float) -> Array:
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


@dataclass(frozen=True)
class _Switchboard:
    """A model in which each group of values can be quantized or not, and its exact answers."""

    session: Session
    groups: tuple[_Group, ...]
    feeds: tuple[Mapping[str, Array], ...]
    answers: tuple[Mapping[str, Array], ...]

    def noise(self, on: Iterable[int], grids: Mapping[int, Grid] | None = None) -> float:
        """Return the noise over signal of the worst output with these groups quantized."""
        switches = np.zeros(len(self.groups), dtype=bool)
        switches[list(on)] = True
        scales = np.array([group.scale for group in self.groups], dtype=np.float32)
        zeros = np.array([group.zero_point for group in self.groups], dtype=np.uint8)
        for index, grid in (grids or {}).items():
            scales[index], zeros[index] = grid.scale, grid.zero_point
        extra = {SWITCHES: switches, SCALES: scales, ZEROS: zeros}
        sums: dict[str, list[float]] = {}
        for feeds, wanted in zip(self.feeds, self.answers, strict=True):
            found = self.session.run({**feeds, **extra})
            for name, data in wanted.items():
                _add(sums.setdefault(name, [0.0, 0.0]), data, found[name])
        return max((noise / signal for signal, noise in sums.values() if signal > 0), default=0.0)


def _switchboard(exact: ir.Model, quantized: ir.Model, samples: Samples) -> _Switchboard:
    model = exact.clone()
    if opset_version(model) < OPSET:
        raise_opset(model, OPSET)
    groups = tuple(group for group in _groups(quantized) if _switchable(model, group))
    _add_switches(model, groups)
    session, plain = (Session(each, optimize=True, threads=0) for each in (model, exact))
    feeds = tuple(one_sample(exact, each) for each in itertools.islice(samples, SAMPLES))
    return _Switchboard(session, groups, feeds, tuple(plain.run(each) for each in feeds))


def _add(sums: list[float], wanted: object, found: object) -> None:
    if not isinstance(wanted, np.ndarray) or not isinstance(found, np.ndarray):
        return
    if wanted.dtype.kind != "f" or wanted.shape != found.shape:
        return
    noise = float(np.square(wanted - found, dtype=np.float64).sum())
    if np.isfinite(noise):
        sums[0] += float(np.square(wanted, dtype=np.float64).sum())
        sums[1] += noise


# ---------------------------------------------------------------- what is quantized
def _groups(quantized: ir.Model) -> list[_Group]:
    """Return the activations of a quantized model; what only moves between two is one group."""
    found: dict[str, _Group] = {}
    for node in quantized.graph:
        if not is_op(node, "QuantizeLinear") or node.inputs[0] is None:
            continue
        group = _group(node, found)
        if group is not None:
            found.update(dict.fromkeys(group.values, group))
    return list({group.values: group for group in found.values()}.values())


def _group(quantize: ir.Node, found: Mapping[str, _Group]) -> _Group | None:
    source, scale, zero_point = quantize.inputs
    grid = array(scale), array(zero_point)
    if source is None or not source.name or grid[0] is None or grid[1] is None:
        return None
    values, nodes = [source.name], _neighbours(quantize)
    maker = source.producer()
    if maker is not None:
        for value in maker.inputs:
            before = _read_through(value)
            if before is None or before.inputs[1] is not scale or before.inputs[0] is None:
                continue
            joined = found.get(before.inputs[0].name or "")
            if joined is not None:
                values = [*joined.values, *values]
                nodes = dict.fromkeys([*joined.nodes, *nodes])
    return _Group(tuple(values), tuple(nodes), grid[0], grid[1])


def _neighbours(quantize: ir.Node) -> dict[str, None]:
    """Return the int8 nodes that make or read a quantized value."""
    source = quantize.inputs[0]
    maker = source.producer() if source is not None else None
    nodes = [maker] if maker is not None and any(map(_read_through, maker.inputs)) else []
    for dequantize in quantize.outputs[0].consumers():
        for output in dequantize.outputs:
            nodes += output.consumers()
    return {label(node): None for node in nodes}


def _read_through(value: ir.Value | None) -> ir.Node | None:
    """Return the QuantizeLinear behind the DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear") or node.inputs[0] is None:
        return None
    quantize = node.inputs[0].producer()
    return quantize if is_op(quantize, "QuantizeLinear") else None


# ---------------------------------------------------------------- switches
def _switchable(model: ir.Model, group: _Group) -> bool:
    return _value(model, group.values[0]) is not None


def _value(model: ir.Model, name: str) -> ir.Value | None:
    values = itertools.chain(model.graph.inputs, (o for node in model.graph for o in node.outputs))
    return next((value for value in values if value.name == name), None)


def _add_switches(model: ir.Model, groups: Sequence[_Group]) -> None:
    """Give a model an input that says, for each group, whether it is quantized."""
    graph = model.graph
    kinds = {SWITCHES: ir.DataType.BOOL, SCALES: ir.DataType.FLOAT, ZEROS: ir.DataType.UINT8}
    given = [
        ir.Value(name=name, shape=ir.Shape([len(groups)]), type=ir.TensorType(kind))
        for name, kind in kinds.items()
    ]
    graph.inputs.extend(given)
    for index, group in enumerate(groups):
        value = _value(model, group.values[0])
        assert value is not None
        stem = f"{SWITCHES}.{index}"
        place = add_constant(graph, np.array(index), f"{stem}.place")
        uses = list(value.uses())
        picks = [ir.Node("", "Gather", [vector, place]) for vector in given]
        switch, scale, zero = (pick.outputs[0] for pick in picks)
        quantize = ir.Node("", "QuantizeLinear", [value, scale, zero])
        dequantize = ir.Node("", "DequantizeLinear", [quantize.outputs[0], scale, zero])
        select = ir.Node("", "Where", [switch, dequantize.outputs[0], value])
        _insert_behind(graph, value, [*picks, quantize, dequantize, select], stem)
        for use in uses:
            use.node.replace_input_with(use.idx, select.outputs[0])


def _insert_behind(graph: ir.Graph, value: ir.Value, nodes: Iterable[ir.Node], stem: str) -> None:
    added = list(nodes)
    for number, node in enumerate(added):
        node.outputs[0].name = f"{stem}.{number}"
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], added)
    else:
        graph.insert_after(producer, added)
