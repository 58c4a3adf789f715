"""Channel pruners on models with data: metric and latency against the share of MACs that is left.

    python benchmarks/pruning.py                           # this repository's digits models
    python benchmarks/pruning.py --corpus FOLDER --models efficientnet_lite0,minilm_l3

Models start from their lossless form. Latency is timed in turns with that, on one thread. A corpus
is a folder as benchmarks/int8.py has it. The page goes to stdout, progress to stderr; `--write`
also puts it into docs/benchmarks/pruning.md. onnxsim is compared where it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir
from _cases import Case, Feeds, find_cases, judged_feeds
from _page import ROOT, environment, say
from _pruners import PRUNERS, Pruner

from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.cost import measure
from onnxcomp.errors import OnnxcompError
from onnxcomp.latency import measure_in_turns
from onnxcomp.model_io import load_model
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.runtime import Session, input_specs

DIGITS = ("digits_cnn", "digits_mlp", "digits_resnet", "digits_mobile")
TIMED, SECONDS = 3, 1.5
WITHIN = (0.01, 0.02)
PAGE = """# Channel pruners compared

Written by `benchmarks/pruning.py --write`; every number is from one run of it. *MACs* and *latency*
are shares of the lossless model's, latency in turns with it on one thread; *seconds* are what
pruning took. Samples to calibrate on are no part of those that the metric is of. Nothing here was
accepted or refused: `optimize --prune-channels` ships the most that keeps the budget and is faster.

{environment}

"""


@dataclass(frozen=True)
class Point:
    """A pruned model: what is left of the MACs and the time, and the metric; None: why not."""

    pruner: str
    strength: float
    macs: float
    latency: float
    metric: float | None
    seconds: float
    problem: str = ""


def points(case: Case, count: int) -> Iterator[Point]:
    """Yield the lossless model, then what each pruner makes of it."""
    with tempfile.TemporaryDirectory(prefix="onnxcomp-bench-") as scratch:
        path = Path(scratch) / f"{case.name}.onnx"
        case.write(path)
        model, _ = run_lossless(load_model(path), load_recipe("lossless").steps, None)
        samples = _samples(case, model, count)
        dense = Session(model, optimize=True, threads=1)
        feeds = judged_feeds(case, lambda item: list(dense.run(item).values()), TIMED)
        yield Point("dense", 0, 1, 1, _metric(case, dense), 0)
        for pruner in PRUNERS:
            if pruner.label == "onnxsim" and find_spec("onnxsim") is None:
                continue
            for strength in pruner.strengths:
                yield _point(case, pruner, strength, model, samples, dense, feeds)


def _samples(case: Case, model: ir.Model, count: int) -> Samples:
    def read() -> Iterator[Feeds]:
        for feeds in itertools.islice(case.calib(), count):
            yield {name: data for name, data in feeds.items() if name != "labels"}

    return open_samples(read, input_specs(model), model=model)


def _point(
    case: Case,
    pruner: Pruner,
    strength: float,
    model: ir.Model,
    samples: Samples,
    dense: Session,
    feeds: list[Feeds],
) -> Point:
    started = time.perf_counter()
    try:
        pruned = pruner.prune(model, samples, strength)
        session = Session(pruned, optimize=True, threads=1)
        seconds = time.perf_counter() - started
        speedup = measure_in_turns(dense, session, feeds, SECONDS).speedup
        metric = _metric(case, session)
    except OnnxcompError as error:
        return Point(pruner.label, strength, 1, 1, None, 0, str(error))
    sample = {name: data for name, data in feeds[0].items() if name != "labels"}
    macs = measure(pruned, sample).macs / measure(model, sample).macs
    return Point(pruner.label, strength, macs, 1 / speedup, metric, seconds)


def _metric(case: Case, session: Session) -> float | None:
    return case.evaluate(lambda feeds: list(session.run(dict(feeds)).values()))


# ---------------------------------------------------------------- telling
def table(name: str, found: list[Point]) -> str:
    """Return the points of a model, and the least that is left within a point or two."""
    lines = [f"## {name}", "", "| pruner | asked | MACs | latency | metric | seconds |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for point in found:
        metric = point.problem or ("-" if point.metric is None else f"{point.metric:.4f}")
        lines.append(
            f"| {point.pruner} | {point.strength:g} | {point.macs:.3f} | {point.latency:.2f} "
            f"| {metric} | {point.seconds:.1f} |"
        )
    lines.append("")
    for drop in WITHIN:
        best = {p: _least(found, p, drop) for p in dict.fromkeys(each.pruner for each in found)}
        told = "; ".join(
            f"{p} {point.macs:.2f} of MACs in {point.latency:.2f} of the time"
            for p, point in best.items()
            if point is not None and p != "dense"
        )
        lines.append(f"Within {drop:.0%}: {told or 'none'}.")
    return "\n".join([*lines, ""])


def _least(found: list[Point], pruner: str, drop: float) -> Point | None:
    """Return the fastest model of a pruner whose metric falls by so much at most."""
    dense = found[0].metric
    if dense is None:
        return None
    good = [
        each
        for each in found
        if each.pruner == pruner and each.metric is not None and each.metric >= dense - drop - 1e-9
    ]
    return min(good, key=lambda each: each.latency, default=None)


def main() -> int:
    """Measure the models, and print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="or env ONNXCOMP_CORPUS")
    parser.add_argument("--models", default=",".join(DIGITS), metavar="A,B")
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="to calibrate on (64)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/pruning.md too")
    given = parser.parse_args()
    if given.corpus is not None:
        os.environ["ONNXCOMP_CORPUS"] = str(given.corpus.resolve())
    cases: Mapping[str, Case] = find_cases()
    tables = []
    for name in given.models.split(","):
        found = []
        for point in points(cases[name], given.samples):
            say(f"{name}: {point}")
            found.append(point)
        tables.append(table(name, found))
    page = PAGE.format(environment="\n".join(environment(["onnxsim"]))) + "\n".join(tables)
    print(page)
    if given.write:
        (ROOT / "docs" / "benchmarks" / "pruning.md").write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
