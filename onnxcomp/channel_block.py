"""How many channels the convolutions of a target compute at once."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import onnx_ir as ir

from onnxcomp.latency import measure_in_turns
from onnxcomp.runtime import Session
from onnxcomp.targets import Target, find_target, is_told_by_the_cpu

# Convolutions between so many channels are timed, for so long in all.
WIDE, SIDE, SECONDS = 128, 28, 1.0
# From this share of the time of `WIDE` channels on, 8 less save nothing: they are of one block.
SAME = 0.95


def block_of(target: Target) -> int:
    """Return the channels that a target computes at once; other counts cost as the next multiple.

    Where the target is this machine and the system does not tell what CPU it has, that is measured.
    """
    if target.channel_block > 8 and target == find_target("auto") and not is_told_by_the_cpu():
        return probe()
    return target.channel_block


@cache
def probe() -> int:
    """Return 16 where convolutions of 120 channels take as long as those of 128, else 8."""
    wide, narrow = (Session(_convolutions(each), optimize=True) for each in (WIDE, WIDE - 8))
    feeds = {"x": np.ones((1, 16, SIDE, SIDE), np.float32)}
    return 16 if 1 / measure_in_turns(wide, narrow, [feeds], SECONDS).speedup >= SAME else 8


def _convolutions(channels: int) -> ir.Model:
    """Return three convolutions of 3 x 3 between so many channels, from and to 16."""
    rng, tape = np.random.default_rng(0), ir.tape.Tape()
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=(1, 16, SIDE, SIDE))
    y, counts = x, (16, channels, channels, 16)
    for index, (before, after) in enumerate(itertools.pairwise(counts)):
        data = rng.standard_normal((after, before, 3, 3)).astype(np.float32)
        weight = tape.initializer(ir.tensor(data, name=f"w{index}"))
        y = tape.op("Conv", [y, weight], {"pads": [1, 1, 1, 1]})
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    y.shape = ir.Shape([1, 16, SIDE, SIDE])
    graph = ir.Graph(
        [x],
        [y],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": 17},
        name="convolutions",
    )
    return ir.Model(graph, ir_version=8)
