"""Statistics merge exactly, survive a file, and come out the same however they are collected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxcomp.calibration import partial
from onnxcomp.calibration.caching import cached_ranges
from onnxcomp.calibration.collect import Effort, collect_statistics
from onnxcomp.calibration.crews import open_crew
from onnxcomp.calibration.find import collect_ranges, find_ranges
from onnxcomp.calibration.intervals import covers, with_numbers
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.calibration.statistics import Statistics
from onnxcomp.calibration.statistics_file import from_bytes, to_bytes
from onnxcomp.calibration.taps import in_groups
from onnxcomp.calibration.workers import Crew
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.runtime import input_specs

MODEL = ir.from_onnx_text(
    '<ir_version: 10, opset_import: ["" : 20]> g (float[N,3,H] x) => (float[N,3,H] y) {'
    " a = Relu(x)  b = Exp(x)  c = Transpose<perm = [0, 2, 1]>(b)  d = Sigmoid(x)"
    " e = Add(a, d)  y = Sub(e, b) }"
)


def draw(count: int = 20) -> list[Any]:
    rng = np.random.default_rng(3)
    shapes = [(1 + index % 2, 3, 4 + index % 5) for index in range(count)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def opened(given: Any) -> Samples:
    return open_samples(given, input_specs(MODEL))


def collect(given: Any, effort: Effort = Effort(), **options: Any) -> bytes:  # noqa: B008
    return to_bytes(collect_statistics(MODEL, opened(given), effort, **options))


def test_only_what_must_be_looked_at_is() -> None:
    found = collect_statistics(MODEL, opened(draw(2)))
    assert set(found.values) == {"x", "a", "b", "e", "y"}
    ranges = find_ranges(MODEL, found, "minmax", "here")
    assert list(ranges.values) == ["x", "a", "b", "c", "d", "e", "y"]
    assert ranges.values["c"] == ranges.values["b"]


def test_a_file_gives_back_what_it_was_made_of() -> None:
    found = collect_statistics(MODEL, opened(draw(3)), per_channel=["b", "y"])
    again, head = from_bytes(to_bytes(found, more=1))
    assert head["more"] == 1
    assert to_bytes(again) == to_bytes(found)
    assert [len(again.values[name].channels.settle()) for name in ("a", "b", "y")] == [0, 3, 3]


@pytest.mark.parametrize("length", [0, 10, -20, -100])
def test_a_damaged_file_is_refused(length: int) -> None:
    content = collect(draw(2))
    with pytest.raises(ValueError, match=r"."):
        from_bytes(content[:length])


def test_channels_are_the_values_along_axis_1() -> None:
    found = collect_statistics(MODEL, opened(draw()), per_channel=["x"]).values["x"]
    for channel, histogram in enumerate(found.channels.settle()):
        data = np.concatenate([x[:, channel].reshape(-1) for x in draw()])
        assert (histogram.lo, histogram.hi, histogram.total) == (data.min(), data.max(), data.size)
    assert sum(each.total for each in found.channels.settle()) == found.histogram.total
    ranges = collect_ranges(MODEL, opened(draw()), per_channel=["x"])
    assert [r.lo for r in ranges.channels["x"]] == [each.lo for each in found.channels.settle()]


def test_the_average_is_exact_and_without_order() -> None:
    samples = draw()
    found = collect_ranges(MODEL, opened(samples), method="average").values["x"]
    assert found.lo == float(sum(Fraction(float(x.min())) for x in samples) / len(samples))
    assert found == collect_ranges(MODEL, opened(samples[::-1]), method="average").values["x"]


# ---------------------------------------------------------------- groups of bounded memory
def test_groups_keep_the_bound() -> None:
    shapes = {"a": (10, 10), "b": (5, 10), "c": (10, 10), "d": (1, 1)}
    assert in_groups("abcd", shapes, None) == [["a", "b", "c", "d"]]
    assert in_groups("abcd", shapes, 1200) == [["a", "b"], ["c", "d"]]
    assert in_groups("abcd", shapes, 1) == [["a"], ["b"], ["c"], ["d"]]
    assert in_groups("aub", shapes, 1200) == [["a"], ["u", "b"]]


@pytest.mark.parametrize("memory", [1, 300, 10**9])
def test_a_bound_on_memory_changes_nothing(memory: int) -> None:
    found = collect_statistics(MODEL, opened(draw()), Effort(memory=memory))
    plain = collect_statistics(MODEL, opened(draw()))
    assert (found.samples, found.digest) == (plain.samples, plain.digest)
    for name, statistic in plain.values.items():
        one, other = Statistics(), Statistics()
        one.values[name], other.values[name] = statistic, found.values[name]
        assert to_bytes(one) == to_bytes(other)


# ---------------------------------------------------------------- interruptions
def test_intervals() -> None:
    found = with_numbers([(0, 2), (5, 6)], [2, 4, 9])
    assert found == [(0, 3), (4, 6), (9, 10)]
    assert [number for number in range(11) if covers(found, number)] == [0, 1, 2, 4, 5, 9]
    assert not covers([], 0)


class KilledError(Exception):
    """What a kill is here."""


def interrupted_after(count: int, given: list[Any], effort: Effort) -> None:
    def progress(done: int, total: int | None) -> None:
        if done == count:
            raise KilledError

    with pytest.raises(KilledError):
        collect_statistics(MODEL, opened(given), effort, progress=progress)


@pytest.mark.parametrize("memory", [None, 300])
def test_an_interrupted_run_goes_on(
    memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SAVE_EVERY", -1.0)
    effort = Effort(memory=memory, partial=tmp_path / "r.json.partial")
    interrupted_after(7, draw(), effort)
    assert effort.partial is not None
    assert effort.partial.exists()
    ran: list[int] = []
    content = to_bytes(
        collect_statistics(
            MODEL, opened(draw()), effort, progress=lambda done, total: ran.append(done)
        )
    )
    assert ran[0] == 8
    assert content == collect(draw(), Effort(memory=memory))
    assert not effort.partial.exists()


@pytest.mark.parametrize("change", ["samples", "damage", "channels"])
def test_what_was_saved_of_something_else_is_not_used(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SAVE_EVERY", -1.0)
    effort = Effort(partial=tmp_path / "partial")
    interrupted_after(7, draw(), effort)
    assert effort.partial is not None
    samples = draw()
    if change == "samples":
        samples[2] = samples[2] * 2
    elif change == "damage":
        effort.partial.write_bytes(effort.partial.read_bytes()[:100])
    channels = ["x"] if change == "channels" else []
    assert collect(samples, effort, per_channel=channels) == collect(samples, per_channel=channels)


# ---------------------------------------------------------------- workers
def test_workers_give_the_same_bytes() -> None:
    with open_crew(workers=2) as crew:
        assert collect(draw(40), Effort(crew=crew)) == collect(draw(40))


def test_any_executor_will_do_and_stays_open() -> None:
    with ThreadPoolExecutor(2) as executor, open_crew(executor=executor) as crew:
        assert collect(draw(40), Effort(crew=crew)) == collect(draw(40))
        assert executor.submit(int).result() == 0


class Dying(Executor):
    """An executor whose worker dies at some tasks."""

    def __init__(self, deaths: list[int]) -> None:
        self.deaths = deaths

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.deaths[0] -= 1
        if self.deaths[0] == 0:
            future.set_exception(BrokenProcessPool("a worker died"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def test_a_dead_worker_costs_nothing_but_time() -> None:
    deaths = [2]
    crew = Crew(lambda: Dying(deaths), 3, restarts=True)
    assert collect(draw(40), Effort(crew=crew)) == collect(draw(40))
    assert deaths[0] < 0


def test_workers_that_keep_dying_are_an_error() -> None:
    crew = Crew(lambda: Dying([1]), 3, restarts=True)
    with pytest.raises(ModelError, match=r"a worker of the calibration died.*--calib-memory"):
        collect(draw(40), Effort(crew=crew))


class Losing(Executor):
    """An executor that loses the first results, as Dask's does when a worker dies."""

    def __init__(self, error: BaseException, losses: int) -> None:
        self.error, self.losses = error, losses

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.losses -= 1
        if self.losses < 0:
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    "error", [TypeError("cannot unpack non-iterable Statistics object"), CancelledError("lost")]
)
def test_a_lost_result_costs_nothing_but_time(error: BaseException) -> None:
    with open_crew(executor=Losing(error, 4)) as crew:  # of different tasks, as many as are out
        assert collect(draw(40), Effort(crew=crew)) == collect(draw(40))


