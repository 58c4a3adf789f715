"""Size, nodes and latency of models, lossless and int8, as a Markdown table.

    python benchmarks/overview.py                 # the models of this repository
    python benchmarks/overview.py FOLDER          # your own: *.onnx, with <stem>.npz as samples

Latency is the ratio original / result of runs made in turns on this machine, one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxcomp
from onnxcomp.api import compare

MODELS = Path(__file__).resolve().parent.parent / "models"
HEAD = (
    "| model | nodes | lossless nodes | lossless size | speed | int8 form | size | speed | "
    "SQNR dB | metric | int8 MACs |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def samples_of(path: Path) -> Path | None:
    """Return the model's own samples, or those of its family (`digits_cnn` -> `digits.npz`)."""
    candidates = (path.with_suffix(".npz"), path.with_name(f"{path.stem.split('_')[0]}.npz"))
    return next((found for found in candidates if found.exists()), None)


def row(path: Path) -> str:
    """Measure one model and return its row."""
    calib = samples_of(path)
    lossless = onnxcomp.optimize(path)
    int8 = onnxcomp.optimize(path, int8=True, calib=calib)
    before, after, small = lossless.report.before.cost, lossless.report.after.cost, int8.report
    speed = compare(path, lossless.model, calib=calib, samples=4, bench=True).latency
    form = next((each.scheme.name for each in small.candidates if each.chosen), "none")
    sqnr = small.parity.sqnr_db if small.parity else float("nan")
    metric = f"{small.metric.before:.4f} -> {small.metric.after:.4f}" if small.metric else ""
    cells = [
        path.stem,
        str(before.nodes),
        str(after.nodes),
        f"{after.bytes / before.bytes:.2f}x",
        f"{speed.speedup:.2f}x" if speed else "",
        form,
        f"{small.after.cost.bytes / before.bytes:.2f}x",
        f"{small.latency.speedup:.2f}x" if small.latency else "",
        "exact" if sqnr == float("inf") else f"{sqnr:.1f}",
        metric,
        f"{(small.int8.macs_share or 0):.0%}" if small.int8 else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row at a time."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS
    print(HEAD)
    for path in sorted(folder.glob("*.onnx")):
        try:
            print(row(path), flush=True)
        except onnxcomp.OnnxcompError as error:
            print(f"| {path.stem} | {error} |", flush=True)


if __name__ == "__main__":
    main()
