"""Accuracy of a digits model on the samples that none of them saw in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = Path(__file__).resolve().with_name("digits.npz")
BATCH = 64


def accuracy(
    predict: Callable[[dict[str, np.ndarray[Any, Any]]], list[Any]], samples: Path = SAMPLES
) -> float:
    """Return the share of samples whose largest logit is the label's."""
    with np.load(samples) as stored:
        images, labels = stored["image"], stored["labels"]
    answers = [
        np.argmax(predict({"image": images[start : start + BATCH]})[0], axis=1)
        for start in range(0, len(images), BATCH)
    ]
    return float(np.mean(np.concatenate(answers) == labels))
