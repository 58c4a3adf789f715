"""What changes of a model's interface only on request: input shapes, outputs, operator set."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.calibration.synthetic import random_feeds, runnable_sizes
from onnxcomp.edits import sweep
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import Array, count_nodes, opset_version
from onnxcomp.opset_convert import convert_opset
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Recipe, Step
from onnxcomp.reference import Reference
from onnxcomp.runtime import Session, value_spec
from onnxcomp.settings import Shape
from onnxcomp.shapes import infer_shapes, keep_declared
from onnxcomp.structure import checker_problem
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.propagate import propagate
from onnxcomp.verify import lossless_problems

FOLDING = ("fold-shape-arithmetic", "fold-constants")


@dataclass(frozen=True)
class Change:
    """One change that was asked for; `after` is None for what was removed."""

    what: str
    before: str
    after: str | None

    def __str__(self) -> str:
        if self.after is None:
            return f"{self.what} removed ({self.before})"
        return f"{self.what} {self.before} -> {self.after}"

    def to_dict(self) -> dict[str, str | None]:
        """Return the change for the JSON report."""
        return {"what": self.what, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Asked:
    """A model as the recipe wants its interface.

    `whole` has the shapes that were asked for and still every output, `model` also only the outputs
    that were asked for. Both are the loaded model itself when nothing was asked.
    """

    whole: ir.Model
    model: ir.Model
    changes: tuple[Change, ...] = ()


def as_asked(loaded: ir.Model, recipe: Recipe) -> Asked:
    """Return a model with the input shapes and the outputs of a recipe; `loaded` is not changed.

    Raises `UsageError` for names that do not exist and shapes that do not fit or cannot run.
    """
    whole = fix_shapes(loaded, recipe.shapes, run=recipe.verify) if recipe.shapes else loaded
    model = keep_outputs(whole, recipe.outputs) if recipe.outputs else whole
    return Asked(whole, model, tuple(_changes(loaded, model)))


def at_opset(asked: Asked, version: int | None, reference: Reference | None) -> Asked:
    """Convert the model to an operator set, held to the answers of the one before.

    Raises `ModelError` when it cannot be converted whole and right.
    """
    if version is None or version == opset_version(asked.model):
        return asked

    def problems(candidate: ir.Model) -> list[str]:
        if reference is not None:
            return lossless_problems(reference, candidate)
        found = checker_problem(candidate) if checker_problem(asked.model) is None else None
        return [found] if found else []

    try:
        model = convert_opset(asked.model, version, problems)
    except ModelError:  # what is computed from constants may have to be one
        folded, _ = run_lossless(asked.model, [Step(name) for name in FOLDING], None)
        if count_nodes(folded) == count_nodes(asked.model):
            raise
        model = convert_opset(folded, version, problems)
    change = Change("opset", str(opset_version(asked.model)), str(version))
    return Asked(asked.whole, model, (*asked.changes, change))


def _changes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    for kind, old, new in (
        ("input", before.graph.inputs, after.graph.inputs),
        ("output", before.graph.outputs, after.graph.outputs),
    ):
        now = {value.name: _signature(value) for value in new}
        for value in old:
            was = _signature(value)
            if now.get(value.name) != was:
                yield Change(f"{kind} {value.name}", was, now.get(value.name))


def _signature(value: ir.Value) -> str:
    return str(value_spec(value)).removeprefix(f"{value.name}: ")


# ---------------------------------------------------------------- outputs
def keep_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy with only these outputs, in the model's order, and what they are made from."""
    known = [value.name for value in model.graph.outputs]
    for name in names:
        if name not in known:
            raise UsageError(
                f"--outputs: the model has no output {name!r}; its outputs are {_quoted(known)}"
            )
    copy = model.clone()
    for value in [value for value in copy.graph.outputs if value.name not in names]:
        copy.graph.outputs.remove(value)
    sweep(copy)
    return copy


def _quoted(names: Sequence[str | None]) -> str:
    return ", ".join(repr(name) for name in names)


# ---------------------------------------------------------------- shapes
def fix_shapes(model: ir.Model, shapes: Mapping[str, Shape], *, run: bool = True) -> ir.Model:
    """Return a copy whose inputs have these shapes; a dim `_` stays as it is.

    A named dim gets its number in every input; the shapes of outputs are inferred again. With
    `run`, a shape at which the model does not run is refused.
    """
    copy = model.clone()
    numbers: dict[str, tuple[int, str]] = {}
    for name, dims in shapes.items():
        _fix_input(_input(copy, name), dims, numbers)
    known = {name: number for name, (number, _) in numbers.items()}
    for value in copy.graph.inputs:
        _number_named_dims(value, known)
    observed = _observed(copy, model) if run else {}
    infer_shapes(copy)
    _fix_outputs(copy, known, observed)
    keep_declared(copy, model)
    return copy


