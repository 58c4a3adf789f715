"""Calibrators side by side: seconds, memory, thresholds, and the SQNR that these give.

    python benchmarks/calibration.py                       # a network of ResNet-18's shape
    python benchmarks/calibration.py --model m.onnx --samples x.npy --counts 8 64

The page goes to stdout, progress to stderr; `--write` puts it into docs/benchmarks/calibration.md.
SQNR is measured on activations of samples that no calibrator has seen: mean square over mean
squared error, of each tensor on the uint8 grid of its range. Linux or macOS.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from _networks import write_noise, write_resnet18
from _process import Run, run

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "calibration.md"
OURS = ("minmax", "percentile", "kl", "mse", "entropy", "auto")
THEIRS = ("minmax", "percentile", "kl")
TOOLS = (
    "bare",
    *(f"onnxcomp:{name}" for name in OURS),
    *(f"onnxruntime:{name}" for name in THEIRS),
)
# Samples on which the ranges are judged: the last rows of the file.
JUDGED = 4
# Tensors whose ranges are listed.
LISTED = 6

Ranges = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Result:
    """One tool: its runs by number of samples, and the ranges of the last one."""

    runs: Mapping[int, Run]
    ranges: Ranges


def measure(tool: str, model: Path, data: Path, counts: Sequence[int], repeat: int) -> Result:
    """Run a tool for each number of samples, several times, and keep the fastest runs."""
    runs, found = {}, {}
    child = Path(__file__).with_name("_calibrators.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ranges.json"
        for count in counts:
            command = [sys.executable, "-P", str(child), tool, str(model), str(data), str(count)]
            tried = [run([*command, str(out)], Path(folder), 1800) for _ in range(repeat)]
            runs[count] = min(tried, key=lambda each: each.seconds)
            seconds, memory = runs[count].seconds, runs[count].resident
            print(f"{tool} {count}: {seconds:.1f} s {memory:.0f} MB", file=sys.stderr, flush=True)
            if runs[count].failure is None:
                found = json.loads(out.read_text())
    return Result(runs, found)


def activations(model: Path, data: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return these tensors on the samples that are judged."""
    proto = onnx.load(model)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    source = session.get_inputs()[0].name
    rows = np.load(data, mmap_mode="r")[-JUDGED:]
    found: dict[str, list[Any]] = {name: [] for name in names}
    for index in range(len(rows)):
        feeds = {source: np.array(rows[index : index + 1])}
        results = zip(session.get_outputs(), session.run(None, feeds), strict=True)
        for value, result in [*((v.name, r) for v, r in results), (source, feeds[source])]:
            if value in found:
                found[value].append(result)
    return found


def sqnr(arrays: Sequence[Any], lo: float, hi: float) -> float:
    """Return the SQNR in dB of a tensor on the uint8 grid of [lo, hi], zero included."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = (hi - lo) / 255 or 1.0
    zero_point = round(-lo / scale)
    power = error = 0.0
    for data in arrays:
        wide = data.astype(np.float64)
        steps = np.clip(np.rint(wide / scale) + zero_point, 0, 255) - zero_point
        power += float(np.square(wide).sum())
        error += float(np.square(steps * scale - wide).sum())
    return float(10 * np.log10(power / error)) if error and power else float("inf")


# ---------------------------------------------------------------- the page
def costs(results: Mapping[str, Result], counts: Sequence[int]) -> list[str]:
    """Return the table of seconds and memory."""
    head = [f"{count} samples: s | x bare | MB" for count in counts]
    lines = [f"| calibrator | {' | '.join(head)} |", "| --- " * (1 + 3 * len(counts)) + "|"]
    for tool, result in results.items():
        cells = []
        for count in counts:
            one, base = result.runs[count], results["bare"].runs[count]
            ratio = f"{one.seconds / base.seconds:.2f}"
            cells += [f"{one.seconds:.2f}", ratio, f"{one.resident:.0f}"]
            if one.failure is not None:
                cells[-3:] = ["failed", "-", "-"]
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    return lines


def qualities(results: Mapping[str, Result], taps: Mapping[str, list[Any]]) -> list[str]:
    """Return the table of SQNR: over all tensors that each calibrator knows."""
    lines = ["| calibrator | median dB | worst dB | mean dB |", "| --- | --- | --- | --- |"]
    for tool, result in results.items():
        found = [sqnr(taps[name], *result.ranges[name]) for name in taps if name in result.ranges]
        if found:
            figures = (np.median(found), np.min(found), np.mean(found))
            lines.append(f"| {tool} | {' | '.join(f'{each:.2f}' for each in figures)} |")
    return lines


def thresholds(results: Mapping[str, Result], taps: Mapping[str, list[Any]]) -> list[str]:
    """Return the table of ranges of some tensors."""
    names = list(taps)[:: max(1, len(taps) // LISTED)][:LISTED]
    lines = [f"| calibrator | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|"]
    for tool, result in results.items():
        cells = [
            "-" if name not in result.ranges else "{:.3g} .. {:.3g}".format(*result.ranges[name])
            for name in names
        ]
        if result.ranges:
            lines.append(f"| {tool} | {' | '.join(cells)} |")
    return lines


def page(results: Mapping[str, Result], taps: Mapping[str, list[Any]], counts: list[int]) -> str:
    """Return the whole page."""
    packages = ("onnxcomp", "onnxruntime", "numpy")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    where = f"{platform.machine()}, Python {platform.python_version()}, {versions}."
    return "\n".join(
        [
            "# Calibrators compared",
            "",
            "Written by `make bench-calibration`; every number is from one run of it. Each row is",
            "processes of their own: start, imports, load, runs, thresholds. `bare` only runs the",
            "model. Memory is the peak of the process. `onnxruntime` is `onnxruntime.quantization`",
            f"at its defaults. {where}",
            "",
            *costs(results, counts),
            "",
            f"## SQNR of {len(taps)} tensors on samples that no calibrator saw",
            "",
            *qualities(results, taps),
            "",
            "## Ranges of some tensors",
            "",
            *thresholds(results, taps),
            "",
        ]
    )


def main() -> None:
    """Compare, and print or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="of one input; ResNet-18's shape without it")
    parser.add_argument("--samples", type=Path, help="an .npy, one sample per row")
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--tool", action="append", choices=TOOLS, help="only these (and bare)")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args()
    if (given.model is None) != (given.samples is None):
        parser.error("--model and --samples go together")
    tools = [tool for tool in TOOLS if tool == "bare" or given.tool is None or tool in given.tool]
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        model, data = Path(folder) / "model.onnx", Path(folder) / "samples.npy"
        if given.model is None:
            write_resnet18(model)
            write_noise(data, 32)
        else:
            model.write_bytes(given.model.read_bytes())
            data = given.samples.resolve()
        every = [measure(tool, model, data, given.counts, given.repeat) for tool in tools]
        results = dict(zip(tools, every, strict=True))
        names = sorted(set.intersection(*(set(r.ranges) for r in every if r.ranges)))
        text = page(results, activations(model, data, names), given.counts)
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
