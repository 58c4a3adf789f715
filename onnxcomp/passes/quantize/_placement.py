"""Which nodes run in int8 and on which grids: read off the graph, nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.ranges import Ranges
from onnxcomp.graph import Array, array, is_op, rank, scalar, sole_consumer, tensor
from onnxcomp.passes.quantize._numbers import Grid, clipped, grid_of, range_of_array
from onnxcomp.registry import leave

# Each of these has an integer kernel in ONNX Runtime's CPU provider, with the scales of its own
# output. MAC ops start an integer region, the others only carry it on.
MAC_OPS = frozenset({"Conv", "Gemm", "MatMul"})
BINARY_OPS = frozenset({"Add", "Mul"})
UNARY_OPS = frozenset({"Sigmoid", "LeakyRelu", "Relu", "AveragePool", "GlobalAveragePool"})
# These move bytes, so what comes out lies on the grid of what went in.
MOVER_OPS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"}
    | {"Gather", "Expand", "Tile", "MaxPool", "Resize", "Pad"}
)
FOLLOWER_OPS = BINARY_OPS | UNARY_OPS | MOVER_OPS | {"Concat"}
FLOAT_MAC_OPS = frozenset({"ConvTranspose", "LSTM", "GRU", "RNN"})
# Inputs of a Concat whose ranges differ more than this lose too much on one grid.
CONCAT_SPREAD = 8.0


@dataclass(frozen=True)
class Facts:
    """What the placement reads besides the graph."""

    ranges: Ranges
    typed: Mapping[str, ir.Value]  # values of a copy with inferred types and shapes
    excluded: frozenset[ir.Node]
    opset: int


@dataclass(frozen=True)
class Tail:
    """The Relu and Clip nodes after a node that its output's grid can stand for."""

    nodes: tuple[ir.Node, ...]
    end: ir.Value
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """The nodes that run in int8, in graph order, and the grid of every value that is quantized.

    `written` are the values that int8 nodes make; the other quantized ones are made in float.
    """

    nodes: Mapping[ir.Node, None] = field(default_factory=dict)
    tails: Mapping[ir.Node, Tail] = field(default_factory=dict)
    grids: Mapping[ir.Value, Grid] = field(default_factory=dict)
    written: frozenset[ir.Value] = frozenset()


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
    """Follow a node's output through Relu and Clip nodes that nothing else reads."""
    nodes: list[ir.Node] = []
    end, low, high = node.outputs[0], -np.inf, np.inf
    while node.op_type not in MOVER_OPS:
        reader = sole_consumer(end)
        bounds = None if reader is None or reader in facts.excluded else _bounds(reader)
        if reader is None or bounds is None or reader.inputs[0] is not end:
            break
        if min(high, bounds[1]) <= max(low, bounds[0]):
            break  # nothing but zero passes, which no grid can say
        nodes.append(reader)
        end = reader.outputs[0]
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Tail(tuple(nodes), end, low, high)


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the interval that a Relu or Clip maps to, if it is known and includes zero."""
    if is_op(node, "Relu"):
        return 0.0, np.inf
    if not is_op(node, "Clip"):
        return None
    low: float | None = node.attributes.get_float("min", -np.inf)
    high: float | None = node.attributes.get_float("max", np.inf)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        low = scalar(node.inputs[1])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        high = scalar(node.inputs[2])
    if low is None or high is None or not low <= 0.0 <= high or low == high:
        return None
    return float(low), float(high)


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
    if not _follows(node, facts) or not _worth_joining(node, facts, makers, grids):
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


def activations(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of an op of ours that are quantized as activations, constants too."""
    values = [value for value in node.inputs if value is not None]
    if node.op_type == "MatMul":
        return values[:1] if is_weight(values[1]) else values[:2]
    return values if node.op_type in BINARY_OPS | {"Concat"} else values[:1]


def is_weight(value: ir.Value | None) -> bool:
    """Say whether a constant is a matrix of weights, rather than an operand like any other."""
    found = tensor(value)
    return found is not None and len(found.shape) == 2


def mac_problem(node: ir.Node, facts: Facts) -> str | None:
    """Return why a MAC op must stay float, or None when it need not."""
    if node in facts.excluded:
        return "excluded"
    problem = None if node.op_type == "MatMul" else _weight_problem(node)
    return problem or _constant_problem(node.inputs) or _values_problem(node, facts)


def _weight_problem(node: ir.Node) -> str | None:
    if array(node.inputs[1]) is None:
        return "its weight is not constant"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and array(bias) is None:
        return "its bias is not constant"
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        return "its input is transposed (transA)"
    if node.op_type == "Gemm" and bias is not None and gemm_bias(node) is None:
        return "its bias differs between rows"
    return None


def _constant_problem(values: Sequence[ir.Value | None]) -> str | None:
    for value in values:
        found = tensor(value)
        if found is None:
            continue
        if found.dtype != ir.DataType.FLOAT:
            return f"its weights are {found.dtype.name.lower()}, not float32"
        if range_of_array(found.numpy()) is None:
            return "its weights are empty or not finite"
    return None


