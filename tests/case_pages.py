"""Reads `tests/cases/*.md`: titled sections of one or two models in ONNX's text syntax.

One `onnx` block: the pass must not change it. Two: before and after. Lines `key: value` before
the first block set `opset` (17 by default), `options` (TOML, such as `ratio = 0.5`), `sites` (what
the pass counts, 1 by default where it changes something) or `execute: no`. A weight declared
without values gets seeded random ones.
"""

from __future__ import annotations

import re
import tomllib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

FOLDER = Path(__file__).parent / "cases"
SECTION = re.compile(r"^## (?P<title>.+?)\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```onnx\n(.*?)^```", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"^(opset|options|sites|execute): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One section of a page."""

    pass_name: str
    title: str
    before: str
    after: str | None
    opset: int = 17
    options: dict[str, object] = field(default_factory=dict)
    sites: int = 0
    execute: bool = True

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.title}"


def read_pages() -> list[Case]:
    """Return every section of every page, sorted by page."""
    return [case for path in sorted(FOLDER.glob("*.md")) for case in read_page(path)]


def read_page(path: Path) -> list[Case]:
    """Return the sections of one page."""
    cases = []
    for section in SECTION.finditer(path.read_text()):
        body = section["body"]
        blocks = BLOCK.findall(body)
        assert 1 <= len(blocks) <= 2, f"{path.name}, {section['title']}: one or two onnx blocks"
        settings = dict(SETTING.findall(body.partition("```")[0]))
        cases.append(
            Case(
                path.stem,
                section["title"].strip(),
                blocks[0],
                blocks[1] if len(blocks) == 2 else None,
                int(settings.get("opset", 17)),
                tomllib.loads(settings.get("options", "").replace("; ", "\n")),
                int(settings.get("sites", len(blocks) - 1)),
                settings.get("execute", "yes") != "no",
            )
        )
    return cases


def parse(text: str, opset: int) -> ir.Model:
    """Parse a model; `<ir_version ...>` may be left out."""
    return ir.from_proto(parse_proto(text, opset))


def parse_proto(text: str, opset: int) -> onnx.ModelProto:
    """Parse a model to its message."""
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}'
    proto = onnx.parser.parse_model(text)
    give_weights(proto.graph)
    return proto


def give_weights(graph: onnx.GraphProto) -> None:
    """Turn value infos that no node makes into initializers with values seeded by their name."""
    made = {name for node in graph.node for name in node.output}
    for info in [info for info in graph.value_info if info.name not in made]:
        graph.value_info.remove(info)
        kind = info.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        rng = np.random.default_rng(zlib.crc32(info.name.encode()))
        data = rng.uniform(0.5, 1.5, shape)
        if "var" not in info.name:
            data *= rng.choice([-1.0, 1.0], shape)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        graph.initializer.append(onnx.numpy_helper.from_array(data.astype(dtype), info.name))
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == onnx.AttributeProto.GRAPH:
                give_weights(attr.g)


def structure(model: ir.Model) -> str:
    """Return a text equal for models that differ only in inner names and weights' values."""
    lines = [f"opset {model.opset_imports}", *_structure(model.graph, {}, "")]
    for function in model.functions.values():
        lines += [f"function {function.name}", *_structure(function.graph, {}, "  ")]
    return "\n".join(lines)


def _structure(graph: ir.Graph, names: dict[ir.Value, str], indent: str) -> list[str]:
    names = dict(names)
    for value in [*graph.inputs]:
        names[value] = f"{value.name}: {_kind(value)}"
    order: dict[ir.Node, None] = {}

    def visit(value: ir.Value | None) -> None:
        node = None if value is None else value.producer()
        if node is None or node in order or node.graph is not graph:
            return
        for item in node.inputs:
            visit(item)
        order[node] = None

    for output in graph.outputs:
        visit(output)
    for node in graph:
        visit(node.outputs[0])
    lines = []
    for node in order:
        for output in node.outputs:
            names[output] = f"%{len(names)}"
        inputs = [_name(value, names) for value in node.inputs]
        while inputs and inputs[-1] == "_":
            inputs.pop()
        results = [names[output] if output.name else "_" for output in node.outputs]
        attrs = [_attribute(attr) for _, attr in sorted(node.attributes.items())]
        head = f"{indent}{', '.join(results)} = {node.domain}:{node.op_type}"
        lines.append(f"{head}({', '.join(inputs)}) {' '.join(attrs)}".rstrip())
        for _, attr in sorted(node.attributes.items()):
            if attr.type == ir.AttributeType.GRAPH:
                inner = _structure(attr.as_graph(), names, indent + "  ")
                lines += [f"{indent}  {attr.name}:", *inner]
    outputs = [f"{value.name}: {_kind(value)} = {_name(value, names)}" for value in graph.outputs]
    return [*lines, f"{indent}=> {', '.join(outputs)}"]


def _name(value: ir.Value | None, names: dict[ir.Value, str]) -> str:
    if value is None:
        return "_"
    if value.const_value is not None and value.producer() is None:
        return _tensor(value.const_value)
    return names.get(value, f"?{value.name}")


def _tensor(tensor: ir.TensorProtocol) -> str:
    return f"{tensor.dtype.name}{list(tensor.shape)}"


def _kind(value: ir.Value) -> str:
    return f"{value.type}{value.shape}"


def _attribute(attr: ir.Attr) -> str:
    if attr.type == ir.AttributeType.GRAPH:
        return f"{attr.name}=graph"
    if attr.type == ir.AttributeType.TENSOR:
        return f"{attr.name}={_tensor(attr.as_tensor())}"
    return f"{attr.name}={attr.value}"
