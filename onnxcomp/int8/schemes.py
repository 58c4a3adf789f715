"""The ways to compute in int8 that are tried: each is a list of passes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnxcomp.calibration.ranges import Range
from onnxcomp.recipe import Step

# What makes weights and values easier to quantize; runs once, before ranges are found.
PREPARE = ("equalize-channels",)
ROUND = "round-weights"
# Weights that are still float in the end are stored in 8 bits, which costs nothing at run time.
STORE = "quantize-weights"
# What takes mean errors out of biases: worth its time for what would fail, and for what ships.
CORRECT = "correct-bias"
# What makes int8 convolutions faster that read an image of few channels.
WIDEN = "widen-stems"


# The operators without any of which there is nothing to quantize as it comes.
DYNAMIC_OPS = frozenset({"MatMul", "Gemm", "LSTM"})


@dataclass(frozen=True)
class Scheme:
    """A way to compute in int8.

    `ops` are the operators whose activations get calibrated ranges, `dynamic` says whether those of
    the other products are quantized as they come.
    """

    name: str
    ops: tuple[str, ...] = ()
    dynamic: bool = False

    @property
    def computes(self) -> bool:
        """Whether products are computed in integers at all."""
        return bool(self.ops) or self.dynamic

    @property
    def makers(self) -> tuple[str, ...]:
        """The passes without whose doing there is no such scheme of a model."""
        static = ("quantize-static",) if self.ops else ()
        dynamic = ("quantize-dynamic",) if self.dynamic else ()
        return (*static, *dynamic) or (STORE,)


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("static", ("Conv", "Gemm", "MatMul")),
        Scheme("static+dynamic", ("Conv", "Gemm", "MatMul"), dynamic=True),
        Scheme("conv+dynamic", ("Conv",), dynamic=True),
        Scheme("dynamic", dynamic=True),
        Scheme("weights"),
    )
}


def steps_of(
    scheme: Scheme,
    returned: Collection[str] = (),
    ranges: Mapping[str, Range] | None = None,
    *,
    corrected: bool = True,
) -> tuple[Step, ...]:
    """Return the passes of a scheme that leaves the nodes of these names in float.

    `ranges` take the place of calibrated ones; `corrected` asks for biases to be.
    """
    exclude = {"exclude": ",".join(map(as_glob, sorted(returned)))} if returned else {}
    steps: list[Step] = []
    if scheme.ops:
        only = {} if len(scheme.ops) == 3 else {"ops": ",".join(scheme.ops)}
        better = {name: [found.lo, found.hi] for name, found in sorted((ranges or {}).items())}
        overrides = {"overrides": better} if better else {}
        steps.append(Step("quantize-static", {**only, **exclude, **overrides}))
        steps += [Step(CORRECT)] if corrected else []
        steps.append(Step(WIDEN))
    if scheme.dynamic:
        steps.append(Step("quantize-dynamic", exclude))
    return (*steps, Step(STORE))


def as_glob(name: str) -> str:
    """Return a glob that matches this name alone (a comma, which separates globs, becomes ?)."""
    return re.sub(r"([*?\[])", r"[\1]", name).replace(",", "?")
