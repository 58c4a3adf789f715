"""Weights in 4 or 8 bits with a scale for each block of a row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.errors import UsageError
from onnxcomp.exclusion import read_globs
from onnxcomp.graph import opset_version
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._block_choice import nbits_is_faster
from onnxcomp.passes.quantize._block_forms import (
    Writing,
    has_nbits,
    write_folded,
    write_nbits,
    write_standard,
)
from onnxcomp.passes.quantize._block_grid import BlockFormat
from onnxcomp.passes.quantize._block_rounding import nearest_sqnr, round_sites
from onnxcomp.passes.quantize._constants import Site, find_sites, is_refused, left, mildest
from onnxcomp.passes.quantize._naming import used_names
from onnxcomp.passes.quantize._rounded import Rounded
from onnxcomp.registry import Effect, register, settle
from onnxcomp.targets import Target

OPS = ("Conv", "Gemm", "MatMul", "Gather")
FORMS = ("auto", "standard", "nbits", "folded")
ROUNDINGS = ("auto", "nearest", "hqq", "gptq")
BITS, BLOCKS = (4, 8), (16, 32, 64, 128, 256)
# Types of 4 bits, and DequantizeLinear in blocks, exist from here on.
OPSET = 21
# Steps and scales must not take more of the bytes than this.
LARGEST_SHARE = 0.4
# A weight that rounding leaves less like itself than this (dB) stays as it is.
LEAST_SQNR = 10.0


@register(Effect.LOSSY, ops=OPS, strengths={"ratio": 0.0})
def quantize_blocks(
    model: ir.Model,
    samples: Samples,
    target: Target,
    *,
    bits: int = 4,
    block: int = 32,
    symmetric: bool = False,
    form: str = "auto",
    rounding: str = "auto",
    ops: str = "Conv,Gemm,MatMul,Gather",
    ratio: float = 1.0,
    exclude: str = "",
    least: int = 1024,
) -> int:
    """Store weights in 4 (or 8) bits, with a scale for each block of a row: an eighth of the bytes.

    A row of the weight, what one output is the product with, is cut into blocks of 32 (16 to 256).
    Of a block, w = scale * (q - zero) with q in `bits` bits and a zero point of its own; where it
    is `symmetric`, and for TensorRT, there is none. At 4 bits and 32 to a block a weight takes 5
    bits, an eighth of a bit more with zero points.

    `form` is how this is written. `folded`: Cast, Mul and Reshape, which ONNX Runtime computes
    once, at load; then the float kernels run, and memory is that of floats. `nbits`: MatMulNBits,
    an operator of ONNX Runtime that multiplies by the packed weight, so that memory stays small;
    for MatMul and Gemm, the others are folded. `standard`: DequantizeLinear with a block size,
    which other runtimes read. ONNX Runtime computes it in every run, and fused with a MatMul its
    products may be in int8. `auto` is standard for TensorRT, elsewhere nbits where it is measured
    to be faster than float for this model's products, else folded. Opset 21 for 4 bits in all but
    nbits: an older model is raised to it.

    `rounding`: `nearest`; `hqq`, whose scales (and zero points) have the least squared error that
    half-quadratic splitting finds, without data (Badri and Shaji, 2023); `gptq`, where the errors
    of a row cancel as far as inputs are correlated (Frantar et al., 2023, arXiv 2210.17323), which
    is kept for a layer where samples kept back say that it is best. `auto` is gptq where samples
    are real and the matrix is not too large, else hqq.

    `ops` are the readers that count. `ratio` is the share of the bytes of weights, those that
    rounding changes least first. `exclude` names nodes whose weights stay: globs, separated by
    commas. `least` is the number of elements from which a weight is worth it. The measure is the
    signal-to-noise ratio (dB) of the layer's output, or of the weight without samples, for nearest
    and for what is stored.

    Left alone when a weight is not float32 or not finite, when something else reads it too, when
    scales would take too much, and when less than 10 dB would be left of it.
    """
    _check(bits, block, form, rounding, ratio)
    globs, names = read_globs(model, exclude, "quantize-blocks"), ops.split(",")
    wanted = frozenset(name.strip() for name in names)
    sites = [site for site in find_sites(model, wanted, least) if not is_refused(site, globs)]
    if not sites:
        return 0
    fmt = BlockFormat(bits, block, symmetric or target.explicit)
    form = _form(form, model, sites, samples, target, fmt)
    formats = {site: _format(site, fmt, form) for site in sites}
    sites = [site for site in sites if _is_small(site, formats[site])]
    if ratio < 1:
        kept = mildest({site: nearest_sqnr(site, formats[site]) for site in sites}, ratio)
        sites = [site for site in sites if site in kept]
    if any(_needs_opset(site, bits, form) for site in sites) and not raise_opset(model, OPSET):
        sites = [site for site in sites if not _is_too_old(model, site, bits, form)]
    used, changed = used_names(model), 0
    for site, rounded in round_sites(model, sites, formats, samples, rounding):
        if _loses_too_much(site, rounded):
            continue
        assert rounded is not None
        changed += 1
        writing = Writing(site, rounded.blocks, used)
        if form == "standard":
            write_standard(writing)
        elif form == "nbits" and has_nbits(site):
            write_nbits(writing, model)
        else:
            write_folded(writing)
    return changed


def _check(bits: int, block: int, form: str, rounding: str, ratio: float) -> None:
    for name, value, known in (
        ("bits", bits, BITS),
        ("block", block, BLOCKS),
        ("form", form, FORMS),
        ("rounding", rounding, ROUNDINGS),
    ):
        if value not in known:
            choice = ", ".join(map(str, known))
            raise UsageError(f"quantize-blocks: {name} is one of {choice}, got {value}")
    if not 0 <= ratio <= 1:
        raise UsageError(f"quantize-blocks: ratio is a share from 0 to 1, got {ratio}")


# ---------------------------------------------------------------- which weights
def _is_small(site: Site, fmt: BlockFormat) -> bool:
    count = site.rows * fmt.blocks(site.columns)
    stored = count * (fmt.block * fmt.bits / 8 + 4 + (0 if fmt.symmetric else fmt.bits / 8))
    too_large = stored > LARGEST_SHARE * site.weight.nbytes
    return not left(site, "the scales of its weight would take too much" if too_large else "")


def _format(site: Site, fmt: BlockFormat, form: str) -> BlockFormat:
    """Return the format of one weight: a row that is shorter than a block is one block."""
    if form == "nbits" and has_nbits(site):
        return fmt
    block = min(fmt.block, site.columns)
    return BlockFormat(fmt.bits, block, fmt.symmetric, mirrored=form != "standard")


# ---------------------------------------------------------------- in which form
def _form(
    form: str,
    model: ir.Model,
    sites: Sequence[Site],
    samples: Samples,
    target: Target,
    fmt: BlockFormat,
) -> str:
    if form != "auto":
        return form
    if target.explicit:
        return "standard"
    faster = target.has_nbits and nbits_is_faster(model, sites, samples, fmt)
    settle("form", "nbits" if faster else "folded")
    return "nbits" if faster else "folded"


def _needs_opset(site: Site, bits: int, form: str) -> bool:
    if form == "nbits" and has_nbits(site):
        return False
    return form == "standard" or bits == 4


def _is_too_old(model: ir.Model, site: Site, bits: int, form: str) -> bool:
    reason = f"opset {opset_version(model)} has no such weights; try --opset {OPSET}"
    return left(site, reason if _needs_opset(site, bits, form) else "")


def _loses_too_much(site: Site, rounded: Rounded | None) -> bool:
    """Say whether a weight is to stay as it is, which its readers hear."""
    if rounded is None:
        return left(site, "its weight is not finite")
    sqnr = rounded.sqnr
    if sqnr == -math.inf:
        return left(site, "its weight is all zero")
    return left(site, "" if sqnr >= LEAST_SQNR else f"its weight would keep only {sqnr:.1f} dB")
