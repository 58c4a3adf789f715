"""What to run: an ordered list of passes with options, data, budget and target, as TOML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from onnxcomp.calibration.methods import METHODS
from onnxcomp.calibration.preprocess import Preprocess, make_preprocess
from onnxcomp.errors import RecipeError, UsageError
from onnxcomp.registry import find_pass
from onnxcomp.targets import NAMES, detect

LOSSLESS = (
    "eliminate-dead-code",
    "inline-functions",
    "lift-constants",
    "eliminate-identity",
    "eliminate-dropout",
    "deduplicate-initializers",
    "eliminate-common-subexpressions",
    "fold-shape-arithmetic",
    "fold-constants",
    "inline-constant-if",
    "eliminate-noop-cast",
    "eliminate-noop-reshape",
    "eliminate-noop-transpose",
    "eliminate-noop-pad",
    "eliminate-noop-slice",
    "eliminate-noop-arithmetic",
    "eliminate-noop-concat",
    "eliminate-noop-resize",
    "eliminate-noop-scatter",
    "eliminate-noop-tile",
    "eliminate-constant-where",
    "eliminate-double-negation",
    "eliminate-elementwise-before-shape",
    "eliminate-expand-before-broadcast",
    "eliminate-zero-bias",
    "eliminate-squeeze-of-unsqueeze",
    "eliminate-slice-of-concat",
    "eliminate-concat-of-slices",
    "fuse-consecutive-slices",
    "fuse-consecutive-concats",
    "fuse-consecutive-unsqueezes",
    "fuse-consecutive-squeezes",
    "fuse-consecutive-casts",
    "fuse-consecutive-transposes",
    "fuse-transposes-around-elementwise",
    "push-transpose-into-reduce",
    "fuse-consecutive-reshapes",
    "fuse-consecutive-clips",
    "fuse-unsqueeze-into-reshape",
    "fuse-unsqueeze-into-reduce",
    "fuse-slices-into-split",
    "fuse-consecutive-pads",
    "fuse-cast-into-constant-of-shape",
    "fuse-not-into-where",
    "fuse-not-into-comparison",
    "fuse-reciprocal-into-div",
    "fuse-min-max-into-clip",
    "fuse-relu-into-clip",
    "eliminate-redundant-relu",
    "normalize-auto-pad",
    "fuse-pad-into-pool",
    "fuse-pad-into-conv",
    "fuse-bn-into-conv",
    "fuse-bn-into-conv-transpose",
    "fuse-layer-normalization",
    "fuse-rms-normalization",
    "fuse-gelu",
    "fuse-hard-sigmoid",
    "fuse-hard-swish",
    "fuse-mish",
    "fuse-softmax",
    "fuse-consecutive-scalings",
    "fuse-transpose-into-gemm",
    "fuse-reshape-around-matmul",
    "fuse-matmul-add-into-gemm",
    "fuse-bn-into-gemm",
    "fuse-bn-into-matmul",
    "fuse-bn-before-conv",
    "fuse-add-into-conv",
    "fuse-mul-into-conv",
    "fuse-mul-before-conv",
    "fuse-add-into-gemm",
    "fuse-mul-into-gemm",
    "fuse-mul-before-gemm",
    "merge-parallel-convs",
    "fuse-consecutive-convs",
    "fuse-consecutive-gemms",
    "deduplicate-transposed-initializers",
)
_PLACES = {name: place for place, name in enumerate(LOSSLESS)}
PRESETS: Mapping[str, tuple[str, ...]] = {
    "lossless": LOSSLESS,
    "int8": LOSSLESS,
    "none": (),
}


# The ways to compute in int8 that `int8` tries, and how they are written in a recipe.
SCHEMES = ("static", "static+dynamic", "conv+dynamic", "dynamic", "weights")
# A dim of a shape that stays as the model has it.
KEEP = "_"
Shape = tuple["int | str", ...]


@dataclass(frozen=True)
class Step:
    """One pass with its options."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of the result.

    `shapes` are input shapes to fix, by input name ("" is the only one), `outputs` the outputs to
    keep (none named: all), `opset` the operator set to convert to. `samples` is the most that is
    read of the data, `max_drop` the loss of the metric that is accepted, `min_sqnr` (dB) the
    label-free budget, `preprocess` how images become inputs. `schemes` are the int8 candidates that
    are built after the steps, measured, and chosen from, without the passes in `skip`; `exclude`
    are globs of nodes that lossy passes leave alone. `never_slower` holds a lossy result to the
    original's latency on this machine: it is off in a recipe that a search came to, whose decisions
    it repeats.
    """

    steps: tuple[Step, ...] = ()
    schemes: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    opset: int | None = None
    calib: str | None = None
    calib_method: str = "mse"
    calib_memory: str | None = None
    workers: int = 0
    cluster: str | None = None
    ranges: str | None = None
    samples: int | None = None
    seed: int = 0
    target: str = "auto"
    threads: int | None = None
    eval: str | None = None
    max_drop: float | None = None
    min_sqnr: float | None = None
    never_slower: bool = True
    min_speedup: float | None = None
    min_int8_macs: float | None = None
    verify: bool = True
    preprocess: Preprocess | None = None

    def to_toml(self) -> str:
        """Return the recipe as the file that reads back to it."""
        lines = [
            f"{item.name.replace('_', '-')} = {_toml(getattr(self, item.name))}"
            for item in fields(self)
            if item.name not in ("steps", "preprocess")
            and getattr(self, item.name) not in (None, (), {})
        ]
        if self.preprocess is not None:
            lines += ["", "[preprocess]"]
            lines += [f"{name} = {_toml(item)}" for name, item in self.preprocess.to_dict().items()]
        for step in self.steps:
            lines += ["", "[[step]]", f"pass = {_toml(step.name)}"]
            lines += [f"{name} = {_toml(value)}" for name, value in step.options.items()]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, object]:
        """Return the recipe for the JSON report."""
        settings = {item.name: getattr(self, item.name) for item in fields(self)}
        steps = [{"pass": step.name, **step.options} for step in self.steps]
        preprocess = None if self.preprocess is None else self.preprocess.to_dict()
        return {**settings, "preprocess": preprocess, "steps": steps}

    @property
    def is_lossy(self) -> bool:
        """Whether any step may cost accuracy."""
        return bool(self.schemes) or any(
            find_pass(step.name).effect == "lossy" for step in self.steps
        )


def as_settled(recipe: Recipe, chosen: Sequence[Step]) -> Recipe:
    """Return the recipe that repeats what a search came to: its steps, and no search."""
    target = detect() if recipe.target == "auto" else recipe.target
    return replace(
        recipe,
        steps=(*recipe.steps, *chosen),
        schemes=(),
        skip=(),
        never_slower=False,
        target=target,
    )


def in_fixpoint_order(steps: Iterable[Step]) -> list[Step]:
    """Return the steps of a lossless stretch in the order in which they run, whatever was written.

    A fixpoint has no first pass, but some take what others would recognise: +3 of a hard sigmoid
    can go into the Conv before it. So known passes run in the order of the lossless recipe, which
    makes the result independent of a recipe's order; others come after them as they are written.
    """
    return sorted(steps, key=lambda step: _PLACES.get(step.name.replace("_", "-"), len(_PLACES)))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, str):  # JSON's escapes are TOML's, but that TOML escapes DEL too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


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


def _names(value: object, where: str, many: str, one: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecipeError(f"{where}: {many} must be a list of names, got {value!r}")
    if not value or not all(isinstance(item, str) and item for item in value):
        raise RecipeError(f"{where}: {many} must name at least one {one}, got {value!r}")
    return tuple(dict.fromkeys(value))


# How settings are read that are no plain value in TOML.
_READERS: Mapping[str, Callable[[object, str], object]] = {
    "shapes": make_shapes,
    "outputs": make_outputs,
    "exclude": make_exclude,
    "skip": make_skip,
    "schemes": make_schemes,
    "preprocess": make_preprocess,
}


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(text: str) -> int:
    """Return the bytes that `512MB` or `2 GB` names; raise `UsageError` for what does not."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]?B?)", text.strip().upper())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise UsageError(f"calib-memory {text!r}: give a size such as 512MB or 2GB")
    return int(float(found[1]) * _UNITS[found[2]])


