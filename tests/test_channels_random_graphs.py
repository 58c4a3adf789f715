"""Removing channels of random graphs gives what silencing them gives."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, Phase, event, given, note, reject, settings

from onnxcomp.channels.masking import neutralise_channels
from onnxcomp.channels.removal import remove_channels
from onnxcomp.channels.walk import find_channels
from onnxcomp.errors import ModelError
from onnxcomp.model_io import load_model
from onnxcomp.runtime import Session
from random_graphs import Drawn, models

EXAMPLES = os.environ.get("ONNXCOMP_EXAMPLES")
NOISE_MARGIN = 4.0


@settings(
    max_examples=int(EXAMPLES or 150),
    derandomize=EXAMPLES is None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(models())
def test_removing_is_silencing(drawn: Drawn) -> None:
    model = load_model(onnx.ModelProto.FromString(drawn.proto.SerializeToString()))
    try:
        Session(model)
    except ModelError:
        reject()
    groups, rng = find_channels(model).groups, np.random.default_rng(0)
    event("has groups" if groups else "has none")
    removed = {
        group: sorted(rng.permutation(group.channels)[: rng.integers(group.channels)])
        for group in groups
    }
    note(onnx.printer.to_text(drawn.proto))
    silenced = Session(neutralise_channels(model, removed))
    remove_channels(
        model, {g: sorted(set(range(g.channels)) - set(gone)) for g, gone in removed.items()}
    )
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found = Session(model)
    for batch in (1, 3):
        feeds = drawn.feeds(batch, seed=0)
        after = found.run(feeds)
        for name, before in silenced.run(feeds).items():
            assert np.shape(after[name]) == np.shape(before)
            if before.dtype.kind == "f":
                allowed = NOISE_MARGIN * drawn.noise[name] + 1e-5 * np.abs(before).max(initial=0)
                np.testing.assert_allclose(after[name], before, rtol=1e-5, atol=allowed)
