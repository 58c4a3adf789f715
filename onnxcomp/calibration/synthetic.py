"""Seeded random feeds for a model of which no data is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.checks import is_fixed
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec, Session, input_specs

# Tried in this order for dims that are not fixed, until the model runs: image models want some
# tens of pixels, audio models a frame of theirs. The named dims of a model get different sizes,
# this far apart, so that one taken for another shows.
SIZES = (64, 32, 2, 1, 224, 16, 256, 512, 576)
SPREAD = {64: 32, 32: 32}


def random_feeds(
    model: ir.Model, count: int, seed: int = 0, *, size: int = 2, batch: int | None = None
) -> Iterator[dict[str, Array]]:
    """Yield `count` feeds of the declared types and shapes.

    Floats are standard normal, integers 0 or 1, booleans fair. A dim that is not fixed gets
    `size`, a first one `batch` if given; each further named dim some more (`SPREAD`).
    """
    specs = input_specs(model)
    sizes = _named_sizes(specs, size, batch)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield {spec.name: _draw(spec, rng, sizes, size, batch) for spec in specs}


def _named_sizes(specs: list[InputSpec], size: int, batch: int | None) -> dict[str, int]:
    """Give each dim that has a name its size: equal names are equal dims."""
    sizes: dict[str, int] = {}
    for spec in specs:
        for index, dim in enumerate(spec.shape or ()):
            if not isinstance(dim, str) or dim == "?" or dim in sizes:
                continue
            if index == 0 and batch:
                sizes[dim] = batch
            else:
                others = sum(1 for found in sizes.values() if found != batch)
                sizes[dim] = size + others * SPREAD.get(size, 0)
    return sizes


def runnable_feeds(model: ir.Model, count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Return random feeds at the first size at which the model runs (see `runnable_size`)."""
    size, batch = runnable_size(model, count, seed)
    return list(random_feeds(model, count, seed, size=size, batch=batch))


def runnable_size(model: ir.Model, count: int, seed: int = 0) -> tuple[int, int | None]:
    """Return the first `size` and `batch` at which all these random feeds run through the model.

    Raises `ModelError` with ONNX Runtime's reason when there is none.
    """
    session = Session(model)
    reason = ""
    for size, batch in _trials(input_specs(model)):
        try:
            for item in random_feeds(model, count, seed, size=size, batch=batch):
                session.run(item)
        except ModelError as error:
            reason = reason or str(error)
            continue
        return size, batch
    raise ModelError(f"no random input runs through the model ({reason}); pass real data")


def _trials(specs: list[InputSpec]) -> Iterator[tuple[int, int | None]]:
    if all(is_fixed(dim) for spec in specs for dim in spec.shape or (None,)):
        yield 1, None
        return
    for size in SIZES:
        yield size, 2
        yield size, 1


def _draw(
    spec: InputSpec,
    rng: np.random.Generator,
    sizes: dict[str, int],
    size: int,
    batch: int | None,
) -> Array:
    dims = spec.shape if spec.shape is not None else (None, None)
    shape = [
        dim if is_fixed(dim) else sizes.get(str(dim), batch if index == 0 and batch else size)
        for index, dim in enumerate(dims)
    ]
    dtype = spec.dtype or np.dtype(np.float32)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype == np.dtype(object):
        return np.full(shape, "a", dtype=object)
    return rng.standard_normal(shape).astype(dtype)


def describe(feeds: Mapping[str, Array]) -> str:
    """Name the shapes of one feeds, for messages."""
    return ", ".join(f"{name} {list(data.shape)}" for name, data in feeds.items())
