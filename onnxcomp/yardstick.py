"""The original, loaded once, and what candidates are measured against: answers, metric, time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxcomp.acceptance import Budget
from onnxcomp.ahead import in_order
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import Array
from onnxcomp.latency import CLEAR, measure_in_turns
from onnxcomp.parity import Parity, ParityMeter
from onnxcomp.report import Latency
from onnxcomp.runtime import Feeds, Session, first_line
from onnxcomp.verify import Metric, predictor

# Latency is taken on the first few samples held out, fewer where a pass over them takes long.
TIMED_SAMPLES = 4
TIMED_SECONDS = 0.03
# Bytes of samples and the original's answers that are kept; beyond, it runs again each time.
KEPT = 64_000_000

Answers = Mapping[str, Array]


@dataclass
class Yardstick:
    """A model and the budget of what is made from it; what it answers is kept, up to a limit.

    `file` holds the very model, where there is one: it is what the result is timed against.
    """

    model: ir.Model
    budget: Budget
    file: str | None = None
    _kept: list[tuple[Feeds, Answers]] = field(default_factory=list)
    _all_kept: bool = False
    _bytes: int = 0

    @cached_property
    def reference(self) -> Session:
        """The model without ONNX Runtime's rewrites, which decides what is right."""
        return Session(self.model, threads=self.budget.threads)

    @cached_property
    def fast(self) -> Session:
        """The model as users run it, which decides what is fast."""
        if self.file is not None:
            try:
                return Session(self.file, optimize=True, threads=self.budget.threads)
            except ModelError:
                pass  # such as weights behind symbolic links, which it refuses
        return Session(self.model, optimize=True, threads=self.budget.threads)

    @cached_property
    def timed(self) -> list[Mapping[str, Array]]:
        """The samples on which latency is taken."""
        found: list[Mapping[str, Array]] = []
        found += itertools.islice(self.budget.held_out, TIMED_SAMPLES)
        self.fast.run(found[0])
        started = time.perf_counter()
        self.fast.run(found[0])
        once = time.perf_counter() - started
        return found[: max(1, int(TIMED_SECONDS / max(once, 1e-6)))]

    @cached_property
    def _metric(self) -> float:
        return self._score(self.reference)

    def session(self, after: ir.Model | str | bytes, optimize: bool | str = True) -> Session:
        """Load what was made from the model as it is to be run; raise `ModelError` if refused."""
        budget = self.budget
        return Session(after, optimize=optimize, threads=budget.threads, signed=budget.signed)

    def parity(self, candidate: Session) -> Parity:
        """Compare a candidate's answers to the samples held out."""
        meter = ParityMeter()

        def answered(sample: tuple[Feeds, Answers]) -> tuple[Answers, Answers]:
            return sample[1], candidate.run(sample[0])

        for expected, found in in_order(answered, self._expected()):
            meter.add(expected, found)
        return meter.result()

    def metric(self, candidate: Session) -> Metric | None:
        """Return the user's metric of both, if there is one; raise `UsageError` where it fails."""
        if self.budget.score is None:
            return None
        after = self._score(candidate)
        return Metric(self.budget.score_name, self._metric, after, self.budget.max_drop)

    def latency(
        self,
        candidate: Session,
        seconds: float,
        before: Session | None = None,
        *,
        clear: float = CLEAR,
    ) -> Latency:
        """Time it in turns with the original, or with another (see `measure_in_turns`)."""
        return measure_in_turns(before or self.fast, candidate, self.timed, seconds, clear=clear)

    def _expected(self) -> Iterator[tuple[Feeds, Answers]]:
        yield from list(self._kept)
        known, count = len(self._kept), 0
        if self._all_kept:
            return
        for index, feeds in enumerate(self.budget.held_out):
            count = index + 1
            if index < known:
                continue
            found = self.reference.run(feeds)
            if index == len(self._kept):
                self._keep(feeds, found)
            yield feeds, found
        self._all_kept = count == len(self._kept)

    def _keep(self, feeds: Feeds, found: Answers) -> None:
        """Keep a sample and its answers if there is room."""
        arrays = [*feeds.values(), *found.values()]
        size = sum(data.nbytes for data in arrays if isinstance(data, np.ndarray))
        if self._bytes + size <= KEPT:
            self._kept.append((feeds, found))
            self._bytes += size

    def _score(self, session: Session) -> float:
        assert self.budget.score is not None
        try:
            return float(self.budget.score(predictor(session)))
        except ModelError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise UsageError(
                f"the metric raised {type(error).__name__}: {first_line(error)}"
            ) from error
