"""The weights that may be zeroed, each with the layers that multiply by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.exclusion import is_excluded, split_globs
from onnxcomp.graph import Array, array, is_op, label, tensor
from onnxcomp.linear.layers import LAYER_OPS, Layer, find_layers
from onnxcomp.passes.prune._patterns import Shape
from onnxcomp.registry import leave

OPS = (*LAYER_OPS, "ConvTranspose")
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
WITH_TABLES = ("Gather", "LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Site:
    """A constant weight, the layers that read it, all in the same way, and its share of zeros."""

    layers: tuple[Layer, ...]
    ratio: float
    named: bool = False

    @property
    def layer(self) -> Layer:
        """The first of the layers."""
        return self.layers[0]

    @property
    def node(self) -> ir.Node:
        """The first of the nodes."""
        return self.layer.node

    @property
    def shape(self) -> Shape:
        """The shape of `cube`: groups, outputs, taps, inputs."""
        layer, taps = self.layer, self._taps
        if is_op(self.node, "ConvTranspose"):
            return layer.groups, layer.rows // taps, taps, layer.columns
        return layer.groups, layer.rows, taps, layer.columns // taps

    @property
    def cube(self) -> Array:
        """The weight as [groups, outputs, taps, inputs], in its own type."""
        matrices, (groups, outputs, taps, inputs) = self.layer.matrices, self.shape
        if self._inputs_first:
            return matrices.reshape(groups, outputs, inputs, taps).transpose(0, 1, 3, 2)
        return matrices.reshape(groups, outputs, taps, inputs)

    @property
    def columns(self) -> Array:
        """Where the columns of the layer's matrices stand in rows of the cube."""
        _, _, taps, inputs = self.shape
        order = np.arange(self.layer.columns)
        return order.reshape(inputs, taps).T.reshape(-1) if self._inputs_first else order

    @property
    def has_kernels(self) -> bool:
        """Whether the weight has axes of space."""
        return len(self._dims) > 2

    @property
    def _inputs_first(self) -> bool:
        return is_op(self.node, "Conv")

    @property
    def _taps(self) -> int:
        return int(np.prod(self._dims[2:]))

    @property
    def _dims(self) -> Shape:
        weight = tensor(self.node.inputs[1])
        assert weight is not None
        return tuple(weight.shape.numpy())

    def replace(self, graph: ir.Graph, cube: Array) -> None:
        """Give all layers another weight, [groups, outputs, taps, inputs]."""
        layer, old = self.layer, self.node.inputs[1]
        assert old is not None
        if self._inputs_first:
            cube = cube.transpose(0, 1, 3, 2)
        data = layer.weight_of(cube.reshape(layer.groups, layer.rows, layer.columns))
        value = add_constant(graph, np.ascontiguousarray(data), f"{old.name}.pruned")
        for each in self.layers:
            each.node.replace_input_with(1, value)


def find_sites(
    graph: ir.Graph,
    ratio: float,
    layers: Mapping[str, float],
    *,
    exclude: str,
    ends: bool,
    least: int,
) -> list[Site]:
    """Return the weights to prune with their ratios; the others are left with a reason.

    `layers` are ratios by glob, of which the first that matches counts; a layer that it names is
    pruned even where it is small, first or last.
    """
    found = list(find_layers(graph, exclude, ops=OPS, types=FLOATS))
    _note_others(graph, found, exclude)
    by_weight: dict[ir.Value, list[Layer]] = {}
    for layer in found:
        value = layer.node.inputs[1]
        assert value is not None
        by_weight.setdefault(value, []).append(layer)
    kept = set() if ends else end_nodes(graph)
    sites = []
    for value, readers in by_weight.items():
        own = next((layers[glob] for each in readers for glob in layers if _is(each, glob)), None)
        site = Site(tuple(readers), ratio if own is None else own, own is not None)
        reason = _problem(site, value, kept, least)
        if reason is not None:
            for layer in readers:
                leave(layer.node, reason)
        elif site.ratio > 0:
            sites.append(site)
    return sites


def end_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes with weights that no other such node comes before, or behind."""
    weighted = [node for node in graph if _has_weight(node)]
    return _first(list(graph), set(weighted)) | _last(list(graph), set(weighted))


def _first(nodes: Sequence[ir.Node], weighted: set[ir.Node]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    behind: set[ir.Value | None] = set()
    for node in nodes:
        follows = any(value in behind for value in node.inputs)
        if node in weighted and not follows:
            found.add(node)
        if node in weighted or follows:
            behind.update(node.outputs)
    return found


def _last(nodes: Sequence[ir.Node], weighted: set[ir.Node]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    before: set[ir.Value | None] = set()
    for node in reversed(nodes):
        leads = any(value in before for value in node.outputs)
        if node in weighted and not leads:
            found.add(node)
        if node in weighted or leads:
            before.update(node.inputs)
    return found


def _has_weight(node: ir.Node) -> bool:
    if not is_op(node, *OPS, *WITH_TABLES) or len(node.inputs) < 2:
        return False
    weight = tensor(node.inputs[0 if is_op(node, "Gather") else 1])
    return weight is not None and len(weight.shape) > 1 and weight.dtype in FLOATS


def _problem(site: Site, value: ir.Value, ends: set[ir.Node], least: int) -> str | None:
    """Say why a weight stays dense."""
    layer = site.layer
    if len(value.uses()) != len(site.layers) or not _alike(site.layers):
        return "its weight is read in another way too"
    if layer.groups > 1 and site.shape[3] == 1:
        return "it is depthwise: each weight counts"
    size = layer.groups * layer.rows * layer.columns
    if not site.named and size < least:
        return f"its weight has {size} elements, fewer than {least}"
    if not site.named and any(each.node in ends for each in site.layers):
        return "it is the first or last layer; `ends = true` prunes these too"
    data = array(value)
    return None if data is not None and np.isfinite(data).all() else "its weight is not finite"


def _alike(layers: Sequence[Layer]) -> bool:
    ways = {
        (each.node.op_type, each.groups, each.rows, each.columns,
         each.node.attributes.get_int("transB", 0))
        for each in layers
    }  # fmt: skip
    return len(ways) == 1


def _note_others(graph: ir.Graph, found: Sequence[Layer], exclude: str) -> None:
    known = {layer.node for layer in found}
    for node in graph:
        if is_op(node, "Conv", "ConvTranspose", "Gemm") and node not in known:
            excluded = is_excluded(node, split_globs(exclude))
            leave(node, "excluded" if excluded else "its weight is no constant of floats")


def _is(layer: Layer, glob: str) -> bool:
    return fnmatchcase(label(layer.node), glob)
