"""Ranges from histograms: how much of a tensor's tails to give up for finer steps."""

from onnxcomp.calibration.thresholds.find import METHODS, find_range
from onnxcomp.calibration.thresholds.levels import Levels
from onnxcomp.calibration.thresholds.loss import expected_error, sqnr_db
from onnxcomp.calibration.thresholds.settings import Consumer, identity

__all__ = [
    "METHODS",
    "Consumer",
    "Levels",
    "expected_error",
    "find_range",
    "identity",
    "sqnr_db",
]
