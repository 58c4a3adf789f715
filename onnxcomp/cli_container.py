"""The verbs for packed models."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnxcomp.cli_options import JSON, MODEL
from onnxcomp.cli_talk import progress


@click.command()
@MODEL
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: <stem>.onnxz.")
@JSON
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="List every weight, not only the largest.")
def pack(model: Path, output: Path | None, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Write MODEL as a small .onnxz file, every byte kept."""
    from onnxcomp import api

    with progress(quiet=quiet):
        found = api.pack(model, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    elif not quiet:
        from onnxcomp.pack_table import print_packed
        from onnxcomp.table import answer_console

        print_packed(found, answer_console(), verbose=verbose)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: <stem>.onnx.")
@JSON
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def unpack(file: Path, output: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Write the model in FILE, and its weights files, as they were."""
    from onnxcomp import api

    with progress(quiet=quiet):
        found = api.unpack(file, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    elif not quiet:
        from onnxcomp.pack_table import print_unpacked
        from onnxcomp.table import answer_console

        print_unpacked(found, answer_console())
