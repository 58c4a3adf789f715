"""Runs that are killed and go on: the same bytes, nothing twice, and never anything stale."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxcomp
from onnxcomp import keeping
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.cli import cli
from onnxcomp.edits import sweep
from onnxcomp.errors import ContractError, ModelError, UsageError
from onnxcomp.journal import MAGIC, Journal
from onnxcomp.linear import gram
from onnxcomp.model_io import load_model, save_model
from onnxcomp.passes.quantize import _block_rounding, cluster_weights
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import input_specs
from onnxcomp.stages import listening
from onnxcomp.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "models" / "digits.npz"
LAYERS = 3
WEIGHTS = 6 * LAYERS + 1
# Dies by the signal itself after so many records; `torn` leaves only a part of the last.
CHILD = """
import os, signal, sys
from onnxcomp import cli, journal, model_io
count, how = int(sys.argv.pop(1)), sys.argv.pop(1)
append = journal.Journal.append

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dying(self, key, record):
    global count
    append(self, key, record)
    count -= 1
    if not count:
        if how == "torn":
            os.truncate(self.path, self.path.stat().st_size - 9)
        die()

if how == "writing":
    model_io.lean_copy = lambda model: die()
elif how != "whole":
    journal.Journal.append = dying
cli.main()
"""


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transformer") / "m.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        write_transformer = importlib.import_module("_transformer").write_transformer
    write_transformer(path, width=64, layers=LAYERS, words=100)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small trained model whose weights lie in a file."""
    path = tmp_path_factory.mktemp("digits") / "m.onnx"
    save_model(load_model(ROOT / "models" / "digits_mlp.onnx"), path, external=True)
    return path


def command(model: Path, out: Path, *options: str) -> list[str]:
    return ["optimize", str(model), "-o", str(out), "--threads", "1", *options]


