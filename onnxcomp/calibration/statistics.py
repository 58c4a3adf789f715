"""What calibration keeps of the values of a model: exact, of constant size, and mergeable."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from onnxcomp.calibration.histogram import BINS, Histogram
from onnxcomp.graph import Array

# Digests of samples are added up modulo this, so that their order does not matter.
DIGESTS = 1 << 128


@dataclass(eq=False)
class Statistic:
    """One value: its histogram, and the sums of the least and greatest number of each sample.

    The sums are exact, so they too are the same in any order. `channels` are the histograms along
    axis 1, where they were asked for.
    """

    histogram: Histogram
    lows: Fraction = Fraction(0)
    highs: Fraction = Fraction(0)
    samples: int = 0
    channels: list[Histogram] = field(default_factory=list)

    def observe(self, data: Array, *, per_channel: bool = False) -> None:
        """Take in what a value holds in one run."""
        extremes = self.histogram.add(data)
        if extremes is not None:
            self.lows += Fraction(extremes[0])
            self.highs += Fraction(extremes[1])
            self.samples += 1
        if per_channel and data.ndim > 1:
            for index, part in enumerate(np.moveaxis(data, 1, 0)):
                self._channel(index).add(np.ascontiguousarray(part))

    def merge(self, other: Statistic) -> None:
        """Take in what another run of the same value has seen."""
        self.histogram.merge(other.histogram)
        self.lows += other.lows
        self.highs += other.highs
        self.samples += other.samples
        for index, histogram in enumerate(other.channels):
            self._channel(index).merge(histogram)

    def _channel(self, index: int) -> Histogram:
        while len(self.channels) <= index:
            self.channels.append(Histogram(self.histogram.bins))
        return self.channels[index]


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
            self.values[name] = Statistic(Histogram(self.bins))
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
