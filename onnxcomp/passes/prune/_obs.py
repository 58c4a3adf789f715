"""Which channels the layers behind them miss least, given that the others make up for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.prune._allocation import Ranking

# Added to the diagonal of a covariance, as a share of its mean.
DAMPING = 0.01
# Channels that are removed before scores are reckoned anew: this share of all, where together
# they cost no more than this many times what each alone would.
AT_ONCE, SLACK = 1 / 64, 1.5


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer y = W x: `weight` [rows, columns], `covariance` of x, and the channels' columns.

    `columns` [channels, each]; `signal` is the power of y, W C W^T summed over the rows.
    """

    weight: Array
    covariance: Array
    columns: Array
    signal: float

    def lost(self, channels: Array) -> float:
        """Return the relative error when channels are replaced by their means."""
        own = self.columns[channels].ravel()
        weight = self.weight[:, own]
        power = ((weight @ self.covariance[np.ix_(own, own)]) * weight).sum()
        return float(power) / max(self.signal, 1e-30)


class _Left:
    """A layer of which some channels are gone, and the others have made up for them."""

    def __init__(self, problem: Problem) -> None:
        damped = problem.covariance.copy()
        mean = float(np.trace(damped)) / len(damped)
        damped[np.diag_indices_from(damped)] += max(DAMPING * mean, 1e-12)
        self._inverse = np.linalg.inv(damped)
        self._weight = problem.weight.astype(np.float64)
        self._columns = problem.columns
        self._signal = max(problem.signal, 1e-30)

    def scores(self, channels: Array) -> Array:
        """Return the relative error that the removal of each channel alone adds, [channels]."""
        own = self._columns[channels]  # [channels, each]
        blocks = self._inverse[own[:, :, None], own[:, None, :]]
        weight = self._weight.T[own]  # [channels, each, rows]
        products = weight @ weight.transpose(0, 2, 1)
        return np.asarray((np.linalg.inv(blocks) * products).sum(axis=(1, 2))) / self._signal

    def joint(self, channels: Array) -> float:
        """Return the relative error that the removal of channels together adds."""
        own = self._columns[channels].ravel()
        weight = self._weight[:, own]
        solved = np.linalg.solve(self._inverse[np.ix_(own, own)], weight.T)
        return float((weight.T * solved).sum()) / self._signal

    def remove(self, channels: Array) -> None:
        """Take channels out, and let the other columns make up for them."""
        own = self._columns[channels].ravel()
        rows = self._inverse[own]
        solved = np.linalg.solve(rows[:, own], rows)  # [own, columns]
        self._weight -= self._weight[:, own] @ solved
        self._inverse -= rows.T @ solved
        # What is gone stays in place, harmless: nothing reads or couples to it any more.
        self._weight[:, own] = 0.0
        self._inverse[own] = 0.0
        self._inverse[:, own] = 0.0


def rank_by_obs(problems: Sequence[Problem], fixed: Array, least: int) -> Ranking:
    """Return the order in which channels go, greedily, and the sum of the relative errors.

    For the columns S of a channel the error is W_S [(H^-1)_SS]^-1 W_S^T, summed over the rows, with
    H the covariance of what the layer reads (its mean goes into the bias). After each removal
    W -= W_S [(H^-1)_SS]^-1 (H^-1)_S and H^-1 -= (H^-1)_:S [(H^-1)_SS]^-1 (H^-1)_S. `fixed`
    [channels] is added: what readers that are no such layers lose. The last `least` channels are
    not told apart. Sources: Kurtic et al., 2023 (arXiv 2302.04089); Frantar et al., 2022
    (arXiv 2208.11580).
    """
    states = [_Left(problem) for problem in problems]
    alive = np.arange(len(fixed))
    order: list[int] = []
    errors = [0.0]
    most = max(1, int(len(fixed) * AT_ONCE))
    while len(alive) > max(least, 1):
        alone = fixed[alive] + sum(state.scores(alive) for state in states)
        ranked = np.argsort(alone, kind="stable")
        picked = ranked[: min(most, len(alive) - max(least, 1))]
        while (
            len(picked) > 1 and _joint(states, fixed, alive[picked]) > SLACK * alone[picked].sum()
        ):
            picked = picked[: len(picked) // 2]
        gone = alive[picked]
        added = _joint(states, fixed, gone)
        errors += [errors[-1] + added * (i + 1) / len(gone) for i in range(len(gone))]
        order += [int(channel) for channel in gone]
        for state in states:
            state.remove(gone)
        alive = np.delete(alive, picked)
    rest = alive[np.argsort(fixed[alive], kind="stable")]
    errors += [errors[-1] + 1.0] * len(rest)
    return Ranking(np.array([*order, *rest], np.intp), np.array(errors))


def _joint(states: Sequence[_Left], fixed: Array, channels: Array) -> float:
    return float(fixed[channels].sum()) + sum(state.joint(channels) for state in states)
