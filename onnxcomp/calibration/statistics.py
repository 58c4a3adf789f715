"""What calibration keeps of the values of a model: exact, of constant size, and mergeable."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from onnxcomp.calibration.histogram import BINS, Histogram
from onnxcomp.graph import Array

# Elements of a value that are held until they are counted by channel.
HELD = 1 << 18
# Digests of samples are added up modulo this, so that their order does not matter.
DIGESTS = 1 << 128


@dataclass(eq=False)
class Channels:
    """The histograms of a value along axis 1; small arrays are held until some can be counted."""

    bins: int = BINS
    histograms: list[Histogram] = field(default_factory=list)
    _held: list[Array] = field(default_factory=list)

    def add(self, data: Array) -> None:
        """Count an array of two or more dims by its second one."""
        self._hold(np.moveaxis(data, 1, 0).reshape(data.shape[1], -1).copy())

    def merge(self, other: Channels) -> None:
        """Take in other channels' counts."""
        for index, histogram in enumerate(other.histograms):
            self._at(index).merge(histogram)
        for rows in other._held:
            self._hold(rows)

    def settle(self) -> list[Histogram]:
        """Count what is held, and return the histograms."""
        if self._held:
            for index, row in enumerate(np.concatenate(self._held, axis=1)):
                self._at(index).add(row)
            self._held.clear()
        return self.histograms

    def _hold(self, rows: Array) -> None:
        if self._held and len(self._held[0]) != len(rows):
            self.settle()
        self._held.append(rows)
        if sum(each.size for each in self._held) >= HELD:
            self.settle()

    def _at(self, index: int) -> Histogram:
        while len(self.histograms) <= index:
            self.histograms.append(Histogram(self.bins))
        return self.histograms[index]


@dataclass(eq=False)
class Statistic:
    """One value: its histogram, and the sums of the least and greatest number of each sample.

    The sums are exact, so they too are the same in any order.
    """

    histogram: Histogram
    lows: Fraction = Fraction(0)
    highs: Fraction = Fraction(0)
    samples: int = 0
    channels: Channels = field(default_factory=Channels)

    def observe(self, data: Array, *, per_channel: bool = False) -> None:
        """Take in what a value holds in one run."""
        extremes = self.histogram.add(data)
        if extremes is not None:
            self.lows += Fraction(extremes[0])
            self.highs += Fraction(extremes[1])
            self.samples += 1
        if per_channel and data.ndim > 1:
            self.channels.add(data)

    def merge(self, other: Statistic) -> None:
        """Take in what another run of the same value has seen."""
        self.histogram.merge(other.histogram)
        self.lows += other.lows
        self.highs += other.highs
        self.samples += other.samples
        self.channels.merge(other.channels)


@dataclass(eq=False)
class Statistics:
    """All values by name, how many samples they were taken from, and the digest of these."""

    bins: int = BINS
    values: dict[str, Statistic] = field(default_factory=dict)
    samples: int = 0
    digest: int = 0

    def observe(
        self, arrays: Mapping[str, object], per_channel: Collection[str] = frozenset()
    ) -> None:
        """Take in the values of one run; lists (sequences) and integers are passed over."""
        for name, data in arrays.items():
            if isinstance(data, np.ndarray) and data.dtype.kind == "f":
                self._value(name).observe(data, per_channel=name in per_channel)

    def count_sample(self, feeds: Mapping[str, Array]) -> None:
        """Count a sample, and add its digest."""
        self.samples += 1
        self.digest = (self.digest + digest_of(feeds)) % DIGESTS

    def merge(self, other: Statistics) -> None:
        """Take in the statistics of other samples, or of other values."""
        self.samples += other.samples
        self.digest = (self.digest + other.digest) % DIGESTS
        for name, statistic in other.values.items():
            self._value(name).merge(statistic)

    def _value(self, name: str) -> Statistic:
        if name not in self.values:
            self.values[name] = Statistic(Histogram(self.bins), channels=Channels(self.bins))
        return self.values[name]


def digest_of(feeds: Mapping[str, Array]) -> int:
    """Return a digest of a sample: of its names, types, shapes and bytes."""
    found = hashlib.blake2b(digest_size=16)
    for name, data in sorted(feeds.items()):
        found.update(f"{name}\0{data.dtype.str}{data.shape}\0".encode())
        found.update(_bytes(data))
    return int.from_bytes(found.digest(), "little")


def _bytes(data: Array) -> bytes | memoryview:
    if data.dtype.kind == "O":
        return "\0".join(map(str, data.reshape(-1))).encode()
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
