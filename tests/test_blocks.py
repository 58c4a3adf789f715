"""Blocks of lossy passes: held to the budget, done by less where that keeps it, and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import onnxcomp
from onnxcomp import blocks, channel_block, targets
from onnxcomp.recipe import Recipe, Step
from onnxcomp.report import Report
from onnxcomp.run import Result
from onnxcomp.targets import TARGETS, detect

MODELS = Path(__file__).resolve().parent.parent / "models"
CNN, DIGITS = MODELS / "digits_cnn.onnx", MODELS / "digits.npz"
ELSEWHERE = "arm64" if detect() != "arm64" else "portable"  # no timings decide


def pruned(**options: Any) -> Result:
    given: dict[str, Any] = {
        "calib": DIGITS,
        "samples": 64,
        "prune_channels": 0.5,
        "target": ELSEWHERE,
    }
    return onnxcomp.optimize(CNN, **{**given, **options})


def step(report: Report, name: str) -> str:
    return next(each.status for each in report.steps if each.name == name)


def ratio(result: Result) -> float:
    [found] = [each for each in result.recipe.steps if each.name == "prune-channels"]
    return float(str(found.options["ratio"]))


def test_what_keeps_the_budget_is_done_as_asked() -> None:
    result = pruned(max_drop=0.5)
    assert ratio(result) == 0.5
    assert result.report.after.cost.macs <= 0.5 * result.report.before.cost.macs


def test_what_breaks_the_budget_is_done_by_less_and_said_so() -> None:
    said: list[str] = []
    result = pruned(min_sqnr=19, say=said.append)
    assert step(result.report, "prune-channels") == "applied"
    assert result.report.parity is not None
    assert result.report.parity.sqnr_db >= 19
    assert 0 < ratio(result) < 0.5
    assert any(f"the most that was found to keep the budget is prune-channels ratio={ratio(result)}"
               in text for text in said)  # fmt: skip


def test_what_settles_on_ranks_is_said_in_the_terms_that_it_was_asked_in() -> None:
    said: list[str] = []
    recipe = Recipe(steps=(Step("factorize-gemm", {"energy": 0.5, "smaller": True}),))
    given = {"calib": DIGITS, "samples": 64, "min_sqnr": 12.0, "target": ELSEWHERE}
    mlp = MODELS / "digits_mlp.onnx"
    result = onnxcomp.optimize(mlp, recipe=recipe, say=said.append, **given)  # type: ignore[arg-type]
    [warning] = [text for text in said if "the most that was found" in text]
    energy = float(warning.rpartition("factorize-gemm energy=")[2])
    assert 0.5 < energy < 1
    [left] = result.recipe.steps
    assert left.options["ranks"]


def test_what_never_keeps_the_budget_is_left_out() -> None:
    result = pruned(min_sqnr=90)
    assert step(result.report, "prune-channels") == "rolled-back"
    assert result.report.after.cost.macs == result.report.before.cost.macs
    assert "prune-channels" not in [each.name for each in result.recipe.steps]


def test_what_is_for_speed_and_not_faster_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WORTH", 1e9)
    monkeypatch.setattr(blocks, "SECONDS", 0.05)
    result = pruned(max_drop=0.5, target="auto", samples=16)
    assert step(result.report, "prune-channels") == "rolled-back"
    reason = next(each.reason for each in result.report.steps if each.name == "prune-channels")
    assert "it is not faster" in reason


@pytest.mark.parametrize("options", [{"min_sqnr": 19}, {"int8": True, "schemes": ["static"]}])
def test_the_recipe_of_a_run_gives_the_same_bytes(options: dict[str, Any]) -> None:
    first = pruned(**options)
    again = onnxcomp.optimize(CNN, recipe=first.recipe, calib=DIGITS)
    assert ir.to_proto(again.model).SerializeToString() == first.to_proto().SerializeToString()
    assert again.recipe == first.recipe


def test_int8_is_made_of_the_pruned_model() -> None:
    result = pruned(int8=True, schemes=["static"], max_drop=0.5)
    assert step(result.report, "prune-channels") == "applied"
    assert step(result.report, "quantize-static") == "applied"
    assert step(result.report, "correct-bias") != "rolled-back"
    assert result.report.int8 is not None
    assert result.report.int8.macs_share == 1.0


def test_milliseconds_are_settled_as_a_share() -> None:
    recipe = onnxcomp.Recipe(steps=(onnxcomp.Step("prune-channels", {"milliseconds": 1e4}),))
    found = onnxcomp.optimize(CNN, recipe=recipe, calib=DIGITS, samples=16, target=ELSEWHERE)
    [settled] = found.recipe.steps
    assert settled.options == {"ratio": 0.0, "block": TARGETS[ELSEWHERE].channel_block}


def test_the_block_is_measured_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_block, "probe", lambda: 4)
    monkeypatch.setattr(channel_block, "is_told_by_the_cpu", lambda: False)
    here = targets.find_target("auto")
    assert channel_block.block_of(here) == (4 if here.channel_block > 8 else here.channel_block)
    assert channel_block.block_of(TARGETS["tensorrt"]) == 16
