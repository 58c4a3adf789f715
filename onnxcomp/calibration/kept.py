"""Samples that take work to read are kept in memory, as far as they are small."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from onnxcomp.calibration.checks import FRESH, Raw
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array

Feeds = dict[str, Array]


@dataclass(eq=False)
class _Reader:
    """One reading of the samples, which has come to a place."""

    samples: Iterator[tuple[str, object]]
    place: int = 0

    def to(self, index: int) -> tuple[str, object] | None:
        """Read up to a sample, and return it; None where there are not so many."""
        for found in self.samples:
            self.place += 1
            if self.place > index:
                return found
        return None


@dataclass(eq=False)
class Kept:
    """Samples of a reader, by index; what is computed for each is computed once.

    `conform` makes feeds of what the reader gives, `room` is the bytes that may be kept.
    `exist` is how many samples are known to be there, `ended` whether those are all.
    """

    raw: Raw
    limit: int | None
    conform: Callable[[str, object], Feeds]
    room: int
    exist: int = 0
    ended: bool = False
    _feeds: dict[int, Feeds] = field(default_factory=dict)
    _bytes: int = 0

    def pick(self, wanted: Callable[[int], bool]) -> Iterator[Feeds]:
        """Yield the feeds of the samples whose index is wanted, reading as few as that takes."""
        reader: _Reader | None = None
        for index in itertools.count():
            mine = wanted(index)
            if index < self.exist and (not mine or index in self._feeds):
                if mine:
                    yield dict(self._feeds[index])
                continue
            if self.ended and index >= self.exist:
                return
            reader = reader or _Reader(itertools.islice(self.raw.read(), self.limit))
            found = reader.to(index)
            if found is None:
                self._end(reader.place)
                return
            self.exist = max(self.exist, reader.place)
            if mine:
                yield self._keep(index, self.conform(*found))

    def _keep(self, index: int, feeds: Feeds) -> Feeds:
        """Return feeds, as a copy where a reader may use its arrays again; keep it if it fits."""
        if not self.raw.costly:
            return feeds
        copies = {name: data.copy() for name, data in feeds.items()}
        size = sum(data.nbytes for data in copies.values())
        if index not in self._feeds and self._bytes + size <= self.room:
            for data in copies.values():
                data.flags.writeable = False
            self._feeds[index] = copies
            self._bytes += size
        return dict(copies)

    def _end(self, count: int) -> None:
        """Note how many samples there are; raise `SamplesError` where they were more before."""
        source = self.raw.source
        if count == 0:
            raise SamplesError(f"{source}: no samples" + ("" if self.raw.count else f" ({FRESH})"))
        if count < self.exist:
            raise SamplesError(f"{source}: {count} samples, where there were more before ({FRESH})")
        self.ended = True
