"""What each quantized value costs is measured with it alone on its grid, and adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from int8_checks import ranges_of
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.edits import sweep as remove_unused
from onnxcomp.int8.sensitivity import sweep
from onnxcomp.int8.switchboard import Switchboard, make_switchboard
from onnxcomp.model_io import load_model
from onnxcomp.passes.quantize._numbers import grid_of
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

MODELS = Path(__file__).parent.parent / "models"
LONG = 500


def quantized(name: str) -> tuple[ir.Model, ir.Model, Samples, Ranges]:
    model, _ = run_lossless(load_model(MODELS / name), load_recipe("lossless").steps, None)
    samples = open_samples(MODELS / "digits.npz", input_specs(model), limit=8)
    ranges, after = ranges_of(model, list(samples)), model.clone()
    apply(find_pass("quantize-static"), after, {}, {"ranges": ranges, "target": TARGETS["x86"]})
    remove_unused(after)
    return model, after, samples, ranges


def by_hand(board: Switchboard, model: ir.Model, index: int) -> float:
    """Return the noise of one group, its value rounded between two runs of the model."""
    group, noise, signal = board.groups[index], 0.0, 0.0
    name = group.values[0]
    rest = model.clone()
    value = next(out for node in rest.graph for out in node.outputs if out.name == name)
    given = ir.Value(name="given", type=ir.TensorType(ir.DataType.FLOAT))
    rest.graph.inputs.append(given)
    value.replace_all_uses_with(given)
    first, second = Session(model, taps=[name]), Session(rest)
    for feeds in board.feeds:
        exact = first.run(feeds)
        steps = np.rint(exact[name] / group.scale) + np.float32(group.zero_point)
        on_grid = (np.clip(steps, 0, 255) - np.float32(group.zero_point)) * group.scale
        found = second.run({**feeds, "given": on_grid.astype(np.float32)})
        for output in rest.graph.outputs:
            wanted = exact[output.name or ""]
            signal += float(np.square(wanted, dtype=np.float64).sum())
            noise += float(np.square(wanted - found[output.name or ""], dtype=np.float64).sum())
    return noise / signal


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_resnet.onnx"])
def test_a_switch_puts_one_value_on_its_grid(name: str) -> None:
    model, after, samples, _ = quantized(name)
    board = make_switchboard(model, after, samples)
    inner = {out.name for node in model.graph for out in node.outputs}
    inner -= {out.name for out in model.graph.outputs}
    assert board.noise([]) < 1e-9
    checked = 0
    for index, group in enumerate(board.groups):
        if group.values[0] in inner:
            assert board.noise([index]) == pytest.approx(by_hand(board, model, index), rel=0.02)
            checked += 1
    assert checked >= 4


def test_all_values_have_a_cost_and_the_dearest_comes_first() -> None:
    model, after, samples, ranges = quantized("digits_cnn.onnx")
    board = make_switchboard(model, after, samples)
    found = sweep(model, after, samples, ranges, LONG)
    noise = [cost.noise for cost in found.costs]
    assert {cost.values for cost in found.costs} == {group.values for group in board.groups}
    assert noise == sorted(noise, reverse=True)
    assert sum(noise) == pytest.approx(board.noise(range(len(board.groups))), rel=1.0)


def test_a_sweep_is_of_so_many_runs_and_finds_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, after, samples, ranges = quantized("digits_resnet.onnx")
    runs: list[int] = []
    noise = Switchboard.noise

    def counted(self: Switchboard, *args: Any) -> float:
        runs.append(1)
        return noise(self, *args)

    monkeypatch.setattr(Switchboard, "noise", counted)
    found = []
    for limit in (16, 16, 40):
        runs.clear()
        found.append(sweep(model, after, samples, ranges, limit))
        assert 8 <= len(runs) <= limit + 6  # a split takes two, a value up to five ranges
    assert found[0] == found[1]
    assert len({cost.noise for cost in found[0].costs}) < len({c.noise for c in found[2].costs})


def test_a_range_that_is_far_too_wide_is_refined() -> None:
    model, _, samples, ranges = quantized("digits_cnn.onnx")
    relu = next(node.outputs[0].name or "" for node in model.graph if node.op_type == "Relu")
    wide = Ranges({**ranges.values, relu: Range(0.0, 40 * ranges.values[relu].hi)}, "minmax", 8, "")
    extremes = {**wide.values, relu: ranges.values[relu]}
    given = Ranges(wide.values, "minmax", 8, "", extremes=extremes)
    after = model.clone()
    apply(find_pass("quantize-static"), after, {}, {"ranges": wide, "target": TARGETS["x86"]})
    remove_unused(after)
    found = sweep(model, after, samples, given, LONG)
    assert found.costs[0].values[0] == relu
    assert found.ranges[relu].hi < wide.values[relu].hi
    before = {cost.values: cost.noise for cost in found.costs}
    refined = {cost.values: cost.noise for cost in found.refined}
    changed = {values for values in before if refined[values] != before[values]}
    assert {values[0] for values in changed} == set(found.ranges)
    assert all(refined[values] < before[values] for values in changed)
    board = make_switchboard(model, after, samples)
    index = [group.values[0] for group in board.groups].index(relu)
    grid = grid_of(found.ranges[relu])
    assert board.noise([index], {index: grid}) == pytest.approx(refined[board.groups[index].values])
