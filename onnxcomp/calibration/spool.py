"""A temporary file that keeps samples which can be had only once."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnxcomp.calibration.checks import STRING, Raw, conform, numbered
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec


class Spool:
    """Checked feeds, one after another in a file that is gone with the object."""

    def __init__(self, feeds: Iterable[dict[str, Array]], names: Sequence[str]) -> None:
        self.count = 0
        self._names = names
        self._file = tempfile.TemporaryFile(prefix="onnxcomp-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        for item in feeds:
            for name in names:
                data = item[name]
                plain = data.astype(np.str_) if data.dtype == STRING else data
                np.lib.format.write_array(self._file, plain, allow_pickle=False)
            self.count += 1

    def __iter__(self) -> Iterator[dict[str, Array]]:
        position = 0
        for _ in range(self.count):
            self._file.seek(position)
            item = {
                name: np.lib.format.read_array(self._file, allow_pickle=False)
                for name in self._names
            }
            position = self._file.tell()
            yield item


def spooled(raw: Raw, specs: Sequence[InputSpec], limit: int | None) -> Raw:
    """Read samples once, one by one, into a temporary file, and return those in the file.

    At most `limit` of them; raises `SamplesError` at the first that does not fit.
    """
    pairs = zip(range(limit), raw.read(), strict=False) if limit else enumerate(raw.read())
    feeds = (conform(where, sample, specs) for _, (where, sample) in pairs)
    spool = Spool(feeds, [spec.name for spec in specs])
    plain = replace(raw, count=spool.count, once=False, costly=False)
    return replace(plain, read=lambda: numbered(raw.source, spool))
