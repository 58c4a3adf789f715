"""The contract: structure, interface, loading, and equal answers; see `parity` for the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, all_graphs, all_nodes, is_op, is_random, label, subgraphs_of
from onnxcomp.parity import Parity, ParityMeter
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


@dataclass(frozen=True)
class Verdict:
    """Whether a result keeps the contract of lossless passes, and what was seen on the way.

    `content` is the very file that was checked and run; None for one too large to hold.
    """

    problems: tuple[str, ...]
    parity: Parity | None = None
    content: bytes | None = None


def lossless_problems(
    reference: Reference, model: ir.Model, effect: Effect = Effect.CLOSE
) -> list[str]:
    """Say how a model breaks the contract of lossless passes; empty when it keeps it."""
    return list(judge_lossless(reference, model, effect).problems)


def judge_lossless(reference: Reference, model: ir.Model, effect: Effect = Effect.CLOSE) -> Verdict:
    """Check a model as it would be written: interface, order, checker, answers, loading.

    The two runs, with ONNX Runtime's rewrites off and on, go side by side with the checker.
    """
    problems = interface_problems(reference.model, model) or order_problems(model)
    if problems:
        return Verdict(tuple(problems))
    with as_source(model) as source, ThreadPoolExecutor(2) as pool:
        plain = pool.submit(_plain_parity, reference, source)
        optimized = pool.submit(_optimized_problems, reference, source)
        refused = check_content(source if isinstance(source, bytes) else lean_content(model))
        if refused is not None and reference.passes_checker:
            return Verdict((refused,))
        try:
            parity = plain.result()
            problems = parity.failures(effect, reference.precision) or optimized.result()
        except ModelError as error:
            return Verdict((str(error),))
    content = source if isinstance(source, bytes) else None
    return Verdict(tuple(problems), parity if reference.feeds else None, content)


def _plain_parity(reference: Reference, source: str | bytes) -> Parity:
    return run_parity(Session(source), reference.feeds, reference.plain, reference.ranges)


def _optimized_problems(reference: Reference, source: str | bytes) -> list[str]:
    """Compare under ONNX Runtime's own rewrites, with what it makes of the original if need be."""
    try:
        session = Session(source, optimize=True, prepack=False)
        answers = [session.run(item) for item in reference.feeds]
    except ModelError as error:
        return [] if reference.optimized is None else [str(error)]
    problems = _gross_differences(reference.plain, answers, reference.ranges)
    if problems and reference.optimized is not None:
        problems = _gross_differences(reference.optimized, answers, reference.ranges)
    return problems


def _gross_differences(
    expected: Sequence[Mapping[str, Array]],
    answers: Sequence[Mapping[str, Array]],
    ranges: Mapping[str, float],
) -> list[str]:
    meter = ParityMeter(ranges)
    for wanted, answer in zip(expected, answers, strict=True):
        meter.add(wanted, answer)
    return [
        f"{name}: off by {output.relative:.2g} of its range at full optimization"
        for name, output in meter.result().outputs.items()
        if output.broken or not output.relative <= OPTIMIZED_TOLERANCE
    ]


def structure_problems(reference: Reference, model: ir.Model) -> list[str]:
    """Say what is wrong before any run: the interface, the graph's order, the checker."""
    problems = interface_problems(reference.model, model) or order_problems(model)
    if not problems and reference.passes_checker:
        found = checker_problem(model)
        problems = [found] if found else []
    return problems


def run_parity(
    session: Session,
    feeds: Iterable[Mapping[str, Array]],
    expected: Iterable[Mapping[str, Array]],
    ranges: Mapping[str, float] | None = None,
) -> Parity:
    """Compare a session's answers with the expected ones; `ranges` are `natural_ranges`."""
    meter = ParityMeter(ranges or {})
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
        content = lean_content(model) if large else inline_bytes(model)
    except Exception as error:  # a model that cannot be serialized
        return f"the checker refuses it: {first_line(error)}"
    return check_content(content)


def lean_content(model: ir.Model) -> bytes:
    """Return a model without its large weights, as bytes for the checker."""
    return bytes(skeleton(model).SerializeToString())


def check_content(content: bytes) -> str | None:
    """Return what onnx's full checker finds wrong with a serialized model, or None."""
    import onnx

    try:
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
