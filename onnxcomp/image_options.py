"""The options of the command line that say how images become inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

# Values are read and checked where those of a recipe are.
FLAGS = {
    "size": ("N|HxW", "Images: shorter side, or height x width (the model's)."),
    "crop": ("N|HxW", "Images: then crop from the centre."),
    "fit": ("FIT", "Images: stretch, shorter-side or letterbox."),
    "scale": ("X", "Images: factor of pixels 0..255 (1/255)."),
    "mean": ("X,X,X", "Images: subtract, per channel, after scaling."),
    "std": ("X,X,X", "Images: then divide, per channel."),
    "layout": ("NCHW|NHWC", "Images: where the model has channels (auto)."),
    "channels": ("NAME", "Images: RGB, BGR, L (grey) or RGBA."),
}


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags, which reach the verb as one `preprocess`: a mapping, or None."""

    @functools.wraps(function)
    def collected(*arguments: Any, **options: Any) -> Any:
        given = {name: options.pop(f"image_{name}") for name in FLAGS}
        found = {name: value for name, value in given.items() if value is not None}
        return function(*arguments, preprocess=found or None, **options)

    for name, (metavar, text) in reversed(FLAGS.items()):
        collected = click.option(f"--image-{name}", metavar=metavar, help=text)(collected)
    return collected
