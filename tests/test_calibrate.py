"""`calibrate` through the front door: what it writes, keeps, draws, and refuses."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import onnxcomp
from onnxcomp.calibration.caching import read_any
from onnxcomp.calibration.methods import AVERAGE, METHODS
from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds import METHODS as FOUND
from onnxcomp.cli import cli

MODELS = Path(__file__).resolve().parent.parent / "models"
MODEL, DATA = MODELS / "digits_cnn.onnx", MODELS / "digits.npz"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def calibrate(out: Path, *more: object) -> Result:
    return run("calibrate", MODEL, "--calib", DATA, "--samples", 40, "-o", out, *more)


def test_the_methods_are_those_there_are() -> None:
    assert set(METHODS) == {*FOUND, AVERAGE}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_file_that_quantizes(method: str, tmp_path: Path) -> None:
    out = tmp_path / "ranges.json"
    done = calibrate(out, "--calib-method", method)
    assert done.exit_code == 0, done.output
    widest = onnxcomp.calibrate(MODEL, calib=DATA, samples=40, calib_method="minmax")
    ranges = onnxcomp.read_ranges(out)
    assert (ranges.method, ranges.samples) == (method, 40)
    assert ranges.values.keys() == widest.values.keys()
    for name, found in ranges.values.items():
        whole = widest.values[name]
        assert min(whole.lo, 0) - 1e-6 <= found.lo <= found.hi <= max(whole.hi, 0) + 1e-6
    result = onnxcomp.optimize(MODEL, int8=True, ranges=out, verify=False)
    assert result.report.int8 is not None
    assert result.report.int8.macs_share
    assert result.report.to_dict()["ranges"]["method"] == method


def test_the_second_time_nothing_is_run(tmp_path: Path) -> None:
    out = tmp_path / "ranges.json"
    calibrate(out)
    before = out.read_bytes()
    again = calibrate(out)
    assert "nothing to calibrate" in again.stderr
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["ranges.json"]


def test_optimize_keeps_the_ranges_that_it_finds(tmp_path: Path) -> None:
    out, ranges = tmp_path / "m.onnx", tmp_path / "ranges.json"
    command = ["optimize", MODEL, "--int8", "--calib", DATA, "--ranges", ranges, "-o", out]
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert ranges.exists()
    content = out.read_bytes()
    second = run(*command)
    assert "nothing to calibrate" in second.stderr
    assert out.read_bytes() == content


def test_ranges_of_another_model_are_noticed(tmp_path: Path) -> None:
    ranges = tmp_path / "ranges.json"
    calibrate(ranges)
    command = ["optimize", "--int8", "--ranges", ranges, "--dry-run", "--no-verify"]
    other = run(*command[:1], MODELS / "digits_mlp.onnx", *command[1:])
    assert other.exit_code in (0, 2)
    assert "another model" in other.stderr or "no range of a value" in other.stderr
    assert "another model" not in run(*command[:1], MODEL, *command[1:]).stderr


def test_a_tensorrt_cache_goes_out_and_comes_back(tmp_path: Path) -> None:
    out, cache = tmp_path / "ranges.json", tmp_path / "model.cache"
    assert calibrate(out, "--tensorrt", cache).exit_code == 0
    ranges, lines = onnxcomp.read_ranges(out), cache.read_text().splitlines()
    assert lines[0].startswith("TRT-")
    for line in lines[1:]:
        name, bits = line.split(": ")
        found = ranges.values[name]
        (scale,) = struct.unpack(">f", bytes.fromhex(bits))
        assert scale == np.float32(max(-found.lo, found.hi) / 127)
        assert read_any(cache).values[name] == Range(-127 * scale, 127 * scale)
    result = onnxcomp.optimize(MODEL, int8=True, ranges=cache, verify=False)
    assert result.report.int8 is not None
    assert result.report.int8.macs_share


@pytest.mark.parametrize("line", ["a", "a: 12345", "a: zzzzzzzz", "a: 7f800000", ": 3c010a14"])
def test_a_damaged_cache_names_the_line(line: str, tmp_path: Path) -> None:
    cache = tmp_path / "model.cache"
    cache.write_text(f"TRT-8601-EntropyCalibration2\nx: 3c010a14\n{line}\n")
    if line == "a: 12345":  # leading zeros are left out by some writers
        assert read_any(cache).values["a"].hi == pytest.approx(0, abs=1e-30)
        return
    done = run("optimize", MODEL, "--int8", "--ranges", cache, "--dry-run")
    assert done.exit_code == 2
    assert f"{cache}, line 3: not `name: 8 hexadecimal digits`" in done.stderr


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "plots"
    done = calibrate(tmp_path / "ranges.json", "--plot", folder)
    assert done.exit_code == 0, done.output
    pictures = sorted(path.name for path in folder.glob("*.png"))
    page = (folder / "index.html").read_text()
    assert len(pictures) > 5
    assert all(name in page for name in pictures)
    assert f"shows {len(pictures)} histograms" in done.stderr


def test_channels_are_in_the_file_that_asks_for_them(tmp_path: Path) -> None:
    out = tmp_path / "ranges.json"
    calibrate(out, "--per-channel", "*Relu*", "--calib-method", "minmax")
    channels = json.loads(out.read_text())["channels"]
    assert channels
    for name, rows in channels.items():
        assert "Relu" in name
        whole = onnxcomp.read_ranges(out).values[name]
        assert max(hi for _, hi in rows) == whole.hi


def test_nan_is_said_by_name(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,4] x) => (float[N,4] y)'
        " { root = Sqrt(x)  y = Neg(root) }"
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    np.save(tmp_path / "x.npy", np.array([[4, -1, 9, 0]], np.float32))
    done = run("calibrate", path, "--calib", tmp_path / "x.npy", "-o", tmp_path / "r.json")
    assert "warning: root held 1 NaN, which were left out of its range" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["nan"]["root"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calib-memory", "lots"], "calib-memory 'lots': give a size such as 512MB or 2GB"),
        (["--calib-memory", "0MB"], "give a size"),
        (["--per-channel", "no*"], "--per-channel 'no*' matches no float value"),
        (["--workers", "-1"], "workers must be 0 (none) or more, got -1"),
        (["--calib-method", "best"], "'best' is not one of"),
    ],
)
def test_wrong_settings_are_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = calibrate(tmp_path / "ranges.json", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_memory_and_workers_do_not_change_the_file(tmp_path: Path) -> None:
    calibrate(tmp_path / "plain.json")
    calibrate(tmp_path / "small.json", "--calib-memory", "100KB")
    calibrate(tmp_path / "many.json", "--workers", "2")
    plain = (tmp_path / "plain.json").read_bytes()
    assert (tmp_path / "small.json").read_bytes() == plain
    assert (tmp_path / "many.json").read_bytes() == plain


def test_data_that_the_original_does_not_run_on_is_named() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17]> g (int64[N] x) => (float[N, 4] y)'
        " <float[1, 4] t = {1, 2, 3, 4}> { y = Gather (t, x) }"
    )
    samples = [{"x": np.array([0])}] * 3 + [{"x": np.array([7])}]
    with pytest.raises(onnxcomp.OnnxcompError, match=r"sample 0 of those held out"):
        onnxcomp.optimize(model, int8=True, calib=samples)