def _fits(value: object, annotation: str) -> bool:
    names = {part.strip() for part in annotation.split("|")}
    accepted = {"int": "int", "float": "float int", "str": "str", "bool": "bool"}
    return any(type(value).__name__ in accepted.get(name, "").split() for name in names)


def check_recipe(recipe: Recipe) -> None:
    """Raise `RecipeError` or `UsageError` for what does not exist or does not fit."""
    for step in recipe.steps:
        find_pass(step.name).check_options(step.options)
    if recipe.target not in NAMES:
        raise UsageError(f"there is no target {recipe.target!r}; choose from {', '.join(NAMES)}")
    if recipe.opset is not None:
        from onnxcomp.opset import NEWEST, OLDEST

        if not OLDEST <= recipe.opset <= NEWEST:
            raise UsageError(f"opset must be from {OLDEST} to {NEWEST}, got {recipe.opset}")
    if recipe.samples is not None and recipe.samples < 1:
        raise UsageError(f"samples must be at least 1, got {recipe.samples}")
    if recipe.calib_method not in METHODS:
        raise UsageError(
            f"there is no calibration method {recipe.calib_method!r}; "
            f"choose from {', '.join(METHODS)}"
        )
    if recipe.calib_memory is not None:
        bytes_of(recipe.calib_memory)
    if recipe.workers < 0:
        raise UsageError(f"workers must be 0 (none) or more, got {recipe.workers}")
    if recipe.threads is not None and recipe.threads < 0:
        raise UsageError(f"threads must be 0 (all cores) or more, got {recipe.threads}")
    if recipe.min_speedup is not None and recipe.min_speedup <= 0:
        raise UsageError(f"min-speedup must be positive, got {recipe.min_speedup}")
    if recipe.min_int8_macs is not None and not 0 <= recipe.min_int8_macs <= 1:
        raise UsageError(f"min-int8-macs is a share from 0 to 1, got {recipe.min_int8_macs}")
    if recipe.exclude and not recipe.is_lossy:
        raise UsageError(
            "exclude names nodes that lossy passes leave alone, and the recipe does not run any; "
            "add --int8"
        )
    if recipe.max_drop is not None and recipe.max_drop < 0:
        raise UsageError(f"max-drop must not be negative, got {recipe.max_drop}")


def with_passes(recipe: Recipe, select: Sequence[str] = (), skip: Sequence[str] = ()) -> Recipe:
    """Return a recipe with only the selected passes (added where missing), without the skipped.

    A pass of the int8 schemes is skipped by all of them. Raises `UsageError` for a name that does
    not exist or a skipped pass that is not in it.
    """
    steps, skipped = list(recipe.steps), list(recipe.skip)
    if select:
        wanted = [find_pass(name).name for name in select]
        present = {step.name: step for step in steps}
        steps = [step for step in steps if step.name in wanted]
        steps += [Step(name) for name in wanted if name not in present]
    for name in skip:
        canonical = find_pass(name).name
        if any(step.name == canonical for step in steps):
            steps = [step for step in steps if step.name != canonical]
        elif recipe.schemes and find_pass(name).family == "quantize":
            skipped.append(canonical)
        else:
            raise UsageError(f"cannot skip {canonical}: the recipe does not run it")
    return replace(recipe, steps=tuple(steps), skip=tuple(dict.fromkeys(skipped)))
