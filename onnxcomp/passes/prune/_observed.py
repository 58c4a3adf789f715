"""What the layers behind a group read over a few samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.channels.groups import Group, Part, Port
from onnxcomp.cost import concrete_shapes, each_sample, node_macs
from onnxcomp.graph import Array, array, is_op, tensor
from onnxcomp.linear.layers import Layer, find_layers, has_known_pads
from onnxcomp.linear.taps import tap
from onnxcomp.passes.prune._obs import Problem

SEED = 0
# Samples that are run, as far as a model's multiplications and numbers allow.
MOST, LEAST = 512, 8
RUN_WORK, NUMBERS = 4e10, 20_000_000
# Rows that are looked at for a matrix: for each of its columns, and at least.
ROWS_PER_COLUMN, ROWS = 4, 2048
# Larger matrices than this are not worth the time: channels are compared without their taps.
COLUMNS = 2304
# Bytes of matrices that are held at a time.
MEMORY = 300_000_000


@dataclass(frozen=True, eq=False)
class Observed:
    """What was seen of a group.

    `means` [channels, width] of each value that is read. Where that was asked for: `rows`
    [positions, channels, width] of it, and `problems`, the layers that read it; `unseen` are the
    readers that are no such layers.
    """

    means: Mapping[ir.Value, Array]
    rows: tuple[Array, ...] = ()
    problems: tuple[Problem, ...] = ()
    unseen: tuple[Port, ...] = ()


@dataclass
class _Sums:
    """Sums over rows x [groups, positions, columns] of a layer's inputs.

    Rows wait until there are as many as columns: a product of a few costs as much as one of all.
    """

    count: int = 0
    first: Array | None = None
    second: Array | None = None
    waiting: list[Array] = field(default_factory=list)

    def add(self, rows: Array) -> None:
        if not rows.size or not np.isfinite(rows).all():
            return
        self.waiting.append(rows)
        if sum(each.shape[1] for each in self.waiting) >= rows.shape[2]:
            self._flush()

    def covariance(self) -> Array | None:
        """Return the covariance of each group, [groups, columns, columns]; None of nothing."""
        self._flush()
        if self.first is None or self.second is None:
            return None
        mean = self.first / self.count
        found = self.second / self.count - mean[:, :, None] * mean[:, None, :]
        return np.stack([shrunk(each, self.count) for each in found])

    def _flush(self) -> None:
        if not self.waiting:
            return
        rows = np.concatenate(self.waiting, axis=1)
        first = rows.sum(axis=1, dtype=np.float64)
        second = (rows.transpose(0, 2, 1) @ rows).astype(np.float64)
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second
        self.count += rows.shape[1]
        self.waiting.clear()


@dataclass
class _Source:
    """A value that is read: where a group lies in it, and what was seen so far."""

    part: Part
    count: int = 0
    total: Array | None = None
    rows: list[Array] = field(default_factory=list)

    def add(self, data: Array) -> Array:
        """Add an array of the value to the mean, and return it as [positions, places]."""
        flat = np.moveaxis(data, self.part.axis, -1).reshape(-1, data.shape[self.part.axis])
        total = flat.sum(axis=0, dtype=np.float64)
        if np.isfinite(total).all():
            self.total = total if self.total is None else self.total + total
            self.count += len(flat)
        return np.asarray(flat)

    @property
    def mean(self) -> Array | None:
        return (
            None
            if self.total is None or not self.count
            else self.total[self.part.places] / self.count
        )


def shrunk(covariance: Array, count: int) -> Array:
    """Return a covariance of `count` rows drawn towards a multiple of the identity.

    Of fewer rows than columns any few channels seem to say all that the others do. The share is
    that of the oracle approximating estimator. Source: Chen et al., 2010 (arXiv 0907.4698).
    """
    size = len(covariance)
    trace, squares = float(np.trace(covariance)), float(np.square(covariance).sum())
    spread = (count + 1 - 2 / size) * (squares - trace**2 / size)
    share = 1.0 if spread <= 0 else min(1.0, ((1 - 2 / size) * squares + trace**2) / spread)
    found = (1 - share) * covariance
    found[np.diag_indices_from(found)] += share * trace / size
    return np.asarray(found)


def observe(
    model: ir.Model, groups: Sequence[Group], samples: Samples, *, problems: bool, rows: bool
) -> Iterator[tuple[int, Observed]]:
    """Yield (index of a group, what was seen of it), a few groups in memory at a time."""
    layers = {layer.node: layer for layer in find_layers(model.graph)}
    watch = _Watch(model, layers, *_single(model, samples), problems, rows)
    chunk: list[int] = []
    size = 0
    for index, group in enumerate(groups):
        own = sum(8 * _squares(layers.get(port.node)) for port in group.readers) if problems else 0
        if chunk and size + own > MEMORY:
            yield from watch.look_at(groups, chunk)
            chunk, size = [], 0
        chunk.append(index)
        size += own
    yield from watch.look_at(groups, chunk)


def _single(model: ir.Model, samples: Samples) -> tuple[Samples, int]:
    """Return samples one by one, of batches too, and how many of them to run."""

    def pick(mine: Callable[[int], bool]) -> Iterator[dict[str, Array]]:
        singles = (dict(each) for feeds in samples for each in each_sample(model, feeds))
        return (each for index, each in enumerate(singles) if mine(index))

    single = replace(samples, pick=pick, count=None, labels=None)
    first = next(iter(single))
    shapes = concrete_shapes(model, first)
    macs = sum(node_macs(node, shapes) or 0 for node in model.graph)
    numbers = sum(np.size(data) for data in first.values())
    affordable = int(min(RUN_WORK / max(macs, 1), NUMBERS / max(numbers, 1)))
    most = max(LEAST, min(MOST, affordable))
    return single, sum(1 for _ in itertools.islice(single, most))


def _squares(layer: Layer | None) -> int:
    return layer.groups * layer.columns**2 if layer is not None and _is_small(layer) else 0


def _is_small(layer: Layer) -> bool:
    return layer.columns <= COLUMNS and has_known_pads(layer.node)


@dataclass(frozen=True, eq=False)
class _Watch:
    """Runs a model over samples and looks at what the readers of groups read."""

    model: ir.Model
    layers: Mapping[ir.Node, Layer]
    samples: Samples
    limit: int
    problems: bool
    rows: bool

    def look_at(
        self, groups: Sequence[Group], chunk: Sequence[int]
    ) -> Iterator[tuple[int, Observed]]:
        sources = {index: _sources(groups[index]) for index in chunk}
        ports = [port for index in chunk for port in groups[index].readers]
        sums = {port: _Sums() for port in ports if self.problems and port.node in self.layers}
        names = [value.name or "" for found in sources.values() for value in found]
        for at, name, data in tap(self.model, names, self.samples, self.limit):
            for index in chunk:
                for value, source in sources[index].items():
                    if value.name == name and data.size:
                        rng = np.random.default_rng((SEED, at))
                        readers = [port for port in groups[index].readers if port in sums]
                        self._see(source, value, data, {p: sums[p] for p in readers}, rng)
        for index in chunk:
            yield index, self._observed(groups[index], sources[index], sums)

    def _see(
        self,
        source: _Source,
        value: ir.Value,
        data: Array,
        sums: Mapping[Port, _Sums],
        rng: np.random.Generator,
    ) -> None:
        flat = source.add(data)
        picked = rng.permutation(len(flat))[: self._positions(len(source.part.places))]
        rows = flat[np.sort(picked)][:, source.part.places]  # [positions, channels, width]
        if self.rows:
            source.rows.append(rows)
        for port, seen in sums.items():
            layer = self.layers[port.node]
            if layer.source is not value:
                continue
            if _is_small(layer):
                seen.add(layer.inputs_at(data, self._positions(layer.columns), rng))
            else:
                seen.add(rows.transpose(2, 0, 1).reshape(1, -1, rows.shape[1]))

    def _positions(self, columns: int) -> int:
        """Return at how many positions of each sample a matrix of so many columns is seen."""
        return -(-max(ROWS, ROWS_PER_COLUMN * columns) // self.limit)

    def _observed(
        self, group: Group, sources: Mapping[ir.Value, _Source], sums: Mapping[Port, _Sums]
    ) -> Observed:
        means = {value: mean for value, each in sources.items() if (mean := each.mean) is not None}
        found: list[Problem] = []
        unseen: list[Port] = []
        for port in group.readers if self.problems else ():
            covariance = sums[port].covariance() if port in sums else None
            if covariance is None:
                unseen.append(port)
            elif _is_small(self.layers[port.node]):
                found += _exact(self.layers[port.node], port.part, covariance)
            else:
                found.append(_by_channel(port.part, covariance[0]))
        rows = tuple(np.concatenate(each.rows) for each in sources.values() if each.rows)
        return Observed(means, rows, tuple(found), tuple(unseen))


def _sources(group: Group) -> dict[ir.Value, _Source]:
    """Return the values that the readers of a group read, where the group is on one axis."""
    parts = {part.value: part for part in group.parts}
    read = (value for port in group.readers for value in port.node.inputs[:2])
    made = (value for value in read if value is not None and tensor(value) is None)
    return {value: _Source(parts[value]) for value in made if value in parts}


def _exact(layer: Layer, part: Part, covariance: Array) -> Iterator[Problem]:
    """Yield the problem of each group of a layer, whose channels go together in all of them."""
    taps = layer.columns // _inputs(layer, part)
    columns = (part.places[:, :, None] * taps + np.arange(taps)).reshape(len(part.places), -1)
    weight = layer.matrices.astype(np.float64)
    signal = sum(_power(w, c) for w, c in zip(weight, covariance, strict=True))
    for own, seen in zip(weight, covariance, strict=True):
        yield Problem(own, seen, columns, signal)


def _inputs(layer: Layer, part: Part) -> int:
    data = array(part.value)
    assert data is not None
    return int(data.shape[part.axis]) if is_op(layer.node, "Conv") else layer.columns


def _by_channel(part: Part, covariance: Array) -> Problem:
    """Return the problem of a large layer with its taps taken for independent."""
    data = array(part.value)
    assert data is not None
    moved = np.moveaxis(data, part.axis, 0)[part.places].astype(np.float64)
    weight = moved.reshape(len(part.places), -1).T  # [rows x taps x width, channels]
    columns = np.arange(len(part.places))[:, None]
    return Problem(weight, covariance, columns, _power(weight, covariance))


def _power(weight: Array, covariance: Array) -> float:
    return float(((weight @ covariance) * weight).sum())
