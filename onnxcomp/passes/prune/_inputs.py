"""What layers are multiplied with: in the model as it is, and as it is so far pruned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array
from onnxcomp.linear.gram import CHECKED, GROUPED_POSITIONS, POSITIONS, SEED
from onnxcomp.linear.layers import Layer, has_known_pads
from onnxcomp.linear.taps import few, tap
from onnxcomp.passes.prune._sites import Site

# How many samples are looked at; `few` takes fewer of large ones.
SAMPLES = 256
# With fewer samples than these, layers are not fitted to what those before them leave: what would
# be learnt is the samples.
LEAST = 128
# Positions to check on, beyond which more samples add none.
CHECK_POSITIONS = 2048
# A matrix of more columns takes too long to invert; all of them together, in multiplications.
COLUMNS = 4608
WORK = 6e11
# Positions for each column, and samples, beyond which more add nothing to the matrices.
ENOUGH = 8
ENOUGH_SAMPLES = 24
# How often the samples run again, each time with more layers pruned, and bytes of matrices.
STAGES = 16
MEMORY = 400_000_000


@dataclass
class Inputs:
    """What a weight is multiplied with: x in the original, z in the model so far pruned.

    `gram` is the sum of z z^T and `cross` that of x z^T, [groups, columns, columns], over so many
    `positions` of `samples`; `first` is x and z of the first sample, [groups, positions, columns],
    `checks` of samples that are not in the matrices.
    """

    gram: Array
    cross: Array
    first: tuple[Array, Array]
    positions: int
    samples: int = 1
    checks: list[tuple[Array, Array]] = field(default_factory=list)

    def error(self, weight: Array, other: Array) -> float:
        """Return E[|W x - W' z|^2] over the samples to check on, or the first where these lack."""
        total, pairs = 0.0, self.checks or [self.first]
        old, new = (each.astype(np.float32).transpose(0, 2, 1) for each in (weight, other))
        for exact, seen in pairs:
            error = exact @ old - seen @ new
            total += float(np.square(error, dtype=np.float64).sum()) / exact.shape[1]
        return total / len(pairs)

    @property
    def is_enough(self) -> bool:
        """Whether more samples add nothing."""
        wanted = ENOUGH * self.gram.shape[-1]
        return bool(self.positions >= wanted and self.samples >= ENOUGH_SAMPLES)


def see(
    model: ir.Model, original: ir.Model, sites: Sequence[Site], samples: Samples
) -> Iterator[tuple[Site, Inputs | None]]:
    """Yield sites in the order of the graph, with what their layers are multiplied with.

    Weights of `model` may be replaced between: what comes later sees it, but where there are few
    samples. The columns are in the
    order of the site's cube. None where the samples say nothing, or where the matrix is too large.
    Of a weight that several layers read it is what all of them are multiplied with.
    """
    wanted = _affordable(sites)
    limit = few(original, samples, SAMPLES)
    enough = sum(1 for _ in islice(samples, min(limit, LEAST))) == LEAST
    model, stages = (model, STAGES) if enough else (original, 1)
    for batch in _batches(sites, wanted, stages):
        seen = _look(model, original, [s for s in batch if id(s) in wanted], samples, limit)
        for site in batch:
            yield site, seen.get(id(site))


def _look(
    model: ir.Model, original: ir.Model, sites: Sequence[Site], samples: Samples, limit: int
) -> dict[int, Inputs]:
    readers = [(site, layer, layer.source.name or "") for site in sites for layer in site.layers]
    if not readers:
        return {}
    names = [name for _, _, name in readers]
    found: dict[int, Inputs] = {}
    for index, name, exact, seen in _both(model, original, names, samples, limit):
        for site, layer, source in readers:
            if source == name:
                rows = _rows(site, layer, index, exact)
                other = rows if seen is exact else _rows(site, layer, index, seen)
                _add(found, id(site), index, rows, other)
        if len(found) == len(sites) and all(each.is_enough for each in found.values()):
            break
    return found


def _both(
    model: ir.Model, original: ir.Model, names: Sequence[str], samples: Samples, limit: int
) -> Iterator[tuple[int, str, Array, Array]]:
    """Yield (index of the sample, name, the original's array, the model's)."""
    exact = tap(original, names, samples, limit)
    if model is original:
        yield from ((index, name, data, data) for index, name, data in exact)
        return
    seen = tap(model, names, samples, limit)
    for (index, name, data), (_, _, other) in zip(exact, seen, strict=True):
        yield index, name, data, other


def _rows(site: Site, layer: Layer, index: int, data: Array) -> Array:
    count = POSITIONS if layer.groups == 1 else GROUPED_POSITIONS
    rows = layer.inputs_at(data, count, np.random.default_rng((SEED, index)))
    return np.asarray(rows[..., site.columns], np.float32)


def _add(found: dict[int, Inputs], key: int, index: int, exact: Array, seen: Array) -> None:
    if not (exact.size and np.isfinite(exact).all() and np.isfinite(seen).all()):
        return
    known = found.get(key)
    if known is not None and index % CHECKED == CHECKED - 1:
        if sum(each.shape[1] for each, _ in known.checks) < CHECK_POSITIONS:
            known.checks.append((exact, seen))
        return
    if known is not None and known.is_enough:
        return
    share = np.float32(seen.shape[1])
    gram = seen.transpose(0, 2, 1) @ seen / share
    cross = gram if exact is seen else exact.transpose(0, 2, 1) @ seen / share
    if known is None:
        wide = gram.astype(np.float64)
        other = wide if exact is seen else cross.astype(np.float64)
        found[key] = Inputs(wide, other, (exact, seen), seen.shape[1])
        return
    known.gram += gram
    if known.cross is not known.gram:
        known.cross += cross
    known.positions += seen.shape[1]
    known.samples += 1


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
    return layer.groups * layer.columns**2 * (4.0 * layer.columns + 16 * layer.rows)


def _batches(sites: Sequence[Site], wanted: set[int], stages: int) -> Iterator[list[Site]]:
    batch: list[Site] = []
    held, most = 0, -(-len(sites) // stages)
    for site in sites:
        size = 16 * site.layer.groups * site.layer.columns**2 if id(site) in wanted else 0
        if batch and (held + size > MEMORY or len(batch) == most):
            yield batch
            batch, held = [], 0
        batch.append(site)
        held += size
    if batch:
        yield batch
