"""On real models, taking channels out gives what silencing them gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from corpus.runs import real_and_random
from onnxcomp.channels.masking import neutralise_channels
from onnxcomp.channels.removal import remove_channels
from onnxcomp.channels.sharing import unshare_vectors
from onnxcomp.channels.walk import find_channels
from onnxcomp.model_io import load_model
from onnxcomp.parity import ParityMeter
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.runtime import Session

TOLERANCE = 1e-5  # relative to each output's range
# A net with random channels gone may amplify rounding: as much as between two orders of summing.
NOISE = 4.0
SHARE = 0.25


@pytest.mark.parametrize("optimized", [False, True], ids=["as it is", "optimized"])
def test_removing_is_silencing(source: Path, samples_spec: str, optimized: bool) -> None:
    model = load_model(source)
    if optimized:
        model = run_lossless(model, load_recipe("lossless").steps, None)[0]
    unshare_vectors(model)
    channels = find_channels(model)
    if not channels.groups:
        pytest.skip("no channels can be removed")
    rng = np.random.default_rng(0)
    removed = {
        group: sorted(rng.permutation(group.channels)[: max(1, int(SHARE * group.channels))])
        for group in channels.groups
    }
    silenced = neutralise_channels(model, removed)
    remove_channels(
        model,
        {g: sorted(set(range(g.channels)) - set(gone)) for g, gone in removed.items()},
    )
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    before, after, reordered = Session(silenced), Session(model), Session(silenced, optimize=True)
    meter, noise = ParityMeter(), ParityMeter()
    for feeds in real_and_random(source, samples_spec, 4):
        expected = before.run(feeds)
        meter.add(expected, after.run(feeds))
        noise.add(expected, reordered.run(feeds))
    for name, output in meter.result().outputs.items():
        allowed = max(TOLERANCE, NOISE * noise.result().outputs[name].relative)
        assert not output.broken, f"{name}: {output.broken}"
        assert output.relative <= allowed, f"{name}: {output.relative} > {allowed}"
