"""Filters that are like others: one of two is removed, and what read it reads the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.channels.groups import Group
from onnxcomp.graph import Array
from onnxcomp.passes.prune._allocation import Ranking
from onnxcomp.passes.prune._importance import EPSILON, Scales, made, slices


@dataclass(frozen=True, eq=False)
class Merges:
    """Into which channel each one goes when it is removed, and how many times as large it is."""

    into: Array
    factor: Array


def rank_by_redundancy(group: Group, scales: Scales) -> tuple[Ranking, Merges]:
    """Return the order in which channels merge into their nearest, and into which each does.

    Behind a Relu the filter t w acts as t times the filter w, so with norms n and directions u the
    error of merging j into i is |w_j|^2 |u_i - u_j|^2 times the squared norm of what reads j; its
    outgoing weights are added to i's, times n_j / n_i. Sources: Srinivas and Babu, 2015 (arXiv
    1507.06149); Kim et al., 2020 (arXiv 2010.13160).
    """
    factors = made(group, scales) + [slices(port) for port in group.depthwise]
    norms = [np.linalg.norm(rows, axis=1) for rows in factors]
    apart, size = np.zeros((group.channels,) * 2), np.ones(group.channels)
    for rows, norm in zip(factors, norms, strict=True):
        unit = rows / np.maximum(norm, EPSILON)[:, None]
        apart += 2 - 2 * np.clip(unit @ unit.T, -1, 1)
        size = size * norm
    reads = np.square(sum(np.linalg.norm(slices(port), axis=1) for port in group.readers))
    cost = apart * (np.square(size) * reads)[:, None]  # of j into i: [j, i]
    np.fill_diagonal(cost, np.inf)
    order, errors, into = [], [0.0], np.arange(group.channels)
    for _ in range(group.channels - 1):
        gone = int(np.argmin(cost.min(axis=1)))
        into[gone] = int(np.argmin(cost[gone]))
        errors.append(errors[-1] + float(cost[gone, into[gone]]))
        order.append(gone)
        cost[gone], cost[:, gone] = np.inf, np.inf
    order += [int(c) for c in np.setdiff1d(np.arange(group.channels), order)]
    errors.append(errors[-1] + float((np.square(size) * reads).max()))
    whole = max(float((np.square(size) * reads).sum()), EPSILON)
    factor = size / np.maximum(size[into], EPSILON)
    return Ranking(np.array(order, np.intp), np.array(errors) / whole), Merges(into, factor)


def merged(weight: Array, merges: Merges, ranking: Ranking, kept: int) -> Array:
    """Return outgoing weights [channels, numbers] to which those of merged channels are added."""
    result = weight.astype(np.float64)
    for channel in ranking.order[: len(ranking.order) - kept]:
        result[merges.into[channel]] += merges.factor[channel] * result[channel]
    return result
