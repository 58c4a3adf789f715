"""onnxsim's simplifier, kept at arm's length."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx_ir as ir

from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import count_nodes
from onnxcomp.registry import Effect, register
from onnxcomp.runtime import inline_bytes

CHILD = """
import sys, onnx, onnxsim
model, _ = onnxsim.simplify(sys.argv[1], tensor_size_threshold="1MB")
onnx.save(model, sys.argv[2])
"""


@register(Effect.CLOSE)
def simplify(model: ir.Model, *, timeout: int = 120) -> int:
    """Let onnxsim simplify the model, in a process of its own.

    Its native code can crash or hang; here that is a line in the report. The result counts only
    when it has fewer nodes and the same inputs, outputs and opset. `timeout` is in seconds. Needs
    the extra `simplify`; in no preset, since the project's own passes do the same and more.

    Left alone when the result has no fewer nodes. Raises when onnxsim is missing, dies, takes too
    long or changes the interface; the pipeline then goes on without it.
    """
    if importlib.util.find_spec("onnxsim") is None:
        raise UsageError("simplify needs onnxsim: pip install 'onnxcomp[simplify]'")
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        source, result = Path(folder) / "source.onnx", Path(folder) / "result.onnx"
        source.write_bytes(inline_bytes(model))
        _run_child([sys.executable, "-c", CHILD, str(source), str(result)], timeout)
        simplified = ir.from_proto(ir.to_proto(ir.load(result)))
    before, after = count_nodes(model), count_nodes(simplified)
    if after >= before:
        return 0
    if _interface(simplified) != _interface(model):
        raise ModelError("onnxsim changed the inputs, the outputs or the opset")
    _keep_declared_shapes(model, simplified)
    model.graph = simplified.graph
    model.functions.clear()
    model.functions.update(simplified.functions)
    return before - after


def _run_child(command: list[str], timeout: int) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"onnxsim took more than {timeout} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"onnxsim crashed ({name})")
    if done.returncode > 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"onnxsim failed: {lines[-1][:200] if lines else 'no message'}")


def _interface(model: ir.Model) -> tuple[object, ...]:
    values = [
        (value.name, str(value.type)) for value in (*model.graph.inputs, *model.graph.outputs)
    ]
    return (*values, tuple(sorted(model.opset_imports.items())))


def _keep_declared_shapes(model: ir.Model, simplified: ir.Model) -> None:
    """Give inputs and outputs the dims that the model declares, which onnxsim may rename."""
    for kind in ("inputs", "outputs"):
        for old, new in zip(
            getattr(model.graph, kind), getattr(simplified.graph, kind), strict=True
        ):
            new.shape = old.shape
