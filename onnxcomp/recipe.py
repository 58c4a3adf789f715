"""What to run: an ordered list of passes with options, data, budget and target, as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from onnxcomp.calibration.methods import METHODS
from onnxcomp.calibration.preprocess import Preprocess
from onnxcomp.errors import UsageError
from onnxcomp.presets import LOSSLESS, LOW_RANK
from onnxcomp.registry import find_pass
from onnxcomp.settings import Shape, bytes_of
from onnxcomp.targets import NAMES, detect

# Options of the passes of low rank that say how far they go.
_BUDGETS = frozenset({"energy", "ratio", "params", "rank", "ranks"})
_PLACES = {name: place for place, name in enumerate(LOSSLESS)}


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


def as_settled(recipe: Recipe, ran: Sequence[Step]) -> Recipe:
    """Return the recipe that repeats a run: the steps that it came to, and no search."""
    target = detect() if recipe.target == "auto" else recipe.target
    return replace(recipe, steps=tuple(ran), schemes=(), skip=(), never_slower=False, target=target)


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
            "add --int8, --weights or --prune"
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


def with_low_rank(recipe: Recipe, energy: float) -> Recipe:
    """Return a recipe with the passes of low rank, which keep this share of a layer's energy.

    Those that are there keep their other options but the budget, the others come last. Raises
    `UsageError` for a share that is none.
    """
    if not 0 < energy <= 1:
        raise UsageError(f"svd is the share of energy to keep, above 0 and up to 1, got {energy}")
    steps = list(recipe.steps)
    present = {step.name.replace("_", "-"): place for place, step in enumerate(steps)}
    for name in LOW_RANK:
        place = present.get(name)
        if place is None:
            steps.append(Step(name, {"energy": energy}))
            continue
        own = steps[place].options.items()
        kept = {key: value for key, value in own if key not in _BUDGETS}
        steps[place] = Step(steps[place].name, {**kept, "energy": energy})
    return replace(recipe, steps=tuple(steps))
