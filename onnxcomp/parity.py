"""How near two models' outputs are: one meter, fed sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxcomp.decisions import Decisions
from onnxcomp.graph import Array
from onnxcomp.registry import Effect

# Largest difference that float rounding may make, relative to the range of the output, by the
# narrowest float type in the model.
CLOSE_TOLERANCE = {"float64": 1e-10, "float32": 5e-5, "float16": 5e-3, "bfloat16": 4e-2}
# The range of an output counts as at least this share of its largest magnitude: numbers that lie
# closer together are told apart by little more than their own rounding.
OFFSET_SHARE = 0.01


@dataclass(frozen=True)
class OutputParity:
    """Differences of one output over all samples; `sqnr_db` is infinite when there are none.

    `top1` is the share of equal arg-max, `expected_drop` what probabilities foretell (`decisions`).
    """

    max_abs: float
    relative: float
    sqnr_db: float
    cosine: float
    top1: float | None
    expected_drop: float | None
    equal: bool
    broken: str | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the figures of the report; JSON has no infinity, so 999 dB stands for it."""
        figures = {"max_abs": self.max_abs, "sqnr_db": self.sqnr_db, "cosine": self.cosine}
        finite = {
            name: (999.0 if number > 0 else -999.0) if math.isinf(number) else number
            for name, number in figures.items()
        }
        return {name: None if math.isnan(n) else n for name, n in finite.items()} | {
            "top1": self.top1,
            "expected_drop": self.expected_drop,
        }


@dataclass(frozen=True)
class Parity:
    """The parity of every output of a model."""

    outputs: Mapping[str, OutputParity]
    samples: int

    def failures(self, effect: Effect, precision: str = "float32") -> list[str]:
        """Say how outputs break the promise of a lossless effect; empty when none does."""
        found = []
        for name, output in self.outputs.items():
            if output.broken:
                found.append(f"{name}: {output.broken}")
            elif effect is Effect.EXACT and not output.equal:
                found.append(f"{name}: bits differ, max |d| {output.max_abs:.3g}")
            elif effect is Effect.CLOSE and not output.relative <= CLOSE_TOLERANCE[precision]:
                found.append(f"{name}: off by {output.relative:.2g} of its range")
        return found

    @property
    def sqnr_db(self) -> float:
        """The worst output's signal-to-noise ratio in dB."""
        return min((output.sqnr_db for output in self.outputs.values()), default=math.inf)

    @property
    def expected_drop(self) -> float | None:
        """The worst output's expected fall of top-1 accuracy, where there is one."""
        found = [o.expected_drop for o in self.outputs.values() if o.expected_drop is not None]
        return max(found, default=None)

    @property
    def top1(self) -> float | None:
        """The worst output's share of equal arg-max, where there is one."""
        return min((o.top1 for o in self.outputs.values() if o.top1 is not None), default=None)


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    dot: float = 0.0
    max_abs: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    decisions: Decisions = field(default_factory=Decisions)
    same: int = 0
    ranked: int = 0
    equal: bool = True
    broken: str | None = None


@dataclass
class ParityMeter:
    """Accumulates differences; holds a few sums per output, and margins of decisions.

    `ranges` are of outputs whose numbers have one by nature, such as probabilities: theirs counts
    as at least that, though a sample may show only a corner of it.
    """

    ranges: Mapping[str, float] = field(default_factory=dict)
    sums: dict[str, _Sums] = field(default_factory=dict)
    samples: int = 0

    def add(self, expected: Mapping[str, Array], actual: Mapping[str, Array]) -> None:
        """Compare the outputs of one run; outputs that only one side has are broken."""
        self.samples += 1
        for name in expected:
            sums = self.sums.setdefault(name, _Sums())
            if name not in actual:
                sums.broken = "it is missing"
            else:
                _add(sums, expected[name], actual[name])

    def result(self) -> Parity:
        """Return the parity so far."""
        found = {name: _finish(sums, self.ranges.get(name)) for name, sums in self.sums.items()}
        return Parity(found, self.samples)


