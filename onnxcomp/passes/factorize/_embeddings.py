"""The forms of a table of embeddings: a narrow table, and a product behind its Gather."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.cost import Dims
from onnxcomp.edits import add_constant, take_over
from onnxcomp.exclusion import is_excluded, split_globs
from onnxcomp.graph import Array, array, is_op, tensor
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._forms import Chain, Form, Part, Site, cheaper, ranks_below
from onnxcomp.passes.factorize._principal import Spectrum, of_columns
from onnxcomp.passes.factorize._products import KIND
from onnxcomp.registry import leave


def find_embeddings(
    graph: ir.Graph, shapes: dict[ir.Value, Dims], step: int, exclude: str
) -> list[Site]:
    """Return the tables that only Gather reads, with their forms."""
    globs = split_globs(exclude)
    tables: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if not is_op(node, "Gather") or node.attributes.get_int("axis", 0) != 0:
            continue
        found = tensor(node.inputs[0])
        if found is None or found.dtype != ir.DataType.FLOAT or len(found.shape) != 2:
            continue
        if is_excluded(node, globs):
            continue
        assert node.inputs[0] is not None
        tables.setdefault(node.inputs[0], []).append(node)
    sites = []
    for table, nodes in tables.items():
        if len(table.uses()) != len(nodes):
            leave(nodes[0], "its table is also used in another way")
            continue
        sites.append(_site(table, nodes, shapes, step))
    return sites


def _site(
    value: ir.Value, nodes: Sequence[ir.Node], shapes: dict[ir.Value, Dims], step: int
) -> Site:
    data = array(value)
    assert data is not None
    table = data.astype(np.float64)
    spectrum = of_columns(table)
    words, width = table.shape
    positions = sum(int(np.prod(shapes.get(node.outputs[0], (1,))[:-1])) for node in nodes)

    def form_of(kind: str, ranks: tuple[int, ...]) -> Form | None:
        [rank] = ranks
        if kind != KIND or not 0 < rank <= min(table.shape):
            return None
        macs, params = positions * rank * width, rank * (words + width)
        error = float(spectrum.expected[rank])
        return Form(KIND, ranks, macs, params, error, lambda: _chain(table, spectrum, rank, nodes))

    found = [form_of(KIND, (rank,)) for rank in ranks_below(table.size / (words + width), step)]
    forms = cheaper([form for form in found if form is not None], 0, table.size, smaller=True)
    layers = tuple(Layer(node, 1, width, words) for node in nodes)
    return Site(layers, 0, table.size, (), forms, form_of)


def _chain(table: Array, spectrum: Spectrum, rank: int, nodes: Sequence[ir.Node]) -> Chain:
    basis = spectrum.basis[:, :rank]
    parts = Part("Gather", table @ basis), Part("MatMul", basis.T)
    return Chain(parts, (None,) * len(nodes))


def rewrite_gathers(graph: ir.Graph, layers: Sequence[Layer], chain: Chain) -> None:
    """Let Gathers read a narrow table, and multiply what they read."""
    table, up = (
        add_constant(graph, np.ascontiguousarray(part.weight, dtype=np.float32), f"{name}.{place}")
        for place, part in enumerate(chain.parts)
        for name in [layers[0].source.name]
    )
    for layer in layers:
        node, made = layer.node, layer.node.outputs[0]
        name = made.name
        node.replace_input_with(0, table)
        product = ir.Node("", "MatMul", [made, up], name=f"{node.name}.up" if node.name else None)
        graph.insert_after(node, product)
        take_over(product.outputs[0], made)
        product.replace_input_with(0, made)
        made.shape = None
        if made.name is None:
            made.name = f"{name}.narrow"
        else:
            product.outputs[0].name = f"{name}.wide"
