"""The command line: a skin over `onnxcomp.api`, which it imports only when a verb runs."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcomp.cli_container import pack, unpack
from onnxcomp.cli_options import (
    JSON,
    MODEL,
    SAVE_RECIPE,
    SCHEME,
    SHAPE,
    SORTS,
    SVD,
    TENSORRT,
    THREADS,
    calibration_options,
    data_options,
    prune_options,
    weights_options,
)
from onnxcomp.cli_talk import SafeGroup, progress, speaker
from onnxcomp.targets import NAMES

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxcomp.report import Report

# The lines of a diff that a terminal gets; a pipe or a file gets all.
DIFF_LINES = 200


@click.group(cls=SafeGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnxcomp")
def cli() -> None:
    r"""Make ONNX models smaller and faster, and prove that they still answer the same.

    \b
    onnxcomp optimize model.onnx                        lossless
    onnxcomp optimize model.onnx --int8 --calib data/   8-bit integers
    onnxcomp pack model.onnx                            a smaller file of the same bytes
    """


for _command in (pack, unpack):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    # A graph is one large cycle that lives to the end: to look for others takes longer than passes.
    gc.disable()
    atexit.register(gc.freeze)
    cli(prog_name="onnxcomp")


@cli.command()
@MODEL
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: <stem>.opt.onnx.")
@click.option("--recipe", metavar="NAME|FILE.toml", help="lossless (default), int8, or a file.")
@click.option("--int8", is_flag=True, help="Quantize to 8-bit integers.")
@click.option("--svd", type=float, metavar="ENERGY", help=SVD)
@click.option("--scheme", "schemes", multiple=True, metavar="NAME", help=SCHEME)
@prune_options
@weights_options
@click.option("--select", multiple=True, metavar="PASS", help="Run only this pass (repeatable).")
@click.option("--skip", multiple=True, metavar="PASS", help="Leave this pass out (repeatable).")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Nodes to leave float.")
@click.option("--shape", multiple=True, metavar="NAME:DIMS", help=SHAPE)
@click.option("--outputs", multiple=True, metavar="NAMES", help="Keep only these: NAME,NAME.")
@click.option("--opset", type=int, metavar="N", help="Convert to this operator set first.")
@data_options
@calibration_options
@click.option(
    "--ranges", type=click.Path(), metavar="FILE", help="Ranges to read; with --calib, to keep."
)
@click.option("--eval", "eval_", metavar="FILE.py:FUNC", help="Metric: func(predict) -> float.")
@click.option("--max-drop", type=float, metavar="X", help="Largest accepted fall of the metric.")
@click.option("--min-sqnr", type=float, metavar="DB", help="Least accepted SQNR in dB.")
@click.option("--min-speedup", type=float, metavar="X", help="Exit 1 if it is not X times faster.")
@click.option("--min-int8-macs", type=float, metavar="SHARE", help="Exit 1 if less is in int8.")
@click.option("--no-verify", is_flag=True, help="Do not compare with the original.")
@click.option("--target", type=click.Choice(NAMES), help="The machine the model is for (auto).")
@THREADS
@JSON
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@click.option("--diff", is_flag=True, help="Print what changed in the graph, node by node.")
@click.option("--save-recipe", type=click.Path(path_type=Path), metavar="FILE", help=SAVE_RECIPE)
@click.option("--print-recipe", is_flag=True, help="Print the effective recipe and stop.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and the --diff.")
@click.option("-v", "--verbose", is_flag=True, help="List every place left alone, with the reason.")
def optimize(
    model: Path,
    output: Path | None,
    *,
    as_json: bool,
    dry_run: bool,
    diff: bool,
    print_recipe: bool,
    quiet: bool,
    verbose: bool,
    eval_: str | None,
    no_verify: bool,
    save_recipe: Path | None,
    shape: tuple[str, ...],
    outputs: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a recipe on MODEL, verify the result, write it, report.

    Where MODEL's weights lie in files, a run that was interrupted goes on from OUTPUT.partial: the
    same command finds there what was found out about each weight.
    """
    from dataclasses import replace

    from onnxcomp import api
    from onnxcomp.errors import ContractError
    from onnxcomp.keeping import keeping
    from onnxcomp.model_io import check_plain, check_writable, default_output, write_text
    from onnxcomp.run import run_recipe
    from onnxcomp.settings import parse_shapes

    recipe = api.make_recipe(
        options.pop("recipe"),
        eval=eval_,
        verify=False if no_verify else None,
        shapes=parse_shapes(shape),
        outputs=[name for names in outputs for name in names.split(",")],
        **options,
    )
    if print_recipe:
        click.echo(recipe.to_toml(), nl=False)
        return
    out = output or default_output(model)
    check_plain(out)
    if not dry_run and model.exists():
        check_writable(out, model)
    say, partial = speaker(quiet=quiet), out.with_name(f"{out.name}.partial")
    with keeping(None if dry_run else partial, say), progress(quiet=quiet) as advance:
        result = run_recipe(model, recipe, say=say, progress=advance)
        report = result.report
        passed = report.passed or not recipe.verify
        written = None if dry_run or not passed else result.save(out)
    if written is not None:
        after = replace(report.after.cost, bytes=written)
        report = replace(
            report, written=str(out), after=replace(report.after, path=str(out), cost=after)
        )
    if save_recipe is not None and not dry_run:
        write_text(save_recipe, result.recipe.to_toml())
    if diff:
        _print_diff(model, result.model, report, as_json=as_json)
    _show(report, as_json=as_json, quiet=quiet, verbose=verbose, brief=diff)
    if not passed:
        raise ContractError(f"nothing written: {report.parity_problems[0]}")
    if report.problems:
        where = f"; {report.written} is written all the same" if report.written else ""
        raise ContractError("; ".join(report.problems) + where)


