"""The file that an interrupted calibration goes on from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxcomp.calibration.intervals import Interval, covers, with_numbers
from onnxcomp.calibration.statistics import DIGESTS, Statistics, digest_of
from onnxcomp.calibration.statistics_file import from_bytes, to_bytes
from onnxcomp.graph import Array
from onnxcomp.model_io import write_bytes

# Seconds between two savings, so what a kill costs.
SAVE_EVERY = 10.0


@dataclass(eq=False)
class Partial:
    """Statistics so far and the samples in them, for each group of values.

    `key` says what is being counted: the model, and which values. Without `path` nothing is saved.
    """

    statistics: Statistics
    done: list[list[Interval]]
    key: str = ""
    path: Path | None = None
    _saved: float = field(default_factory=time.monotonic)

    def is_done(self, group: int, sample: int) -> bool:
        """Say whether a sample has been counted for a group of values."""
        return covers(self.done[group], sample)

    def note(self, group: int, samples: Iterable[int]) -> None:
        """Note that samples have been counted, and save from time to time."""
        self.done[group] = with_numbers(self.done[group], samples)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what there is, atomically."""
        if self.path is not None:
            write_bytes(self.path, to_bytes(self.statistics, key=self.key, done=self.done))
            self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file, when all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def open_partial(
    path: Path | None, key: str, groups: int, bins: int, samples: Iterable[dict[str, Array]]
) -> Partial:
    """Return what an earlier run has saved, if it was of the same model and samples, or nothing."""
    fresh = Partial(Statistics(bins), [[] for _ in range(groups)], key, path)
    if path is None or not path.exists():
        return fresh
    try:
        statistics, head = from_bytes(path.read_bytes())
        done = [[(int(a), int(b)) for a, b in group] for group in head["done"]]
    except (OSError, ValueError, KeyError, TypeError):
        return fresh
    if head.get("key") != key or len(done) != groups:
        return fresh
    if _digest_of_some(samples, done[0]) != statistics.digest:
        return fresh
    return Partial(statistics, done, key, path)


def _digest_of_some(samples: Iterable[dict[str, Array]], chosen: Sequence[Interval]) -> int:
    """Return the digest of the chosen samples, reading no further than the last of them."""
    found, last = 0, max((stop for _, stop in chosen), default=0)
    for index, feeds in zip(range(last), samples, strict=False):
        if covers(chosen, index):
            found += digest_of(feeds)
    return found % DIGESTS
