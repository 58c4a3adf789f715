"""The optimizers that are compared, each at its defaults; as a script: `_peers.py PEER IN OUT`.

Each function is what the tool's own documentation shows. Imports are inside, since a process that
runs one tool must not pay for another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

OURS = "onnxcomp"


@dataclass(frozen=True)
class Peer:
    """One row of the comparison: its label, the distribution it needs, and how to call it.

    `call` is None for the project itself, which is run as its users run it, with `options`;
    another's is called by `script`, which ends with `call_peer`.
    """

    label: str
    distribution: str
    call: Callable[..., None] | None = None
    options: tuple[str, ...] = ()
    script: str = __file__

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def command(self, source: str, result: str, *more: str) -> list[str]:
        """Return the command that optimizes `source` into `result`.

        `more` are further options of the project, further arguments of another's call.
        """
        if self.call is None:  # -P: the folder that it runs in shadows nothing
            ours = [sys.executable, "-P", "-m", OURS, "optimize", source, "-o", result]
            return [*ours, *self.options, *more]
        return [sys.executable, self.script, self.label, source, result, *more]


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


def call_peer(peers: Mapping[str, Peer], label: str, *arguments: str) -> None:
    """Call one of the peers; whatever it raises is told in one line."""
    chosen = peers[label].call
    assert chosen is not None
    try:
        chosen(*arguments)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    call_peer(PEERS, *sys.argv[1:])
