"""Facts about channels that must be removed together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """Where the channels of a group lie along one axis of a value or constant.

    `places` [channels, width]: the indices along `axis` that each channel owns. A Conv's output has
    width 1; behind a Flatten of [N, C, H, W] it is H x W; heads of 32 dims have width 32.
    """

    value: ir.Value
    axis: int
    places: Places


@dataclass(frozen=True, eq=False)
class Port:
    """A node whose constant weight makes or reads the channels of a group; `part` is the weight's.

    Its node is a Conv, ConvTranspose, Gemm or MatMul. A weight may also be computed of constants
    alone, as behind a DequantizeLinear; `part` is then of that value.
    """

    node: ir.Node
    part: Part


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can be removed one by one, each with all that it owns in every part.

    `parts` holds values and constants in graph order. `makers` multiply into the channels,
    `readers` multiply them away, `depthwise` convolve each by itself. `name` is the label of the
    first maker's node.
    """

    name: str
    channels: int
    parts: tuple[Part, ...]
    makers: tuple[Port, ...]
    readers: tuple[Port, ...]
    depthwise: tuple[Port, ...] = ()


@dataclass(frozen=True, eq=False)
class Channels:
    """The groups of a model, and the reason for each node whose channels must all stay."""

    groups: tuple[Group, ...]
    pinned: Mapping[ir.Node, str] = field(default_factory=dict)
