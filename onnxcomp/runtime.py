"""ONNX Runtime sessions: the reference (optimizations off), as users run it (on), and with taps."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, all_graphs, all_nodes, has_subgraph

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Feeds = Mapping[str, Array]

NBYTES = "onnxcomp.nbytes"
# A protobuf message ends at 2 GiB; beyond this a session reads from a temporary folder instead.
INLINE_LIMIT = 1_000_000_000
# What ONNX Runtime calls its sets of graph rewrites, from none to all.
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: dims are numbers, names, or None where nothing is declared."""

    name: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ",".join(str(d or "?") for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


def input_specs(model: ir.Model) -> list[InputSpec]:
    """Describe the inputs of a model, in order."""
    return [value_spec(value) for value in model.graph.inputs]


def value_spec(value: ir.Value) -> InputSpec:
    """Describe one value as its type and shape are declared."""
    dtype = None
    if isinstance(value.type, ir.TensorType) and value.type.dtype != ir.DataType.UNDEFINED:
        string = value.type.dtype == ir.DataType.STRING
        dtype = np.dtype(object) if string else np.dtype(value.type.dtype.numpy())
    shape = None
    if value.shape is not None:
        shape = tuple(_dim(dim) for dim in value.shape)
    return InputSpec(value.name or "", dtype, shape)


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    """Return a number, a name, or None; some exporters write -1 for an open dim."""
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return dim.value


class Session:
    """A model loaded in ONNX Runtime's CPU provider.

    A model may also be given as `as_source` yields it. `optimize=False` is the reference: no graph
    rewrite of ONNX Runtime at all, and never `prepack` (see `session_options`). `taps` are names of
    values of the main graph to return besides the outputs. `dump` is where to write the optimized
    graph, at the extended level: above it only memory layouts change, in operators that no file can
    hold. `signed` is for models of a target with int8 activations (see `session_options`). Raises
    `ModelError` when ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        model: ir.Model | str | bytes,
        *,
        optimize: bool | str = False,
        threads: int = 1,
        prepack: bool = True,
        taps: Sequence[str] = (),
        dump: Path | None = None,
        signed: bool = False,
    ) -> None:
        options = session_options(
            optimize=optimize, threads=threads, prepack=prepack, signed=signed
        )
        if dump is not None:
            options.optimized_model_filepath = str(dump)
            options.graph_optimization_level = extended_level()
        if isinstance(model, ir.Model):
            with as_source(add_outputs(model, taps) if taps else model) as source:
                self._session = load(source, options)
        else:
            self._session = load(model, options)
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output (and tap) by name; raise `ModelError` when the run fails."""
        known = {name: feeds[name] for name in self.inputs if name in feeds}
        try:
            results = self._session.run(None, known)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise ModelError(f"ONNX Runtime cannot run the model: {first_line(error)}") from error
        return dict(zip(self.outputs, results, strict=True))


def session_options(
    *, optimize: bool | str, threads: int, prepack: bool = True, signed: bool = False
) -> onnxruntime.SessionOptions:
    """Return options that differ only in what this project varies; logs are off.

    `optimize` may also be one of `LEVELS`.

    Without `prepack` kernels make no copies of the weights in a layout of their own: memory and
    time that pay only over many runs. With `signed` int8 activations stay, as they do on Arm: on
    x86 they are rewritten to uint8, after which some models of opset 21 and up do not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    level = optimize if isinstance(optimize, str) else LEVELS[-1] if optimize else LEVELS[0]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not (optimize and prepack):
        options.add_session_config_entry("session.disable_prepacking", "1")
    if signed:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def extended_level() -> onnxruntime.GraphOptimizationLevel:
    """Return the level of ONNX Runtime that still writes standard and contributed operators."""
    import onnxruntime

    return onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def load(source: str | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Create a session, turning any refusal into a `ModelError`."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, none of which is read."""
    return sum(
        _bytes_of(value) for graph in all_graphs(model) for value in graph.initializers.values()
    )


def _bytes_of(value: ir.Value) -> int:
    """Return the bytes of a weight; reckoned once, since this is asked after every pass."""
    known: tuple[object, int] | None = value.meta.get(NBYTES)
    if known is not None and known[0] is value.const_value:
        return known[1]
    size = 0 if value.const_value is None else value.const_value.nbytes
    value.meta[NBYTES] = (value.const_value, size)
    return size


def constant_bytes(model: ir.Model) -> int:
    """Return the bytes of all constants: weights, and tensors that nodes carry."""
    return weight_bytes(model) + sum(
        attr.as_tensor().nbytes
        for node in all_nodes(model)
        for attr in node.attributes.values()
        if attr.type == ir.AttributeType.TENSOR and not attr.is_ref()
    )


@contextlib.contextmanager
def as_source(model: ir.Model) -> Iterator[str | bytes]:
    """Yield what ONNX Runtime loads: bytes, or for large models a path in a temporary folder."""
    if weight_bytes(model) < INLINE_LIMIT:
        yield inline_bytes(model)
        return
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        path = Path(folder) / "model.onnx"
        linked = _linked(model, Path(folder))
        if linked is None:
            ir.save(model, path, external_data="model.data")
        else:
            path.write_bytes(ir.to_proto(linked).SerializeToString())
        yield str(path)


def _linked(model: ir.Model, folder: Path) -> ir.Model | None:
    """Return a copy that reads unchanged weights files through hard links in `folder`.

    ONNX Runtime reads weights only from the model's own folder, and a link costs nothing where a
    copy costs gigabytes. None when the folder is on another file system, or when what is not in
    files is too large for one message.
    """
    copy = model.clone()
    links: dict[str, str] = {}
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            data = value.const_value
            if not isinstance(data, ir.ExternalTensor):
                continue
            name = links.setdefault(str(data.path), f"weights{len(links)}")
            value.const_value = ir.ExternalTensor(
                name, data.offset, data.length, data.dtype, shape=data.shape,
                name=data.name or "", base_dir=folder,
            )  # fmt: skip
    try:
        for file, name in links.items():
            os.link(file, folder / name)
    except OSError:
        return None
    inline = weight_bytes(copy) - sum(
        value.const_value.nbytes
        for graph in all_graphs(copy)
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    )
    return copy if inline < INLINE_LIMIT else None


def own_names(model: ir.Model) -> None:
    """Give each weight a tensor of its own name.

    `onnx_ir` names a tensor after its value when it serializes, and the tensor may be the caller's.
    """
    for graph in all_graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None and value.const_value.name != name:
                value.const_value = _renamed(value.const_value, name)


def _renamed(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    shape = ir.Shape(tensor.shape)  # type: ignore[arg-type]
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location, tensor.offset, tensor.length, tensor.dtype,
            shape=shape, name=name, base_dir=tensor.base_dir,
        )  # fmt: skip
    if isinstance(tensor, ir.StringTensor) or tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.string_data(), shape=shape, name=name)  # type: ignore[attr-defined]
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=name)


