"""quantize-static and pad-channels on random graphs: the result is legal, runs, and is near.

`ONNXCOMP_EXAMPLES=5000 pytest tests/test_int8_random_graphs.py` looks at as many new graphs.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from int8_checks import ranges_of
from onnxcomp.edits import sweep
from onnxcomp.model_io import load_model
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.targets import TARGETS
from random_graphs import Drawn, models

EXAMPLES = os.environ.get("ONNXCOMP_EXAMPLES")
PASSES = [find_pass("pad-channels"), find_pass("quantize-static")]

some = settings(
    max_examples=int(EXAMPLES or 25),
    derandomize=EXAMPLES is None,
    suppress_health_check=list(HealthCheck),
    deadline=None,
)


@some
@given(models(), st.sampled_from(sorted(TARGETS)))
def test_a_quantized_graph_is_legal_and_has_the_same_interface(drawn: Drawn, target: str) -> None:
    note(onnx.printer.to_text(drawn.proto))
    source = load_model(onnx.ModelProto.FromString(drawn.proto.SerializeToString()))
    sweep(source)
    samples = [drawn.feeds(batch, seed=0) for batch in (1, 3)]
    needs = {"ranges": ranges_of(source, samples), "target": TARGETS[target]}
    result = source.clone()
    sites = sum(apply(each, result, {}, needs).sites for each in PASSES)
    sweep(result)
    note(ir.to_onnx_text(result))
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    assert [v.name for v in result.graph.outputs] == [v.name for v in source.graph.outputs]
    assert sites or proto == ir.to_proto(source)
    signed = TARGETS[target].signed
    for feeds in samples:
        wanted = Session(source).run(feeds)
        for optimize in (False, True):
            found = Session(result, optimize=optimize, signed=signed).run(feeds)
            for name, data in wanted.items():
                assert found[name].shape == data.shape
                assert found[name].dtype == data.dtype
                if data.dtype.kind == "f":
                    assert np.isfinite(found[name][np.isfinite(data)]).all()
