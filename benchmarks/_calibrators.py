"""One calibrator on one model, as a process of its own: ranges as JSON.

    python benchmarks/_calibrators.py TOOL MODEL SAMPLES.npy COUNT OUT.json

TOOL is `bare` (runs only), `onnxcomp:METHOD` or `onnxruntime:METHOD`. SAMPLES holds one sample per
row; of a small file the rows are used again and again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

METHODS = {"minmax": "MinMax", "kl": "Entropy", "percentile": "Percentile"}


def feeds(model: Path, data: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yield samples, one in memory at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))
    name = session.get_inputs()[0].name
    del session
    rows = np.load(data, mmap_mode="r")
    for index in range(count):
        place = index % len(rows)
        yield {name: np.array(rows[place : place + 1])}


def bare(model: Path, data: Path, count: int) -> dict[str, Any]:
    """Run the model on every sample and look at nothing."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))
    for item in feeds(model, data, count):
        session.run(None, item)
    return {}


def ours(method: str, model: Path, data: Path, count: int) -> dict[str, Any]:
    """Calibrate with onnxcomp."""
    from onnxcomp.calibration.find import collect_ranges
    from onnxcomp.calibration.samples import open_samples
    from onnxcomp.model_io import load_model
    from onnxcomp.runtime import input_specs

    loaded = load_model(model)
    samples = open_samples(lambda: feeds(model, data, count), input_specs(loaded))
    found = collect_ranges(loaded, samples, method=method)
    return {name: [each.lo, each.hi] for name, each in found.values.items()}


def theirs(method: str, model: Path, data: Path, count: int) -> dict[str, Any]:
    """Calibrate with onnxruntime.quantization, at its defaults."""
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = feeds(model, data, count)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.items, None)

    calibrator = create_calibrator(
        str(model),
        augmented_model_path=f"{model}.augmented.onnx",
        calibrate_method=getattr(CalibrationMethod, METHODS[method]),
    )
    calibrator.set_execution_providers(["CPUExecutionProvider"])
    calibrator.collect_data(Reader())
    found = calibrator.compute_data().data
    return {
        name: [float(np.min(item.range_value[0])), float(np.max(item.range_value[1]))]
        for name, item in found.items()
    }


def main() -> None:
    """Run one tool and write what it found."""
    tool, model, data, count, out = sys.argv[1:]
    kind, _, method = tool.partition(":")
    arguments = Path(model), Path(data), int(count)
    if kind == "bare":
        found = bare(*arguments)
    else:
        found = (ours if kind == "onnxcomp" else theirs)(method, *arguments)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
