"""Samples that take work to read are read once, as far as they are small, and never mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.acceptance import Budget
from onnxcomp.calibration import samples as opening
from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.errors import ModelError, SamplesError
from onnxcomp.runtime import InputSpec, Session
from onnxcomp.yardstick import Yardstick

ONE = [InputSpec("x", np.dtype(np.float32), (None,))]
WIDTH = 4


class Source:
    """Samples 0, 1, ... in one buffer that is used again; it counts what was made."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.made: list[int] = []

    def __call__(self) -> Iterator[dict[str, object]]:
        buffer = np.zeros(WIDTH, np.float32)
        for index in range(self.count):
            self.made.append(index)
            buffer[:] = index
            yield {"x": buffer}


def numbers(samples: Samples) -> list[int]:
    return [int(feeds["x"][0]) for feeds in samples]


def test_each_is_made_once() -> None:
    source = Source(9)
    samples = open_samples(source, ONE, keep=True)
    calibrating, held_out = split(samples)
    for _ in range(3):
        assert numbers(calibrating) == [0, 1, 2, 4, 5, 6, 8]
        assert numbers(held_out) == [3, 7]
    assert len(source.made) <= 3 * 9  # the first looks at each part, none later
    made = len(source.made)
    assert numbers(samples) == list(range(9))
    assert len(source.made) == made


def test_without_room_they_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "KEPT", 5 * 4 * WIDTH)
    source = Source(9)
    samples = open_samples(source, ONE, keep=True)
    for _ in range(3):
        assert numbers(samples) == list(range(9))
    assert source.made.count(8) == 3
    assert open_samples(source, ONE).pick is not samples.pick


@given(
    st.integers(1, 9),
    st.integers(0, 9),
    st.lists(st.tuples(st.frozensets(st.integers(0, 9)), st.integers(0, 9)), max_size=6),
)
def test_what_is_picked_is_what_was_asked_for(
    count: int, room: int, asked: list[tuple[frozenset[int], int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "KEPT", room * 4 * WIDTH)
        samples = open_samples(Source(count), ONE, keep=True)
        for wanted, most in asked:
            found = [
                int(feeds["x"][0])
                for _, feeds in zip(range(most), samples.pick(wanted.__contains__), strict=False)
            ]
            assert found == [index for index in range(count) if index in wanted][:most]


def test_what_is_kept_cannot_be_changed() -> None:
    samples = open_samples(Source(2), ONE, keep=True)
    first = next(iter(samples))
    with pytest.raises(ValueError, match="read-only"):
        first["x"][0] = 5
    first.clear()
    assert numbers(samples) == [0, 1]


def test_fewer_than_before_are_an_error() -> None:
    source = Source(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "KEPT", 4 * WIDTH)
        samples = open_samples(source, ONE, keep=True)
        assert len(numbers(samples)) == 5
        source.count = 3
        with pytest.raises(SamplesError, match="3 samples, where there were more before"):
            numbers(samples)


def test_files_are_not_kept(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((3, WIDTH), np.float32))
    samples = open_samples(tmp_path / "d.npz", ONE, keep=True)
    first, again = (next(iter(samples))["x"] for _ in range(2))
    assert not np.shares_memory(first, again)


def test_a_candidate_that_fails_midway_does_not_end_the_samples() -> None:
    graph = "agraph (float[n] x) => (float[n] y) { y = Neg (x) }"
    source = Source(9)
    held_out = open_samples(source, ONE)
    budget = Budget(held_out, None, "", None, 15.0, None, timed=False, threads=1)
    yardstick = Yardstick(parse(graph, 13), budget)
    works = Session(parse(graph, 13))

    class Fails:
        def run(self, feeds: dict[str, object]) -> dict[str, object]:
            if int(np.asarray(feeds["x"])[0]) == 3:
                raise ModelError("three")
            return works.run(feeds)  # type: ignore[arg-type,return-value]

    with pytest.raises(ModelError, match="three"):
        yardstick.parity(cast(Session, Fails()))
    for _ in range(2):
        parity = yardstick.parity(works)
        assert parity.samples == 9
        assert parity.sqnr_db > 100
    made = len(source.made)
    yardstick.parity(works)
    assert len(source.made) == made
