"""The pipeline: fixpoint, blame, rollback, and that the rest still ships."""

from __future__ import annotations

import random
from pathlib import Path

import onnx_ir as ir
import pytest

from case_pages import parse, structure
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.model_io import load_model
from onnxcomp.pipeline import run_lossless, stretches
from onnxcomp.recipe import Step
from onnxcomp.recipe_file import load_recipe
from onnxcomp.reference import make_reference
from onnxcomp.runtime import inline_bytes
from onnxcomp.verify import lossless_problems

NET = """g (float[1,3,8,8] x) => (float[1,4,6,6] y)
<float[4,3,3,3] w, float[4] gamma, float[4] beta, float[4] mean, float[4] var>
{ i = Identity (x)   c = Conv (i, w)   n = BatchNormalization (c, gamma, beta, mean, var)
  y = Relu (n) }"""
MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))
GOOD = ("eliminate-identity", "fuse-bn-into-conv")


def run(*names: str, verify: bool = True) -> tuple[ir.Model, dict[str, str], dict[str, str]]:
    model = parse(NET, 17)
    before = structure(model)
    reference = make_reference(model, runnable_feeds(model, 2)) if verify else None
    result, reports = run_lossless(model, [Step(name) for name in names], reference)
    assert structure(model) == before
    if reference is not None:
        assert not lossless_problems(reference, result)
    return result, {r.name: r.status for r in reports}, {r.name: r.reason for r in reports}


def test_a_clean_run_reports_every_pass() -> None:
    model, status, _ = run(*GOOD, "eliminate-dropout")
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert status == {
        "eliminate-identity": "applied",
        "fuse-bn-into-conv": "applied",
        "eliminate-dropout": "unchanged",
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("bad_passes:DoubleEveryWeight", "of its range"),
        ("bad_passes:RaiseHalfWay", "out of ideas"),
        ("bad_passes:RenameInput", "inputs changed"),
        ("bad_passes:ReverseNodes", "not made before it"),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_guilty_pass_is_named_and_left_out_and_the_rest_ships(
    bad: str, reason: str, position: int
) -> None:
    names = [*GOOD[:position], bad, *GOOD[position:]]
    model, status, reasons = run(*names)
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert status == {bad: "rolled-back", GOOD[0]: "applied", GOOD[1]: "applied"}
    assert reason in reasons[bad]


def test_two_guilty_passes_are_both_named() -> None:
    bad = ("bad_passes:RenameInput", "bad_passes:DoubleEveryWeight")
    _, status, _ = run(bad[0], GOOD[0], bad[1], GOOD[1])
    assert {name for name, found in status.items() if found == "rolled-back"} == set(bad)


def test_without_verification_the_structure_is_still_checked() -> None:
    _, status, _ = run("bad_passes:ReverseNodes", *GOOD, verify=False)
    assert status["bad_passes:ReverseNodes"] == "rolled-back"
    assert status["fuse-bn-into-conv"] == "applied"


def test_a_second_run_changes_nothing() -> None:
    model, _, _ = run(*(step.name for step in load_recipe("lossless").steps))
    again, reports = run_lossless(model, load_recipe("lossless").steps, None)
    assert structure(again) == structure(model)
    assert {report.status for report in reports} == {"unchanged"}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [None, 1, 2], ids=["reversed", "shuffled", "shuffled again"])
def test_the_order_of_passes_does_not_matter(path: Path, seed: int | None) -> None:
    steps = list(load_recipe("lossless").steps)
    other = steps[::-1] if seed is None else random.Random(seed).sample(steps, len(steps))
    first, second = (run_lossless(load_model(path), each, None)[0] for each in (steps, other))
    assert inline_bytes(first) == inline_bytes(second)


def test_lossy_steps_stand_alone() -> None:
    steps = [Step(name) for name in (*GOOD, "quantize-static", "eliminate-identity")]
    assert [[s.name for s in group] for group in stretches(steps)] == [
        list(GOOD),
        ["quantize-static"],
        ["eliminate-identity"],
    ]