def _input(model: ir.Model, name: str) -> ir.Value:
    inputs = list(model.graph.inputs)
    listed = ", ".join(str(value_spec(value)) for value in inputs)
    if not name and len(inputs) != 1:
        raise UsageError(
            f"--shape without a name is for models of one input; this has {len(inputs)}: {listed}"
        )
    for value in inputs:
        if not name or value.name == name:
            return value
    raise UsageError(f"--shape: the model has no input {name!r}; its inputs are {listed}")


def _fix_input(value: ir.Value, dims: Shape, numbers: dict[str, tuple[int, str]]) -> None:
    """Give one input its shape, and note the numbers of its named dims."""
    wanted = f"{value.name}:{','.join(str(dim) for dim in dims)}"
    if not isinstance(value.type, ir.TensorType):
        raise UsageError(f"--shape {wanted}: the input is no tensor but {value.type}")
    if value.shape is None:
        value.shape = ir.Shape([None] * len(dims))
    if len(value.shape) != len(dims):
        raise UsageError(
            f"--shape {wanted} has {len(dims)} dims; the input has {len(value.shape)}: "
            f"{value_spec(value)}"
        )
    fixed = list(value.shape)
    for axis, (old, new) in enumerate(zip(value.shape, dims, strict=True)):
        if not isinstance(new, int):  # KEEP
            continue
        if isinstance(old, int) and old >= 0 and old != new:
            raise UsageError(
                f"--shape {wanted} asks {new} for dim {axis}, which the model fixes at {old}: "
                f"{value_spec(value)}; only open dims can be set (_ keeps a dim)"
            )
        label = _name(old)
        known, where = numbers.get(label, (new, wanted)) if label else (new, wanted)
        if known != new:
            raise UsageError(
                f"--shape {wanted} makes the dim {label!r} {new}, but {where} makes it {known}; "
                "one name is one number in all inputs"
            )
        if label:
            numbers[label] = (new, wanted)
        fixed[axis] = new
    value.shape = ir.Shape(fixed)


def _name(dim: int | ir.SymbolicDim) -> str | None:
    """Return the name of a dim, or None; `?` is none."""
    return dim.value if isinstance(dim, ir.SymbolicDim) and dim.value not in ("", "?") else None


def _number_named_dims(value: ir.Value, numbers: Mapping[str, int]) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([numbers.get(_name(dim) or "", dim) for dim in value.shape])


def _observed(model: ir.Model, original: ir.Model) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the outputs in one run; refuse shapes at which only it cannot run."""
    try:
        sizes = runnable_sizes(model, 1)
    except ModelError as error:
        if _runs(original):
            raise UsageError(f"--shape: the model does not run at this shape: {error}") from error
        return {}
    answers: Mapping[str, Array] = Session(model).run(next(random_feeds(model, 1, sizes=sizes)))
    return {name: tuple(data.shape) for name, data in answers.items() if hasattr(data, "shape")}


def _runs(model: ir.Model) -> bool:
    try:
        runnable_sizes(model, 1)
    except ModelError:
        return False
    return True


def _fix_outputs(
    model: ir.Model, numbers: Mapping[str, int], observed: Mapping[str, tuple[int, ...]]
) -> None:
    """Declare of the outputs what follows from the inputs, but nothing that a run contradicts."""
    names = {_name(dim) for value in model.graph.inputs for dim in value.shape or ()}
    shapes = propagate(model).shapes
    for value in model.graph.outputs:
        found = shapes.get(value)
        if found is None or value.is_graph_input():
            continue
        declared = tuple(value.shape) if value.shape is not None else (None,) * len(found)
        seen = observed.get(value.name or "", (None,) * len(found))
        if len(declared) == len(found) == len(seen):
            dims = zip(declared, found, seen, strict=True)
            value.shape = ir.Shape([_output_dim(*dim, numbers, names) for dim in dims])


def _output_dim(
    old: int | ir.SymbolicDim | None,
    new: int | Dim,
    seen: int | None,
    numbers: Mapping[str, int],
    names: Container[str | None],
) -> int | str | None:
    """Return what to declare of a dim that was `old`, is inferred as `new`, and was `seen` so."""
    if isinstance(old, int) and old >= 0:
        return old
    label = _name(old) if isinstance(old, ir.SymbolicDim) else None
    number = new if isinstance(new, int) else numbers.get(label or "")
    if number is not None and seen in (None, number):
        return number
    if isinstance(new, Dim) and new.text in names:
        return new.text
    return None if label in numbers else label
