"""The line on a terminal that says what takes so long."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from onnxcomp.stages import listening

# Seconds before anything is shown; most runs are over by then.
PATIENCE = 2.0


class Display:
    """Shows the stage, the samples done in it, and the time, once a run takes long.

    Use it as a context; it listens to `stage` meanwhile.
    """

    def __init__(self, console: Console, patience: float = PATIENCE) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        self._task = self._bar.add_task("starting", total=None)
        self._stage, self._since = "starting", time.monotonic()
        self._timer = threading.Timer(patience, self._show)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._over = False
        self._context = ExitStack()

    def __enter__(self) -> Display:
        self._context.enter_context(listening(self.stage))
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.close()
        self._timer.cancel()
        with self._lock:
            self._over = True
            self._bar.stop()

    def stage(self, name: str) -> None:
        """Note what is being done now."""
        self._stage, self._since = name, time.monotonic()
        self._bar.update(self._task, description=name)

    def samples(self, done: int, total: int | None = None) -> None:
        """Note how many samples the stage has read, and of how many."""
        pace = _pace(done, total, time.monotonic() - self._since)
        of = "" if total is None else f" of {total}"
        self._bar.update(self._task, description=f"{self._stage}  {done}{of} samples{pace}")

    def _show(self) -> None:
        with self._lock:
            if not self._over:
                self._bar.start()


def _pace(done: int, total: int | None, seconds: float) -> str:
    """Return the samples per second, and the time that the others will take."""
    if not done or seconds <= 0:
        return ""
    rate = done / seconds
    if total is None:
        return f", {rate:.3g}/s"
    left = round(max(total - done, 0) / rate)
    return f", {rate:.3g}/s, {left // 60}:{left % 60:02d} left"
