"""From statistics to ranges: the range of each value by one method."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.calibration.collect import Effort, collect_statistics
from onnxcomp.calibration.consumers import Function, consumers_of
from onnxcomp.calibration.identity import digest_of_model
from onnxcomp.calibration.methods import AVERAGE
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.calibration.statistics import Statistic, Statistics
from onnxcomp.calibration.taps import values_of
from onnxcomp.calibration.thresholds import Levels, find_range
from onnxcomp.shapes import infer_shapes
from onnxcomp.stages import Progress

# The grid of activations: unsigned, with a zero point.
EIGHT_BITS = Levels()


def collect_ranges(
    model: ir.Model,
    samples: Samples,
    effort: Effort = Effort(),  # noqa: B008  (frozen)
    *,
    method: str = "minmax",
    per_channel: Sequence[str] = (),
    progress: Progress | None = None,
) -> Ranges:
    """Return the ranges of a model's float values over all samples (see `collect_statistics`)."""
    statistics = collect_statistics(
        model, samples, effort, per_channel=per_channel, progress=progress
    )
    return find_ranges(model, statistics, method, samples.source)


def find_ranges(
    model: ir.Model,
    statistics: Statistics,
    method: str,
    source: str,
    levels: Levels = EIGHT_BITS,
) -> Ranges:
    """Return the ranges of a model's float values by a method, in the order of the model.

    What has a range by definition gets that one, and what only reshapes another value the other's.
    """
    typed = model.clone()
    infer_shapes(typed)
    values = values_of(typed)
    consumers = consumers_of(typed) if method == "auto" else {}
    ranges: dict[str, Range] = {}
    seen: dict[str, Statistic] = {}
    for name in values.names:
        origin = name if name in statistics.values else values.same.get(name, name)
        statistic = statistics.values.get(origin)
        found = values.known.get(origin)
        if statistic is not None:
            seen[name] = statistic
            found = found or range_of(statistic, method, levels, consumers.get(origin, ()))
        if found is not None:
            ranges[name] = found
    return Ranges(
        ranges,
        method,
        statistics.samples,
        source,
        {name: n for name, each in seen.items() if (n := each.histogram.infinite)},
        {name: n for name, each in seen.items() if (n := each.histogram.nan)},
        {name: _by_channel(each) for name, each in seen.items() if _by_channel(each)},
        extremes={n: _extremes(each) for n, each in seen.items() if _clips(ranges.get(n), each)},
        model=digest_of_model(model),
        data=f"{statistics.digest:032x}",
    )


def range_of(
    statistic: Statistic,
    method: str,
    levels: Levels = EIGHT_BITS,
    consumers: Sequence[Function] = (),
) -> Range | None:
    """Return the range of a value by a method; None when nothing finite was seen."""
    histogram = statistic.histogram
    if not len(histogram.counts):
        return None
    if method == AVERAGE:
        low, high = statistic.lows / statistic.samples, statistic.highs / statistic.samples
        return Range(float(low), float(high))
    return find_range(histogram, method, levels, consumers=consumers)


def _extremes(statistic: Statistic) -> Range:
    return Range(statistic.histogram.lo, statistic.histogram.hi)


def _clips(found: Range | None, statistic: Statistic) -> bool:
    """Say whether a range leaves out numbers that were seen."""
    return found is not None and found != _extremes(statistic)


def _by_channel(statistic: Statistic) -> tuple[Range, ...]:
    """Return the extremes by channel; nothing unless each has some."""
    histograms = statistic.channels.settle()
    if not all(len(each.counts) for each in histograms):
        return ()
    return tuple(Range(each.lo, each.hi) for each in histograms)
