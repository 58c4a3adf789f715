"""What compressors make of models with data: metric and latency against what is left of MACs."""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir
from _cases import Case, Feeds, find_cases, judged_feeds
from _page import ROOT, environment, say

from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.cost import measure
from onnxcomp.edits import sweep
from onnxcomp.errors import OnnxcompError
from onnxcomp.latency import measure_in_turns
from onnxcomp.model_io import load_model
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import find_target

DENSE = "dense"
TIMED, SECONDS = 3, 1.5
WITHIN = (0.01, 0.02)
SHARES_OF_TIME = (0.9, 0.75, 0.6)
PAGE = """# {title}

Written by `benchmarks/{name}.py --write`; every number is from one run of it. *MACs*, *bytes* and
*latency* are shares of the lossless model's, latency in turns with it on one thread; *seconds* are
what the tool took. Samples to calibrate on are no part of those that the metric is of. Nothing here
was accepted or refused: `optimize` ships the most that keeps the budget and is faster.{note}

{environment}

"""


Compress = Callable[[ir.Model, Samples, float], ir.Model]


@dataclass(frozen=True)
class Compressor:
    """A way to compress, and the strengths that it is tried at, in its own terms."""

    label: str
    compress: Compress
    strengths: Sequence[float]
    package: str = "onnxcomp"


def by_pass(name: str, strength: str, **options: object) -> Compress:
    """Return what runs a pass at a strength, which is one of its options."""

    def compress(model: ir.Model, samples: Samples, amount: float) -> ir.Model:
        result = model.clone()
        needs = {"samples": samples, "target": find_target("auto")}
        needs |= {"unfused": model, "original": model}
        apply(find_pass(name), result, {strength: amount, **options}, needs)
        sweep(result)
        return result

    return compress


@dataclass(frozen=True)
class Point:
    """A compressed model: what is left of MACs, bytes and time, and the metric; None: why not."""

    label: str
    strength: float
    macs: float
    size: float
    latency: float
    metric: float | None
    seconds: float
    problem: str = ""


def points(case: Case, compressors: Sequence[Compressor], count: int) -> Iterator[Point]:
    """Yield the lossless model, then what each compressor makes of it."""
    with tempfile.TemporaryDirectory(prefix="onnxcomp-bench-") as scratch:
        path = Path(scratch) / f"{case.name}.onnx"
        case.write(path)
        model, _ = run_lossless(load_model(path), load_recipe("lossless").steps, None)
        samples = _samples(case, model, count)
        dense = Session(model, optimize=True, threads=1)
        feeds = judged_feeds(case, lambda item: list(dense.run(item).values()), TIMED)
        yield Point(DENSE, 0, 1, 1, 1, _metric(case, dense), 0)
        for each in compressors:
            if find_spec(each.package) is None:
                say(f"{each.label} is left out: it is not installed")
                continue
            for strength in each.strengths:
                yield _point(case, each, strength, model, samples, dense, feeds)


def _samples(case: Case, model: ir.Model, count: int) -> Samples:
    def read() -> Iterator[Feeds]:
        for feeds in itertools.islice(case.calib(), count):
            yield {name: data for name, data in feeds.items() if name != "labels"}

    return open_samples(read, input_specs(model), model=model)


def _point(
    case: Case,
    compressor: Compressor,
    strength: float,
    model: ir.Model,
    samples: Samples,
    dense: Session,
    feeds: list[Feeds],
) -> Point:
    started = time.perf_counter()
    try:
        small = compressor.compress(model, samples, strength)
        session = Session(small, optimize=True, threads=1)
        seconds = time.perf_counter() - started
        speedup = measure_in_turns(dense, session, feeds, SECONDS).speedup
        metric = _metric(case, session)
    except OnnxcompError as error:
        return Point(compressor.label, strength, 1, 1, 1, None, 0, str(error))
    sample = {name: data for name, data in feeds[0].items() if name != "labels"}
    before, after = measure(model, sample), measure(small, sample)
    macs, size = after.macs / before.macs, after.bytes / before.bytes
    return Point(compressor.label, strength, macs, size, 1 / speedup, metric, seconds)


