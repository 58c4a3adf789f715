"""The facts of a run for people: tables on a terminal, plain text elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxcomp.calibration.ranges import described
from onnxcomp.candidate_table import candidate_table

if TYPE_CHECKING:
    from onnxcomp.api import Comparison, Summary
    from onnxcomp.layers import Layer
    from onnxcomp.parity import Parity
    from onnxcomp.registry import Pass
    from onnxcomp.report import Report, StepReport

# Narrower terminals get tables with fewer columns.
WIDE = 100


def answer_console() -> Console:
    """Return the console on stdout; what is piped is not folded at 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def print_report(
    report: Report, console: Console, *, verbose: bool = False, brief: bool = False
) -> None:
    """Print what `optimize` did: size, passes, operators, parity, metric, latency, int8.

    A `brief` one has no passes and operators, since a diff before it says more of them.
    """
    before, after = report.before.cost, report.after.cost
    _line(console, f"{report.before.path or 'model'}   {_cost(report, 'before')}")
    for change in () if brief else report.interface:
        _line(console, f"interface  {change}   as asked", style="yellow")
    if not brief:
        console.print(_steps(report, narrow=console.width < WIDE))
    for step in report.steps:
        if step.status == "rolled-back":
            _line(console, f"{step.name} rolled back: {step.reason}", style="yellow")
        for item in step.left if verbose else ():
            _line(console, f"{step.name} left {item.node}: {item.reason}", style="dim")
    if not brief:
        _line(console, f"ops  {_ops(dict(before.ops), dict(after.ops))}")
    if report.candidates:
        sizes = [size(candidate.bytes) for candidate in report.candidates]
        console.print(candidate_table(report.candidates, sizes))
    _line(console, _parity_line(report))
    if report.metric is not None:
        figures = f"{report.metric.before:.4f} -> {report.metric.after:.4f}"
        allowed = report.metric.max_drop
        limit = "" if allowed is None else f" (may fall by {allowed:g})"
        _line(console, f"accuracy  {figures}{limit}   {report.metric.name}")
    if report.latency is not None:
        found = report.latency
        _line(
            console,
            f"latency  {found.before_ms:.3g} -> {found.after_ms:.3g} ms ({found.speedup:.2f}x)",
        )
    if report.ranges is not None:
        _line(console, f"ranges  {described(report.ranges)}")
    if report.int8 is not None:
        share = f"{report.int8.macs_share or 0:.2%} of MACs in int8 kernels"
        nodes = f"{report.int8.int8_nodes} int8 and {len(report.int8.float_nodes)} float nodes"
        _line(console, f"int8  {share}, {nodes}")
        for node in report.int8.float_nodes if verbose else ():
            _line(console, f"  {node.op} {node.name}: {node.reason}", style="dim")
    if report.sparsity is not None:
        packed = f"{size(report.sparsity.bytes)}, {size(report.sparsity.compressed)} by zlib"
        _line(console, f"sparsity  {report.sparsity}   {packed}")
    if report.storage is not None:
        stored, loaded = size(report.storage.stored), size(report.storage.loaded)
        _line(console, f"weights  {stored} in the file, {loaded} when loaded")
    ratio = after.bytes / before.bytes if before.bytes else 1.0
    result = f"{size(before.bytes)} -> {size(after.bytes)} ({ratio:.2f}x)"
    where = f"wrote {report.written}" if report.written else "nothing written"
    _line(console, f"{where}   {result}   {report.seconds:.1f} s")


