"""Calibration as a map over samples and a merge of what each part has counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass
from itertools import islice

from onnxcomp.calibration.counting import Feeds, Job, count, open_session
from onnxcomp.calibration.statistics import Statistics
from onnxcomp.errors import ModelError, OnnxcompError
from onnxcomp.runtime import Session, first_line

# Samples of a task: sending them costs little beside running them.
TASK_SAMPLES = 8
# How often a task is given out that gets lost, or whose worker dies.
ATTEMPTS = 3

Part = tuple[tuple[int, Feeds], ...]


class ModelMissingError(Exception):
    """A worker has no model for a task; the model is then sent with it."""


@dataclass(frozen=True)
class Crew:
    """Who counts: a function that starts an executor, and how many tasks that gets at a time.

    `restarts` says that the executor is ours: it is shut down in the end, and started again when a
    worker's death breaks it.
    """

    start: Callable[[], Executor]
    tasks: int
    restarts: bool = False


def count_task(job: Job, path: str, content: bytes | None, part: Part) -> Statistics:
    """Count some samples in a worker; raise `ModelMissingError` where it has no model to run."""
    found = Statistics(job.bins)
    count(job, _session(job, path, content), part, found)
    return found


# The session of the last job of this process.
_LOADED: dict[Job, Session] = {}


def _session(job: Job, path: str, content: bytes | None) -> Session:
    if job not in _LOADED:
        if content is None and not os.path.exists(path):
            raise ModelMissingError
        _LOADED.clear()
        _LOADED[job] = open_session(content or path, job.threads)
    return _LOADED[job]


def count_apart(
    crew: Crew,
    job: Job,
    path: str,
    content: bytes | None,
    samples: Iterable[tuple[int, Feeds]],
    done: Callable[[Statistics, list[int]], None],
) -> None:
    """Count samples in workers; `done` gets the statistics of each part and its samples' indices.

    Workers load the model at `path` where they see it, and else get its `content`. Only a few
    samples for each worker are read ahead. Raises `ModelError` when the model does not run on a
    sample, workers keep dying, or what counts the same samples keeps failing.
    """
    _Dispatch(crew, job, path, content, done).run(_parts(samples))


def _parts(samples: Iterable[tuple[int, Feeds]]) -> Iterator[Part]:
    stream = iter(samples)
    while part := tuple(islice(stream, TASK_SAMPLES)):
        yield part


class _Dispatch:
    """The tasks that are out, and what comes of them."""

    def __init__(
        self,
        crew: Crew,
        job: Job,
        path: str,
        content: bytes | None,
        done: Callable[[Statistics, list[int]], None],
    ) -> None:
        self.crew, self.job, self.path, self.content, self.done = crew, job, path, content, done
        self.executor = crew.start()
        self.out: dict[Future[Statistics], Part] = {}
        self.deaths = 0
        self.losses: Counter[int] = Counter()  # by the index of a part's first sample

    def run(self, parts: Iterable[Part]) -> None:
        try:
            for part in parts:
                self._give(part)
                while len(self.out) >= self.crew.tasks:
                    self._take()
            while self.out:
                self._take()
        finally:
            for future in self.out:
                future.cancel()
            if self.crew.restarts:
                self.executor.shutdown(cancel_futures=True)

    def _give(self, part: Part, *, with_model: bool = False) -> None:
        content = self.content if with_model else None
        try:
            self.out[self.executor.submit(count_task, self.job, self.path, content, part)] = part
        except BrokenExecutor as error:
            self._again(error, [part])

    def _take(self) -> None:
        finished, _ = wait(self.out, return_when=FIRST_COMPLETED)
        for future in finished:
            if future not in self.out:
                continue  # given out anew with all the others
            part = self.out.pop(future)
            try:
                found = future.result()
            except ModelMissingError as error:
                if self.content is None:
                    raise ModelError(
                        "workers do not see the model, which is too large to be sent; keep it in a "
                        "folder that all machines share, and set TMPDIR to one"
                    ) from error
                self._give(part, with_model=True)
            except OnnxcompError:
                raise
            except BrokenExecutor as error:
                self._again(error, [part, *self.out.values()])
            except Exception as error:
                # A cluster that loses a worker while its results are on the way says so in many
                # ways: Dask's executor cancels, or raises TypeError.
                self._give_lost(error, part)
            else:
                self.done(found, [index for index, _ in part])

    def _give_lost(self, error: Exception, part: Part) -> None:
        first, last = part[0][0], part[-1][0]
        self.losses[first] += 1
        if self.losses[first] >= ATTEMPTS:
            raise ModelError(
                f"a worker of the calibration failed {ATTEMPTS} times at samples {first} to {last} "
                f"({type(error).__name__}: {first_line(error)}); "
                "look at its log, and use fewer workers or --calib-memory if it wants memory"
            ) from error
        self._give(part)

    def _again(self, error: BrokenExecutor, parts: list[Part]) -> None:
        """Start a new executor in the place of a broken one, and give it all that was out."""
        self.deaths += 1
        if not self.crew.restarts or self.deaths >= ATTEMPTS:
            raise ModelError(
                "a worker of the calibration died, probably for want of memory; "
                "use fewer workers, or --calib-memory"
            ) from error
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self.crew.start()
        parts = [*parts, *(part for part in self.out.values() if part not in parts)]
        self.out = {}
        for part in parts:
            self._give(part)
