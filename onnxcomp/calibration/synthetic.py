"""Seeded random feeds for a model of which no data is at hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec, Session, input_specs

# Tried in this order for dims that are not fixed, until the model runs: image models want some
# tens of pixels, audio models a frame of theirs. The named dims of a model get different sizes,
# this far apart, so that one taken for another shows.
SIZES = (64, 32, 2, 1, 224, 16, 256, 512, 576)
SPREAD = {64: 32, 32: 32}
# Models whose open dims depend on each other in ways that no name tells: each dim is 1 or the size.
MIXED_SIZES = (576, 64, 16, 224)
MAX_MIXED_DIMS = 5
# Numbers of all inputs that are tried at most, unless open dims of 2 already take more.
MOST_NUMBERS = 1 << 24

Sizes = Mapping[tuple[str, int], int]


def random_feeds(
    model: ir.Model, count: int, seed: int = 0, sizes: Sizes | None = None
) -> Iterator[dict[str, Array]]:
    """Yield `count` feeds of the declared types and shapes.

    Floats are standard normal, integers 0 or 1, booleans fair. `sizes` gives each dim that is not
    fixed its size, by input name and axis; without it they are 1.
    """
    specs = input_specs(model)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield {spec.name: _draw(spec, rng, sizes or {}) for spec in specs}


@dataclass(frozen=True)
class Runs:
    """Random feeds that a model runs on, its answers, and the sizes of its open dims."""

    sizes: Sizes
    feeds: tuple[dict[str, Array], ...]
    answers: tuple[dict[str, Array], ...]


def runnable_feeds(model: ir.Model, count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Return random feeds at the first sizes at which the model runs (see `first_runs`)."""
    return list(first_runs(model, count, seed).feeds)


def runnable_sizes(model: ir.Model, count: int, seed: int = 0) -> Sizes:
    """Return the first sizes of open dims at which the model runs (see `first_runs`)."""
    return first_runs(model, count, seed).sizes


def first_runs(model: ir.Model, count: int, seed: int = 0, session: Session | None = None) -> Runs:
    """Return the first sizes of open dims at which all these random feeds run, and the runs.

    `session` is the model's, if it is loaded already. Raises `ModelError` with ONNX Runtime's
    reason when there are none.
    """
    session = session or Session(model)
    reason = ""
    specs = input_specs(model)
    most = max(MOST_NUMBERS, _numbers(specs, default=2))
    for sizes in _trials(specs):
        if _numbers(specs, sizes) > most:
            continue
        feeds = tuple(random_feeds(model, count, seed, sizes))
        try:
            return Runs(sizes, feeds, tuple(session.run(item) for item in feeds))
        except ModelError as error:
            reason = reason or str(error)
    raise ModelError(f"no random input runs through the model ({reason}); pass real data")


def _trials(specs: list[InputSpec]) -> Iterator[Sizes]:
    open_dims = {
        (spec.name, axis): dim
        for spec in specs
        for axis, dim in enumerate(_dims(spec))
        if not isinstance(dim, int)
    }
    if not open_dims:
        yield {}
        return
    for size, batch in itertools.product(SIZES, (2, 1)):
        yield _uniform(open_dims, size, batch)
    if len(open_dims) <= MAX_MIXED_DIMS:
        for size in MIXED_SIZES:
            for chosen in itertools.product((1, size), repeat=len(open_dims)):
                yield dict(zip(open_dims, chosen, strict=True))


def _uniform(open_dims: Mapping[tuple[str, int], str | None], size: int, batch: int) -> Sizes:
    """Give first dims the batch, others the size; equal names are equal dims."""
    named: dict[str, int] = {}
    sizes = {}
    for (name, axis), dim in open_dims.items():
        chosen = batch if axis == 0 else size
        if dim and dim != "?":
            if dim not in named and axis:
                others = sum(1 for found in named.values() if found != batch)
                chosen += others * SPREAD.get(size, 0)
            chosen = named.setdefault(dim, chosen)
        sizes[name, axis] = chosen
    return sizes


def _dims(spec: InputSpec) -> tuple[int | str | None, ...]:
    return spec.shape if spec.shape is not None else (None, None)


def _shape(spec: InputSpec, sizes: Sizes, default: int = 1) -> tuple[int, ...]:
    return tuple(
        dim if isinstance(dim, int) else sizes.get((spec.name, axis), default)
        for axis, dim in enumerate(_dims(spec))
    )


def _numbers(specs: list[InputSpec], sizes: Sizes | None = None, default: int = 1) -> int:
    return sum(math.prod(_shape(spec, sizes or {}, default)) for spec in specs)


def _draw(spec: InputSpec, rng: np.random.Generator, sizes: Sizes) -> Array:
    shape = _shape(spec, sizes)
    dtype = spec.dtype or np.dtype(np.float32)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype == np.dtype(object):
        return np.full(shape, "a", dtype=object)
    return rng.standard_normal(shape).astype(dtype)
