"""What passes exist: one decorated function per file under `onnxcomp/passes`, found by a walk."""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import onnx_ir as ir

from onnxcomp.edits import mark_function_bodies
from onnxcomp.errors import RecipeError, UsageError
from onnxcomp.graph import all_graphs, label, opset_version

PassFunction = Callable[..., int]


class Effect(enum.StrEnum):
    """What a pass may change, and so how its result is checked."""

    EXACT = "exact"
    CLOSE = "close"
    LOSSY = "lossy"


@dataclass(frozen=True)
class Option:
    """A keyword-only parameter of a pass."""

    name: str
    type: type
    default: object


@dataclass(frozen=True)
class Leave:
    """A place that a pass left alone, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """What a pass made of a place: an error of the pass's own kind, before and after."""

    node: str
    before: float
    after: float


@dataclass(frozen=True)
class Pass:
    """A registered rewrite; everything but the effect is read from its function."""

    name: str
    effect: Effect
    function: PassFunction
    whole_model: bool
    needs: tuple[str, ...] = ()
    ops: frozenset[str] = frozenset()
    keeps_ranges: bool = False
    strengths: Mapping[str, float] = field(default_factory=dict)
    for_speed: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def doc(self) -> str:
        """The docstring of the function: the pass's page."""
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def family(self) -> str:
        """The folder of the pass: cleanup, fold, fuse, quantize, ..."""
        parts = self.function.__module__.split(".")
        return parts[2] if len(parts) > 3 else ""

    @property
    def reads_only_the_graph(self) -> bool:
        """Whether it needs nothing but the graph: no samples, ranges or target."""
        return set(self.needs) <= {"opset"}

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise `RecipeError` for an option that the pass does not have or of another type."""
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise RecipeError(f"{self.name} has no option {name!r}; it has: {known}")
            wanted = self.options[name].type
            accepted = (float, int) if wanted is float else (wanted,)
            if not isinstance(value, accepted) or (wanted is not bool and value is True):
                raise RecipeError(f"{self.name}: {name} must be a {wanted.__name__}, got {value!r}")


@dataclass(frozen=True)
class Outcome:
    """What one run of a pass did."""

    sites: int
    left: tuple[Leave, ...]
    measured: tuple[Measured, ...] = ()
    settled: Mapping[str, object] = field(default_factory=dict)


_REGISTERED: dict[str, Pass] = {}
_NOTES: ContextVar[_Notes | None] = ContextVar("notes", default=None)


@dataclass
class _Notes:
    """What a running pass has said so far."""

    left: dict[Leave, None] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    settled: dict[str, object] = field(default_factory=dict)


def register(
    effect: Effect,
    *,
    ops: Iterable[str] = (),
    keeps_ranges: bool = False,
    strengths: Mapping[str, float] | None = None,
    for_speed: bool = False,
) -> Callable[[PassFunction], PassFunction]:
    """Register a pass with the effect that it promises.

    A first parameter `graph` makes it run on the main graph, every subgraph and every function;
    `model` makes it run once. Further positional parameters are needs (`opset`, `ranges`, ...)
    that the pipeline provides; keyword-only ones are options. `ops` are operators without any of
    which it finds nothing, so that it need not run. What `keeps_ranges` changes values so little
    that the ranges of those before stand: they are found before it runs. `strengths` are options
    that say how much it does, each with the value at which it does nothing: where the result breaks
    the budget, less is tried. A pass that is `for_speed` is dropped where its result is not faster,
    unless its option `smaller` says that size alone counts.
    """

    def decorate(function: PassFunction) -> PassFunction:
        found = replace(
            _read(function, effect, frozenset(ops)),
            keeps_ranges=keeps_ranges,
            strengths=strengths or {},
            for_speed=for_speed,
        )
        _REGISTERED[found.name] = found
        return function

    return decorate


def _read(function: PassFunction, effect: Effect, ops: frozenset[str]) -> Pass:
    hints = get_type_hints(function)
    first, *rest = inspect.signature(function).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    return Pass(
        name=function.__name__.replace("_", "-"),
        effect=effect,
        function=function,
        whole_model=first.name == "model",
        needs=tuple(p.name for p in rest if p.kind is not keyword),
        ops=ops,
        options={
            p.name: Option(p.name, _kind(hints[p.name]), p.default)
            for p in rest
            if p.kind is keyword
        },
    )


def _kind(hint: Any) -> type:
    """Return the class that an option's values are of: of `dict[...] | None`, dict."""
    if get_origin(hint) is UnionType:
        return _kind(next(each for each in get_args(hint) if each is not type(None)))
    kind: type = get_origin(hint) or hint
    return kind