def gemm_bias(node: ir.Node) -> Array | None:
    """Return the bias of a Gemm as one number per column, beta included, or None."""
    weight, bias = array(node.inputs[1]), array(node.inputs[2])
    if weight is None or bias is None or weight.ndim != 2:
        return None
    columns = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    if bias.size not in (1, columns) or (bias.ndim == 2 and bias.shape[0] != 1):
        return None
    scaled = bias.reshape(-1).astype(np.float64) * node.attributes.get_float("beta", 1.0)
    return np.broadcast_to(scaled, (columns,)).astype(np.float32)


def _values_problem(node: ir.Node, facts: Facts) -> str | None:
    for value in activations(node):
        if not is_float32(value, facts):
            return f"{value.name} is not float32"
        if not _has_range(value, facts):
            return f"no range for its input {value.name}"
    if tensor(node.inputs[0]) is not None and node.op_type != "MatMul":
        return "its input is constant"
    if all(tensor(value) is not None for value in activations(node)):
        return "its inputs are constant"
    if not _output_range_known(node, facts):
        return f"no range for its output {node.outputs[0].name}"
    return None


def is_float32(value: ir.Value, facts: Facts) -> bool:
    """Say whether a value is float32, or of no known type, as values with a range may be."""
    found = tensor(value)
    typed = facts.typed.get(value.name or "")
    dtype = found.dtype if found is not None else typed.dtype if typed is not None else None
    return dtype in (None, ir.DataType.FLOAT)


def _has_range(value: ir.Value, facts: Facts) -> bool:
    found = tensor(value)
    if found is not None:
        return range_of_array(found.numpy()) is not None
    if value.name in facts.ranges.values:
        return True
    source = value.producer()
    return is_op(source, *MOVER_OPS) and _has_range(source.inputs[0], facts)  # type: ignore


def _output_range_known(node: ir.Node, facts: Facts) -> bool:
    tail = _tail(node, facts)
    return any(v.name in facts.ranges.values for v in (tail.end, node.outputs[0]))


def _follows(node: ir.Node, facts: Facts) -> bool:
    """Say whether a node that is no MAC op could run in int8."""
    floats = all(is_float32(v, facts) and _has_range(v, facts) for v in activations(node))
    if not floats or not is_float32(node.outputs[0], facts):
        return False
    if node.op_type in MOVER_OPS:
        return _moves_bytes(node, facts)
    if node.op_type == "AveragePool" and not _plain_pool(node):
        return False
    return _output_range_known(node, facts)


def _moves_bytes(node: ir.Node, facts: Facts) -> bool:
    if node.op_type == "MaxPool":
        unread = len(node.outputs) < 2 or not node.outputs[1].uses()
        return facts.opset >= 12 and unread and rank(node.inputs[0]) != 2
    if node.op_type == "Split":
        return all(output.uses() for output in node.outputs)
    if node.op_type == "Pad":
        return facts.opset >= 11 and _pads_with_zeros(node)
    if node.op_type == "Resize":
        return facts.opset >= 11 and node.attributes.get_string("mode", "nearest") == "nearest"
    return True


def _pads_with_zeros(node: ir.Node) -> bool:
    """Say whether a Pad makes no number that is not on its input's grid."""
    mode = node.attributes.get_string("mode", "constant")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    return mode in ("reflect", "edge") or given is None or scalar(given) == 0.0


def _plain_pool(node: ir.Node) -> bool:
    dilations = node.attributes.get_ints("dilations", ())
    return not node.attributes.get_int("ceil_mode", 0) and all(step == 1 for step in dilations)


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
    known = facts.ranges.values
    found = known.get(tail.end.name or "") or known[node.outputs[0].name or ""]
    grids[tail.end] = grid_of(clipped(found, tail.low, tail.high))


def _grid(value: ir.Value, facts: Facts, grids: Mapping[ir.Value, Grid]) -> Grid:
    """Return the grid of a value that a node reads: its maker's, or that of its range."""
    if value in grids:
        return grids[value]
    found = array(value)
    known = facts.ranges.values.get(value.name or "")
    if found is not None:
        known = range_of_array(found)
    source = value.producer()
    while known is None and source is not None:  # a float mover whose own range was not kept
        origin = source.inputs[0]
        assert origin is not None
        known, source = facts.ranges.values.get(origin.name or ""), origin.producer()
    assert known is not None
    return grid_of(known)


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
    written: dict[ir.Value, None] = {}
    used: dict[ir.Value, Grid] = {}
    for node in chosen:
        used.update({value: grids[value] for value in activations(node)})
        if node.op_type in ("Gemm", "MatMul") and not _is_read(node, chosen, tails):
            continue  # its kernel returns floats
        kept[node] = tails[node]
        for value in _results(node, tails):
            written[value], used[value] = None, grids[value]
    return Plan(dict(chosen), kept, used, frozenset(written))


def inner_mac_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the MAC ops inside control flow, which stay float."""
    for inner in graph.subgraphs():
        yield from (node for node in inner if is_op(node, *MAC_OPS, *FLOAT_MAC_OPS))
