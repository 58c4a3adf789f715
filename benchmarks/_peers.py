"""The optimizers that are compared, each at its defaults; as a script: `_peers.py PEER IN OUT`.

Each function is what the tool's own documentation shows. Imports are inside, since a process that
runs one tool must not pay for another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

OURS = "onnxcomp"


@dataclass(frozen=True)
class Peer:
    """One row of the comparison: its label, the distribution it needs, and how to call it.

    `call` is None for the project itself, which is run as its users run it, with `options`.
    """

    label: str
    distribution: str
    call: Callable[[str, str], None] | None = None
    options: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def command(self, source: str, result: str) -> list[str]:
        """Return the command that optimizes `source` into `result`; -P: no folder shadows."""
        python = [sys.executable, "-P"]
        if self.call is None:
            return [*python, "-m", OURS, "optimize", source, "-o", result, *self.options]
        return [*python, __file__, self.label, source, result]


def _onnxsim(source: str, result: str) -> None:
    import onnx
    import onnxsim

    model, valid = onnxsim.simplify(onnx.load(source))
    assert valid, "Simplified ONNX model could not be validated"
    onnx.save(model, result)


def _onnxslim(source: str, result: str) -> None:
    import onnx
    import onnxslim

    model = onnxslim.slim(onnx.load(source))
    assert model, "onnxslim returned no model"
    onnx.save(model, result)


def _onnxoptimizer(source: str, result: str) -> None:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source), fixed_point=True), result)


def _onnxscript(source: str, result: str) -> None:
    import onnx_ir
    import onnxscript

    onnx_ir.save(onnxscript.optimizer.optimize(onnx_ir.load(source)), result)


def _ort_basic(source: str, result: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = result
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


PEERS = {
    peer.label: peer
    for peer in (
        Peer(OURS, OURS),
        Peer(f"{OURS} --no-verify", OURS, options=("--no-verify",)),
        Peer("onnxsim", "onnxsim", _onnxsim),
        Peer("OnnxSlim", "onnxslim", _onnxslim),
        Peer("onnxoptimizer", "onnxoptimizer", _onnxoptimizer),
        Peer("onnxscript", "onnxscript", _onnxscript),
        Peer("ORT basic", "onnxruntime", _ort_basic),
    )
}

if __name__ == "__main__":
    chosen = PEERS[sys.argv[1]].call
    assert chosen is not None
    try:
        chosen(sys.argv[2], sys.argv[3])
    except Exception as error:  # whatever a tool raises is told in one line
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
