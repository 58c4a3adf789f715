"""Two models side by side: answers, sizes, latency."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxcomp.calibration.preprocess import Preprocess
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.errors import UsageError
from onnxcomp.graph import Array
from onnxcomp.latency import measure_in_turns
from onnxcomp.model_io import (
    ModelSource,
    load_model,
    model_bytes,
)
from onnxcomp.parity import Parity
from onnxcomp.report import Latency
from onnxcomp.runtime import Session, input_specs
from onnxcomp.stages import stage
from onnxcomp.verify import compare_sessions


@dataclass(frozen=True)
class Comparison:
    """Two models side by side; `problems` says how they cannot be compared or differ too much."""

    parity: Parity
    bytes: tuple[int, int]
    latency: Latency | None
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""
        outputs = {name: output.to_dict() for name, output in self.parity.outputs.items()}
        return {
            "schema": 1,
            "bytes": list(self.bytes),
            "parity": {"passed": not self.problems, "outputs": outputs},
            "latency": None if self.latency is None else self.latency.to_dict(),
            "problems": list(self.problems),
        }


def compare(
    first: ModelSource,
    second: ModelSource,
    *,
    calib: object = None,
    samples: int | None = None,
    preprocess: Preprocess | Mapping[str, object] | None = None,
    seed: int = 0,
    min_sqnr: float | None = None,
    bench: bool = False,
    threads: int = 1,
) -> Comparison:
    """Return how near the second model's answers are to the first's, and what both cost.

    Outputs are paired by position when their names differ. Without `calib`, seeded random feeds
    are used. `min_sqnr` (dB, worst output) makes nearness a requirement; `bench` adds latency.
    """
    stage("loading")
    before, after = load_model(first), load_model(second)
    stage("comparing")
    feeds: Samples | Sequence[Mapping[str, Array]]
    if calib is None and not preprocess:
        feeds = runnable_feeds(before, samples or 4, seed)
    else:
        feeds = open_samples(
            "random" if calib is None else calib,
            input_specs(before),
            limit=samples,
            seed=seed,
            model=before,
            preprocess=preprocess,
        )
    _rename_outputs(before, after)
    parity = compare_sessions(Session(before), Session(after, optimize=True), feeds)
    problems = [f"{name}: {out.broken}" for name, out in parity.outputs.items() if out.broken]
    if min_sqnr is not None and parity.sqnr_db < min_sqnr:
        problems.append(f"SQNR {parity.sqnr_db:.1f} dB is below {min_sqnr:g} dB")
    latency = None
    if bench:
        stage("timing")
        sessions = [Session(item, optimize=True, threads=threads) for item in (before, after)]
        latency = measure_in_turns(sessions[0], sessions[1], list(itertools.islice(feeds, 4)))
    return Comparison(parity, (model_bytes(before), model_bytes(after)), latency, tuple(problems))


def _rename_outputs(before: ir.Model, after: ir.Model) -> None:
    """Give the second model the first one's names of inputs and outputs, pair by pair."""
    for kind in ("inputs", "outputs"):
        old, new = getattr(before.graph, kind), getattr(after.graph, kind)
        if len(old) != len(new):
            raise UsageError(
                f"the models have {len(old)} and {len(new)} {kind}; they cannot be compared"
            )
        if {value.name for value in old} != {value.name for value in new}:
            for index, value in enumerate(new):
                value.name = f"onnxcomp_{kind}_{index}"
            for mine, other in zip(old, new, strict=True):
                other.name = mine.name
