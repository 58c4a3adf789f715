"""Convolutions, pools, matrix products and normalizations."""

from __future__ import annotations

import math
from typing import Any

from random_graphs.builder import BATCH, ROUNDING, Graph, is_image
from random_graphs.elementwise import combined
from random_graphs.layouts import pad


def convolution(g: Graph) -> None:
    x = g.find(is_image)
    if x is None:
        return
    if g.flip(4):
        padded = pad(g, x)
        x = padded if padded is not None and is_image(padded) else x
    channels, spatial = int(x.shape[1]), [int(dim) for dim in x.shape[2:]]
    if not channels:
        return
    group = g.pick([n for n in (1, 2, 4) if channels % n == 0])
    out = group * g.number(1, 3)
    kernel = [g.number(1, min(3, dim)) for dim in spatial]
    strides = [g.number(1, 2) for _ in spatial]
    dilations = [g.number(1, 2) if g.flip(4) else 1 for _ in spatial]
    pads = [g.number(0, 1) for _ in spatial] * 2 if g.flip() else [0] * (2 * len(spatial))
    fan_in = channels // group * math.prod(kernel)
    bias = [g.floats(out)] if g.flip() else []
    common: dict[str, Any] = {"group": group if group > 1 or g.flip() else None}
    common["strides"] = strides if max(strides) > 1 or g.flip() else None
    common["kernel_shape"] = kernel if g.flip() else None
    extra = bias[0].bound if bias else 0.0
    bound = 2 * x.bound + extra
    noise = 2 * x.noise + ROUNDING * bound
    if g.flip(5):
        w = g.weight(max(1, channels // group * 4), channels, out // group, *kernel)
        bound, noise = bound * math.prod(kernel), noise * math.prod(kernel)
        sizes = [(d - 1) * s + k for d, s, k in zip(spatial, strides, kernel, strict=True)]
        g.add("ConvTranspose", [x, w, *bias], (x.shape[0], out, *sizes), bound=bound, noise=noise,
              **common)  # fmt: skip
        return
    w = g.weight(fan_in, out, channels // group, *kernel)
    if g.flip(6):
        common["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        same = common["auto_pad"] != "VALID"
        sizes = [
            -(-d // s) if same else (d - k) // s + 1
            for d, k, s in zip(spatial, kernel, strides, strict=True)
        ]
    else:
        common["pads"] = pads if any(pads) or g.flip() else None
        common["dilations"] = dilations if max(dilations) > 1 or g.flip() else None
        sizes = [
            (d + 2 * p - (k - 1) * e - 1) // s + 1
            for d, p, k, e, s in zip(spatial, pads, kernel, dilations, strides, strict=False)
        ]
    if min(sizes) >= 1:
        g.add("Conv", [x, w, *bias], (x.shape[0], out, *sizes), bound=bound, noise=noise, **common)


def batch_norm(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 2 and item.shape[1] != BATCH)
    if x is None:
        return
    channels = int(x.shape[1])
    scale, bias, mean = (g.floats(channels) for _ in range(3))
    var = g.positives(channels)
    slope = 2 * scale.bound
    bound = slope * (x.bound + mean.bound) + bias.bound
    noise = slope * x.noise + ROUNDING * bound
    epsilon = g.pick([None, 1e-3, 0.5])
    inputs = [x, scale, bias, mean, var]
    g.add("BatchNormalization", inputs, x.shape, bound=bound, noise=noise, epsilon=epsilon)


def pooling(g: Graph) -> None:
    x = g.find(is_image)
    if x is None:
        return
    spatial = [int(dim) for dim in x.shape[2:]]
    noise = x.noise + ROUNDING * x.bound
    if g.flip(3):
        op = g.pick(["GlobalAveragePool", "GlobalMaxPool"])
        exact = op == "GlobalMaxPool"
        shape = (*x.shape[:2], *[1] * len(spatial))
        g.add(op, [x], shape, bound=x.bound, noise=x.noise if exact else noise)
        return
    op = g.pick(["MaxPool", "AveragePool"])
    kernel = [g.number(1, min(3, dim)) for dim in spatial]
    strides = [g.number(1, 2) for _ in spatial]
    pads = [g.number(0, 1) if size > 1 else 0 for size in kernel] * 2
    sizes = [
        (d + 2 * p - k) // s + 1 for d, p, k, s in zip(spatial, pads, kernel, strides, strict=False)
    ]
    more: dict[str, Any] = {}
    if op == "AveragePool":
        more["count_include_pad"] = 1 if g.flip() else None
    exact = op == "MaxPool"
    g.add(op, [x], (*x.shape[:2], *sizes), bound=x.bound, noise=x.noise if exact else noise,
          kernel_shape=kernel, strides=strides, pads=pads, **more)  # fmt: skip


def product(g: Graph) -> None:
    """MatMul or Gemm with a constant, perhaps with a bias after it."""
    x = g.find(lambda item: item.rank >= 2 and item.shape[-1] != BATCH and item.shape[-1] != 0)
    if x is None:
        return
    inner, out = int(x.shape[-1]), g.number(1, 5)
    bound = 2 * x.bound
    noise = 2 * x.noise + ROUNDING * bound
    if x.rank == 2 and g.flip():
        transposed = g.flip()
        w = g.weight(inner, *((out, inner) if transposed else (inner, out)))
        shapes = [(out,), (1, out), (1,), (), (1, 1)]
        c = g.floats(*g.pick(shapes)) if g.flip() or g.opset < 11 else None
        bound += 2 * c.bound if c is not None else 0.0
        g.add("Gemm", [x, w, *([c] if c is not None else [])], (x.shape[0], out), bound=2 * bound,
              noise=2 * noise + ROUNDING * bound, transB=int(transposed),
              alpha=g.pick([None, 0.5, 2.0]), beta=g.pick([None, 0.5, 2.0]))  # fmt: skip
        return
    stack = (int(x.shape[0]),) if x.rank == 3 and x.shape[0] != BATCH and g.flip() else ()
    w = g.weight(inner, *stack, inner, out)
    m = g.add("MatMul", [x, w], (*x.shape[:-1], out), bound=bound, noise=noise)
    if m is not None and g.flip():
        b = g.floats(*g.pick([(out,), (1, out), (1,), (out,)]))
        bound, noise = combined("Add", m, b)
        g.add("Add", [m, b] if g.flip() else [b, m], m.shape, bound=bound, noise=noise)


def normalization(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 2 and item.shape[-1] not in (BATCH, 0))
    if x is None:
        return
    last = int(x.shape[-1])
    op = g.pick(["Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization"])
    if op in ("Softmax", "LogSoftmax"):
        bound = 1.0 if op == "Softmax" else 2 * x.bound + 8
        noise = 2 * x.noise + ROUNDING * max(bound, x.bound)
        axis = g.axis(g.number(0, x.rank - 1), x.rank)
        g.add(op, [x], x.shape, bound=bound, noise=noise, axis=axis)
    elif op == "LayerNormalization" and g.opset >= 17:
        scale, bias = g.floats(last), g.floats(last)
        bound = math.sqrt(last) * scale.bound + bias.bound
        noise = 3 * scale.bound * x.noise + 4 * ROUNDING * (bound + x.bound)
        g.add(op, [x, scale, bias], x.shape, bound=bound, noise=noise, axis=-1, epsilon=0.5)
    elif op == "InstanceNormalization" and is_image(x) and x.elements:
        scale, bias = g.floats(int(x.shape[1])), g.floats(int(x.shape[1]))
        bound = 6 * scale.bound + bias.bound
        noise = 3 * scale.bound * x.noise + 4 * ROUNDING * (bound + x.bound)
        g.add(op, [x, scale, bias], x.shape, bound=bound, noise=noise, epsilon=0.5)
