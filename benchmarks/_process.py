"""Runs one command as a process of its own and says what it cost and how it ended (POSIX)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MB = 1e6
SAMPLE_EVERY = 0.01
REASON_LENGTH = 200


@dataclass(frozen=True)
class Run:
    """One process: wall-clock seconds, peak memory, and why it failed, if it did.

    `resident` is the peak of everything mapped into memory, files included; `anonymous` only of
    what the process itself allocated, sampled, and None where the system does not tell.
    """

    seconds: float
    resident: float
    anonymous: float | None
    failure: str | None
    stdout: str


def run(command: Sequence[str], folder: Path, limit: float) -> Run:
    """Run a command in a folder for at most `limit` seconds.

    The caller should be a small process: before `exec`, a child counts as large as its parent.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        expired, ended, anonymous = threading.Event(), threading.Event(), [0]
        timer = threading.Timer(limit, _end, args=(process, expired))
        sampler = threading.Thread(target=_sample, args=(process.pid, ended, anonymous))
        timer.start()
        sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:  # Ctrl-C: leave nothing running
            process.kill()
            raise
        finally:
            timer.cancel()
            ended.set()
            sampler.join()
        texts = [_text(stream) for stream in (out, err)]
    failure = f"took more than {limit:g} s" if expired.is_set() else None
    if failure is None and process.returncode:
        failure = _failure(process.returncode, texts[1] or texts[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_maxrss * unit / MB, anonymous[0] / MB or None, failure, texts[0])


def ask(script: Path, arguments: Sequence[str], folder: Path, limit: float) -> tuple[Any, str]:
    """Return the JSON that a script of this folder prints last, and why there is none, if so."""
    done = run([sys.executable, str(script), *arguments], folder, limit)
    if done.failure:
        return None, f"the process that checks it {done.failure}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def _end(process: subprocess.Popen[bytes], expired: threading.Event) -> None:
    expired.set()
    process.kill()


def _sample(pid: int, ended: threading.Event, peak: list[int]) -> None:
    """Keep the peak of a process's anonymous memory in bytes, where Linux tells it."""
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(SAMPLE_EVERY):
        try:
            found = re.search(r"^RssAnon:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        except OSError:
            return
        peak[0] = max(peak[0], int(found[1]) * 1024 if found else 0)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def _failure(code: int, output: str) -> str:
    if code < 0:
        return f"crashed: signal {-code} ({_signal_name(-code)})"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"raised {shortened(lines[-1])}" if lines else f"ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unnamed"


def shortened(reason: str) -> str:
    """Return a reason on one line, without folders of this machine."""
    plain = re.sub(r"(?<![\w/])(?:/[\w.+-]+)+/(?=[\w.+-]+\.\w)", "", reason)
    return plain if len(plain) <= REASON_LENGTH else f"{plain[:REASON_LENGTH]}..."
