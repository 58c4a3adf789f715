"""Whatever happens in onnxsim's process is a line in the report."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from case_pages import parse, structure
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.model_io import external_tensors
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Step
from onnxcomp.reference import make_reference
from onnxcomp.registry import Effect, apply, find_pass
from onnxcomp.structure import interface_problems
from onnxcomp.verify import lossless_problems

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
        ("import os; os._exit(3)", "failed: exit code 3, no message"),
        ("raise RuntimeError('no such operator')", "failed: RuntimeError: no such operator"),
        ("import time; time.sleep(60)", "took more than 1 s"),
        (
            COPY.format(edit="del model.graph.node[:2]; model.graph.input[0].name = 'z'"),
            "changed the inputs",
        ),
        (
            COPY.format(edit="del model.graph.node[:2]; model.opset_import[0].version = 18"),
            "changed the inputs, the outputs or the opset",
        ),
        (
            COPY.format(
                edit="del model.graph.node[:2]; model.graph.node[0].input[0] = 'x'; "
                "k = onnx.helper.make_tensor('k', 1, [400], [0.0] * 400); "
                "model.graph.initializer.append(k)"
            ),
            "folds too much: 1600 bytes of constants instead of 0",
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


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert module._signal_name(11) == "SIGSEGV"
    assert module._signal_name(99) == "signal 99"  # none has this number on any platform


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


def test_what_the_model_declares_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = (
        "del model.graph.node[0]; model.graph.node[0].input[0] = 'x'; "
        "model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = 'other'; "
        "onnx.helper.set_model_props(model, {'onnxsim.version': '1'}); model.ir_version = 10"
    )
    monkeypatch.setattr(module, "CHILD", COPY.format(edit=edit))
    model = parse(NET, 17)
    model.metadata_props["author"] = "someone"
    model.graph.metadata_props["layer"] = "all"
    model.graph.inputs[0].metadata_props["unit"] = "m"
    before = model.clone()
    assert apply(found, model).sites == 1
    assert [node.op_type for node in model.graph] == ["Relu", "Neg"]
    assert not interface_problems(before, model)
    assert model.metadata_props == {"author": "someone"}
    assert model.graph.metadata_props == {"layer": "all"}
    assert model.graph.inputs[0].metadata_props == {"unit": "m"}
    assert model.ir_version == before.ir_version


def test_modules_in_the_current_folder_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('not the real one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "CHILD", COPY.format(edit="pass"))
    assert apply(found, parse(NET, 17)).sites == 0


def test_a_model_beyond_one_message_is_refused_before_it_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXTERNAL_FROM", 0)
    with pytest.raises(ModelError, match="near 2 GB"):
        apply(found, parse(NET, 17))


def test_a_result_that_onnxsim_itself_refuses_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxsim.py").write_text(
        "import onnx\ndef simplify(path, **_): return onnx.load(path), False\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelError, match="its own check refuses the result"):
        apply(found, parse(NET, 17))


def test_the_real_one_leaves_a_model_that_needs_no_file() -> None:
    pytest.importorskip("onnxsim")
    text = (
        "g (float[N,3,8,8] x) => (float[N,4,8,8] y) "
        "<float[4,3,3,3] w, float[4] s, float[4] b, float[4] m, float[4] var> "
        "{ a = Identity (x)   c = Conv <pads = [1,1,1,1]> (a, w)"
        "   d = BatchNormalization (c, s, b, m, var)   y = Relu (d) }"
    )
    model = parse(text, 17)
    before, feeds = model.clone(), runnable_feeds(model, 1)
    assert apply(found, model).sites == 2
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert not list(external_tensors(model))
    assert not model.metadata_props
    assert not lossless_problems(make_reference(before, feeds), model, Effect.CLOSE)
    assert apply(found, model).sites == 0
