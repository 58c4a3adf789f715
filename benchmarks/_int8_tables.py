"""Rows of the int8 comparison as Markdown: the full page, and the short table of the README."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _tables import NOTHING, Row, Rows, line, memory_cell, seconds_cell, table, verdicts

FLOAT = "float"
# What a result may lose of the metric to count as good.
POINT = 0.01
PAGE = """# Int8 quantizers compared

Written by `make bench-int8`; every number is from one run of it.

- Each quantizer gets the same {samples} unlabelled samples. onnxcomp is run as
  `onnxcomp optimize MODEL --int8 --calib DIR`; `ORT default` is `quantize_static` of
  `onnxruntime.quantization`, `ORT u8/s8 per-channel` the same with QUInt8 activations and
  per-channel QInt8 weights (the operator set raised to 17 where the result does not load
  otherwise), `ORT dynamic` is `quantize_dynamic`; all after `quant_pre_process` where that works.
  `onnxsim` and `onnxsim full graph` are its `quantize_static` after `simplify`.
- Models: public models with labelled data, the models of this repository that have data, and two
  networks with seeded random weights, which have no metric. Metrics and SQNR are of samples that
  no quantizer saw; a metric over few of them is coarse.
- *Speed* is float / result: both run in turns, A B B A, on one thread at ONNX Runtime's default
  level. It is the median of three measurements; the least and the greatest are beside it.
- *SQNR* is the signal-to-noise ratio in dB of the worst output against the original, which runs
  without rewrites. *Size* is result / original. *Seconds* and *peak MB* (resident / anonymous) are
  of the whole process that makes the result.
- `!` marks a result that is not valid: onnx's full checker or ONNX Runtime at one of its levels
  refuses it, inputs, outputs or metadata changed, or it does not run on the samples. What was
  wrong is told under *Verdicts*. `raises`, `crash`, `timeout`: there is no result.

{environment}

"""


# ---------------------------------------------------------------- facts of a row
def figure(row: Row, name: str) -> Any:
    """Return what was found of a result; None where there is none or it was not to be had."""
    return None if row.failure or not row.verdict else row.verdict.get(name)


def speed(row: Row) -> float | None:
    """Return the speed-up over float: the median of the measurements."""
    found = figure(row, "speedups")
    return statistics.median(found) if found else None


def is_valid(row: Row) -> bool:
    """Whether a result can be used at all."""
    return not row.problems


def is_good(row: Row, exact: Row) -> bool:
    """Whether a result can be used and its metric is within one point of float's."""
    metric, wanted = figure(row, "metric"), figure(exact, "metric")
    return is_valid(row) and None not in (metric, wanted) and metric >= wanted - POINT


# ---------------------------------------------------------------- cells
def _marked(row: Row, text: str) -> str:
    return text if is_valid(row) else f"{text}!"


def _absence(row: Row) -> str:
    """Say in a word why there is no figure."""
    failure = row.failure or ""
    words = {"crashed": "crash", "raised": "raises", "took": "timeout", "ended": "no model"}
    if failure:
        return words[failure.split()[0].rstrip(":")]
    text = " ".join(row.problems)
    words = {
        "cannot load": "does not load",
        "cannot run": "does not run",
        "took more": "timeout",
        "crashed": "crash",
    }
    return next((word for part, word in words.items() if part in text), NOTHING)


def metric_cell(row: Row) -> str:
    """Return the metric."""
    metric = figure(row, "metric")
    return _absence(row) if metric is None else _marked(row, f"{metric:.4f}")


def speed_cell(row: Row) -> str:
    """Return the speed-up with its spread."""
    found, middle = figure(row, "speedups"), speed(row)
    if middle is None:
        return _absence(row)
    spread = f" ({min(found):.2f}-{max(found):.2f})" if len(found) > 1 else ""
    return _marked(row, f"{middle:.2f}x{spread}")


def sqnr_cell(row: Row) -> str:
    """Return the SQNR in dB."""
    sqnr = figure(row, "sqnr_db")
    if sqnr is None:
        return _absence(row)
    return _marked(row, f"{sqnr:.1f}" if math.isfinite(sqnr) else "exact")


