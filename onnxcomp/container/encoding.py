"""One chunk of a weight in the coding that is shortest, found by trying.

Deep Compression's last step (Han et al., 2016, arXiv 1510.00149): few distinct values are a
codebook and indices, zeros are left out and their places coded apart. Other floats are split into
planes, since their exponents have about three bits of entropy and their mantissas none to spare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxcomp.container.decoding import BITMAP, BYTES, CODEBOOK, GAPS, PLANES, SPARSE, decode_chunk
from onnxcomp.container.streams import STORED, encode_stream
from onnxcomp.container.words import Form, Words, as_words, pack_bits, to_planes

# From this many words on, codings are tried on four slices of so many words each.
SAMPLED_FROM = 1 << 15
SLICE = 1 << 13
MAX_CODES = 256
# The share of the commonest value from which leaving it out is tried.
SPARSE_FROM = 0.2
SMALL_TABLE = 8
ESCAPE = 255


@dataclass(frozen=True)
class Coding:
    """A way to code words, by name; `encode` returns None where they have no such form."""

    name: str
    encode: Callable[[Words], bytes | None]


@dataclass(frozen=True)
class Coded:
    """A chunk as it is stored, and the name of its coding."""

    payload: bytes
    coding: str


def encode_chunk(data: bytes | memoryview, form: Form) -> Coded:
    """Return the shortest coding of a chunk, decoded once to see that it is exact."""
    width = form.width if len(data) % form.width == 0 else 1
    words = as_words(data, width)
    for coding in _ranked(words, rotated=form.rotated):
        coded = coding.encode(words)
        if coded is None:
            continue
        payload = bytes([width]) + coded
        if len(coded) <= len(data) and decode_chunk(payload, len(data)) == data:
            return Coded(payload, coding.name)
        break
    return Coded(_stored(data), "stored")


def _stored(data: bytes | memoryview) -> bytes:
    return bytes([1, BYTES, STORED]) + len(data).to_bytes(4, "little") + bytes(data)


def _ranked(words: Words, *, rotated: bool) -> list[Coding]:
    """Return codings, the shortest on a sample of the words first."""
    some = sample(words)
    codings = list(_candidates(some, rotated=rotated))
    coded = {coding.name: coding.encode(some) for coding in codings}
    sizes = {name: len(words) * 16 if item is None else len(item) for name, item in coded.items()}
    codings.sort(key=lambda coding: sizes[coding.name])
    # The words outside the sample may be more than a codebook has room for.
    last = Coding("exponents" if rotated else "planes", partial(encode_planes, rotated=rotated))
    return codings if words.itemsize == 1 else [*codings, last]


def sample(words: Words) -> Words:
    """Return the words, or four slices where there are many."""
    if len(words) < SAMPLED_FROM:
        return words
    starts = np.linspace(0, len(words) - SLICE, 4).astype(int)
    return np.concatenate([words[start : start + SLICE] for start in starts])


def _candidates(some: Words, *, rotated: bool) -> Iterator[Coding]:
    values, counts = np.unique(some, return_counts=True)
    forms = list(_dense(some, len(values), rotated=rotated))
    yield from forms
    if len(values) > 1 and counts.max() >= SPARSE_FROM * len(some):
        fill = values[np.argmax(counts)]
        for rest in forms:
            yield Coding(f"sparse {rest.name}", partial(encode_sparse, fill=fill, rest=rest))


def _dense(some: Words, distinct: int, *, rotated: bool) -> Iterator[Coding]:
    """Yield codings that may suit some words, of which so many are distinct."""
    if distinct <= (MAX_CODES if some.itemsize > 1 else MAX_CODES // 16):
        yield Coding("codebook", encode_codebook)
        # Where the table is small beside the words, nothing else comes near.
        if some.itemsize > 1 and distinct * SMALL_TABLE <= len(some):
            return
    yield Coding("bytes", encode_bytes)
    if some.itemsize > 1:
        yield Coding("planes", partial(encode_planes, rotated=False))
    if some.itemsize > 1 and rotated:
        yield Coding("exponents", partial(encode_planes, rotated=True))


def encode_bytes(words: Words) -> bytes:
    """Return the words as they lie in memory."""
    return bytes([BYTES]) + encode_stream(words.tobytes())


def encode_planes(words: Words, *, rotated: bool) -> bytes:
    """Return a stream per byte of a word."""
    streams = [encode_stream(plane) for plane in to_planes(words, rotated=rotated)]
    return bytes([PLANES, int(rotated)]) + b"".join(streams)


def encode_codebook(words: Words) -> bytes | None:
    """Return the distinct values and every word's index, or None where there are over 256."""
    table = np.unique(words)
    if not 1 <= len(table) <= MAX_CODES:
        return None
    head = bytes([CODEBOOK, len(table) - 1]) + table.tobytes()
    if len(table) == 1:
        return head
    codes = np.searchsorted(table, words).astype(np.uint8)
    least = next(bits for bits in (1, 2, 4, 8) if len(table) <= 1 << bits)
    # Packed indices have pairs of values for symbols: less than a bit for the commonest.
    tried = [bytes([bits]) + encode_stream(pack_bits(codes, bits)) for bits in {least, 8}]
    return head + min(tried, key=lambda coded: (len(coded), coded[0]))


def encode_sparse(words: Words, *, fill: np.unsignedinteger, rest: Coding) -> bytes | None:
    """Return where words differ from the commonest one, and what they are there."""
    kept = words != fill
    places = np.flatnonzero(kept)
    if not 0 < len(places) < len(words):
        return None
    others = rest.encode(words[places])
    if others is None:
        return None
    bitmap = bytes([BITMAP]) + encode_stream(np.packbits(kept, bitorder="little").tobytes())
    gaps = to_gaps(places)
    runs = bytes([GAPS]) + len(gaps).to_bytes(4, "little") + encode_stream(gaps.tobytes())
    head = bytes([SPARSE]) + fill.tobytes() + len(places).to_bytes(4, "little")
    return head + min(bitmap, runs, key=len) + others


def to_gaps(places: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    """Return how many words are passed over before each place; 255 is 255 and more to come."""
    gaps = np.diff(places, prepend=-1) - 1
    escapes = gaps // ESCAPE
    out = np.full(len(gaps) + int(escapes.sum()), ESCAPE, np.uint8)
    out[np.cumsum(escapes + 1) - 1] = gaps % ESCAPE
    return out