def test_results_that_keep_getting_lost_are_an_error() -> None:
    message = r"failed 3 times at samples \d+ to \d+ \(MemoryError: no room\).*--calib-memory"
    with (
        open_crew(executor=Losing(MemoryError("no room"), 1_000)) as crew,
        pytest.raises(ModelError, match=message),
    ):
        collect(draw(40), Effort(crew=crew))


def test_a_worker_that_does_not_see_the_file_gets_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from onnxcomp.calibration import workers

    monkeypatch.setattr(workers, "_LOADED", {})
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with ThreadPoolExecutor(1) as executor, open_crew(executor=executor) as crew:
        found = collect(draw(9), Effort(crew=crew))
    monkeypatch.undo()
    assert found == collect(draw(9))


def test_an_error_in_a_worker_names_the_sample() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N] x, float[M] z) => (float[K] y)'
        " { y = Add(x, z) }"
    )
    pairs = [{"x": np.ones(n), "z": np.ones(2)} for n in (2, 3)]
    samples = open_samples(
        [{k: v.astype(np.float32) for k, v in pair.items()} for pair in pairs], input_specs(model)
    )
    with open_crew(workers=1) as crew, pytest.raises(ModelError, match=r"\(on list, sample 1\)"):
        collect_statistics(model, samples, Effort(crew=crew))


def test_a_cluster_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcomp.calibration.crews.PATIENCE", 0.2)
    with pytest.raises(UsageError, match="no Dask scheduler"), open_crew(cluster="tcp://[::1]:1"):
        pass


# ---------------------------------------------------------------- ranges that are kept
def test_a_ranges_file_serves_while_model_and_samples_stay(tmp_path: Path) -> None:
    path, said = tmp_path / "r.json", list[str]()

    def find(given: list[Any], method: str = "minmax", model: ir.Model = MODEL) -> str:
        said.clear()
        samples = opened(given)

        def find_anew(partial: Path) -> Ranges:
            return collect_ranges(model, samples, Effort(partial=partial), method=method)

        cached_ranges(path, model, samples, method, find_anew, said.append)
        return path.read_text()

    first = find(draw())
    assert not said
    assert find(draw()) == first
    assert "nothing to calibrate" in said[0]
    assert json.loads(find(draw(), "average"))["method"] == "average"
    assert not said
    assert find(draw(5)) != first
    other = MODEL.clone()
    other.graph.name = "other"
    find(draw(5), model=other)
    assert not said
    path.write_text("{")
    assert find(draw()) == first


def test_ten_thousand_samples_from_a_generator() -> None:
    def feeds() -> Iterator[Any]:
        for index in range(10_000):
            yield np.full((1, 3, 4), index, np.float32)

    found = collect_ranges(MODEL, opened(feeds))
    assert (found.samples, found.values["x"].hi) == (10_000, 9999.0)
