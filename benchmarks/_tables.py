"""Rows of the comparison as Markdown: the full page, and the short table of the README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _process import Run

NOTHING = "-"
PAGE = """# Lossless optimizers compared

Written by `make bench-lossless`; every number is from one run of it.

- Each optimizer is its newest release at its defaults, called as its own documentation shows.
  onnxcomp checks every result against the original before it writes; the others write unchecked,
  so the row `--no-verify` is the one to compare their time and memory with.
- Every run is a process of its own: start, imports, load, optimize, save. The optimizers take
  turns, {repeat} of them; the least of each figure is shown.
- *Nodes* count subgraphs and functions. *Memory* is the process's peak: resident, and of it
  anonymous (sampled every 10 ms), which leaves out the libraries' and models' mapped files.
- `!` marks a result that is no use: onnx's full checker or ONNX Runtime (rewrites off or on)
  refuses it, inputs, outputs (names, order, types, ranks) or metadata changed, an output is
  declared with dims that it does not have, or it differs by more than 1e-4 of its range (models
  with float16: 1e-2) and by more than four roundings of its largest value. Inputs are seeded and
  random, of two sizes where dims are open, and ONNX Runtime's rewrites are off. What was wrong is
  told under *Verdicts*. `raised!`, `crashed!`, `time!`: there is no result.

{environment}

"""


@dataclass(frozen=True)
class Row:
    """One optimizer on one model: its runs, and what the judge said of the result."""

    runs: tuple[Run, ...]
    verdict: Mapping[str, Any] | None

    @property
    def failure(self) -> str | None:
        """Why there is no result, if there is none."""
        return next((run.failure for run in self.runs if run.failure), None)

    @property
    def problems(self) -> Sequence[str]:
        """Everything that is wrong."""
        if self.failure:
            return [self.failure]
        return list(self.verdict["problems"]) if self.verdict else ["not judged"]

    @property
    def notes(self) -> Sequence[str]:
        """What is different but wrong for nobody."""
        return list(self.verdict["notes"]) if self.verdict else []

    def best(self, figure: Callable[[Run], float | None]) -> float | None:
        """Return the least of a figure over the runs; None where there is no result."""
        known = [found for run in self.runs if (found := figure(run)) is not None]
        return min(known, default=None) if not self.failure else None


# By model, then by label of the optimizer; the model itself is under the label ORIGINAL.
Rows = Mapping[str, Mapping[str, Row]]
ORIGINAL = "original"


def nodes_cell(row: Row) -> str:
    """Return the nodes, marked where the result is no use."""
    if row.failure:
        return f"{row.failure.split()[0].rstrip(':').replace('took', 'time')}!"
    if row.verdict is None or row.verdict["nodes"] is None:
        return "?!"
    return f"{row.verdict['nodes']}{'!' if row.problems else ''}"


def bytes_cell(row: Row) -> str:
    """Return the size in kB."""
    if row.failure or row.verdict is None or row.verdict["bytes"] is None:
        return NOTHING
    return f"{row.verdict['bytes'] / 1000:,.0f}"


def seconds_cell(row: Row) -> str:
    """Return the seconds of the whole process."""
    seconds = row.best(lambda run: run.seconds)
    return NOTHING if seconds is None else f"{seconds:.2f}"


def memory_cell(row: Row) -> str:
    """Return the peak in MB: resident / anonymous."""
    resident, anonymous = row.best(lambda run: run.resident), row.best(lambda run: run.anonymous)
    if resident is None:
        return NOTHING
    return f"{resident:.0f}" + (f" / {anonymous:.0f}" if anonymous is not None else "")


def table(rows: Rows, labels: Sequence[str], cell: Callable[[Row], str]) -> list[str]:
    """Return the lines of a table: a line per model, a column per optimizer."""
    head = [line(["model", *labels]), line(["---"] * (len(labels) + 1))]
    return head + [
        line([model, *(cell(of[label]) if label in of else NOTHING for label in labels)])
        for model, of in rows.items()
    ]


def line(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(text.replace('|', '/') for text in cells)} |"


def verdicts(rows: Rows) -> list[str]:
    """Return the lines of a table of everything that is wrong, then of what is only odd."""
    found = [
        line([model, label, "!" if wrong else "", text])
        for wrong in (True, False)
        for model, of in rows.items()
        for label, row in of.items()
        for text in (row.problems if wrong else row.notes)
    ]
    return [line(["model", "optimizer", "", "what"]), line(["---"] * 4), *found]


def difference_cell(row: Row) -> str:
    """Return the largest difference of an output, relative to its range."""
    return NOTHING if row.failure or not row.verdict else f"{row.verdict['difference']:.1g}"


def page(rows: Rows, labels: Sequence[str], facts: Mapping[str, str]) -> str:
    """Return the whole page."""
    sections = {
        "Nodes": table(rows, [ORIGINAL, *labels], nodes_cell),
        "Size in kB": table(rows, [ORIGINAL, *labels], bytes_cell),
        "Seconds": table(rows, labels, seconds_cell),
        "Peak memory in MB, resident / anonymous": table(rows, labels, memory_cell),
        "Largest difference, relative to the output's range": table(rows, labels, difference_cell),
        "Verdicts": verdicts(rows),
    }
    body = [f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items()]
    return PAGE.format(**facts) + "\n".join(body)


def short(rows: Rows, labels: Sequence[str], unchecked: Mapping[str, str]) -> str:
    """Return the README's table: nodes, then seconds in all and the largest peak.

    `unchecked` names the row without verification of a label; it gets no column of its own but
    stands beside its seconds and memory.
    """
    columns = [label for label in labels if label not in unchecked.values()]
    finished = {
        model: of
        for model, of in rows.items()
        if all(label in of and not of[label].failure for label in labels)
    }
    lines = table(rows, [ORIGINAL, *columns], nodes_cell)
    if not finished:
        return "\n".join(lines)
    for title, total in (
        (f"seconds, {len(finished)} models that all finished", _all_seconds),
        ("peak MB, the largest of them", _largest_peak),
    ):
        cells = []
        for label in columns:
            cells.append(total([of[label] for of in finished.values()]))
            other = unchecked.get(label, "")
            if other in labels:
                cells[-1] += f" ({total([of[other] for of in finished.values()])} unverified)"
        lines.append(line([title, "", *cells]))
    return "\n".join(lines)


def _all_seconds(rows: Sequence[Row]) -> str:
    return f"{sum(row.best(lambda run: run.seconds) or 0 for row in rows):.1f}"


def _largest_peak(rows: Sequence[Row]) -> str:
    return f"{max(row.best(lambda run: run.resident) or 0 for row in rows):.0f}"
