"""Seeded random feeds for a model of which no data is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.checks import is_fixed
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec, Session, input_specs

# Tried in this order for dims that are not fixed, until the model runs: most models take any
# size, image models want some tens of pixels, audio models a frame of theirs.
SIZES = (2, 1, 32, 64, 256, 224, 512, 576, 16)


def random_feeds(
    model: ir.Model, count: int, seed: int = 0, *, size: int = 2, batch: int | None = None
) -> Iterator[dict[str, Array]]:
    """Yield `count` feeds of the declared types and shapes.

    Floats are standard normal, integers 0 or 1, booleans fair. A dim that is not fixed gets
    `size`, a first one `batch` if given; dims of one name are equal by construction.
    """
    specs = input_specs(model)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield {spec.name: _draw(spec, rng, size, batch) for spec in specs}


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


def _draw(spec: InputSpec, rng: np.random.Generator, size: int, batch: int | None) -> Array:
    dims = spec.shape if spec.shape is not None else (None, None)
    shape = [
        dim if is_fixed(dim) else (batch if index == 0 and batch else size)
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
