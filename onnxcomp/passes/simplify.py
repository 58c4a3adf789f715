"""onnxsim's simplifier, kept at arm's length."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path

import onnx_ir as ir

from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import count_nodes
from onnxcomp.model_io import EXTERNAL_FROM
from onnxcomp.registry import Effect, register
from onnxcomp.runtime import constant_bytes, inline_bytes, weight_bytes

CHILD = """
import sys, onnx, onnxsim
model, valid = onnxsim.simplify(sys.argv[1], tensor_size_threshold="1MB")
if not valid:
    sys.exit("its own check refuses the result")
onnx.save(model, sys.argv[2])
"""
# What onnxsim folds may grow the constants by a hundredth, and by what the removed nodes took.
GROWTH, NODE_BYTES = 0.01, 100


@register(Effect.CLOSE)
def simplify(model: ir.Model, *, timeout: int = 120) -> int:
    """Let onnxsim simplify the model, in a process of its own.

    Its native code can crash or hang; here that is a line in the report. The result counts only
    when it has fewer nodes and the same inputs, outputs and opset. `timeout` is in seconds. Needs
    the extra `simplify`; in no preset, since the project's own passes do the same and more.

    Left alone when the result has no fewer nodes. Raises when onnxsim is missing, dies, takes too
    long, changes the interface or makes the model larger, and for models that one protobuf message
    cannot hold; the pipeline then goes on without it.
    """
    if importlib.util.find_spec("onnxsim") is None:
        raise UsageError("simplify needs onnxsim: pip install 'onnxcomp[simplify]'")
    if weight_bytes(model) >= EXTERNAL_FROM:
        raise ModelError("simplify does not run onnxsim on models near 2 GB; leave it out")
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        source, result = Path(folder) / "source.onnx", Path(folder) / "result.onnx"
        source.write_bytes(inline_bytes(model))
        _run_child([sys.executable, "-c", CHILD, str(source), str(result)], folder, timeout)
        simplified = ir.load(result)
    before, after = count_nodes(model), count_nodes(simplified)
    if after >= before:
        return 0
    if _interface(simplified) != _interface(model):
        raise ModelError("onnxsim changed the inputs, the outputs or the opset")
    small, large = constant_bytes(model), constant_bytes(simplified)
    if large > small * (1 + GROWTH) + NODE_BYTES * (before - after):
        raise ModelError(f"onnxsim folds too much: {large} bytes of constants instead of {small}")
    _keep_declarations(model, simplified)
    model.graph = simplified.graph
    model.functions.clear()
    model.functions.update(simplified.functions)
    return before - after


def _run_child(command: list[str], folder: str, timeout: int) -> None:
    try:  # in the folder, so that no module of the user's current one stands for another
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"onnxsim took more than {timeout} s") from error
    if done.returncode < 0:
        raise ModelError(f"onnxsim crashed ({_signal_name(-done.returncode)})")
    if done.returncode > 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else f"exit code {done.returncode}, no message"
        raise ModelError(f"onnxsim failed: {reason}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def _interface(model: ir.Model) -> tuple[object, ...]:
    inputs, outputs = (
        [(value.name, str(value.type)) for value in values]
        for values in (model.graph.inputs, model.graph.outputs)
    )
    return inputs, outputs, dict(model.opset_imports)


def _keep_declarations(model: ir.Model, simplified: ir.Model) -> None:
    """Restore dims of inputs and outputs, which onnxsim may rename, and metadata, which it drops.

    What the nodes themselves carry is lost: the new ones cannot be told apart from the old.
    """
    _keep_metadata(model.graph, simplified.graph)
    for old, new in chain(
        zip(model.graph.inputs, simplified.graph.inputs, strict=True),
        zip(model.graph.outputs, simplified.graph.outputs, strict=True),
    ):
        new.shape = old.shape
        _keep_metadata(old, new)


def _keep_metadata(old: ir.Graph | ir.Value, new: ir.Graph | ir.Value) -> None:
    new.metadata_props.clear()
    new.metadata_props.update(old.metadata_props)
