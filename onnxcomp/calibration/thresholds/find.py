"""From a histogram to a range, by the name of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxcomp.calibration.histogram import Histogram
from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.auto import auto
from onnxcomp.calibration.thresholds.entropy import entropy
from onnxcomp.calibration.thresholds.kl import kl
from onnxcomp.calibration.thresholds.levels import Levels
from onnxcomp.calibration.thresholds.mass import mass_of
from onnxcomp.calibration.thresholds.minmax import minmax
from onnxcomp.calibration.thresholds.mse import mse
from onnxcomp.calibration.thresholds.percentile import percentile as percentile_range
from onnxcomp.calibration.thresholds.settings import Consumer, Method, Settings

METHODS: Mapping[str, Method] = {
    "minmax": minmax,
    "percentile": percentile_range,
    "kl": kl,
    "mse": mse,
    "entropy": entropy,
    "auto": auto,
}


def find_range(
    histogram: Histogram,
    method: str,
    levels: Levels | None = None,
    *,
    percentile: float = 99.99,
    consumers: Sequence[Consumer] = (),
) -> Range:
    """Return the range of a tensor that a method (a key of `METHODS`) finds in its histogram.

    `levels` is the grid that the range is for, 8 bits with a zero point by default. `percentile`
    is for the method of that name; `consumers` are the elementwise functions that read the tensor,
    for `auto`. minmax gives the values' own ends; the other methods include zero, and none goes
    beyond the values and zero but to reach a scale that is a power of two. The range of -x is that
    of x mirrored. Raises `ValueError` for a histogram without finite values.
    """
    if method not in METHODS:
        raise ValueError(f'no method "{method}"; there are {", ".join(METHODS)}')
    if not 0 < percentile <= 100:
        raise ValueError(f"a percentile lies above 0 and up to 100, not at {percentile}")
    mass, settings = mass_of(histogram), Settings(percentile, tuple(consumers))
    if mass.hi >= -mass.lo:
        return METHODS[method](mass, levels or Levels(), settings)
    found = METHODS[method](mass.mirrored(), levels or Levels(), settings.mirrored())
    return Range(-found.hi + 0.0, -found.lo + 0.0)
