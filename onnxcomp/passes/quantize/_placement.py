"""Which nodes run in int8 and on which grids: read off the graph, nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import array, is_op, tensor
from onnxcomp.passes.quantize._eligibility import (
    BINARY_OPS,
    FLOAT_MAC_OPS,
    FOLLOWER_OPS,
    MAC_OPS,
    MOVER_OPS,
    activations,
    follows,
    mac_problem,
    nearest_range,
)
from onnxcomp.passes.quantize._facts import Facts
from onnxcomp.passes.quantize._numbers import (
    GATE,
    Grid,
    grid_of,
    range_of_array,
    written_grid,
)
from onnxcomp.passes.quantize._tails import (
    WEIGHTED_OPS,
    Tail,
    grid_behind,
    hard_sigmoid,
    range_behind,
    tail_of,
)
from onnxcomp.registry import leave

# Inputs of a Concat whose ranges differ more than this lose too much on one grid.
CONCAT_SPREAD = 8.0


@dataclass(frozen=True)
class Plan:
    """The nodes that run in int8, in graph order, and the grid of every value that is quantized.

    `written` are the values that int8 nodes make, with the grids that they are written on: another
    than that on which they are read where a linear map lies between. The rest is made in float.
    """

    nodes: Mapping[ir.Node, None] = field(default_factory=dict)
    tails: Mapping[ir.Node, Tail] = field(default_factory=dict)
    grids: Mapping[ir.Value, Grid] = field(default_factory=dict)
    written: Mapping[ir.Value, Grid] = field(default_factory=dict)


def make_plan(graph: ir.Graph, facts: Facts) -> Plan:
    """Choose the int8 nodes: MAC ops, and what carries integers from one of them to another.

    From the MAC ops forward, an op joins when an int8 node feeds it; then, from the end back, ops
    whose result no int8 node reads drop out: their result is wanted in float anyway.
    """
    tails = {node: _tail(node, facts) for node in graph if node.op_type in MAC_OPS | FOLLOWER_OPS}
    makers: dict[ir.Value, ir.Node] = {}
    grids: dict[ir.Value, Grid] = {}
    chosen: dict[ir.Node, None] = {}
    folded: set[ir.Node] = set()
    for node in graph:
        if node in folded or not _joins(node, facts, makers, grids):
            continue
        chosen[node] = None
        if node.op_type not in MOVER_OPS:
            folded.update(tails[node].nodes)
        for value in _results(node, tails):
            makers[value] = node
        _add_grids(node, facts, tails[node], grids)
    _drop_loose_ends(chosen, tails)
    _drop_lone_depthwise(chosen, tails, makers)
    return _finish(chosen, tails, grids)


def _tail(node: ir.Node, facts: Facts) -> Tail:
    if is_op(node, *MOVER_OPS, "HardSigmoid"):
        return Tail((), node.outputs[0])
    return tail_of(node, facts)


def _results(node: ir.Node, tails: Mapping[ir.Node, Tail]) -> list[ir.Value]:
    """Return what a node makes as its readers see it: after its tail."""
    return [tails[node].end, *node.outputs[1:]]


# ---------------------------------------------------------------- which nodes join
def _joins(
    node: ir.Node,
    facts: Facts,
    makers: Mapping[ir.Value, ir.Node],
    grids: Mapping[ir.Value, Grid],
) -> bool:
    """Say whether a node runs in int8; a MAC op that cannot leaves its reason."""
    if is_op(node, *FLOAT_MAC_OPS):
        leave(node, f"ONNX Runtime has no int8 kernel for {node.op_type}")
        return False
    if is_op(node, *MAC_OPS):
        reason = mac_problem(node, facts)
        if reason:
            leave(node, reason)
        return not reason
    if not is_op(node, *FOLLOWER_OPS) or node in facts.excluded:
        return False
    values = activations(node)
    if not values or not any(value in makers for value in values):
        return False
    if not follows(node, facts) or not _worth_joining(node, facts, makers, grids):
        return False
    spread = _concat_spread(node, facts, grids)
    if spread > CONCAT_SPREAD:
        leave(node, f"the ranges of its inputs differ {spread:.0f}-fold, one grid would blur them")
    return spread <= CONCAT_SPREAD


def _worth_joining(
    node: ir.Node,
    facts: Facts,
    makers: Mapping[ir.Value, ir.Node],
    grids: Mapping[ir.Value, Grid],
) -> bool:
    """Say whether an Add or Mul has no operand of full size that is made in float (as in GELU).

    To quantize that costs what the float op does. A gate of one number per channel costs nothing.
    """
    if node.op_type not in BINARY_OPS:
        return True
    values = activations(node)
    ours = [value for value in values if value in makers]
    floats = [v for v in values if v not in makers and v not in grids and tensor(v) is None]
    return all(_is_smaller(value, big, facts) for value in floats for big in ours)


def _is_smaller(value: ir.Value, big: ir.Value, facts: Facts) -> bool:
    """Say whether a value is surely repeated along a dim to fit another."""
    shapes = [found.shape for v in (value, big) if (found := facts.typed.get(v.name or ""))]
    if len(shapes) != 2 or shapes[0] is None or shapes[1] is None:
        return False
    if len(shapes[0]) != len(shapes[1]):
        return len(shapes[0]) < len(shapes[1])
    return any(a == 1 and b != 1 for a, b in zip(*shapes, strict=True))


def _concat_spread(node: ir.Node, facts: Facts, grids: Mapping[ir.Value, Grid]) -> float:
    if node.op_type != "Concat":
        return 1.0
    spans = [_grid(value, facts, grids).span for value in activations(node) if not _zeros(value)]
    return max(spans) / min(spans) if spans else 1.0


def _zeros(value: ir.Value) -> bool:
    found = array(value)
    return found is not None and not found.any()


# ---------------------------------------------------------------- on which grids
def _add_grids(
    node: ir.Node,
    facts: Facts,
    tail: Tail,
    grids: dict[ir.Value, Grid],
) -> None:
    for value in activations(node):
        grids.setdefault(value, _grid(value, facts, grids))
    if node.op_type in MOVER_OPS:
        source = node.inputs[0]
        assert source is not None
        grids.update(dict.fromkeys(node.outputs, grids[source]))
        return
    if is_op(node, "HardSigmoid"):
        grids[tail.end] = GATE
        return
    found = range_behind(tail, node, facts.ranges)
    assert found is not None
    reached = replace(tail, low=max(tail.low, _floor(tail.end)))
    grids[tail.end] = grid_behind(reached, found)


def _floor(value: ir.Value) -> float:
    """Return the number below which all readers of a value, hard swishes, return zero."""
    gates = [node for node in value.consumers() if is_op(node, "HardSwish", "HardSigmoid")]
    readers = [reader for gate in gates for reader in gate.outputs[0].consumers()]
    products = [reader for reader in readers if is_op(reader, "Mul")]
    others = [node for node in value.consumers() if node not in gates and node not in products]
    if not gates or others or value.is_graph_output():
        return -np.inf
    return min(_closed_below(gate) for gate in gates)


def _closed_below(gate: ir.Node) -> float:
    if is_op(gate, "HardSwish"):
        return -3.0
    alpha, beta = hard_sigmoid(gate)
    return min(-beta / alpha, 0.0) if alpha > 0 else -np.inf


def _grid(value: ir.Value, facts: Facts, grids: Mapping[ir.Value, Grid]) -> Grid:
    """Return the grid of a value that a node reads: its maker's, or that of its range."""
    if value in grids:
        return grids[value]
    data = array(value)
    found = nearest_range(value, facts) if data is None else range_of_array(data)
    assert found is not None
    return grid_of(found)


