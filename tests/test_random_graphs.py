"""Lossless passes on random graphs: none raises, none changes an answer or the interface.

`ONNXCOMP_EXAMPLES=5000 pytest tests/test_random_graphs.py` looks at as many new graphs as that;
without it every run sees the same few.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, note, reject, settings
from hypothesis import strategies as st

from lossless import RECIPE, again_failures, effect_of, every_pass, optimize, structure_failures
from onnxcomp.edits import sweep
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.model_io import load_model
from onnxcomp.parity import compare_outputs
from onnxcomp.recipe import Step
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.targets import TARGETS
from random_graphs import Drawn, models

EXAMPLES = os.environ.get("ONNXCOMP_EXAMPLES")
BATCHES = (1, 3)
# Noise is bounded per operation; a sum of a few hundred products may exceed its bound a little.
NOISE_MARGIN = 4.0

many = settings(
    max_examples=int(EXAMPLES or 150),
    derandomize=EXAMPLES is None,
    suppress_health_check=list(HealthCheck),
)


@many
@given(models())
def test_the_recipe(drawn: Drawn) -> None:
    check(drawn, RECIPE)


@st.composite
def some_passes(draw: st.DrawFn) -> list[Step]:
    """Draw any lossless passes in any order, those included that no preset runs."""
    order = draw(st.permutations(every_pass()))
    return [Step(name) for name in order if draw(st.integers(0, 3))]


@many
@given(models(), some_passes())
def test_any_passes_in_any_order(drawn: Drawn, steps: list[Step]) -> None:
    check(drawn, steps)


@many
@given(models())
def test_int8_without_ranges(drawn: Drawn) -> None:
    """The structure of the result holds, and answers are near; bounds are tested elsewhere."""
    wanted = answers(drawn)
    source = load_model(onnx.ModelProto.FromString(drawn.proto.SerializeToString()))
    result = source.clone()
    apply(find_pass("quantize-dynamic"), result, {}, {"target": TARGETS["x86-vnni"]})
    apply(find_pass("quantize-weights"), result, {"least": 16})
    sweep(result)
    note(ir.to_onnx_text(result))
    assert not structure_failures(source, result)
    for fused in (False, True):
        session = Session(result, optimize=fused)
        for batch, outputs in zip(BATCHES, wanted, strict=True):
            found = session.run(drawn.feeds(batch, seed=0))
            for name, data in outputs.items():
                assert np.shape(found[name]) == np.shape(data)
                if data.dtype.kind == "f" and np.isfinite(data).all():
                    error = np.linalg.norm(found[name] - data)
                    assert error <= 0.1 * np.linalg.norm(data) + 1e-3


def check(drawn: Drawn, steps: Sequence[Step]) -> None:
    note(f"passes: {', '.join(step.name for step in steps)}")
    note(onnx.printer.to_text(drawn.proto))
    wanted = answers(drawn)
    source = load_model(onnx.ModelProto.FromString(drawn.proto.SerializeToString()))
    result = optimize(source, steps)
    note(ir.to_onnx_text(result))
    assert not structure_failures(source, result)
    assert not answer_failures(drawn, wanted, result, steps)
    assert not again_failures(result, steps)


def answers(drawn: Drawn) -> list[dict[str, Array]]:
    """Return the original's outputs for each batch.

    About one graph of a thousand is legal and fails in ONNX Runtime, which frees a value that only
    a branch of a branch reads; nothing can be compared then.
    """
    try:
        session = Session(drawn.proto.SerializeToString())
        return [session.run(drawn.feeds(batch, seed=0)) for batch in BATCHES]
    except ModelError as error:
        if "Identity node" not in str(error):
            raise
        reject()


def answer_failures(
    drawn: Drawn, answers: Sequence[dict[str, Array]], result: ir.Model, steps: Sequence[Step]
) -> list[str]:
    """Say which outputs differ by more than the effects of the passes and rounding explain."""
    optimized = Session(result)
    effect, failures = effect_of(steps), []
    for batch, wanted in zip(BATCHES, answers, strict=True):
        parity = compare_outputs(wanted, optimized.run(drawn.feeds(batch, seed=0)))
        for failure in parity.failures(effect):
            name = failure.partition(":")[0]
            output = parity.outputs[name]
            allowed = NOISE_MARGIN * drawn.noise[name] if effect == "close" else 0.0
            if output.broken or output.max_abs > allowed or output.max_abs == 0.0:
                failures.append(f"batch {batch}, {failure}, |d| {output.max_abs:.2g}")
    return failures


def test_the_generator_makes_what_it_promises() -> None:
    """Every model is legal, runs at every batch and has the shapes that it declares."""
    seen: set[str] = set()

    @settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(models())
    def look(drawn: Drawn) -> None:
        onnx.checker.check_model(drawn.proto, full_check=True)
        seen.update(node.op_type for node in drawn.proto.graph.node)
        for batch, found in zip(BATCHES, answers(drawn), strict=True):
            for info in drawn.proto.graph.output:
                dims = info.type.tensor_type.shape.dim
                shape = tuple(batch if dim.dim_param else dim.dim_value for dim in dims)
                assert found[info.name].shape == shape

    look()
    assert len(seen) >= 50


@pytest.mark.parametrize("bad", ["DoubleEveryWeight", "RaiseHalfWay", "RenameInput"])
def test_a_wrong_pass_is_found(bad: str) -> None:
    @settings(
        max_examples=20, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False
    )
    @given(models())
    def look(drawn: Drawn) -> None:
        check(drawn, [Step("eliminate-identity"), Step(f"bad_passes:{bad}")])

    with pytest.raises(AssertionError):
        look()
