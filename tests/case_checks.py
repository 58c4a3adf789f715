"""What a case of a page is held to: its text, the checker, its answers, and idempotence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx.compose
import onnx_ir as ir

from case_pages import Case, parse, structure
from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import Runs, first_runs
from onnxcomp.edits import sweep
from onnxcomp.graph import all_nodes
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Pass, apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS


@dataclass(frozen=True)
class Reference:
    """A case, read: its model, what the pass must make of it, and the model's answers.

    `among` is the model between two of one of the same page that the pass rewrites, and the sites.
    """

    case: Case
    before: ir.Model
    expected: str
    runs: Runs | None
    among: tuple[ir.Model, int] | None = None


def prepare(case: Case, page: Sequence[Case] = ()) -> Reference:
    """Read a case of a page, check its model, and run it."""
    before = parse(case.before, case.opset)
    onnx.checker.check_model(ir.to_proto(before), full_check=case.execute)
    expected = parse(case.before if case.after is None else case.after, case.opset)
    runs = first_runs(before, count=2) if case.execute else None
    return Reference(case, before, structure(expected), runs, _among(case, page))


def _among(case: Case, page: Sequence[Case]) -> tuple[ir.Model, int] | None:
    """Put a model between two that the pass rewrites, none of which reads the others."""
    rewritten = (other for other in page if other.after is not None and other.sites)
    for other in rewritten:
        if (other.opset, other.options) != (case.opset, case.options):
            continue
        models = [ir.to_proto(parse(each.before, each.opset)) for each in (other, case, other)]
        if any(model.functions or _has_branches(model) for model in models):
            continue
        if models[0].opset_import != models[1].opset_import:
            continue
        whole = onnx.compose.add_prefix(models[0], "a_")
        for model, prefix in zip(models[1:], ("b_", "c_"), strict=True):
            whole.graph.MergeFrom(onnx.compose.add_prefix(model, prefix).graph)
        return ir.from_proto(whole), case.sites + 2 * other.sites
    return None


def _has_branches(model: onnx.ModelProto) -> bool:
    return any(attr.HasField("g") for node in model.graph.node for attr in node.attribute)


def needs_of(found: Pass, model: ir.Model) -> dict[str, object]:
    """Return what a pass needs besides a graph: random samples, and a machine of any kind."""
    if found.reads_only_the_graph:
        return {}
    samples = open_samples("random:2", input_specs(model), model=model)
    return {"samples": samples, "target": TARGETS["portable"], "unfused": model, "original": model}


def check_text(reference: Reference) -> ir.Model:
    """Check what the pass makes of a model, and that it does so once; return the result."""
    case, before = reference.case, reference.before
    found = find_pass(case.pass_name)
    model = before.clone()
    needs = needs_of(found, before)
    sites = apply(found, model, case.options, needs).sites
    sweep(model)
    assert structure(model) == reference.expected, ir.to_onnx_text(model)
    assert sites == case.sites, f"{sites} sites; where that is right, write `sites: {sites}`"
    if sites and found.ops:  # without one of these the pipeline does not run the pass
        assert found.ops & {node.op_type for node in all_nodes(before)}
    assert apply(found, model.clone(), case.options, needs_of(found, model)).sites == 0
    if reference.among is not None:  # nor does it stop at a place that it leaves
        among, least = reference.among
        among_needs = needs_of(found, among)
        assert apply(found, among.clone(), case.options, among_needs).sites >= least
    return model


def check_answers(reference: Reference, model: ir.Model) -> None:
    """Check that a result is a model, and that it answers as the original does."""
    onnx.checker.check_model(ir.to_proto(model), full_check=reference.case.execute)
    if reference.runs is None:
        return
    session = Session(model)
    effect = find_pass(reference.case.pass_name).effect
    for feeds, wanted in zip(reference.runs.feeds, reference.runs.answers, strict=True):
        parity = compare_outputs(wanted, session.run(feeds))
        assert not parity.failures(effect), parity
