"""The ranges file: what is written is read back to the bit, and nothing else is taken for one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.calibration.ranges import Range, Ranges, read_ranges
from onnxcomp.errors import SamplesError

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
RANGE = st.tuples(NUMBER, NUMBER).map(lambda pair: Range(min(pair), max(pair)))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
RANGES = st.builds(
    Ranges,
    st.dictionaries(TEXT, RANGE, max_size=4),
    TEXT,
    st.integers(0),
    TEXT,
    st.dictionaries(TEXT, st.integers(1), max_size=2),
    st.dictionaries(TEXT, st.integers(1), max_size=2),
    st.dictionaries(TEXT, st.lists(RANGE, max_size=2).map(tuple), max_size=2),
    st.lists(TEXT, max_size=2).map(lambda names: tuple(sorted(names))),
    st.dictionaries(TEXT, RANGE, max_size=2),
    TEXT,
    TEXT,
)


@settings(deadline=None)
@given(RANGES)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, ranges: Ranges) -> None:
    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    path.write_text(ranges.to_json(), encoding="utf-8")
    found = read_ranges(path)
    assert found == ranges
    assert found.to_json() == ranges.to_json()


def test_text_is_sorted_with_a_line_per_value() -> None:
    ranges = Ranges(
        {"b": Range(0, 1), "a": Range(-1.5, 2)},
        "minmax",
        3,
        "calib",
        {"b": 7},
        nan={"a": 1},
        channels={"b": (Range(0, 1), Range(0, 0.5))},
        model="12",
        data="34",
    )
    assert ranges.to_json().splitlines() == [
        "{",
        '  "version": 2,',
        '  "method": "minmax",',
        '  "samples": 3,',
        '  "source": "calib",',
        '  "model": "12",',
        '  "data": "34",',
        '  "nonfinite": {"b": 7},',
        '  "nan": {"a": 1},',
        '  "estimated": [],',
        '  "values": {',
        '    "a": [-1.5, 2],',
        '    "b": [0, 1]',
        "  },",
        '  "channels": {',
        '    "b": [[0, 1], [0, 0.5]]',
        "  }",
        "}",
    ]


@pytest.mark.parametrize(("lo", "hi"), [(1, 0), (math.nan, 0), (0, math.inf), (-math.inf, 0)])
def test_only_finite_ordered_pairs_are_ranges(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Range(lo, hi)


GOOD = Ranges({"a": Range(0, 1)}, "minmax", 1, "calib").to_json()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is not a ranges file"),
        ("[]", "is not a ranges file"),
        ("{}", "is not a ranges file"),
        (GOOD.replace("[0, 1]", "[0]"), "is not a ranges file"),
        (GOOD.replace("[0, 1]", "[1, 0]"), "not a range: [1.0, 0.0]"),
        (GOOD.replace("[0, 1]", "[NaN, 0]"), "not a range"),
        (GOOD.replace('"version": 2', '"version": 9'), "ranges of version 9"),
        (GOOD.replace('"calib"', "\udcff"), "is not a ranges file"),
    ],
)
def test_files_that_are_not_ranges(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SamplesError) as caught:
        read_ranges(path)
    assert part in str(caught.value)
    assert "onnxcomp calibrate" in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"cannot read ranges .*No such file"):
        read_ranges(tmp_path / "none.json")
