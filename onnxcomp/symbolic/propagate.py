"""One walk over a model in order, subgraphs included, that learns shapes and contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import is_op, subgraphs_of
from onnxcomp.symbolic.content_rules import CONTENT_RULES
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.facts import INTEGERS, MAX_CONTENT, Facts
from onnxcomp.symbolic.operands import Found, as_ints
from onnxcomp.symbolic.shape_rules import SAME_SHAPE, SHAPE_RULES
from onnxcomp.symbolic.type_rules import types_of_results

# What a rule raises at a node that is not valid, such as one whose axis is beyond the rank.
NOT_VALID = (LookupError, TypeError, ValueError)
# The types of results that are followed element by element; of some the type is not known.
MAY_HAVE_CONTENT = INTEGERS | {None}
# Operators of ONNX Runtime's own that have a rule.
CONTRIBUTED = frozenset({"DynamicQuantizeLSTM"})
# The rank of the first input that an operator needs.
RANKS = {"LSTM": 3, "GRU": 3, "RNN": 3, "Gemm": 2}


def propagate(model: ir.Model, inputs: Mapping[str, tuple[int, ...]] | None = None) -> Facts:
    """Return what is known of the main graph's values and those of its subgraphs.

    Dims are polynomials over the names that the inputs declare. The rules hold for every size of
    the inputs that the model runs on; an operator without one yields what the model declares and
    new names. `inputs` gives inputs shapes in the place of the declared ones.
    """
    facts = Facts(inputs or {})
    _walk(model.graph, facts, trusted=True)
    return facts


def _walk(graph: ir.Graph, facts: Facts, *, trusted: bool = False) -> None:
    for value in graph.inputs:
        facts.declare(value, trusted=trusted)
        _name_elements(value, facts)
    nodes = list(graph)
    for place, node in enumerate(nodes):
        _visit(node, facts)
        if is_op(node, "If") and not facts.is_trial:
            _exclude_branch(node, nodes[place + 1 :], facts)


def _visit(node: ir.Node, facts: Facts) -> None:
    for inner in subgraphs_of(node):
        _walk(inner, facts)  # its inputs' names are not trusted: what a loop carries may change
    if not node.outputs:
        return
    if not is_op(node, node.op_type) and not _is_contributed(node):
        for output in node.outputs:
            facts.declare(output)
            _name_elements(output, facts)
        return
    _learn_types(node, facts)
    _learn_shapes(node, facts)
    if node.op_type != "Constant":
        _learn_content(node, facts)


def _is_contributed(node: ir.Node) -> bool:
    return node.domain == "com.microsoft" and node.op_type in CONTRIBUTED


def _learn_types(node: ir.Node, facts: Facts) -> None:
    if node.op_type == "If":
        results = node.attributes["then_branch"].as_graph().outputs
        found: Sequence[ir.DataType | None] = [facts.kind(value) for value in results]
    else:
        found = types_of_results(node, facts)
    for output, kind in zip(node.outputs, found, strict=False):
        if kind is not None:
            facts.kinds[output] = kind


def _exclude_branch(node: ir.Node, later: Sequence[ir.Node], facts: Facts) -> None:
    """Learn the results of an If of whose branches only one lets the nodes after it run.

    Exporters ask `If` for a rank that the operators behind it then need: of an If that gives
    [N, C] or [N, C, 1] before an LSTM of one step, only the first can have been meant.
    """
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    results = [[facts.shape(value) for value in branch.outputs] for branch in branches]
    ranks = [[None if shape is None else len(shape) for shape in found] for found in results]
    if ranks[0] == ranks[1] or any(rank is None for found in ranks for rank in found):
        return
    if not any(is_op(each, *RANKS) for each in later):
        return
    possible = [found for found in results if _can_run(node, found, later, facts)]
    if len(possible) == 1:
        for output, shape in zip(node.outputs, possible[0], strict=True):
            facts.learn(output, shape)
            _name_elements(output, facts)


def _can_run(
    node: ir.Node, results: Sequence[Found], later: Sequence[ir.Node], facts: Facts
) -> bool:
    trial = facts.copy()
    for output, shape in zip(node.outputs, results, strict=True):
        trial.learn(output, shape)
    for each in later:
        if not _has_right_ranks(each, trial):
            return False
        _visit(each, trial)
    return True


def _has_right_ranks(node: ir.Node, facts: Facts) -> bool:
    shape = facts.shape(node.inputs[0]) if node.inputs else None
    needed = RANKS.get(node.op_type) if is_op(node, node.op_type) else None
    return shape is None or needed is None or len(shape) == needed


def _learn_shapes(node: ir.Node, facts: Facts) -> None:
    found: list[Found] = []
    rule = _merged_branches if node.op_type == "If" else SHAPE_RULES.get(node.op_type)
    if node.op_type in SAME_SHAPE:
        found = [facts.shape(node.inputs[0])]
    elif rule is not None:
        with suppress(*NOT_VALID):
            found = rule(node, facts)
    for index, output in enumerate(node.outputs):
        facts.learn(output, found[index] if index < len(found) else None)


def _merged_branches(node: ir.Node, facts: Facts) -> list[Found]:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    condition = as_ints(facts.content(node.inputs[0]))
    if condition is not None and len(condition) == 1:
        branches = [branches[0 if condition[0] else 1]]
    return [
        _merged([facts.shape(branch.outputs[index]) for branch in branches])
        for index in range(len(node.outputs))
    ]


def _merged(shapes: Sequence[Found]) -> Found:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) > 1:
        return None
    return [dims[0] if len(set(dims)) == 1 else None for dims in zip(*known, strict=True)]


def _learn_content(node: ir.Node, facts: Facts) -> None:
    if not any(facts.kind(output) in MAY_HAVE_CONTENT for output in node.outputs):
        return
    rule = CONTENT_RULES.get(node.op_type)
    found = None
    if rule is not None:
        with suppress(*NOT_VALID):
            found = rule(node, facts)
    if found is None:
        for output in node.outputs:
            _name_elements(output, facts)
        return
    facts.keep(node.outputs[0], found)
    if node.outputs[0] not in facts.shapes:
        facts.learn(node.outputs[0], found.shape)


def _name_elements(value: ir.Value, facts: Facts) -> None:
    """Give each element of a small vector of integers a name, so that it can be followed."""
    shape = facts.shape(value)
    if facts.kind(value) not in INTEGERS or shape is None or len(shape) > 1:
        return
    count = shape[0] if shape else 1
    if isinstance(count, Dim) or count > MAX_CONTENT:
        return
    elements = np.array([facts.new_number() for _ in range(count)], dtype=object)
    facts.keep(value, elements if shape else elements.reshape(()))
