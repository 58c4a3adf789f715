"""The command line through its front door: answers, errors, exit codes, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from case_pages import parse
from onnxcomp.cli import cli

MODELS = Path(__file__).parent.parent / "models"
CNN = MODELS / "digits_cnn.onnx"
DATA = MODELS / "digits.npz"
SCHEMA_KEYS = [
    "schema", "before", "after", "interface", "steps", "parity", "metric", "latency", "int8",
    "sparsity", "storage", "candidates", "ranges", "seconds", "peak_mb", "recipe", "problems",
    "written",
]  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_optimize_writes_beside_the_input_and_never_over_it(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(CNN.read_bytes())
    result = run("optimize", model)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.opt.onnx"]
    assert model.read_bytes() == CNN.read_bytes()
    assert "parity  PASSED" in result.stdout
    assert "fuse-bn-into-conv" in result.stdout


def test_json_is_schema_1(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = run("optimize", CNN, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert list(report) == SCHEMA_KEYS
    assert report["schema"] == 1
    side = {"path", "nodes", "bytes", "params", "macs", "ops"}
    assert set(report["before"]) == set(report["after"]) == side
    assert report["before"]["bytes"] == CNN.stat().st_size
    assert report["after"]["bytes"] == out.stat().st_size
    assert report["after"]["nodes"] < report["before"]["nodes"]
    step = {"pass", "effect", "sites", "nodes", "bytes", "seconds", "status", "left", "measured"}
    assert all(set(item) == step for item in report["steps"])
    assert report["parity"]["passed"] is True
    figures = {"max_abs", "sqnr_db", "cosine", "top1", "expected_drop"}
    assert set(report["parity"]["outputs"]["logits"]) == figures
    assert report["metric"] is report["latency"] is report["int8"] is None
    assert report["written"] == str(out)


def test_the_main_job(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = run("optimize", CNN, "--int8", "--calib", DATA, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["after"]["bytes"] <= 0.30 * report["before"]["bytes"]
    assert report["parity"]["passed"] is True
    assert report["metric"]["before"] - report["metric"]["after"] <= 0.01
    assert report["int8"]["macs_share"] > 0.99
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    outs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    arguments = ["--int8", "--scheme", "static", "--calib", DATA]  # of several, timings choose
    for out in outs:
        assert run("optimize", CNN, *arguments, "-o", out, "-q").exit_code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_printed_recipe_repeats_the_run(tmp_path: Path) -> None:
    arguments = ["--int8", "--calib", DATA, "--skip", "fold-constants", "--samples", "200"]
    arguments += ["--scheme", "static"]  # of several, timings choose
    printed = run("optimize", CNN, *arguments, "--print-recipe")
    assert printed.exit_code == 0
    recipe = tmp_path / "r.toml"
    recipe.write_text(printed.stdout)
    outs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert run("optimize", CNN, *arguments, "-o", outs[0]).exit_code == 0
    assert run("optimize", CNN, "--recipe", recipe, "-o", outs[1]).exit_code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(CNN.read_bytes())
    result = run("optimize", model, "--dry-run")
    assert result.exit_code == 0
    assert "nothing written" in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_the_interface_changes_on_request_and_the_report_says_so(tmp_path: Path) -> None:
    out, recipe = tmp_path / "o.onnx", tmp_path / "r.toml"
    arguments = ["--shape", "image:1,_,8,8", "--opset", "17", "--outputs", "logits"]
    result = run("optimize", CNN, *arguments, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["interface"] == [
        {"what": "input image", "before": "float32[N,1,8,8]", "after": "float32[1,1,8,8]"},
        {"what": "output logits", "before": "float32[N,10]", "after": "float32[1,10]"},
        {"what": "opset", "before": "13", "after": "17"},
    ]
    model = onnx.load(out)
    assert model.opset_import[0].version == 17
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert report["recipe"]["shapes"] == {"image": [1, "_", 8, 8]}
    recipe.write_text(run("optimize", CNN, *arguments, "--print-recipe").stdout)
    again = tmp_path / "a.onnx"
    assert run("optimize", CNN, "--recipe", recipe, "-o", again, "-q").exit_code == 0
    assert again.read_bytes() == out.read_bytes()
    table = run("optimize", CNN, *arguments, "--dry-run").stdout
    assert "interface  opset 13 -> 17   as asked" in table


def test_outputs_are_separated_by_commas_or_repeated(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    text = """g (float[2] x) => (float[2] a, float[2] b, float[2] c)
    { a = Abs (x)  b = Neg (x)  c = Relu (x) }"""
    ir.save(parse(text, 17), model)
    for arguments in (["--outputs", "a,c"], ["--outputs", "a", "--outputs", "c"]):
        result = run("optimize", model, *arguments, "--json", "--dry-run")
        assert set(json.loads(result.stdout)["parity"]["outputs"]) == {"a", "c"}


def test_the_diff_goes_to_stdout_and_beside_json_to_stderr(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    table = run("optimize", CNN, "--diff", "--dry-run")
    assert table.exit_code == 0
    assert table.stdout.startswith("-4 BatchNormalization  4 Conv")
    assert "\n+++ after\n" in table.stdout
    assert "parity  PASSED" in table.stdout
    assert "effect" not in table.stdout
    written = run("optimize", CNN, "--diff", "-q", "-o", out)
    assert f"\n+++ {out}\n" in written.stdout
    assert "parity" not in written.stdout
    both = run("optimize", CNN, "--diff", "--json", "--dry-run")
    assert json.loads(both.stdout)["after"]["nodes"] == 12
    assert both.stderr.startswith("-4 BatchNormalization")


def test_a_terminal_gets_the_beginning_of_a_long_diff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcomp.cli.DIFF_LINES", 5)
    assert "more lines" not in run("optimize", CNN, "--diff", "--dry-run", "-q").stdout
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    cut = run("optimize", CNN, "--diff", "--dry-run", "-q").stdout.splitlines()
    assert len(cut) == 6
    assert cut[-1].startswith("... ")
    assert cut[-1].endswith(" more lines; pipe them to see all")


def test_a_closed_pipe_is_no_error() -> None:
    command = f'"{sys.executable}" -m onnxcomp optimize "{CNN}" --diff --dry-run | true'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "rror" not in done.stderr


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    result = run("optimize", CNN, "-o", tmp_path / "o.onnx", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_int8_without_data_warns_loudly(tmp_path: Path) -> None:
    result = run("optimize", CNN, "--int8", "-o", tmp_path / "o.onnx")
    assert result.exit_code == 0, result.output
    assert "RANDOM samples" in result.stderr


def test_a_budget_that_cannot_be_met_ships_the_lossless_model(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = run(
        "optimize", CNN, "--int8", "--calib", DATA, "--min-sqnr", 90, "-o", out, "--json"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert not any(candidate["chosen"] for candidate in report["candidates"])
    assert all("below 90 dB" in candidate["problems"][0] for candidate in report["candidates"])
    assert "below 90 dB" in result.stderr
    assert "the lossless model ships" in result.stderr
    assert report["parity"]["passed"] is True
    assert "QuantizeLinear" not in report["after"]["ops"]
    assert out.exists()


def test_the_users_metric_is_the_budget(tmp_path: Path) -> None:
    metric = MODELS / "eval_digits.py"
    arguments = ["--int8", "--calib", DATA, "--eval", f"{metric}:accuracy", "--max-drop", "0.01"]
    result = run("optimize", CNN, *arguments, "-o", tmp_path / "o.onnx", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["metric"]
    assert found["before"] > 0.95
    assert found["max_drop"] == 0.01


def test_calibrate_then_optimize_with_the_ranges(tmp_path: Path) -> None:
    ranges, out = tmp_path / "r.json", tmp_path / "o.onnx"
    result = run("calibrate", CNN, "--calib", DATA, "--samples", 40, "-o", ranges)
    assert result.exit_code == 0, result.output
    assert json.loads(ranges.read_text())["samples"] == 40
    result = run("optimize", CNN, "--int8", "--ranges", ranges, "--calib", DATA, "-o", out)
    assert result.exit_code == 0, result.output
    assert "RANDOM" not in result.stderr
    assert out.stat().st_size < 0.30 * CNN.stat().st_size


def test_compare_says_how_near_and_exits_1_below_the_budget(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    assert run("optimize", CNN, "--int8", "--calib", DATA, "-o", out, "-q").exit_code == 0
    good = run("compare", CNN, out, "--calib", DATA, "--samples", 50, "--json", "--bench")
    assert good.exit_code == 0, good.output
    found = json.loads(good.stdout)
    assert found["parity"]["outputs"]["logits"]["sqnr_db"] > 15
    assert found["latency"]["speedup"] > 0
    bad = run("compare", CNN, out, "--calib", DATA, "--samples", 50, "--min-sqnr", 90)
    assert bad.exit_code == 1
    assert "below 90 dB" in bad.stdout


def test_inspect_passes_and_explain() -> None:
    summary = run("inspect", CNN)
    assert summary.exit_code == 0, summary.output
    assert "BatchNormalization" in summary.stdout
    assert json.loads(run("inspect", CNN, "--json").stdout)["params"] > 0
    names = [row["pass"] for row in json.loads(run("passes", "--json").stdout)]
    assert "fuse-bn-into-conv" in names
    assert "fuse-bn-into-conv" in run("passes").stdout
    page = run("explain", "fuse_bn_into_conv")
    assert "Left alone when" in page.stdout


# ---------------------------------------------------------------- bad input
@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "text.onnx").write_text("hello, I am a text file\n" * 50)
    (tmp_path / "truncated.onnx").write_bytes(CNN.read_bytes()[: CNN.stat().st_size // 2])
    (tmp_path / "zero.onnx").write_bytes(b"")
    graph = onnx.helper.make_graph([], "g", [], [])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), tmp_path / "empty.onnx")
    unknown = "g (float[1] x) => (float[1] y) { y = NoSuchOperator (x) }"
    ir.save(parse(unknown, 17), tmp_path / "unknown.onnx")
    np.savez(tmp_path / "shape.npz", image=np.zeros((4, 3, 8, 8), np.float32))
    np.savez(tmp_path / "name.npz", picture=np.zeros((4, 1, 8, 8), np.float32))
    np.savez(tmp_path / "type.npz", image=np.zeros((4, 1, 8, 8), np.int64))
    (tmp_path / "damaged.npz").write_bytes(DATA.read_bytes()[:1000])
    (tmp_path / "none").mkdir()
    (tmp_path / "ranges.json").write_text("{}")
    (tmp_path / "raises.py").write_text("def feeds():\n    raise RuntimeError('no camera')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.onnx"], "there is no file"),
        (["truncated.onnx"], "damaged"),
        (["text.onnx"], "not an ONNX model"),
        (["zero.onnx"], "is empty"),
        (["empty.onnx"], "empty graph"),
        (["unknown.onnx"], "cannot load the model"),
        (["none"], "is a folder"),
        ([CNN, "--int8", "--calib", "shape.npz"], "image"),
        ([CNN, "--int8", "--calib", "name.npz"], "picture"),
        ([CNN, "--int8", "--calib", "type.npz"], "int64"),
        ([CNN, "--int8", "--calib", "damaged.npz"], "damaged.npz"),
        ([CNN, "--int8", "--calib", "none"], "none"),
        ([CNN, "--int8", "--calib", "nowhere"], "nowhere"),
        ([CNN, "--int8", "--calib", "raises.py:feeds"], "no camera"),
        ([CNN, "--int8", "--calib", "raises.py:other"], "other"),
        ([CNN, "--int8", "--ranges", "ranges.json"], "not a ranges file"),
        ([CNN, "--int8", "--exclude", "no_such_node"], "no_such_node"),
        ([CNN, "--int8", "--max-drop", "0.1"], "needs a metric"),
        ([CNN, "--max-drop", "0.1"], "add --int8"),
        ([CNN, "--exclude", "*"], "does not run"),
        ([CNN, "--speed"], "No such option"),
        ([CNN, "--select", "fuse-everything"], "there is no pass"),
        ([CNN, "--skip", "fuse-bn-into-con"], "did you mean"),
        ([CNN, "--recipe", "fast"], "there is no recipe"),
        ([CNN, "--target", "toaster"], "toaster"),
        ([CNN, "--samples", "0"], "at least 1"),
        ([CNN, "--shape", "images:1,1,8,8"], "no input 'images'; its inputs are image: float32"),
        ([CNN, "--shape", "1,1,8"], "has 3 dims; the input has 4"),
        ([CNN, "--shape", "1,1,9,9"], "asks 9 for dim 2, which the model fixes at 8"),
        ([CNN, "--shape", "1,1,8,x"], "a dim is a number from 1 on, or _"),
        ([CNN, "--outputs", "scores"], "no output 'scores'; its outputs are 'logits'"),
        ([CNN, "--outputs", ","], "at least one output"),
        ([CNN, "--opset", "5"], "opset must be from 7"),
        ([CNN, "--opset", "ten"], "not a valid integer"),
        ([CNN, "--shape", "1,1,8,8", "--int8", "--calib", DATA, "--samples", "x"], "not a valid"),
        ([CNN, "-o", "none"], "is a folder"),
        ([CNN, "-o", "no/such/folder/o.onnx"], "there is no folder"),
    ],
    ids=lambda value: " ".join(str(v).rpartition("/")[2] for v in value) if value else "",
)
def test_bad_input_exits_2_with_one_line_and_writes_nothing(
    bad: Path, arguments: list[object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    before = sorted(path.name for path in bad.iterdir())
    output = [] if "-o" in arguments else ["-o", "written.onnx"]
    result = run("optimize", *arguments, *output)
    assert result.exit_code == 2, result.output
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if "rror: " in line]
    assert len(errors) == 1, result.stderr
    assert sorted(path.name for path in bad.iterdir()) == before


def test_an_unwritable_folder_exits_2(tmp_path: Path) -> None:
    out = Path("/proc/onnxcomp.onnx") if Path("/proc").exists() else tmp_path / "no" / "o.onnx"
    result = run("optimize", CNN, "-o", out)
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


@pytest.mark.parametrize("verb", ["calibrate", "compare", "inspect"])
def test_the_other_verbs_explain_bad_models(bad: Path, verb: str) -> None:
    more = {"calibrate": ["-o", str(bad / "r")], "compare": [str(CNN)]}.get(verb, [])
    for name in ("missing.onnx", "truncated.onnx", "text.onnx", "empty.onnx"):
        result = run(verb, bad / name, *more)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
    assert run("explain", "nothing").exit_code == 2


def test_help_is_fast_and_the_module_runs() -> None:
    def once() -> float:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "onnxcomp", "--help"], check=True, capture_output=True
        )
        return time.perf_counter() - started

    once()
    assert min(once() for _ in range(3)) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, onnxcomp.cli; "
        "heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--min-speedup", 1000, "less than 1000x"), ("--min-int8-macs", 1.0, "less than 100.0%")],
)
def test_what_is_required_and_missed_exits_1_and_is_written(
    option: str, value: float, word: str, tmp_path: Path
) -> None:
    out, recipe = tmp_path / "o.onnx", tmp_path / "r.toml"
    arguments = ["--int8", "--calib", DATA, "--samples", 40, "--exclude", "/conv1/*", "-o", out]
    result = run("optimize", CNN, *arguments, option, value, "--save-recipe", recipe, "--json")
    assert result.exit_code == 1
    assert word in result.stderr
    assert f"{out} is written all the same" in result.stderr
    assert word in json.loads(result.stdout)["problems"][0]
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert "quantize-static" in recipe.read_text()
