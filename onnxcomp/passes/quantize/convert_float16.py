"""Numbers in 16 bits: weights stored so, or the whole model computed so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import add_tensor
from onnxcomp.errors import UsageError
from onnxcomp.exclusion import is_excluded, read_globs
from onnxcomp.graph import opset_version, tensor
from onnxcomp.linear.taps import few, tap
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._constants import constants, insert_first, owner
from onnxcomp.passes.quantize._float16 import (
    FLOAT,
    LARGEST,
    SMALLEST,
    convert,
    is_half_cast,
    problem_of,
    sqnr_of,
    weight_problem,
)
from onnxcomp.passes.quantize._naming import fresh_name, used_names
from onnxcomp.registry import Effect, leave, measured, register, settle
from onnxcomp.shapes import infer_shapes
from onnxcomp.targets import Target

MODES = ("auto", "storage", "compute")
TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
# Cast takes bfloat16 from here on.
BFLOAT16_OPSET = 13
SAMPLES = 8
# Values may be this much larger on other samples than on those that were seen.
MARGIN = 2.0


@register(Effect.LOSSY)
def convert_float16(
    model: ir.Model,
    samples: Samples,
    target: Target,
    *,
    mode: str = "auto",
    type: str = "float16",  # noqa: A002  (the option's name)
    exclude: str = "",
    least: int = 256,
) -> int:
    """Store weights in 16 bits, or compute in them: half of the bytes.

    `mode` `storage`: W becomes Cast(w16), which ONNX Runtime computes once, at load; the kernels
    stay float32, so time and memory stay too. `compute`: values are float16 between a Cast behind
    each input and one before each output, which keep their types. ONNX Runtime's CPU provider has
    hardly a float16 kernel and puts Casts around the others, so this is for other machines. `auto`
    is compute for TensorRT, else storage. `type` `bfloat16` is for storage alone: ONNX Runtime's
    CPU provider computes next to nothing in it, and 8 bits of precision are few.

    `exclude` names nodes that stay float32: globs, separated by commas. `least` is the number of
    elements from which a weight is stored so. The measure is the signal-to-noise ratio (dB) of the
    weight.

    Left alone when a weight is not float32, not finite, beyond 65504, or so small that float16
    loses its digits; for computing also when a value comes within a factor of two of 65504 on the
    samples or is subnormal throughout, when the operator has no float16 or loses too much there
    (sums of squares, powers), or has graphs of its own.
    """
    if mode not in MODES or type not in TYPES:
        raise UsageError(
            f"convert-float16: mode is one of {', '.join(MODES)} and type one of "
            f"{', '.join(TYPES)}, got {mode} and {type}"
        )
    globs = read_globs(model, exclude, "convert-float16")
    if mode == "auto":
        mode = "compute" if target.explicit and type == "float16" else "storage"
        settle("mode", mode)
    if mode == "storage":
        return _store(model, TYPES[type], globs, least)
    if type != "float16":
        raise UsageError('convert-float16: bfloat16 is for storage; pass mode = "storage"')
    return _compute(model, samples, globs)


# ---------------------------------------------------------------- storage
def _store(model: ir.Model, dtype: ir.DataType, globs: list[str], least: int) -> int:
    if dtype == ir.DataType.BFLOAT16:
        raise_opset(model, BFLOAT16_OPSET)
    used, changed = used_names(model), 0
    for value in list(constants(model)):
        found = tensor(value)
        if found is None or found.dtype != FLOAT or found.size < least or not value.uses():
            continue
        if value.is_graph_output():
            continue
        readers = [use.node for use in value.uses()]
        reason = "excluded" if any(is_excluded(node, globs) for node in readers) else ""
        if dtype == ir.DataType.BFLOAT16 and opset_version(model) < BFLOAT16_OPSET:
            reason = f"opset {opset_version(model)} has no bfloat16; try --opset {BFLOAT16_OPSET}"
        elif dtype == ir.DataType.FLOAT16:
            reason = reason or weight_problem(found.numpy())
        for node in readers if reason else ():
            leave(node, reason)
        if not reason:
            _write(value, found, dtype, used)
            changed += 1
    return changed


def _write(value: ir.Value, weight: ir.TensorProtocol, dtype: ir.DataType, used: set[str]) -> None:
    graph, stem = owner(value), value.name or "weight"
    name, shape = fresh_name(used, f"{stem}.{dtype.name.lower()}"), ir.Shape(weight.shape)  # type: ignore[arg-type]

    def rounded() -> ir.TensorProtocol:
        return ir.Tensor(weight.numpy().astype(dtype.numpy()), dtype=dtype, name=name)

    external = isinstance(weight, ir.ExternalTensor)
    data = ir.LazyTensor(rounded, dtype, shape, name=name) if external else rounded()
    stored = add_tensor(
        graph, ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=data)
    )
    cast = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", FLOAT)])
    cast.outputs[0].name = fresh_name(used, f"{stem}.float")
    cast.outputs[0].shape, cast.outputs[0].type = shape, ir.TensorType(FLOAT)
    if dtype == ir.DataType.FLOAT16:
        sqnr = sqnr_of(weight.numpy())
        measured(next(iter(value.uses())).node, sqnr, sqnr)
    insert_first(graph, [cast])
    value.replace_all_uses_with(cast.outputs[0])


# ---------------------------------------------------------------- computing
def _compute(model: ir.Model, samples: Samples, globs: list[str]) -> int:
    if model.functions or any(True for _ in model.graph.subgraphs()):
        for node in model.graph:
            leave(node, "the model has subgraphs or functions")
        return 0
    infer_shapes(model)
    opset, large = opset_version(model), _out_of_range(model, samples)
    kept = set()
    for node in model.graph:
        if is_half_cast(node):
            kept.add(node)
            continue
        reason = "excluded" if is_excluded(node, globs) else problem_of(node, opset)
        reason = reason or _values_problem(node, large)
        if reason:
            kept.add(node)
            leave(node, reason)
    return convert(model.graph, kept, opset, used_names(model))


def _values_problem(node: ir.Node, large: dict[str, float]) -> str:
    for value in (*node.inputs, *node.outputs):
        if value is None:
            continue
        found = tensor(value)
        if found is not None and found.dtype == FLOAT:
            problem = weight_problem(found.numpy())
            if problem and np.any(found.numpy()):
                return problem
        if value.name in large:
            return (
                f"{value.name} reaches {large[value.name]:.3g}, beyond what float16 has digits for"
            )
    return ""


def _out_of_range(model: ir.Model, samples: Samples) -> dict[str, float]:
    """Return the greatest magnitude of each value that leaves float16's range on the samples."""
    names = [
        output.name
        for node in model.graph
        for output in node.outputs
        if output.dtype == FLOAT and output.name
    ]
    names += [value.name for value in model.graph.inputs if value.dtype == FLOAT and value.name]
    largest: dict[str, float] = {}
    for _, name, data in tap(model.clone(), names, samples, few(model, samples, SAMPLES)):
        finite = np.abs(data[np.isfinite(data)])
        largest[name] = max(largest.get(name, 0.0), float(finite.max(initial=0.0)))
    return {
        name: size
        for name, size in largest.items()
        if size * MARGIN > LARGEST or 0 < size < SMALLEST
    }
