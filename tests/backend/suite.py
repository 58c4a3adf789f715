"""The child of `test_backend.py`: onnx's backend cases, optimized and run, one JSON line each.

`python suite.py SHARD SHARDS START` judges every SHARDS-th case from the START-th of its own on.
A line `{"begin": id}` comes before each case, so that the parent knows which one killed the child.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.backend.test.runner
import onnx_ir as ir
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from lossless import again_failures, optimize, structure_failures
from onnxcomp.errors import ModelError
from onnxcomp.model_io import load_model
from onnxcomp.parity import compare_outputs
from onnxcomp.reference import narrowest_float
from onnxcomp.registry import Effect
from onnxcomp.runtime import Feeds, Session, first_line

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
Runner = onnx.backend.test.runner.Runner
# A light model's weights are filled by ConstantOfShape: folded, they would be a thousand times it.
LIGHT_GROWTH = 1.05
# Two steps of float16: a folded value is rounded to it where ONNX Runtime keeps float32 between
# two nodes, and onnx's own tolerance is less than one step.
HALF_ROUNDING = 2**-9


@dataclass(frozen=True)
class Work:
    """One case in one variant; `source` is a case of onnx or the file of a light model."""

    variant: str
    kind: str
    name: str
    source: TestCase | Path

    @property
    def id(self) -> str:
        return f"{self.variant}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class Question:
    """A model, its inputs, the outputs that onnx says it has, and how near they must be."""

    model: onnx.ModelProto
    data_sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


def all_work() -> list[Work]:
    """List every case, in an order that is the same in each process."""
    work = [Work("light", "light", path.stem, path) for path in sorted(LIGHT.glob("*.onnx"))]
    for variant in ("plain", "const"):
        for kind in KINDS:
            cases = sorted(load_model_tests(kind=kind), key=lambda case: case.name)
            work += [Work(variant, kind, case.name, case) for case in cases]
    return work


# ---------------------------------------------------------------- what is asked
def question(work: Work) -> Question:
    """Read or build one case."""
    if isinstance(work.source, Path):
        return _light(work.source)
    case = work.source
    if case.model is not None and case.data_sets is not None:
        sets = [(_arrays(inputs), _arrays(outputs)) for inputs, outputs in case.data_sets]
        return Question(case.model, sets, case.rtol, case.atol)
    folder = Path(str(case.model_dir))
    model = onnx.load(folder / "model.onnx")
    sets = [
        (_stored(data, "input", model.graph.input), _stored(data, "output", model.graph.output))
        for data in sorted(folder.glob("test_data_set_*"))
    ]
    return Question(model, sets, case.rtol, case.atol)


def _arrays(items: Sequence[Any]) -> list[Any]:
    return [onnx.numpy_helper.to_array(i) if isinstance(i, onnx.TensorProto) else i for i in items]


def _stored(folder: Path, stem: str, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    found: list[Any] = []
    for index in range(len(list(folder.glob(f"{stem}_*.pb")))):
        content = (folder / f"{stem}_{index}.pb").read_bytes()
        if infos[index].type.HasField("sequence_type"):
            sequence = onnx.SequenceProto.FromString(content)
            found.append(onnx.numpy_helper.to_list(sequence))
        else:
            found.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content)))
    return found


def _light(path: Path) -> Question:
    model = onnx.load(path)
    weights = {item.name for item in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in weights]
    outputs = [
        onnx.numpy_helper.to_array(
            onnx.TensorProto.FromString(
                path.with_name(f"{path.stem}_output_{index}.pb").read_bytes()
            )
        )
        for index in range(len(model.graph.output))
    ]
    return Question(model, [([Runner.generate_dummy_data(i) for i in inputs], outputs)], 1e-3, 1e-7)


def with_constant_inputs(asked: Question) -> Question | None:
    """Return the case with the tensors of its first data set as weights; None if it has none."""
    model = onnx.ModelProto()
    model.CopyFrom(asked.model)
    model.ir_version = max(model.ir_version, 4)
    inputs, outputs = asked.data_sets[0]
    kept = []
    for info, data in zip(asked.model.graph.input, inputs, strict=False):
        tensor = _as_weight(info, data)
        if tensor is None:
            kept.append(data)
            continue
        model.graph.initializer.append(tensor)
        model.graph.input.remove(info)
    if len(kept) == len(inputs):
        return None
    return Question(model, [(kept, outputs)], asked.rtol, asked.atol)


def _as_weight(info: onnx.ValueInfoProto, data: Any) -> onnx.TensorProto | None:
    if not info.type.HasField("tensor_type") or not isinstance(data, np.ndarray | np.generic):
        return None
    tensor = onnx.numpy_helper.from_array(np.asarray(data), info.name)
    return tensor if tensor.data_type == info.type.tensor_type.elem_type else None


# ---------------------------------------------------------------- how it is judged
def judge(work: Work) -> tuple[str, str]:
    """Return `ok`, `failed` or `unusable`, and why."""
    try:
        asked: Question | None = question(work)
        if work.variant == "const" and asked is not None:
            asked = with_constant_inputs(asked)
    except Exception as error:
        return "unusable", f"it cannot be read: {first_line(error)}"
    if asked is None:
        return "unusable", "no input is a tensor"
    try:
        original = Session(asked.model.SerializeToString())
        answers = [original.run(_feeds(asked, inputs)) for inputs, _ in asked.data_sets]
        _compare(asked, answers)
    except Exception as error:  # ONNX Runtime lacks a kernel, or answers otherwise than onnx
        return "unusable", first_line(error)
    try:
        failures = _failures(work, asked, answers)
    except Exception as error:
        failures = [f"{type(error).__name__}: {first_line(error)}"]
    return ("failed", "; ".join(failures)) if failures else ("ok", "")


def _failures(work: Work, asked: Question, answers: Sequence[Feeds]) -> list[str]:
    source = load_model(onnx.ModelProto.FromString(asked.model.SerializeToString()))
    result = optimize(source)
    failures = structure_failures(source, result)
    if work.variant != "const":  # little is left of these
        failures += again_failures(result)
    session = Session(result)
    found = [session.run(_feeds(asked, inputs)) for inputs, _ in asked.data_sets]
    _compare(asked, found, HALF_ROUNDING if narrowest_float(source) == "float16" else 0.0)
    for wanted, answer in zip(answers, found, strict=True):
        parity = compare_outputs(wanted, answer)
        failures += parity.failures(Effect.CLOSE, narrowest_float(source))
    if not _loads_optimized(result) and _loads_optimized(source):
        failures.append("ONNX Runtime does not load it with optimizations on")
    before, after = (ir.to_proto(model).ByteSize() for model in (source, result))
    if work.variant == "light" and after > LIGHT_GROWTH * before:
        failures.append(f"it grew from {before} to {after} bytes")
    return failures


def _feeds(asked: Question, inputs: Sequence[Any]) -> dict[str, Any]:
    weights = {item.name for item in asked.model.graph.initializer}
    infos = [info for info in asked.model.graph.input if info.name not in weights]
    if len(inputs) > len(infos):  # the data gives weights that are listed as inputs too
        infos = list(asked.model.graph.input)
    return {info.name: data for info, data in zip(infos, inputs, strict=False)}


def _compare(asked: Question, answers: Sequence[Feeds], rtol: float = 0.0) -> None:
    names = [info.name for info in asked.model.graph.output]
    for (_, wanted), answer in zip(asked.data_sets, answers, strict=True):
        found = [answer[name] for name in names]
        Runner.assert_similar_outputs(wanted, found, max(rtol, asked.rtol), asked.atol)


def _loads_optimized(model: ir.Model) -> bool:
    try:
        Session(model, optimize=True)
    except ModelError:
        return False
    return True


# ---------------------------------------------------------------- the loop
def lines(shard: int, shards: int, start: int) -> Iterator[dict[str, str | int]]:
    """Yield what is begun and what came of it."""
    mine = all_work()[shard::shards]
    for index, work in enumerate(mine[start:], start):
        yield {"begin": work.id, "index": index}
        status, reason = judge(work)
        yield {"id": work.id, "status": status, "reason": reason}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # onnx's cases divide by zero on purpose
    for line in lines(*(int(argument) for argument in sys.argv[1:])):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