def lean_copy(model: ir.Model) -> ir.Model:
    """Return a copy whose weights have no value info, which only repeats their own type."""
    own_names(model)
    copy = model.clone()
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            if not value.is_graph_output() and not value.is_graph_input():
                value.shape, value.type = None, None
    return copy


def inline_bytes(model: ir.Model) -> bytes:
    """Serialize a model with every weight inside; what it means is not changed."""
    own_names(model)
    proto = ir.to_proto(model)
    _finish(model.graph, proto.graph)
    for function, written in zip(model.functions.values(), proto.functions, strict=True):
        _finish_subgraphs(function, written.node)
    return bytes(proto.SerializeToString(deterministic=True))


def _finish(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Put in what lies in files; drop what repeats the types of weights (written first)."""
    count = 0
    while count < len(proto.value_info) and proto.value_info[count].name in graph.initializers:
        count += 1
    del proto.value_info[:count]
    weights = [value for value in graph.initializers.values() if value.const_value is not None]
    for value, tensor in zip(weights, proto.initializer, strict=True):
        if isinstance(value.const_value, ir.ExternalTensor):
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.raw_data = value.const_value.tobytes()
    _finish_subgraphs(graph, proto.node)


def _finish_subgraphs(nodes: Iterable[ir.Node], protos: Iterable[onnx.NodeProto]) -> None:
    for node, proto in zip(nodes, protos, strict=True):
        if not has_subgraph(node):
            continue
        written = {attr.name: attr for attr in proto.attribute}
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
                _finish(attr.as_graph(), written[attr.name].g)
            elif attr.type == ir.AttributeType.GRAPHS and not attr.is_ref():
                for graph, each in zip(attr.as_graphs(), written[attr.name].graphs, strict=True):
                    _finish(graph, each)


def add_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy of a model whose main graph also returns these values."""
    copy = model.clone()
    by_name = {out.name: out for node in copy.graph for out in node.outputs}
    present = {output.name for output in copy.graph.outputs}
    for name in names:
        if name in by_name and name not in present:
            copy.graph.outputs.append(by_name[name])
    return copy
