"""What codes of symbols cost: Shannon's entropy, and Huffman's code."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SLICE = 1 << 20

Counts = npt.NDArray[np.int64] | npt.NDArray[np.intp]


def histogram(data: bytes | memoryview) -> Counts:
    """Return how often each byte occurs; in slices, since numpy widens what it counts."""
    symbols = np.frombuffer(data, np.uint8)
    counts = np.zeros(256, np.int64)
    for start in range(0, len(symbols), SLICE):
        counts += np.bincount(symbols[start : start + SLICE], minlength=256)
    return counts


def entropy(counts: Counts) -> float:
    """Return the entropy in bits per symbol of symbols that occur so often."""
    used = counts[counts > 0]
    if len(used) < 2:
        return 0.0
    shares = used / used.sum()
    return float(-(shares * np.log2(shares)).sum())


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Return the length in bits of each symbol's Huffman code (Huffman, 1952); 0 where unused.

    Lengths are all that a canonical code is stored as. A symbol that is alone takes one bit.
    """
    lengths = [0] * len(counts)
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (count, symbol, (symbol,)) for symbol, count in enumerate(counts) if count
    ]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
        return lengths
    heapq.heapify(heap)
    while len(heap) > 1:
        first, _, left = heapq.heappop(heap)
        second, tie, right = heapq.heappop(heap)
        for symbol in (*left, *right):
            lengths[symbol] += 1
        heapq.heappush(heap, (first + second, tie, (*left, *right)))
    return lengths


def huffman_bits(counts: Counts) -> int:
    """Return the bits of all symbols in Huffman's code, its table not included."""
    numbers = counts.tolist()
    return sum(count * length for count, length in zip(numbers, code_lengths(numbers), strict=True))