def child(count: int, how: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(count), how, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def content(out: Path) -> tuple[bytes, bytes]:
    return out.read_bytes(), out.with_name(f"{out.name}.data").read_bytes()


def partial_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


# ---------------------------------------------------------------- whole runs, and real kills
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
@pytest.mark.parametrize(
    ("weights", "how", "count", "recalled"),
    [
        # The first record is that of the form, which is timed.
        ("int4", "between", 9, 8),
        ("int4", "torn", 9, 7),
        ("codebook", "between", 8, 8),
        ("codebook", "writing", 0, WEIGHTS),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    weights: str,
    how: str,
    count: int,
    recalled: int,
    transformer: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    whole, out = tmp_path_factory.getbasetemp() / weights / "o.onnx", tmp_path / "o.onnx"
    options = ("--weights", weights, "--no-verify", "--min-sqnr", "1")
    if not whole.exists():
        whole.parent.mkdir()
        assert child(0, "whole", command(transformer, whole, *options)).returncode == 0
    killed = child(count, how, command(transformer, out, *options))
    assert killed.returncode == -signal.SIGKILL
    assert partial_of(out).exists()
    assert not out.exists()
    again = child(0, "whole", command(transformer, out, *options))
    assert again.returncode == 0, again.stderr
    name = "quantize-blocks" if weights == "int4" else "cluster-weights"
    assert f"{name}: {recalled} of {WEIGHTS} weights from {partial_of(out)}" in again.stderr
    assert content(out) == content(whole)
    assert not partial_of(out).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_a_killed_search_for_what_keeps_the_budget_ends_the_same(
    digits: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole" / "o.onnx", tmp_path / "o.onnx"
    whole.parent.mkdir()
    options = ("--weights", "codebook", "--calib", str(DIGITS), "--min-sqnr", "24")
    ran = child(0, "whole", command(digits, whole, *options))
    assert ran.returncode == 0, ran.stderr
    assert "the most that was found to keep the budget" in ran.stderr
    assert child(5, "between", command(digits, out, *options)).returncode == -signal.SIGKILL
    assert child(0, "whole", command(digits, out, *options)).returncode == 0
    assert content(out) == content(whole)


# ---------------------------------------------------------------- one pass at a time
def convert(model: Path, out: Path, name: str, **options: object) -> list[str]:
    """Run a pass and write the result, as the command line does; return what was said."""
    said: list[str] = []
    loaded = load_model(model)
    calib = str(DIGITS) if model.parent.name.startswith("digits") else "random:2"
    needs = {"samples": samples_of(model, calib), "target": TARGETS["x86"]}
    with keeping.keeping(partial_of(out), said.append):
        apply(find_pass(name), loaded, {"least": 64, **options}, needs)
        sweep(loaded)
        save_model(loaded, out, external=True)
    return said


@cache
def samples_of(model: Path, calib: str) -> Samples:
    loaded = load_model(model)
    return open_samples(calib, input_specs(loaded), model=loaded, limit=8)


class Spy:
    """Counts the weights that are fitted, whichever way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fitted = 0
        for module, name in (
            (_block_rounding, "_rounded"),
            (_block_rounding, "_best"),
            (cluster_weights, "_plain_record"),
            (cluster_weights, "_better"),
        ):
            monkeypatch.setattr(module, name, self._counting(getattr(module, name)))

    def _counting(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.fitted += 1
            return function(*args, **kwargs)

        return counted

    def take(self) -> int:
        found, self.fitted = self.fitted, 0
        return found


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def interrupted(model: Path, out: Path, count: int, name: str, **options: object) -> None:
    """Run until so many records are written."""
    append, left = Journal.append, count

    def stopping(self: Journal, key: bytes, record: keeping.Record) -> None:
        nonlocal left
        append(self, key, record)
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            convert(model, out, name, **options)
    assert partial_of(out).exists()


CASES: list[tuple[str, str, dict[str, object]]] = [
    ("transformer", "quantize-blocks", {"form": "folded"}),
    ("transformer", "quantize-blocks", {"form": "standard", "bits": 8, "symmetric": True}),
    ("transformer", "quantize-blocks", {"form": "nbits", "rounding": "nearest"}),
    ("digits", "quantize-blocks", {"form": "folded", "rounding": "gptq"}),
    ("digits", "quantize-blocks", {"form": "folded", "bits": 8}),
    ("transformer", "cluster-weights", {}),
    ("transformer", "cluster-weights", {"codebook": "log", "values": 33}),
    ("digits", "cluster-weights", {}),
]


@pytest.mark.parametrize(("model", "name", "options"), CASES)
def test_what_is_finished_is_not_fitted_again(
    model: str,
    name: str,
    options: dict[str, object],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    spy: Spy,
) -> None:
    path, out = request.getfixturevalue(model), tmp_path / "o.onnx"
    assert convert(path, out, name, **options) == []
    wanted, total = content(out), spy.take()
    count = total - 1
    interrupted(path, out, count, name, **options)
    assert spy.take() == count
    said = convert(path, out, name, **options)
    assert spy.take() == 1
    assert len(said) == 1
    assert "weights from" in said[0]
    assert content(out) == wanted
    assert not partial_of(out).exists()


def test_layers_whose_rounding_is_known_are_not_run_again(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.onnx"
    interrupted(digits, out, 3, "quantize-blocks", form="folded", rounding="gptq")
    monkeypatch.setattr("onnxcomp.linear.gram.tap", None)
    convert(digits, out, "quantize-blocks", form="folded", rounding="gptq")


@pytest.mark.parametrize("name", ["quantize-blocks", "cluster-weights"])
def test_of_layers_that_are_run_in_groups_only_the_unknown_groups_are(
    name: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    monkeypatch.setattr(gram, "HELD", 1)
    out, options = tmp_path / "o.onnx", {"form": "folded"} if name == "quantize-blocks" else {}
    convert(digits, out, name, **options)
    wanted, total = content(out), spy.take()
    for count in range(1, total):
        interrupted(digits, out, count, name, **options)
        spy.take()
        convert(digits, out, name, **options)
        assert spy.take() == total - count
        assert content(out) == wanted


def test_the_form_that_was_timed_stays(
    transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, timed = tmp_path / "o.onnx", "onnxcomp.passes.quantize._block_choice._timed"
    monkeypatch.setattr(timed, lambda *_: (2.0, 1.0))
    interrupted(transformer, out, 4, "quantize-blocks")
    monkeypatch.setattr(timed, lambda *_: (1.0, 2.0))
    convert(transformer, out, "quantize-blocks")
    assert any(node.op_type == "MatMulNBits" for node in load_model(out).graph)


def test_the_first_weights_are_kept_for_a_run_that_does_fewer(
    transformer: Path, tmp_path: Path, spy: Spy
) -> None:
    out = tmp_path / "o.onnx"
    convert(transformer, out, "quantize-blocks", form="folded", ratio=0.5)
    wanted, total = content(out), spy.take()
    interrupted(transformer, out, 10, "quantize-blocks", form="folded")
    spy.take()
    convert(transformer, out, "quantize-blocks", form="folded", ratio=0.5)
    assert content(out) == wanted
    assert spy.take() < total


def test_the_stage_says_how_far_it_is(transformer: Path, tmp_path: Path) -> None:
    out, stages = tmp_path / "o.onnx", list[str]()
    interrupted(transformer, out, 5, "cluster-weights")
    with listening(stages.append):
        convert(transformer, out, "cluster-weights")
    assert f"cluster-weights  5 of {WEIGHTS} weights, 5 from {partial_of(out)}" in stages
    assert f"cluster-weights  {WEIGHTS} of {WEIGHTS} weights, 5 from {partial_of(out)}" in stages
    assert stages[-1] == "writing"


# ---------------------------------------------------------------- what is stale
@pytest.mark.parametrize(
    "changed", ["bits", "block", "symmetric", "rounding", "version", "weights", "pass"]
)
def test_what_another_run_has_found_is_not_used(
    changed: str, transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    for name in ("m.onnx", "m.onnx.data"):
        shutil.copy(transformer.with_name(name), tmp_path / name)
    interrupted(model, out, WEIGHTS - 1, "quantize-blocks", form="folded")
    spy.take()
    name, options = "quantize-blocks", dict[str, object](form="folded")
    if changed == "weights":
        data = np.fromfile(tmp_path / "m.onnx.data", np.float32)
        (data * np.float32(1.5)).tofile(tmp_path / "m.onnx.data")
    elif changed == "version":
        monkeypatch.setattr(onnxcomp, "__version__", "0.1.1")
    elif changed == "pass":
        name, options = "cluster-weights", {}
    else:
        others = {"bits": 8, "block": 16, "symmetric": True, "rounding": "nearest"}
        options[changed] = others[changed]
    assert convert(model, out, name, **options) == []
    assert spy.take() == WEIGHTS
    found = content(out)
    convert(model, out, name, **options)
    assert content(out) == found
    assert not partial_of(out).exists()


@pytest.mark.parametrize("name", ["quantize-blocks", "cluster-weights"])
def test_other_samples_are_looked_at_anew(
    name: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    out, options = tmp_path / "o.onnx", {"form": "folded"} if name == "quantize-blocks" else {}
    convert(digits, out, name, **options)
    total = spy.take()
    interrupted(digits, out, total, name, **options)
    spy.take()
    with np.load(DIGITS) as held:
        arrays = {key: held[key][::-1] for key in held.files}
    np.savez(tmp_path / "other.npz", **arrays)
    monkeypatch.setattr(sys.modules[__name__], "DIGITS", tmp_path / "other.npz")
    convert(digits, out, name, **options)
    assert spy.take() > 0
    found = content(out)
    convert(digits, out, name, **options)
    assert content(out) == found


# ---------------------------------------------------------------- damage
@pytest.fixture(scope="module")
def wanted(transformer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the bytes of a run, and the journal of one that was interrupted."""
    out = tmp_path_factory.mktemp("wanted") / "o.onnx"
    interrupted(transformer, out, 12, "quantize-blocks", form="folded")
    held = partial_of(out).read_bytes()
    convert(transformer, out, "quantize-blocks", form="folded")
    return {"content": content(out), "journal": held}


@settings(max_examples=30)
@given(data=st.data())
def test_a_damaged_file_never_changes_the_result(
    data: st.DataObject, transformer: Path, wanted: dict[str, Any]
) -> None:
    held = bytearray(wanted["journal"])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(held) - 1, 0)))
        kind = data.draw(st.sampled_from(["cut", "flip", "insert", "drop"]))
        if kind == "cut":
            del held[place:]
        elif kind == "drop":
            del held[place : place + data.draw(st.integers(1, 500))]
        elif kind == "insert":
            held[place:place] = data.draw(st.binary(min_size=1, max_size=50))
        elif held:
            held[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "o.onnx"
        partial_of(out).write_bytes(held)
        convert(transformer, out, "quantize-blocks", form="folded")
        assert content(out) == wanted["content"]
        if MAGIC.startswith(held[: len(MAGIC)]):
            assert not partial_of(out).exists()
        else:  # who knows whose it is
            assert partial_of(out).read_bytes() == held


@settings(max_examples=60)
@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 300))), st.data())
def test_what_is_whole_is_found_and_nothing_else(
    records: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        file = Journal(path, print)
        ends = []
        for key, size in records:
            file.append(key, (np.arange(size), np.array(-np.inf)))
            ends.append(path.stat().st_size)
        file.close()
        cut = data.draw(st.integers(0, ends[-1] if ends else 0))
        if ends:
            os.truncate(path, cut)
        again = Journal(path, print)
        for place, (key, _) in enumerate(records):
            whole = [size for (k, size), end in zip(records, ends, strict=True)
                     if k == key and end <= cut]  # fmt: skip
            found = again.recall(key)
            if not whole:
                assert found is None, place
                continue
            assert found is not None
            assert [*found[0]] == [*range(whole[-1])]
            assert found[1] == -np.inf
        again.append(b"k" * 16, ())
        again.close()
        last = Journal(path, print)
        assert last.recall(b"k" * 16) == ()
        last.remove()
        assert not path.exists()


def test_a_file_or_folder_of_somebody_else_is_left_alone(
    transformer: Path, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    out = tmp_path / "o.onnx"
    partial_of(out).write_text("half of a download")
    [said] = convert(transformer, out, "quantize-blocks", form="folded")
    assert "is not used, so a killed run starts over: it is not of an interrupted run" in said
    assert partial_of(out).read_text() == "half of a download"
    assert content(out) == wanted["content"]
    partial_of(out).unlink()
    partial_of(out).mkdir()
    [said] = convert(transformer, out, "quantize-blocks", form="folded")
    assert content(out) == wanted["content"]


def test_a_full_disk_ends_the_journal_and_not_the_run(
    transformer: Path, tmp_path: Path, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        room = 2500

        def write(self, data: Any) -> int:
            written = super().write(bytes(data)[: Full.room])
            Full.room -= written
            return written

    monkeypatch.setattr("onnxcomp.journal.io.FileIO", Full)
    out = tmp_path / "o.onnx"
    said = convert(transformer, out, "quantize-blocks", form="folded")
    assert [text for text in said if "the disk is full" in text] == said
    assert len(said) == 1
    assert content(out) == wanted["content"]
    assert not partial_of(out).exists()


# ---------------------------------------------------------------- when it goes, when it stays
def test_errors_of_the_user_leave_what_was_there(transformer: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    weights = ("--weights", "int4", "--no-verify", "--min-sqnr", "1")
    for bad in (["--exclude", "nowhere*"], ["--samples", "-1"], ["--opset", "2"], ["--skip", "x"]):
        ran = CliRunner().invoke(cli, command(transformer, out, *weights, *bad))
        assert ran.exit_code == 2, bad
        assert not partial_of(out).exists(), bad
    interrupted(transformer, out, 5, "quantize-blocks", form="folded")
    held = partial_of(out).read_bytes()
    for bad in (["--exclude", "nowhere*"], ["--skip", "x"]):
        assert CliRunner().invoke(cli, command(transformer, out, *weights, *bad)).exit_code == 2
        assert partial_of(out).read_bytes() == held


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (UsageError("the second pass has no such option"), False),
        (ContractError("nothing written"), False),
        (ModelError("cannot write o.onnx: no space left"), True),
        (KeyboardInterrupt(), True),
        (MemoryError(), True),
    ],
)
def test_it_stays_where_the_same_command_can_go_on(
    error: BaseException, *, stays: bool, tmp_path: Path, transformer: Path
) -> None:
    path = tmp_path / "o.onnx.partial"
    weight = load_model(transformer).graph.initializers["words"].const_value
    assert weight is not None

    def failing() -> None:
        with keeping.keeping(path):
            keeping.kept(weight, ("a",), lambda: (np.zeros(3),))
            raise error

    with pytest.raises(type(error)):
        failing()
    assert path.exists() is stays
    assert keeping.kept(weight, ("a",), lambda: ()) == ()  # outside nothing is kept


def test_weights_in_the_model_and_dry_runs_keep_nothing(
    transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Journal) -> None:
        raise AssertionError(self.path)

    monkeypatch.setattr(Journal, "_open", never)
    out, weights = tmp_path / "o.onnx", ("--weights", "int4", "--no-verify", "--min-sqnr", "1")
    ran = CliRunner().invoke(cli, command(transformer, out, *weights, "--dry-run"))
    assert ran.exit_code == 0, ran.output
    inline = ROOT / "models" / "digits_mlp.onnx"
    ran = CliRunner().invoke(cli, command(inline, out, *weights, "--calib", str(DIGITS)))
    assert ran.exit_code == 0, ran.output
