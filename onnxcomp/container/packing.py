"""A model and the files of its weights, written as a container."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from onnxcomp.container.baseline import Baseline, baseline
from onnxcomp.container.damage import DamageError
from onnxcomp.container.encoding import encode_chunk
from onnxcomp.container.layout import (
    CHUNK,
    MAGIC,
    NONE,
    VERSION,
    PackedFile,
    encode_footer,
    encode_index,
    is_inside,
    padding_for,
)
from onnxcomp.container.packed import Packed, PackedTensor, type_name
from onnxcomp.container.reading import is_container
from onnxcomp.container.streams import LIMIT
from onnxcomp.container.wire import Tensor, find_tensors
from onnxcomp.container.words import BYTES, FORMS, Form
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.model_io import check_writable, scratch
from onnxcomp.stages import stage

# Smaller weights are coded with what lies around them: a chunk of their own would cost more.
LEAST = 512


def pack(model: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Packed:
    """Write a model, and the files its weights lie in, as one `.onnxz` file.

    The default is `<stem>.onnxz` beside it. `unpack` gives back every byte. Weights stay mapped:
    memory does not grow with the model. Raises `ModelError` for what is no model or cannot be
    written, `UsageError` where the output is the input.
    """
    started = time.perf_counter()
    path = Path(model)
    out = path.with_suffix(".onnxz") if output is None else Path(output)
    _check_source(path)
    check_writable(out, path)
    stage("loading")
    with _mapped(path) as data:
        try:
            found = list(find_tensors(data))
        except DamageError as error:
            raise ModelError(
                f"{path} is not an ONNX model or is damaged ({error}); export it again"
            ) from error
        sources = {"": path, **_weights_files(path, found)}
        if out.resolve() in {source.resolve() for source in sources.values()}:
            raise UsageError(f"{out} holds the input's weights; choose another file with -o")
        try:
            with scratch(out.parent) as folder:
                part = folder / out.name
                with open(part, "wb") as file:
                    tensors, files = _write(file, sources, found)
                os.replace(part, out)
        except OSError as error:
            raise ModelError(f"cannot write {out}: {error.strerror or error}") from error
    return Packed(
        path=str(path),
        written=str(out),
        before=sum(file.size for file in files),
        after=out.stat().st_size,
        tensors=tuple(tensors),
        seconds=time.perf_counter() - started,
    )


def _check_source(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnx file in it")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty")
    if is_container(path):
        raise UsageError(f"{path} is packed already")


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """Yield a file's bytes, which are read when they are asked for."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                yield memoryview(b"")
                return
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    yield memoryview(mapped)


def _weights_files(path: Path, found: Iterable[Tensor]) -> dict[str, Path]:
    """Return the files beside a model that hold its weights, by their names in it."""
    files: dict[str, Path] = {}
    for tensor in found:
        if tensor.location is None:
            continue
        if not is_inside(tensor.location):
            raise ModelError(
                f"{path}: weights file {tensor.location!r} lies outside the model's folder"
            )
        file = path.parent / tensor.location
        if not file.is_file():
            raise ModelError(
                f"{path}: its weights file {tensor.location} is missing; put it beside it"
            )
        if file.stat().st_size < tensor.end:
            raise ModelError(
                f"{path}: its weights file {tensor.location} is too short for {tensor.name} "
                f"({file.stat().st_size} bytes, {tensor.end} needed); fetch it again"
            )
        files[_key(tensor)] = file
    return dict(sorted(files.items()))


def _key(tensor: Tensor) -> str:
    return "" if tensor.location is None else PurePosixPath(tensor.location).as_posix()


# ---------------------------------------------------------------- writing
def _write(
    file: BinaryIO, sources: dict[str, Path], found: Sequence[Tensor]
) -> tuple[list[PackedTensor], list[PackedFile]]:
    writer = Writer(file)
    tensors: list[PackedTensor] = []
    files = []
    for name, source in sources.items():
        mine = _apart(tensor for tensor in found if _key(tensor) == name)
        with _mapped(source) as data:
            files.append(_write_rest(writer, name, data, mine))
            tensors += [_write_tensor(writer, data, tensor) for tensor in mine]
    writer.finish(files)
    return tensors, files


