"""Models in and out: what is read is checked, what is written appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from onnxcomp.container.reading import is_container, load
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import all_graphs, all_nodes
from onnxcomp.runtime import constant_bytes, first_line, inline_bytes, lean_copy, weight_bytes
from onnxcomp.stages import stage

if TYPE_CHECKING:
    import onnx

ModelSource: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model"

# Protobuf refuses messages of 2 GiB; weights beyond this go to a file beside the model.
EXTERNAL_FROM = 1_800_000_000
OLDEST_IR_VERSION = 4
# Where `load_model` notes, in the model's `meta`, what it found and changed.
AS_READ = "onnxcomp.as_read"


@dataclass(frozen=True)
class AsRead:
    """What a model was before `load_model` made it current."""

    ir_version: int
    listed_initializers: tuple[str, ...]


def load_model(source: ModelSource) -> ir.Model:
    """Return a model of our own: a path is read lazily, an object is never changed.

    A path may be that of a packed model (`.onnxz`).

    Initializers that are also listed as inputs become plain constants, and an IR version below 4,
    which demands that listing, becomes 4. Raises `ModelError` for what is not a usable model.
    """
    if isinstance(source, ir.Model):
        model, where = source.clone(), "the model"
    elif isinstance(source, (str, os.PathLike)):
        model, where = _read(Path(source)), str(source)
    else:
        model, where = _from_proto(source), "the model"
    _check_not_empty(model, where)
    listed = _drop_initializer_inputs(model)
    model.meta[AS_READ] = AsRead(model.ir_version or 0, tuple(listed))
    model.ir_version = max(model.ir_version, OLDEST_IR_VERSION)
    return model


def _read(path: Path) -> ir.Model:
    if not path.exists():
        raise ModelError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnx file in it")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty")
    import onnx

    try:
        if is_container(path):
            proto = onnx.load_from_string(load(path))
        else:
            proto = onnx.load(path, load_external_data=False)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf and onnx_ir raise many types for damaged files
        raise ModelError(
            f"{path} is not an ONNX model or is damaged ({first_line(error)}); export it again"
        ) from error
    model = _from_proto(proto, f"{path}: ")
    _resolve_external_data(model, path)
    return model


def _from_proto(proto: onnx.ModelProto, where: str = "") -> ir.Model:
    sparse = _first_sparse(proto.graph)
    if sparse is not None:
        raise ModelError(
            f"{where}{sparse} is a sparse tensor, which is not supported; export it as a dense one"
        )
    try:
        return ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{where}not a valid ONNX model: {first_line(error)}") from error


def _first_sparse(graph: onnx.GraphProto) -> str | None:
    """Name a sparse tensor of a graph or its subgraphs; `onnx_ir` would drop or refuse it."""
    for weight in graph.sparse_initializer:
        return str(weight.values.name) or "a weight"
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("sparse_tensor") or attr.sparse_tensors:
                return str(node.output[0] if node.output else node.name)
            found = _first_sparse(attr.g) if attr.HasField("g") else None
            if found is not None:
                return found
    return None


def _check_not_empty(model: ir.Model, where: str) -> None:
    if not model.graph.outputs:
        raise ModelError(f"{where} has an empty graph: no outputs, so nothing to optimize")
    if not model.opset_imports:
        raise ModelError(f"{where} imports no operator set; it is not a complete ONNX model")


def _drop_initializer_inputs(model: ir.Model) -> list[str]:
    """Take initializers out of the inputs and return their names."""
    names = []
    for graph in all_graphs(model):
        listed = [value for value in graph.inputs if value.is_initializer()]
        for value in listed:
            graph.inputs.remove(value)
            names.append(value.name or "")
    return names


def external_tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.ExternalTensor]]:
    """Yield every initializer whose data lies in a file beside the model."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value, value.const_value


