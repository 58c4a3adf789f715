"""The contract: structure, interface, loading, and equal answers; see `parity` for the figures."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, all_graphs, all_nodes, is_random, label
from onnxcomp.parity import Parity, ParityMeter, compare_outputs
from onnxcomp.registry import Effect
from onnxcomp.runtime import (
    INLINE_LIMIT,
    Session,
    as_source,
    first_line,
    inline_bytes,
    weight_bytes,
)
from onnxcomp.shapes import skeleton

# With ONNX Runtime's own rewrites on, original and result are rewritten differently, so only gross
# differences count; the strict comparison is made with them off.
OPTIMIZED_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Reference:
    """The original model's answers to the feeds that every result is compared on."""

    model: ir.Model
    feeds: tuple[Mapping[str, Array], ...]
    plain: tuple[Mapping[str, Array], ...]
    optimized: tuple[Mapping[str, Array], ...] | None
    precision: str
    passes_checker: bool


def make_reference(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> Reference:
    """Run the original on all feeds, with ONNX Runtime's optimizations off and on.

    Raises `ModelError` when ONNX Runtime cannot load or run the original itself.
    """
    optimized = None
    random = any(is_random(node) for node in all_nodes(model))
    with as_source(model) as source:
        plain = _answers(source, feeds, optimize=False, random=random)
        with contextlib.suppress(ModelError):  # then it cannot be asked of the result either
            optimized = _answers(source, feeds, optimize=True, random=random)
    return Reference(
        model=model.clone(),
        feeds=tuple(feeds),
        plain=plain,
        optimized=optimized,
        precision=narrowest_float(model),
        passes_checker=checker_problem(model) is None,
    )


def _answers(
    source: str | bytes, feeds: Sequence[Mapping[str, Array]], *, optimize: bool, random: bool
) -> tuple[Mapping[str, Array], ...]:
    """Return the outputs for each feeds; of a `random` model those that two sessions agree on."""
    session = Session(source, optimize=optimize)
    answers = [session.run(item) for item in feeds]
    if not random:
        return tuple(answers)
    again = Session(source, optimize=optimize)
    differing = {
        name
        for item, answer in zip(feeds, answers, strict=True)
        for name, output in compare_outputs(answer, again.run(item)).outputs.items()
        if output.broken or not output.equal
    }
    return tuple(
        {name: data for name, data in answer.items() if name not in differing} for answer in answers
    )


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


def lossless_problems(
    reference: Reference, model: ir.Model, effect: Effect = Effect.CLOSE
) -> list[str]:
    """Say how a model breaks the contract of lossless passes; empty when it keeps it."""
    problems = structure_problems(reference, model)
    if problems:
        return problems
    try:
        with as_source(model) as source:
            return _answer_problems(reference, source, effect)
    except ModelError as error:
        return [str(error)]


def _answer_problems(reference: Reference, source: str | bytes, effect: Effect) -> list[str]:
    parity = run_parity(Session(source), reference.feeds, reference.plain)
    problems = parity.failures(effect, reference.precision)
    if problems or reference.optimized is None:
        return problems
    session = Session(source, optimize=True)
    optimized = run_parity(session, reference.feeds, reference.optimized)
    return [
        f"{name}: off by {output.relative:.2g} of its range at full optimization"
        for name, output in optimized.outputs.items()
        if output.broken or not output.relative <= OPTIMIZED_TOLERANCE
    ]


def structure_problems(reference: Reference, model: ir.Model) -> list[str]:
    """Say what is wrong before any run: the interface, the graph's order, the checker."""
    problems = interface_problems(reference.model, model) or order_problems(model)
    if not problems and reference.passes_checker:
        found = checker_problem(model)
        problems = [found] if found else []
    return problems


def plain_parity(reference: Reference | None, model: ir.Model) -> Parity | None:
    """Return the parity on the reference's feeds, optimizations off; None when it has no feeds."""
    if reference is None or not reference.feeds:
        return None
    return run_parity(Session(model), reference.feeds, reference.plain)


def run_parity(
    session: Session,
    feeds: Iterable[Mapping[str, Array]],
    expected: Iterable[Mapping[str, Array]],
) -> Parity:
    """Compare a session's answers with the expected ones."""
    meter = ParityMeter()
    for item, wanted in zip(feeds, expected, strict=True):
        meter.add(wanted, session.run(item))
    return meter.result()


def compare_sessions(
    before: Session, after: Session, feeds: Iterable[Mapping[str, Array]]
) -> Parity:
    """Stream feeds through two sessions; neither answers nor feeds are kept."""
    meter = ParityMeter()
    for item in feeds:
        meter.add(before.run(item), after.run(item))
    return meter.result()


def checker_problem(model: ir.Model) -> str | None:
    """Return what onnx's full checker finds wrong, or None."""
    try:
        large = weight_bytes(model) >= INLINE_LIMIT
        content = skeleton(model).SerializeToString() if large else inline_bytes(model)
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        return f"the checker refuses it: {first_line(error)}"
    return None


# ---------------------------------------------------------------- structure
def interface_problems(before: ir.Model, after: ir.Model) -> list[str]:
    """Say how inputs, outputs or metadata differ: names, order, types, symbolic dims."""
    problems = []
    for kind, old, new in (
        ("inputs", before.graph.inputs, after.graph.inputs),
        ("outputs", before.graph.outputs, after.graph.outputs),
    ):
        was, now = [_signature(value) for value in old], [_signature(value) for value in new]
        if was != now:
            problems.append(f"{kind} changed from {', '.join(was)} to {', '.join(now)}")
    if dict(before.metadata_props) != dict(after.metadata_props):
        problems.append("metadata_props changed")
    return problems


def _signature(value: ir.Value) -> str:
    return f"{value.name} {value.type}{value.shape if value.shape is not None else ''}"


def order_problems(model: ir.Model) -> list[str]:
    """Say which values are read before they are made, made twice, or not made at all."""
    problems: list[str] = []
    _check_graph(model.graph, set(), set(), problems)
    for function in model.functions.values():
        _check_graph(function.graph, set(), set(), problems)
    return problems[:5]


def _check_graph(
    graph: ir.Graph, outer: set[ir.Value], names: set[str], problems: list[str]
) -> None:
    scope, names = set(outer), set(names)
    for value in (*graph.inputs, *graph.initializers.values()):
        _define(value, scope, names, problems)
    for node in graph:
        problems += [
            f"{label(node)} reads {item.name}, which is not made before it"
            for item in node.inputs
            if item is not None and item not in scope
        ]
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
                _check_graph(attr.as_graph(), scope, names, problems)
        for value in node.outputs:
            if value.name:
                _define(value, scope, names, problems)
    problems += [f"output {v.name} is not made" for v in graph.outputs if v not in scope]


def _define(value: ir.Value, scope: set[ir.Value], names: set[str], problems: list[str]) -> None:
    if value.name in names and value not in scope:
        problems.append(f"two values are named {value.name}")
    scope.add(value)
    names.add(value.name or "")


# ---------------------------------------------------------------- the budget of lossy passes
Predict = Callable[[Mapping[str, Array]], list[Array]]


@dataclass(frozen=True)
class Metric:
    """A metric of original and result, higher is better; `name` says which."""

    name: str
    before: float
    after: float
    max_drop: float | None

    @property
    def holds(self) -> bool:
        """Whether the drop is within the budget."""
        if math.isnan(self.after):
            return False
        return self.max_drop is None or self.before - self.after <= self.max_drop + 1e-9


def predictor(session: Session) -> Predict:
    """Return the function that a metric calls: feeds in, the outputs in order out."""

    def predict(feeds: Mapping[str, Array]) -> list[Array]:
        return list(session.run(feeds).values())

    return predict
