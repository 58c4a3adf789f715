"""The forms in which block-wise weights are written: read by one operator, or folded at load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, add_tensor, node_like, replace
from onnxcomp.graph import Array, is_op
from onnxcomp.passes.quantize._block_grid import padded
from onnxcomp.passes.quantize._blocks import Blocks, row_slices
from onnxcomp.passes.quantize._constants import Site, insert_first, packed
from onnxcomp.passes.quantize._naming import fresh_name

FLOAT = ir.DataType.FLOAT
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, eq=False)
class Writing:
    """One weight that is being written: where it was, its blocks, and the names in use."""

    site: Site
    blocks: Blocks
    used: set[str]

    @property
    def type(self) -> ir.DataType:
        """The type of steps and zero points: signed where there are none."""
        name = ("INT" if self.blocks.fmt.symmetric else "UINT") + str(self.blocks.fmt.bits)
        return ir.DataType[name]

    def name(self, suffix: str) -> str:
        """Return a fresh name for a part of the weight."""
        return fresh_name(self.used, f"{self.site.value.name or 'weight'}.{suffix}")

    def constant(self, data: Array, suffix: str) -> ir.Value:
        """Add a constant of the array's type."""
        return add_constant(self.site.graph, data, self.name(suffix))

    def stored(self, shape: tuple[int, ...], make: Callable[[], Array], kind: str) -> ir.Value:
        """Add a constant of steps; one of a weight that lies in a file is made when it is read."""
        name, dtype, dims = self.name(kind), self.type, ir.Shape(shape)
        signed = self.blocks.fmt.middle if self.blocks.fmt.symmetric else 0

        def tensor() -> ir.TensorProtocol:
            return _tensor(make(), signed, dtype, shape, name)

        external = isinstance(self.site.weight, ir.ExternalTensor)
        data = ir.LazyTensor(tensor, dtype, dims, name=name) if external else tensor()
        return add_tensor(
            self.site.graph,
            ir.Value(name=name, shape=dims, type=ir.TensorType(dtype), const_value=data),
        )

    def node(self, op: str, inputs: list[ir.Value], *attributes: ir.Attr) -> ir.Node:
        """Make a node whose output is a part of the weight."""
        made = ir.Node("", op, inputs, list(attributes))
        made.outputs[0].name = self.name(op.lower())
        made.outputs[0].type = ir.TensorType(FLOAT)
        return made


def _tensor(
    steps: Array, middle: int, dtype: ir.DataType, shape: tuple[int, ...], name: str
) -> ir.TensorProtocol:
    if dtype.bitwidth == 8:
        numbers = (steps.astype(np.int16) - middle).astype(dtype.numpy())
        return ir.Tensor(numbers.reshape(shape), name=name)
    # What is less by the middle has the other highest bit, in two's complement.
    return packed(steps ^ np.uint8(middle), dtype, shape, name)


# ---------------------------------------------------------------- folded at load
def write_folded(writing: Writing) -> None:
    """Write W = (Cast(q) - Cast(zero)) * scale, reshaped; ONNX Runtime computes it at load."""
    site, fmt = writing.site, writing.blocks.fmt
    count, columns = fmt.blocks(site.columns), site.columns
    shape = (count, fmt.block, site.rows) if site.across else (site.rows, count, fmt.block)

    def make() -> Array:
        steps = np.empty(shape, np.uint8)
        _fill(steps.transpose(2, 0, 1) if site.across else steps, writing)
        return steps

    to = ir.AttrInt64("to", FLOAT)
    steps = writing.stored(shape, make, f"int{fmt.bits}")
    nodes = [writing.node("Cast", [steps], to)]
    if not fmt.symmetric:
        zero = _per_block(writing.blocks.grid.zero, site)
        stored = writing.stored(zero.shape, lambda: zero, "zero")
        nodes.append(writing.node("Cast", [stored], to))
        nodes.append(writing.node("Sub", [node.outputs[0] for node in nodes]))
    scale = writing.constant(_per_block(writing.blocks.grid.scale, site), "scale")
    nodes.append(writing.node("Mul", [nodes[-1].outputs[0], scale]))
    whole = count * fmt.block
    if whole != columns:
        flat = (whole, site.rows) if site.across else (site.rows, whole)
        nodes.append(_reshaped(writing, nodes[-1], flat))
        ends = [
            writing.constant(np.array([number], np.int64), name)
            for name, number in (("start", 0), ("stop", columns), ("axis", int(not site.across)))
        ]
        nodes.append(writing.node("Slice", [nodes[-1].outputs[0], *ends]))
    if whole == columns or len(site.shape) > 2:
        nodes.append(_reshaped(writing, nodes[-1], site.shape))
    _take_over(writing, nodes)


def _per_block(data: Array, site: Site) -> Array:
    """Return [rows, blocks] as it multiplies blocks of steps."""
    return np.ascontiguousarray(data.T)[:, np.newaxis] if site.across else data[..., np.newaxis]


def _reshaped(writing: Writing, node: ir.Node, shape: tuple[int, ...]) -> ir.Node:
    wanted = writing.constant(np.array(shape, np.int64), "shape")
    return writing.node("Reshape", [node.outputs[0], wanted])


