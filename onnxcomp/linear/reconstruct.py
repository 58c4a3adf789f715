"""Layers of a changed model fitted, one after the other, to what the original makes there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import concrete_shapes, each_sample, one_sample
from onnxcomp.graph import Array, label
from onnxcomp.linear.biases import replace_bias
from onnxcomp.linear.effort import find_unsolvable, position_count, sample_limit
from onnxcomp.linear.gram import CHECKED, SEED
from onnxcomp.linear.layers import Layer, replace_weight
from onnxcomp.linear.least_squares import (
    Affine,
    Equations,
    Solved,
    error_of,
    solve,
)
from onnxcomp.linear.pairs import Fit, Pair, find_pairs
from onnxcomp.linear.pieces import Pieces
from onnxcomp.linear.statistics import Matched, Rows, match
from onnxcomp.registry import leave

__all__ = ["Fit", "Fitted", "reconstruct"]

# Bytes of values that are held of each of the two models.
MEMORY = 200_000_000
# Rows held out, below which they say nothing.
HELD_ROWS = 4
TOO_FEW = "too few finite rows of its inputs and outputs are known"
# A relative error that float32 leaves anyway.
NOTHING = 1e-10


@dataclass(frozen=True)
class Fitted:
    """What fitting made of a layer: the relative error over the samples held out.

    The error is the sum of squares over that of the outputs wanted.
    """

    node: str
    before: float
    after: float


def reconstruct(
    student: ir.Model, teacher: ir.Model, fits: Sequence[Fit], samples: Samples
) -> list[Fitted]:
    """Fit layers of a student, in place, to the outputs of its teacher, and return what changed.

    Layers are taken in graph order. Each sees the inputs that the student itself makes, with all
    before it fitted, and gets the weight and bias whose outputs are closest, before the activation,
    to the teacher's (`least_squares.solve`). Where the output is only added to another one, the sum
    is to come closest. One that cannot be solved for, or does not get better, has the mean and
    deviation of its outputs matched. Either counts only when the error falls on every fourth
    sample, which is held out. A normalization behind a layer keeps its statistics: they are those
    of the outputs that the layer is fitted to.

    Raises `ModelError` for a label that no node has. Source: He et al., 2017 (arXiv 1707.06168).
    """
    pairs = find_pairs(student, teacher, fits)
    first = next(iter(samples), None) if pairs else None
    if first is None:
        return []
    shapes = concrete_shapes(teacher, first)
    limit = sample_limit(teacher, one_sample(teacher, first), shapes)
    single = (each for batch in samples for each in each_sample(teacher, batch))
    feeds = list(itertools.islice(single, limit))
    own = Pieces(student, feeds, limit, memory=MEMORY)
    held = [name for pair in pairs for name in pair.held]
    exact = Pieces(teacher, feeds, limit, held=held, memory=MEMORY)
    reasons = find_unsolvable(pairs, len(own), shapes)
    found = (_fit(student.graph, pair, own, exact, reasons.get(pair, "")) for pair in pairs)
    return [each for each in found if each is not None]


# ---------------------------------------------------------------- one layer
def _fit(graph: ir.Graph, pair: Pair, own: Pieces, exact: Pieces, reason: str) -> Fitted | None:
    layer, node = pair.layer, pair.layer.node
    names = [value.name or "" for value in (layer.source, pair.operand) if value is not None]
    given = own.before(node, names)
    wanted = _targets(pair, given, exact)
    name = label(node)
    if not reason:
        solved = _solve(pair, [source for source, *_ in given], wanted)
        if isinstance(solved, Solved):
            _replace(graph, pair, solved.affine)
            return Fitted(name, solved.before, solved.after)
        if not solved:
            return None
        reason = solved
    made = own.run_to(node)
    matched = _match(pair, made, wanted)
    if matched is None:
        leave(node, reason)
        return None
    _move(graph, pair, matched, made)
    return Fitted(name, matched.before, matched.after)


def _targets(pair: Pair, given: Sequence[Sequence[Array]], exact: Pieces) -> list[Array]:
    """Return what the layer should make for each sample that both models have."""
    wanted = [_kept(pair, data) for data in exact.take(pair.wanted.name or "")]
    if pair.total is None:
        return wanted
    totals = [_kept(pair, data) for data in exact.take(pair.total.name or "")]
    operands = [operand for _, operand in given]
    # A sum that is larger than the output, or an operand that is smaller, has no such target.
    if any(t.shape != w.shape or o.shape != w.shape
           for t, w, o in zip(totals, wanted, operands, strict=False)):  # fmt: skip
        return wanted
    return [total - operand for total, operand in zip(totals, operands, strict=False)]


def _kept(pair: Pair, data: Array) -> Array:
    axis = pair.layer.axis
    if pair.kept is None or data.ndim < abs(axis) or pair.kept.max() >= data.shape[axis]:
        return data
    return np.take(data, pair.kept, axis=axis)


def _solve(pair: Pair, sources: Sequence[Array], wanted: Sequence[Array]) -> Solved | str:
    """Return the solution, or why there is none; nothing where the layer has no error."""
    layer = pair.layer
    count = position_count(layer, len(sources))
    for source, target in zip(sources, wanted, strict=False):
        if _shape(layer, layer.positions(source)) != _parted(layer, target):
            return "its output has another shape than the original's"

    def rows(index: int) -> Rows:
        first, second = (np.random.default_rng((SEED, index)) for _ in range(2))
        x = layer.inputs_at(sources[index], count, first)
        return x, layer.outputs_at(wanted[index], count, second)

    equations = Equations(layer.groups, layer.rows, layer.columns)
    shared = min(len(sources), len(wanted))
    for x, y in _parts(rows, shared, held=True):
        equations.hold_out(x, y)
    if equations.held_count < HELD_ROWS:
        return TOO_FEW
    present = Affine(layer.matrices, _bias(pair))
    if error_of(present, equations) < NOTHING:
        return ""
    for x, y in _parts(rows, shared, held=False):
        equations.add(x, y)
    if equations.is_empty:
        return TOO_FEW
    solved = solve(equations, present, layer.taps, has_bias=pair.bias is not None)
    return solved or "the samples held out say that its error does not fall"


def _shape(layer: Layer, positions: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    return positions, layer.groups * layer.rows


def _parted(layer: Layer, data: Array) -> tuple[tuple[int, ...], int]:
    """Return the shape of an output beside its channels, and how many of these there are."""
    if data.ndim < abs(layer.axis) + (layer.axis > 0):
        return data.shape, 0
    axis = layer.axis % data.ndim
    return (*data.shape[:axis], *data.shape[axis + 1 :]), data.shape[axis]


def _parts(rows: Callable[[int], Rows], samples: int, *, held: bool) -> Iterator[Rows]:
    """Yield the rows of the samples held out, or of the others, that are finite.

    Of fewer than four samples every fourth row is held out.
    """
    for index in range(samples):
        whole = samples >= CHECKED
        if whole and (index % CHECKED == CHECKED - 1) != held:
            continue
        x, y = rows(index)
        if not whole:
            mine = (np.arange(x.shape[1]) % CHECKED == CHECKED - 1) == held
            x, y = x[:, mine], y[:, mine]
        if x.shape[1] and np.isfinite(x).all() and np.isfinite(y).all():
            yield x, y


def _bias(pair: Pair) -> Array:
    layer = pair.layer
    channels = layer.groups * layer.rows
    vector = None if pair.bias is None else pair.bias.vector(channels)
    vector = np.zeros(channels, dtype=np.float32) if vector is None else vector
    return vector.reshape(layer.groups, layer.rows)


def _replace(graph: ir.Graph, pair: Pair, affine: Affine) -> None:
    replace_weight(graph, pair.layer, affine.weight, "fitted")
    if pair.bias is not None:
        replace_bias(graph, pair.bias, affine.bias, "fitted")


# ---------------------------------------------------------------- its mean and deviation
def _match(pair: Pair, made: Sequence[Array], wanted: Sequence[Array]) -> Matched | None:
    """Return what brings the outputs to the mean and deviation wanted, where that helps."""
    layer = pair.layer
    pairs = list(zip(made, wanted, strict=False))
    if pair.bias is None or any(own.shape != target.shape for own, target in pairs):
        return None
    bias = _bias(pair)[:, np.newaxis] if pair.bias.node is not layer.node else 0.0
    count = position_count(replace(layer, columns=1), len(pairs))

    def rows(index: int) -> Rows:
        own, target = (
            layer.outputs_at(data, count, np.random.default_rng((SEED, index)))
            for data in pairs[index]
        )
        return own + bias, target

    held, others = (list(_parts(rows, len(pairs), held=held)) for held in (True, False))
    if not others or sum(own.shape[1] for own, _ in held) < HELD_ROWS:
        return None
    return match(others, held)


def _move(graph: ir.Graph, pair: Pair, matched: Matched, made: Sequence[Array]) -> None:
    """Put factors and shifts into the weight and bias, and into what was made with them."""
    layer, bias = pair.layer, _bias(pair)
    weight = layer.matrices * matched.factor[..., np.newaxis]
    _replace(graph, pair, Affine(weight, bias * matched.factor + matched.shift))
    own_bias = pair.bias is not None and pair.bias.node is layer.node
    for data in made:
        shape = [-1 if axis == layer.axis % data.ndim else 1 for axis in range(data.ndim)]
        data *= matched.factor.reshape(shape).astype(data.dtype)
        if own_bias:
            data += matched.shift.reshape(shape).astype(data.dtype)
