"""cluster-weights: codebooks of every kind, and how codes are stored."""

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
from onnxcomp.passes.quantize._codebooks import KINDS, codes_of, find_codebook, histogram
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, input_specs

PASS = find_pass("cluster-weights")
MODELS = Path(__file__).resolve().parent.parent / "models"
NET = """agraph (float[N, 3, 8, 8] x) => (float[N, 24] y)
<float[24, 3, 3, 3] kernel, float[864, 24] w>
{ c = Conv (x, kernel)  f = Flatten (c)  y = MatMul (f, w) }"""


def clustered(text: str, **options: object) -> tuple[ir.Model, Outcome]:
    before = parse(text, 17)
    after = before.clone()
    samples = open_samples("random:2", input_specs(before), model=before)
    outcome = apply(PASS, after, {"least": 16, **options}, {"samples": samples})
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, count=2):
        found = compare_outputs(Session(before).run(feeds), Session(after).run(feeds))
        assert found.sqnr_db > 3
    return after, outcome


def random_weight(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (rng.integers(1, 20), rng.integers(1, 60)))
    return (weight * 10.0 ** rng.integers(-8, 8)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.integers(3, 256))
def test_every_number_gets_the_nearest_value(seed: int, kind: str, size: int) -> None:
    weight = random_weight(seed)
    book = find_codebook(kind, histogram(weight), size)
    assert 1 <= len(book) <= max(size, 3)
    assert np.isfinite(book).all()
    error = np.abs(weight - book[codes_of(weight, book)])
    best = np.abs(weight[..., np.newaxis] - book).min(axis=-1)
    assert np.all(error <= best * 1.0001 + np.abs(book).max() * 1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_more_values_are_better_and_few_distinct_numbers_are_exact(seed: int) -> None:
    weight = random_weight(seed)
    found = histogram(weight)
    errors = []
    for size in (4, 16, 64):
        book = find_codebook("kmeans", found, size)
        errors.append(float(np.square(weight - book[codes_of(weight, book)]).sum()))
    assert errors[1] <= errors[0] * 1.01
    assert errors[2] <= errors[1] * 1.01
    few = np.random.default_rng(seed).choice(np.array([-2, -0.5, 0.25, 1, 3], np.float32), (40, 40))
    book = find_codebook("kmeans", histogram(few), 16)
    assert np.allclose(book[codes_of(few, book)], few, rtol=1e-6)


@pytest.mark.parametrize("kind", ["kmeans", "log", "pow2", "ternary"])
def test_pruned_weights_stay_zero(kind: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64), dtype=np.float32)
    weight[rng.random(weight.shape) < 0.6] = 0
    book = find_codebook(kind, histogram(weight), 16)
    assert not book[codes_of(weight, book)][weight == 0].any()


def test_powers_of_two_and_ratios_are_what_they_say() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    found = histogram(weight)
    pow2 = find_codebook("pow2", found, 16)
    exponents = np.log2(np.abs(pow2[pow2 != 0]))
    assert np.array_equal(exponents, np.rint(exponents))
    assert len(pow2) == 15
    log = find_codebook("log", found, 16)
    positive = log[log > 0]
    ratios = positive[1:] / positive[:-1]
    assert np.allclose(ratios, ratios[0], rtol=1e-4)
    ternary = find_codebook("ternary", found, 16)
    assert np.allclose(ternary, [-ternary[2], 0, ternary[2]])
    assert 1.1 < ternary[2] < 1.35  # 1.22 for normal numbers
    assert find_codebook("binary", found, 16)[1] == pytest.approx(np.abs(weight).mean(), rel=1e-3)


def test_codes_are_of_4_bits_where_they_fit() -> None:
    for values, dtype, opset in ((16, ir.DataType.UINT4, 21), (17, ir.DataType.UINT8, 17)):
        after, outcome = clustered(NET, values=values)
        assert outcome.sites == 2
        assert opset_version(after) == opset
        casts = [node for node in all_nodes(after) if node.op_type == "Cast"]
        assert {node.inputs[0].dtype for node in casts if node.inputs[0]} == {dtype}
        assert apply(PASS, after.clone(), {"least": 16}, {
            "samples": open_samples("random:1", input_specs(after), model=after)
        }).sites == 0  # fmt: skip


def test_weights_in_files_are_read_when_they_are_written(tmp_path: Path) -> None:
    model = parse(NET, 21)
    save_model(model, tmp_path / "m.onnx", external=True)
    held, lazy = model, load_model(tmp_path / "m.onnx")
    for found in (held, lazy):
        samples = open_samples("random:1", input_specs(found), model=found)
        assert apply(PASS, found, {"least": 16}, {"samples": samples}).sites == 2
        sweep(found)
    assert isinstance(lazy.graph.initializers["w.codes"].const_value, ir.LazyTensor)
    for name, value in held.graph.initializers.items():
        other = lazy.graph.initializers[name].const_value
        assert value.const_value is not None
        assert other is not None
        assert value.const_value.tobytes() == other.tobytes(), name


@pytest.mark.parametrize(
    "options", [{"codebook": "x"}, {"values": 1}, {"values": 300}, {"ratio": -0.1},
                {"codebook": "log", "values": 2}],
)  # fmt: skip
def test_an_option_that_does_not_exist_is_an_error(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="cluster-weights"):
        clustered(NET, **options)


def test_real_samples_are_used_and_a_tenth_of_the_file_keeps_the_metric() -> None:
    result = onnxcomp.optimize(
        MODELS / "digits_cnn.onnx", weights="codebook", calib=MODELS / "digits.npz", threads=1
    )
    (step,) = [each for each in result.report.steps if each.name == "cluster-weights"]
    assert step.status == "applied"
    assert all(each.after >= each.before for each in step.measured)
    assert any(each.after > each.before for each in step.measured)
    assert result.report.after.cost.bytes < 0.14 * result.report.before.cost.bytes
    assert result.report.passed


def test_pruned_and_clustered_weights_keep_their_zeros() -> None:
    result = onnxcomp.optimize(
        MODELS / "digits_mlp.onnx",
        prune=0.5,
        weights="codebook",
        calib=MODELS / "digits.npz",
        threads=1,
        max_drop=0.03,
    )
    zeros = []
    for node in all_nodes(result.model):
        if node.op_type == "Gather":
            book, codes = array(node.inputs[0]), node.inputs[1].producer().inputs[0]  # type: ignore[union-attr]
            assert book is not None
            held = array(codes)
            assert held is not None
            zeros.append(float((book[held.astype(np.int64)] == 0).mean()))
    # prune-weights leaves some layers alone.
    assert 0.4 < max(zeros) < 0.6
