"""Nothing that breaks a real model losslessly lands: equality, interface, size."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import onnx

from corpus.runs import interface, optimize, real_and_random
from onnxcomp.model_io import load_model
from onnxcomp.parity import ParityMeter
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.runtime import Session, inline_bytes

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


def test_lossless(source: Path, samples_spec: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = optimize(source, "-o", out)
    assert not [step for step in report["steps"] if step["status"] == "rolled-back"]
    onnx.checker.check_model(str(out), full_check=True)
    assert interface(out) == interface(source)
    before, after = report["before"], report["after"]
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
    assert {step["status"] for step in report["steps"]} == {"unchanged"}
    assert first.read_bytes() == second.read_bytes()


def test_the_order_of_passes_does_not_matter(source: Path) -> None:
    steps = load_recipe("lossless").steps
    shuffled = random.Random(0).sample(steps, len(steps))
    results = [run_lossless(load_model(source), each, None)[0] for each in (steps, shuffled)]
    assert inline_bytes(results[0]) == inline_bytes(results[1])
