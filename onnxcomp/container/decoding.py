"""Chunks decoded, with every number that they announce checked before it is believed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxcomp.container.damage import Cursor, DamageError
from onnxcomp.container.streams import LIMIT, decode_stream
from onnxcomp.container.words import Words, as_words, from_planes, unpack_bits

BYTES, PLANES, CODEBOOK, SPARSE = 0, 1, 2, 3
BITMAP, GAPS = 0, 1
WIDTHS = (1, 2, 4, 8)


def decode_chunk(payload: bytes | memoryview, size: int) -> bytes:
    """Return the `size` bytes of a chunk; raises `DamageError`."""
    cursor = Cursor(payload)
    width = cursor.number(1)
    if width not in WIDTHS or size % width or size > LIMIT:
        raise DamageError(f"a chunk of {size} bytes in words of {width}")
    words = _decode(cursor, size // width, width, nested=False)
    cursor.end()
    return words.tobytes()


def _decode(cursor: Cursor, count: int, width: int, *, nested: bool) -> Words:
    coding = cursor.number(1)
    if coding == BYTES:
        return as_words(decode_stream(cursor, count * width), width)
    if coding == PLANES:
        rotated = cursor.number(1)
        if rotated > 1 or width == 1:
            raise DamageError("planes of an unknown form")
        planes = [decode_stream(cursor, count) for _ in range(width)]
        return from_planes(planes, rotated=bool(rotated))
    if coding == CODEBOOK:
        return _decode_codebook(cursor, count, width)
    if coding == SPARSE and not nested:
        return _decode_sparse(cursor, count, width)
    raise DamageError(f"there is no coding {coding}")


def _decode_codebook(cursor: Cursor, count: int, width: int) -> Words:
    entries = cursor.number(1) + 1
    table = as_words(cursor.take(entries * width), width)
    if entries == 1:
        return np.full(count, table[0])
    bits = cursor.number(1)
    if bits not in (1, 2, 4, 8):
        raise DamageError(f"indices of {bits} bits")
    codes = unpack_bits(decode_stream(cursor, -(-count * bits // 8)), bits, count)
    if count and int(codes.max()) >= entries:
        raise DamageError(f"an index is beyond the {entries} entries of its codebook")
    return table[codes]


def _decode_sparse(cursor: Cursor, count: int, width: int) -> Words:
    fill = as_words(cursor.take(width), width)[0]
    kept, kind = cursor.number(4), cursor.number(1)
    if not 0 < kept < count:
        raise DamageError(f"{kept} of {count} values are announced")
    if kind == BITMAP:
        mask = np.frombuffer(decode_stream(cursor, -(-count // 8)), np.uint8)
        places = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
    elif kind == GAPS:
        places = from_gaps(decode_stream(cursor, cursor.number(4)))
    else:
        raise DamageError(f"there is no list of places of kind {kind}")
    if len(places) != kept or places[-1] >= count:
        raise DamageError("places do not fit their weight")
    words = np.full(count, fill)
    words[places] = _decode(cursor, kept, width, nested=True)
    return words


def from_gaps(gaps: bytes) -> npt.NDArray[np.intp]:
    """Return places from the numbers of words that are passed over before them."""
    steps = np.frombuffer(gaps, np.uint8)
    ends = steps != 255
    reached = np.cumsum(steps, dtype=np.intp) + np.cumsum(ends, dtype=np.intp) - 1
    places: npt.NDArray[np.intp] = reached[ends]
    return places
