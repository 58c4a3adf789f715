"""What each repair does for the static int8 form of a model: signal-to-noise on samples held out.

    python benchmarks/repair.py MODEL --calib SPEC [--samples 32]

Every fourth sample is held out. The rows are repairs in the order in which they run: (E) equalize
channels, (A) absorb high biases, (C) clip weights, (R) round weights, then quantize-static with MSE
ranges, then (B) correct biases. The columns are x86 with VNNI and without; dB are those of the
worst output, seconds those of one core.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import onnx_ir as ir

from onnxcomp.calibration.find import collect_ranges
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.edits import sweep
from onnxcomp.model_io import load_model
from onnxcomp.parity import ParityMeter
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

BEFORE = {
    "E": "equalize-channels",
    "A": "absorb-high-bias",
    "C": "clip-weights",
    "R": "round-weights",
}
ROWS = ("", "E", "A", "C", "R", "B", "ER", "ERB")
TARGET_NAMES = ("x86-vnni", "x86")


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--samples", type=int, default=32)
    given = parser.parse_args()
    model, _ = run_lossless(load_model(given.model), load_recipe("lossless").steps, None)
    samples = open_samples(given.calib, input_specs(model), limit=given.samples, model=model)
    kept = replace(samples, pick=lambda wanted: samples.pick(lambda i: i % 4 != 3 and wanted(i)))
    print("| repairs | VNNI, dB | without, dB | seconds |")
    print("|---|---|---|---|")
    for repairs in ROWS:
        results = [measure(model, kept, samples, repairs, name) for name in TARGET_NAMES]
        figures = " | ".join(f"{sqnr_db:.1f}" for sqnr_db, _ in results)
        print(f"| {repairs or 'none'} | {figures} | {results[0][1]:.1f} |", flush=True)


def measure(
    model: ir.Model, kept: Samples, samples: Samples, repairs: str, target: str
) -> tuple[float, float]:
    """Return the signal-to-noise ratio of a repaired int8 model, and what the repairs took."""
    needs = {"samples": kept, "target": TARGETS[target], "unfused": model}
    exact, int8, seconds = model, model.clone(), 0.0
    for repair in [each for each in repairs if each in BEFORE]:
        start = time.process_time()
        apply(find_pass(BEFORE[repair]), int8, {}, needs)
        seconds += time.process_time() - start
        exact = int8.clone() if repair == "E" else exact
    ranges = collect_ranges(int8, kept, method="mse")
    apply(find_pass("quantize-static"), int8, {}, {**needs, "ranges": ranges})
    if "B" in repairs:
        start = time.process_time()
        apply(find_pass("correct-bias"), int8, {}, {**needs, "original": exact})
        seconds += time.process_time() - start
    sweep(int8)
    return sqnr(model, int8, samples), seconds


def sqnr(model: ir.Model, int8: ir.Model, samples: Samples) -> float:
    """Compare answers to the samples held out."""
    meter, before, after = ParityMeter(), Session(model), Session(int8, optimize=True)
    for feeds in samples.pick(lambda index: index % 4 == 3):
        meter.add(before.run(feeds), after.run(feeds))
    return float(meter.result().sqnr_db)


if __name__ == "__main__":
    main()
