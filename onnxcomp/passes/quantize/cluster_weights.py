"""Weights that share a few values, stored as codes and a codebook."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import add_constant, add_tensor
from onnxcomp.errors import UsageError
from onnxcomp.exclusion import read_globs
from onnxcomp.graph import Array, opset_version
from onnxcomp.keeping import Record, counting, is_kept, kept
from onnxcomp.linear.gram import Seen, look_at
from onnxcomp.linear.layers import Layer, decibels, find_layers, has_known_pads, is_shared
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._blocks import row_slices
from onnxcomp.passes.quantize._codebooks import KINDS, codes_of, find_codebook, histogram
from onnxcomp.passes.quantize._constants import (
    Site,
    can_look,
    find_sites,
    insert_first,
    is_refused,
    left,
    mildest,
    packed,
)
from onnxcomp.passes.quantize._naming import fresh_name, used_names
from onnxcomp.passes.quantize._rounded import digest_of_look
from onnxcomp.registry import Effect, measured, register

OPS = ("Conv", "Gemm", "MatMul", "Gather")
# Codes of 4 bits exist from here on; an older model has bytes, which ONNX Runtime gathers by.
OPSET, NIBBLE = 21, 16
LEAST_SQNR = 10.0
# Of two values each number keeps little more than its sign: 4.4 dB of normal numbers.
LEAST_SQNR_OF_FEW = 2.0
FEW = ("ternary", "binary")
# A matrix of more columns is not looked at through its inputs.
COLUMNS = 4096
PASS = "cluster-weights"


@dataclass(frozen=True)
class Codebook:
    """The values of a weight in rising order, and the signal-to-noise ratio (dB) they leave."""

    values: Array
    sqnr: float


@register(Effect.LOSSY, ops=OPS, strengths={"ratio": 0.0})
def cluster_weights(
    model: ir.Model,
    samples: Samples,
    *,
    codebook: str = "kmeans",
    values: int = 16,
    ratio: float = 1.0,
    exclude: str = "",
    least: int = 1024,
) -> int:
    """Store each weight as codes of a codebook with 16 (2 to 256) values: an eighth of the bytes.

    W becomes Gather(codebook, Cast(codes)), which ONNX Runtime computes once, at load; then the
    float kernels run. So the file is smaller, and neither memory nor time change. Codes are of 4
    bits up to 16 values (opset 21, to which an older model is raised where it can be), else bytes.

    `codebook`: `kmeans` is Lloyd's iteration on a histogram, each number weighted by E[x^2] of what
    it multiplies where samples are real and those kept back say that this is better; zero stays a
    value where weights are pruned (Han et al., 2016, arXiv 1510.00149). `log` has values in
    geometric progression, `pow2` powers of two, both with zero: for hardware that shifts, here of
    no use but the size. `ternary` is -a, 0, a and `binary` -a, a, which take 4 bits here as 16
    values do, and rarely keep a budget without training; a packed file (`onnxcomp pack`) has 1.6
    and 1.

    `ratio` is the share of the bytes of weights, those that change least first. `exclude` names
    nodes whose weights stay: globs, separated by commas. `least` is the number of elements from
    which a weight is worth it. The measure is the signal-to-noise ratio (dB) of a plain codebook
    and of what is stored: of the layer's output with samples, else of the weight.

    Left alone when a weight is not float32 or not finite, when something else than Conv, Gemm,
    MatMul and Gather reads it too, and when less than 10 dB would be left of it (2 for ternary and
    binary).
    """
    _check(codebook, values, ratio)
    globs = read_globs(model, exclude, "cluster-weights")
    sites = [
        site for site in find_sites(model, frozenset(OPS), least) if not is_refused(site, globs)
    ]
    with counting(PASS, len(sites)):
        found = {
            site: plain
            for site in sites
            if (plain := _plain_codebook(site, codebook, values)) is not None
        }
    chosen = mildest({site: book.sqnr for site, book in found.items()}, ratio)
    found = {site: book for site, book in found.items() if site in chosen}
    if not found:
        return 0
    books = _weighed(model, found, samples, codebook, values)
    if any(len(each) <= NIBBLE for each in books.values()):
        raise_opset(model, OPSET)
    used = used_names(model)
    for site, book in books.items():
        _write(site, book, used, opset_version(model))
    return len(books)


def _check(codebook: str, values: int, ratio: float) -> None:
    if codebook not in KINDS:
        raise UsageError(
            f"cluster-weights: codebook is one of {', '.join(KINDS)}, got {codebook!r}"
        )
    if not 2 <= values <= 256:
        raise UsageError(f"cluster-weights: values is a number from 2 to 256, got {values}")
    if codebook in ("log", "pow2") and values < 3:
        raise UsageError(f"cluster-weights: {codebook} has zero and both signs: values from 3 on")
    if not 0 <= ratio <= 1:
        raise UsageError(f"cluster-weights: ratio is a share from 0 to 1, got {ratio}")


def _plain_codebook(site: Site, kind: str, values: int) -> Codebook | None:
    """Return the codebook of a weight, each number counting alike; None where it is left alone."""
    make = partial(_plain_record, site, kind, values)
    record = kept(site.weight, (PASS, site.across, kind, values), make)
    if not record:
        left(site, "its weight is not finite")
        return None
    book = Codebook(record[0], float(record[1]))
    reason = ""
    if book.sqnr == -math.inf:
        reason = "its weight is all zero"
    elif book.sqnr < (LEAST_SQNR_OF_FEW if kind in FEW else LEAST_SQNR):
        reason = f"its weight would keep only {book.sqnr:.1f} dB"
    return None if left(site, reason) else book


def _plain_record(site: Site, kind: str, values: int) -> Record:
    if not np.isfinite(site.matrix).all():
        return ()
    book = find_codebook(kind, histogram(site.matrix), values)
    return book, np.array(_sqnr(site, book))


def _sqnr(site: Site, book: Array) -> float:
    """Return the signal-to-noise ratio (dB) of a weight and its values of a codebook."""
    signal = noise = 0.0
    for rows in row_slices(site.matrix):
        part = site.matrix[rows]
        error = part - book[codes_of(part, book)]
        signal += float(np.square(part).sum())
        noise += float(np.square(error).sum())
    if signal == 0:
        return -math.inf
    return decibels(signal, noise)


# ---------------------------------------------------------------- what inputs say
def _weighed(
    model: ir.Model, found: dict[Site, Codebook], samples: Samples, kind: str, values: int
) -> dict[Site, Array]:
    """Return the codebooks, those that count numbers by their inputs where they are better.

    What was measured of each is noted.
    """
    sites = {site.value: site for site in found}
    layers = [
        layer
        for layer in (find_layers(model.graph) if can_look(model, samples) else ())
        if layer.node.inputs[1] in sites
        and layer.columns <= COLUMNS
        and not is_shared(layer)
        and has_known_pads(layer.node)
    ]
    books = {site: book.values for site, book in found.items()}
    looked: set[Site] = set()
    look = digest_of_look(model, layers, samples)

    def settings(layer: Layer) -> tuple[object, ...]:
        site = _site_of(layer, sites)
        return (PASS, "looked at", look, site.value.name, site.across, kind, values)

    def is_known(layer: Layer) -> bool:
        return is_kept(_site_of(layer, sites).weight, settings(layer))

    for layer, seen in look_at(model.clone(), layers, samples, is_known):
        if seen is None and not is_known(layer):
            continue
        site = _site_of(layer, sites)
        looked.add(site)
        make = partial(_better, layer, seen, site, books[site], kind, values)
        books[site], errors = kept(site.weight, settings(layer), make)
        measured(layer.node, *map(float, errors))
    for site, book in found.items():
        if site not in looked:
            measured(site.readers[0], book.sqnr, book.sqnr)
    return books


def _site_of(layer: Layer, sites: dict[ir.Value, Site]) -> Site:
    value = layer.node.inputs[1]
    assert value is not None
    return sites[value]


def _better(
    layer: Layer, seen: Seen | None, site: Site, plain: Array, kind: str, values: int
) -> Record:
    """Return the better codebook, and the ratios (dB) of the plain and of the better one."""
    assert seen is not None
    importance = np.einsum("gkk->gk", seen.gram)
    by_row = np.repeat(importance, layer.rows, axis=0)  # [groups * rows, columns]
    weighted = find_codebook(kind, histogram(site.matrix, by_row), values)
    weight = layer.matrices
    errors = [
        seen.error(weight - book[codes_of(site.matrix, book)].reshape(weight.shape))
        for book in (plain, weighted)
    ]
    ratios = [decibels(seen.error(weight), each) for each in (errors[0], min(errors))]
    return (weighted if errors[1] < errors[0] else plain), np.array(ratios)


# ---------------------------------------------------------------- the rewrite
def _write(site: Site, book: Array, used: set[str], opset: int) -> None:
    graph, stem = site.graph, site.value.name or "weight"
    nibbles = len(book) <= NIBBLE and opset >= OPSET
    dtype = ir.DataType.UINT4 if nibbles else ir.DataType.UINT8
    name, shape = fresh_name(used, f"{stem}.codes"), ir.Shape(site.shape)

    def codes() -> ir.TensorProtocol:
        return _codes(site, book, dtype, name)

    external = isinstance(site.weight, ir.ExternalTensor)
    data = ir.LazyTensor(codes, dtype, shape, name=name) if external else codes()
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=data)
    stored = add_tensor(graph, value)
    table = add_constant(graph, book, fresh_name(used, f"{stem}.codebook"))
    cast = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", ir.DataType.INT32)])
    gather = ir.Node("", "Gather", [table, cast.outputs[0]])
    for node, kind in ((cast, ir.DataType.INT32), (gather, ir.DataType.FLOAT)):
        node.outputs[0].name = fresh_name(used, f"{stem}.{node.op_type.lower()}")
        node.outputs[0].shape, node.outputs[0].type = shape, ir.TensorType(kind)
    insert_first(graph, [cast, gather])
    site.value.replace_all_uses_with(gather.outputs[0])


def _codes(site: Site, book: Array, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    codes = np.empty(site.shape, np.uint8)
    view = codes.T if site.across else codes.reshape(site.rows, -1)
    for rows in row_slices(site.matrix):
        view[rows] = codes_of(site.matrix[rows], book)
    if dtype == ir.DataType.UINT8:
        return ir.Tensor(codes, name=name)
    return packed(codes, dtype, site.shape, name)
