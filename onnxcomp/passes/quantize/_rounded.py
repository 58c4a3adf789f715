"""A weight in blocks with what was measured of it, as a run that goes on finds it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.identity import digest_of_model
from onnxcomp.calibration.samples import Samples
from onnxcomp.calibration.statistics import digest_of
from onnxcomp.graph import Array
from onnxcomp.keeping import Record, is_keeping
from onnxcomp.linear.gram import SAMPLES
from onnxcomp.linear.layers import Layer
from onnxcomp.linear.taps import few
from onnxcomp.passes.quantize._block_grid import BlockFormat, BlockGrid
from onnxcomp.passes.quantize._blocks import Blocks
from onnxcomp.passes.quantize._constants import Site


@dataclass(frozen=True)
class Rounded:
    """A weight's blocks and the signal-to-noise ratio (dB) that they leave of it.

    `before` and `after` are what is reported: for rounding to nearest and for these blocks.
    """

    blocks: Blocks
    sqnr: float
    before: float
    after: float


def as_record(rounded: Rounded | None) -> Record:
    """Return the arrays that stand for a weight; none where it is not finite."""
    if rounded is None:
        return ()
    blocks = rounded.blocks
    numbers = np.array([rounded.sqnr, rounded.before, rounded.after], np.float64)
    steps = () if blocks.steps is None else (_in_bytes(blocks.steps, blocks.fmt),)
    return (numbers, blocks.grid.scale, blocks.grid.zero, *steps)


def from_record(record: Record, site: Site, fmt: BlockFormat) -> Rounded | None:
    """Return what `as_record` made arrays of."""
    if not record:
        return None
    numbers, scale, zero, *rest = record
    steps = _from_bytes(rest[0], (site.rows, site.columns), fmt) if rest else None
    return Rounded(Blocks(fmt, BlockGrid(scale, zero), steps), *map(float, numbers))


def _in_bytes(steps: Array, fmt: BlockFormat) -> Array:
    """Return steps of 4 bits two to a byte, of 8 as they are."""
    if fmt.bits == 8:
        return steps
    flat = np.append(steps.reshape(-1), np.zeros(steps.size % 2, np.uint8))
    return np.asarray(flat[0::2] | (flat[1::2] << 4))


def _from_bytes(data: Array, shape: tuple[int, int], fmt: BlockFormat) -> Array:
    if fmt.bits == 8:
        return data
    flat = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)
    return flat[: shape[0] * shape[1]].reshape(shape)


def digest_of_look(model: ir.Model, layers: Sequence[Layer], samples: Samples) -> str:
    """Return a digest of all that `look_at` depends on; nothing where nothing is kept.

    The model, the samples that are looked at, in order, and the layers: which of them are taken
    together says what ONNX Runtime can fuse.
    """
    import onnxruntime

    weights = [value.const_value for layer in layers if (value := layer.node.inputs[1]) is not None]
    if not is_keeping([weight for weight in weights if weight is not None]):
        return ""
    limit = few(model, samples, SAMPLES)
    shown = [digest_of(feeds) for feeds, _ in zip(samples, range(limit), strict=False)]
    names = [layer.source.name for layer in layers]
    return f"{onnxruntime.__version__} {digest_of_model(model)} {shown} {names}"
