"""The forms of a convolution: a small one and 1x1, k x 1 and 1 x k, or one between two of 1x1."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from onnxcomp.cost import Dims
from onnxcomp.graph import Array
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._forms import (
    Against,
    Chain,
    Form,
    Part,
    Site,
    cheaper,
    ranks_below,
)
from onnxcomp.passes.factorize._kernel import Kernel, Seen, by_input
from onnxcomp.passes.factorize._principal import of_columns
from onnxcomp.passes.factorize._products import against_plain, means_of, shifts_for

KINDS = ("channel", "spatial", "tucker")
# Ranks of a spatial form that are tried, and shares of energy that give those of a Tucker form.
LEVELS = 10
ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)


def convolution_site(
    group: tuple[Layer, ...],
    seen: Seen,
    shapes: dict[ir.Value, Dims],
    kinds: Sequence[str],
    step: int,
    *,
    smaller: bool,
) -> Site:
    """Return the forms of Convs that share a kernel; ranks are multiples of `step`."""
    kernel = Kernel(group, seen, shapes)
    _, outs, _ = kernel.positions()
    macs, size = outs * kernel.weight.size, kernel.weight.size
    found: dict[tuple[str, tuple[int, ...]], Form | None] = {}

    def form_of(kind: str, ranks: tuple[int, ...]) -> Form | None:
        if kind in KINDS and (kind, ranks) not in found:
            found[kind, ranks] = _form(kernel, kind, ranks)
        return found.get((kind, ranks))

    forms: list[Form] = []
    for kind in kinds:
        known = [form_of(kind, ranks) for ranks in _ranks(kernel, kind, step)]
        forms += [form for form in known if form is not None]
    least = cheaper(forms, macs, size, smaller=smaller)
    x_shape = shapes.get(group[0].source, ())
    against = _against(kernel) if kernel.outputs else None
    return Site(group, macs, size, x_shape, least, form_of, against)


def _ranks(kernel: Kernel, kind: str, step: int) -> list[tuple[int, ...]]:
    """Return the ranks to try of a kind."""
    out, into, *spans = kernel.weight.shape
    size = kernel.weight.size
    if kind == "channel":
        return [(rank,) for rank in ranks_below(size / (size // out + out), step)]
    if kind == "spatial":
        if not _is_spatial(kernel.weight):
            return []
        most = size / (into * spans[0] + out * spans[1])
        return [(rank,) for rank in ranks_below(most, step, levels=LEVELS)]
    if prod(spans) == 1:
        return []
    pairs = [
        (_up(kernel.inputs.rank_for(energy), step), _up(kernel.spectrum.rank_for(energy), step))
        for energy in ENERGIES
    ]
    return [pair for pair in dict.fromkeys(pairs) if pair[0] < into and pair[1] < out]


def _up(rank: int, step: int) -> int:
    return max(step, -(-rank // step) * step)


def _is_spatial(weight: Array) -> bool:
    return weight.ndim == 4 and min(weight.shape[2:]) > 1


def _form(kernel: Kernel, kind: str, ranks: tuple[int, ...]) -> Form | None:
    if min(ranks) < 1 or len(ranks) != (2 if kind == "tucker" else 1):
        return None
    return {"channel": _channel, "spatial": _spatial, "tucker": _tucker}[kind](kernel, ranks)


# ---------------------------------------------------------------- the three kinds
def _channel(kernel: Kernel, ranks: tuple[int, ...]) -> Form | None:
    """Return U (U^T W): the kernel with `rank` filters, and 1x1."""
    [rank] = ranks
    out, into, *spans = kernel.weight.shape
    if rank > kernel.spectrum.basis.shape[1]:
        return None
    _, outs, _ = kernel.positions()
    params = rank * (kernel.weight.size // out + out) + _new_biases(kernel)

    def build() -> Chain:
        basis = kernel.spectrum.basis[:, :rank]
        down = (basis.T @ kernel.matrix).reshape(rank, into, *spans)
        up = basis.reshape(out, rank, *(1 for _ in spans))
        means = means_of(kernel.group, kernel.outputs)
        attributes = _without(kernel.group[0].node, "kernel_shape")
        parts = Part("Conv", down, attributes), Part("Conv", up)
        return Chain(parts, shifts_for(basis, means, len(kernel.group)))

    macs = outs * rank * (kernel.weight.size // out + out)
    return Form("channel", ranks, macs, params, float(kernel.spectrum.expected[rank]), build)


def _spatial(kernel: Kernel, ranks: tuple[int, ...]) -> Form | None:
    """Return A then B with W[n, c, i, j] = sum over r of A[r, c, i] B[n, r, j].

    From the singular vectors of W [in * kh, out * kw], with white input channels. Source: Jaderberg
    et al., 2014 (arXiv 1405.3866).
    """
    [rank] = ranks
    if not _is_spatial(kernel.weight):
        return None
    out, into, tall, wide = kernel.weight.shape
    if rank > min(into * tall, out * wide):
        return None
    left, values, right = kernel.halves
    scale = np.sqrt(values[:rank])
    first = (left[:, :rank] * scale).reshape(into, tall, rank)
    first = np.tensordot(kernel.seen.inverse, first, (1, 0)).transpose(2, 0, 1)
    second = (right[:rank] * scale[:, np.newaxis]).reshape(rank, out, wide).transpose(1, 0, 2)
    made = np.tensordot(second, first, (1, 0)).transpose(0, 2, 3, 1)
    _, outs, between = kernel.positions()
    macs = between * rank * into * tall + outs * rank * out * wide
    params = rank * (into * tall + out * wide) + _new_biases(kernel)
    vertical, horizontal = _split(kernel.group[0].node)
    parts = (
        Part("Conv", first[:, :, :, np.newaxis], vertical),
        Part("Conv", second[:, :, np.newaxis, :], horizontal),
    )
    chain = Chain(parts, kernel.shifts(made))
    return Form("spatial", ranks, macs, params, kernel.error(made), lambda: chain)


def _tucker(kernel: Kernel, ranks: tuple[int, ...]) -> Form | None:
    """Return 1x1, a core of the two ranks, and 1x1.

    U (U^T W) for the outputs, then V V^T for the input channels of U^T W, made white. Source: Kim
    et al., 2016 (arXiv 1511.06530).
    """
    inner, outer = ranks
    out, into, *spans = kernel.weight.shape
    if inner > into or outer > kernel.spectrum.basis.shape[1]:
        return None
    basis = kernel.spectrum.basis[:, :outer]
    narrow = np.tensordot(basis, kernel.rooted, (0, 0))  # [rank, in, *k]
    directions = of_columns(by_input(narrow)).basis[:, :inner]
    down = directions.T @ kernel.seen.inverse
    core = np.moveaxis(np.tensordot(narrow, directions, (1, 0)), -1, 1)
    wide = np.moveaxis(np.tensordot(core, down, (1, 0)), -1, 1)
    made = np.tensordot(basis, wide, (1, 0))
    ins, outs, _ = kernel.positions()
    taps = prod(spans)
    macs = ins * into * inner + outs * (taps * inner * outer + outer * out)
    params = into * inner + taps * inner * outer + outer * out + _new_biases(kernel)
    ones = (1,) * len(spans)
    parts = (
        Part("Conv", down.reshape(inner, into, *ones)),
        Part("Conv", core, _without(kernel.group[0].node, "kernel_shape")),
        Part("Conv", basis.reshape(out, outer, *ones)),
    )
    chain = Chain(parts, kernel.shifts(made))
    return Form("tucker", ranks, macs, params, kernel.error(made), lambda: chain)


def _new_biases(kernel: Kernel) -> int:
    if not kernel.outputs:
        return 0
    missing = [layer for layer in kernel.group if _has_no_bias(layer.node)]
    return len(missing) * len(kernel.weight)


def _has_no_bias(node: ir.Node) -> bool:
    return len(node.inputs) < 3 or node.inputs[2] is None


def _without(node: ir.Node, *names: str) -> tuple[ir.Attr, ...]:
    return tuple(attr for attr in node.attributes.values() if attr.name not in names)


def _split(node: ir.Node) -> tuple[tuple[ir.Attr, ...], tuple[ir.Attr, ...]]:
    """Return the attributes of k x 1 and of 1 x k: each has those of its own axis."""
    halves: list[tuple[ir.Attr, ...]] = []
    strides = tuple(node.attributes.get_ints("strides", (1, 1)))
    dilations = tuple(node.attributes.get_ints("dilations", (1, 1)))
    pads = tuple(node.attributes.get_ints("pads", (0,) * 4))
    for axis in (0, 1):
        own = [1 if place == axis else 0 for place in (0, 1)]
        given = [
            ir.AttrInt64s("strides", _kept(strides, own, 1)),
            ir.AttrInt64s("dilations", _kept(dilations, own, 1)),
        ]
        if "pads" in node.attributes:
            given.append(ir.AttrInt64s("pads", _kept(pads, own * 2, 0)))
        halves.append((*_without(node, "kernel_shape", "strides", "dilations", "pads"), *given))
    return halves[0], halves[1]


def _kept(numbers: Sequence[int], own: Sequence[int], default: int) -> list[int]:
    return [number if mine else default for number, mine in zip(numbers, own, strict=True)]


def _against(kernel: Kernel) -> Against:
    """Return what gives the errors of a form, and of the plain channel form of its last rank."""
    plain = against_plain(kernel.matrix, kernel.outputs, kernel.spectrum)
    return lambda form: plain(form) if form.kind == "channel" else (form.error, form.error)
