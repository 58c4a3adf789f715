"""What happened: the facts of a run, as the JSON of schema 1 and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from onnxcomp.registry import Leave, Measured

if TYPE_CHECKING:
    from onnxcomp.calibration.ranges import Ranges
    from onnxcomp.cost import ModelCost
    from onnxcomp.int8.candidate import Candidate
    from onnxcomp.int8_coverage import Coverage
    from onnxcomp.interface import Change
    from onnxcomp.parity import Parity
    from onnxcomp.sparsity import Sparsity
    from onnxcomp.storage import Storage
    from onnxcomp.verify import Metric

SCHEMA = 1


@dataclass(frozen=True)
class StepReport:
    """What one pass did; `reason` says why it was rolled back.

    `settled` are options that take the place of what it measured, for a recipe that repeats it.
    """

    name: str
    effect: str
    sites: int = 0
    nodes: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    status: str = "unchanged"
    left: tuple[Leave, ...] = ()
    measured: tuple[Measured, ...] = ()
    reason: str = ""
    settled: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the step as schema 1 has it; why it was rolled back stands first in `left`."""
        whole = [{"node": "", "reason": self.reason}] if self.reason else []
        return {
            "pass": self.name,
            "effect": self.effect,
            "sites": self.sites,
            "nodes": list(self.nodes),
            "bytes": list(self.bytes),
            "seconds": round(self.seconds, 4),
            "status": self.status,
            "left": whole + [{"node": item.node, "reason": item.reason} for item in self.left],
            "measured": [asdict(item) for item in self.measured],
        }


@dataclass(frozen=True)
class Side:
    """A model before or after: where it is and what it costs."""

    path: str | None
    cost: ModelCost

    def to_dict(self) -> dict[str, Any]:
        """Return path, nodes, bytes, params, macs and ops."""
        return {
            "path": self.path,
            "nodes": self.cost.nodes,
            "bytes": self.cost.bytes,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "ops": dict(self.cost.ops),
        }


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds of runs made in turns.

    `speedup` says how many times faster the result is, as the median ratio of runs side by side:
    what disturbs a machine for a while disturbs both.
    """

    before_ms: float
    after_ms: float
    speedup: float

    def to_dict(self) -> dict[str, float]:
        """Return both medians and their ratio."""
        return {
            "before_ms": round(self.before_ms, 4),
            "after_ms": round(self.after_ms, 4),
            "speedup": round(self.speedup, 3),
        }


@dataclass(frozen=True)
class Report:
    """A whole run; `to_dict` is the stable JSON."""

    before: Side
    after: Side
    steps: tuple[StepReport, ...]
    parity: Parity | None
    parity_problems: tuple[str, ...] = ()
    interface: tuple[Change, ...] = ()
    metric: Metric | None = None
    latency: Latency | None = None
    int8: Coverage | None = None
    sparsity: Sparsity | None = None
    storage: Storage | None = None
    candidates: tuple[Candidate, ...] = ()
    ranges: Ranges | None = None
    seconds: float = 0.0
    peak_mb: float = 0.0
    recipe: Mapping[str, object] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    written: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the result keeps the contract."""
        return not self.parity_problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as schema 1 of the JSON."""
        return {
            "schema": SCHEMA,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "interface": [change.to_dict() for change in self.interface],
            "steps": [step.to_dict() for step in self.steps],
            "parity": self._parity(),
            "metric": None if self.metric is None else _metric(self.metric),
            "latency": None if self.latency is None else self.latency.to_dict(),
            "int8": None if self.int8 is None else _int8(self.int8),
            "sparsity": None if self.sparsity is None else self.sparsity.to_dict(),
            "storage": None if self.storage is None else self.storage.to_dict(),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "ranges": None if self.ranges is None else _ranges(self.ranges),
            "seconds": round(self.seconds, 3),
            "peak_mb": round(self.peak_mb, 1),
            "recipe": dict(self.recipe),
            "problems": list(self.problems),
            "written": self.written,
        }

    def _parity(self) -> dict[str, Any] | None:
        if self.parity is None:
            return None
        outputs = {name: output.to_dict() for name, output in self.parity.outputs.items()}
        return {"passed": self.passed, "outputs": outputs}

    def to_json(self) -> str:
        """Return the JSON text."""
        return json.dumps(self.to_dict(), indent=2)


def _metric(metric: Metric) -> dict[str, float | None]:
    return {
        "before": round(metric.before, 6),
        "after": round(metric.after, 6),
        "max_drop": metric.max_drop,
    }


def _int8(found: Coverage) -> dict[str, Any]:
    return {
        "macs_share": round(found.macs_share or 0.0, 4),
        "nodes": found.int8_nodes,
        "float": [{"node": n.name, "op": n.op, "reason": n.reason} for n in found.float_nodes],
    }


def _ranges(ranges: Ranges) -> dict[str, Any]:
    return {
        "method": ranges.method,
        "samples": ranges.samples,
        "source": ranges.source,
        "values": len(ranges.values),
        "estimated": len(ranges.estimated),
        "nan": dict(ranges.nan),
    }
