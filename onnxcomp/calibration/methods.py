"""The names of the methods that make a range of what was seen."""

from __future__ import annotations

# The mean over the samples of their extremes: a moving average without a memory of their order.
AVERAGE = "average"
METHODS = ("minmax", AVERAGE, "percentile", "kl", "mse", "entropy", "auto")
