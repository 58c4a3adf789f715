"""Which int8 regions of a model cost more than the same nodes in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcomp.graph import is_op, label
from onnxcomp.passes.quantize._eligibility import FOLLOWER_OPS, MAC_OPS
from onnxcomp.passes.quantize.widen_stems import widened

# Microseconds by the name of a node or value.
Times = Mapping[str, float]

# A region is given up when it takes this many times as long as in float.
SLOWER = 1.0


@dataclass
class Region:
    """Nodes that pass integers on to each other, and the Q and DQ at its borders."""

    nodes: dict[str, None] = field(default_factory=dict)
    values: set[str] = field(default_factory=set)
    borders: set[str] = field(default_factory=set)
    macs: list[str] = field(default_factory=list)


def losing_nodes(
    exact: ir.Model, quantized: ir.Model, before: Times, after: Times
) -> dict[str, str]:
    """Return the nodes that multiply in regions which are slower in int8, each with the reason.

    `before` and `after` are how long each kernel of both models takes; the cost of a region in int8
    includes the QuantizeLinear and DequantizeLinear at its borders.
    """
    regions = find_regions(quantized)
    outputs = {label(node): [out.name or "" for out in node.outputs] for node in exact.graph}
    found: dict[str, str] = {}
    for region in regions:
        own = {name for node in region.nodes for name in outputs.get(node, ())}
        in_float = _sum(before, {*region.nodes, *region.values, *own})
        in_int8 = _sum(after, {*region.nodes, *region.borders})
        if in_int8 > SLOWER * in_float:
            reason = (
                f"faster in float: {in_float:.0f} us, with its neighbours {in_int8:.0f} in int8"
            )
            found.update(dict.fromkeys(region.macs, reason))
    return found


def _sum(times: Times, names: set[str]) -> float:
    return sum(time for name, time in times.items() if name in names)


def find_regions(model: ir.Model) -> list[Region]:
    """Return the int8 regions of a model: nodes between which values stay quantized."""
    regions: dict[ir.Node, Region] = {}
    for node in model.graph:
        sources = [_source(value) for value in node.inputs]
        if not any(sources) or not _is_int8(node):
            continue
        region = Region()
        for source in filter(None, sources):
            maker = source.inputs[0].producer() if source.inputs[0] is not None else None
            if maker in regions:
                region = _joined(regions, region, regions[maker])
            else:
                region.borders.add(label(source))
                if maker is not None and widened(source.inputs[0]) is not None:
                    region.borders.add(label(maker))
        _add(region, node)
        regions[node] = region
    _add_ends(regions)
    return list({id(region): region for region in regions.values()}.values())


def _is_int8(node: ir.Node) -> bool:
    """Say whether a node that reads quantized values has an int8 kernel there.

    It needs a QuantizeLinear behind it, but for products, whose kernels can return floats.
    """
    if is_op(node, "Gemm", "MatMul"):
        return True
    readers = [reader for output in node.outputs for reader in output.consumers()]
    quantized = all(is_op(reader, "QuantizeLinear") for reader in readers)
    return is_op(node, *MAC_OPS, *FOLLOWER_OPS) and quantized


def _source(value: ir.Value | None) -> ir.Node | None:
    """Return the QuantizeLinear of an activation that is read through a DequantizeLinear."""
    node = value.producer() if value is not None else None
    if not is_op(node, "DequantizeLinear"):
        return None
    assert node is not None
    quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    return quantize if is_op(quantize, "QuantizeLinear") else None


def _joined(regions: dict[ir.Node, Region], first: Region, second: Region) -> Region:
    if first is second:
        return first
    second.nodes |= first.nodes
    second.values |= first.values
    second.borders |= first.borders
    second.macs += first.macs
    for node, region in regions.items():
        if region is first:
            regions[node] = second
    return second


def _add(region: Region, node: ir.Node) -> None:
    region.nodes[label(node)] = None
    region.values |= {output.name or "" for output in node.outputs}
    if is_op(node, *MAC_OPS):
        region.macs.append(label(node))


def _add_ends(regions: Mapping[ir.Node, Region]) -> None:
    """Count the DequantizeLinear whose readers are float among a region's borders."""
    for node, region in regions.items():
        for output in node.outputs:
            for quantize in output.consumers():
                if not is_op(quantize, "QuantizeLinear"):
                    continue
                for dequantize in quantize.outputs[0].consumers():
                    readers = dequantize.outputs[0].consumers() if dequantize.outputs else ()
                    if any(reader not in regions for reader in readers):
                        region.borders.add(label(dequantize))
