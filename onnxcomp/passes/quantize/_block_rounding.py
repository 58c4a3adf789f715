"""Steps of block-wise weights, chosen so that the errors of a row cancel in its product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array
from onnxcomp.linear.gram import Seen, look_at
from onnxcomp.linear.layers import Layer, decibels, find_layers, has_known_pads, is_shared
from onnxcomp.passes.quantize._block_grid import BlockFormat, BlockGrid
from onnxcomp.passes.quantize._blocks import Blocks, blocks_sqnr, find_blocks
from onnxcomp.passes.quantize._constants import Site, can_look
from onnxcomp.passes.quantize._rounding import better_rows, damped, descended, fed_back
from onnxcomp.registry import measured

# A matrix of more columns takes too long to invert; all of them together, in multiplications.
COLUMNS = 2304
WORK = 6e10


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
) -> Iterator[tuple[Site, Blocks | None]]:
    """Yield each weight with its blocks, or None where it is not finite.

    What was measured of each is noted.
    """
    wanted = rounding in ("auto", "gptq") and can_look(model, samples)
    layers = _affordable(model, sites) if wanted else {}
    rest = [site for site in sites if site.value not in layers]
    by_node = {site.readers[0]: site for site in sites if site.value in layers}
    for layer, seen in look_at(model.clone(), list(layers.values()), samples):
        site = by_node[layer.node]
        if seen is None:
            rest.append(site)
            continue
        yield site, _best(site, layer, seen, formats[site])
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


def _best(site: Site, layer: Layer, seen: Seen, fmt: BlockFormat) -> Blocks | None:
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
    measured(layer.node, decibels(signal, errors[0]), decibels(signal, errors[least]))
    return candidates[least]


def _without_data(site: Site, fmt: BlockFormat, *, fitted: bool) -> Blocks | None:
    found = find_blocks(site.matrix, fmt, fitted=fitted)
    if found is not None:
        after = blocks_sqnr(site.matrix, found)
        before = nearest_sqnr(site, fmt) if fitted else after
        for node in site.readers[:1] if np.isfinite([before, after]).all() else ():
            measured(node, before, after)
    return found


def nearest_sqnr(site: Site, fmt: BlockFormat) -> float:
    """Return the signal-to-noise ratio (dB) of a weight rounded to nearest."""
    found = find_blocks(site.matrix, fmt, fitted=False)
    return -np.inf if found is None else blocks_sqnr(site.matrix, found)