def size_cell(exact: Row) -> Callable[[Row], str]:
    """Return what gives a result's size as a share of the original's."""
    whole = figure(exact, "bytes")

    def cell(row: Row) -> str:
        size = figure(row, "bytes")
        return _absence(row) if None in (size, whole) else f"{size / whole:.2f}x"

    return cell


# ---------------------------------------------------------------- summary
def summary(rows: Rows, ours: str, kinds: Mapping[str, str]) -> list[str]:
    """Return how much faster the project's results are than the best good peer's, per kind."""
    lines = []
    for kind in dict.fromkeys(kinds.values()):
        chosen = {name: of for name, of in rows.items() if kinds[name] == kind}
        lines += _summary_of(chosen, ours, kind)
    return lines


def _summary_of(rows: Rows, ours: str, kind: str) -> list[str]:
    labelled = {
        name: of
        for name, of in rows.items()
        if ours in of and speed(of[ours]) is not None and figure(of[FLOAT], "metric") is not None
    }
    best = {name: _best_peer(of, ours) for name, of in labelled.items()}
    own = {name: speed(of[ours]) or 0.0 for name, of in labelled.items()}
    literal = [own[name] / found for name, found in best.items() if found]
    fallback = [own[name] / max(found, 1.0) for name, found in best.items()]
    if not fallback:
        return []
    lines = [
        f"- {kind.capitalize()}: speed of {ours} / of the best valid peer within 1 point of float, "
        f"geometric mean: {_mean(literal)} ({len(literal)} models that have such a peer); with "
        f"float itself (1.0x) as a peer that is always to be had: {_mean(fallback)} "
        f"({len(fallback)} models)."
    ]
    missed = [name for name, of in labelled.items() if not is_good(of[ours], of[FLOAT])]
    lines.append(f"  {ours} itself is not within 1 point on: {', '.join(missed) or 'none'}.")
    return lines


def _best_peer(of: Mapping[str, Row], ours: str) -> float:
    exact = of[FLOAT]
    peers = [row for label, row in of.items() if label not in (ours, FLOAT)]
    return max((speed(row) or 0.0 for row in peers if is_good(row, exact)), default=0.0)


def _mean(ratios: Sequence[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f}x" if ratios else "none"


# ---------------------------------------------------------------- pages
def page(rows: Rows, labels: Sequence[str], summed: Sequence[str], facts: Mapping[str, str]) -> str:
    """Return the whole page."""
    everything = [FLOAT, *labels]
    sections = {
        "Metric": table(rows, everything, metric_cell),
        "Speed, float / result": table(rows, labels, speed_cell),
        "SQNR in dB": table(rows, labels, sqnr_cell),
        "Size, result / original": _sizes(rows, labels),
        "Seconds": table(rows, labels, seconds_cell),
        "Peak memory in MB, resident / anonymous": table(rows, labels, memory_cell),
        "Summary": summed,
        "Verdicts": verdicts(rows),
    }
    body = [f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items()]
    return PAGE.format(**facts) + "\n".join(body)


def _sizes(rows: Rows, labels: Sequence[str]) -> list[str]:
    lines = table({}, labels, size_cell(Row((), None)))
    for model, of in rows.items():
        lines += table({model: of}, labels, size_cell(of[FLOAT]))[2:]
    return lines


def short(rows: Rows, labels: Sequence[str], summed: Sequence[str]) -> str:
    """Return the README's table: metric and speed of each result, then the summary."""
    lines = [line(["model", FLOAT, *labels]), line(["---"] * (len(labels) + 2))]
    for model, of in rows.items():
        cells = [_both(of[label]) if label in of else NOTHING for label in labels]
        lines.append(line([model, metric_cell(of[FLOAT]), *cells]))
    return "\n".join([*lines, "", *summed])


def _both(row: Row) -> str:
    middle, metric = speed(row), figure(row, "metric")
    if middle is None:
        return _absence(row)
    return _marked(row, f"{'' if metric is None else f'{metric:.3f} '}{middle:.2f}x")
