"""A model in which each quantized value can be switched between int8 and float."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.ahead import in_order
from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import one_sample
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, label, opset_version
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._numbers import SIGNED_OFFSET, Grid
from onnxcomp.passes.quantize.widen_stems import widened
from onnxcomp.runtime import Session

# Samples that each run takes.
SAMPLES = 2
SWITCHES, SCALES, ZEROS = "onnxcomp.switches", "onnxcomp.scales", "onnxcomp.zeros"
OPSET = 13


@dataclass(frozen=True)
class Group:
    """Values that lie on one uint8 grid since only movement is between them."""

    values: tuple[str, ...]
    nodes: tuple[str, ...]
    scale: Array
    zero_point: Array


@dataclass(frozen=True)
class Switchboard:
    """A model in which each group of values can be quantized or not, and its exact answers."""

    session: Session
    groups: tuple[Group, ...]
    feeds: tuple[Mapping[str, Array], ...]
    answers: tuple[Mapping[str, Array], ...]

    def noise(self, on: Iterable[int], grids: Mapping[int, Grid] | None = None) -> float:
        """Return the noise over signal of the worst output with these groups quantized."""
        switches = np.zeros(len(self.groups), dtype=bool)
        switches[list(on)] = True
        scales = np.array([group.scale for group in self.groups], dtype=np.float32)
        zeros = np.array([group.zero_point for group in self.groups], dtype=np.uint8)
        for index, grid in (grids or {}).items():
            scales[index], zeros[index] = grid.scale, grid.zero_point
        extra = {SWITCHES: switches, SCALES: scales, ZEROS: zeros}
        sums: dict[str, list[float]] = {}
        answers = in_order(lambda feeds: self.session.run({**feeds, **extra}), self.feeds)
        for found, wanted in zip(answers, self.answers, strict=True):
            for name, data in wanted.items():
                _add(sums.setdefault(name, [0.0, 0.0]), data, found[name])
        return max((noise / signal for signal, noise in sums.values() if signal > 0), default=0.0)


def make_switchboard(exact: ir.Model, quantized: ir.Model, samples: Samples) -> Switchboard:
    """Return the float model with a switch behind each value that the other has quantized."""
    model = exact.clone()
    if opset_version(model) < OPSET:
        raise_opset(model, OPSET)
    groups = tuple(group for group in _groups(quantized) if _switchable(model, group))
    _add_switches(model, groups)
    session, plain = (Session(each, optimize=True) for each in (model, exact))
    feeds = tuple(one_sample(exact, each) for each in itertools.islice(samples, SAMPLES))
    return Switchboard(session, groups, feeds, tuple(plain.run(each) for each in feeds))


def _add(sums: list[float], wanted: object, found: object) -> None:
    if not isinstance(wanted, np.ndarray) or not isinstance(found, np.ndarray):
        return
    if wanted.dtype.kind != "f" or wanted.shape != found.shape:
        return
    noise = float(np.square(wanted - found, dtype=np.float64).sum())
    if np.isfinite(noise):
        sums[0] += float(np.square(wanted, dtype=np.float64).sum())
        sums[1] += noise


# ---------------------------------------------------------------- what is quantized
def _groups(quantized: ir.Model) -> list[Group]:
    """Return the activations of a quantized model; what only moves between two is one group."""
    found: dict[str, Group] = {}
    for node in quantized.graph:
        if not is_op(node, "QuantizeLinear") or node.inputs[0] is None:
            continue
        group = _group(node, found)
        if group is not None:
            found.update(dict.fromkeys(group.values, group))
    return list({group.values: group for group in found.values()}.values())


def _group(quantize: ir.Node, found: Mapping[str, Group]) -> Group | None:
    source, scale, _ = quantize.inputs
    grid = _grid_read(quantize)
    if source is None or not source.name or grid is None:
        return None
    values, nodes = [_name_in_float(quantize, source.name)], _neighbours(quantize)
    maker = source.producer()
    if maker is not None:
        for value in maker.inputs:
            before = _read_through(value)
            if before is None or before.inputs[1] is not scale or before.inputs[0] is None:
                continue
            joined = found.get(before.inputs[0].name or "")
            if joined is not None:
                values = [*joined.values, *values]
                nodes = dict.fromkeys([*joined.nodes, *nodes])
    return Group(tuple(values), tuple(nodes), grid[0], grid[1])


def _grid_read(quantize: ir.Node) -> tuple[Array, Array] | None:
    """Return the scale and zero point, as of uint8, with which bytes are read.

    These are not those that they were written with where a linear map lies between.
    """
    readers = [n for n in quantize.outputs[0].consumers() if is_op(n, "DequantizeLinear")]
    _, scale, zero_point = (*readers, quantize)[0].inputs
    steps, zero = array(scale), array(zero_point)
    if steps is None or zero is None:
        return None
    return steps, zero if zero.dtype == np.uint8 else zero.astype(np.int16) + SIGNED_OFFSET


def _name_in_float(quantize: ir.Node, name: str) -> str:
    """Return the name that a value had before: an output hands its name on, an input is widened."""
    narrow = widened(quantize.inputs[0])
    if narrow is not None:
        return narrow.name or name
    for dequantize in quantize.outputs[0].consumers():
        output = dequantize.outputs[0]
        if output.is_graph_output():
            return output.name or name
    return name


def _neighbours(quantize: ir.Node) -> dict[str, None]:
    """Return the int8 nodes that make or read a quantized value."""
    source = quantize.inputs[0]
    maker = source.producer() if source is not None else None
    nodes = [maker] if maker is not None and any(map(_read_through, maker.inputs)) else []
    for dequantize in quantize.outputs[0].consumers():
        for output in dequantize.outputs:
            nodes += output.consumers()
    return {label(node): None for node in nodes}


def _read_through(value: ir.Value | None) -> ir.Node | None:
    """Return the QuantizeLinear behind the DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear") or node.inputs[0] is None:
        return None
    quantize = node.inputs[0].producer()
    return quantize if is_op(quantize, "QuantizeLinear") else None


