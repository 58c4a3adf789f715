"""The forms that a layer can take: which small layers, of which ranks, at what cost and error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, label
from onnxcomp.linear.layers import Layer

# A pair with a rank near break-even is not faster: two layers are started instead of one.
WORTH = 0.8


@dataclass(frozen=True, eq=False)
class Part:
    """One small layer: its operator, its weight and its attributes."""

    op: str
    weight: Array
    attributes: tuple[ir.Attr, ...] = ()


@dataclass(frozen=True, eq=False)
class Chain:
    """Small layers, one after the other, and what is added to the bias of each node [nodes][n]."""

    parts: tuple[Part, ...]
    shifts: tuple[Array | None, ...]


@dataclass(frozen=True, eq=False)
class Form:
    """One way to write a layer; `error` is the share of its output's energy that it leaves out.

    `error` is what is to be expected on other samples, `build` makes the weights.
    """

    kind: str
    ranks: tuple[int, ...]
    macs: int
    params: int
    error: float
    build: Callable[[], Chain]


# Gives the errors of a form's ranks with singular vectors of the weight, and as they are.
Against = Callable[[Form], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Site:
    """Layers that share a weight, what they cost as they are, and the forms they can take.

    `form_of` gives the form of a kind and ranks, `forms` those whose ranks suit the target and that
    cost less. `x_shape` is the shape of the first one's input. `against` compares with the plain
    decomposition of the weight, where there are outputs to compare on.
    """

    layers: tuple[Layer, ...]
    macs: int
    params: int
    x_shape: tuple[int, ...]
    forms: tuple[Form, ...]
    form_of: Callable[[str, tuple[int, ...]], Form | None]
    against: Against | None = None

    @property
    def name(self) -> str:
        """The label of the first node."""
        return label(self.layers[0].node)


def ranks_below(most: float, step: int, *, levels: int | None = None) -> list[int]:
    """Return the multiples of `step` up to `most`, or only so many of them, spread evenly."""
    found = list(range(step, int(most) + 1, step))
    if levels is None or len(found) <= levels:
        return found
    picked = np.linspace(0, len(found) - 1, levels).round().astype(int)
    return [found[index] for index in dict.fromkeys(picked.tolist())]


def cheaper(forms: Sequence[Form], macs: int, params: int, *, smaller: bool) -> tuple[Form, ...]:
    """Return the forms that are worth a try: few enough MACs, or else fewer parameters."""
    if smaller:
        return tuple(form for form in forms if form.params < params)
    return tuple(form for form in forms if form.macs <= WORTH * macs)
