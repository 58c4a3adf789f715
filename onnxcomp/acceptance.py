"""Whether a lossy result is within its budget: the user's metric or SQNR, and never slower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcomp.calibration.user_code import load_object
from onnxcomp.errors import SamplesError, UsageError
from onnxcomp.verify import Predict

if TYPE_CHECKING:
    from onnxcomp.calibration.samples import Samples

# Without a metric, a lossy model is accepted from this signal-to-noise ratio on (worst output).
DEFAULT_MIN_SQNR = 15.0
# ... and up to this fall of top-1 that its own probabilities foretell. Less than the point that may
# be lost: on a text-line classifier 0.45 points were foretold and 1.5 lost.
DEFAULT_EXPECTED_DROP = 0.0025
# With labels in the data, top-1 may fall by one point unless the user says otherwise.
DEFAULT_MAX_DROP = 0.01
Score = Callable[[Predict], float]


@dataclass(frozen=True)
class Budget:
    """What a lossy recipe may cost, measured on the held-out samples.

    `score` is the user's metric (higher is better) and `max_drop` its accepted loss; `min_sqnr`
    (dB, worst output) and `max_expected_drop` (of outputs that are probabilities) count where there
    is no metric. `timed` asks for a latency no worse than the original's. `signed` are int8
    activations of a target that has such.
    """

    held_out: Samples
    score: Score | None
    score_name: str
    max_drop: float | None
    min_sqnr: float | None
    max_expected_drop: float | None
    timed: bool
    threads: int
    signed: bool = False


def top1_of(samples: Samples) -> Score:
    """Return the metric that labelled samples bring: the share of equal arg-max of output 0."""

    def score(predict: Predict) -> float:
        assert samples.labels is not None
        hits = [
            np.asarray(predict(feeds)[0]).argmax(-1).reshape(-1) == np.reshape(label, -1)
            for feeds, label in zip(samples, samples.labels, strict=False)
        ]
        return float(np.mean(np.concatenate(hits)))

    return score


def user_score(spec: str) -> Score:
    """Return the metric behind `FILE.py:FUNC`; raise `UsageError` when it is none."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"--eval {spec}: give FILE.py:FUNC, where FUNC(predict) returns a number")
    try:
        function, _ = load_object(place, name, f"--eval {spec}")
    except SamplesError as error:
        raise UsageError(str(error)) from error
    if not callable(function):
        raise UsageError(f"--eval {spec}: {name} is not a function")
    return function
