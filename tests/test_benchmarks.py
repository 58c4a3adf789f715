"""The comparison with other optimizers measures, judges, and survives what goes wrong."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
MODEL = ROOT / "models" / "digits_cnn.onnx"
PYTHON = [sys.executable, "-P"]

process: dict[str, Any] = runpy.run_path(str(BENCHMARKS / "_process.py"))
verdict: dict[str, Any] = runpy.run_path(str(BENCHMARKS / "_verdict.py"))
peers: dict[str, Any] = runpy.run_path(str(BENCHMARKS / "_peers.py"))["PEERS"]


def judge(result: Path) -> dict[str, Any]:
    found: dict[str, Any] = verdict["judge"](verdict["read"](MODEL), verdict["read"](result))
    return found


def test_a_row_per_model_and_a_column_per_installed_optimizer(tmp_path: Path) -> None:
    (tmp_path / MODEL.name).write_bytes(MODEL.read_bytes())
    command = [sys.executable, str(BENCHMARKS / "lossless.py"), "--models", str(tmp_path)]
    done = subprocess.run(
        [*command, "--no-fetch", "--repeat", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    absent = {label for label, peer in peers.items() if peer.version is None}
    for label in absent:
        assert f"{label} is left out: it is not installed" in done.stderr
    nodes = done.stdout.partition("## Nodes\n\n")[2].splitlines()
    head, row = ([cell.strip() for cell in nodes[n].split("|")[1:-1]] for n in (0, 2))
    assert set(head) == {"model", "original", *peers} - absent
    cells = dict(zip(head, row, strict=True))
    assert (cells["model"], cells["original"]) == ("digits_cnn", "16")
    assert cells["onnxcomp"] == cells["onnxcomp --no-verify"] == cells["ORT basic"] == "12"
    assert str(tmp_path) not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [MODEL.name]


@pytest.mark.parametrize(
    ("child", "failure"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed: signal 11 (SIGSEGV)"),
        ("raise KeyError('no /some/folder/model.onnx')", "raised KeyError: 'no model.onnx'"),
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("import time; time.sleep(60)", "took more than 1 s"),
        ("print('done')", None),
    ],
)
def test_how_a_process_ends_is_told(child: str, failure: str | None, tmp_path: Path) -> None:
    limit = 1 if "sleep" in child else 60
    run = process["run"]([*PYTHON, "-c", child], tmp_path, limit)
    assert run.failure == failure
    assert 0 < run.seconds < 30
    assert run.stdout == ("done\n" if failure is None else "")


SMALL_CALLER = """
import json, runpy, sys
run = runpy.run_path(sys.argv[1])["run"]
held = "import time; held = b'1' * 200_000_000; time.sleep(0.2)"
done = run([sys.executable, "-P", "-c", held], sys.argv[2], 60)
print(json.dumps([done.resident, done.anonymous]))
"""


def test_memory_is_the_childs(tmp_path: Path) -> None:
    # A child counts as large as its parent until it begins, and the tests' process is large.
    command = [*PYTHON, "-c", SMALL_CALLER, str(BENCHMARKS / "_process.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, anonymous = json.loads(done.stdout)
    assert 200 <= resident < 400
    assert anonymous is None or 200 <= anonymous <= resident


def test_a_model_is_as_right_as_itself() -> None:
    found = judge(MODEL)
    assert found["problems"] == found["notes"] == []
    assert found["nodes"] == 16
    assert found["bytes"] == MODEL.stat().st_size
    assert found["difference"] == 0


def test_what_is_wrong_with_a_result_is_told(tmp_path: Path) -> None:
    wrong = onnx.load(MODEL)
    weight = next(w for w in wrong.graph.initializer if len(w.dims) == 4)
    data = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(data * 1.01, weight.name))
    renamed = onnx.load(MODEL)
    old, renamed.graph.input[0].name = renamed.graph.input[0].name, "other"
    for node in renamed.graph.node:
        node.input[:] = ["other" if name == old else name for name in node.input]
    redeclared = onnx.load(MODEL)
    redeclared.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    broken = onnx.load(MODEL)
    del broken.graph.node[0]
    for model, reason in (
        (wrong, "of its range"),
        (renamed, "inputs changed: image float rank 4 -> other float rank 4"),
        (redeclared, "is declared [1, 10] but is [2, 10]"),
        (broken, "the checker refuses it"),
    ):
        path = tmp_path / "result.onnx"
        onnx.save(model, path)
        problems = judge(path)["problems"]
        assert any(reason in problem for problem in problems), problems


def test_rounding_is_no_difference_however_small_the_range(tmp_path: Path) -> None:
    text = (
        "g (float[8] x) => (float[8] y) <float[1] big = {%s}, float[1] wide = {100}> "
        "{ z = Mul (x, wide)  y = Add (big, z) }"
    )
    paths = [tmp_path / name for name in ("one.onnx", "near.onnx", "far.onnx")]
    for path, big in zip(paths, ("1e8", "1.00000016e8", "1.01e8"), strict=True):
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text % big}')
        onnx.save(model, path)
    one, near, far = (verdict["read"](path) for path in paths)
    assert not verdict["judge"](one, near)["problems"]
    assert verdict["judge"](one, far)["problems"]


def test_the_fastest_and_the_smallest_near_enough_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    curves = runpy.run_path(str(BENCHMARKS / "_curves.py"))
    found = [
        curves["Point"](label, 0.5, macs, size, latency, metric, 1.0)
        for label, macs, size, latency, metric in (
            (curves["DENSE"], 1, 1, 1, 0.95),
            ("fast", 0.7, 0.6, 0.5, 0.945),
            ("fast", 0.6, 0.4, 0.8, 0.941),
            ("far", 0.3, 0.2, 0.4, 0.935),
            ("wrong", 0.1, 0.1, 0.1, 0.5),
            ("unknown", 0.1, 0.1, 0.1, None),
        )
    ]
    told = dict(
        line.split(": ", 1) for line in curves["table"]("m", found).splitlines() if ": " in line
    )
    assert told["Within 1%, fastest"] == "fast 0.70 of MACs in 0.50 of the time."
    assert told["Within 1%, smallest"] == "fast 0.40 of bytes."
    assert told["Within 2%, smallest"] == "fast 0.40 of bytes; far 0.20 of bytes."
    assert "far" not in told["Within 1%, fastest"]


def test_the_readme_keeps_all_but_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "_page.py"))
    begin, end = "<!-- lossless-bench -->", "<!-- /lossless-bench -->"
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{begin}\nold\n{end}\nbelow\n")
    script["write"]("lossless", "the page", "| new |", tmp_path)
    assert readme.read_text() == f"above\n{begin}\n\n| new |\n\n{end}\nbelow\n"
    assert (tmp_path / "docs" / "benchmarks" / "lossless.md").read_text() == "the page"
    readme.write_text("no markers\n")
    script["write"]("lossless", "the page", "| new |", tmp_path)
    assert readme.read_text() == "no markers\n"
