"""The comparison of int8 quantizers measures, sums up, and survives what goes wrong."""

from __future__ import annotations

import itertools
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
OURS = "onnxcomp"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / name), run_name="script")


def test_a_row_per_model_and_a_column_per_quantizer() -> None:
    peers = [OURS, "ORT default"]
    command = [sys.executable, str(BENCHMARKS / "int8.py"), "--models", "digits_mlp"]
    command += itertools.chain.from_iterable(("--peer", peer) for peer in peers)
    done = subprocess.run([*command, "--samples", "8"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for title, columns in (("Metric", ["float", *peers]), ("Speed, float / result", peers)):
        lines = done.stdout.partition(f"## {title}\n\n")[2].splitlines()
        head, row = ([cell.strip() for cell in lines[n].split("|")[1:-1]] for n in (0, 2))
        assert head == ["model", *columns]
        assert row[0] == "digits_mlp"
        assert all(0 < float(cell.split("x")[0]) < 100 for cell in row[1:]), row
    verdicts = done.stdout.partition("## Verdicts\n\n")[2].partition("\n## ")[0].splitlines()
    assert len(verdicts) == 2
    assert "/tmp" not in done.stdout


def test_an_unknown_model_is_an_error() -> None:
    command = [sys.executable, str(BENCHMARKS / "int8.py"), "--models", "nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no model nosuch; there are" in done.stderr


def rows_of(tables: dict[str, Any], *results: tuple[Any, ...]) -> dict[str, Any]:
    """Return a row per result: label, metric, speed-up and, where there are any, problems."""
    found = {}
    for label, metric, speedup, *problems in results:
        verdict = {"metric": metric, "speedups": [speedup], "problems": problems, "notes": []}
        found[label] = tables["Row"]((), {**verdict, "bytes": 1, "sqnr_db": 20.0})
    return found


@pytest.mark.parametrize(
    ("results", "literal", "with_float"),
    [
        ([("a", 0.795, 1.5), ("b", 0.9, 1.2)], "1.33x (1 models", "1.33x (1 models"),
        ([("a", 0.75, 3.0), ("b", 0.795, 0.5)], "4.00x (1 models", "2.00x (1 models"),
        ([("a", 0.8, 3.0, "the checker refuses it")], "none (0 models", "2.00x (1 models"),
    ],
)
def test_the_summary_takes_the_best_valid_peer_within_a_point(
    results: Sequence[Any], literal: str, with_float: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = script("_int8_tables.py", monkeypatch)
    own = [("float", 0.8, 1.0), (OURS, 0.8, 2.0)]
    rows = {"m": rows_of(tables, *own, *results), "n": rows_of(tables, ("float", None, 1.0))}
    lines = tables["summary"](rows, OURS, {"m": "public", "n": "built"})
    assert f"geometric mean: {literal}" in lines[0]
    assert f"always to be had: {with_float}" in lines[0]
    assert "is not within 1 point on: none." in lines[1]
    assert len(lines) == 2


def test_what_went_wrong_is_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = script("_int8_tables.py", monkeypatch)
    run = script("_process.py", monkeypatch)["Run"]
    for failure, cell in (
        ("crashed: signal 11 (SIGSEGV)", "crash"),
        ("raised ValueError: no", "raises"),
        ("took more than 1 s", "timeout"),
        ("ended without a model", "no model"),
    ):
        row = tables["Row"]((run(1.0, 1.0, None, failure, ""),), None)
        assert tables["metric_cell"](row) == tables["speed_cell"](row) == cell
    verdict = {"problems": ["ONNX Runtime cannot load the model: no"], "metric": None}
    assert tables["metric_cell"](tables["Row"]((), verdict)) == "does not load"
    invalid = rows_of(tables, ("a", 0.5, 2.0, "the checker refuses it"))["a"]
    assert tables["speed_cell"](invalid) == "2.00x!"


def test_the_built_networks_are_valid_and_seeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = script("_networks.py", monkeypatch)
    first, second = tmp_path / "first.onnx", tmp_path / "first.again" / "first.onnx"
    second.parent.mkdir()
    for path in (first, second):
        networks["write_mobilenet"](path)
    assert first.read_bytes() == second.read_bytes()
    onnx.checker.check_model(str(first), full_check=True)
    ops = [node.op_type for node in onnx.load(first).graph.node]
    assert (ops.count("Conv"), ops.count("BatchNormalization"), ops.count("Add")) == (52, 52, 10)


def test_the_judge_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = script("_int8_verdict.py", monkeypatch)
    case = verdict["find_cases"]()["digits_mlp"]
    original, result = tmp_path / "original.onnx", tmp_path / "result.onnx"
    case.write(original)
    same = verdict["judge"](case, original, original)
    assert (same["problems"], same["sqnr_db"]) == ([], pytest.approx(130, abs=60))
    assert same["metric"] > 0.9
    wrong = onnx.load(original)
    wrong.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(wrong, result)
    found = verdict["judge"](case, original, result)
    assert found["metric"] is None
    assert any("cannot load" in problem for problem in found["problems"])
