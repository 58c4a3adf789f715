"""Ranges of values, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxcomp.errors import SamplesError

VERSION = 2


@dataclass(frozen=True)
class Range:
    """The least and the greatest finite value that is represented; lo <= hi."""

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo <= self.hi):
            raise ValueError(f"not a range: [{self.lo}, {self.hi}]")


@dataclass(frozen=True)
class Ranges:
    """The ranges of a model's values by name, and how they came about.

    `nonfinite` counts the infinities and `nan` the NaN that were left out, for the values that had
    any. `channels` has the ranges along axis 1 of the values for which they were asked. `model` and
    `data` are digests of the model that ran and of its samples, empty where there were none.
    `extremes` are the least and greatest numbers seen of the values whose ranges leave some out.
    `estimated` names the values whose ranges come from statistics in the model, not from samples.
    """

    values: Mapping[str, Range]
    method: str
    samples: int
    source: str
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    nan: Mapping[str, int] = field(default_factory=dict)
    channels: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    estimated: tuple[str, ...] = ()
    extremes: Mapping[str, Range] = field(default_factory=dict)
    model: str = ""
    data: str = ""

    def to_json(self) -> str:
        """Return the file's text: one line per value, sorted, so that two files can be diffed."""
        head = {
            "version": VERSION,
            "method": self.method,
            "samples": self.samples,
            "source": self.source,
            "model": self.model,
            "data": self.data,
            "nonfinite": dict(sorted(self.nonfinite.items())),
            "nan": dict(sorted(self.nan.items())),
            "estimated": sorted(self.estimated),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in head.items()]
        lines.append(_table("values", {n: [r.lo, r.hi] for n, r in self.values.items()}))
        if self.extremes:
            lines.append(_table("extremes", {n: [r.lo, r.hi] for n, r in self.extremes.items()}))
        if self.channels:
            rows = {n: [[r.lo, r.hi] for r in found] for n, found in self.channels.items()}
            lines.append(_table("channels", rows))
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _table(name: str, rows: Mapping[str, object]) -> str:
    lines = [f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(rows.items())]
    return f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }"


def read_ranges(path: Path) -> Ranges:
    """Read a ranges file; raise `SamplesError` when it is not one."""
    try:
        return _from_json(path, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SamplesError(f"cannot read ranges {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SamplesError(
            f"{path} is not a ranges file ({error}); `onnxcomp calibrate -o {path}` writes one"
        ) from error


def _from_json(path: Path, data: Any) -> Ranges:
    if data["version"] != VERSION:
        raise SamplesError(
            f"{path}: ranges of version {data['version']}, this program reads {VERSION}; "
            "run `onnxcomp calibrate` again"
        )
    channels = data.get("channels", {})
    return Ranges(
        {str(name): _range(ends) for name, ends in data["values"].items()},
        str(data["method"]),
        int(data["samples"]),
        str(data["source"]),
        {str(name): int(count) for name, count in data["nonfinite"].items()},
        {str(name): int(count) for name, count in data["nan"].items()},
        {str(name): tuple(map(_range, rows)) for name, rows in channels.items()},
        tuple(map(str, data["estimated"])),
        {str(name): _range(ends) for name, ends in data.get("extremes", {}).items()},
        str(data["model"]),
        str(data["data"]),
    )


def _range(ends: Any) -> Range:
    lo, hi = ends
    return Range(float(lo), float(hi))


def described(ranges: Ranges) -> str:
    """Return in a few words where ranges come from."""
    text = f"{len(ranges.values)} by {ranges.method} from {ranges.samples} samples"
    text += f" ({ranges.source})" if ranges.source else ""
    if ranges.estimated:
        text += f", {len(ranges.estimated)} of them from batch normalization"
    return text
