"""The sweep ranks values by what they cost the outputs, and finds ranges that cost less."""

from __future__ import annotations

import numpy as np
import pytest

from case_pages import parse
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.int8.sensitivity import Sweep, sweep
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

# Eight convolutions in a row; what `c5` makes is given a range that is far too narrow or too wide.
CHAIN = """agraph (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] c8)
<{weights}>
{{
{nodes}
}}"""
LENGTH = 8


def chain() -> str:
    weights = ", ".join(f"float[4, 4, 1, 1] w{i}" for i in range(1, LENGTH + 1))
    sources = ["x", *(f"c{i}" for i in range(1, LENGTH))]
    nodes = "\n".join(f"c{i} = Conv ({s}, w{i})" for i, s in enumerate(sources, 1))
    return CHAIN.format(weights=weights, nodes=nodes)


def swept(worst: float, seconds: float = 60.0) -> tuple[Sweep, Samples]:
    """Sweep the chain with all ranges right but that of c5, which is `worst` times as wide."""
    exact = parse(chain(), 17)
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(0, 1, (2, 4, 8, 8)).astype(np.float32)} for _ in range(3)]
    samples = open_samples(data, input_specs(exact))
    names = ["x", *(f"c{i}" for i in range(1, LENGTH + 1))]
    found = [Session(exact, taps=names[1:-1]).run(feeds) | feeds for feeds in data]
    ends = {n: max(float(np.abs(each[n]).max()) for each in found) for n in names}
    ranges = {name: Range(-end, end) for name, end in ends.items()}
    seen = {"c5": ranges["c5"]}
    ranges["c5"] = Range(-worst * ends["c5"], worst * ends["c5"])
    calibrated = Ranges(ranges, "minmax", 3, "test", extremes=seen)
    quantized = exact.clone()
    needs = {"ranges": calibrated, "target": TARGETS["x86-vnni"]}
    assert apply(find_pass("quantize-static"), quantized, {}, needs).sites == LENGTH
    return sweep(exact, quantized, samples, calibrated, seconds), samples


@pytest.mark.parametrize("worst", [0.2, 30.0], ids=["too narrow", "too wide"])
def test_the_value_with_the_bad_range_costs_most_until_it_gets_a_better_one(worst: float) -> None:
    found, _ = swept(worst)
    assert next(iter(found.ranges)) == "c5"
    before, _ = swept(worst, seconds=0.0)
    assert ("c5",) in [cost.values for cost in before.costs[:2]]  # a block of two shares its noise
    assert found.costs[0].noise < 0.3 * before.costs[0].noise
    costs = {cost.values[0]: cost.noise for cost in found.costs}
    assert set(costs) == {"x", *(f"c{i}" for i in range(1, LENGTH + 1))}
    assert [c.noise for c in found.costs] == sorted(costs.values(), reverse=True)


def test_costs_name_the_nodes_that_would_have_to_be_float() -> None:
    found, _ = swept(1.0)
    nodes = {cost.values[0]: set(cost.nodes) for cost in found.costs}
    assert nodes["c3"] == {"Conv -> c3", "Conv -> c4"}
    assert nodes["x"] == {"Conv -> c1"}
    assert nodes["c8"] == {"Conv -> c8"}
    assert all(30 < cost.sqnr_db < 80 for cost in found.costs)


def test_without_time_blocks_share_their_noise() -> None:
    found, _ = swept(30.0, seconds=0.0)
    assert not found.ranges
    assert len(found.costs) == LENGTH + 1
    assert found.costs[0].noise > 100 * found.costs[-1].noise
