"""Converts a model to another version of the standard operator set, or refuses with the reason."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import opset_version
from onnxcomp.opset import CannotConvertError, raise_nodes
from onnxcomp.opset_lower import lower_nodes
from onnxcomp.shapes import keep_declared

Check = Callable[[ir.Model], list[str]]


def convert_opset(model: ir.Model, version: int, problems: Check) -> ir.Model:
    """Return a copy of a model in another operator set, up or down; `model` is not changed.

    `problems` says how the copy breaks the contract with the original. Raises `ModelError` when it
    does, and when a node has no form in that operator set: a model is converted whole or not.
    """
    old = opset_version(model)
    if old == version:
        return model
    refusal = f"cannot convert opset {old} to {version}"
    if model.functions:
        names = ", ".join(sorted({name for _, name, _ in model.functions}))
        raise ModelError(f"{refusal}: the model has local functions ({names}); inline them first")
    copy = model.clone()
    try:
        (raise_nodes if version > old else lower_nodes)(copy, version)
    except CannotConvertError as error:
        raise ModelError(f"{refusal}: {error}") from error
    keep_declared(copy, model)
    found = problems(copy)
    if found:
        raise ModelError(f"{refusal}: {found[0]}")
    return copy
