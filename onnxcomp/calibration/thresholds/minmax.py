"""The range that clips nothing."""

from __future__ import annotations

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import Levels, widened
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.calibration.thresholds.settings import Settings


def minmax(mass: Mass, levels: Levels, settings: Settings) -> Range:  # noqa: ARG001
    """Return the least and the greatest value, or the next wider range of a power of two."""
    found = Range(mass.lo, mass.hi)
    return widened(found, levels) if levels.power_of_two else found
