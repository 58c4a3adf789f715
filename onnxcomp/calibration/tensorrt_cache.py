"""Ranges as a TensorRT calibration cache: a line per tensor, its scale as the bits of a float."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.errors import SamplesError

# The version is that of the library which wrote it; others read the file too.
HEADER = "TRT-100000-EntropyCalibration2"
PREFIX = "TRT-"
# TensorRT's grid is symmetric: real = scale * q with |q| <= 127.
MOST = 127


def to_cache(ranges: Ranges) -> str:
    """Return the text of a cache: `name: bits` with scale = max(|lo|, |hi|) / 127, big-endian."""
    lines = [
        f"{name}: {struct.pack('>f', max(-found.lo, found.hi) / MOST).hex()}"
        for name, found in sorted(ranges.values.items())
    ]
    return "\n".join([HEADER, *lines]) + "\n"


def from_cache(path: Path, text: str) -> Ranges:
    """Return the symmetric ranges in a cache; raise `SamplesError` when it is damaged."""
    found = {}
    for number, line in enumerate(text.splitlines()[1:], start=2):
        name, colon, bits = line.rpartition(":")
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(bits.strip().rjust(8, "0")))
        except (ValueError, struct.error):
            scale = math.nan
        if not colon or not name or not math.isfinite(scale) or scale < 0:
            raise SamplesError(
                f"{path}, line {number}: not `name: 8 hexadecimal digits`, as a calibration cache "
                f"of TensorRT has it: {line[:60]!r}"
            )
        found[name.strip()] = Range(-MOST * scale, MOST * scale)
    return Ranges(found, "tensorrt", 0, str(path))
