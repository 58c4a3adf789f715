"""A search's recipe makes its result again to the byte, and its memory is not a matter of data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from case_pages import parse_proto
from onnxcomp.cli import cli
from onnxcomp.recipe_file import load_recipe

MODELS = Path(__file__).resolve().parent.parent / "models"
SAMPLES = {"digits_cnn": "digits.npz", "digits_mlp": "digits.npz", "encoder": "encoder.npz"}


def optimize(*arguments: object) -> None:
    result = CliRunner().invoke(cli, ["optimize", *map(str, arguments), "--quiet"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "encoder", "lstm"])
def test_the_saved_recipe_makes_the_same_bytes_twice(name: str, tmp_path: Path) -> None:
    model = MODELS / f"{name}.onnx"
    outs = [tmp_path / f"{index}.onnx" for index in range(3)]
    recipes = [out.with_suffix(".toml") for out in outs]
    calib = MODELS / SAMPLES[name] if name in SAMPLES else "random:16"
    search = ["--int8", "--calib", calib, "--samples", 32]
    optimize(model, *search, "-o", outs[0], "--save-recipe", recipes[0])
    for out, saved in zip(outs[1:], recipes[1:], strict=True):
        optimize(model, "--recipe", recipes[0], "-o", out, "--save-recipe", saved)
    assert len({out.read_bytes() for out in outs}) == 1
    assert len({saved.read_text() for saved in recipes}) == 1
    settled = load_recipe(str(recipes[0]))
    assert not settled.schemes
    assert not settled.never_slower
    ops = {node.op_type for node in onnx.load(outs[0]).graph.node}
    passes = {step.name for step in settled.steps}
    assert ("QuantizeLinear" in ops) == ("quantize-static" in passes)


# Activations of 1.5 MB and inputs of 0.2 MB a sample: what is kept of each would show.
NET = """agraph (float[1, 3, 128, 128] x) => (float[1, 10] y)
<float[16, 3, 3, 3] a, float[16, 16, 3, 3] b, float[10, 16] c>
{
  d = Conv <pads = [1, 1, 1, 1]> (x, a)  e = Relu (d)
  f = Conv <strides = [2, 2]> (e, b)  g = Relu (f)
  h = GlobalAveragePool (g)  i = Flatten (h)  y = Gemm <transB = 1> (i, c)
}"""
FEEDS = """
import numpy as np
def feeds():
    rng = np.random.default_rng(0)
    while True:
        yield {"x": rng.standard_normal((1, 3, 128, 128), dtype=np.float32)}
"""


def peak_mb(model: Path, calib: str, count: int) -> float:
    command = [sys.executable, "-m", "onnxcomp", "optimize", str(model), "--int8", "--json"]
    command += ["--calib", calib, "--samples", str(count), "-o", str(model.with_suffix(".out"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["peak_mb"])


def test_ten_times_the_samples_take_no_more_memory(tmp_path: Path) -> None:
    model, script = tmp_path / "net.onnx", tmp_path / "samples.py"
    onnx.save(parse_proto(NET, 13), model)
    script.write_text(FEEDS)
    few, many = (peak_mb(model, f"{script}:feeds", count) for count in (16, 160))
    assert many <= 1.1 * few
