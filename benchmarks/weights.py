"""Weights in fewer bits: file, memory when loaded, time and error of each form, as a table.

    python benchmarks/weights.py MODEL.onnx [CALIB]            # every form
    python benchmarks/weights.py MODEL.onnx CALIB --peer       # MatMul in int4, and ONNX Runtime's

Each form is what its passes make, in or out of the budget. Memory is what a fresh process has more
of, in private pages, after ONNX Runtime has loaded the file; time is in turns with the original,
one thread, over four samples; the error is over 16 samples that no pass has seen.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.edits import sweep
from onnxcomp.latency import measure_in_turns
from onnxcomp.model_io import load_model, save_model
from onnxcomp.parity import ParityMeter
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import find_target

HELD_OUT, TIMED = 16, 4
PRODUCTS = {"ops": "MatMul,Gemm"}
LOADED = """
import re, sys, onnxruntime
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = private()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print((private() - before) * 1024)
"""
HEAD = (
    "| form | bytes | share | MB loaded | ms | speed-up | SQNR dB |\n|---|---|---|---|---|---|---|"
)
Steps = list[tuple[str, dict[str, object]]]
FORMS: dict[str, Steps] = {
    "fp16": [("convert-float16", {})],
    "bf16": [("convert-float16", {"type": "bfloat16"})],
    "int8": [("quantize-weights", {})],
    "int4 folded": [("quantize-blocks", {"form": "folded"}), ("quantize-weights", {})],
    "int4 nbits": [("quantize-blocks", {"form": "nbits"}), ("quantize-weights", {})],
    "int4 standard": [("quantize-blocks", {"form": "standard"}), ("quantize-weights", {})],
    "codebook 256": [("cluster-weights", {"values": 256})],
    "codebook 16": [("cluster-weights", {})],
    "log 16": [("cluster-weights", {"codebook": "log"})],
    "pow2 16": [("cluster-weights", {"codebook": "pow2"})],
    "ternary": [("cluster-weights", {"codebook": "ternary"})],
}
PEERS: dict[str, Steps] = {
    f"onnxcomp {form} {rounding} {'sym' if symmetric else 'asym'}": [
        (
            "quantize-blocks",
            {**PRODUCTS, "form": form, "rounding": rounding, "symmetric": symmetric},
        )
    ]
    for form, rounding, symmetric in (
        ("nbits", "nearest", True),
        ("nbits", "hqq", True),
        ("nbits", "gptq", True),
        ("nbits", "gptq", False),
        ("folded", "gptq", True),
    )
}


def made_by(steps: Steps, samples: Samples) -> Callable[[ir.Model], ir.Model]:
    """Return what runs passes on a copy of a model."""

    def run(model: ir.Model) -> ir.Model:
        copy = model.clone()
        for name, options in steps:
            needs = {"samples": samples, "target": find_target("auto")}
            found = find_pass(name)
            apply(
                found, copy, options, {need: needs[need] for need in found.needs if need in needs}
            )
            sweep(copy)
        return copy

    return run


def peer(*, symmetric: bool) -> Callable[[ir.Model], ir.Model]:
    """Return what runs ONNX Runtime's MatMulNBitsQuantizer, blocks of 32, rounding to nearest."""

    def run(model: ir.Model) -> ir.Model:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            ir.to_proto(model.clone()), bits=4, block_size=32, is_symmetric=symmetric
        )
        quantizer.process()
        found: onnx.ModelProto = quantizer.model.model
        return ir.from_proto(found)

    return run


def row(name: str, before: Path, after: Path, held_out: Samples) -> str:
    """Measure one file against the original."""
    plain, original, found = Session(str(before)), *(
        Session(str(path), optimize=True) for path in (before, after)
    )  # fmt: skip
    meter = ParityMeter()
    feeds = list(itertools.islice(held_out, HELD_OUT))
    for each in feeds:
        meter.add(plain.run(each), found.run(each))
    latency = measure_in_turns(original, found, feeds[:TIMED], 4.0)
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED, str(after)], capture_output=True, text=True, check=True
    )
    size, whole = after.stat().st_size, before.stat().st_size
    return (
        f"| {name} | {size} | {size / whole:.3f} | {int(loaded.stdout) / 1e6:.1f} "
        f"| {latency.after_ms:.3g} | {latency.speedup:.2f} | {meter.result().sqnr_db:.1f} |"
    )


def main() -> None:
    """Print the table of one model."""
    arguments = [each for each in sys.argv[1:] if each != "--peer"]
    model = load_model(arguments[0])
    samples = open_samples(
        arguments[1] if len(arguments) > 1 else "random:64", input_specs(model), model=model
    )
    calibration, held_out = split(samples)
    model, _ = run_lossless(model, load_recipe("lossless").steps, None)
    makers = {name: made_by(steps, calibration) for name, steps in FORMS.items()}
    if "--peer" in sys.argv:
        makers = {name: made_by(steps, calibration) for name, steps in PEERS.items()}
        makers["ONNX Runtime symmetric"] = peer(symmetric=True)
        makers["ONNX Runtime asymmetric"] = peer(symmetric=False)
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        save_model(model, before)
        print(row("float32", before, before, held_out), flush=True)
        for name, make in makers.items():
            save_model(make(model), after)
            print(row(name, before, after, held_out), flush=True)


if __name__ == "__main__":
    main()
