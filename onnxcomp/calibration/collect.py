"""Statistics of every float value of a model, over samples that stream through it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibration.counting import Feeds, Job, count, open_session
from onnxcomp.calibration.histogram import BINS
from onnxcomp.calibration.identity import digest_of_model
from onnxcomp.calibration.partial import Partial, open_partial
from onnxcomp.calibration.samples import Samples
from onnxcomp.calibration.statistics import Statistics
from onnxcomp.calibration.taps import Values, float_values, in_groups, values_of
from onnxcomp.calibration.workers import Crew, count_apart
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.runtime import Session, add_outputs, as_source
from onnxcomp.shapes import infer_shapes
from onnxcomp.stages import Progress
from onnxcomp.symbolic.propagate import propagate


@dataclass(frozen=True)
class Effort:
    """How to calibrate: what changes time and memory, and never the result.

    `threads` are those of each run (0: half of the cores, since two run; 1 in a worker), `crew`
    workers in the place of this process, `memory` the bytes that activations may take, `partial`
    the file to save to and go on from.
    """

    threads: int = 0
    crew: Crew | None = None
    memory: int | None = None
    partial: Path | None = None


def collect_statistics(
    model: ir.Model,
    samples: Samples,
    effort: Effort = Effort(),
    *,
    bins: int = BINS,
    per_channel: Sequence[str] = (),
    progress: Progress | None = None,
) -> Statistics:
    """Return the statistics of each float value of the main graph.

    Covered are its inputs and what its nodes make, but constants, the insides of subgraphs, what
    has a range by definition, what only reshapes another value, and what only an activation or a
    batch normalization reads. `per_channel` are globs of
    values to count by channel (axis 1) too. `progress` gets the samples done, and how many there
    are where that is known. Raises `ModelError` when the model does not load, or does not run on a
    sample, and `UsageError` when a glob matches nothing.
    """
    typed = model.clone()
    infer_shapes(typed)
    first = next(iter(samples))
    values = values_of(typed)
    for glob in per_channel:
        if not any(_matches(name, [glob]) for name in values.names):
            raise UsageError(f"--per-channel {glob!r} matches no float value of the model")
    groups = in_groups(_wanted(typed, values, per_channel), _shapes(typed, first), effort.memory)
    digest = digest_of_model(model)
    key = f"{digest} {bins} {sorted(per_channel)} {groups}"
    partial = open_partial(effort.partial, key, len(groups), bins, samples)
    inputs = frozenset(value.name or "" for value in typed.graph.inputs) & set(values.names)
    for number, group in enumerate(groups):
        chosen = [name for name in (*group, *inputs) if _matches(name, per_channel)]
        with _loadable(model, typed, group, first) as (source, taps):
            job = Job(
                digest,
                samples.source,
                frozenset(taps),
                inputs if number == 0 else frozenset(),
                frozenset(chosen),
                counts_samples=number == 0,
                bins=bins,
                threads=effort.threads or (1 if effort.crew else _half()),
            )
            _count_group(job, source, samples, number, partial, effort.crew, progress)
    partial.remove()
    return partial.statistics


def _half() -> int:
    """Return the threads of each of two runs at the same time."""
    return max(1, (os.cpu_count() or 2) // 2)


def _wanted(model: ir.Model, values: Values, per_channel: Collection[str]) -> list[str]:
    inputs = {value.name for value in model.graph.inputs}
    unread = {name for name in (*values.inner, *values.same) if not _matches(name, per_channel)}
    others = {*values.known, *inputs, *unread}
    return [name for name in values.names if name not in others]


def _matches(name: str, globs: Collection[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _shapes(model: ir.Model, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the values of one sample, as far as they can be reckoned."""
    found = propagate(model, {name: data.shape for name, data in feeds.items()}).shapes
    return {
        value.name: tuple(dim for dim in dims if isinstance(dim, int))
        for value, dims in found.items()
        if value.name and all(isinstance(dim, int) for dim in dims)
    }


@contextmanager
def _loadable(
    model: ir.Model, typed: ir.Model, group: Sequence[str], feeds: Feeds
) -> Iterator[tuple[str | bytes, Sequence[str]]]:
    """Yield the model with a group of values as outputs, and which of them it has.

    Where ONNX Runtime refuses to return them all, those without a type are left out.
    """
    certain = set(float_values(typed, typed=True))
    with as_source(add_outputs(model, group)) as source:
        if certain.issuperset(group) or _runs(source, feeds):
            yield source, group
            return
    known = [name for name in group if name in certain]
    with as_source(add_outputs(model, known)) as source:
        yield source, known


def _runs(source: str | bytes, feeds: Feeds) -> bool:
    try:
        Session(source).run(feeds)
    except ModelError:
        return False
    return True


def _count_group(
    job: Job,
    source: str | bytes,
    samples: Samples,
    group: int,
    partial: Partial,
    crew: Crew | None,
    progress: Progress | None,
) -> None:
    groups = len(partial.done)
    total = None if samples.count is None else samples.count * groups
    before = sum(stop - start for done in partial.done for start, stop in done)
    counted = 0

    def note(indices: Sequence[int]) -> None:
        nonlocal counted
        counted += len(indices)
        partial.note(group, indices)
        if progress is not None:
            progress(before + counted, total)

    def merge(found: Statistics, indices: list[int]) -> None:
        partial.statistics.merge(found)
        note(indices)

    todo = ((i, feeds) for i, feeds in enumerate(samples) if not partial.is_done(group, i))
    if crew is None:
        session = open_session(source, job.threads)
        count(job, session, todo, partial.statistics, lambda index: note([index]))
        return
    with _as_file(source) as (path, content):
        count_apart(crew, job, path, content, todo, merge)


@contextmanager
def _as_file(source: str | bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield a file that workers load the model from, and its content where it is not too large."""
    if isinstance(source, str):
        yield source, None
        return
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(source)
        yield str(path), source
