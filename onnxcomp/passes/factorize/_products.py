"""The forms of a product with a constant matrix: two products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.cost import Dims, node_macs
from onnxcomp.graph import Array, is_op, sole_consumer
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._forms import Against, Chain, Form, Part, Site, cheaper, ranks_below
from onnxcomp.passes.factorize._moments import Split
from onnxcomp.passes.factorize._principal import (
    Spectrum,
    energy_without,
    of_outputs,
    of_weight,
)
from onnxcomp.passes.factorize._rewrite import can_shift, own_bias

KIND = "pair"


def product_site(
    group: tuple[Layer, ...],
    splits: Sequence[Split],
    shapes: dict[ir.Value, Dims],
    step: int,
    *,
    smaller: bool,
) -> Site:
    """Return the forms of layers that share a matrix W [rows, columns].

    `splits` are the moments of their outputs; none where only W is to count, as it does where a
    bias is no constant vector. Ranks are multiples of `step`.
    """
    layer = group[0]
    alpha = layer.node.attributes.get_float("alpha", 1.0)
    weight = alpha * layer.matrices[0].astype(np.float64)
    splits = splits if all(can_shift(each) for each in group) else ()
    spectrum = of_outputs(splits, weight) if splits else of_weight(weight)
    means = means_of(group, splits)
    macs = sum(node_macs(each.node, shapes) or 0 for each in group)
    positions, both = macs / weight.size, sum(weight.shape)
    biases = sum(layer.rows for each in group if splits and _has_no_bias(each.node))

    def form_of(kind: str, ranks: tuple[int, ...]) -> Form | None:
        [rank] = ranks
        if kind != KIND or not 0 < rank <= min(weight.shape):
            return None
        return Form(
            KIND,
            ranks,
            int(positions * rank * both),
            rank * both + biases,
            float(spectrum.expected[min(rank, len(spectrum.expected) - 1)]),
            lambda: _chain(layer.node, weight, spectrum, rank, means, len(group)),
        )

    found = [form_of(KIND, (rank,)) for rank in ranks_below(weight.size / both, step)]
    forms = [form for form in found if form is not None]
    x_shape = shapes.get(layer.source, (1, layer.columns))
    return Site(
        group,
        macs,
        weight.size,
        x_shape,
        cheaper(forms, macs, weight.size, smaller=smaller),
        form_of,
        against_plain(weight, splits, spectrum) if splits else None,
    )


def _has_no_bias(node: ir.Node) -> bool:
    if is_op(node, "MatMul"):
        reader = sole_consumer(node.outputs[0])
        return reader is None or not is_op(reader, "Add")
    return len(node.inputs) < 3 or node.inputs[2] is None


def _chain(
    node: ir.Node,
    weight: Array,
    spectrum: Spectrum,
    rank: int,
    means: Sequence[Array],
    nodes: int,
) -> Chain:
    basis = spectrum.basis[:, :rank]
    down = basis.T @ weight  # [rank, columns]
    transposed = (ir.AttrInt64("transA", 1),) if node.attributes.get_int("transA", 0) else ()
    return Chain(
        (Part(node.op_type, down.T, transposed), Part(node.op_type, basis.T)),
        shifts_for(basis, means, nodes),
    )


def means_of(group: Sequence[Layer], splits: Sequence[Split]) -> list[Array]:
    """Return the mean of W x for each node: that of its output without its bias."""
    found = []
    for layer, split in zip(group, splits, strict=False):
        bias = own_bias(layer)
        assert bias is not None
        found.append(split.whole().mean - bias)
    return found


def shifts_for(basis: Array, means: Sequence[Array], nodes: int) -> tuple[Array | None, ...]:
    """Return what the mean W x of each node loses by a projection: mean - U U^T mean."""
    if not means:
        return (None,) * nodes
    return tuple(mean - basis @ (basis.T @ mean) for mean in means)


def against_plain(weight: Array, splits: Sequence[Split], spectrum: Spectrum) -> Against:
    """Return what gives the errors of a rank: of singular vectors of the weight, and of these."""
    scatter = np.asarray(sum(split.whole().scatter for split in splits))

    def errors(form: Form) -> tuple[float, float]:
        rank = form.ranks[-1]
        plain = of_weight(weight).basis
        return energy_without(plain, rank, scatter), float(spectrum.errors[rank])

    return errors
