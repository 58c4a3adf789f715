"""Settings of a recipe that are no plain value: how they are written, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onnxcomp.errors import RecipeError, UsageError
from onnxcomp.presets import WEIGHTS
from onnxcomp.registry import find_pass

# The ways to compute in int8 that `int8` tries, and how they are written in a recipe.
SCHEMES = ("static", "static+dynamic", "conv+dynamic", "dynamic", "weights")
# A dim of a shape that stays as the model has it.
KEEP = "_"
Shape = tuple["int | str", ...]


def make_shapes(given: object, where: str = "shapes") -> dict[str, Shape]:
    """Return shapes by input name as a recipe has them; a dim is a number, or `_` to keep it.

    None keeps a dim too. Raises `RecipeError` for what is none.
    """
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where}: shapes are a table of dims by input name, got {given!r}")
    shapes: dict[str, Shape] = {}
    for name, dims in given.items():
        if not isinstance(dims, Sequence) or isinstance(dims, str):
            raise RecipeError(
                f"{where}: the shape of {name!r} must be a list of dims, got {dims!r}"
            )
        shapes[str(name)] = tuple(
            _shape_dim(dim, f"{where}: {name}" if name else where) for dim in dims
        )
    return shapes


def _shape_dim(dim: object, where: str) -> int | str:
    if dim is None or dim == KEEP:
        return KEEP
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise RecipeError(f"{where}: a dim is a number from 1 on, or _ to keep it, got {dim!r}")
    return dim


def parse_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Read shapes as the command line has them: `NAME:1,3,_,224`, or `1,3,_,224` for one input."""
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, _, dims = text.rpartition(":")
        parts = [part.strip() for part in dims.split(",")] if dims.strip() else []
        found = [int(part) if part.isdecimal() else part for part in parts]
        if name in shapes:
            raise RecipeError(f"--shape {text}: {name or 'the input'} has a shape already")
        shapes[name] = make_shapes({"": found}, f"--shape {text}")[""]
    return shapes


def make_outputs(value: object, where: str = "outputs") -> tuple[str, ...]:
    """Return the names of outputs as a recipe has them; raise `RecipeError` for what is none."""
    return _names(value, where, "outputs", "output")


def make_exclude(value: object, where: str = "exclude") -> tuple[str, ...]:
    """Return globs of nodes as a recipe has them; raise `RecipeError` for what is none."""
    return _names(value, where, "globs", "glob")


def make_skip(value: object, where: str = "skip") -> tuple[str, ...]:
    """Return names of passes as a recipe has them; raise `UsageError` for what is none."""
    return tuple(find_pass(name).name for name in _names(value, where, "passes", "pass"))


def make_schemes(value: object, where: str = "schemes") -> tuple[str, ...]:
    """Return schemes as a recipe has them; raise `RecipeError` for what is none."""
    found = _names(value, where, "schemes", "scheme")
    for name in found:
        if name not in SCHEMES:
            raise RecipeError(
                f"{where}: there is no scheme {name!r}; choose from {', '.join(SCHEMES)}"
            )
    return found


def make_prune(ratio: float | None, pattern: str | None) -> dict[str, object] | None:
    """Return the options of prune-weights that `prune` and `prune-pattern` stand for, if any.

    Raises `UsageError` for a share that is none, and a pattern without one.
    """
    if ratio is None:
        if pattern is not None:
            raise UsageError("prune-pattern says which weights are zeroed together; add --prune R")
        return None
    if isinstance(ratio, bool) or not 0 <= ratio < 1:
        raise UsageError(f"prune is the share of weights to zero, from 0 to below 1, got {ratio}")
    return {"ratio": ratio} | ({} if pattern is None else {"pattern": pattern})


def make_prune_channels(ratio: float | None) -> dict[str, object] | None:
    """Return the options of prune-channels that `prune-channels` stands for, if any.

    Raises `UsageError` for a share that is none.
    """
    if ratio is None:
        return None
    if isinstance(ratio, bool) or not 0 <= ratio < 1:
        raise UsageError(
            f"prune-channels is the share of MACs to remove, from 0 to below 1, got {ratio}"
        )
    return {"ratio": float(ratio)}


def make_weights(name: str | None, *, fp16: bool = False) -> list[tuple[str, Mapping[str, object]]]:
    """Return the passes with options that `weights` and `fp16` stand for.

    Raises `UsageError` for a form that does not exist.
    """
    if name is not None and name not in WEIGHTS:
        raise UsageError(f"there are no weights {name!r}; choose from {', '.join(WEIGHTS)}")
    found = list(WEIGHTS[name]) if name is not None else []
    return found + (list(WEIGHTS["fp16"]) if fp16 and name != "fp16" else [])


def _names(value: object, where: str, many: str, one: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecipeError(f"{where}: {many} must be a list of names, got {value!r}")
    if not value or not all(isinstance(item, str) and item for item in value):
        raise RecipeError(f"{where}: {many} must name at least one {one}, got {value!r}")
    return tuple(dict.fromkeys(value))


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(text: str) -> int:
    """Return the bytes that `512MB` or `2 GB` names; raise `UsageError` for what does not."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]?B?)", text.strip().upper())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise UsageError(f"calib-memory {text!r}: give a size such as 512MB or 2GB")
    return int(float(found[1]) * _UNITS[found[2]])
