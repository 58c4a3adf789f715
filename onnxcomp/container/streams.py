"""Streams of bytes: stored as they are or as one Zstandard frame (RFC 8878), whichever is shorter.

A stream is a tag byte, its stored length (32 bits), and the bytes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from onnxcomp.container.damage import Cursor, DamageError
from onnxcomp.container.symbols import entropy, histogram

if TYPE_CHECKING:
    import zstandard

STORED, FRAME = 0, 1
HEAD = 5
# The most bytes that a stream may decode to, and so the window that a decoder must hold.
LIMIT = 1 << 24
# Bits per byte from which nothing is to be gained, if the fastest level has gained nothing.
NOISE = 7.9
# Beyond entropy by so much, bytes must repeat, and a deep search for repeats pays.
REPEATS = 0.98


def encode_stream(data: bytes | memoryview) -> bytes:
    """Return the shortest stream of some bytes."""
    best = _shortest(bytes(data))
    tag = STORED if best is None else FRAME
    body = bytes(data) if best is None else best
    return bytes([tag]) + len(body).to_bytes(4, "little") + body


def _shortest(data: bytes) -> bytes | None:
    """Return the shortest frame that was found, or None where none is shorter than the data."""
    order_0 = entropy(histogram(data)) * len(data) / 8
    fast, shallow, deep = _compressors()
    best = fast.compress(data)
    if len(best) >= len(data) and order_0 * 8 > NOISE * len(data):
        return None
    best = min(best, shallow.compress(data), key=len)
    if len(best) < REPEATS * order_0:
        best = min(best, deep.compress(data), key=len)
    return best if len(best) < len(data) else None


def decode_stream(cursor: Cursor, size: int) -> bytes:
    """Return the `size` bytes of the next stream; nothing is allocated that is not checked."""
    if size > LIMIT:
        raise DamageError(f"a stream of {size} bytes is announced; the limit is {LIMIT}")
    tag, length = cursor.number(1), cursor.number(4)
    body = cursor.take(length)
    if tag == STORED:
        if length != size:
            raise DamageError(f"a stream has {length} bytes instead of {size}")
        return bytes(body)
    if tag != FRAME:
        raise DamageError(f"no stream begins with {tag}")
    return _decode_frame(body, size)


def _decode_frame(body: memoryview, size: int) -> bytes:
    import zstandard

    try:
        # The library allocates what the frame's own header says: that is looked at first.
        found = zstandard.get_frame_parameters(body)
        if found.content_size != size or found.window_size > LIMIT or found.dict_id:
            raise DamageError(f"a frame of {found.content_size} bytes instead of {size}")
        data = _decompressor().decompress(body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamageError(f"a frame does not decode ({error})") from error
    if len(data) != size:
        raise DamageError(f"a frame has {len(data)} bytes instead of {size}")
    return bytes(data)


@functools.cache
def _compressors() -> tuple[zstandard.ZstdCompressor, ...]:
    """Return three: Huffman codes with hardly a search, a shallow search, a deep one.

    Levels between take more for weights than the first: they find repeats that do not pay. The
    shallow search weighs that as level 19 does, and is ten times as fast.
    """
    import zstandard

    shallow = zstandard.ZstdCompressionParameters(
        window_log=24, hash_log=17, chain_log=17, search_log=3, min_match=5, target_length=16,
        strategy=zstandard.STRATEGY_BTULTRA2,
    )  # fmt: skip
    return (
        zstandard.ZstdCompressor(level=1),
        zstandard.ZstdCompressor(compression_params=shallow),
        zstandard.ZstdCompressor(level=19),
    )


@functools.cache
def _decompressor() -> zstandard.ZstdDecompressor:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=LIMIT)
