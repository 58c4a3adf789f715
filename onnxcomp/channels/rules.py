"""The rules of all operators: each ties the indices of axes, or raises `UnruledError`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxcomp.channels.elementwise_rules import ELEMENTWISE_RULES
from onnxcomp.channels.ids import Axes, Ids
from onnxcomp.channels.linear_rules import LINEAR_RULES
from onnxcomp.channels.movement_rules import MOVEMENT_RULES
from onnxcomp.channels.normalization_rules import NORMALIZATION_RULES

Rule = Callable[[ir.Node, Ids], list[Axes]]

RULES: dict[str, Rule] = {
    **ELEMENTWISE_RULES,
    **LINEAR_RULES,
    **MOVEMENT_RULES,
    **NORMALIZATION_RULES,
}
