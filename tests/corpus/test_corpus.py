"""Nothing that breaks a real model lands: lossless equality, interface, size, int8 that runs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.cli import cli
from onnxcomp.graph import Array
from onnxcomp.model_io import load_model
from onnxcomp.parity import ParityMeter
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.runtime import Session, inline_bytes, input_specs

# Relative to each output's range, ONNX Runtime's optimizations off.
TOLERANCE = 1e-4
# Nodes of the lossless result, subgraphs counted; a change may lower them, never raise them.
NODE_CEILINGS: Mapping[str, int] = {
    "basic_pitch": 179,
    "centerface": 119,
    "crnn_en_g2": 40,
    "efficientnet_lite0": 94,
    "magika": 75,
    "minilm_l3": 129,
    "ppocr2_cls": 143,
    "ppocr4_rec": 284,
    "silero_vad": 74,
}
CALIBRATION_SAMPLES = 12


def optimize(*arguments: object) -> dict[str, object]:
    command = ["optimize", *(str(argument) for argument in arguments), "--json"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    assert found["schema"] == 1
    return found


def interface(path: Path) -> list[tuple[str, str]]:
    proto = onnx.load(path, load_external_data=False)
    initializers = {item.name for item in proto.graph.initializer}
    values = [v for v in proto.graph.input if v.name not in initializers]
    metadata = [(prop.key, prop.value) for prop in proto.metadata_props]
    return [(v.name, str(v.type)) for v in (*values, *proto.graph.output)] + metadata


def real_and_random(source: Path, spec: str, count: int) -> Iterator[Mapping[str, Array]]:
    model = load_model(source)
    yield from runnable_feeds(model, 2)
    yield from itertools.islice(open_samples(spec, input_specs(model)), count)


def test_lossless(source: Path, samples_spec: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = optimize(source, "-o", out)
    assert not [step for step in report["steps"] if step["status"] == "rolled-back"]  # type: ignore[attr-defined]
    onnx.checker.check_model(str(out), full_check=True)
    assert interface(out) == interface(source)
    before, after = report["before"], report["after"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert after["nodes"] <= NODE_CEILINGS.get(source.stem, before["nodes"])
    assert out.stat().st_size <= 1.01 * source.stat().st_size
    meter = ParityMeter()
    original, result = Session(load_model(source)), Session(load_model(out))
    for feeds in real_and_random(source, samples_spec, 4):
        meter.add(original.run(feeds), result.run(feeds))
    for name, output in meter.result().outputs.items():
        assert not output.broken, f"{name}: {output.broken}"
        assert output.relative <= TOLERANCE, f"{name}: {output.relative}"
    Session(load_model(out), optimize=True).run(feeds)


def test_a_second_run_changes_nothing(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    optimize(source, "-o", first)
    report = optimize(first, "-o", second)
    assert {step["status"] for step in report["steps"]} == {"unchanged"}  # type: ignore[attr-defined]
    assert first.read_bytes() == second.read_bytes()


def test_the_order_of_passes_does_not_matter(source: Path) -> None:
    steps = load_recipe("lossless").steps
    shuffled = random.Random(0).sample(steps, len(steps))
    results = [run_lossless(load_model(source), each, None)[0] for each in (steps, shuffled)]
    assert inline_bytes(results[0]) == inline_bytes(results[1])


@pytest.mark.parametrize("gate", [[], ["--no-verify"]], ids=["gate", "no gate"])
def test_int8_loads_and_runs(
    source: Path, samples_spec: str, gate: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    arguments = ["--int8", "--calib", samples_spec, "--samples", CALIBRATION_SAMPLES]
    report = optimize(source, *arguments, *gate, "-o", out)
    assert report["int8"] is not None
    if gate and source.stem != "silero_vad":  # it multiplies in control flow only
        assert "QuantizeLinear" in report["after"]["ops"]  # type: ignore[index]
    onnx.checker.check_model(str(out), full_check=True)
    assert interface(out) == interface(source)
    for optimized in (False, True):
        session = Session(load_model(out), optimize=optimized)
        for feeds in real_and_random(source, samples_spec, 3):
            for data in session.run(feeds).values():
                if np.asarray(data).dtype.kind == "f":
                    assert np.isfinite(data).all()
