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
from onnxcomp.linear.gram import CHECKED
from onnxcomp.linear.layers import replace_weight
from onnxcomp.linear.least_squares import Affine, Equations, Solved, error_of, solve
from onnxcomp.linear.pairs import Fit, Pair, find_pairs
from onnxcomp.linear.pieces import Pieces
from onnxcomp.linear.statistics import Matched, Rows, match
from onnxcomp.linear.wanted import Wanted, find_wanted, generator, made_by, parted
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
    sources, *operands = zip(*own.before(node, names), strict=True)
    wanted = find_wanted(pair, operands[0] if operands else (), exact)
    if not reason:
        solved = _solve(pair, sources, wanted)
        if isinstance(solved, Solved):
            _replace(graph, pair, solved.affine)
            return Fitted(label(node), solved.before, solved.after)
        if not solved:
            return None
        reason = solved
    made = own.run_to(node)
    matched = _match(pair, made, wanted)
    if matched is None:
        leave(node, reason)
        return None
    _move(graph, pair, matched, made)
    return Fitted(label(node), matched.before, matched.after)


def _solve(pair: Pair, sources: Sequence[Array], wanted: Wanted) -> Solved | str:
    """Return the solution, or why there is none; nothing where the layer has no error."""
    layer, shared = pair.layer, min(len(sources), len(wanted))
    count = position_count(layer, len(sources))
    shapes = (made_by(layer, layer.positions(source)) for source in sources[:shared])
    if any(shape != wanted.shape(index) for index, shape in enumerate(shapes)):
        return "its output has another shape than the original's"

    def rows(index: int) -> Rows:
        x = layer.inputs_at(sources[index], count, generator(index))
        return x, wanted.rows(index, count)

    equations = Equations(layer.groups, layer.rows, layer.columns)
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
def _match(pair: Pair, made: Sequence[Array], wanted: Wanted) -> Matched | None:
    """Return what brings the outputs to the mean and deviation wanted, where that helps."""
    layer, shared = pair.layer, min(len(made), len(wanted))
    shapes = (parted(data, layer.axis) for data in made[:shared])
    if pair.bias is None or any(shape != wanted.shape(index) for index, shape in enumerate(shapes)):
        return None
    bias = _bias(pair)[:, np.newaxis] if pair.bias.node is not layer.node else 0.0
    count = position_count(replace(layer, columns=1), shared)

    def rows(index: int) -> Rows:
        own = layer.by_group(layer.channels_at(made[index], count, generator(index)))
        return own + bias, wanted.rows(index, count)

    held, others = (list(_parts(rows, shared, held=held)) for held in (True, False))
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
