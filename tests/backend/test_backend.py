"""onnx's own backend suite through the lossless recipe, in children that may crash."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

pytestmark = pytest.mark.backend

FOLDER = Path(__file__).parent
CHILDREN = 2
SECONDS_PER_CASE = 60.0
SECONDS_TO_START = 120.0
# Below the 1,625, 1,742 and 9 of onnx 1.23 and ONNX Runtime 1.32; the rest needs operators
# or types that ONNX Runtime lacks, or is answered otherwise than onnx says by ONNX Runtime itself.
USABLE = {"plain": 1550, "const": 1650, "light": 9}


@dataclass(frozen=True)
class Verdict:
    """What came of one case: `ok`, `failed` or `unusable`, and why."""

    id: str
    status: str
    reason: str = ""

    @property
    def variant(self) -> str:
        return self.id.partition("/")[0]


def judge_all(command: Sequence[str], seconds: float = SECONDS_PER_CASE) -> list[Verdict]:
    """Run a child to its end; where it dies or hangs, that case failed and a new one goes on."""
    verdicts: list[Verdict] = []
    start = 0
    while True:
        found, begun, problem = _run_child([*command, str(start)], seconds)
        verdicts += found
        if problem is None:
            return verdicts
        if begun is None:
            raise AssertionError(f"the child does not start: {problem}")
        verdicts.append(Verdict(str(begun["begin"]), "failed", problem))
        start = int(str(begun["index"])) + 1


def _run_child(
    command: Sequence[str], seconds: float
) -> tuple[list[Verdict], dict[str, object] | None, str | None]:
    """Return the verdicts, and for a child that did not end well the open case and the problem."""
    verdicts: list[Verdict] = []
    begun: dict[str, object] | None = None
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment()
        )
        assert child.stdout is not None
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines))
        reader.start()
        try:
            while True:
                line = lines.get(timeout=seconds if begun else max(seconds, SECONDS_TO_START))
                if line is None:
                    break
                content = json.loads(line)
                if "begin" in content:
                    begun = content
                else:
                    verdicts.append(Verdict(**content))
        except queue.Empty:
            return verdicts, begun, f"no answer in {seconds:g} s"
        finally:
            child.kill()
            child.wait()
            reader.join()
            child.stdout.close()
        if child.returncode == 0:
            return verdicts, None, None
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]
        return verdicts, begun, f"the child ended with {child.returncode}: {last[:300]}"


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _environment() -> dict[str, str]:
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    def run(shard: int) -> list[Verdict]:
        script = str(FOLDER / "suite.py")
        return judge_all([sys.executable, script, str(shard), str(CHILDREN)])

    with ThreadPoolExecutor(CHILDREN) as pool:
        return [verdict for part in pool.map(run, range(CHILDREN)) for verdict in part]


def test_no_case_fails(verdicts: list[Verdict], capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter((verdict.variant, verdict.status) for verdict in verdicts)
    lines = (f"{variant} {status} {count}" for (variant, status), count in sorted(counts.items()))
    with capsys.disabled():
        sys.stdout.write(f"\nonnx's backend suite: {', '.join(lines)} ")
    failures = sorted(f"{v.id}: {v.reason}" for v in verdicts if v.status == "failed")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("variant", USABLE)
def test_enough_cases_are_usable(verdicts: list[Verdict], variant: str) -> None:
    mine = [verdict for verdict in verdicts if verdict.variant == variant]
    usable = [verdict for verdict in mine if verdict.status != "unusable"]
    reasons = Counter(v.reason[:80] for v in mine if v.status == "unusable").most_common(10)
    assert len(usable) >= USABLE[variant], reasons


# ---------------------------------------------------------------- the parent itself
FAKE = """
import json, os, sys, time
for index, what in enumerate(["ok", "die", "ok", "hang", "ok"]):
    if index < int(sys.argv[1]):
        continue
    print(json.dumps({"begin": f"case{index}", "index": index}), flush=True)
    if what == "die":
        os.abort()
    if what == "hang":
        time.sleep(60)
    print(json.dumps({"id": f"case{index}", "status": "ok", "reason": ""}), flush=True)
"""


def test_a_case_that_kills_or_holds_up_the_child_failed_and_the_rest_is_judged() -> None:
    found = judge_all([sys.executable, "-c", FAKE], seconds=1.0)
    assert [(v.id, v.status) for v in found] == [
        ("case0", "ok"),
        ("case1", "failed"),
        ("case2", "ok"),
        ("case3", "failed"),
        ("case4", "ok"),
    ]
    assert found[1].reason.startswith("the child ended with -6")
    assert found[3].reason == "no answer in 1 s"


def test_a_child_that_does_not_start_is_an_error() -> None:
    with pytest.raises(AssertionError, match="does not start"):
        judge_all([sys.executable, "-c", "raise SystemExit(3)"])