def _line(console: Console, text: str, *, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _cost(report: Report, side: str) -> str:
    cost = getattr(report, side).cost
    return (
        f"{cost.nodes} nodes   {size(cost.bytes)}   "
        f"{count(cost.params)} params   {count(cost.macs)} MACs"
    )


def _steps(report: Report, *, narrow: bool) -> Table:
    """Return a row per pass that did or left something; a narrow one without effects and times."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("pass",) if narrow else ("pass", "effect"):
        table.add_column(title, no_wrap=True)
    for title in ("sites", "nodes", "weights") if narrow else ("sites", "nodes", "weights", "ms"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for step in report.steps:
        if step.status != "unchanged" or step.left:
            cells = _row(step)
            table.add_row(cells[0], *cells[2:5], cells[6]) if narrow else table.add_row(*cells)
    return table


def _row(step: StepReport) -> tuple[str, ...]:
    note = f"{len(step.left)} left alone" if step.left else ""
    if step.status == "rolled-back":
        note = "rolled back"
    return (
        step.name,
        step.effect,
        str(step.sites),
        _change(str(step.nodes[0]), str(step.nodes[1])),
        _change(size(step.bytes[0]), size(step.bytes[1])),
        f"{step.seconds * 1000:.0f}",
        note,
    )


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _ops(before: dict[str, int], after: dict[str, int]) -> str:
    parts = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name, 0), after.get(name, 0)
        parts.append(f"{name} {was}" if was == now else f"{name} {was} -> {now}")
    return "  ".join(parts)


def _parity_line(report: Report) -> str:
    if report.parity is None:
        return "parity  not checked"
    verdict = "PASSED" if report.passed else "FAILED"
    problems = "" if report.passed else f"   {report.parity_problems[0]}"
    return f"parity  {verdict}   {parity_text(report.parity)}{problems}"


def parity_text(parity: Parity) -> str:
    """Return the worst output's figures in one line."""
    worst = max((o.max_abs for o in parity.outputs.values()), default=0.0)
    sqnr = "exact" if math.isinf(parity.sqnr_db) else f"SQNR {parity.sqnr_db:.1f} dB"
    top1 = "" if parity.top1 is None else f"   top-1 agreement {parity.top1:.2%}"
    return f"{sqnr}{top1}   max |d| {worst:.3g}   {parity.samples} samples"


def print_comparison(found: Comparison, console: Console) -> None:
    """Print what `compare` found, a row per output."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("output")
    for title in ("max |d|", "of range", "SQNR dB", "cosine", "top-1"):
        table.add_column(title, justify="right")
    for name, out in found.parity.outputs.items():
        sqnr = "exact" if math.isinf(out.sqnr_db) else f"{out.sqnr_db:.1f}"
        top1 = "" if out.top1 is None else f"{out.top1:.2%}"
        relative = f"{out.relative:.2g}"
        table.add_row(name, f"{out.max_abs:.3g}", relative, sqnr, f"{out.cosine:.6f}", top1)
    console.print(table)
    before, after = found.bytes
    ratio = after / before if before else 1.0
    _line(console, f"size  {size(before)} -> {size(after)} ({ratio:.2f}x)")
    if found.latency is not None:
        lat = found.latency
        _line(
            console, f"latency  {lat.before_ms:.3g} -> {lat.after_ms:.3g} ms ({lat.speedup:.2f}x)"
        )
    for problem in found.problems:
        _line(console, f"FAILED  {problem}", style="red")


def print_summary(
    found: Summary, console: Console, layers: Sequence[Layer] | None = None, *, more: int = 0
) -> None:
    """Print what `inspect` found: a row per operator, or per layer where these are given."""
    cost = found.cost
    _line(console, f"{found.path or 'model'}   opset {found.opset}   IR {found.ir_version}")
    _line(
        console,
        f"{cost.nodes} nodes   {size(cost.bytes)}   {count(cost.params)} params   "
        f"{count(cost.macs)} MACs",
    )
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in found.counted_at.items())
    if shapes:
        _line(console, f"MACs are for {shapes}")
    for kind, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            _line(console, f"{kind}  {spec}")
    console.print(_ops_table(found) if layers is None else _layers_table(layers))
    if more:
        _line(console, f"and {more} more layers", style="dim")
    for finding in found.lint:
        places = f": {_some(finding.places)}" if finding.places else ""
        _line(console, f"{finding.rule}  {finding.message}{places}", style="yellow")
        _line(console, f"    {finding.advice}")


def _some(names: Sequence[str], limit: int = 3) -> str:
    listed = ", ".join(names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"


def _ops_table(found: Summary) -> Table:
    table = _table("op", "nodes", "MACs", "params", "weights")
    totals: dict[str, list[int]] = {op: [0, 0, 0] for op in found.cost.ops}
    for layer in found.layers:
        for index, number in enumerate((layer.macs, layer.params, layer.bytes)):
            totals[layer.op][index] += number
    for op, (macs, params, weights) in sorted(totals.items(), key=lambda row: (-row[1][0], row[0])):
        table.add_row(op, str(found.cost.ops[op]), count(macs), count(params), size(weights))
    return table


def _layers_table(layers: Sequence[Layer]) -> Table:
    table = _table("layer", "op", "output", "MACs", "of MACs", "params", "weights", "of weights")
    for layer in layers:
        table.add_row(
            layer.node,
            layer.op,
            "?" if layer.shape is None else "x".join(str(dim) for dim in layer.shape),
            count(layer.macs),
            f"{layer.macs_share:.1%}",
            count(layer.params),
            size(layer.bytes),
            f"{layer.bytes_share:.1%}",
        )
    return table


def _table(*titles: str) -> Table:
    """Return a table whose words stand left and whose figures stand right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        words = title in ("layer", "op", "output")
        table.add_column(
            title,
            justify="left" if words else "right",
            no_wrap=title != "layer",
            overflow="fold" if title == "layer" else "ellipsis",
        )
    return table


def print_passes(found: Mapping[str, Pass], console: Console) -> None:
    """Print a row per pass."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("pass", "family", "effect", "summary"):
        table.add_column(title, no_wrap=title != "summary")
    for item in found.values():
        table.add_row(item.name, item.family, item.effect.value, item.summary)
    console.print(table)


def size(number: int) -> str:
    """Write bytes as B, KB, MB or GB (powers of 1000)."""
    return _scaled(number, ("B", "KB", "MB", "GB"))


def count(number: int) -> str:
    """Write a count with K, M or G."""
    return _scaled(number, ("", "K", "M", "G")).rstrip()


def _scaled(number: int, units: tuple[str, ...]) -> str:
    value = float(number)
    for unit in units[:-1]:
        if abs(value) < 1000:
            return f"{value:.3g} {unit}" if value % 1 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"