# ---------------------------------------------------------------- switches
def _switchable(model: ir.Model, group: Group) -> bool:
    return _value(model, group.values[0]) is not None


def _value(model: ir.Model, name: str) -> ir.Value | None:
    values = itertools.chain(model.graph.inputs, (o for node in model.graph for o in node.outputs))
    return next((value for value in values if value.name == name), None)


def _add_switches(model: ir.Model, groups: Sequence[Group]) -> None:
    """Give a model an input that says, for each group, whether it is quantized."""
    graph = model.graph
    kinds = {SWITCHES: ir.DataType.BOOL, SCALES: ir.DataType.FLOAT, ZEROS: ir.DataType.UINT8}
    given = [
        ir.Value(name=name, shape=ir.Shape([len(groups)]), type=ir.TensorType(kind))
        for name, kind in kinds.items()
    ]
    graph.inputs.extend(given)
    for index, group in enumerate(groups):
        value = _value(model, group.values[0])
        assert value is not None
        stem = f"{SWITCHES}.{index}"
        place = add_constant(graph, np.array(index), f"{stem}.place")
        uses = list(value.uses())
        picks = [ir.Node("", "Gather", [vector, place]) for vector in given]
        switch, scale, zero = (pick.outputs[0] for pick in picks)
        select = _either(switch, _on_grid(value, scale, zero, stem), _as_is(value, stem))
        select.outputs[0].shape, select.outputs[0].type = value.shape, value.type
        _insert_behind(graph, value, [*picks, select], stem)
        for use in uses:
            use.node.replace_input_with(use.idx, select.outputs[0])
        if value.is_graph_output():
            _return_instead(graph, value, select.outputs[0])


def _on_grid(value: ir.Value, scale: ir.Value, zero: ir.Value, stem: str) -> list[ir.Node]:
    quantize = ir.Node("", "QuantizeLinear", [value, scale, zero])
    dequantize = ir.Node("", "DequantizeLinear", [quantize.outputs[0], scale, zero])
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{stem}.steps", f"{stem}.on"
    return [quantize, dequantize]


def _as_is(value: ir.Value, stem: str) -> list[ir.Node]:
    same = ir.Node("", "Identity", [value])
    same.outputs[0].name = f"{stem}.off"
    return [same]


def _either(switch: ir.Value, on: list[ir.Node], off: list[ir.Node]) -> ir.Node:
    """Return an If, of which only one branch is computed: most values are off."""
    branches = []
    for name, nodes in (("then_branch", on), ("else_branch", off)):
        result = nodes[-1].outputs[0]
        result.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph([], [result], nodes=nodes, name=result.name)
        branches.append(ir.AttrGraph(name, graph))
    return ir.Node("", "If", [switch], branches)


def _return_instead(graph: ir.Graph, value: ir.Value, new: ir.Value) -> None:
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = new
    new.shape, new.type = value.shape, value.type
    new.name, value.name = value.name, f"{value.name}.switched"


def _insert_behind(graph: ir.Graph, value: ir.Value, nodes: Iterable[ir.Node], stem: str) -> None:
    added = list(nodes)
    for number, node in enumerate(added):
        node.outputs[0].name = f"{stem}.{number}"
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], added)
    else:
        graph.insert_after(producer, added)
