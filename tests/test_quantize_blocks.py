"""quantize-blocks: grids, roundings, the three forms, and what is in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxcomp
from case_pages import parse
from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.errors import UsageError
from onnxcomp.graph import all_nodes, array, opset_version
from onnxcomp.model_io import load_model, save_model
from onnxcomp.parity import compare_outputs
from onnxcomp.passes.quantize._block_grid import (
    BlockFormat,
    fitted_grid,
    nearest_grid,
    steps_on,
    values_on,
)
from onnxcomp.passes.quantize._block_rounding import round_blocks
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import LEVELS, Session, input_specs, load, session_options
from onnxcomp.targets import TARGETS

PASS = find_pass("quantize-blocks")
FORMATS = st.builds(
    BlockFormat, st.sampled_from([4, 8]), st.integers(1, 40), st.booleans(), st.booleans()
)
SEEDS = st.integers(0, 2**32 - 1)
NET = """agraph (float[N, 3, 8, 8] x) => (float[N, 24] y)
<float[24, 3, 3, 3] kernel, float[80, 864] v, float[80] b, float[80, 24] w>
{
    c = Conv (x, kernel)
    f = Flatten (c)
    g = Gemm <transB = 1> (f, v, b)
    y = MatMul (g, w)
}"""


def weight_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (rng.integers(1, 9), rng.integers(1, 80)))
    weight[rng.random(weight.shape) < 0.2] = 0
    return (weight * 10.0 ** rng.integers(-6, 6)).astype(np.float32)


def noise(weight: np.ndarray, grid: object, fmt: BlockFormat) -> np.ndarray:
    """Return the squared error of each row."""
    stands = values_on(steps_on(weight, grid, fmt), grid, fmt)  # type: ignore[arg-type]
    return np.asarray(np.square(weight.astype(np.float64) - stands).sum(axis=1))


def stored(text: str | ir.Model, **options: object) -> tuple[ir.Model, Outcome]:
    """Store weights in blocks and check what every result promises."""
    before = parse(text, 17) if isinstance(text, str) else text
    after = before.clone()
    samples = open_samples("random:2", input_specs(before), model=before)
    target = TARGETS[str(options.pop("target", "x86"))]
    outcome = apply(PASS, after, {"least": 16, **options}, {"samples": samples, "target": target})
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, count=2):
        wanted, found = Session(before).run(feeds), Session(after).run(feeds)
        assert compare_outputs(wanted, found).sqnr_db > 15
    return after, outcome


# ---------------------------------------------------------------- numbers
@given(SEEDS, FORMATS)
def test_no_number_moves_more_than_half_a_step_and_zero_stays(seed: int, fmt: BlockFormat) -> None:
    weight = weight_of(seed)
    grid = nearest_grid(weight, fmt)
    steps = steps_on(weight, grid, fmt)
    assert steps.max() <= fmt.last
    assert grid.scale.shape == (len(weight), fmt.blocks(weight.shape[1]))
    step = np.repeat(np.abs(grid.scale), fmt.block, 1)[:, : weight.shape[1]]
    error = np.abs(values_on(steps, grid, fmt).astype(np.float64) - weight)
    # The far end of a mirrored grid has one step less on its other side; so has a rounded zero.
    assert np.all(error <= (1.001 if fmt.symmetric and fmt.mirrored else 0.501) * step * 2)
    assert np.median(error / step) <= 0.501
    assert not values_on(steps, grid, fmt)[weight == 0].any()
    if not fmt.mirrored:
        assert (grid.scale > 0).all()


@settings(max_examples=40)
@given(SEEDS, FORMATS)
def test_a_fitted_grid_is_never_worse_than_the_nearest(seed: int, fmt: BlockFormat) -> None:
    weight = weight_of(seed)
    before = noise(weight, nearest_grid(weight, fmt), fmt)
    after = noise(weight, fitted_grid(weight, fmt), fmt)
    assert np.all(after <= before * 1.0001 + 1e-30)


@settings(max_examples=40)
@given(SEEDS, FORMATS, st.sampled_from([1, 2]))
def test_errors_made_up_for_are_never_more_than_those_of_nearest(
    seed: int, fmt: BlockFormat, groups: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 6), rng.integers(1, 40)
    weight = rng.standard_normal((groups, rows, columns), dtype=np.float32)
    inputs = rng.standard_normal((groups, 64, columns)) @ rng.standard_normal((columns, columns))
    gram = inputs.transpose(0, 2, 1) @ inputs / 64
    flat = weight.reshape(-1, columns)
    grid = nearest_grid(flat, fmt)
    found = round_blocks(weight, grid, gram, fmt)
    assert found.max() <= fmt.last
    errors = []
    for steps in (steps_on(flat, grid, fmt), found):
        error = (flat - values_on(steps, grid, fmt)).reshape(weight.shape).astype(np.float64)
        errors.append(((error @ gram) * error).sum(axis=-1))
    assert np.all(errors[1] <= errors[0] * 1.001 + 1e-9)


# ---------------------------------------------------------------- forms
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("form", ["folded", "standard", "nbits"])
def test_each_form_stores_the_same_numbers(form: str, bits: int, symmetric: bool) -> None:
    after, outcome = stored(NET, form=form, bits=bits, symmetric=symmetric)
    assert outcome.sites == 3
    assert len(outcome.measured) == 3
    floor = 40 if bits == 8 else 18
    assert all(each.after >= each.before >= floor for each in outcome.measured)
    ops = {node.op_type for node in all_nodes(after)}
    assert ("DequantizeLinear" in ops) == (form == "standard")
    assert ("MatMulNBits" in ops) == (form == "nbits")
    assert opset_version(after) == (21 if bits == 4 or form == "standard" else 17)
    _, again = stored(after, form=form, bits=bits, symmetric=symmetric)
    assert again.sites == 0


def test_folded_weights_leave_the_kernels_of_the_original(tmp_path: Path) -> None:
    after, _ = stored(NET, form="folded")
    counts = []
    for model in (parse(NET, 17), after):
        options = session_options(optimize=LEVELS[1], threads=1)
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        load(ir.to_proto(model).SerializeToString(), options)
        counts.append(sorted(n.op_type for n in all_nodes(ir.load(tmp_path / "optimized.onnx"))))
    assert counts[0] == counts[1]


def test_the_bytes_are_those_that_the_formula_says() -> None:
    after, _ = stored(NET, form="folded", symmetric=True, ops="MatMul,Gemm")
    found = {name: value.const_value for name, value in after.graph.initializers.items()}
    assert found["v.int4"].nbytes == 80 * 864 // 2  # type: ignore[union-attr]
    assert found["v.scale"].nbytes == 80 * 27 * 4  # type: ignore[union-attr]
    assert found["w.int4"].shape == (3, 32, 24)  # type: ignore[union-attr]


def test_tensorrt_gets_the_standard_form_with_positive_scales() -> None:
    after, _ = stored(NET, target="tensorrt")
    nodes = [node for node in all_nodes(after) if node.op_type == "DequantizeLinear"]
    assert len(nodes) == 3
    for node in nodes:
        assert len(node.inputs) == 2
        scale = array(node.inputs[1])
        assert scale is not None
        assert scale.min() > 0


def test_a_shared_table_is_stored_once_and_others_are_left() -> None:
    after, outcome = stored(
        """agraph (int64[N] i, float[N, 64] x) => (float[N, 64] a, float[N, 32] b, float[N, 32] c)
