"""One way to compute a model in int8, built and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxcomp.calibration.ranges import Range
from onnxcomp.int8.schemes import Scheme
from onnxcomp.judging import Evidence
from onnxcomp.report import Latency
from onnxcomp.stepping import Done


@dataclass(frozen=True)
class Candidate:
    """A model made by a scheme, with what was measured of it.

    `returned` are the nodes that went back to float, each with the reason; `bytes` those of the
    weights; `ranges` replace calibrated ones; `corrected` says whether mean errors were taken out
    of biases; `problem` says why it was passed over at last. `latency` is that of the lossless
    model and of this one, None where it was not timed; `same_kernels` says that it need not be,
    since ONNX Runtime runs the same for both.
    """

    scheme: Scheme
    done: Done
    bytes: int
    evidence: Evidence | None
    latency: Latency | None = None
    returned: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    corrected: bool = False
    same_kernels: bool = False
    problem: str | None = None
    chosen: bool = False

    @property
    def holds(self) -> bool:
        """Whether its answers are within the budget."""
        return self.evidence is None or not self.evidence.problems

    @property
    def speedup(self) -> float:
        """How many times faster than the lossless model it is; 0 where that is not known."""
        if self.same_kernels:
            return 1.0
        return 0.0 if self.latency is None else self.latency.speedup

    @property
    def problems(self) -> tuple[str, ...]:
        """How it breaks the contract, as far as was measured."""
        found = () if self.evidence is None else self.evidence.problems
        return (*found, self.problem) if self.problem and self.problem not in found else found

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the report."""
        metric = None if self.evidence is None else self.evidence.metric
        return {
            "scheme": self.scheme.name,
            "chosen": self.chosen,
            "bytes": self.bytes,
            "sqnr_db": None if self.evidence is None else _decibels(self.evidence.parity.sqnr_db),
            "metric": None if metric is None else round(metric.after, 6),
            "speedup": round(self.speedup, 3) or None,
            "returned": len(self.returned),
            "ranges": len(self.ranges),
            "problems": list(self.problems),
        }


def _decibels(number: float) -> float:
    return round(min(max(number, -999.0), 999.0), 2)  # JSON has no infinity
