"""Weights zeroed where that costs least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.errors import RecipeError
from onnxcomp.exclusion import check_globs, read_globs
from onnxcomp.graph import label
from onnxcomp.passes.prune._inputs import Inputs, see
from onnxcomp.passes.prune._patterns import (
    Pattern,
    by_unit,
    holds,
    pattern_problem,
    read_pattern,
    unit_count,
    zero_units,
)
from onnxcomp.passes.prune._scores import CRITERIA, FROM_SAMPLES, scores_of, share_out
from onnxcomp.passes.prune._sites import Site, find_sites
from onnxcomp.passes.prune._zeroing import power_of, zero
from onnxcomp.registry import Effect, leave, measured, register

SCOPES = ("local", "global")


@register(Effect.LOSSY, strengths={"ratio": 0.0})
def prune_weights(
    model: ir.Model,
    samples: Samples,
    *,
    ratio: float = 0.5,
    pattern: str = "unstructured",
    criterion: str = "auto",
    scope: str = "local",
    layers: dict[str, float] | None = None,
    ends: bool = False,
    least: int = 1024,
    seed: int = 0,
    exclude: str = "",
) -> int:
    """Zero a share of the weights: a smaller file once it is compressed, or 2:4 for TensorRT.

    It makes nothing faster in ONNX Runtime on a CPU, whose kernels multiply zeros like any other
    number, and the file keeps its size until it is compressed.

    Of the constant weight of each Conv, ConvTranspose, Gemm and MatMul of the main graph, `ratio`
    is zeroed, rounded down to whole units of the pattern.
    `pattern` says what goes together: `unstructured` single weights, `row` all of an output
    channel, `kernel` all taps of an input for an output channel, `vector` 4 neighbouring input
    channels at the same tap, `block` 4 x 4 of outputs x inputs, `RxC` blocks of another size, and
    `n:m` (2:4, 4:8) all but n of m neighbouring input channels at the same tap, with which the
    ratio is 1 - n/m. `scope` is `local`, each layer the ratio, or `global`, one threshold for all:
    what is zeroed counts by its share of its layer's error.

    `criterion` says what is worth least: `l1` |w|, `l2` w^2, `wanda` |w| rms(x), `random`, or
    `sparsegpt`, which goes through the columns and moves the others to make up for what is zeroed,
    then fits what is left once more. Layers are pruned from the inputs on, in up to 16 stages:
    what falls is E[|W x - W' z|^2] over the samples, with x the input of a layer in the original
    and z what it gets once those before it are pruned, or x where there are fewer than 128 samples
    or these are large. `auto` is sparsegpt where samples are real, else l2. Sources: Frantar &
    Alistarh, 2023 (arXiv 2301.00774); Sun et al., 2024 (arXiv 2306.11695); He et al., 2017 (arXiv
    1707.06168), for z.

    `layers` are ratios of their own by glob of node names, of which the first that matches counts,
    `exclude` globs of nodes to leave, separated by commas, `least` is the number of elements from
    which a weight is worth it, `ends` prunes the first and last layers too: those that no other
    weight comes before, or behind. A weight that several layers read alike is pruned for all.

    Left alone when a layer is first or last, depthwise or small, when its weight is read by
    something else too, is not finite, or does not divide into the pattern, and when it has as many
    zeros already. What the samples say is not followed, but magnitude, where samples that are kept
    back say that the layer's error is no less, and in matrices of more than 4608 columns.
    """
    shape = read_pattern(pattern)
    _check(ratio, shape, criterion, scope, layers or {})
    if criterion == "auto":
        criterion = "l2" if samples.synthetic else "sparsegpt"
    if criterion in FROM_SAMPLES and samples.synthetic:
        raise RecipeError(
            f"prune-weights: {criterion} needs real samples: pass --calib DIR, or take "
            'criterion = "l2"'
        )
    read_globs(model, exclude, "prune-weights")
    check_globs(model, layers or {}, "prune-weights: layers")
    found = find_sites(model.graph, ratio, layers or {}, exclude=exclude, ends=ends, least=least)
    sites = [site for site in found if _fits(site, shape)]
    counts = _counts(model, sites, shape, criterion, samples, seed, shared=scope == "global")
    due = [site for site in sites if not _is_done(site, shape, counts[site.node])]
    for site, seen in _looked(model, due, samples, criterion):
        result = zero(site, shape, criterion, counts[site.node], seen, seed)
        if result.plain is not None and result.noise is not None:
            measured(site.node, result.plain, result.noise)
        site.replace(model.graph, result.cube)
    return len(due)


def _looked(
    model: ir.Model, sites: Sequence[Site], samples: Samples, criterion: str
) -> Iterator[tuple[Site, Inputs | None]]:
    if criterion not in FROM_SAMPLES:
        return ((site, None) for site in sites)
    return see(model, model.clone(), sites, samples)


def _check(
    ratio: float, pattern: Pattern, criterion: str, scope: str, layers: Mapping[str, float]
) -> None:
    """Raise `RecipeError` for options that make no sense."""
    for name, value, known in (("criterion", criterion, CRITERIA), ("scope", scope, SCOPES)):
        if value not in known:
            raise RecipeError(
                f"prune-weights: there is no {name} {value!r}; choose from {', '.join(known)}"
            )
    if pattern.of and scope == "global":
        raise RecipeError(
            f"prune-weights: {pattern.name} zeroes the same share of each layer; "
            'take scope = "local"'
        )
    for where, share in (
        ("ratio", ratio),
        *((f"layers {glob!r}", layers[glob]) for glob in layers),
    ):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise RecipeError(
                f"prune-weights: {where} is the share to zero, from 0 to below 1, got {share!r}"
            )
        if share and pattern.ratio is not None and abs(share - pattern.ratio) > 1e-3:
            raise RecipeError(
                f"prune-weights: {pattern.name} zeroes {pattern.ratio:g} of the weights, and "
                f"{where} is {share:g}; set it to {pattern.ratio:g}"
            )


def _fits(site: Site, pattern: Pattern) -> bool:
    reason = pattern_problem(pattern, site.shape)
    if reason is None and pattern.name == "kernel" and not site.has_kernels:
        reason = "it has no kernels"
    if reason is not None:
        for layer in site.layers:
            leave(layer.node, reason)
    return reason is None


def _is_done(site: Site, pattern: Pattern, count: int) -> bool:
    """Say whether a weight has all the zeros that it is to have."""
    if pattern.of:
        return holds(pattern, site.cube)
    return zero_units(pattern, site.cube) >= count


def _has_zeros(sites: Sequence[Site], pattern: Pattern) -> bool:
    """Say whether weights together have all the zeros that they are to have, but for one box."""
    sizes = [site.cube.size // unit_count(pattern, site.shape) for site in sites]
    zeros = [zero_units(pattern, site.cube) for site in sites]
    total = sum(site.ratio * site.cube.size for site in sites)
    found = sum(zero * size for zero, size in zip(zeros, sizes, strict=True))
    return found > total - max(sizes)


def _counts(
    model: ir.Model,
    sites: Sequence[Site],
    pattern: Pattern,
    criterion: str,
    samples: Samples,
    seed: int,
    *,
    shared: bool,
) -> dict[ir.Node, int]:
    """Return how many boxes of each weight to zero."""
    counts = {site.node: int(site.ratio * unit_count(pattern, site.shape) + 1e-9) for site in sites}
    common = [site for site in sites if not site.named]
    if not shared or not common:
        return counts
    if _has_zeros(common, pattern):
        return counts | {site.node: 0 for site in common}
    powers = {}
    for site, seen in _looked(model, common, samples, criterion):
        powers[site.node] = None if seen is None else power_of(site, seen)
    scores, sizes = [], []
    for site in common:
        cube, name = site.cube, label(site.node)
        scores.append(
            by_unit(pattern, scores_of(criterion, cube, powers.get(site.node), name, seed))
        )
        sizes.append(cube.size // scores[-1].size)
    shares = share_out(scores, sizes, common[0].ratio)
    return counts | {site.node: count for site, count in zip(common, shares, strict=True)}
