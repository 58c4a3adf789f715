"""Products with a constant matrix as two, of low rank."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import concrete_shapes
from onnxcomp.graph import label
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._budget import check_choice, read_budget
from onnxcomp.passes.factorize._embeddings import find_embeddings
from onnxcomp.passes.factorize._find import find_groups
from onnxcomp.passes.factorize._moments import Split, Wanted, choose_feeds, observe
from onnxcomp.passes.factorize._products import KIND, product_site
from onnxcomp.passes.factorize._run import Asked, choose, write
from onnxcomp.registry import Effect, leave, register
from onnxcomp.targets import Target

NAME = "factorize-gemm"
METHODS = ("auto", "outputs", "weights")


@register(
    Effect.LOSSY,
    ops=("Gemm", "MatMul", "Gather"),
    strengths={"energy": 1.0, "ratio": 0.0},
    for_speed=True,
)
def factorize_gemm(
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
    method: str = "auto",
    smaller: bool = False,
    embeddings: bool = False,
    repair: bool = True,
    exclude: str = "",
    ranks: dict[str, int] | None = None,
) -> int:
    """Write products with a constant matrix as two products of low rank.

    W x of Gemm and MatMul, W [N, K], becomes U (U^T W) x: r (K + N) numbers and multiplications in
    the place of N K. U [N, r] are the directions in which the outputs vary most over the samples,
    the eigenvectors of their covariance; what the mean loses goes into the bias, mean - U U^T mean,
    so that the error is the sum of the other eigenvalues, the least there is. `method` "weights"
    takes the singular vectors of W, as do random samples and a bias that is no constant vector.
    Source: Zhang et al., 2016 (arXiv 1505.06798). `repair` then fits the second of each pair to the
    original's outputs by least squares.

    One budget: `energy`, the share of each layer's output energy that stays (0.99 where none is
    given); `ratio`, the share of MACs that goes of all layers in reach; `params`, the most numbers
    that the model may have; or one `rank` for all. Of `ratio` and `params` each layer gets the rank
    with which the sum of relative errors is least. What is left out is reckoned on every fourth
    sample, which the directions have not seen, too.

    Ranks are multiples of the target's block of channels, and at most 0.8 of the break-even
    N K / (N + K). On the target itself a pair is kept where it is measured to be faster, each layer
    by itself; `smaller` takes what has fewer numbers, faster or not. `embeddings` writes tables of
    Gather too, by their singular vectors: smaller, but slower. `ranks` gives ranks by node, and
    nothing else changes. `exclude` names nodes to leave: globs, separated by commas. Raises
    `ContractError` when the budget is out of reach.

    Left alone where the weight is not a float32 constant or also used in another way, where layers
    follow each other without an activation (they are a pair), and where no such rank keeps enough.
    """
    budget = read_budget(NAME, energy, ratio, params, rank)
    check_choice(NAME, "method", method, METHODS)
    if ranks is None and budget.is_nothing:
        return 0
    asked = Asked(NAME, budget, ranks, smaller, target, (KIND,))
    step = max(1, target.channel_block // 4) if smaller else target.channel_block
    shapes = concrete_shapes(model, next(iter(samples), None))
    groups = find_groups(model.graph, ("Gemm", "MatMul"), exclude, opset, shapes)
    seen: dict[Wanted, Split] = {}
    if method == "outputs" or (method == "auto" and not samples.synthetic):
        wanted = [_wanted(layer) for group in groups for layer in group]
        seen = observe(model, wanted, choose_feeds(model, samples, shapes))
    sites = []
    for group in groups:
        splits = [seen[_wanted(layer)] for layer in group] if seen else []
        if any(not split.fit.count for split in splits):
            leave(group[0].node, "its output is empty or not finite")
            continue
        if not asked.concerns(label(group[0].node)):
            continue
        sites.append(product_site(group, splits, shapes, step, smaller=smaller))
    if embeddings:
        sites += find_embeddings(model.graph, shapes, step, exclude)
    chosen = choose(model, sites, asked)
    return write(model, original, samples, chosen, opset, repair=repair)


def _wanted(layer: Layer) -> Wanted:
    return Wanted(layer.node.outputs[0].name or "", layer.axis, layer.rows)
