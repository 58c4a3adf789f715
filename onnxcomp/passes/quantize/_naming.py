"""Names for what a rewrite adds."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import all_graphs, all_nodes


def used_names(model: ir.Model) -> set[str]:
    """Return every name in use, of values and nodes alike."""
    used = {node.name for node in all_nodes(model)}
    used |= {value.name for node in all_nodes(model) for value in node.outputs}
    for graph in all_graphs(model):
        used |= {value.name for value in graph.inputs} | set(graph.initializers)
    return {name for name in used if name}


def fresh_name(used: set[str], stem: str) -> str:
    """Return a name made from `stem` that is not in use, and note it as used."""
    name, count = stem, 1
    while name in used:
        name, count = f"{stem}_{count}", count + 1
    used.add(name)
    return name


def stem_of(value: ir.Value) -> str:
    """Return the name of a weight without what the passes before have put behind it."""
    return (value.name or "weight").removesuffix(".rounded").removesuffix(".equalized")
