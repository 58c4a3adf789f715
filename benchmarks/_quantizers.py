"""The int8 quantizers that are compared; as a script: `_quantizers.py LABEL IN OUT CALIB`.

CALIB is a folder of .npz files, one sample each. Each function is what the tool's own
documentation shows, preparation included. Imports are inside, since a process that runs one tool
must not pay for another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _peers import OURS, Peer, call_peer

ORT = "onnxruntime"
# Where per-channel QuantizeLinear makes a model of an older operator set unloadable.
RAISED_OPSET = 17


def samples(calib: str) -> Iterator[dict[str, Any]]:
    """Yield the samples, one in memory at a time."""
    import numpy as np

    for path in sorted(Path(calib).glob("*.npz")):
        with np.load(path) as stored:
            yield dict(stored)


# ---------------------------------------------------------------- onnxruntime.quantization
def _ort_default(source: str, result: str, calib: str) -> None:
    _ort_static(_prepared(source), result, calib)


def _ort_per_channel(source: str, result: str, calib: str) -> None:
    from onnxruntime.quantization import QuantType

    options = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    }
    prepared = _prepared(source)
    try:
        _ort_static(prepared, result, calib, **options)
        _load(result)
    except Exception:  # whatever it raises, of whichever layer
        _ort_static(_raised(prepared), result, calib, **options)


def _ort_dynamic(source: str, result: str, calib: str) -> None:  # noqa: ARG001  (needs no data)
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_prepared(source), result)


def _ort_static(source: str, result: str, calib: str, **options: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = samples(calib)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.items, None)

    quantize_static(source, result, Reader(), **options)


def _prepared(source: str) -> str:
    """Return the model after the preprocessing that the documentation asks for, where it works."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    for skip in (False, True):
        try:
            quant_pre_process(source, "prepared.onnx", skip_symbolic_shape=skip)
        except Exception:  # some models are beyond it
            continue
        return "prepared.onnx"
    return source


def _raised(source: str) -> str:
    import onnx

    converted = onnx.version_converter.convert_version(onnx.load(source), RAISED_OPSET)
    onnx.save(converted, "raised.onnx")
    return "raised.onnx"


def _load(path: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------- onnxsim
def _onnxsim(source: str, result: str, calib: str, **options: Any) -> None:
    import onnx
    import onnxsim

    model, valid = onnxsim.simplify(onnx.load(source))
    start = model if valid else onnx.load(source)
    found = onnxsim.quantize_static(start, calibration_data=list(samples(calib)), **options)
    onnx.save(found, result)


def _onnxsim_full(source: str, result: str, calib: str) -> None:
    _onnxsim(source, result, calib, full_graph=True)


QUANTIZERS = {
    peer.label: peer
    for peer in (
        Peer(OURS, OURS, options=("--int8", "--quiet")),
        Peer("ORT default", ORT, _ort_default, script=__file__),
        Peer("ORT u8/s8 per-channel", ORT, _ort_per_channel, script=__file__),
        Peer("ORT dynamic", ORT, _ort_dynamic, script=__file__),
        Peer("onnxsim", "onnxsim", _onnxsim, script=__file__),
        Peer("onnxsim full graph", "onnxsim", _onnxsim_full, script=__file__),
    )
}

if __name__ == "__main__":
    call_peer(QUANTIZERS, *sys.argv[1:])
