"""Which int8 form is chosen: within the budget first, then the fastest, then the smallest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import onnxcomp
from case_pages import parse
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.int8 import building
from onnxcomp.int8.building import Bench, with_latency
from onnxcomp.int8.candidate import Candidate
from onnxcomp.int8.regions import find_regions
from onnxcomp.int8.schemes import SCHEMES, as_glob, steps_of
from onnxcomp.int8.search import _best, _to_mend
from onnxcomp.judging import Evidence
from onnxcomp.parity import Parity
from onnxcomp.registry import apply, find_pass
from onnxcomp.report import Latency
from onnxcomp.settings import make_schemes
from onnxcomp.targets import TARGETS, detect

MODELS = Path(__file__).parent.parent / "models"
ELSEWHERE = "arm64" if detect() != "arm64" else "portable"  # no timings decide


def candidate(scheme: str, speedup: float, size: int = 10, *, holds: bool = True) -> Candidate:
    evidence = Evidence(Parity({}, 1), None, None, () if holds else ("too noisy",))
    latency = Latency(speedup, 1.0, speedup)
    return Candidate(SCHEMES[scheme], cast(Any, None), size, evidence, latency)


TIMED = cast(Bench, SimpleNamespace(timed=True))
UNTIMED = cast(Bench, SimpleNamespace(timed=False))


def test_the_fastest_that_holds() -> None:
    slow, fast = candidate("dynamic", 1.5), candidate("static", 1.9)
    wrong = candidate("static", 3.0, holds=False)
    assert _best(TIMED, [slow, wrong, fast]) is fast
    assert _best(TIMED, [wrong]) is None


def test_of_two_as_fast_the_smaller() -> None:
    large, small = candidate("static", 1.91, 20), candidate("dynamic", 1.9, 10)
    assert _best(TIMED, [large, small]) is small
    assert _best(TIMED, [candidate("static", 2.5, 20), small]).bytes == 20  # type: ignore[union-attr]


def test_of_two_as_fast_and_as_small_the_one_that_computes_in_int8() -> None:
    stored, static = candidate("weights", 1.0, 100), candidate("static", 1.04, 103)
    assert _best(TIMED, [stored, static]) is static
    assert _best(TIMED, [stored, candidate("static", 1.04, 120)]) is stored
    assert _best(TIMED, [static, candidate("static", 1.05, 103)]) is static


def test_of_static_forms_that_seem_as_fast_the_least_static_is_mended_first() -> None:
    static, mixed = candidate("static", 1.75), candidate("conv+dynamic", 1.6)
    slow, dynamic = candidate("static+dynamic", 1.1), candidate("dynamic", 3.0)
    assert _to_mend([static, slow, mixed, dynamic]) == [mixed, static, slow]
    assert _to_mend([candidate("static", 2.5), mixed])[1] is mixed
    untimed = [candidate("static", 0.0), candidate("conv+dynamic", 0.0)]
    assert _to_mend(untimed) == untimed


def test_what_seems_slow_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([0.87, 1.16, 1.16, 0.5])

    def timed(*_: object) -> Latency:
        found = next(speeds)
        return Latency(found, 1.0, found)

    monkeypatch.setattr(building, "latency_of", timed)
    static = replace(candidate("static", 0.0), done=SimpleNamespace(model=None))  # type: ignore[arg-type]
    static = replace(static, evidence=Evidence(Parity({"y": cast(Any, None)}, 1), None, None, ()))
    assert with_latency(TIMED, static).speedup == 1.16
    assert with_latency(TIMED, static).speedup == 1.16
    assert next(speeds) == 0.5


def test_what_computes_in_int8_must_gain_and_what_stores_must_not_lose() -> None:
    lazy, stored = candidate("static", 1.0, 5), candidate("weights", 0.98, 10)
    assert _best(TIMED, [lazy, stored]) is stored
    assert _best(TIMED, [lazy, candidate("weights", 0.9)]) is None
    assert _best(UNTIMED, [lazy, stored]) is lazy


def test_names_with_special_characters_are_matched_alone() -> None:
    steps = steps_of(SCHEMES["static"], ["a[0],b*", "c"])
    exclude = next(step.options["exclude"] for step in steps if step.name == "quantize-static")
    assert exclude == "a[[]0]?b[*],c"
    assert as_glob("Conv -> y") == "Conv -> y"


def test_every_scheme_has_a_name_that_recipes_know() -> None:
    assert make_schemes(list(SCHEMES)) == tuple(SCHEMES)


def test_regions_end_where_values_are_float() -> None:
    text = """agraph (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y)
    <float[4, 4, 1, 1] v, float[4, 4, 1, 1] w, float[4, 4, 1, 1] u>
    {
        [first] a = Conv (x, v)
        [second] b = Conv (a, w)
        c = Tanh (b)
        [third] y = Conv (c, u)
    }"""
    model = parse(text, 17)
    ranges = Ranges({name: Range(-4, 4) for name in "xabcy"}, "minmax", 1, "")
    apply(find_pass("quantize-static"), model, {}, {"ranges": ranges, "target": TARGETS["x86"]})
    first, second = find_regions(model)
    assert first.macs == ["first", "second"]
    assert second.macs == ["third"]
    assert not first.borders & second.borders
    assert first.borders
    assert second.borders


def test_what_costs_too_much_goes_back_to_float_and_says_so() -> None:
    result = onnxcomp.optimize(
        MODELS / "digits_resnet.onnx",
        int8=True,
        schemes=["static"],
        calib=MODELS / "digits.npz",
        samples=60,
        min_sqnr=46,
        target=ELSEWHERE,
    )
    report = result.report
    first, *others = report.candidates
    assert not first.holds
    chosen = next(each for each in others if each.chosen)
    assert report.parity is not None
    assert report.parity.sqnr_db >= 46
    assert report.int8 is not None
    assert report.int8.macs_share is not None
    assert 0 < report.int8.macs_share < 1
    reasons = {node.name: node.reason for node in report.int8.float_nodes}
    assert all("alone leaves" in reasons[name] for name in reasons if name in chosen.returned)
    assert chosen.returned
    again = onnxcomp.optimize(
        MODELS / "digits_resnet.onnx",
        recipe=replace(result.recipe),
        calib=MODELS / "digits.npz",
    )
    assert again.to_proto().SerializeToString() == result.to_proto().SerializeToString()


def test_nothing_to_quantize_ships_the_lossless_model(tmp_path: Path) -> None:
    said: list[str] = []
    model = parse("agraph (float[N, 4] x) => (float[N, 4] y) { y = Tanh (x) }", 17)
    result = onnxcomp.optimize(model, int8=True, calib="random:4", say=said.append)
    assert result.report.candidates == ()
    assert any("nothing to do" in line for line in said)
    result.save(tmp_path / "y.onnx")


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_no_scheme_runs_what_the_recipe_skips(scheme: str) -> None:
    names = [step.name for step in steps_of(SCHEMES[scheme])]
    recipe = SimpleNamespace(skip=tuple(names[:1]))
    bench = Bench(cast(Any, SimpleNamespace(recipe=recipe)), cast(Any, None), cast(Any, None), ())
    left = [step.name for step in bench.asked_for(steps_of(SCHEMES[scheme]))]
    assert left == names[1:]
