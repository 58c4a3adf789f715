"""Removing channels of random graphs gives what silencing them gives."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, Phase, given, note, reject, settings

from onnxcomp.channels.masking import neutralise_channels
from onnxcomp.channels.removal import remove_channels
from onnxcomp.channels.walk import find_channels
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array
from onnxcomp.model_io import load_model
from onnxcomp.runtime import Session
from random_channel_nets import channel_nets
from random_graphs import Drawn, models

EXAMPLES = os.environ.get("ONNXCOMP_EXAMPLES")
NOISE_MARGIN = 4.0
many = settings(
    max_examples=int(EXAMPLES or 80),
    derandomize=EXAMPLES is None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def both(proto: onnx.ModelProto) -> tuple[int, Session, Session]:
    """Return the number of groups, the model with channels silenced, and with them removed."""
    note(onnx.printer.to_text(proto))
    model = load_model(onnx.ModelProto.FromString(proto.SerializeToString()))
    groups, rng = find_channels(model).groups, np.random.default_rng(0)
    removed = {
        group: sorted(rng.permutation(group.channels)[: rng.integers(group.channels)])
        for group in groups
    }
    silenced = Session(neutralise_channels(model, removed))
    remove_channels(
        model, {g: sorted(set(range(g.channels)) - set(gone)) for g, gone in removed.items()}
    )
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return len(groups), silenced, Session(model)


def compare(before: Mapping[str, Array], after: Mapping[str, Array], noise: float) -> None:
    for name, data in before.items():
        assert np.shape(after[name]) == np.shape(data)
        if data.dtype.kind == "f":
            allowed = noise + 1e-5 * np.abs(data).max(initial=0)
            np.testing.assert_allclose(after[name], data, rtol=1e-5, atol=allowed)


@many
@given(channel_nets())
def test_nets_of_layers(proto: onnx.ModelProto) -> None:
    _, silenced, removed = both(proto)
    shape = (2, 4, 4, 4)
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    compare(silenced.run(feeds), removed.run(feeds), 0.0)


@many
@given(models())
def test_any_graph(drawn: Drawn) -> None:
    try:
        Session(drawn.proto.SerializeToString())
    except ModelError:
        reject()
    _, silenced, removed = both(drawn.proto)
    for batch in (1, 3):
        feeds = drawn.feeds(batch, seed=0)
        noise = NOISE_MARGIN * max(drawn.noise.values(), default=0.0)
        compare(silenced.run(feeds), removed.run(feeds), noise)


def test_random_nets_have_groups() -> None:
    """What is drawn is mostly such that there is something to remove."""
    counts: list[int] = []

    @settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(channel_nets())
    def look(proto: onnx.ModelProto) -> None:
        counts.append(both(proto)[0])

    look()
    assert np.mean(counts) > 1
