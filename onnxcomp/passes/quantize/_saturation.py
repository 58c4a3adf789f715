"""Weights that cannot overflow where pairs of u8 x s8 products are added in 16 bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, is_op

# 255 * (q0 + q1) <= 32767 wherever q0 + q1 <= 128; a little less leaves room for their rounding.
PAIR_MAX = 127.99
# Two weights of 7 bits never overflow. What is this near to a whole step was rounded to it.
SAFE_MAX = 64
WHOLE = 1e-3


def safe_scales(node: ir.Node, weight: Array, axis: int | None) -> Array | float:
    """Return the scales from which on no pair of a node's products can overflow int16.

    The products of u8 activations, up to 255, and two s8 weights of one sign are added by
    vpmaddubsw, which saturates: scale >= (|w0| + |w1|) / 128 rules that out. Neighbours are known
    where the kernel reads weights in their own order; of other convolutions, whose layout decides,
    any two weights of a channel count as neighbours. Rows that were rounded to steps of max |w| /
    64, which is safe, keep them. `axis` is that of the channels: one scale for each, or one for all
    where it is None.
    """
    channels = _rows(node, weight)
    ordered = not is_op(node, "Conv") or _is_pointwise(node, weight)
    scales = (_adjacent(channels) if ordered else _largest_two(channels)) / PAIR_MAX
    reach = np.abs(channels).max(axis=1, initial=0.0)
    if axis is None:
        scales, reach = (np.full(len(channels), each.max(initial=0.0)) for each in (scales, reach))
    rounded = _is_rounded(channels, reach / SAFE_MAX)
    found = np.where(rounded if axis is not None else rounded.all(), reach / SAFE_MAX, scales)
    return found if axis is not None else float(found.max(initial=0.0))


def _is_rounded(rows: Array, scales: Array) -> Array:
    """Say of each row whether it consists of whole steps of a scale already."""
    steps = rows / np.where(scales > 0, scales, 1.0)[:, None]
    return np.asarray((np.abs(steps - np.rint(steps)) < WHOLE).all(axis=1))


def _rows(node: ir.Node, weight: Array) -> Array:
    """Return a weight as [channels, K]."""
    if is_op(node, "Conv") or (is_op(node, "Gemm") and node.attributes.get_int("transB", 0) != 0):
        return weight.reshape(len(weight), -1)
    return weight.T


def _is_pointwise(node: ir.Node, weight: Array) -> bool:
    return bool(weight[0, 0].size == 1) and node.attributes.get_int("group", 1) == 1


def _adjacent(rows: Array) -> Array:
    """Return the largest sum of two neighbours of one sign in each row; a lone weight counts."""
    found = [_signed(rows, sign) for sign in (1.0, -1.0)]
    pairs = [part[:, 1:] + part[:, :-1] for part in found if part.shape[1] > 1] or found
    return np.asarray(np.maximum.reduce([pair.max(axis=1, initial=0.0) for pair in pairs]))


def _largest_two(rows: Array) -> Array:
    """Return the sum of the two largest weights of one sign in each row."""
    count = min(2, rows.shape[1])
    found = [np.sort(_signed(rows, sign), axis=1)[:, -count:].sum(axis=1) for sign in (1.0, -1.0)]
    return np.asarray(np.maximum.reduce(found))


def _signed(rows: Array, sign: float) -> Array:
    return np.maximum(rows.astype(np.float64) * sign, 0.0)
