"""The progress line: only on a terminal, only when it takes long, and it says what is done."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

import onnxcomp
from onnxcomp.cli_talk import progress
from onnxcomp.display import Display
from onnxcomp.stages import listening, stage

CNN = Path(__file__).parent.parent / "models" / "digits_cnn.onnx"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(patience: float, seconds: float) -> str:
    out = Terminal()
    with Display(Console(file=out, force_terminal=True, width=80), patience) as display:
        stage("loading")
        time.sleep(seconds)
        stage("fold-constants")
        display.samples(7)
        time.sleep(seconds)
    return out.getvalue()


def test_what_takes_long_is_shown() -> None:
    text = shown(0.0, 0.25)
    assert "loading" in text
    assert "fold-constants  7 samples" in text


def test_what_is_quick_is_not_shown() -> None:
    assert shown(30.0, 0.0) == ""


def test_a_run_names_its_stages() -> None:
    seen: list[str] = []
    with listening(seen.append):
        onnxcomp.optimize(CNN)
    assert seen[0] == "loading"
    assert seen.index("fuse-bn-into-conv") > 0
    assert seen.index("comparing with the original") > seen.index("fuse-bn-into-conv")
    stage("nobody listens")
    assert "nobody listens" not in seen


def test_nothing_is_shown_when_quiet_or_not_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress(quiet=False) as advance:
        assert advance is None
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress(quiet=True) as advance:
        assert advance is None
    with progress(quiet=False) as advance:
        assert advance is not None


def test_what_is_said_meanwhile_stays_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Terminal()
    with Display(Console(file=out, force_terminal=True, width=80), 0.0):
        time.sleep(0.1)
        print("the answer")  # noqa: T201
    assert capsys.readouterr().out == "the answer\n"
    assert "the answer" not in out.getvalue()
