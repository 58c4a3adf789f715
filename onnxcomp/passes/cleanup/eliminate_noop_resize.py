"""Resize and Upsample to the size that an image has."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import array, is_op
from onnxcomp.passes._broadcast import same_dims
from onnxcomp.registry import Effect, leave, register

# Where pixel i of the result lies at pixel i of the input when the scale is 1. The other modes
# shift by half a pixel, or cut out a region.
COORDINATES = frozenset(
    {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}
)


@register(Effect.EXACT, ops=["Resize", "Upsample"])
def eliminate_noop_resize(graph: ir.Graph, opset: int) -> int:
    """Drop Resize and Upsample nodes that scale every axis by 1.

    Each pixel then lies on one of the input, and nearest, linear and cubic interpolation all return
    it. Either the scales are a constant of ones, or sizes are given and the result surely has the
    shape of the input.

    Left alone when that cannot be proved; with scales near 1, which move pixels even where they
    keep the size; with `tf_half_pixel_for_nn`, which shifts, and `tf_crop_and_resize`, which cuts;
    with sizes that a `keep_aspect_ratio_policy` changes; and when the result is a graph output and
    the source cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Resize", "Upsample") or not _scales_nothing(node, opset):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _scales_nothing(node: ir.Node, opset: int) -> bool:
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode not in COORDINATES:
        return False
    if "scales" in node.attributes:
        return set(node.attributes.get_floats("scales")) == {1.0}
    given = _operand(node, 1 if opset < 11 else 2)
    scales = array(given)
    if given is not None and (scales is None or scales.size > 0):
        return scales is not None and bool((scales == 1).all())
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    return _operand(node, 3) is not None and same_dims(node.inputs[0], node.outputs[0])


def _operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None
