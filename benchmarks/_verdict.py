"""Judges what an optimizer made of a model: `_verdict.py ORIGINAL RESULT` prints JSON.

A script of its own, since a broken model may take the process that loads it down. Nothing here
rewrites a graph: both files are read by onnx and run by ONNX Runtime as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxcomp.calibration.synthetic import Sizes, first_runs, random_feeds
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.model_io import load_model
from onnxcomp.parity import ParityMeter
from onnxcomp.reference import narrowest_float
from onnxcomp.runtime import Session, first_line

SEED = 7
FEEDS_PER_SIZE = 2
# Largest difference relative to the range of the output, by the narrowest float type of the model.
TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}
# What rounding may do to an output of any range, in units in the last place of its largest value.
ROUNDINGS = 4
# Inputs whose value selects a branch: a random 0 or 1 would only ever take one of them.
SWITCHES = {"sr": (16000, 8000)}

Feeds = dict[str, Array]
Dims = list[int | str]


@dataclass(frozen=True)
class File:
    """A model's file: its path, and what it says without its weights' values."""

    path: Path
    proto: onnx.ModelProto


def read(path: Path) -> File:
    """Read a model without the weights that lie in other files."""
    return File(path, onnx.load(path, load_external_data=False))


def judge(original: File, result: File) -> dict[str, Any]:
    """Return a result's nodes and bytes, its problems, what is only odd, and its difference."""
    problems = interface_problems(original.proto, result.proto)
    problems += [text for text in file_problems(result) if not file_problems(original)]
    worst = 0.0
    try:
        found, worst = answer_problems(original, result)
        problems += found
    except ModelError as error:
        problems.append(str(error))
    return {
        "nodes": count_nodes(result.proto),
        "bytes": count_bytes(result),
        "problems": list(dict.fromkeys(problems)),
        "notes": notes(original.proto, result.proto),
        "difference": worst,
    }


# ---------------------------------------------------------------- size
def count_nodes(model: onnx.ModelProto) -> int:
    """Count the nodes of a model, subgraphs and functions included."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return sum(1 for body in bodies for _ in walk(body))


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attr in node.attribute:
            for graph in (attr.g, *attr.graphs):
                yield from walk(graph.node)


def count_bytes(file: File) -> int:
    """Return the bytes of a model and of the weights files that it names."""
    names = {
        entry.value
        for tensor in file.proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum(each.stat().st_size for each in (file.path, *map(file.path.parent.joinpath, names)))


# ---------------------------------------------------------------- interface
def interface_problems(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """Say how inputs and outputs differ in names, order, type or rank, and what metadata is lost.

    Weights that are listed as inputs too are no inputs.
    """
    problems = []
    for kind, old, new in _both_sides(before, after):
        was, now = [_signature(value) for value in old], [_signature(value) for value in new]
        if was != now:
            gone = [text for text in was if text not in now] or was
            come = [text for text in now if text not in was] or ["another order"]
            problems.append(f"{kind} changed: {', '.join(gone)} -> {', '.join(come)}")
    kept = {item.key: item.value for item in after.metadata_props}
    lost = [item.key for item in before.metadata_props if kept.get(item.key) != item.value]
    return problems + ([f"metadata lost: {', '.join(lost)}"] if lost else [])


def notes(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """Say what is different but wrong for nobody: dims declared anew, operators of a vendor."""
    found = []
    for _, old, new in _both_sides(before, after):
        for was, now in zip(old, new, strict=False):
            if was.name == now.name and (dims := _dims(was)) != (redeclared := _dims(now)):
                found.append(f"{was.name} declared {redeclared} instead of {dims}")
    foreign = {node.domain for node in walk(after.graph.node)}
    foreign -= {node.domain for node in walk(before.graph.node)} | {"", "ai.onnx"}
    return found + [f"uses operators of {domain}" for domain in sorted(foreign)]


def _both_sides(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[tuple[str, Any, Any]]:
    yield "inputs", _inputs(before), _inputs(after)
    yield "outputs", list(before.graph.output), list(after.graph.output)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _signature(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return f"{value.name} {value.type.WhichOneof('value')}"
    rank = f"rank {len(tensor.shape.dim)}" if tensor.HasField("shape") else "no rank"
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {rank}"


def _dims(value: onnx.ValueInfoProto) -> Dims:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]


# ---------------------------------------------------------------- validity
def file_problems(file: File, levels: Iterable[bool | str] = (False, True)) -> list[str]:
    """Say what onnx's full checker and ONNX Runtime, rewrites off and on, refuse.

    `levels` may name more of ONNX Runtime's sets of rewrites.
    """
    problems = []
    try:
        onnx.checker.check_model(str(file.path), full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        problems.append(f"the checker refuses it: {first_line(error)}")
    for optimize in levels:
        try:
            Session(str(file.path), optimize=optimize)
        except ModelError as error:
            problems.append(str(error))
    return problems


# ---------------------------------------------------------------- answers
def answer_problems(original: File, result: File) -> tuple[list[str], float]:
    """Say which outputs differ on seeded random feeds, ONNX Runtime's rewrites off, and by what."""
    model = load_model(original.path)
    tolerance = TOLERANCE[narrowest_float(model)]
    before, after = Session(str(original.path)), Session(str(result.path))
    optimized = Session(str(result.path), optimize=True)
    meter, problems = ParityMeter(), []
    rounding: dict[str, float] = {}
    for feeds in all_feeds(original.path, before):
        answers = after.run(feeds)
        expected = before.run(feeds)
        meter.add(expected, answers)
        optimized.run(feeds)
        for name, data in expected.items():
            rounding[name] = max(rounding.get(name, 0.0), _rounding(data))
        problems += declared_problems(original.proto, result.proto, expected)
    outputs = meter.result().outputs
    for name, output in outputs.items():
        if output.broken:
            problems.append(f"{name}: {output.broken}")
        elif not (output.relative <= tolerance or output.max_abs <= rounding[name]):
            problems.append(f"{name}: off by {output.relative:.2g} of its range")
    return problems, max((output.relative for output in outputs.values()), default=0.0)


