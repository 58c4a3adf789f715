"""A file of records, each whole or not there, that is appended to until a run is over.

A record has a key and a checksum. The key is a digest of all that it depends on, so that one of
another model, other options or another version is never found.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from onnxcomp.graph import Array

# What is known of one weight.
Record = tuple[Array, ...]
Say = Callable[[str], None]

MAGIC = b"onnxcomp partial 1\n"
# Key and bytes of what follows: arrays, then the checksum of all before it.
HEAD = struct.Struct("<16sQ")
SUM = 16


class Journal:
    """The records of a file, which is opened when the first is looked for.

    A file that cannot be written, or that is something else, is left alone: then nothing is kept.
    """

    def __init__(self, path: Path, say: Say) -> None:
        self.path = path
        self.is_new = False
        self.earlier: frozenset[bytes] = frozenset()
        self._say = say
        self._file: io.FileIO | None = None
        self._opened = False
        self._end = 0
        self._places: dict[bytes, int] = {}

    def recall(self, key: bytes) -> Record | None:
        """Return the record of a key, or None."""
        self._open()
        if self._file is None or key not in self._places:
            return None
        try:
            found = _read(self._file, self._places[key], self._end)
        except OSError:
            return None
        # Another run may write to the same file.
        return None if found is None or found[0] != key else _arrays(found[1])

    def append(self, key: bytes, record: Record) -> None:
        """Write the record of a key."""
        self._open()
        if self._file is None:
            return
        data = _bytes(record)
        block = HEAD.pack(key, len(data)) + data
        block += digest(block)
        try:
            start = self._file.seek(0, io.SEEK_END)
            written = self._file.write(block)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return
        if written != len(block):
            self._give_up("the disk is full")
            return
        self._places[key], self._end = start, start + len(block)

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file, if it is one of ours."""
        self.close()
        with suppress(OSError):
            if _is_ours(self.path):
                self.path.unlink()

    def _open(self) -> None:
        if self._opened:
            return
        self._opened = True
        self.is_new = not self.path.exists()
        if not self.is_new and not _is_ours(self.path):
            self._give_up("it is not of an interrupted run")
            return
        try:
            self._file = io.FileIO(self.path, "a+")
            self._find_records(self._file)
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def _find_records(self, file: io.FileIO) -> None:
        """Note where records are, and cut off what a kill or a damage has left behind them."""
        size, start = file.seek(0, io.SEEK_END), len(MAGIC)
        if size < start:
            file.truncate(0)
            size = file.write(MAGIC)
        while (found := _read(file, start, size)) is not None:
            self._places[found[0]] = start
            start += HEAD.size + len(found[1]) + SUM
        if start < size:
            file.truncate(start)
        self._end, self.earlier = start, frozenset(self._places)

    def _give_up(self, reason: str) -> None:
        self._say(f"warning: {self.path} is not used, so a killed run starts over: {reason}")
        self.close()


def digest(data: bytes) -> bytes:
    """Return 16 bytes that tell data apart."""
    return hashlib.sha256(data).digest()[:SUM]


def _is_ours(path: Path) -> bool:
    """Say whether a file is a journal, or the first bytes of one."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return MAGIC.startswith(file.read(len(MAGIC)))
    except OSError:
        return False


def _read(file: io.FileIO, start: int, end: int) -> tuple[bytes, bytes] | None:
    """Return key and bytes of the record at a place; None where there is no whole one."""
    file.seek(start)
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    key, size = HEAD.unpack(head)
    if start + HEAD.size + size + SUM > end:
        return None
    data, found = file.read(size), file.read(SUM)
    return (key, data) if digest(head + data) == found else None


def _bytes(record: Record) -> bytes:
    file = io.BytesIO()
    for array in record:
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _arrays(data: bytes) -> Record:
    file, found = io.BytesIO(data), []
    while file.tell() < len(data):
        found.append(np.load(file, allow_pickle=False))
    return tuple(found)
