"""Steps of block-wise weights, chosen so that the errors of a row cancel in its product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array
from onnxcomp.keeping import Record, counting, is_kept, kept
from onnxcomp.linear.gram import Seen, look_at
from onnxcomp.linear.layers import Layer, decibels, find_layers, has_known_pads, is_shared
from onnxcomp.passes.quantize._block_grid import BlockFormat, BlockGrid
from onnxcomp.passes.quantize._blocks import Blocks, blocks_sqnr, find_blocks
from onnxcomp.passes.quantize._constants import Site, can_look
from onnxcomp.passes.quantize._rounded import Rounded, as_record, digest_of_look, from_record
from onnxcomp.passes.quantize._rounding import better_rows, damped, descended, fed_back
from onnxcomp.registry import measured

# A matrix of more columns takes too long to invert; all of them together, in multiplications.
COLUMNS = 2304
WORK = 6e10
PASS = "quantize-blocks"


def round_blocks(weight: Array, grid: BlockGrid, gram: Array, fmt: BlockFormat) -> Array:
    """Return steps q [groups * rows, columns] for which E[|(w - s (q - z)) x|^2] is small.

    `weight` [groups, rows, columns]; `grid` has a row for each of all groups; `gram` H = E[x x^T]
    [groups, columns, columns]. The columns of large H first to last, each with the error of those
    before it made up for (Frantar et al., 2023, arXiv 2210.17323), then each given all others. No
    row is worse under H than by rounding to nearest. Zeros stay zero.
    """
    order = np.argsort(np.einsum("gkk->k", gram), kind="stable")
    scale, zero = (_spread(each, fmt, weight.shape)[..., order] for each in (grid.scale, grid.zero))
    sorted_weight, exact = weight[..., order].astype(np.float32), gram[:, order][:, :, order]
    held, matrix = sorted_weight == 0, damped(exact.astype(np.float32))

    def put(wanted: Array, column: int | slice) -> Array:
        step, offset = scale[..., column], zero[..., column]
        whole = np.clip(np.rint(wanted / step + offset), 0, fmt.last)
        return np.asarray(np.where(held[..., column], 0, (whole - offset) * step))

    found = descended(sorted_weight, fed_back(sorted_weight, matrix, put), matrix, put)
    found = better_rows(sorted_weight, put(sorted_weight, slice(None)), found, exact)
    steps = np.rint(found / scale + zero)[..., np.argsort(order)]
    return np.asarray(np.clip(steps, 0, fmt.last).astype(np.uint8).reshape(-1, weight.shape[-1]))


def _spread(each: Array, fmt: BlockFormat, shape: tuple[int, ...]) -> Array:
    """Return what each block has as [groups, rows, columns], once for each column."""
    wide = np.repeat(each.astype(np.float32), fmt.block, axis=-1)[:, : shape[-1]]
    return wide.reshape(shape)


def round_sites(
    model: ir.Model,
    sites: Sequence[Site],
    formats: Mapping[Site, BlockFormat],
    samples: Samples,
    rounding: str,
) -> Iterator[tuple[Site, Rounded | None]]:
    """Yield each weight with its blocks, or None where it is not finite.

    What was measured of each is noted.
    """
    with counting(PASS, len(sites)):
        for site, found in _each(model, sites, formats, samples, rounding):
            if found is not None and np.isfinite([found.before, found.after]).all():
                measured(site.readers[0], found.before, found.after)
            yield site, found


def _each(
    model: ir.Model,
    sites: Sequence[Site],
    formats: Mapping[Site, BlockFormat],
    samples: Samples,
    rounding: str,
) -> Iterator[tuple[Site, Rounded | None]]:
    wanted = rounding in ("auto", "gptq") and can_look(model, samples)
    layers = _affordable(model, sites) if wanted else {}
    rest = [site for site in sites if site.value not in layers]
    by_node = {site.readers[0]: site for site in sites if site.value in layers}
    look = digest_of_look(model, list(layers.values()), samples)

    def settings(layer: Layer) -> tuple[object, ...]:
        site = by_node[layer.node]
        return (PASS, "gptq", look, site.value.name, site.across, formats[site])

    def is_known(layer: Layer) -> bool:
        return is_kept(by_node[layer.node].weight, settings(layer))

    for layer, seen in look_at(model.clone(), list(layers.values()), samples, is_known):
        site = by_node[layer.node]
        if seen is None and not is_known(layer):
            rest.append(site)
            continue
        make = partial(_best_record, site, layer, seen, formats[site])
        record = kept(site.weight, settings(layer), make)
        yield site, from_record(record, site, formats[site])
    for site in rest:
        yield site, _without_data(site, formats[site], fitted=rounding != "nearest")


def _affordable(model: ir.Model, sites: Sequence[Site]) -> dict[ir.Value, Layer]:
    """Return the weights whose inputs can be looked at, without those that take too long."""
    wanted, work = {site.value for site in sites}, 0.0
    found: dict[ir.Value, Layer] = {}
    layers = [layer for layer in find_layers(model.graph) if layer.columns <= COLUMNS]
    for layer in sorted(layers, key=_work):
        value = layer.node.inputs[1]
        if value not in wanted or is_shared(layer) or not has_known_pads(layer.node):
            continue
        work += _work(layer)
        if work <= WORK and value is not None:
            found[value] = layer
    return found


def _work(layer: Layer) -> float:
    return layer.groups * layer.columns**2 * (2.0 * layer.columns + 4 * layer.rows)


def _best_record(site: Site, layer: Layer, seen: Seen | None, fmt: BlockFormat) -> Record:
    assert seen is not None
    return as_record(_best(site, layer, seen, fmt))


def _best(site: Site, layer: Layer, seen: Seen, fmt: BlockFormat) -> Rounded | None:
    """Return of three roundings the one with the smallest error on the samples kept back."""
    matrix, weight = site.matrix, layer.matrices
    plain, fitted = (find_blocks(matrix, fmt, fitted=each) for each in (False, True))
    if plain is None or fitted is None:
        return None
    steps = round_blocks(weight, fitted.grid, seen.gram, fmt)
    candidates = (plain, fitted, Blocks(fmt, fitted.grid, steps))
    errors = [seen.error(weight - each.values(matrix).reshape(weight.shape)) for each in candidates]
    least = int(np.argmin(errors))
    signal = seen.error(weight)
    before, after = (decibels(signal, error) for error in (errors[0], errors[least]))
    return Rounded(candidates[least], blocks_sqnr(matrix, candidates[least]), before, after)


def _without_data(site: Site, fmt: BlockFormat, *, fitted: bool) -> Rounded | None:
    settings = (PASS, "hqq" if fitted else "nearest", site.across, fmt)
    record = kept(site.weight, settings, lambda: as_record(_rounded(site, fmt, fitted=fitted)))
    return from_record(record, site, fmt)


def _rounded(site: Site, fmt: BlockFormat, *, fitted: bool) -> Rounded | None:
    found = find_blocks(site.matrix, fmt, fitted=fitted)
    if found is None:
        return None
    after = blocks_sqnr(site.matrix, found)
    return Rounded(found, after, _nearest_sqnr(site, fmt) if fitted else after, after)


def nearest_sqnr(site: Site, fmt: BlockFormat) -> float:
    """Return the signal-to-noise ratio (dB) of a weight rounded to nearest."""
    settings = (PASS, "sqnr of nearest", site.across, fmt)
    record = kept(site.weight, settings, lambda: (np.array(_nearest_sqnr(site, fmt)),))
    return float(record[0])


def _nearest_sqnr(site: Site, fmt: BlockFormat) -> float:
    found = find_blocks(site.matrix, fmt, fitted=False)
    return -np.inf if found is None else blocks_sqnr(site.matrix, found)
