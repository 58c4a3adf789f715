"""Arrays whose first axis counts samples: in memory, mapped, or inside an .npz."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxcomp.calibration.checks import Label, Raw, check_names, is_fixed, numbered
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec


@dataclass(frozen=True)
class Column:
    """An array of this shape; `blocks(n)` yields n rows after n rows, a ragged end dropped."""

    shape: tuple[int, ...]
    blocks: Callable[[int], Iterator[Array]]


def array_column(data: Array) -> Column:
    """Make a column of an array, which may be mapped from a file."""

    def blocks(rows: int) -> Iterator[Array]:
        for start in range(0, len(data) - rows + 1, rows):
            yield data[start : start + rows]

    return Column(data.shape, blocks)


def from_columns(source: str, columns: Mapping[str, Column], specs: Sequence[InputSpec]) -> Raw:
    """Make samples of columns by input name, and labels of a column `labels` that is no input.

    A column of the input's rank gives `array[i:i+1]`, or B rows where the input's first dim is
    fixed to B; one of a rank more gives `array[i]`. Labels are `[samples]`, or `[samples, B]`.
    Raises `SamplesError` when the names are not the inputs', or the lengths not one.
    """
    shapes = {spec.name: spec.shape for spec in specs}
    labels = None if "labels" in shapes else columns.get("labels")
    data = {name: column for name, column in columns.items() if column is not labels}
    check_names(source, data, specs)
    for name, column in data.items():
        if not column.shape:
            raise SamplesError(
                f'{source}: array "{name}" is a scalar; its first axis is the sample'
            )
    steps = {name: _rows_per_sample(shapes[name], column) for name, column in data.items()}
    first = next(iter(data), "")
    for name, column in data.items():
        if column.shape[0] * steps[first] != data[first].shape[0] * steps[name]:
            raise SamplesError(
                f'{source}: arrays "{first}" and "{name}" hold {data[first].shape[0]} and '
                f"{column.shape[0]} rows; the first axis is the sample and must be equal"
            )
        if column.shape[0] < steps[name]:
            raise SamplesError(
                f'{source}: input "{name}" takes {steps[name]} row(s) for a sample, '
                f"the array has {column.shape[0]}"
            )

    def read() -> Iterator[Mapping[str, Array]]:
        streams = [_stream(shapes[name], data[name], steps[name]) for name in data]
        for arrays in zip(*streams, strict=True):
            yield dict(zip(data, arrays, strict=True))

    counts = [column.shape[0] // steps[name] for name, column in data.items()]
    found = None
    if labels is not None and data:
        longest = max(data, key=lambda name: data[name].shape[0])
        found = _labels(source, labels, data[longest].shape[0], steps[longest])
    return Raw(source, lambda: numbered(source, read()), min(counts, default=0), found)


def _rows_per_sample(wanted: tuple[int | str | None, ...] | None, column: Column) -> int:
    """Return the fixed first dim where the column is a concatenation of such batches, or else 1."""
    if not wanted or len(wanted) != len(column.shape) or not is_fixed(wanted[0]):
        return 1
    return max(wanted[0], 1)


def _stream(
    wanted: tuple[int | str | None, ...] | None, column: Column, rows: int
) -> Iterator[Array]:
    extra = wanted is not None and len(column.shape) == len(wanted) + 1
    return (block[0] if extra else block for block in column.blocks(rows))


def _labels(source: str, column: Column, rows: int, step: int) -> Label:
    shape = column.shape
    found = next(column.blocks(shape[0])) if shape and shape[0] else np.zeros(shape, np.float32)
    if found.dtype.kind not in "iu" or found.ndim > 2 or len(found) != rows:
        raise SamplesError(
            f'{source}: "labels" must be {rows} integers, one for each sample; '
            f"it is {found.dtype.name}{list(shape)}"
        )
    labels: Label = found.astype(np.int64)
    return labels if step == 1 else labels[: rows // step * step].reshape(rows // step, -1)


# ---------------------------------------------------------------- .npz
def npz_columns(path: Path) -> dict[str, Column]:
    """Return the arrays of an .npz as columns that are decompressed row by row."""
    columns = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                raise ValueError(f"{member} in it is no array")
            with archive.open(member) as stream:
                shape, fortran, _ = _header(stream, member)
            columns[member.removesuffix(".npy")] = _member_column(path, member, shape, fortran)
    return columns


def _member_column(path: Path, member: str, shape: tuple[int, ...], fortran: bool) -> Column:
    def blocks(rows: int) -> Iterator[Array]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            _, _, dtype = _header(stream, member)
            size = rows * math.prod(shape[1:]) * dtype.itemsize
            for _ in range(shape[0] // rows):
                data = stream.read(size)
                if len(data) != size:
                    raise EOFError(f"{member} in it is cut short")
                yield np.ndarray((rows, *shape[1:]), dtype, data)

    def whole(rows: int) -> Iterator[Array]:  # column-major data holds no row in one piece
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            data = np.lib.format.read_array(stream, allow_pickle=False)
        yield from array_column(data).blocks(rows)

    return Column(shape, whole if fortran else blocks)


def _header(stream: IO[bytes], member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    v1 = np.lib.format.read_array_header_1_0
    shape, fortran, dtype = (v1 if version == (1, 0) else np.lib.format.read_array_header_2_0)(
        stream
    )
    if dtype.hasobject:
        raise ValueError(f"{member} in it holds Python objects; store numbers or strings")
    return shape, fortran, dtype
