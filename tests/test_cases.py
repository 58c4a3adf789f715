"""Every page of `tests/cases`: text, checker, outputs within the effect, and idempotence."""

from __future__ import annotations

import importlib.util

import onnx
import onnx_ir as ir
import pytest

from case_pages import FOLDER, Case, parse, read_pages, structure
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import apply, find_pass, list_passes
from onnxcomp.runtime import Session

CASES = read_pages()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    if case.pass_name == "simplify" and importlib.util.find_spec("onnxsim") is None:
        pytest.skip("needs onnxcomp[simplify]")
    found = find_pass(case.pass_name)
    before = parse(case.before, case.opset)
    onnx.checker.check_model(ir.to_proto(before), full_check=case.execute)
    model = before.clone()
    sites = apply(found, model, case.options).sites
    sweep(model)

    expected = parse(case.before if case.after is None else case.after, case.opset)
    assert structure(model) == structure(expected), ir.to_onnx_text(model)
    assert (sites > 0) == (case.after is not None)
    onnx.checker.check_model(ir.to_proto(model), full_check=case.execute)
    if case.execute:
        for feeds in runnable_feeds(before, count=2):
            wanted = Session(before).run(feeds)
            parity = compare_outputs(wanted, Session(model).run(feeds))
            assert not parity.failures(found.effect), parity
    assert apply(found, model, case.options).sites == 0


@pytest.mark.parametrize("name", [n for n, p in list_passes().items() if p.effect != "lossy"])
def test_every_lossless_pass_has_a_page_that_rewrites_and_one_that_does_not(name: str) -> None:
    assert (FOLDER / f"{name}.md").exists()
    sections = [case for case in CASES if case.pass_name == name]
    assert any(case.after is not None for case in sections)
    assert any(case.after is None for case in sections)
