"""A kernel of convolutions, what is known of its inputs and outputs, and what another one loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx_ir as ir

from onnxcomp.cost import Dims
from onnxcomp.graph import Array
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._moments import Split
from onnxcomp.passes.factorize._principal import Spectrum, of_columns, of_outputs, of_weight
from onnxcomp.passes.factorize._rewrite import can_shift


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of the inputs and outputs of Convs with one kernel.

    `outputs` are the moments of what each makes. `root` and `inverse` [in, in] are those of the
    second moment of its input channels, identities where nothing is known. `rows` [positions,
    columns] are what each is multiplied with at some positions.
    """

    outputs: Sequence[Split]
    root: Array
    inverse: Array
    rows: Sequence[Array]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel [out, in, *k] of one or several Convs, with all that its forms need."""

    group: tuple[Layer, ...]
    seen: Seen
    shapes: dict[ir.Value, Dims]

    @cached_property
    def weight(self) -> Array:
        """The kernel in float64."""
        layer = self.group[0]
        exact: Array = layer.weight_of(layer.matrices).astype(np.float64)
        return exact

    @cached_property
    def matrix(self) -> Array:
        """The kernel as [out, columns]."""
        return self.weight.reshape(len(self.weight), -1)

    @cached_property
    def outputs(self) -> Sequence[Split]:
        """The moments of what is made; none where a bias is no constant vector."""
        return self.seen.outputs if all(can_shift(layer) for layer in self.group) else ()

    @cached_property
    def spectrum(self) -> Spectrum:
        """The principal components of the outputs, or the singular vectors of the kernel."""
        if not self.outputs:
            return of_weight(self.matrix)
        return of_outputs(self.outputs, self.matrix)

    @cached_property
    def rooted(self) -> Array:
        """The kernel for inputs whose channels are white: W L [out, in, *k]."""
        return np.moveaxis(np.tensordot(self.weight, self.seen.root, (1, 0)), -1, 1)

    @cached_property
    def inputs(self) -> Spectrum:
        """The input channels that count most for what is made."""
        return of_columns(by_input(self.rooted))

    @cached_property
    def halves(self) -> tuple[Array, Array, Array]:
        """The singular vectors and values of the rooted kernel as [in * kh, out * kw]."""
        out, into, tall, wide = self.rooted.shape
        unfolded = self.rooted.transpose(1, 2, 0, 3).reshape(into * tall, out * wide)
        left, values, right = np.linalg.svd(unfolded, full_matrices=False)
        return left, values, right

    # ------------------------------------------------------------ positions
    def outputs_of(self, layer: Layer) -> Dims:
        """Return the shape of an output beside its channels."""
        shape = self.shapes.get(layer.node.outputs[0], ())
        return (*shape[:1], *shape[2:])

    def inputs_of(self, layer: Layer) -> Dims:
        """Return the shape of an input beside its channels."""
        shape = self.shapes.get(layer.source, ())
        return (*shape[:1], *shape[2:])

    def positions(self) -> tuple[int, int, int]:
        """Return positions of inputs, of outputs, and between the two halves of a spatial form."""
        ins = outs = between = 0
        for layer in self.group:
            before, after = self.inputs_of(layer), self.outputs_of(layer)
            ins, outs = ins + prod(before), outs + prod(after)
            between += prod((*after[:2], *before[2:])) if len(after) == 3 else 0
        return ins, outs, between

    # ------------------------------------------------------------ errors
    def error(self, made: Array) -> float:
        """Return the share of the output's energy that another kernel leaves out.

        Over the rows that are known, else over white positions of channels as they vary.
        """
        if not self.seen.rows:
            off = np.tensordot(self.weight - made, self.seen.root, (1, 0))
            return float(np.square(off).sum() / max(np.square(self.rooted).sum(), 1e-300))
        off = (self.matrix - made.reshape(self.matrix.shape)).astype(np.float32)
        noise = signal = 0.0
        for rows, total in zip(self._centred_rows, self._energies, strict=True):
            noise += float(np.square(rows @ off.T, dtype=np.float64).sum())
            signal += total
        return noise / max(signal, 1e-300)

    @cached_property
    def _centred_rows(self) -> list[Array]:
        rows = self.seen.rows
        return [each - each.mean(axis=0) if self.outputs else each for each in rows]

    @cached_property
    def _energies(self) -> list[float]:
        own = self.matrix.astype(np.float32)
        return [
            float(np.square(rows @ own.T, dtype=np.float64).sum()) for rows in self._centred_rows
        ]

    def shifts(self, made: Array) -> tuple[Array | None, ...]:
        """Return what the mean outputs lose by another kernel, for each node."""
        if not (self.outputs and self.seen.rows):
            return (None,) * len(self.group)
        off = self.matrix - made.reshape(self.matrix.shape)
        return tuple(off @ rows.mean(axis=0, dtype=np.float64) for rows in self.seen.rows)


def by_input(kernel: Array) -> Array:
    """Return a kernel [out, in, *k] as [out * k, in]."""
    return np.moveaxis(kernel, 1, -1).reshape(-1, kernel.shape[1])
