"""Files of a folder in natural order, and errors that name the file that is damaged."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from onnxcomp.errors import SamplesError
from onnxcomp.runtime import first_line


def natural(path: Path) -> tuple[list[int | str], str]:
    """Return a sort key of a file's name in which 9 comes before 10."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into a `SamplesError` that names the file."""
    try:
        yield
    except OSError as error:
        raise SamplesError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # each parser has its own types: zip, zlib, numpy, protobuf, Pillow
        if isinstance(error, SamplesError):
            raise
        raise SamplesError(f"cannot read {path}: {first_line(error)}") from error
