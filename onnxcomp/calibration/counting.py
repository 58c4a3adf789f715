"""Runs a model on samples and counts what it computes, two samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnxcomp.ahead import in_order
from onnxcomp.calibration.histogram import BINS
from onnxcomp.calibration.statistics import Statistics
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.runtime import Session

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Job:
    """What to count: values of a model that returns them all, and of which by channel.

    `inputs` are the model's inputs to count too; `counts_samples` is true in one of the groups that
    a model's values may be split into. `source` is for messages.
    """

    digest: str
    source: str
    values: frozenset[str]
    inputs: frozenset[str] = frozenset()
    per_channel: frozenset[str] = frozenset()
    counts_samples: bool = True
    bins: int = BINS
    threads: int = 0


def open_session(source: str | bytes, threads: int) -> Session:
    """Load a model as it will be deployed, or as it stands where ONNX Runtime's rewrites fail."""
    try:
        return Session(source, optimize=True, threads=threads)
    except ModelError:
        return Session(source, threads=threads)


def count(
    job: Job,
    session: Session,
    samples: Iterable[tuple[int, Feeds]],
    into: Statistics,
    after: Callable[[int], None] = lambda _: None,
) -> None:
    """Run samples, which come with their index, and take what is computed into statistics.

    Two samples run and are counted at the same time, so the values of two are held. `after` is
    called with the index of each sample once all up to it are counted. Raises `ModelError` when the
    model does not run on a sample.
    """

    def counted(sample: tuple[int, Feeds]) -> tuple[int, Statistics]:
        return sample[0], _statistics_of(job, session, *sample)

    for index, found in in_order(counted, samples):
        into.merge(found)
        after(index)


def _statistics_of(job: Job, session: Session, index: int, feeds: Feeds) -> Statistics:
    """Return the statistics of one sample."""
    try:
        results = session.run(feeds)
    except ModelError as error:
        raise ModelError(f"{error} (on {job.source}, sample {index})") from error
    found = Statistics(job.bins)
    if job.counts_samples:
        found.count_sample(feeds)
    found.observe({name: feeds[name] for name in feeds if name in job.inputs}, job.per_channel)
    while results:  # let go of each value as it is counted
        name, data = results.popitem()
        if name in job.values:
            found.observe({name: data}, job.per_channel)
    return found
