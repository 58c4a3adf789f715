"""Inner values of a model over a few samples, one sample and a few values in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import one_sample
from onnxcomp.graph import Array
from onnxcomp.runtime import Session

# Values that are held at a time; each further group runs the samples again.
HELD = 16
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
    groups = -(-len(distinct) // HELD)
    for start in range(groups):
        group = distinct[start::groups]  # large values, which are neighbours, in different groups
        session = Session(model, taps=group, optimize=True)
        for index, feeds in enumerate(itertools.islice(samples, limit)):
            fed = one_sample(model, feeds)
            found = {**fed, **session.run(fed)}
            for name in group:
                yield index, name, found.pop(name)
