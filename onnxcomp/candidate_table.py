"""The int8 candidates of a run, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxcomp.int8.candidate import Candidate


def candidate_table(candidates: Sequence[Candidate], sizes: Sequence[str]) -> Table:
    """Return a row per candidate: what was tried, what it measured, and what became of it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("int8 form", no_wrap=True)
    for title in ("in float", "weights", "SQNR dB", "speed"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for candidate, size in zip(candidates, sizes, strict=True):
        table.add_row(
            candidate.scheme.name,
            f"{len(candidate.returned)} nodes" if candidate.returned else "",
            size,
            "" if candidate.evidence is None else f"{candidate.evidence.parity.sqnr_db:.1f}",
            f"{candidate.speedup:.2f}x" if candidate.speedup else "",
            "chosen" if candidate.chosen else "; ".join(candidate.problems),
        )
    return table
