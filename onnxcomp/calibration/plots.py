"""Pictures of histograms with the thresholds that each method finds in them."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxcomp.calibration.find import EIGHT_BITS, range_of
from onnxcomp.calibration.histogram import Histogram
from onnxcomp.calibration.methods import METHODS
from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.statistics import Statistic, Statistics
from onnxcomp.calibration.thresholds import Consumer, sqnr_db
from onnxcomp.errors import UsageError
from onnxcomp.model_io import write_bytes, write_text

# Bars of a picture, each of some bins.
BARS = 200


def plot_statistics(
    statistics: Statistics,
    folder: Path,
    consumers: Mapping[str, tuple[Consumer, ...]],
    done: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Write a picture per value, and an index.html that shows them all; return how many.

    Raises `UsageError` when the plotting package is missing.
    """
    figures = _figures()
    folder.mkdir(parents=True, exist_ok=True)
    shown = [item for item in statistics.values.items() if len(item[1].histogram.counts)]
    rows = []
    for number, (name, statistic) in enumerate(shown):
        found = {m: range_of(statistic, m, EIGHT_BITS, consumers.get(name, ())) for m in METHODS}
        ranges = {method: each for method, each in found.items() if each is not None}
        file = f"{number:04d}-{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:80]}.png"
        write_bytes(folder / file, _picture(figures, name, statistic, ranges))
        rows.append(f'<figure><img src="{html.escape(file)}" alt="{html.escape(name)}"></figure>')
        done(number + 1, len(shown))
    write_text(folder / "index.html", _page(rows))
    return len(shown)


def _figures() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install 'onnxcomp[plot]'") from error

    def make() -> Any:
        figure = Figure(figsize=(8, 3.2), dpi=80)
        figure.subplots_adjust(left=0.07, right=0.58, bottom=0.1, top=0.9)
        FigureCanvasAgg(figure)
        return figure

    return make


def _picture(
    make: Callable[[], Any], name: str, statistic: Statistic, ranges: Mapping[str, Range]
) -> bytes:
    figure, histogram = make(), statistic.histogram
    axes = figure.add_subplot()
    edges, heights = _bars(histogram)
    axes.stairs(heights, edges, fill=True, color="0.75")
    axes.set_yscale("symlog", linthresh=1)
    for number, (method, found) in enumerate(ranges.items()):
        quality = sqnr_db(histogram, found)
        label = f"{method}  [{found.lo:.3g}, {found.hi:.3g}]  {quality:.1f} dB"
        for end in {found.lo, found.hi}:
            axes.axvline(end, color=f"C{number}", linewidth=1.2, label=label)
            label = "_nolegend_"
    left_out = histogram.nan + histogram.infinite
    counts = f"{histogram.total} numbers, {histogram.zeros} zeros, {left_out} not finite"
    axes.set_title(f"{name}   {counts}", fontsize=9)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _bars(histogram: Histogram) -> tuple[Any, Any]:
    """Return edges and heights of at most `BARS` bars, each some whole bins."""
    group = -(-len(histogram.counts) // BARS)
    starts = np.arange(0, len(histogram.counts), group)
    edges = np.append(histogram.edges[starts], histogram.edges[-1])
    return edges, np.add.reduceat(histogram.counts, starts)


def _page(rows: list[str]) -> str:
    style = "body{font-family:sans-serif} figure{display:inline-block;margin:4px}"
    head = f'<!doctype html><meta charset="utf-8"><title>Ranges</title><style>{style}</style>'
    return "\n".join([head, *rows]) + "\n"
