"""The tables of docs/mutation.md: what is known of all mutants, by family and by form."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutation.operators import Mutant

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mutation.md"
BAR = 0.9
FAMILIES = ("cleanup", "fold", "fuse", "shared")
GAPS = "gaps"
# How the survivors of files above the bar are told apart, and why such ones mostly live.
REASONS: Mapping[str, str] = {
    "none": "**Comparisons with None.** Mostly for the type checker: a value, a producer or a "
    "shape that a legal graph has at this place, or that the calls around it answer for.",
    "swept": "**Swept anyway.** The answers are the same: unused nodes go in the sweep that "
    "follows every pass, and names of inner nodes and values are free.",
    "guard": "**Guards.** Mostly what comes after the guard, or the rest of the condition, refuses "
    "the same places: the guard tells why, or saves time.",
    "list": "**One of a list.** Names of operators, of which the pages hold some.",
    "other": "**Others.** Bounds that only speed or size depends on, names that count up, limits "
    "of a size that no page reaches; some are gaps.",
    GAPS: "**Gaps that are open.** All survivors of the files below 90 %, which want more cases, "
    "whatever their kind.",
}
HEAD = """
## What survives

`line: what stands there → what was put there`. Sorted by the form of the change, with the usual
reason; only what a reader has looked at is known to be equivalent, so a survivor is a question and
no verdict.
"""


@dataclass(frozen=True)
class File:
    """What is known of the mutants of one source file; `count` includes those not run."""

    label: str
    count: int
    killed: int
    survivors: tuple[Mutant, ...]

    @property
    def run(self) -> int:
        """The mutants that ran."""
        return self.killed + len(self.survivors)

    @property
    def share(self) -> float:
        """The share of those that ran and died."""
        return self.killed / self.run if self.run else 1.0

    @property
    def family(self) -> str:
        """The family of passes, or `shared`."""
        folder, _, name = self.label.rpartition("/")
        return "shared" if name.startswith("_") else folder


def write_tables(files: Sequence[File]) -> None:
    """Put the tables in the place of the ones that the page has."""
    kept = PAGE.read_text(encoding="utf-8").partition("\n## Totals")[0].rstrip()
    parts = [kept, "", *_totals(files), *_gaps(files), *HEAD.rstrip().splitlines(), *_lists(files)]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _totals(files: Sequence[File]) -> list[str]:
    lines = ["## Totals", "", "| family | mutants run | killed | survived | killed % |"]
    lines.append("|---|---:|---:|---:|---:|")
    for family in (*FAMILIES, "all"):
        chosen = [file for file in files if family in (file.family, "all")]
        run, killed = sum(file.run for file in chosen), sum(file.killed for file in chosen)
        share = 100 * killed / max(1, run)
        lines.append(f"| {family} | {run} | {killed} | {run - killed} | {share:.1f} |")
    return lines


def _gaps(files: Sequence[File]) -> list[str]:
    open_ones = [f"`{f.label}` ({f.run} of {f.count})" for f in files if f.run < f.count]
    low = [f"`{f.label}` ({100 * f.share:.0f} %)" for f in files if f.share < BAR]
    lines = ["", f"Not run to the end: {', '.join(open_ones)}."] if open_ones else []
    return [*lines, "", f"Files below 90 %: {', '.join(low) or 'none'}."]


def _lists(files: Sequence[File]) -> list[str]:
    found: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        for mutant in file.survivors:
            found[GAPS if file.share < BAR else _form(mutant)][file.label].append(mutant)
    lines: list[str] = []
    for form, text in REASONS.items():
        lines += ["", *_wrapped(text), ""]
        for label, mutants in found[form].items():
            items = "; ".join(f"{m.line}: `{m.before[:80]}` → `{m.after[:60]}`" for m in mutants)
            lines.append(f"- {label}: {items}")
    return lines


def _form(mutant: Mutant) -> str:
    before, after = mutant.before, mutant.after
    if re.match(r"(remove|new\.name|names\.add|\w+\.remove)\b", before) or ".name =" in before:
        return "swept"
    if "is None" in before or "is not None" in before:
        return "none"
    if before == "continue" or (after == "pass" and before.startswith("if ")):
        return "guard"
    if (" or " in before or " and " in before) and len(after) < len(before):
        return "guard"
    return "list" if after == "'XX'" else "other"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100)
