"""Convolutions as two or three smaller ones, of low rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import concrete_shapes
from onnxcomp.graph import Array, label
from onnxcomp.linear.layers import Layer, has_known_pads
from onnxcomp.passes.factorize._budget import check_choice, read_budget
from onnxcomp.passes.factorize._convolutions import KINDS, convolution_site
from onnxcomp.passes.factorize._find import find_groups
from onnxcomp.passes.factorize._kernel import Seen
from onnxcomp.passes.factorize._moments import Split, Wanted, choose_feeds, observe
from onnxcomp.passes.factorize._principal import root_of
from onnxcomp.passes.factorize._rows import rows_of
from onnxcomp.passes.factorize._run import Asked, choose, write
from onnxcomp.registry import Effect, leave, register
from onnxcomp.runtime import Feeds
from onnxcomp.targets import Target

NAME = "factorize-conv"


@register(Effect.LOSSY, ops=("Conv",), strengths={"energy": 1.0, "ratio": 0.0}, for_speed=True)
def factorize_conv(
    model: ir.Model,
    samples: Samples,
    original: ir.Model,
    target: Target,
    opset: int,
    *,
    energy: float | None = None,
    ratio: float | None = None,
    params: float | None = None,
    rank: int | None = None,
    kind: str = "auto",
    smaller: bool = False,
    repair: bool = True,
    exclude: str = "",
    ranks: dict[str, str] | None = None,
) -> int:
    """Write convolutions as two or three smaller ones of low rank.

    A kernel W [N, C, kh, kw] takes one of three forms (`kind`), or with "auto" that which loses
    least for what it costs:

    "channel": the kernel with r filters, U^T W, then 1x1, U [N, r]: the directions in which the
    outputs vary most over the samples; r (C kh kw + N) multiplications at each position. "spatial":
    kh x 1 with r filters, then 1 x kw; r (C kh + N kw). "tucker": 1x1 to r1 channels, the kernel
    from r1 to r2, then 1x1; C r1 + kh kw r1 r2 + r2 N. Of the last two the input channels are made
    white before singular vectors are taken. Strides, pads and dilations go with their axis. What
    the mean output loses goes into the bias. Random samples leave the kernel alone to count.
    Sources: Zhang et al., 2016 (arXiv 1505.06798); Jaderberg et al., 2014 (arXiv 1405.3866); Kim et
    al., 2016 (arXiv 1511.06530). `repair` then fits the last of each chain to the original's
    outputs by least squares.

    One budget, as of factorize-gemm: `energy` (0.99 where none is given), `ratio`, `params` or
    `rank`. Ranks are multiples of the target's block of channels, and the multiplications at most
    0.8 of the kernel's. On the target itself a chain is kept where it is measured to be faster,
    each layer by itself; `smaller` takes what has fewer numbers, faster or not. `ranks` gives forms
    by node, as "spatial 32", and nothing else changes. `exclude` names nodes to leave: globs,
    separated by commas. Raises `ContractError` when the budget is out of reach.

    Left alone where the kernel has groups, is not a float32 constant or also used in another way,
    where Convs follow each other without an activation, and where no such rank keeps enough.
    """
    budget = read_budget(NAME, energy, ratio, params, rank)
    check_choice(NAME, "kind", kind, ("auto", *KINDS))
    if ranks is None and budget.is_nothing:
        return 0
    kinds = KINDS if kind == "auto" else (kind,)
    asked = Asked(NAME, budget, ranks, smaller, target, kinds)
    shapes = concrete_shapes(model, next(iter(samples), None))
    groups = find_groups(model.graph, ("Conv",), exclude, opset, shapes)
    feeds = [] if samples.synthetic else choose_feeds(model, samples, shapes)
    step = max(1, target.channel_block // 4) if smaller else target.channel_block
    found = _look(model, groups, feeds, whole=kinds != ("channel",))
    sites = []
    for group, seen in zip(groups, found, strict=True):
        if seen is None:
            leave(group[0].node, "its output is empty or not finite")
            continue
        if not asked.concerns(label(group[0].node)):
            continue
        tried = kinds if ranks is None else ()
        sites.append(convolution_site(group, seen, shapes, tried, step, smaller=smaller))
    chosen = choose(model, sites, asked)
    return write(model, original, samples, chosen, opset, repair=repair)


def _look(
    model: ir.Model, groups: Sequence[tuple[Layer, ...]], feeds: Sequence[Feeds], *, whole: bool
) -> list[Seen | None]:
    """Return what is known of each group; of inputs too, if `whole`."""
    layers = [layer for group in groups for layer in group]
    outputs = {layer: Wanted(layer.node.outputs[0].name or "", 1, layer.rows) for layer in layers}
    inputs = {
        layer: Wanted(layer.source.name or "", 1, layer.columns // layer.taps) for layer in layers
    }
    if not feeds:
        return [Seen((), *_white(group[0]), ()) for group in groups]
    wanted = [*outputs.values(), *(inputs.values() if whole else ())]
    moments = observe(model, wanted, feeds)
    known = [layer for layer in layers if whole and layer.taps > 1 and has_known_pads(layer.node)]
    rows = rows_of(model, known, feeds)
    found: list[Seen | None] = []
    for group in groups:
        splits = [moments[outputs[layer]] for layer in group]
        if any(not split.fit.count for split in splits):
            found.append(None)
            continue
        read = [moments[inputs[layer]] for layer in group] if whole else []
        own = [rows[layer] for layer in group if layer in rows]
        root = _root(read) if read else _white(group[0])
        found.append(Seen(splits, *root, own if len(own) == len(group) else ()))
    return found


def _white(layer: Layer) -> tuple[Array, Array]:
    identity = np.eye(layer.columns // layer.taps)
    return identity, identity


def _root(splits: Sequence[Split]) -> tuple[Array, Array]:
    """Return the root of the second moment of input channels, and its inverse."""
    parts = [split.whole() for split in splits]
    total = sum(part.about(np.zeros_like(part.mean)) for part in parts if part.count)
    return root_of(np.asarray(total) / max(sum(part.count for part in parts), 1))