def _rounding(data: object) -> float:
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f":
        return 0.0
    largest = np.abs(data[np.isfinite(data)]).max(initial=0.0)
    return ROUNDINGS * float(np.finfo(data.dtype).eps) * float(largest)


def all_feeds(path: Path, session: Session) -> list[Feeds]:
    """Return seeded random feeds that the original runs on, at two sizes of its open dims.

    Where an input selects a branch, each branch gets two sizes. Raises `ModelError` without any.
    """
    model = load_model(path)
    first = first_runs(model, 1, SEED, session).sizes
    found: list[Feeds] = []
    for switch in _switches(session.inputs):
        sets = (
            [{**feeds, **switch} for feeds in random_feeds(model, FEEDS_PER_SIZE, SEED, sizes)]
            for sizes in _all_sizes(first)
        )
        running = (feeds for feeds in sets if _runs(session, feeds[0]))
        found += chain.from_iterable(islice(running, 2))
    if not found:
        raise ModelError("the original runs on no feeds of this benchmark")
    return found


def _all_sizes(first: Sizes) -> list[Sizes]:
    """Return sizes of the open dims: the first that run, all twice, wider, another batch, half."""
    if not first:
        return [first]
    last = dict(sorted(first))
    twice = {key: size * 2 for key, size in first.items()}
    wider = {(name, axis): n * (1 + (axis == last[name])) for (name, axis), n in first.items()}
    batch = {key: size + (key[1] == 0) for key, size in first.items()}
    half = {key: max(1, size // 2) for key, size in first.items()}
    return [first, twice, wider, batch, half]


def _switches(inputs: Iterable[str]) -> list[Feeds]:
    for name in inputs:
        if name in SWITCHES:
            return [{name: np.array(value, np.int64)} for value in SWITCHES[name]]
    return [{}]


def _runs(session: Session, feeds: Feeds) -> bool:
    try:
        session.run(feeds)
    except ModelError:
        return False
    return True


def declared_problems(
    before: onnx.ModelProto, after: onnx.ModelProto, answers: Mapping[str, Array]
) -> list[str]:
    """Say which outputs are declared with dims that they do not have, and were not before."""
    wrong_before = set(_wrongly_declared(before, answers))
    return [
        f"{name} is declared {dims} but is {list(answers[name].shape)}"
        for name, dims in _wrongly_declared(after, answers).items()
        if name not in wrong_before
    ]


def _wrongly_declared(model: onnx.ModelProto, answers: Mapping[str, Array]) -> dict[str, Dims]:
    declared = {value.name: _dims(value) for value in model.graph.output}
    return {
        name: declared[name]
        for name, data in answers.items()
        if isinstance(data, np.ndarray) and len(declared.get(name, ())) == data.ndim
        if any(
            isinstance(d, int) and d != n for d, n in zip(declared[name], data.shape, strict=True)
        )
    }


if __name__ == "__main__":
    print(json.dumps(judge(read(Path(sys.argv[1])), read(Path(sys.argv[2])))))
