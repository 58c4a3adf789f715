"""How much an error behind a group of channels is felt at the model's outputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.channels.groups import Port
from onnxcomp.cost import concrete_shapes, each_sample, node_macs
from onnxcomp.graph import Array, array
from onnxcomp.passes.prune._compensation import Compensation, Removal, compensate, mean_lost
from onnxcomp.runtime import Feeds, Session

# Channels are left out until what reads them is off by this share of its power.
ERROR = 0.05
# Samples that are run for each group, and multiplications in all.
MOST, LEAST, WORK = 16, 2, 2e11
TINY = 1e-30


class Probe:
    """Measures what an error of the layers behind a group does to the outputs of a model."""

    def __init__(self, model: ir.Model, samples: Samples, groups: int) -> None:
        self._model = model
        singles = (each for feeds in samples for each in each_sample(model, feeds))
        first = next(singles)
        shapes = concrete_shapes(model, first)
        macs = sum(node_macs(node, shapes) or 0 for node in model.graph)
        count = max(LEAST, min(MOST, int(WORK / max(macs * groups, 1))))
        self._feeds: list[Feeds] = [first, *itertools.islice(singles, count - 1)]
        self._wanted = self._run(model)

    def sensitivity(self, removal: Removal, error: float) -> float:
        """Return the relative error of the outputs for each of that of a group's readers.

        `error` is that of the readers when the channels of `removal` are replaced by their means.
        """
        copy = self._model.clone()
        twins = dict(zip(self._model.graph, copy.graph, strict=True))
        compensate(
            copy.graph,
            [
                Compensation(twins[port.node], mean_lost(removal, port), _masked(removal, port))
                for port in removal.group.readers
            ],
        )
        found = self._run(copy)
        off = [_relative(own, wanted) for own, wanted in zip(found, self._wanted, strict=True)]
        return float(np.mean(off)) / max(error, TINY)

    def _run(self, model: ir.Model) -> list[list[Array]]:
        """Return each floating output by sample."""
        session = Session(model, optimize=True)
        runs = [session.run(feeds) for feeds in self._feeds]
        return [
            [np.asarray(run[name], np.float64) for run in runs]
            for name in session.outputs
            if runs[0][name].dtype.kind == "f"
        ]


def _masked(removal: Removal, port: Port) -> Array | None:
    """Return a weight that reads nothing of what is removed."""
    data = array(port.part.value)
    if data is None:
        return None
    moved = np.moveaxis(data.copy(), port.part.axis, 0)
    moved[port.part.places[removal.gone].ravel()] = 0
    return np.ascontiguousarray(np.moveaxis(moved, 0, port.part.axis))


def _relative(own: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Return the power of the difference over that of the deviation from the mean."""
    pairs = [(a, b) for a, b in zip(own, wanted, strict=True) if a.shape == b.shape]
    noise = sum(float(np.square(a - b).sum()) for a, b in pairs)
    signal = sum(float(np.square(b - b.mean()).sum()) for _, b in pairs)
    return noise / max(signal, TINY) if np.isfinite(noise) else 1.0