def _resolve_external_data(model: ir.Model, path: Path) -> None:
    """Point external tensors at real files, through the symbolic links of a Hugging Face cache.

    `onnx_ir` refuses links that leave the folder. What is refused here is a location that itself
    leaves it (`..`, absolute): no honest exporter writes one.
    """
    for value, data in external_tensors(model):
        location = str(data.location)
        _check_location(location, path)
        file = path.parent / location
        if not file.exists():
            raise ModelError(f"{path}: its weights file {location} is missing; put it beside it")
        real = file.resolve()
        end = (data.offset or 0) + (data.length if data.length is not None else data.nbytes)
        if real.stat().st_size < end:
            raise ModelError(
                f"{path}: its weights file {location} is too short for {value.name} "
                f"({real.stat().st_size} bytes, {end} needed); fetch it again"
            )
        value.const_value = ir.ExternalTensor(
            str(real), data.offset, data.length, data.dtype, shape=data.shape,
            name=data.name or "", base_dir="",
        )  # fmt: skip


def _check_location(location: str, path: Path) -> None:
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
    if absolute or ".." in parts or not location:
        raise ModelError(f"{path}: weights file {location!r} lies outside the model's folder")


def model_bytes(model: ir.Model) -> int:
    """Return the size of a model as one file; of a large one nearly.

    Weights are counted, not read: a 2.5 GB model costs nothing.
    """
    if weight_bytes(model) < EXTERNAL_FROM // 8:
        return len(inline_bytes(model))
    names = sum(len(graph.initializers) for graph in all_graphs(model))
    nodes = sum(1 for _ in all_nodes(model))
    return constant_bytes(model) + 64 * (names + nodes)


def default_output(path: str | os.PathLike[str]) -> Path:
    """Return `<stem>.opt.onnx` beside the input."""
    return Path(path).with_name(f"{Path(path).stem}.opt.onnx")


def check_writable(out: Path, source: object) -> None:
    """Raise `UsageError` before any work when `out` cannot be written or is the input."""
    if isinstance(source, (str, os.PathLike)) and out.resolve() == Path(source).resolve():
        raise UsageError(f"{out} is the input; choose another file with -o")
    if out.is_dir():
        raise UsageError(f"cannot write {out}: it is a folder; give a file name")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        raise UsageError(f"cannot write {out}: permission denied")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error


def check_plain(out: Path) -> None:
    """Raise `UsageError` where a model would be written under the name of a packed one."""
    if out.suffix == ".onnxz":
        raise UsageError(f"{out} would not be packed; write a .onnx file, then `onnxcomp pack` it")


def save_model(model: ir.Model, out: Path, *, external: bool = False) -> int:
    """Write a model atomically and return its bytes, weights file included.

    Weights go to `<name>.data` beside it when `external`, or when one file could not hold them.
    Raises `ModelError` when the disk refuses; an old file then stays as it was.
    """
    external = external or weight_bytes(model) > EXTERNAL_FROM
    data = out.with_name(f"{out.name}.data")
    if external and any(
        Path(tensor.path).resolve() == data.resolve() for _, tensor in external_tensors(model)
    ):
        raise UsageError(f"{data} holds the input's weights; choose another output with -o")
    stage("writing")
    try:
        with scratch(out.parent) as folder:
            part = folder / out.name
            if external:
                ir.save(lean_copy(model), part, external_data=data.name, size_threshold_bytes=1024)
                size = part.stat().st_size
                if (folder / data.name).exists():
                    size += (folder / data.name).stat().st_size
                    os.replace(folder / data.name, data)
            else:
                size = part.write_bytes(inline_bytes(model))
            os.replace(part, out)
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror or error}") from error
    return size


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder on the output's own file system; it goes away whatever happens."""
    with tempfile.TemporaryDirectory(prefix=".onnxcomp-", dir=folder) as name:
        yield Path(name)


def write_text(out: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(out, text.encode("utf-8"))


def write_bytes(out: Path, data: bytes) -> int:
    """Write a file atomically and return its bytes."""
    try:
        with scratch(out.parent) as folder:
            part = folder / out.name
            size = part.write_bytes(data)
            os.replace(part, out)
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror or error}") from error
    return size
