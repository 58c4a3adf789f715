"""Clips with infinite bounds, which no page can write, on infinite numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.graph import count_nodes
from onnxcomp.parity import data_equal
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session

BOUNDS = (None, -np.inf, -1.0, np.inf)


@pytest.mark.parametrize(("low", "high"), list(product(BOUNDS, BOUNDS)))
@pytest.mark.parametrize(
    ("least", "most"), list(product((None, -2.0, -np.inf, np.inf), (None, 2.0, -np.inf, np.inf)))
)
def test_two_clips(
    low: float | None, high: float | None, least: float | None, most: float | None
) -> None:
    bounds = {"a": low, "b": high, "c": least, "d": most}
    names = {name: "" if bound is None else name for name, bound in bounds.items()}
    weights = ", ".join(f"float {name}" for name, bound in bounds.items() if bound is not None)
    first, second = (f"{names[one]}, {names[two]}" for one, two in ("ab", "cd"))
    model = parse(
        f"g (float[6] x) => (float[6] y) <{weights or 'float unused'}> "
        f"{{ m = Clip (x, {first})   y = Clip (m, {second}) }}",
        17,
    )
    for name, bound in bounds.items():
        if bound is not None:
            data = np.array(bound, np.float32)
            model.graph.initializers[name].const_value = ir.tensor(data, name=name)
    after = model.clone()
    empty = np.inf in (low, least) or -np.inf in (high, most)
    assert apply(find_pass("fuse-consecutive-clips"), after).sites == (0 if empty else 1)
    assert count_nodes(after) == (2 if empty else 1)
    feeds = {"x": np.array([-np.inf, -3, -0.5, 0, 3, np.inf], np.float32)}
    assert data_equal(Session(model).run(feeds)["y"], Session(after).run(feeds)["y"])
