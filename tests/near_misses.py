"""Models that differ in one thing from one that a pass rewrites, so that it should perhaps not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, numpy_helper

from case_pages import Case, parse_proto
from onnxcomp.calibration.synthetic import first_runs
from onnxcomp.edits import sweep
from onnxcomp.graph import Array
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Effect, apply, find_pass
from onnxcomp.runtime import Feeds, Session

# Operators that may stand for each other; each is replaced by the next two.
ALIKE = (
    ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Add", "Sub"),
    ("Relu", "Sigmoid", "Neg", "Tanh", "Erf", "Sqrt", "Reciprocal", "Exp", "Softplus", "Relu"),
    ("Softmax", "LogSoftmax", "Hardmax", "Softmax"),
    ("Clip", "Relu", "Neg"),
    ("HardSigmoid", "HardSwish", "Neg"),
    ("Cast", "Neg", "Abs"),
    ("Identity", "Neg", "Abs"),
    ("Transpose", "Neg", "Relu"),
    ("Floor", "Ceil", "Round", "Floor"),
    ("And", "Or", "Xor", "And", "Or"),
    ("Less", "Greater", "LessOrEqual", "Equal", "Less", "Greater"),
    ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceMean", "ReduceSum"),
    ("MaxPool", "AveragePool", "LpPool", "MaxPool"),
    ("GlobalAveragePool", "GlobalMaxPool", "GlobalAveragePool"),
    ("Conv", "ConvTranspose", "Conv"),
    ("Shape", "Size", "Shape"),
    ("Squeeze", "Unsqueeze", "Squeeze"),
    ("BatchNormalization", "LayerNormalization"),
    ("Concat", "Max"),
)
OPSETS = (6, 7, 10, 12, 18)
SWITCHES = frozenset({"allowzero", "saturate", "keepdims", "fmod", "count_include_pad"})
FEW = 4  # numbers of a constant that is changed


@dataclass(frozen=True)
class NearMiss:
    """A changed case: the model, and how to run it."""

    case: Case
    change: str
    proto: onnx.ModelProto
    original: onnx.ModelProto
    feeds: Feeds

    def __str__(self) -> str:
        return f"{self.case}, {self.change}"


def read_near_misses(cases: Iterable[Case]) -> Iterator[NearMiss]:
    """Yield the near misses of the cases that a pass rewrites."""
    for case in cases:
        if case.after is None or not case.execute:
            continue
        original = parse_proto(case.before, case.opset)
        feeds = first_runs(ir.from_proto(original), count=1).feeds[0]
        for change, proto in near_misses(original):
            yield NearMiss(case, change, proto, original, feeds)


def check_near_miss(near: NearMiss) -> None:
    """Check that a pass keeps the answers of a changed case where it is legal, and never fails."""
    found = find_pass(near.case.pass_name)
    model = ir.from_proto(near.proto)
    try:
        sites = apply(found, model, near.case.options).sites
    except Exception:
        assert answers_of(near) is None, near
        return
    answers = answers_of(near) if sites else None
    if answers is None:
        return
    sweep(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    made = Session(model).run(feeds_of(near))
    if compare_outputs(answers, made).failures(found.effect):
        assert found.effect == Effect.CLOSE, near
        for name, answer in answers.items():  # nearly equal numbers have no range to be near in
            np.testing.assert_allclose(made[name], answer, rtol=1e-4, atol=1e-5, err_msg=str(near))


def answers_of(near: NearMiss) -> Feeds | None:
    """Return the answers of a near miss, or None when it is not legal."""
    try:
        onnx.checker.check_model(near.proto, full_check=True)
        answers = Session(near.proto.SerializeToString()).run(feeds_of(near))
    except Exception:
        return None
    return answers if keeps_declared_shapes(near.proto, feeds_of(near), answers) else None


def near_misses(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield what is changed, and the changed model; not all of them are legal."""
    for place, node in enumerate(model.graph.node):
        yield from _other_operators(model, place, node)
        yield from _other_inputs(model, place, node)
        yield from _other_attributes(model, place, node)
        yield from _read_elsewhere(model, node)
    for place, weight in enumerate(model.graph.initializer):
        yield from _other_constants(model, place, weight)
    for place, value in enumerate(model.graph.input):
        yield from _other_types(model, place, value)
    for opset in OPSETS:
        copy = _copy(model)
        for item in copy.opset_import:
            item.version = opset if item.domain in ("", "ai.onnx") else item.version
        yield f"opset {opset}", copy


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _other_operators(
    model: onnx.ModelProto, place: int, node: onnx.NodeProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    found: dict[str, None] = {}
    for group in ALIKE:
        if node.op_type in group:
            at = group.index(node.op_type)
            found.update(dict.fromkeys(group[at + 1 : at + 3]))
    for op in found:
        copy = _copy(model)
        copy.graph.node[place].op_type = op
        if op in ("Neg", "Relu", "Abs"):
            del copy.graph.node[place].input[1:]
            del copy.graph.node[place].attribute[:]
        yield f"{op} for {node.op_type} {place}", copy


def _other_inputs(
    model: onnx.ModelProto, place: int, node: onnx.NodeProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    count = len(node.input)
    if count == 2:
        copy = _copy(model)
        copy.graph.node[place].input[:] = reversed(node.input)
        yield f"inputs of {node.op_type} {place} swapped", copy
    for index in range(1, count):
        if _is_optional(model, node, index):  # ONNX Runtime crashes where others are left out
            copy = _copy(model)
            copy.graph.node[place].input[index] = ""
            yield f"input {index} of {node.op_type} {place} left out", copy
        copy = _copy(model)
        copy.graph.node[place].input[index] = node.input[0]
        yield f"input {index} of {node.op_type} {place} that of 0", copy
    for value in model.graph.input:
        for index in range(count):
            if node.input[index] != value.name and place:
                copy = _copy(model)
                copy.graph.node[place].input[index] = value.name
                yield f"input {index} of {node.op_type} {place} is {value.name}", copy


def _is_optional(model: onnx.ModelProto, node: onnx.NodeProto, index: int) -> bool:
    version = next((item.version for item in model.opset_import if item.domain == node.domain), 0)
    if node.domain or not onnx.defs.has(node.op_type, max_inclusive_version=version):
        return False
    inputs = onnx.defs.get_schema(node.op_type, max_inclusive_version=version).inputs
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return index < len(inputs) and inputs[index].option == optional


def _other_attributes(
    model: onnx.ModelProto, place: int, node: onnx.NodeProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    for index, attr in enumerate(node.attribute):
        what = f"{attr.name} of {node.op_type} {place}"
        copy = _copy(model)
        del copy.graph.node[place].attribute[index]
        yield f"no {what}", copy
        if attr.type == AttributeProto.INT:
            numbers = {1 - attr.i} if attr.name in SWITCHES else {attr.i + 1, -attr.i, 1 - attr.i}
            for number in sorted(numbers - {attr.i}):
                copy = _copy(model)
                copy.graph.node[place].attribute[index].i = number
                yield f"{what} {number}", copy
        if attr.type == AttributeProto.FLOAT:
            copy = _copy(model)
            copy.graph.node[place].attribute[index].f = attr.f * 1.5 + 0.25
            yield f"{what} changed", copy
        if attr.type == AttributeProto.INTS:
            lists = [list(reversed(attr.ints)), [number + 1 for number in attr.ints], attr.ints[1:]]
            for numbers in lists:
                copy = _copy(model)
                copy.graph.node[place].attribute[index].ints[:] = numbers
                yield f"{what} {numbers}", copy


def _read_elsewhere(
    model: onnx.ModelProto, node: onnx.NodeProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    known = {output.name for output in model.graph.output}
    for name in node.output:
        if name and name not in known:
            copy = _copy(model)
            copy.graph.output.add().name = name
            yield f"{name} returned", copy


def _other_constants(
    model: onnx.ModelProto, place: int, weight: onnx.TensorProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    data = numpy_helper.to_array(weight)
    info = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
    copy = _copy(model)
    del copy.graph.initializer[place]
    copy.graph.input.append(info)
    yield f"{weight.name} not constant", copy
    changed = {"with one dim more": data[None]}
    if data.ndim and data.shape[0] == 1:
        changed["with one dim less"] = data[0]
    if data.ndim and data.dtype.kind == "f" and data.shape[-1] > 1:
        changed["cut to 1"] = data[..., :1]
    if data.ndim > 1:
        changed["transposed"] = data.T
    if data.size and data.size <= FEW and data.dtype.kind in "iuf":
        step = 1 if data.dtype.kind in "iu" else 0.25
        changed["larger"] = data + data.dtype.type(step)
        changed["zero"] = np.zeros_like(data)
        if data.dtype.kind in "if":
            changed["negated"] = -data
        if data.size > 1:
            changed["reversed"] = data.reshape(-1)[::-1].reshape(data.shape)
    for what, new in changed.items():
        copy = _copy(model)
        tensor = numpy_helper.from_array(np.ascontiguousarray(new).reshape(new.shape), weight.name)
        copy.graph.initializer[place].CopyFrom(tensor)
        yield f"{weight.name} {what}", copy


def _other_types(
    model: onnx.ModelProto, place: int, value: onnx.ValueInfoProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    dims = value.type.tensor_type.shape.dim
    copy = _copy(model)
    for dim in copy.graph.input[place].type.tensor_type.shape.dim:
        dim.Clear()
    _forget_shapes(copy)
    yield f"dims of {value.name} not known", copy
    for axis, dim in enumerate(dims):
        if dim.dim_value != 1:
            copy = _copy(model)
            copy.graph.input[place].type.tensor_type.shape.dim[axis].dim_value = 1
            _forget_shapes(copy)
            yield f"dim {axis} of {value.name} 1", copy


def _forget_shapes(model: onnx.ModelProto) -> None:
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def feeds_of(near: NearMiss) -> dict[str, Array]:
    """Return feeds of a near miss, made of those of the case and its weights."""
    weights = {weight.name: weight for weight in near.original.graph.initializer}
    found = {}
    for value in near.proto.graph.input:
        if value.name in near.feeds:
            data = near.feeds[value.name]
            dims = value.type.tensor_type.shape.dim
            cut = (slice(1 if dim.dim_value == 1 else None) for dim in dims)
            found[value.name] = np.ascontiguousarray(data[tuple(cut)])
        elif value.name in weights:
            data = numpy_helper.to_array(weights[value.name])
            found[value.name] = data * np.float32(1.25) if data.dtype == np.float32 else data
    return found


def keeps_declared_shapes(model: onnx.ModelProto, feeds: Feeds, answers: Feeds) -> bool:
    """Say whether the dims that a model declares of its outputs are those of a run."""
    sizes: dict[str, int] = {}
    for values, arrays in ((model.graph.input, feeds), (model.graph.output, answers)):
        for value in values:
            kind = value.type.tensor_type
            shape = np.shape(arrays[value.name])
            if kind.HasField("shape") and len(kind.shape.dim) != len(shape):
                return False
            for dim, size in zip(kind.shape.dim, shape, strict=False):
                if dim.HasField("dim_value") and dim.dim_value != size:
                    return False
                if dim.dim_param and sizes.setdefault(dim.dim_param, size) != size:
                    return False
    return True
