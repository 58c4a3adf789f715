"""Containers read: everything is checked before a byte of the model is handed on."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnxcomp.container.damage import DamageError
from onnxcomp.container.decoding import decode_chunk
from onnxcomp.container.embedding import with_weights
from onnxcomp.container.layout import MAGIC, Chunk, PackedFile, read_index
from onnxcomp.errors import ModelError

# Protobuf, and so ONNX Runtime, takes no message of 2 GiB.
MESSAGE_LIMIT = 1 << 31


@dataclass(frozen=True)
class Container:
    """An open container: its bytes, mapped, and its files, the model first."""

    data: memoryview
    files: tuple[PackedFile, ...]


def is_container(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a container: its name or its first bytes say so."""
    if Path(path).suffix == ".onnxz":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def load(path: str | os.PathLike[str]) -> bytes:
    """Return a packed model's bytes, as `onnxruntime.InferenceSession` takes them.

    They are the packed file's own; weights that lay in files beside it are put inside. Raises
    `ModelError` for a file that is damaged, or that is too large to be one message.
    """
    with open_container(Path(path)) as container:
        total = sum(file.size for file in container.files)
        if total >= MESSAGE_LIMIT:
            raise ModelError(
                f"{path} holds {total} bytes, and one message takes less than {MESSAGE_LIMIT}; "
                "unpack it and load the file"
            )
        model, *others = [b"".join(pieces(container, file)) for file in container.files]
        if not others:
            return model
        names = [file.name for file in container.files[1:]]
        return with_weights(model, dict(zip(names, others, strict=True)))


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Map a container whose digest and index hold; damage inside the block is a `ModelError`."""
    if not path.exists():
        raise ModelError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnxz file in it")
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelError(f"{path} is empty")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    data = memoryview(mapped)
    try:
        yield Container(data, tuple(read_index(data)))
    except DamageError as error:
        raise ModelError(
            f"{path} is no container or is damaged ({error}); fetch it or pack the model again"
        ) from error
    # The map closes with the last view of it, which an exception's frames may still hold.


def pieces(container: Container, file: PackedFile) -> Iterator[bytes]:
    """Yield a file piece by piece; after the last, its digest has been checked."""
    digest, size = hashlib.sha256(), 0
    for piece in _in_order(container, file):
        digest.update(piece)
        size += len(piece)
        yield piece
    if size != file.size or digest.digest() != file.sha256:
        raise DamageError(f"{file.name or 'the model'} is not what was packed")


def _in_order(container: Container, file: PackedFile) -> Iterator[bytes]:
    rest = Rest(_decoded(container, chunk) for chunk in file.rest)
    for (gap, _), chunks in zip(file.spans, file.weights, strict=True):
        yield from rest.take(gap)
        for chunk in chunks:
            yield _decoded(container, chunk)
    yield from rest.all()


def _decoded(container: Container, chunk: Chunk) -> bytes:
    return decode_chunk(container.data[chunk.start : chunk.start + chunk.stored], chunk.size)


class Rest:
    """What lies between weights, taken in parts of any size from the chunks that hold it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes."""
        while size:
            if not self._left:
                self._left = memoryview(next(self._chunks, b""))
                if not self._left:
                    raise DamageError(f"{size} bytes between weights are missing")
            part, self._left = self._left[:size], self._left[size:]
            size -= len(part)
            yield bytes(part)

    def all(self) -> Iterator[bytes]:
        """Yield what is left."""
        yield bytes(self._left)
        yield from self._chunks
