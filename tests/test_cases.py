"""Every page of `tests/cases`: text, checker, outputs within the effect, and idempotence."""

from __future__ import annotations

import importlib.util

import pytest

from case_checks import check_answers, check_text, prepare
from case_pages import FOLDER, Case, parse, read_pages
from lossless import passes_of_the_graph
from onnxcomp.graph import all_nodes
from onnxcomp.registry import find_pass

CASES = read_pages()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    if case.pass_name == "simplify" and importlib.util.find_spec("onnxsim") is None:
        pytest.skip("needs onnxcomp[simplify]")
    page = [other for other in CASES if other.pass_name == case.pass_name]
    reference = prepare(case, page)
    check_answers(reference, check_text(reference))


@pytest.mark.parametrize("name", passes_of_the_graph())
def test_every_lossless_pass_has_a_page_that_rewrites_and_one_that_does_not(name: str) -> None:
    assert (FOLDER / f"{name}.md").exists()
    sections = [case for case in CASES if case.pass_name == name]
    assert any(case.after is not None for case in sections)
    assert any(case.after is None for case in sections)


@pytest.mark.parametrize("case", [case for case in CASES if case.after], ids=str)
def test_a_pass_starts_from_the_operators_that_it_names(case: Case) -> None:
    """What it does not name it must not need: then it would not be run."""
    ops = find_pass(case.pass_name).ops
    model = parse(case.before, case.opset)
    assert not ops or ops & {node.op_type for node in all_nodes(model)}
