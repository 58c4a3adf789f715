"""Accuracy of a scans model on the samples that it did not see in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_digits
import numpy as np

SAMPLES = Path(__file__).resolve().with_name("scans.npz")


def accuracy(predict: Callable[[dict[str, np.ndarray[Any, Any]]], list[Any]]) -> float:
    """Return the share of samples whose largest logit is the label's."""
    return eval_digits.accuracy(predict, SAMPLES)