def _print_diff(before: Path, after: ir.Model, report: Report, *, as_json: bool) -> None:
    """Print the diff to stdout, or to stderr where the JSON has stdout; cut on a terminal."""
    from onnxcomp.diff import diff_lines
    from onnxcomp.model_io import load_model

    lines = list(diff_lines(load_model(before), after, report))
    stream = sys.stderr if as_json else sys.stdout
    shown = lines[:DIFF_LINES] if stream.isatty() else lines
    for line in shown:
        color = {"-": "red", "+": "green", "@": "cyan"}.get(line[:1])
        click.secho(line, err=as_json, fg=color)
    if len(shown) < len(lines):
        click.echo(f"... {len(lines) - len(shown)} more lines; pipe them to see all", err=as_json)


def _show(
    report: Report, *, as_json: bool, quiet: bool, verbose: bool, brief: bool = False
) -> None:
    if as_json:
        click.echo(report.to_json())
    elif not quiet:
        from onnxcomp.table import answer_console, print_report

        print_report(report, answer_console(), verbose=verbose, brief=brief)


@cli.command()
@MODEL
@data_options
@calibration_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE")
@click.option("--per-channel", multiple=True, metavar="GLOB", help="Values to do by channel too.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="DIR", help="Draw histograms.")
@click.option("--tensorrt", type=click.Path(path_type=Path), metavar="FILE", help=TENSORRT)
@THREADS
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def calibrate(
    model: Path,
    tensorrt: Path | None,
    seed: int | None,
    output: Path,
    threads: int | None,
    *,
    quiet: bool,
    **options: Any,
) -> None:
    """Write the ranges of MODEL's values, for optimize --ranges.

    While model, samples and method stay the same, OUTPUT is not made again; a run that was
    interrupted goes on from OUTPUT.partial.
    """
    from onnxcomp import api
    from onnxcomp.calibration.tensorrt_cache import to_cache
    from onnxcomp.model_io import check_writable, write_text

    for path in (output, tensorrt):
        if path is not None:
            check_writable(path, model)
    with progress(quiet=quiet) as advance:
        ranges = api.calibrate(
            model,
            ranges=output,
            seed=seed or 0,
            threads=threads or 0,
            say=speaker(quiet=quiet),
            progress=advance,
            **options,
        )
    if tensorrt is not None:
        write_text(tensorrt, to_cache(ranges))
    if not quiet:
        click.echo(f"{output}   {len(ranges.values)} ranges from {ranges.samples} samples")


@cli.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@data_options
@click.option("--min-sqnr", type=float, metavar="DB", help="Exit 1 below this SQNR in dB.")
@click.option("--bench", is_flag=True, help="Measure latency too, in turns.")
@THREADS
@JSON
def compare(
    first: Path,
    second: Path,
    seed: int | None,
    threads: int | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the answers, size and latency of two models."""
    from onnxcomp import api

    with progress(quiet=False):
        found = api.compare(
            first, second, seed=seed or 0, threads=1 if threads is None else threads, **options
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        from onnxcomp.table import answer_console, print_comparison

        print_comparison(found, answer_console())
    if found.problems:
        sys.exit(1)


@cli.command()
@MODEL
@click.option("--layers", is_flag=True, help="List every layer with its cost, not only the ops.")
@click.option("--sort", type=click.Choice(SORTS), help="Sort the layers; the largest first.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the first N layers.")
@click.option("--shape", multiple=True, metavar="NAME:DIMS", help=SHAPE)
@click.option("--target", type=click.Choice(NAMES), default="auto", help="The machine (auto).")
@JSON
def inspect(
    model: Path,
    *,
    layers: bool,
    sort: str | None,
    top: int | None,
    shape: tuple[str, ...],
    target: str,
    as_json: bool,
) -> None:
    """Show what MODEL is and costs, and what stands in the way of a better one."""
    from dataclasses import replace

    from onnxcomp import api
    from onnxcomp.layers import sorted_layers
    from onnxcomp.settings import parse_shapes

    with progress(quiet=False):
        found = api.inspect(model, shapes=parse_shapes(shape), target=target)
    listed = layers or sort is not None or top is not None
    shown = replace(found, layers=sorted_layers(found.layers, sort or "order", top))
    if as_json:
        click.echo(json.dumps(shown.to_dict(layers=listed), indent=2))
        return
    from onnxcomp.table import answer_console, print_summary

    more = len(found.layers) - len(shown.layers)
    print_summary(found, answer_console(), shown.layers if listed else None, more=more)


@cli.command(name="passes")
@JSON
def passes_(*, as_json: bool) -> None:
    """List the passes there are."""
    from onnxcomp.registry import list_passes

    found = list_passes()
    if as_json:
        rows = [
            {"pass": p.name, "family": p.family, "effect": p.effect.value, "summary": p.summary}
            for p in found.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    from onnxcomp.table import answer_console, print_passes

    print_passes(found, answer_console())


@cli.command()
@click.argument("name", metavar="PASS")
def explain(name: str) -> None:
    """Print the page of one pass."""
    from onnxcomp.registry import find_pass

    found = find_pass(name)
    click.echo(f"{found.name} ({found.effect.value})\n\n{found.doc}")
    for option in found.options.values():
        click.echo(f"\noption {option.name}: {option.type.__name__} = {option.default!r}")
