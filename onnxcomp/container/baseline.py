"""What weights would cost in other codes: their entropy, and Deep Compression's Huffman code.

Symbols are the distinct values where there are at most 256, each eight times on average, else the
bytes of each plane. As in the paper (Han et al., 2016, section 4), weights with zeros may be
distances between the others, in symbols of a byte, with Huffman codes for both; the shorter counts.
Huffman's sizes include their tables: the values, and one byte per code length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.container.encoding import MAX_CODES, SMALL_TABLE, sample, to_gaps
from onnxcomp.container.symbols import Counts, entropy, histogram, huffman_bits
from onnxcomp.container.words import Form, Words, as_words, to_planes


@dataclass(frozen=True)
class Baseline:
    """Bits by the entropy of order zero, and bytes in Huffman codes."""

    entropy_bits: float = 0.0
    huffman_bytes: int = 0

    def __add__(self, other: Baseline) -> Baseline:
        return Baseline(
            self.entropy_bits + other.entropy_bits, self.huffman_bytes + other.huffman_bytes
        )


def baseline(data: bytes | memoryview, form: Form) -> Baseline:
    """Return what a chunk costs in entropy and in Huffman codes."""
    width = form.width if len(data) % form.width == 0 else 1
    words = as_words(data, width)
    if len(np.unique(sample(words))) <= MAX_CODES:
        values, counts = np.unique(words, return_counts=True)
        if len(values) <= MAX_CODES and len(values) * SMALL_TABLE <= len(words):
            table = len(values) * (width + 1)
            size = min(_huffman(counts) + table, _with_gaps(words, values, counts) + table)
            return Baseline(entropy(counts) * len(words), size)
    total = Baseline()
    for plane in to_planes(words, rotated=form.rotated):
        counts = histogram(plane)
        table = int(np.count_nonzero(counts))
        total += Baseline(entropy(counts) * len(words), _huffman(counts) + table)
    return total


def _huffman(counts: Counts) -> int:
    return -(-huffman_bits(counts) // 8)


def _with_gaps(words: Words, values: Words, counts: Counts) -> int:
    """Return the bytes when the commonest value is left out and distances say where."""
    common = int(np.argmax(counts))
    gaps = np.bincount(to_gaps(np.flatnonzero(words != values[common])), minlength=1)
    return _huffman(gaps) + int(np.count_nonzero(gaps)) + _huffman(np.delete(counts, common))
