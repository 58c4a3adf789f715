"""The channel pruners that are compared: ours with and without repair, and onnxsim's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import sweep
from onnxcomp.registry import apply, find_pass
from onnxcomp.targets import find_target

if TYPE_CHECKING:
    import onnx

Prune = Callable[[ir.Model, Samples, float], ir.Model]


@dataclass(frozen=True)
class Pruner:
    """A way to prune, and the strengths that it is tried at: shares of MACs, or its own."""

    label: str
    prune: Prune
    strengths: Sequence[float]


def _ours(criterion: str, *, repair: bool) -> Prune:
    def prune(model: ir.Model, samples: Samples, ratio: float) -> ir.Model:
        result = model.clone()
        needs = {"samples": samples, "target": find_target("auto"), "unfused": model}
        options = {"ratio": ratio, "criterion": criterion, "repair": repair}
        apply(find_pass("prune-channels"), result, options, needs)
        sweep(result)
        return result

    return prune


def _onnxsim(model: ir.Model, _: Samples, sparsity: float) -> ir.Model:
    import onnxsim

    proto: onnx.ModelProto = onnxsim.apply_structured_pruning(ir.to_proto(model), sparsity)
    return ir.from_proto(proto)


SHARES = (0.03, 0.1, 0.2, 0.3, 0.4, 0.5)
SOME = (0.1, 0.3, 0.5)
PRUNERS = (
    Pruner("obs, repaired", _ours("obs", repair=True), SHARES),
    Pruner("l2, repaired", _ours("l2", repair=True), SOME),
    Pruner("obs", _ours("obs", repair=False), SOME),
    Pruner("l2", _ours("l2", repair=False), SOME),
    Pruner("random", _ours("random", repair=False), SOME),
    Pruner("onnxsim", _onnxsim, (0.1, 0.2, 0.25, 0.3, 0.5)),
)
