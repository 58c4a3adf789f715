"""Options that several verbs of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxcomp.calibration.methods import METHODS
from onnxcomp.image_options import image_options
from onnxcomp.presets import WEIGHTS

SORTS = ("order", "macs", "params", "bytes")
MODEL = click.argument("model", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
SHAPE = "Fix an input's shape: NAME:1,3,224,224, _ keeps a dim (repeatable)."
SCHEME = "int8: only static, static+dynamic, conv+dynamic, dynamic or weights (repeatable)."
SVD = "Low-rank layers that keep this share of their output's energy, as 0.95."
SAVE_RECIPE = "Write the recipe that repeats this run, decisions included."
TENSORRT = "Write a TensorRT calibration cache too."
THREADS = click.option(
    "--threads",
    type=int,
    help="Threads of ONNX Runtime (1; to calibrate 0: all cores but one).",
)


def calibration_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how ranges are found."""
    for option in (
        click.option("--cluster", metavar="ADDRESS", help="Calibrate on a Dask cluster (tcp://…)."),
        click.option("--workers", type=int, metavar="N", help="Calibrate in N processes (0)."),
        click.option("--calib-memory", metavar="SIZE", help="Bound activations to SIZE, as 1GB."),
        click.option("--calib-method", type=click.Choice(METHODS), help="How ranges are chosen."),
    ):
        function = option(function)
    return function


def prune_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that remove weights and channels."""
    pattern = "What is zeroed together: unstructured, row, kernel, vector, block, 4x4, 2:4."
    channels = "Remove channels with this share of the MACs."
    for option in (
        click.option("--prune-channels", type=float, metavar="R", help=channels),
        click.option("--prune-pattern", metavar="NAME", help=pattern),
        click.option("--prune", type=float, metavar="R", help="Zero this share of the weights."),
    ):
        function = option(function)
    return function


def weights_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that store weights in fewer bits."""
    for option in (
        click.option("--fp16", is_flag=True, help="The same as --weights fp16."),
        click.option("--weights", type=click.Choice(list(WEIGHTS)), help="Weights in fewer bits."),
    ):
        function = option(function)
    return function


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which samples to use."""
    spec = "Samples: folder (of images, too), .npz, .npy, FILE.py:callable, random[:N]."
    for option in (
        image_options,
        click.option("--seed", type=int, help="Seed of everything random (0)."),
        click.option("--samples", type=int, metavar="N", help="Read at most N samples."),
        click.option("--calib", metavar="SPEC", help=spec),
    ):
        function = option(function)
    return function
