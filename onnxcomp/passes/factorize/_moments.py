"""Mean and covariance of what layers make and read, streamed over samples in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import Dims, each_sample, node_macs
from onnxcomp.graph import Array
from onnxcomp.runtime import Feeds, Session

# Multiplications that running the samples may take, and how many samples there are at most.
RUN_WORK = 5e10
MOST, LEAST = 1024, 16
# Numbers that all samples hold.
INPUTS = 20_000_000
# Rows of each sample that count; more of one image say little that is new.
POSITIONS = 4096
# Every such sample (or row, where there are few samples) is held out.
HELD_OUT = 4
# Numbers of covariances that are held at a time; each further group runs the samples again.
NUMBERS = 40_000_000
SEED = 0


@dataclass
class Moments:
    """Count, mean [n] and scatter sum (y - mean)(y - mean)^T [n, n] of the rows so far."""

    count: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(0))
    scatter: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, rows: Array) -> None:
        """Add rows [count, n]."""
        if len(rows):
            exact = rows.astype(np.float64)
            mean = exact.mean(axis=0)
            exact -= mean
            self.merge(Moments(len(rows), mean, exact.T @ exact))

    def merge(self, other: Moments) -> None:
        """Add the rows that another has seen. Source: Chan et al., 1979 (STAN-CS-79-773)."""
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.scatter = other.count, other.mean, other.scatter.copy()
            return
        total = self.count + other.count
        apart = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(apart, apart) * (self.count * other.count / total)
        self.mean = self.mean + apart * (other.count / total)
        self.count = total

    def about(self, mean: Array) -> Array:
        """Return sum (y - mean)(y - mean)^T for another mean."""
        apart = self.mean - mean
        found: Array = self.scatter + self.count * np.outer(apart, apart)
        return found


@dataclass
class Split:
    """Moments of the rows to fit to, and of those held out."""

    fit: Moments = field(default_factory=Moments)
    held: Moments = field(default_factory=Moments)

    def whole(self) -> Moments:
        """Return the moments of all rows."""
        both = Moments()
        both.merge(self.fit)
        both.merge(self.held)
        return both


@dataclass(frozen=True)
class Wanted:
    """A value whose rows are looked at: its name, the axis of its channels, and their number."""

    name: str
    axis: int
    channels: int


def observe(
    model: ir.Model, wanted: Sequence[Wanted], feeds: Sequence[Feeds]
) -> dict[Wanted, Split]:
    """Return the moments of values; those that are nowhere finite have none.

    Every fourth sample is held out; of fewer than four, every fourth row.
    """
    found = {each: Split() for each in wanted}
    for group in _groups(list(found)):
        session = Session(model, taps=[each.name for each in group], optimize=True)
        for index, sample in enumerate(feeds):
            values = {**sample, **session.run(sample)}
            for each in group:
                rows = _rows(values[each.name], each, index)
                _share(found[each], rows, index, len(feeds))
    return found


def _groups(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    group: list[Wanted] = []
    for each in wanted:
        if group and sum(other.channels**2 for other in [*group, each]) * 2 > NUMBERS:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _rows(data: Array, wanted: Wanted, index: int) -> Array:
    """Return [positions, channels] of a value, those that are finite."""
    rows = np.moveaxis(data, wanted.axis, -1).reshape(-1, data.shape[wanted.axis])
    if len(rows) > POSITIONS:
        rng = np.random.default_rng((SEED, index))
        rows = rows[np.sort(rng.choice(len(rows), POSITIONS, replace=False))]
    return rows[np.isfinite(rows).all(axis=1)]


def _share(split: Split, rows: Array, index: int, samples: int) -> None:
    if samples >= HELD_OUT:
        part = split.held if index % HELD_OUT == HELD_OUT - 1 else split.fit
        part.add(rows)
        return
    held = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
    split.fit.add(rows[~held])
    split.held.add(rows[held])


def choose_feeds(
    model: ir.Model, samples: Iterable[Feeds] | Samples, shapes: dict[ir.Value, Dims]
) -> list[Feeds]:
    """Return single samples, as many as can be held, and run in a few seconds."""
    macs = sum(node_macs(node, shapes) or 0 for node in model.graph)
    single = (each for batch in samples for each in each_sample(model, batch))
    first = next(single, None)
    if first is None:
        return []
    numbers = sum(np.size(data) for data in first.values())
    affordable = min(RUN_WORK / max(macs, 1), INPUTS / max(numbers, 1))
    limit = max(LEAST, min(MOST, int(affordable)))
    return [first, *itertools.islice(single, limit - 1)]