def _metric(case: Case, session: Session) -> float | None:
    return case.evaluate(lambda feeds: list(session.run(dict(feeds)).values()))


# ---------------------------------------------------------------- telling
def table(name: str, found: list[Point]) -> str:
    """Return the points of a model, and the least that is left within a point or two."""
    lines = [f"## {name}", "", "| | asked | MACs | bytes | latency | metric | seconds |"]
    lines += ["|" + " --- |" * 7]
    for point in found:
        metric = point.problem or ("-" if point.metric is None else f"{point.metric:.4f}")
        lines.append(
            f"| {point.label} | {point.strength:g} | {point.macs:.3f} | {point.size:.2f} "
            f"| {point.latency:.2f} | {metric} | {point.seconds:.1f} |"
        )
    lines.append("")
    for drop in WITHIN:
        near = _near(found, drop)
        fast = {p: min(best, key=lambda each: each.latency) for p, best in near.items()}
        small = {p: min(best, key=lambda each: each.size) for p, best in near.items()}
        told = "; ".join(
            f"{p} {point.macs:.2f} of MACs in {point.latency:.2f} of the time"
            for p, point in fast.items()
        )
        lines.append(f"Within {drop:.0%}, fastest: {told or 'none'}.")
        told = "; ".join(f"{p} {point.size:.2f} of bytes" for p, point in small.items())
        lines.append(f"Within {drop:.0%}, smallest: {told or 'none'}.")
    for share in SHARES_OF_TIME:
        told = "; ".join(
            f"{label} {point.metric:.3f}"
            for label in dict.fromkeys(each.label for each in found[1:])
            if (point := _best(found, label, share)) is not None
        )
        lines.append(f"In at most {share:g} of the time: {told or 'none'}.")
    return "\n".join([*lines, ""])


def _best(found: list[Point], label: str, share: float) -> Point | None:
    """Return the best model of a compressor that takes at most this share of the time."""
    good = [each for each in found if each.label == label and each.latency <= share]
    known = [each for each in good if each.metric is not None]
    return max(known, key=lambda each: each.metric or 0.0, default=None)


def _near(found: list[Point], drop: float) -> dict[str, list[Point]]:
    """Return by compressor the models whose metric falls by so much at most."""
    dense = found[0].metric
    near: dict[str, list[Point]] = {}
    for each in found[1:]:
        if dense is not None and each.metric is not None and each.metric >= dense - drop - 1e-9:
            near.setdefault(each.label, []).append(each)
    return near


def compare(
    name: str,
    doc: str,
    compressors: Sequence[Compressor],
    models: str,
    peers: Sequence[str],
    note: str = "",
) -> int:
    """Measure the models, and print the page, or write docs/benchmarks/NAME.md too."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="or env ONNXCOMP_CORPUS")
    parser.add_argument("--models", default=models, metavar="A,B")
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="to calibrate on (64)")
    parser.add_argument("--write", action="store_true", help=f"write docs/benchmarks/{name}.md too")
    given = parser.parse_args()
    if given.corpus is not None:
        os.environ["ONNXCOMP_CORPUS"] = str(given.corpus.resolve())
    cases: Mapping[str, Case] = find_cases()
    tables = []
    for model in given.models.split(","):
        found = []
        for point in points(cases[model], compressors, given.samples):
            say(f"{model}: {point}")
            found.append(point)
        tables.append(table(model, found))
    title = doc.splitlines()[0].partition(":")[0]
    page = PAGE.format(title=title, environment="\n".join(environment(peers)), name=name, note=note)
    page += "\n".join(tables)
    print(page)
    if given.write:
        (ROOT / "docs" / "benchmarks" / f"{name}.md").write_text(page)
    return 0
