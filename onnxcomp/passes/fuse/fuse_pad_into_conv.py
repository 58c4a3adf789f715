"""Pad followed by Conv."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import attributes_except, node_like, replace
from onnxcomp.graph import Array, array, integers, is_op, rank, sole_consumer
from onnxcomp.registry import Effect, leave, register

INPUTS_FROM, AXES_FROM = 11, 18


@register(Effect.CLOSE, ops=["Pad"])
def fuse_pad_into_conv(graph: ir.Graph, opset: int) -> int:
    """Fold a Pad with zeros into the padding of the Conv that alone reads it.

    pads' = pads of the Conv + spatial pads of the Pad. The padded copy of the activations is never
    made.

    Left alone when the pads are not constant, negative, or on the batch or channel axis; when the
    mode is not `constant` or the value not 0; and when the Conv computes its padding itself
    (`auto_pad` SAME). Pools are another matter: they do not pad with zeros.
    """
    fused = 0
    for pad in graph:
        if not is_op(pad, "Pad"):
            continue
        conv = sole_consumer(pad.outputs[0])
        if conv is None or not is_op(conv, "Conv") or conv.inputs[0] is not pad.outputs[0]:
            continue
        if not _pads_with_zero(pad, opset):
            leave(pad, "it does not pad with constant zeros")
            continue
        auto_pad = conv.attributes.get_string("auto_pad", "NOTSET")
        dims = rank(conv.inputs[1])
        pads = _pads(pad, opset, dims) if dims is not None else None
        unknown = pads is None or auto_pad not in ("NOTSET", "VALID")
        if pads is None or dims is None or unknown:
            leave(pad, "its pads are not known, or the convolution computes its own")
            continue
        before, after = pads[:dims], pads[dims:]
        if min(pads, default=0) < 0 or any((*before[:2], *after[:2])):
            leave(pad, "it crops, or pads the batch or channel axis")
            continue
        own = conv.attributes.get_ints("pads", ()) if auto_pad == "NOTSET" else ()
        own = own or [0] * (2 * (dims - 2))
        added = [a + b for a, b in zip(own, (*before[2:], *after[2:]), strict=True)]
        kept = attributes_except(conv, "pads", "auto_pad")
        new = node_like(
            conv, [pad.inputs[0], *conv.inputs[1:]], [*kept, ir.AttrInt64s("pads", added)]
        )
        replace([pad, conv], new)
        fused += 1
    return fused


def _pads_with_zero(pad: ir.Node, opset: int) -> bool:
    if pad.attributes.get_string("mode", "constant") != "constant":
        return False
    if opset < INPUTS_FROM:
        return pad.attributes.get_float("value", 0.0) == 0.0
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    found: Array | None = array(value)
    return value is None or (found is not None and not found.any())


def _pads(pad: ir.Node, opset: int, dims: int) -> tuple[int, ...] | None:
    """Return pads as [before of each axis, after of each axis], or None when they are not known."""
    if opset < INPUTS_FROM:
        given = pad.attributes.get("pads") or pad.attributes.get("paddings")
        pads = None if given is None or given.is_ref() else tuple(given.as_ints())
    else:
        pads = integers(pad.inputs[1])
    if pads is None:
        return None
    axes: tuple[int, ...] | None = tuple(range(dims))
    if opset >= AXES_FROM and len(pad.inputs) > 3 and pad.inputs[3] is not None:
        axes = integers(pad.inputs[3])
    if axes is None or len(pads) != 2 * len(axes):
        return None
    full = [0] * (2 * dims)
    for index, axis in enumerate(axes):
        full[axis % dims] = pads[index]
        full[dims + axis % dims] = pads[len(axes) + index]
    return tuple(full)
