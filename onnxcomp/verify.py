"""The contract: structure, interface, loading, and equal answers; see `parity` for the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.parity import Parity, ParityMeter
from onnxcomp.reference import Reference
from onnxcomp.registry import Effect
from onnxcomp.runtime import Session, as_source
from onnxcomp.structure import (
    check_content,
    checker_problem,
    interface_problems,
    lean_content,
    order_problems,
)

# With ONNX Runtime's own rewrites on, original and result are rewritten differently, so only gross
# differences count; the strict comparison is made with them off.
OPTIMIZED_TOLERANCE = 1e-2


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

    Answers are compared with ONNX Runtime's rewrites off and on. Where each run reads gigabytes,
    one with them on is enough if it keeps the bound of the other.
    """
    problems = interface_problems(reference.model, model) or order_problems(model)
    if problems:
        return Verdict(tuple(problems))
    with as_source(model) as source:
        if isinstance(source, bytes):
            return _judge_content(reference, source, effect)
        return _judge_file(reference, source, lean_content(model), effect)


def _judge_content(reference: Reference, content: bytes, effect: Effect) -> Verdict:
    """Judge a file held in memory; the two runs go side by side with the checker."""
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(_plain_parity, reference, content)
        optimized = pool.submit(_optimized_problems, reference, content)
        refused = check_content(content)
        if refused is not None and reference.passes_checker:
            return Verdict((refused,))
        try:
            parity = plain.result()
            problems = parity.failures(effect, reference.precision) or optimized.result()
        except ModelError as error:
            return Verdict((str(error),))
    return Verdict(tuple(problems), parity if reference.feeds else None, content)


def _judge_file(reference: Reference, path: str, lean: bytes, effect: Effect) -> Verdict:
    """Judge a file too large to hold; `lean` is it without its weights."""
    refused = check_content(lean)
    if refused is not None and reference.passes_checker:
        return Verdict((refused,))
    try:
        parity = _optimized_parity(reference, path)
        if parity is None or parity.failures(effect, reference.precision):
            parity = _plain_parity(reference, path)
            problems = parity.failures(effect, reference.precision)
            problems = problems or _optimized_problems(reference, path)
            return Verdict(tuple(problems), parity if reference.feeds else None)
    except ModelError as error:
        return Verdict((str(error),))
    return Verdict((), parity if reference.feeds else None)


def _optimized_parity(reference: Reference, path: str) -> Parity | None:
    """Compare under ONNX Runtime's own rewrites; None where it fails with them."""
    try:
        session = Session(path, optimize=True, prepack=False)
        return run_parity(session, reference.feeds, reference.plain, reference.ranges)
    except ModelError:
        return None


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
