"""Recipes read from TOML files, and those that have a name."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from onnxcomp.calibration.preprocess import make_preprocess
from onnxcomp.errors import RecipeError
from onnxcomp.presets import PRESETS
from onnxcomp.recipe import Recipe, Step, check_recipe
from onnxcomp.settings import (
    SCHEMES,
    make_exclude,
    make_outputs,
    make_schemes,
    make_shapes,
    make_skip,
)

# How settings are read that are no plain value in TOML.
_READERS: Mapping[str, Callable[[object, str], object]] = {
    "shapes": make_shapes,
    "outputs": make_outputs,
    "exclude": make_exclude,
    "skip": make_skip,
    "schemes": make_schemes,
    "preprocess": make_preprocess,
}


def load_recipe(name: str) -> Recipe:
    """Return a preset by name, or the recipe in a TOML file."""
    if name in PRESETS:
        schemes = SCHEMES if name == "int8" else ()
        return Recipe(tuple(Step(item) for item in PRESETS[name]), schemes)
    path = Path(name)
    if path.suffix != ".toml":
        known = ", ".join(PRESETS)
        raise RecipeError(f"there is no recipe {name!r}; choose from {known}, or give a .toml file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    return _from_dict(data, str(path))


def _from_dict(data: dict[str, object], where: str) -> Recipe:
    steps: list[Step] = []
    raw = data.pop("step", [])
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise RecipeError(f"{where}: steps are written as [[step]] tables")
    for item in raw:
        options = {key.replace("-", "_"): value for key, value in item.items()}
        name = options.pop("pass", None)
        if not isinstance(name, str):
            raise RecipeError(f'{where}: a [[step]] without `pass = "..."`')
        steps.append(Step(name, options))
    known = {item.name: str(item.type) for item in fields(Recipe) if item.name != "steps"}
    settings = {key.replace("-", "_"): value for key, value in data.items()}
    for key, value in settings.items():
        if key not in known:
            raise RecipeError(f"{where}: unknown setting {key!r}; known: {', '.join(known)}")
        if key in _READERS:
            settings[key] = _READERS[key](value, where)
        elif not _fits(value, known[key]):
            raise RecipeError(f"{where}: {key} must be {known[key]}, got {value!r}")
    recipe = Recipe(steps=tuple(steps), **settings)  # type: ignore[arg-type]
    check_recipe(recipe)
    return recipe


def _fits(value: object, annotation: str) -> bool:
    names = {part.strip() for part in annotation.split("|")}
    accepted = {"int": "int", "float": "float int", "str": "str", "bool": "bool"}
    return any(type(value).__name__ in accepted.get(name, "").split() for name in names)