def _apart(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return weights in the file's order; of several at one place, the first."""
    kept: list[Tensor] = []
    for tensor in sorted(tensors, key=lambda item: (item.start, -item.end)):
        if tensor.end - tensor.start < LEAST or (kept and tensor.start < kept[-1].end):
            continue
        kept.append(tensor)
    return kept


def _write_rest(
    writer: Writer, name: str, data: memoryview, tensors: Sequence[Tensor]
) -> PackedFile:
    """Write what lies between weights; return the file's outline."""
    stage(f"packing {name}" if name else "packing the graph")
    digest = hashlib.sha256(data).digest()
    starts = [0, *(tensor.end for tensor in tensors)]
    ends = [*(tensor.start for tensor in tensors), len(data)]
    gaps = list(zip(starts, ends, strict=True))
    for chunk in _joined(data[start:end] for start, end in gaps):
        writer.chunk(chunk, BYTES)
    spans = [
        (end - start, tensor.end - tensor.start)
        for (start, end), tensor in zip(gaps, tensors, strict=False)
    ]
    return PackedFile(name, len(data), digest, tuple(spans))


def _joined(parts: Iterable[memoryview]) -> Iterator[bytes]:
    """Yield chunks of `CHUNK` bytes, and a last one that may be shorter."""
    held = bytearray()
    for part in parts:
        at = 0
        while at < len(part):
            piece = part[at : at + CHUNK - len(held)]
            held += piece
            at += len(piece)
            if len(held) == CHUNK:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


def _write_tensor(writer: Writer, data: memoryview, tensor: Tensor) -> PackedTensor:
    stage(f"packing {tensor.name}")
    form = FORMS.get(tensor.data_type, BYTES)
    total, before, codings = Baseline(), writer.written, []
    for start in range(tensor.start, tensor.end, CHUNK):
        chunk = bytes(data[start : min(start + CHUNK, tensor.end)])
        total += baseline(chunk, form)
        codings.append(writer.chunk(chunk, form))
    return PackedTensor(
        name=tensor.name,
        dtype=type_name(tensor.data_type),
        values=tensor.values,
        before=tensor.end - tensor.start,
        after=writer.written - before,
        entropy_bits=total.entropy_bits,
        huffman_bytes=total.huffman_bytes,
        coding=max(codings, key=codings.count),
    )


class Writer:
    """Writes chunks as they come, and the index and the digest after them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._stored: list[int] = []
        self._sources: list[int] = []
        self._known: dict[bytes, int] = {}
        self.written = 0
        self._put(MAGIC + VERSION.to_bytes(2, "little"))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.written += len(data)

    def chunk(self, data: bytes, form: Form) -> str:
        """Write a chunk, or only that it repeats one; return the name of its coding."""
        content = hashlib.sha256(data).digest()
        known = self._known.setdefault(content, len(self._stored))
        if known < len(self._stored):
            self._stored.append(0)
            self._sources.append(known)
            return "repeated"
        coded = encode_chunk(data, form)
        self._put(coded.payload)
        self._stored.append(len(coded.payload))
        self._sources.append(NONE)
        return coded.coding

    def finish(self, files: Sequence[PackedFile]) -> None:
        """Write padding, index and footer."""
        padding = padding_for(sum(file.size for file in files), self.written)
        left = padding
        while left:
            part = min(left, CHUNK)
            self._put(bytes(part))
            left -= part
        index = encode_index(files, self._stored, self._sources, padding)
        if len(index) > LIMIT:
            raise ModelError(f"an index of {len(self._stored)} weights is more than can be packed")
        coded, numbers = encode_footer(index)
        self._put(coded)
        self._put(numbers)
        self._file.write(self._digest.digest())
