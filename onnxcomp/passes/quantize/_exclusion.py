"""The nodes that an option names by globs."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxcomp.errors import UsageError
from onnxcomp.graph import all_nodes, label


def read_globs(model: ir.Model, exclude: str, by: str) -> list[str]:
    """Return the globs of a pass's `exclude`, which commas separate.

    Raises `UsageError` for one that matches no node.
    """
    globs = [glob.strip() for glob in exclude.split(",") if glob.strip()]
    names = [label(node) for node in all_nodes(model)]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(
                f"{by}: exclude {glob!r} matches no node; `onnxcomp inspect` lists their names"
            )
    return globs


def is_excluded(node: ir.Node, globs: Sequence[str]) -> bool:
    """Say whether one of the globs matches the name of a node."""
    return bool(globs) and any(fnmatchcase(label(node), glob) for glob in globs)