<float[32, 64] table, float[64, 32] w>
{ a = Gather (table, i)  b = Gemm <transB = 1> (x, table)  p = MatMul (x, w)  q = MatMul (a, w)
  c = Add (p, q) }""",
        form="folded",
    )
    assert outcome.sites == 2
    assert sum(node.op_type == "Mul" for node in all_nodes(after)) == 2


def test_less_is_done_of_what_changes_most() -> None:
    _, outcome = stored(NET, form="folded", ratio=0.5)
    assert 0 < outcome.sites < 3 or outcome.sites == 0
    assert any("of the bytes" in each.reason for each in outcome.left)
    assert stored(NET, form="folded", ratio=0.0)[1].sites == 0


@pytest.mark.parametrize(
    "options", [{"bits": 3}, {"block": 7}, {"form": "x"}, {"rounding": "x"}, {"ratio": 2.0}]
)
def test_an_option_that_does_not_exist_is_an_error(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="quantize-blocks"):
        stored(NET, **options)


def test_weights_that_are_not_finite_or_all_zero_are_left() -> None:
    model = parse("agraph (float[N, 64] x) => (float[N, 8] y) <float[64, 8] w> "
                  "{ y = MatMul (x, w) }", 17)  # fmt: skip
    for number, reason in ((np.inf, "not finite"), (0.0, "all zero")):
        copy = model.clone()
        copy.graph.initializers["w"].const_value = ir.tensor(np.full((64, 8), number, np.float32))
        samples = open_samples("random:1", input_specs(copy), model=copy)
        needs = {"samples": samples, "target": TARGETS["portable"]}
        outcome = apply(PASS, copy, {"least": 16}, needs)
        assert outcome.sites == 0
        assert reason in outcome.left[0].reason


# ---------------------------------------------------------------- whole runs
def test_weights_in_files_are_read_when_they_are_written(tmp_path: Path) -> None:
    model = parse(NET, 21)
    save_model(model, tmp_path / "m.onnx", external=True)
    held, lazy = model, load_model(tmp_path / "m.onnx")
    for found in (held, lazy):
        samples = open_samples("random:2", input_specs(found), model=found)
        needs = {"samples": samples, "target": TARGETS["portable"]}
        assert apply(PASS, found, {"least": 16}, needs).sites == 3
        sweep(found)
    assert isinstance(lazy.graph.initializers["v.int4"].const_value, ir.LazyTensor)
    for name, value in held.graph.initializers.items():
        assert value.const_value is not None
        other = lazy.graph.initializers[name].const_value
        assert other is not None
        assert value.const_value.tobytes() == other.tobytes(), name


def test_real_samples_lower_the_error_of_layers() -> None:
    root = Path(__file__).resolve().parent.parent / "models"
    result = onnxcomp.optimize(
        root / "digits_mlp.onnx", weights="int4", calib=root / "digits.npz", threads=1
    )
    step = next(step for step in result.report.steps if step.name == "quantize-blocks")
    assert step.status == "applied"
    assert all(each.after >= each.before for each in step.measured)
    assert max(each.after - each.before for each in step.measured) > 1
    assert result.report.after.cost.bytes < 0.2 * result.report.before.cost.bytes
    assert result.report.passed
    again = onnxcomp.optimize(
        root / "digits_mlp.onnx", recipe=result.recipe, calib=root / "digits.npz"
    )
    assert again.content == result.content or (
        ir.to_proto(again.model).SerializeToString(deterministic=True)
        == ir.to_proto(result.model).SerializeToString(deterministic=True)
    )


def test_what_breaks_the_budget_is_done_in_part_or_not_at_all() -> None:
    root = Path(__file__).resolve().parent.parent / "models"
    result = onnxcomp.optimize(
        root / "digits_mlp.onnx",
        weights="int4",
        calib=root / "digits.npz",
        min_sqnr=30.0,
        threads=1,
    )
    assert result.report.parity is not None
    assert result.report.parity.sqnr_db >= 30