# ---------------------------------------------------------------- what remains
def _drop_loose_ends(chosen: dict[ir.Node, None], tails: Mapping[ir.Node, Tail]) -> None:
    """Drop, from the end back, the ops that carry integers to no int8 node."""
    for node in reversed(list(chosen)):
        if node.op_type not in MAC_OPS and not _is_read(node, chosen, tails):
            del chosen[node]


def _drop_lone_depthwise(
    chosen: dict[ir.Node, None],
    tails: Mapping[ir.Node, Tail],
    makers: Mapping[ir.Value, ir.Node],
) -> None:
    """Drop the depthwise convolutions between float ops: int8 saves less there than Q and DQ cost.

    Measured in ONNX Runtime: a 5x5 one between two HardSwish takes 1.5 times as long in int8.
    """
    for node in list(chosen):
        if not is_op(node, "Conv") or not _is_depthwise(node):
            continue
        source = node.inputs[0]
        fed = source is not None and makers.get(source) in chosen
        if not fed and not _is_read(node, chosen, tails):
            leave(node, "a depthwise convolution between float ops is slower in int8")
            del chosen[node]


def _is_depthwise(node: ir.Node) -> bool:
    weight = tensor(node.inputs[1])
    return weight is not None and weight.shape[1] == 1 < node.attributes.get_int("group", 1)


def _is_read(node: ir.Node, chosen: Mapping[ir.Node, None], tails: Mapping[ir.Node, Tail]) -> bool:
    return any(
        reader in chosen and value in activations(reader)
        for value in _results(node, tails)
        for reader in value.consumers()
    )


def _finish(
    chosen: Mapping[ir.Node, None], tails: Mapping[ir.Node, Tail], grids: Mapping[ir.Value, Grid]
) -> Plan:
    kept: dict[ir.Node, Tail] = {}
    written: dict[ir.Value, Grid] = {}
    used: dict[ir.Value, Grid] = {}
    for node in chosen:
        used.update({value: grids[value] for value in activations(node)})
        if node.op_type in ("Gemm", "MatMul") and not _is_read(node, chosen, tails):
            continue  # its kernel returns floats
        kept[node] = tails[node]
        for value in _results(node, tails):
            used[value] = grids[value]
            written[value] = _written(node, tails[node], grids[value])
    return Plan(dict(chosen), kept, used, written)


def _written(node: ir.Node, tail: Tail, grid: Grid) -> Grid:
    """Return the grid that a node writes on what is read on another."""
    if is_op(node, "HardSigmoid"):
        found = written_grid(grid, *hard_sigmoid(node))
    elif tail.linear and not is_op(node, *WEIGHTED_OPS):
        found = written_grid(grid, tail.factor, tail.shift)
    else:
        return grid
    assert found is not None
    return found


def inner_mac_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the MAC ops inside control flow, which stay float."""
    for inner in graph.subgraphs():
        yield from (node for node in inner if is_op(node, *MAC_OPS, *FLOAT_MAC_OPS))
