"""Zeros put into one weight, by magnitude or by what its layers are multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array, label
from onnxcomp.linear.layers import decibels
from onnxcomp.passes.prune._inputs import Inputs
from onnxcomp.passes.prune._one_shot import Choice, one_shot, refit, towards
from onnxcomp.passes.prune._patterns import Pattern, lowest
from onnxcomp.passes.prune._scores import FROM_SAMPLES, scores_of
from onnxcomp.passes.prune._sites import Site


@dataclass(frozen=True)
class Zeroed:
    """A weight with zeros, [groups, outputs, taps, inputs], and the layers' noise in dB.

    `plain` is that of the same number of zeros by magnitude; None without samples.
    """

    cube: Array
    plain: float | None = None
    noise: float | None = None


def zero(
    site: Site, pattern: Pattern, criterion: str, count: int, seen: Inputs | None, seed: int
) -> Zeroed:
    """Return a weight with `count` boxes of a pattern zeroed.

    What the samples say is taken only where those kept back say that the error is less than that
    of zeroing by magnitude.
    """
    cube, name = site.cube, label(site.node)
    by_samples = criterion in FROM_SAMPLES
    first = "l2" if by_samples else criterion
    gone = lowest(pattern, scores_of(first, cube, None, name, seed), count)
    plain = np.where(gone, cube.dtype.type(0), cube)
    if seen is None or not by_samples:
        return Zeroed(plain)
    weight = _matrices(site, cube)
    found = _by_samples(site, pattern, criterion, count, seen, seed)
    before, after = (seen.error(weight, _matrices(site, each)) for each in (plain, found))
    signal = seen.error(weight, np.zeros_like(weight))
    if not (np.isfinite(found).all() and after < before):
        return Zeroed(plain, decibels(signal, before), decibels(signal, before))
    return Zeroed(found, decibels(signal, before), decibels(signal, after))


def _by_samples(
    site: Site, pattern: Pattern, criterion: str, count: int, seen: Inputs, seed: int
) -> Array:
    cube = site.cube
    scores = scores_of(criterion, cube, power_of(site, seen), label(site.node), seed)
    if criterion == "wanda":
        return np.where(lowest(pattern, scores, count), cube.dtype.type(0), cube)
    weight = towards(_matrices(site, cube), seen.gram, seen.cross)
    rows, taps, width = pattern.box
    choice = Choice(count, width, pattern.keep, pattern.of)
    if not pattern.of and (rows, taps) != (1, 1):
        choice = Choice(zeroed=lowest(pattern, scores, count).reshape(weight.shape))
    found = refit(weight, one_shot(weight, seen.gram, choice), seen.gram)
    return _in_type(found.reshape(cube.shape), cube)


def _matrices(site: Site, cube: Array) -> Array:
    return cube.astype(np.float64).reshape(site.layer.groups, -1, site.layer.columns)


def _in_type(found: Array, cube: Array) -> Array:
    """Return numbers in the type of a weight; none becomes a denormal, which is slow to compute."""
    with np.errstate(over="ignore", under="ignore"):
        data = found.astype(cube.dtype)
    tiny = (np.abs(data) < np.finfo(cube.dtype).tiny) & (data != cube)
    return np.where(tiny, cube.dtype.type(0), data)


def power_of(site: Site, seen: Inputs) -> Array:
    """Return E[x^2] of each column, so that it broadcasts to the weight."""
    groups, _, taps, inputs = site.shape
    power = np.einsum("gkk->gk", seen.gram)
    taps = taps if taps * inputs == power.shape[1] else 1
    return np.asarray(power.reshape(groups, 1, taps, inputs))