def compare_outputs(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> Parity:
    """Return the parity of one run."""
    meter = ParityMeter()
    meter.add(expected, actual)
    return meter.result()


def _add(sums: _Sums, expected: object, actual: object) -> None:
    if isinstance(expected, list) and isinstance(actual, list):  # a sequence output
        if len(expected) != len(actual):
            sums.broken = f"{len(actual)} elements instead of {len(expected)}"
        for first, second in zip(expected, actual, strict=False):
            _add(sums, first, second)
        return
    if not isinstance(expected, np.ndarray) or not isinstance(actual, np.ndarray):
        if expected is not actual and expected != actual:
            sums.equal, sums.broken = False, "values differ"
        return
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        was, now = _describe(expected), _describe(actual)
        sums.broken = f"{now} instead of {was}"
        return
    if not is_float(expected):
        if not np.array_equal(expected, actual):
            sums.equal, sums.broken = False, "values differ"
        return
    _add_floats(sums, expected, actual)


def is_float(data: Array) -> bool:
    """Say whether an array holds floats, those that numpy borrows from ml_dtypes included."""
    return data.dtype.kind == "f" or data.dtype.name in ("bfloat16",) or "float8" in data.dtype.name


def _describe(data: Array) -> str:
    return f"{data.dtype}{list(data.shape)}"


def _add_floats(sums: _Sums, expected: Array, actual: Array) -> None:
    if not data_equal(expected, actual):
        sums.equal = False
    x, y = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)) or not np.array_equal(
        x[~finite], y[~finite], equal_nan=True
    ):
        sums.broken = "NaN or infinite where the original is not, or the reverse"
        return
    _rank(sums, x, y)
    x, y = x[finite], y[finite]
    if not x.size:
        return
    with np.errstate(over="ignore"):
        _add_sums(sums, x, y)
    sums.low, sums.high = min(sums.low, float(x.min())), max(sums.high, float(x.max()))


def _add_sums(sums: _Sums, x: Array, y: Array) -> None:
    difference = x - y
    sums.signal += float(x @ x)
    sums.other += float(y @ y)
    sums.dot += float(x @ y)
    sums.noise += float(difference @ difference)
    sums.max_abs = max(sums.max_abs, float(np.abs(difference).max()))


def data_equal(first: Array, second: Array) -> bool:
    """Say whether two float arrays are equal, NaN for NaN and zero sign for zero sign."""
    return np.array_equal(first, second, equal_nan=True) and np.array_equal(
        np.signbit(first) & (first == 0), np.signbit(second) & (second == 0)
    )


def _rank(sums: _Sums, x: Array, y: Array) -> None:
    if x.ndim and x.shape[-1] > 1 and x.size:
        same = x.argmax(-1) == y.argmax(-1)
        sums.same += int(same.sum())
        sums.ranked += same.size
        sums.decisions.add(x, y)


def _finish(sums: _Sums, natural: float | None = None) -> OutputParity:
    spread, largest = 1.0, 0.0
    if sums.low <= sums.high:
        largest = max(abs(sums.low), abs(sums.high))
        spread = (sums.high - sums.low) or max(largest, 1e-30)
    spread = max(spread, OFFSET_SHARE * largest, natural or 0.0)
    sqnr = math.inf
    if sums.noise > 0:
        sqnr = 10 * math.log10(sums.signal / sums.noise) if sums.signal > 0 else -math.inf
    norms = math.sqrt(sums.signal * sums.other)
    cosine = sums.dot / norms if norms > 0 else (1.0 if sums.noise == 0 else 0.0)
    return OutputParity(
        max_abs=sums.max_abs,
        relative=sums.max_abs / spread if sums.max_abs else 0.0,
        sqnr_db=sqnr,
        cosine=min(1.0, cosine),
        top1=sums.same / sums.ranked if sums.ranked else None,
        expected_drop=sums.decisions.expected_drop(),
        equal=sums.equal,
        broken=sums.broken,
    )
