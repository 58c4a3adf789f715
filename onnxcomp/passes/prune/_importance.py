"""How much each channel of a group matters, by its weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxcomp.channels.groups import Group, Port
from onnxcomp.graph import Array, all_nodes, array, is_op
from onnxcomp.passes.prune._allocation import Ranking

Scales = Mapping[str, Array]
EPSILON = 1e-30


def find_scales(*models: ir.Model) -> dict[str, Array]:
    """Return gamma and gamma / deviation, [2, channels], of what is normalized, by name.

    A normalization that was folded is found in the model from before, where its output has the
    name of that of the layer that it is now part of.
    """
    found: dict[str, Array] = {}
    for index, model in enumerate(models):
        for node in all_nodes(model):
            scale = _scale(node) if is_op(node, "BatchNormalization") else None
            # In the model at hand the layer makes what is normalized; its weight is not scaled yet.
            value = node.inputs[0] if index == 0 and node.inputs else node.outputs[0]
            if scale is not None and value is not None and value.name:
                folded = np.stack([scale[0], np.ones_like(scale[0])])
                found.setdefault(value.name, scale if index == 0 else folded)
    return found


def _scale(node: ir.Node) -> Array | None:
    gamma, variance = array(node.inputs[1]), array(node.inputs[4])
    if gamma is None or variance is None:
        return None
    epsilon = node.attributes.get_float("epsilon", 1e-5) or 0.0
    return np.stack([gamma, gamma / np.sqrt(variance + epsilon)]).astype(np.float64)


def slices(port: Port) -> Array:
    """Return what each channel has of a weight, flat: [channels, numbers]."""
    data = array(port.part.value)
    assert data is not None
    moved = np.moveaxis(data, port.part.axis, 0)[port.part.places]
    return np.asarray(moved.reshape(len(port.part.places), -1), np.float64)


def made(group: Group, scales: Scales) -> list[Array]:
    """Return what makes each channel, by maker: its weights as a normalization scales them."""
    return [_scaled(port, scales) for port in group.makers]


def _scaled(port: Port, scales: Scales) -> Array:
    rows, scale = slices(port), scales.get(port.node.outputs[0].name or "")
    places = port.part.places
    if scale is None or places.max() >= scale.shape[1]:
        return rows
    per_place = np.abs(scale[1][places])  # [channels, width]
    return np.asarray(rows * np.repeat(per_place, rows.shape[1] // places.shape[1], axis=1))


def by_l1(group: Group, scales: Scales) -> Array:
    """Return the sum of magnitudes of what makes each channel."""
    return _sum(np.abs(rows).sum(axis=1) for rows in made(group, scales))


def by_l2(group: Group, scales: Scales) -> Array:
    """Return the norm of what makes each channel."""
    return np.sqrt(_sum(np.square(rows).sum(axis=1) for rows in made(group, scales)))


def by_product(group: Group, scales: Scales) -> Array:
    """Return the norm of what makes each channel times that of what reads it.

    Depthwise layers between count as factors.
    """
    score = by_l2(group, scales)
    for port in group.depthwise:
        score = score * np.linalg.norm(_scaled(port, scales), axis=1)
    readers = (np.square(slices(port)).sum(axis=1) for port in group.readers)
    return np.asarray(score * np.sqrt(_sum(readers)))


def by_bn(group: Group, scales: Scales) -> Array | None:
    """Return |gamma| of the normalizations of each channel, or None where there is none.

    Source: Liu et al., 2017 (arXiv 1708.06519).
    """
    ports = (*group.makers, *group.depthwise)
    found = [(scales.get(port.node.outputs[0].name or ""), port.part.places) for port in ports]
    known = [
        np.abs(scale[0][places]).sum(axis=1)
        for scale, places in found
        if scale is not None and places.max() < scale.shape[1]
    ]
    return _sum(known) if known else None


def by_median(group: Group, scales: Scales) -> Array:
    """Return the distance of each filter to all the others of its layer, summed.

    What is near their geometric median is what the others can stand for. Source: He et al., 2019
    (arXiv 1811.00250).
    """
    return _sum(_distances(rows).sum(axis=1) for rows in made(group, scales))


def _distances(rows: Array) -> Array:
    squares = np.square(rows).sum(axis=1)
    apart = squares[:, None] + squares[None, :] - 2 * rows @ rows.T
    np.fill_diagonal(apart, 0.0)
    return np.asarray(np.sqrt(np.maximum(apart, 0.0)))


def _sum(found: Iterable[Array]) -> Array:
    return np.asarray(sum(found), np.float64)


BY_WEIGHTS: Mapping[str, Callable[[Group, Scales], Array | None]] = {
    "l1": by_l1,
    "l2": by_l2,
    "product": by_product,
    "bn": by_bn,
    "median": by_median,
}


def by_mean(rows: Array) -> Array:
    """Return the mean magnitude of each channel over rows [positions, channels, width]."""
    return np.asarray(np.abs(rows).mean(axis=(0, 2), dtype=np.float64))


def by_apoz(rows: Array) -> Array:
    """Return how often each channel is not zero. Source: Hu et al., 2016 (arXiv 1607.03250)."""
    return np.asarray((rows != 0).mean(axis=(0, 2), dtype=np.float64))


def by_entropy(rows: Array, bins: int = 64) -> Array:
    """Return the entropy of each channel in nats, from a histogram over the range of all.

    Source: Luo and Wu, 2017 (arXiv 1706.05791).
    """
    lo, hi = float(rows.min()), float(rows.max())
    if not hi > lo:
        return np.zeros(rows.shape[1])
    places = np.minimum((rows.astype(np.float64) - lo) / (hi - lo) * bins, bins - 1).astype(np.intp)
    shares = np.zeros((rows.shape[1], bins))
    channels = np.broadcast_to(np.arange(rows.shape[1])[None, :, None], rows.shape)
    np.add.at(shares, (channels.ravel(), places.ravel()), 1.0)
    shares /= rows.shape[0] * rows.shape[2]
    return np.asarray(-(shares * np.log(np.maximum(shares, EPSILON))).sum(axis=1))


BY_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "mean": by_mean,
    "apoz": by_apoz,
    "entropy": by_entropy,
}


def rank_by_scores(scores: Array) -> Ranking:
    """Return the order of rising scores; the error is the share of their squares that is gone."""
    order = np.argsort(scores, kind="stable")
    squares = np.square(scores[order])
    shares = np.cumsum(squares) / max(float(squares.sum()), EPSILON)
    return Ranking(order, np.concatenate([[0.0], shares]))
