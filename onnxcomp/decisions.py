"""How much accuracy changed probabilities cost, foretold without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from onnxcomp.graph import Array

# Rows that are kept of an output; more would say no more.
MOST_ROWS = 50_000
LEAST = 1e-12


@dataclass
class Decisions:
    """The margins between the two likeliest classes of each row, and how far they moved.

    `margins` are ln p_a - ln p_b of the original, `errors` what the candidate adds to it.
    """

    margins: list[Array] = field(default_factory=list)
    errors: list[Array] = field(default_factory=list)
    rows: int = 0
    probabilities: bool = True

    def add(self, expected: Array, actual: Array) -> None:
        """Take in one output of both, if its rows are probabilities as all before were."""
        self.probabilities = self.probabilities and are_probabilities(expected)
        if not self.probabilities or self.rows >= MOST_ROWS:
            return
        x, y = (data.reshape(-1, data.shape[-1]) for data in (expected, actual))
        likeliest = np.argpartition(x, -2, axis=-1)[:, -2:]
        first, second = (
            np.log(np.maximum(np.take_along_axis(data, likeliest, axis=-1), LEAST))
            for data in (x, y)
        )
        margin = first[:, 1] - first[:, 0]
        self.margins.append(margin)
        self.errors.append(second[:, 1] - second[:, 0] - margin)
        self.rows += len(margin)

    def expected_drop(self) -> float | None:
        """Return the fall of top-1 accuracy that the original's own probabilities foretell.

        A row's decision flips with probability P(e > m), where m is its margin and e normal noise
        of the deviation that rows of small margin show; each flip costs p_a - p_b = tanh(m / 2),
        if the probabilities are right and the two classes the only ones. None without such rows.
        """
        if not self.probabilities or not self.rows:
            return None
        margin, error = (np.abs(np.concatenate(self.margins)), np.concatenate(self.errors))
        near = margin <= np.median(margin)
        deviation = math.sqrt(float(np.mean(np.square(error[near]))))
        if deviation == 0.0:
            return 0.0
        flips = np.array([0.5 * math.erfc(m / deviation / math.sqrt(2)) for m in margin])
        return float(np.mean(flips * np.tanh(margin / 2)))


def are_probabilities(data: Array) -> bool:
    """Say whether every row along the last axis is a distribution over two classes or more."""
    if data.ndim < 2 or data.shape[-1] < 2 or not data.size or data.min() < 0:
        return False
    return bool(np.allclose(data.sum(-1, dtype=np.float64), 1.0, atol=1e-3))
