"""Nodes whose inputs are all constant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcomp.edits import add_constant, remove
from onnxcomp.errors import ModelError
from onnxcomp.graph import (
    CONTROL_FLOW_OPS,
    QUANTIZATION_OPS,
    STANDARD_DOMAINS,
    Array,
    has_references,
    has_subgraph,
    is_random,
    subgraphs_of,
    tensor,
)
from onnxcomp.passes.fold._batch import RUNNABLE, evaluate, infer, make_batch
from onnxcomp.passes.fold._growth import frontier, growing_nodes
from onnxcomp.registry import Effect, leave, register
from onnxcomp.runtime import weight_bytes

# Results larger than this, beyond what their inputs hold, are not even computed.
LARGEST = 64 * 2**20
# Results of unknown size are computed once to learn it, and again if it is more than this.
UNCOUNTED = 1024
# A fold may also add this part of the weights' bytes. What one run refuses the next one must
# refuse too, so the allowance is one of each fold, by the model as it is, and not a sum to spend.
GROWTH_PER_WEIGHT = 1 / 2000
# `fold_shape_arithmetic` answers these without reading a weight.
SHAPE_OPS = frozenset({"Shape", "Size"})
# Weights of these types are cast to float on purpose: each would grow by little, all by much.
STORED = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4})
STORED_FROM = 256
# Operators whose result may be far larger than their inputs, by the numbers in these.
EXPANDING = frozenset(
    {"ConstantOfShape", "Tile", "Expand", "Range", "Pad", "OneHot", "Resize", "Upsample"}
    | {"EyeLike", "CenterCropPad", "Col2Im", "MaxUnpool", "AffineGrid", "STFT", "DFT"}
    | {"HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "RoiAlign"}
)


@register(Effect.CLOSE)
def fold_constants(model: ir.Model, *, max_growth: int = 128) -> int:
    """Compute now what does not depend on the inputs.

    Nodes whose inputs are all constant, in the main graph and its subgraphs, are evaluated by ONNX
    Runtime, all of a round in one session, and their results stored. Chains fold at once.

    A fold may make the model larger by `max_growth` bytes, about what the removed nodes took, and
    1/2000 of its weights: results that are still read less constants that nothing reads any more.
    A large filled or repeated tensor so stays the few bytes that it is.

    Left alone when a node is random, (de)quantizes, carries graphs, or is of a foreign domain; when
    it turns a weight that is stored in 8 bits to float, as ONNX Runtime does at load; when its
    result is a graph output, a sequence or of a type that ONNX Runtime does not return; when the
    fold would grow too much; and when ONNX Runtime fails on it.
    """
    folded = 0
    state = _State()
    while True:
        allowed = max_growth + int(weight_bytes(model) * GROWTH_PER_WEIGHT)
        plan = _plan(model, state, allowed)
        results = _evaluate(model, plan, state)
        if results is None or _measured(plan, results, state):
            continue
        for value in frontier(plan.nodes):
            _store(value, results[value])
        for node in reversed(plan.nodes):
            remove(node)
        folded += len(plan.nodes)
        if not plan.nodes:
            for node, reason in plan.left.items():
                leave(node, reason)
            return folded


@dataclass
class _State:
    """What evaluation taught: nodes that ONNX Runtime fails on, and sizes not inferred before."""

    broken: dict[ir.Node, str] = field(default_factory=dict)
    sizes: dict[ir.Value, int] = field(default_factory=dict)


@dataclass
class _Plan:
    """The nodes to fold in one round, in order, and why others are left."""

    nodes: list[ir.Node]
    left: dict[ir.Node, str]
    sizes: dict[ir.Value, int] = field(default_factory=dict)

    def drop(self, dropped: Mapping[ir.Node, str]) -> None:
        """Leave nodes and all that depend on them."""
        self.left.update(dropped)
        gone = set(dropped)
        kept = []
        for node in self.nodes:
            if node in gone or any(v is not None and v.producer() in gone for v in node.inputs):
                gone.add(node)
            else:
                kept.append(node)
        self.nodes = kept


def _plan(model: ir.Model, state: _State, allowed: int) -> _Plan:
    left = dict(state.broken)
    plan = _Plan(list(_constant_nodes(model.graph, left, set())), left)
    if not plan.nodes:
        return plan
    inferred = infer(make_batch(model, plan.nodes, []))
    plan.sizes = {value: size for value, (_, size) in inferred.items() if size is not None}
    plan.sizes.update(state.sizes)
    kinds = {value: dtype for value, (dtype, _) in inferred.items()}
    unfit = ((node, _misfit(node, plan.sizes, kinds)) for node in plan.nodes)
    plan.drop({node: reason for node, reason in unfit if reason})
    while True:
        growing = growing_nodes(plan.nodes, plan.sizes, allowed)
        if not growing:
            return plan
        plan.drop({node: f"the model would grow by {size:,} B" for node, size in growing.items()})


def _constant_nodes(
    graph: ir.Graph, left: dict[ir.Node, str], known: set[ir.Value]
) -> Iterator[ir.Node]:
    """Yield the nodes that can be evaluated, subgraphs included, each after those it reads."""
    for node in graph:
        for inner in subgraphs_of(node):
            yield from _constant_nodes(inner, left, known)
        if node in left or not _is_foldable(node):
            continue
        if not all(v is None or v in known or tensor(v) is not None for v in node.inputs):
            continue
        if any(output.is_graph_output() for output in node.outputs):
            left[node] = "its result is a graph output"
            continue
        known.update(node.outputs)
        yield node


def _is_foldable(node: ir.Node) -> bool:
    if node.domain not in STANDARD_DOMAINS or not any(value is not None for value in node.inputs):
        return False
    if node.op_type in QUANTIZATION_OPS | CONTROL_FLOW_OPS | SHAPE_OPS or is_random(node):
        return False
    if has_subgraph(node) or has_references(node) or _is_stored_weight(node):
        return False
    return "Sequence" not in node.op_type and not node.op_type.startswith("Optional")


def _is_stored_weight(node: ir.Node) -> bool:
    """Say whether a node is the Cast of a weight that takes a fourth of the bytes as it is."""
    if node.op_type != "Cast" or node.attributes.get_int("to", 0) != ir.DataType.FLOAT:
        return False
    found = tensor(node.inputs[0])
    return found is not None and found.dtype in STORED and found.size >= STORED_FROM


def _misfit(
    node: ir.Node, sizes: Mapping[ir.Value, int], kinds: Mapping[ir.Value, ir.DataType]
) -> str | None:
    """Say why a node must not be evaluated in this round, or None."""
    for output in node.outputs:
        if kinds.get(output, ir.DataType.FLOAT) not in RUNNABLE:
            return f"ONNX Runtime does not return values of type {kinds[output].name}"
        if output not in sizes and node.op_type in EXPANDING and output.name:
            return "the size of its result is not known"
    taken = sum(_size(value, sizes) for value in node.inputs if value is not None)
    made = sum(sizes.get(output, 0) for output in node.outputs)
    if made > LARGEST + 2 * taken:
        return f"its result would take {made:,} B"
    return None


def _size(value: ir.Value, sizes: Mapping[ir.Value, int]) -> int:
    found = tensor(value)
    return sizes.get(value, 0) if found is None else found.nbytes


def _evaluate(model: ir.Model, plan: _Plan, state: _State) -> dict[ir.Value, Array] | None:
    """Return the values that are still read and those whose size is not known.

    None when nodes failed, which are then noted.
    """
    made = (output for node in plan.nodes for output in node.outputs if output.name)
    unknown = (value for value in made if value not in plan.sizes)
    outputs = list(dict.fromkeys([*frontier(plan.nodes), *unknown]))
    if not outputs:
        return {}
    try:
        return evaluate(make_batch(model, plan.nodes, outputs), outputs)
    except ModelError:
        pass  # one bad node fails all, so each is tried alone
    results: dict[ir.Value, Array] = {}
    failed: set[ir.Node] = set()
    for node in plan.nodes:
        if any(value is not None and value.producer() in failed for value in node.inputs):
            failed.add(node)
            continue
        wanted = [output for output in node.outputs if output.name]
        try:
            results |= evaluate(make_batch(model, [node], wanted, results), wanted)
        except ModelError as error:
            failed.add(node)
            state.broken[node] = str(error)
    return None if failed else {value: results[value] for value in outputs}


def _measured(plan: _Plan, results: Mapping[ir.Value, Array], state: _State) -> bool:
    """Note the sizes of results that were not inferred; say whether a new plan needs them."""
    new = {value: data.nbytes for value, data in results.items() if value not in plan.sizes}
    state.sizes.update(new)
    return sum(new.values()) > UNCOUNTED


def _store(value: ir.Value, result: Array) -> None:
    """Put a constant in the place of a value, under its name."""
    node = value.producer()
    assert node is not None
    assert node.graph is not None
    value.replace_all_uses_with(add_constant(node.graph, result, value.name or "constant"))
