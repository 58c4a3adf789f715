"""Whatever happens in onnxsim's process is a line in the report."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from case_pages import parse, structure
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Step
from onnxcomp.registry import apply, find_pass
from onnxcomp.verify import make_reference

NET = "g (float[N,4] x) => (float[N,4] y) { a = Identity (x)   b = Relu (a)   y = Neg (b) }"
COPY = "import sys, onnx; model = onnx.load(sys.argv[1]); {edit}; onnx.save(model, sys.argv[2])"

found = find_pass("simplify")
module = importlib.import_module("onnxcomp.passes.simplify")


@pytest.fixture(autouse=True)
def pretend_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("onnxsim", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\)"),
        ("raise RuntimeError('no such operator')", "failed: RuntimeError: no such operator"),
        ("import time; time.sleep(60)", "took more than 1 s"),
        (
            COPY.format(edit="del model.graph.node[:2]; model.graph.input[0].name = 'z'"),
            "changed the inputs",
        ),
    ],
)
def test_what_onnxsim_does_wrong_is_named_and_the_model_is_whole(
    child: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHILD", child)
    model = parse(NET, 17)
    with pytest.raises(ModelError, match=reason):
        apply(found, model, {"timeout": 1 if "sleep" in child else 60})
    assert structure(model) == structure(parse(NET, 17))


def test_the_rest_of_the_recipe_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHILD", "import os; os.abort()")
    model = parse(NET, 17)
    reference = make_reference(model, runnable_feeds(model, 1))
    steps = [Step("simplify"), Step("eliminate-identity")]
    result, reports = run_lossless(model, steps, reference)
    assert [node.op_type for node in result.graph] == ["Relu", "Neg"]
    assert [report.status for report in reports] == ["rolled-back", "applied"]
    assert "SIGABRT" in reports[0].reason


def test_a_result_without_fewer_nodes_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHILD", COPY.format(edit="pass"))
    model = parse(NET, 17)
    graph = model.graph
    assert apply(found, model).sites == 0
    assert model.graph is graph


def test_a_missing_onnxsim_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="pip install"):
        apply(found, parse(NET, 17))
