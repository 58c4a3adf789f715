"""The range that holds a share of the values."""

from __future__ import annotations

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import Levels, widened
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.calibration.thresholds.settings import Settings


def percentile(mass: Mass, levels: Levels, settings: Settings) -> Range:
    """Return the range that `settings.percentile` percent of the values lie in.

    Zeros count. What is left out is taken from the far end of values of one sign, in equal parts
    from both ends of signed ones, and from the greatest magnitudes for a symmetric grid. A power
    of two is the next greater one, so that no more is left out.
    """
    found = holding(mass, settings.percentile / 100.0, levels)
    return widened(found, levels) if levels.power_of_two else found


def holding(mass: Mass, share: float, levels: Levels) -> Range:
    """Return the range, zero included, that holds a share of the values, whatever its scale."""
    if mass.lo >= 0:
        return Range(0.0, mass.quantile(share))
    if mass.hi <= 0:
        return Range(-mass.mirrored().quantile(share), 0.0)
    if levels.symmetric:
        reach = mass.magnitudes().quantile(share)
        return Range(max(mass.lo, -reach), min(mass.hi, reach))
    outside = (1.0 - share) / 2
    lo, hi = -mass.mirrored().quantile(1.0 - outside), mass.quantile(1.0 - outside)
    return Range(min(lo, 0.0) + 0.0, max(hi, 0.0))
