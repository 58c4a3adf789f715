"""Ranges of values, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxcomp.errors import SamplesError

VERSION = 1


@dataclass(frozen=True)
class Range:
    """The least and the greatest finite value that was seen; lo <= hi."""

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo <= self.hi):
            raise ValueError(f"not a range: [{self.lo}, {self.hi}]")


@dataclass(frozen=True)
class Ranges:
    """The ranges of a model's values by name, and how they came about.

    `nonfinite` counts the NaN and infinities that were left out, for the values that had any.
    """

    values: Mapping[str, Range]
    method: str
    samples: int
    source: str
    nonfinite: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the file's text: one line per value, sorted, so that two files can be diffed."""
        head = {
            "version": VERSION,
            "method": self.method,
            "samples": self.samples,
            "source": self.source,
            "nonfinite": dict(sorted(self.nonfinite.items())),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in head.items()]
        rows = [
            f"    {json.dumps(name)}: [{found.lo!r}, {found.hi!r}]"
            for name, found in sorted(self.values.items())
        ]
        values = '  "values": {\n' + ",\n".join(rows) + "\n  }"
        return "{\n" + ",\n".join([*lines, values]) + "\n}\n"


def read_ranges(path: Path) -> Ranges:
    """Read a ranges file; raise `SamplesError` when it is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise SamplesError(
                f"{path}: ranges of version {data['version']}, this program reads {VERSION}; "
                "run `onnxcomp calibrate` again"
            )
        values = {str(k): Range(float(lo), float(hi)) for k, (lo, hi) in data["values"].items()}
        nonfinite = {str(name): int(count) for name, count in data["nonfinite"].items()}
        method, samples, source = str(data["method"]), int(data["samples"]), str(data["source"])
        return Ranges(values, method, samples, source, nonfinite)
    except OSError as error:
        raise SamplesError(f"cannot read ranges {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SamplesError(
            f"{path} is not a ranges file ({error}); `onnxcomp calibrate -o {path}` writes one"
        ) from error
