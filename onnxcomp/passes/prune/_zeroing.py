"""Zeros put into one weight, by magnitude or by what its layers are multiplied with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array, label
from onnxcomp.linear.gram import Seen, look_at
from onnxcomp.linear.layers import decibels, has_known_pads
from onnxcomp.passes.prune._one_shot import Choice, one_shot, refit
from onnxcomp.passes.prune._patterns import Pattern, lowest
from onnxcomp.passes.prune._scores import FROM_SAMPLES, scores_of
from onnxcomp.passes.prune._sites import Site

# How many samples are looked at; `few` takes fewer of large ones.
SAMPLES = 256
# A matrix of more columns takes too long to invert; all of them together, in multiplications.
COLUMNS = 4608
WORK = 6e11
# Bytes of Gram matrices at a time.
MEMORY = 400_000_000


@dataclass(frozen=True)
class Zeroed:
    """A weight with zeros, [groups, outputs, taps, inputs], and the layers' noise in dB.

    `plain` is that of the same number of zeros by magnitude; None without samples.
    """

    cube: Array
    plain: float | None = None
    noise: float | None = None


def zero(
    site: Site, pattern: Pattern, criterion: str, count: int, seen: Seen | None, seed: int
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
    wide = cube.astype(np.float64).reshape(site.layer.groups, -1, site.layer.columns)
    found = _by_samples(site, pattern, criterion, count, seen, seed)
    before = seen.error(wide - plain.reshape(wide.shape))
    after = seen.error(wide - found.reshape(wide.shape))
    signal = seen.error(wide)
    if not (np.isfinite(found).all() and after < before):
        return Zeroed(plain, decibels(signal, before), decibels(signal, before))
    return Zeroed(found, decibels(signal, before), decibels(signal, after))


def _by_samples(
    site: Site, pattern: Pattern, criterion: str, count: int, seen: Seen, seed: int
) -> Array:
    cube = site.cube
    scores = scores_of(criterion, cube, power_of(site, seen), label(site.node), seed)
    if criterion == "wanda":
        return np.where(lowest(pattern, scores, count), cube.dtype.type(0), cube)
    weight = cube.astype(np.float64).reshape(site.layer.groups, -1, site.layer.columns)
    rows, taps, width = pattern.box
    choice = Choice(count, width, pattern.keep, pattern.of)
    if not pattern.of and (rows, taps) != (1, 1):
        choice = Choice(zeroed=lowest(pattern, scores, count).reshape(weight.shape))
    found = one_shot(weight, seen.gram, choice)
    found = refit(weight, found, seen.gram).reshape(cube.shape)
    return _in_type(found, cube)


def _in_type(found: Array, cube: Array) -> Array:
    """Return numbers in the type of a weight; none becomes a denormal, which is slow to compute."""
    with np.errstate(over="ignore", under="ignore"):
        data = found.astype(cube.dtype)
    tiny = (np.abs(data) < np.finfo(cube.dtype).tiny) & (data != cube)
    return np.where(tiny, cube.dtype.type(0), data)


def power_of(site: Site, seen: Seen) -> Array:
    """Return E[x^2] of each column, so that it broadcasts to the weight."""
    groups, _, taps, inputs = site.shape
    power = np.einsum("gkk->gk", seen.gram)
    taps = taps if taps * inputs == power.shape[1] else 1
    return np.asarray(power.reshape(groups, 1, taps, inputs))


# ---------------------------------------------------------------- what layers are multiplied with
def see(
    model: ir.Model, sites: Sequence[Site], samples: Samples
) -> Iterator[tuple[Site, Seen | None]]:
    """Yield sites with what their layers are multiplied with, in the order of the cube's columns.

    None where the samples say nothing of it, or where its matrix is too large. Of a weight that
    several layers read it is what all of them are multiplied with.
    """
    wanted = _affordable(sites)
    yield from ((site, None) for site in sites if id(site) not in wanted)
    snapshot = model.clone()
    for group in _batches([site for site in sites if id(site) in wanted]):
        layers = [layer for site in group for layer in site.layers]
        found = {layer.node: seen for layer, seen in look_at(snapshot, layers, samples, SAMPLES)}
        for site in group:
            yield site, _joined(site, [found[layer.node] for layer in site.layers])


def _affordable(sites: Sequence[Site]) -> set[int]:
    """Return those whose matrices can be inverted, without the largest where all take too long."""
    work, kept = 0.0, set()
    for site in sorted(sites, key=_work):
        work += _work(site)
        known = all(has_known_pads(layer.node) for layer in site.layers)
        if work <= WORK and site.layer.columns <= COLUMNS and known:
            kept.add(id(site))
    return kept


def _work(site: Site) -> float:
    layer = site.layer
    return layer.groups * layer.columns**2 * (3.0 * layer.columns + 12 * layer.rows)


def _batches(sites: Sequence[Site]) -> Iterator[list[Site]]:
    batch: list[Site] = []
    held = 0
    for site in sites:
        size = 8 * len(site.layers) * site.layer.groups * site.layer.columns**2
        if batch and held + size > MEMORY:
            yield batch
            batch, held = [], 0
        batch.append(site)
        held += size
    if batch:
        yield batch


def _joined(site: Site, seen: Sequence[Seen | None]) -> Seen | None:
    known = [each for each in seen if each is not None]
    if not known:
        return None
    order = site.columns
    gram = sum((each.gram for each in known[1:]), start=known[0].gram)
    rows = chain.from_iterable(each.rows for each in known)
    return Seen(gram[:, order][:, :, order], [each[..., order] for each in rows])
