"""The container's outline: magic, chunks, padding, index, footer (`docs/container.md`).

All numbers are little-endian. The index comes last, so that chunks are written as they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt

from onnxcomp.container.damage import Cursor, DamageError
from onnxcomp.container.streams import LIMIT, decode_stream, encode_stream

MAGIC = b"\x89ONNXZ\r\n"
VERSION = 1
HEAD = len(MAGIC) + 2
FOOTER = 4 + 4 + 32
# A weight is cut into chunks of so many bytes, which bounds the memory of both directions.
CHUNK = LIMIT
# A file may decode to so much, and so many times its own size beyond it. Padding keeps honest
# files within this: a gigabyte of zeros is a file of a megabyte.
FREE = 64 << 20
RATIO = 1000
NONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in the container, and the bytes that it decodes to."""

    start: int
    stored: int
    size: int


@dataclass(frozen=True)
class PackedFile:
    """One file: weights at (bytes passed over, length), and chunks for the rest and for them.

    `name` is its place beside the model; the model's own is empty.
    """

    name: str
    size: int
    sha256: bytes
    spans: tuple[tuple[int, int], ...]
    rest: tuple[Chunk, ...] = ()
    weights: tuple[tuple[Chunk, ...], ...] = ()


def chunk_sizes(size: int) -> list[int]:
    """Return the sizes of the chunks that so many bytes are cut into."""
    return [min(CHUNK, size - start) for start in range(0, size, CHUNK)]


def limit_of(container: int) -> int:
    """Return the most bytes that a container of this size may decode to."""
    return FREE + RATIO * container


def padding_for(total: int, container: int) -> int:
    """Return the padding that brings a container within `limit_of` what it decodes to."""
    return max(0, -(-(total - FREE) // RATIO) - container)


# ---------------------------------------------------------------- writing
def encode_index(
    files: Sequence[PackedFile], stored: Sequence[int], sources: Sequence[int], padding: int
) -> bytes:
    """Return the index; a chunk that repeats an earlier one names it as its source."""
    parts = [_bytes(len(files), 2)]
    for file in files:
        name = file.name.encode()
        parts += [_bytes(len(name), 2), name, _bytes(file.size, 8), file.sha256]
        parts.append(_bytes(len(file.spans), 4))
        parts.append(np.array(file.spans, "<u8").reshape(-1, 2).T.tobytes())
    parts += [np.array(stored, "<u4").tobytes(), np.array(sources, "<u4").tobytes()]
    return b"".join([*parts, _bytes(padding, 8)])


def encode_footer(index: bytes) -> tuple[bytes, bytes]:
    """Return the index as it is stored, and the footer's numbers; the digest comes after them."""
    coded = encode_stream(index)
    return coded, _bytes(len(index), 4) + _bytes(len(coded), 4)


def _bytes(number: int, size: int) -> bytes:
    return number.to_bytes(size, "little")


# ---------------------------------------------------------------- reading
def read_index(data: memoryview) -> list[PackedFile]:
    """Return the files of a container whose digest and every number hold; raises `DamageError`."""
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise DamageError("it does not begin as a container does")
    if len(data) < HEAD + FOOTER:
        raise DamageError("it is too short")
    body = len(data) - 32
    if _digest(data[:body]) != bytes(data[body:]):
        raise DamageError("its digest is not that of its bytes")
    version = int.from_bytes(data[len(MAGIC) : HEAD], "little")
    if version != VERSION:
        raise DamageError(f"it is of version {version}; this program reads version {VERSION}")
    footer = Cursor(data[len(data) - FOOTER : body])
    length, stored = footer.number(4), footer.number(4)
    start = len(data) - FOOTER - stored
    if start < HEAD:
        raise DamageError("its index does not fit")
    coded = Cursor(data[start : start + stored])
    index = Cursor(decode_stream(coded, length))
    coded.end()
    return _files(index, data[:start], limit_of(len(data)))


def _digest(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _files(index: Cursor, data: memoryview, limit: int) -> list[PackedFile]:
    outlines = [_outline(index) for _ in range(index.number(2))]
    names = [file.name for file in outlines]
    if not outlines or names[0] or len({name.casefold() for name in names}) < len(names):
        raise DamageError("its files' names are not those of a model and its weights files")
    total = sum(file.size for file in outlines)
    if total > limit:
        raise DamageError(f"it would decode to {total} bytes; the limit is {limit}")
    sizes = [size for file in outlines for lengths in _lengths(file) for size in lengths]
    chunks = iter(_chunks(index, sizes, data))
    files = []
    for file in outlines:
        rest, *weights = [tuple(next(chunks) for _ in lengths) for lengths in _lengths(file)]
        files.append(
            PackedFile(file.name, file.size, file.sha256, file.spans, rest, tuple(weights))
        )
    return files


def _outline(index: Cursor) -> PackedFile:
    try:
        name = bytes(index.take(index.number(2))).decode()
    except UnicodeDecodeError as error:
        raise DamageError("a file's name is not text") from error
    if name and not is_inside(name):
        raise DamageError(f"weights file {name!r} lies outside the model's folder")
    size, sha256 = index.number(8), bytes(index.take(32))
    count = index.number(4)
    gaps = np.frombuffer(index.take(8 * count), "<u8").tolist()
    lengths = np.frombuffer(index.take(8 * count), "<u8").tolist()
    if sum(gaps) + sum(lengths) > size or 0 in lengths:
        raise DamageError("weights do not fit their file")
    return PackedFile(name, size, sha256, tuple(zip(gaps, lengths, strict=True)))


def _lengths(file: PackedFile) -> list[list[int]]:
    """Return the sizes of a file's chunks: those of the rest, then those of each weight."""
    weights = [length for _, length in file.spans]
    return [chunk_sizes(length) for length in (file.size - sum(weights), *weights)]


def _chunks(index: Cursor, sizes: Sequence[int], data: memoryview) -> list[Chunk]:
    stored = np.frombuffer(index.take(4 * len(sizes)), "<u4").tolist()
    sources: npt.NDArray[np.uint32] = np.frombuffer(index.take(4 * len(sizes)), "<u4")
    padding = index.number(8)
    index.end()
    chunks: list[Chunk] = []
    at = HEAD
    for number, (size, length, source) in enumerate(
        zip(sizes, stored, sources.tolist(), strict=True)
    ):
        if source == NONE:
            chunks.append(Chunk(at, length, size))
            at += length
        elif source >= number or chunks[source].size != size or length:
            raise DamageError(f"chunk {number} repeats one that it cannot")
        else:
            chunks.append(chunks[source])
    if at + padding != len(data) or bytes(data[at:]).strip(b"\0"):
        raise DamageError("its chunks do not fill it")
    return chunks


def is_inside(location: str) -> bool:
    """Say whether a relative path stays inside its folder, on any system."""
    windows, posix = PureWindowsPath(location), PurePosixPath(location)
    parts = {*posix.parts, *windows.parts}
    rooted = posix.is_absolute() or windows.anchor or "\0" in location
    return bool(posix.parts) and not rooted and ".." not in parts
