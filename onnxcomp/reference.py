"""The original model's answers, and what of them can be compared how."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, all_graphs, all_nodes, is_op, is_random, subgraphs_of
from onnxcomp.runtime import Session, as_source
from onnxcomp.structure import checker_problem

# Operators whose results have a range by nature, and those that only move numbers.
NATURAL_RANGES = {"Sigmoid": 1.0, "HardSigmoid": 1.0, "Softmax": 1.0, "Tanh": 2.0, "Softsign": 2.0}
MOVEMENT = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Cast")


@dataclass(frozen=True)
class Reference:
    """The original model's answers to the feeds that every result is compared on."""

    model: ir.Model
    feeds: tuple[Mapping[str, Array], ...]
    plain: tuple[Mapping[str, Array], ...]

    @cached_property
    def precision(self) -> str:
        """The least precise float type in the model."""
        return narrowest_float(self.model)

    @cached_property
    def ranges(self) -> Mapping[str, float]:
        """The ranges that outputs have by nature."""
        return natural_ranges(self.model)

    @cached_property
    def passes_checker(self) -> bool:
        """Whether the original itself passes onnx's full checker."""
        return checker_problem(self.model) is None

    @cached_property
    def optimized(self) -> tuple[Mapping[str, Array], ...] | None:
        """The answers under ONNX Runtime's own rewrites, or None where it fails with them."""
        try:
            with as_source(self.model) as source:
                session = Session(source, optimize=True, prepack=False)
                answers = [session.run(item) for item in self.feeds]
        except ModelError:
            return None
        pairs = zip(self.plain, answers, strict=True)
        return tuple({name: answer[name] for name in wanted} for wanted, answer in pairs)


def make_reference(
    model: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    session: Session | None = None,
    answers: Sequence[Mapping[str, Array]] = (),
) -> Reference:
    """Run the original, which must not change after, on all feeds, optimizations off.

    `session` is the original's, if it is loaded already, and `answers` are those to the last feeds,
    if they are known. Raises `ModelError` when ONNX Runtime
    cannot load or run the original itself.
    """
    session = session or Session(model)
    asked = feeds[: len(feeds) - len(answers)]
    answers = (*(session.run(item) for item in asked), *answers)
    by_chance = random_outputs(model)
    compared = [
        {name: data for name, data in answer.items() if name not in by_chance} for answer in answers
    ]
    return Reference(model, tuple(feeds), tuple(compared))


def random_outputs(model: ir.Model) -> set[str]:
    """Name the outputs that depend on a random operator.

    Two models cannot be compared on them: ONNX Runtime seeds a node by its place, and a seeded one
    goes on from run to run.
    """
    functions: set[ir.OperatorIdentifier] = set()
    for _ in model.functions:  # one that calls a random one is random, and so on
        functions |= {
            key
            for key, function in model.functions.items()
            if _draws(function.all_nodes(), functions)
        }
    tainted: set[ir.Value] = set()
    for node in model.graph:
        inner = [each for graph in subgraphs_of(node) for each in graph.all_nodes()]
        nodes = [node, *inner]
        reads = any(value in tainted for each in nodes for value in each.inputs)
        if reads or _draws(nodes, functions):
            tainted.update(node.outputs)
    return {value.name or "" for value in model.graph.outputs if value in tainted}


def _draws(nodes: Iterable[ir.Node], functions: Container[ir.OperatorIdentifier]) -> bool:
    return any(is_random(node) or node.op_identifier() in functions for node in nodes)


def natural_ranges(model: ir.Model) -> dict[str, float]:
    """Return the range of outputs that are probabilities or the like, by name.

    Sigmoid is computed to within some 1e-7 of 1, whatever the range that the samples show.
    """
    found = {}
    for value in model.graph.outputs:
        node = value.producer()
        while node is not None and is_op(node, *MOVEMENT) and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        if node is not None and is_op(node, *NATURAL_RANGES):
            found[value.name or ""] = NATURAL_RANGES[node.op_type]
    return found


def narrowest_float(model: ir.Model) -> str:
    """Name the least precise float type in the model; float32 if there is none."""
    kinds = {
        value.const_value.dtype
        for graph in all_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    } | {value.dtype for node in all_nodes(model) for value in node.inputs if value is not None}
    for kind in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.FLOAT):
        if kind in kinds:
            return {"FLOAT": "float32"}.get(kind.name, kind.name.lower())
    return "float64" if ir.DataType.DOUBLE in kinds else "float32"
