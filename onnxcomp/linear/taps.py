"""Inner values of a model over a few samples, a few values of a few samples in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import onnx_ir as ir

from onnxcomp.ahead import in_order
from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import concrete_shapes, one_sample
from onnxcomp.graph import Array
from onnxcomp.runtime import Feeds, Session

# Bytes of values of one sample that are held; each further group runs the samples again.
HELD = 200_000_000
# Numbers that inputs hold in all, from which on there are no more samples than `LEAST`.
NUMBERS = 2_000_000
LEAST = 4


def few(model: ir.Model, samples: Samples, most: int) -> int:
    """Return how many samples to run: `most`, or fewer of large ones, which show more each."""
    first = next(iter(samples), None)
    if first is None:
        return most
    numbers = sum(data.size for data in one_sample(model, first).values())
    return max(LEAST, min(most, NUMBERS // max(numbers, 1)))


def tap(
    model: ir.Model, names: Sequence[str], samples: Samples, limit: int
) -> Iterator[tuple[int, str, Array]]:
    """Yield (index of the sample, name, array) for named values, each over the first samples.

    Of a batch only the first element is run, where its size is open.
    """
    distinct = list(dict.fromkeys(names))
    groups = _groups(model, distinct, samples)
    for start in range(groups):
        group = distinct[start::groups]  # large values, which are neighbours, in different groups
        session = Session(model, taps=group, optimize=True)
        fed = (one_sample(model, feeds) for feeds in itertools.islice(samples, limit))
        for index, found in enumerate(in_order(partial(_run, session), fed)):
            for name in group:
                yield index, name, found.pop(name)


def _run(session: Session, feeds: Feeds) -> dict[str, Array]:
    return {**feeds, **session.run(feeds)}


def _groups(model: ir.Model, names: Sequence[str], samples: Samples) -> int:
    """Return in how many groups values are held; one whose shape is not known counts as all do."""
    first = next(iter(samples), None)
    if first is None or not names:
        return 0
    found = concrete_shapes(model, one_sample(model, first))
    sizes = {value.name: 4 * math.prod(shape) for value, shape in found.items()}
    known = [sizes[name] for name in names if name in sizes]
    mean = sum(known) / len(known) if known else HELD
    total = sum(known) + mean * (len(names) - len(known))
    return min(len(names), math.ceil(total / HELD) or 1)
