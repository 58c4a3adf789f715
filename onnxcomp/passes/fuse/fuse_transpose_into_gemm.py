"""Transpose before Gemm, or before a MatMul of two matrices."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import node_like, replace
from onnxcomp.graph import is_op, rank, tensor
from onnxcomp.passes.fuse._gemm import FLOATS
from onnxcomp.registry import Effect, leave, register

# From here on Gemm's C may be left out.
OPTIONAL_FROM = 11


@register(Effect.CLOSE, ops=["Transpose"])
def fuse_transpose_into_gemm(graph: ir.Graph, opset: int) -> int:
    """Let a Gemm read its operand transposed instead of after a Transpose.

    Gemm(A', B) = Gemm(A, B, transA = 1), and likewise for B. A MatMul of two matrices of floats, of
    which one is transposed, becomes such a Gemm.

    Left alone when the Transpose does more than swap two axes; a MatMul also when its operands are
    not surely matrices of floats, and before opset 11, where Gemm needs a bias.
    """
    fused = 0
    for node in graph:
        if is_op(node, "Gemm"):
            fused += _flip(node)
        elif is_op(node, "MatMul") and opset >= OPTIONAL_FROM:
            fused += _as_gemm(node)
    return fused


def _flip(gemm: ir.Node) -> int:
    flips = [_swapped(value) for value in gemm.inputs[:2]]
    if flips == [None, None]:
        return 0
    inputs = [new or old for new, old in zip(flips, gemm.inputs[:2], strict=True)]
    attributes = {attr.name: attr for attr in gemm.attributes.values()}
    for name, flip in zip(("transA", "transB"), flips, strict=True):
        turned = gemm.attributes.get_int(name, 0) != 0
        attributes[name] = ir.AttrInt64(name, int(turned != (flip is not None)))
    replace([gemm], node_like(gemm, [*inputs, *gemm.inputs[2:]], attributes.values()))
    return 1


def _as_gemm(matmul: ir.Node) -> int:
    flips = [_swapped(value) for value in matmul.inputs]
    if flips == [None, None]:
        return 0
    inputs = [new or old for new, old in zip(flips, matmul.inputs, strict=True)]
    if any(rank(value) != 2 or _kind(value) not in FLOATS for value in inputs):
        leave(matmul, "its operands are not surely matrices of floats")
        return 0
    attributes = [
        ir.AttrInt64(name, 1)
        for name, flip in zip(("transA", "transB"), flips, strict=True)
        if flip is not None
    ]
    replace([matmul], ir.Node("", "Gemm", inputs, attributes, name=matmul.name))
    return 1


def _swapped(value: ir.Value | None) -> ir.Value | None:
    """Return the matrix whose transpose a value is, or None."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "Transpose"):
        return None
    perm = node.attributes.get_ints("perm")
    swaps = list(perm) == [1, 0] if perm is not None else rank(node.inputs[0]) == 2
    return node.inputs[0] if swaps else None


def _kind(value: ir.Value | None) -> ir.DataType | None:
    found = tensor(value)
    if found is not None:
        return found.dtype
    return value.dtype if value is not None else None