def _fill(steps: Array, writing: Writing) -> None:
    """Fill [rows, blocks, block]."""
    matrix = writing.site.matrix
    for rows in row_slices(matrix):
        part, grid = writing.blocks.part(matrix, rows)
        steps[rows] = padded(part, grid, writing.blocks.fmt)


def _take_over(writing: Writing, nodes: list[ir.Node]) -> None:
    result = nodes[-1].outputs[0]
    result.shape = ir.Shape(writing.site.shape)
    insert_first(writing.site.graph, nodes)
    writing.site.value.replace_all_uses_with(result)


# ---------------------------------------------------------------- the standard operator
def write_standard(writing: Writing) -> None:
    """Write DequantizeLinear with a block size (opset 21)."""
    site, fmt = writing.site, writing.blocks.fmt
    shape = (site.columns, site.rows) if site.across else (site.rows, site.columns)

    def make() -> Array:
        steps, matrix = np.empty(shape, np.uint8), site.matrix
        view = steps.T if site.across else steps
        for rows in row_slices(matrix):
            view[rows] = writing.blocks.part(matrix, rows)[0]
        return steps

    scale, zero = (
        np.ascontiguousarray(each.T if site.across else each)
        for each in (writing.blocks.grid.scale, writing.blocks.grid.zero)
    )
    inputs = [writing.stored(shape, make, f"int{fmt.bits}"), writing.constant(scale, "scale")]
    if not fmt.symmetric:
        inputs.append(writing.stored(zero.shape, lambda: zero, "zero"))
    axis, block = (
        ir.AttrInt64("axis", int(not site.across)),
        ir.AttrInt64("block_size", fmt.block),
    )
    nodes = [writing.node("DequantizeLinear", inputs, axis, block)]
    if len(site.shape) > 2:
        nodes[0].outputs[0].shape = ir.Shape(shape)
        nodes.append(_reshaped(writing, nodes[0], site.shape))
    _take_over(writing, nodes)


# ---------------------------------------------------------------- ONNX Runtime's operator
def has_nbits(site: Site) -> bool:
    """Say whether all readers of a weight can be MatMulNBits."""
    return all(is_op(node, "MatMul") or _is_plain(node) for node in site.readers)


def _is_plain(node: ir.Node) -> bool:
    """Say whether a Gemm is x W + c."""
    numbers = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return (
        is_op(node, "Gemm")
        and not node.attributes.get_int("transA", 0)
        and all(number == 1.0 for number in numbers)
    )


def write_nbits(writing: Writing, model: ir.Model) -> None:
    """Write com.microsoft.MatMulNBits: bytes [rows, blocks, block * bits / 8], low nibble first."""
    site, fmt = writing.site, writing.blocks.fmt
    count = fmt.blocks(site.columns)
    shape = (site.rows, count, fmt.block * fmt.bits // 8)

    def make() -> Array:
        data, matrix = np.empty(shape, np.uint8), site.matrix
        for rows in row_slices(matrix):
            data[rows] = _bytes(padded(*writing.blocks.part(matrix, rows), fmt), fmt.bits)
        return data

    weight = _plain_bytes(writing, shape, make)
    inputs = [weight, writing.constant(writing.blocks.grid.scale, "scale")]
    if not fmt.symmetric:
        zero = np.pad(writing.blocks.grid.zero, ((0, 0), (0, count % 2 if fmt.bits == 4 else 0)))
        inputs.append(writing.constant(_bytes(zero, fmt.bits), "zero"))
    sizes = {"K": site.columns, "N": site.rows, "bits": fmt.bits, "block_size": fmt.block}
    attributes = [ir.AttrInt64(name, number) for name, number in sizes.items()]
    for node in site.readers:
        product = ir.Node(MICROSOFT, "MatMulNBits", [node.inputs[0], *inputs], attributes)
        product.name = node.name
        _put_in_place(node, product)
    model.opset_imports.setdefault(MICROSOFT, 1)


def _plain_bytes(writing: Writing, shape: tuple[int, ...], make: Callable[[], Array]) -> ir.Value:
    name, dtype = writing.name(f"int{writing.blocks.fmt.bits}"), ir.DataType.UINT8
    data: ir.TensorProtocol
    if isinstance(writing.site.weight, ir.ExternalTensor):
        lazy = lambda: ir.Tensor(make(), name=name)  # noqa: E731
        data = ir.LazyTensor(lazy, dtype, ir.Shape(shape), name=name)
    else:
        data = ir.Tensor(make(), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=data)
    return add_tensor(writing.site.graph, value)


def _put_in_place(node: ir.Node, product: ir.Node) -> None:
    bias = node.inputs[2] if is_op(node, "Gemm") and len(node.inputs) > 2 else None
    if bias is None:
        replace([node], product)
        return
    assert node.graph is not None
    node.graph.insert_before(node, product)
    product.outputs[0].type = ir.TensorType(FLOAT)
    added = node_like(node, [product.outputs[0], bias], [])
    replace([node], ir.Node("", "Add", list(added.inputs)))


def _bytes(steps: Array, bits: int) -> Array:
    """Return steps of 4 bits two to a byte along the last axis, of 8 as they are."""
    return steps if bits == 8 else (steps[..., 0::2] | (steps[..., 1::2] << 4)).astype(np.uint8)
