"""The nodes that an option names by globs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxcomp.errors import UsageError
from onnxcomp.graph import all_nodes, label


def split_globs(exclude: str) -> list[str]:
    """Return the globs of an option, which commas separate."""
    return [glob.strip() for glob in exclude.split(",") if glob.strip()]


def check_globs(model: ir.Model, globs: Iterable[str], option: str) -> None:
    """Raise `UsageError` for a glob of an option that matches no node."""
    names = [label(node) for node in all_nodes(model)]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(
                f"{option} {glob!r} matches no node; `onnxcomp inspect --layers` lists their names"
            )


def read_globs(model: ir.Model, exclude: str, by: str) -> list[str]:
    """Return the globs of a pass's `exclude`; raise `UsageError` for one that matches no node."""
    globs = split_globs(exclude)
    check_globs(model, globs, f"{by}: exclude")
    return globs


def is_excluded(node: ir.Node, globs: Sequence[str]) -> bool:
    """Say whether one of the globs matches the name of a node."""
    return bool(globs) and any(fnmatchcase(label(node), glob) for glob in globs)
