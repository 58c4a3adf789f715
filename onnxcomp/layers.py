"""What each node of a model costs, as one table: shape, MACs, parameters, bytes, and shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.cost import node_macs
from onnxcomp.graph import all_nodes, is_op, label, tensor

Shapes = Mapping[ir.Value, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """One node; `shape` is that of its first output, `macs` are for one run at the input shapes.

    A weight that several nodes read is counted at the first. The shares are of the model's MACs and
    of its weights' bytes.
    """

    node: str
    op: str
    shape: tuple[int, ...] | None
    macs: int
    params: int
    bytes: int
    macs_share: float
    bytes_share: float

    def to_dict(self) -> dict[str, object]:
        """Return the layer as JSON data."""
        return {
            "node": self.node,
            "op": self.op,
            "shape": None if self.shape is None else list(self.shape),
            "macs": self.macs,
            "params": self.params,
            "bytes": self.bytes,
            "macs_share": round(self.macs_share, 6),
            "bytes_share": round(self.bytes_share, 6),
        }


def sorted_layers(
    layers: tuple[Layer, ...], sort: str = "order", top: int | None = None
) -> tuple[Layer, ...]:
    """Return the layers, or the first `top`: in graph `order`, or by a column, largest first."""
    if sort != "order":
        layers = tuple(sorted(layers, key=lambda layer: -int(getattr(layer, sort))))
    return layers[:top]


def list_layers(model: ir.Model, shapes: Shapes) -> tuple[Layer, ...]:
    """Return the nodes in graph order, those of subgraphs and functions included.

    `shapes` are those of `concrete_shapes`. Constants have no row: they count where they are read.
    """
    nodes = [node for node in all_nodes(model) if not is_op(node, "Constant")]
    seen: set[ir.Value] = set()
    weights = [list(_new_weights(node, seen)) for node in nodes]
    macs = [node_macs(node, shapes) or 0 for node in nodes]
    sizes = [sum(weight.nbytes for weight in group) for group in weights]
    all_macs, all_bytes = max(sum(macs), 1), max(sum(sizes), 1)
    return tuple(
        Layer(
            node=label(node),
            op=node.op_type,
            shape=shapes.get(node.outputs[0]) if node.outputs else None,
            macs=macs[index],
            params=sum(weight.size for weight in weights[index]),
            bytes=sizes[index],
            macs_share=macs[index] / all_macs,
            bytes_share=sizes[index] / all_bytes,
        )
        for index, node in enumerate(nodes)
    )


def _new_weights(node: ir.Node, seen: set[ir.Value]) -> Iterator[ir.TensorProtocol]:
    for value in node.inputs:
        found = tensor(value)
        if found is not None and value is not None and value not in seen:
            seen.add(value)
            yield found
