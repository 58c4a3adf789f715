"""Every int8 quantizer on real models: metric, SQNR, speed, size, cost, and what is valid.

    python benchmarks/int8.py                            # this repository's models and built nets
    python benchmarks/int8.py --corpus FOLDER            # and models with tasks of their own
    python benchmarks/int8.py --models digits_cnn,resnet18 --peer onnxcomp --peer "ORT default"

A corpus is a folder with models/*.onnx and a corpus_eval.py whose TASKS name them: `calib()` yields
feeds, `evaluate(infer)` returns metrics, the first of which counts (higher is better). The page
goes to stdout, progress to stderr; `--write` also puts it into docs/benchmarks/int8.md and its
short form into the README. Needs `pip install '.[bench]'`. Linux or macOS.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _cases import Case, find_cases
from _int8_tables import FLOAT, page, short, speed_cell, summary
from _page import environment, installed, say, write
from _peers import OURS, Peer
from _process import Run, ask, run, shortened
from _quantizers import QUANTIZERS
from _tables import Row

HERE = Path(__file__).parent
JUDGE, TIMER = HERE / "_int8_verdict.py", HERE / "_int8_timing.py"
UNJUDGED = {"notes": []}


# ---------------------------------------------------------------- measuring
def measure(case: Case, peers: Sequence[Peer], count: int, limit: float) -> dict[str, Row]:
    """Make every quantizer's model of a case, one after the other, then judge and time them."""
    with tempfile.TemporaryDirectory(prefix="onnxcomp-bench-") as scratch:
        folder = Path(scratch)
        original, calib = folder / f"{case.name}.onnx", folder / "calib"
        case.write(original)
        write_samples(case, calib, count)
        runs = {peer.label: make(case, peer, original, calib, limit) for peer in peers}
        models = {FLOAT: original}
        models |= {label: folder / label.replace("/", "-") / "out.onnx" for label in runs}
        made = [label for label in models if label == FLOAT or not runs[label].failure]
        # Judging takes no times, so that it may use all cores.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda label: judged(case, original, models[label], limit), made)
            verdicts = dict(zip(made, found, strict=True))
        rows = {FLOAT: Row((), verdicts[FLOAT])}
        for label, done in runs.items():
            verdict = verdicts.get(label)
            if verdict is not None and verdict.get("sqnr_db") is not None:
                verdict = timed(case, original, models[label], verdict, limit)
            rows[label] = Row((done,), verdict)
            say(
                f"{case.name}: {label}: {speed_cell(rows[label])} {'; '.join(rows[label].problems)}"
            )
        return rows


def write_samples(case: Case, folder: Path, count: int) -> None:
    """Write the samples to calibrate on, each to a file of its own."""
    folder.mkdir()
    for index, feeds in enumerate(itertools.islice(case.calib(), count)):
        arrays = {name: data for name, data in feeds.items() if name != "labels"}
        np.savez(folder / f"{index:05}.npz", **arrays)


def make(case: Case, peer: Peer, original: Path, calib: Path, limit: float) -> Run:
    """Run one quantizer in a folder of its own."""
    result = original.parent / peer.label.replace("/", "-") / "out.onnx"
    result.parent.mkdir()
    more = ("--calib", str(calib)) if peer.label == OURS else (str(calib),)
    done = run(peer.command(str(original), str(result), *more), result.parent, limit)
    if done.failure is None and not result.exists():
        done = replace(done, failure="ended without a model")
    say(f"{case.name}: {peer.label}: {done.seconds:.1f} s {done.failure or ''}")
    return done


def judged(case: Case, original: Path, result: Path, limit: float) -> dict[str, Any]:
    """Return the judge's verdict, from a process of its own."""
    arguments = [case.name, str(original), str(result)]
    verdict, failure = ask(JUDGE, arguments, result.parent, limit)
    if failure:
        return {**UNJUDGED, "problems": [failure]}
    return {**verdict, "problems": [shortened(text) for text in verdict["problems"]]}


def timed(
    case: Case, original: Path, result: Path, verdict: dict[str, Any], limit: float
) -> dict[str, Any]:
    """Return the verdict with the speed-ups over the original."""
    arguments = [case.name, str(original), str(result)]
    found, failure = ask(TIMER, arguments, result.parent, limit)
    if failure:
        return {**verdict, "problems": [*verdict["problems"], failure]}
    return {**verdict, "speedups": found}


# ---------------------------------------------------------------- telling
def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="or env ONNXCOMP_CORPUS")
    parser.add_argument("--models", metavar="A,B", help="only these")
    parser.add_argument("--peer", action="append", choices=QUANTIZERS, help="only (repeatable)")
    parser.add_argument("--samples", type=int, default=32, metavar="N", help="to calibrate on (32)")
    parser.add_argument("--limit", type=float, default=240, metavar="S", help="seconds per process")
    parser.add_argument("--write", action="store_true", help="write the docs and the README too")
    return parser.parse_args()


def chosen_cases(names: str | None) -> dict[str, Case]:
    """Return the cases of these names, all without; exit for a name that is none."""
    cases = find_cases()
    if names is None:
        return cases
    wanted = names.split(",")
    unknown = [name for name in wanted if name not in cases]
    if unknown:
        sys.exit(f"no model {', '.join(unknown)}; there are {', '.join(cases)}")
    return {name: cases[name] for name in wanted}


def main() -> int:
    """Measure every model, then print the page; return the exit code."""
    given = options()
    if given.corpus is not None:
        os.environ["ONNXCOMP_CORPUS"] = str(given.corpus.resolve())  # for the children too
    cases, peers = chosen_cases(given.models), installed(QUANTIZERS, given.peer or [])
    rows = {name: measure(case, peers, given.samples, given.limit) for name, case in cases.items()}
    labels = [peer.label for peer in peers]
    machine = "\n".join(environment(peer.distribution for peer in peers))
    summed = summary(rows, OURS, {name: case.kind for name, case in cases.items()})
    full = page(rows, labels, summed, {"samples": str(given.samples), "environment": machine})
    table = short(rows, labels, summed)
    print(f"{full}\n## Short\n\n{table}")
    if given.write:
        write("int8", full, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
