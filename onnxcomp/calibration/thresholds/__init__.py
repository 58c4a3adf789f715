"""Ranges from histograms: how much of a tensor's tails to give up for finer steps."""

from onnxcomp.calibration.thresholds.find import METHODS, find_range
from onnxcomp.calibration.thresholds.levels import Levels
from onnxcomp.calibration.thresholds.loss import expected_error, sqnr_db

__all__ = ["METHODS", "Levels", "expected_error", "find_range", "sqnr_db"]
