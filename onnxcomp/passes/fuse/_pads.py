"""What a Pad adds, whatever form it has."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, array, integers


def added_pads(pad: ir.Node) -> tuple[int, ...] | None:
    """Return the pads [before of each axis, after of each axis] of a Pad by a constant.

    None when the mode is another, and when the pads are not constant, crop, or are of named axes.
    """
    if pad.attributes.get_string("mode", "constant") != "constant":
        return None
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return None
    pads = integers(pad.inputs[1]) if len(pad.inputs) > 1 else pad.attributes.get_ints("pads")
    return None if pads is None or min(pads, default=0) < 0 else tuple(pads)


def fill_of(pad: ir.Node, kind: ir.DataType | None) -> Array | None:
    """Return the number that a Pad of this type pads with, or None when it is not known."""
    if kind is None or kind is ir.DataType.STRING:
        return None
    if len(pad.inputs) > 2 and pad.inputs[2] is not None:
        return array(pad.inputs[2])
    return np.array(pad.attributes.get_float("value", 0.0)).astype(kind.numpy())
