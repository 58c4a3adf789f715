"""Every page of `tests/cases`: text, checker, outputs within the effect, and idempotence."""

from __future__ import annotations

import importlib.util

import pytest

from case_checks import check_answers, check_text, prepare
from case_pages import FOLDER, Case, read_pages
from onnxcomp.registry import list_passes

CASES = read_pages()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    if case.pass_name == "simplify" and importlib.util.find_spec("onnxsim") is None:
        pytest.skip("needs onnxcomp[simplify]")
    page = [other for other in CASES if other.pass_name == case.pass_name]
    reference = prepare(case, page)
    check_answers(reference, check_text(reference))


@pytest.mark.parametrize("name", [n for n, p in list_passes().items() if p.effect != "lossy"])
def test_every_lossless_pass_has_a_page_that_rewrites_and_one_that_does_not(name: str) -> None:
    assert (FOLDER / f"{name}.md").exists()
    sections = [case for case in CASES if case.pass_name == name]
    assert any(case.after is not None for case in sections)
    assert any(case.after is None for case in sections)