@cache
def _walk() -> None:
    import onnxcomp.passes as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def list_passes() -> Mapping[str, Pass]:
    """Return every registered pass by name, sorted."""
    _walk()
    return dict(sorted(_REGISTERED.items()))


def find_pass(name: str) -> Pass:
    """Return a pass by name, or the `onnx_ir` pass behind `module:name`.

    Raises `UsageError` with the nearest names when there is none.
    """
    if ":" in name:
        return _foreign_pass(name)
    known = list_passes()
    name = name.replace("_", "-")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        advice = f"did you mean {' or '.join(near)}?" if near else "`onnxcomp passes` lists them"
        raise UsageError(f"there is no pass {name!r}; {advice}")
    return known[name]


def _foreign_pass(name: str) -> Pass:
    """Wrap a user's own `onnx_ir` pass; it promises nothing, so it is held to CLOSE."""
    module_name, _, attribute = name.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load the pass {name!r}: {error}") from error
    instance = target() if inspect.isclass(target) else target
    if not isinstance(instance, ir.passes.PassBase):
        raise UsageError(f"{name!r} is not an onnx_ir pass (a subclass of onnx_ir.passes.PassBase)")
    if not instance.in_place:
        raise UsageError(f"{name!r} is not an in-place pass; wrap it in an InPlacePass")

    def function(model: ir.Model) -> int:
        return int(instance(model).modified)

    function.__doc__ = inspect.getdoc(type(instance))
    return Pass(name=name, effect=Effect.CLOSE, function=function, whole_model=True)


@contextmanager
def _taking_notes() -> Iterator[_Notes]:
    notes = _Notes()
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def leave(node: ir.Node, reason: str) -> None:
    """Note that a pass leaves a node alone although it is of its kind, and why."""
    notes = _NOTES.get()
    if notes is not None:
        notes.left[Leave(label(node), reason)] = None


def measured(node: ir.Node, before: float, after: float) -> None:
    """Note an error that a pass lowers at a node, such as that of the layer's output in dB."""
    notes = _NOTES.get()
    if notes is not None:
        notes.measured.append(Measured(label(node), before, after))


def settle(name: str, value: object) -> None:
    """Note the option with which the running pass gives the same result without a measurement.

    A recipe that repeats the run has it; None takes an option away.
    """
    notes = _NOTES.get()
    if notes is not None:
        notes.settled[name] = value


def apply(
    found: Pass,
    model: ir.Model,
    options: Mapping[str, object] | None = None,
    needs: Mapping[str, object] | None = None,
) -> Outcome:
    """Run one pass on a model, in place, and return what it did.

    Raises `UsageError` when a need of the pass is not provided.
    """
    found.check_options(options or {})
    provided = {"opset": opset_version(model), **(needs or {})}
    missing = [name for name in found.needs if name not in provided]
    if missing:
        raise UsageError(f"{found.name} needs {', '.join(missing)}, which was not provided")
    keywords: dict[str, Any] = {name: provided[name] for name in found.needs} | dict(options or {})
    with _taking_notes() as notes:
        if found.whole_model:
            sites = found.function(model, **keywords)
        else:
            mark_function_bodies(model)
            sites = sum(found.function(graph, **keywords) for graph in list(all_graphs(model)))
    return Outcome(sites, tuple(notes.left), tuple(notes.measured), notes.settled)


def as_ir_pass(name: str, **options: object) -> ir.passes.InPlacePass:
    """Return a pass as an `onnx_ir.passes.InPlacePass`, for the ecosystem's pass managers.

    Passes that need ranges or samples cannot be built this way: `UsageError`.
    """
    found = find_pass(name)
    found.check_options(options)
    if not found.reads_only_the_graph:
        unmet = [need for need in found.needs if need != "opset"]
        raise UsageError(f"{found.name} needs {', '.join(unmet)}: run it through a recipe")

    class RegisteredPass(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, apply(found, model, options).sites > 0)

    RegisteredPass.__name__ = RegisteredPass.__qualname__ = found.function.__name__
    return RegisteredPass()
