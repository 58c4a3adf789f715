"""Statistics as a file: what describes the histograms as JSON, and their counts in a row."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from onnxcomp.calibration.histogram import Counts, Histogram
from onnxcomp.calibration.statistics import Channels, Statistic, Statistics

FORMAT = "onnxcomp statistics 1"


def to_bytes(statistics: Statistics, **extra: object) -> bytes:
    """Return statistics as an .npz, with what else its head shall keep."""
    head = {
        "format": FORMAT,
        "bins": statistics.bins,
        "samples": statistics.samples,
        "digest": f"{statistics.digest:032x}",
        "values": {name: _described(item) for name, item in statistics.values.items()},
        **extra,
    }
    rows = [each.counts for item in statistics.values.values() for each in _histograms(item)]
    buffer = io.BytesIO()
    counts = np.concatenate([np.zeros(0, np.int64), *rows])
    np.savez(buffer, head=np.array(json.dumps(head)), counts=counts)
    return buffer.getvalue()


def from_bytes(data: bytes) -> tuple[Statistics, dict[str, Any]]:
    """Return statistics and the head; raise `ValueError` when the bytes are no such file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            head, counts = json.loads(str(file["head"])), file["counts"]
        if head["format"] != FORMAT:
            raise ValueError(f"its format is {head['format']}")
        found = Statistics(head["bins"], {}, head["samples"], int(head["digest"], 16))
        rows = _rows(head["values"], counts)
        for name, item in head["values"].items():
            about = item["histograms"]
            histograms = [_histogram(found.bins, each, next(rows)) for each in about]
            sums = Fraction(item["lows"]), Fraction(item["highs"])
            found.values[name] = Statistic(
                histograms[0], *sums, item["samples"], Channels(found.bins, histograms[1:])
            )
    except (zipfile.BadZipFile, KeyError, TypeError, StopIteration, EOFError, OSError) as error:
        raise ValueError(f"not a file of statistics: {error}") from error
    return found, head


def _histograms(statistic: Statistic) -> list[Histogram]:
    return [statistic.histogram, *statistic.channels.settle()]


def _described(statistic: Statistic) -> dict[str, object]:
    return {
        "lows": str(statistic.lows),
        "highs": str(statistic.highs),
        "samples": statistic.samples,
        "histograms": [
            [h.exponent, h.first, h.zeros, h.nan, h.infinite, h.lo, h.hi, len(h.counts)]
            for h in _histograms(statistic)
        ],
    }


def _rows(values: dict[str, Any], counts: Counts) -> Iterator[Counts]:
    start = 0
    for item in values.values():
        for *_, length in item["histograms"]:
            yield counts[start : start + length]
            start += length


def _histogram(bins: int, described: list[Any], counts: Counts) -> Histogram:
    exponent, first, zeros, nan, infinite, lo, hi, length = described
    if len(counts) != length:
        raise ValueError("it is cut off")
    return Histogram(bins, exponent, first, counts, zeros, nan, infinite, lo, hi)
