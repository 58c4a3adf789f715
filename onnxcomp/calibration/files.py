"""Samples in files: .npz, .npy, folders of them, and the test data that ONNX ships."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from onnxcomp.calibration.checks import Raw, only_input
from onnxcomp.calibration.columns import array_column, from_columns, npz_columns
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec, first_line

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})
FOLDER_HOLDS = ".npz files, .npy files or ONNX test data (input_0.pb, test_data_set_0/input_0.pb)"


def read_file(path: Path, source: str, specs: Sequence[InputSpec]) -> Raw:
    """Read one .npz or .npy whose arrays have a leading sample axis."""
    if path.suffix == ".npz":
        with _reading(path):
            columns = npz_columns(path)
        raw = from_columns(source, columns, specs)
        return Raw(source, lambda: _guarded(path, raw.read), raw.count, raw.labels)
    if path.suffix == ".npy":
        name = only_input(specs, source).name
        with _reading(path):
            data = np.lib.format.open_memmap(path, mode="r")
        return from_columns(source, {name: array_column(data)}, specs)
    if path.suffix == ".py":
        raise SamplesError(f"{source}: name the function that gives the samples: {source}:feeds")
    raise SamplesError(f"{source}: not an .npz, an .npy, a FILE.py:callable or a folder")


def read_folder(folder: Path, source: str, specs: Sequence[InputSpec]) -> Raw:
    """Read a folder in natural order of its names: one sample per file, or per ONNX data set."""
    with _reading(folder):
        entries = sorted(folder.iterdir(), key=_natural)
        sets = [folder] if _input_files(folder) else []
        sets = sets or [entry for entry in entries if entry.is_dir() and _input_files(entry)]
    arrays = {
        suffix: [entry for entry in entries if entry.suffix == suffix and entry.is_file()]
        for suffix in (".npz", ".npy")
    }
    found = [kind for kind in (sets, *arrays.values()) if kind]
    if len(found) > 1:
        first, second = found[0][0].name, found[1][0].name
        raise SamplesError(f"{source}: holds {first} and {second}; keep samples of one kind there")
    if arrays[".npz"]:
        return _per_file(source, arrays[".npz"], _load_feeds)
    if arrays[".npy"]:
        name = only_input(specs, source).name
        return _per_file(source, arrays[".npy"], lambda path: {name: _load_array(path)})
    if sets:
        return _per_file(source, sets, lambda path: _load_data_set(path, specs))
    if any(entry.suffix.lower() in IMAGES for entry in entries):
        raise SamplesError(
            f"{source}: holds images, which this version does not read; convert them to .npy or "
            ".npz as the model wants them, or pass a FILE.py:callable that yields feeds"
        )
    raise SamplesError(f"{source}: no samples in this folder; it may hold {FOLDER_HOLDS}")


def _per_file(source: str, paths: Sequence[Path], load: Callable[[Path], dict[str, Array]]) -> Raw:
    def read() -> Iterator[tuple[str, object]]:
        for path in paths:
            with _reading(path):
                feeds = load(path)
            yield str(path), feeds

    return Raw(source, read, len(paths))


def _load_feeds(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        found = np.load(file, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array, not an .npz")  # noqa: TRY004
        return {name: found[name] for name in found.files}


def _load_array(path: Path) -> Array:
    with path.open("rb") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _load_data_set(folder: Path, specs: Sequence[InputSpec]) -> dict[str, Array]:
    import onnx
    from onnx import numpy_helper

    files = _input_files(folder)
    if len(files) > len(specs):
        raise ValueError(f"{files[-1].name} is more than the model has inputs ({len(specs)})")
    feeds = {}
    for spec, path in zip(specs, files, strict=False):
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        feeds[spec.name] = numpy_helper.to_array(tensor)
    return feeds


def _input_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("input_*.pb"), key=_natural)


def _natural(path: Path) -> tuple[list[int | str], str]:
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _guarded(
    path: Path, read: Callable[[], Iterator[tuple[str, object]]]
) -> Iterator[tuple[str, object]]:
    with _reading(path):
        yield from read()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into a `SamplesError` that names the file."""
    try:
        yield
    except OSError as error:
        raise SamplesError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zip, zlib, numpy's parser and protobuf each have their own types
        if isinstance(error, SamplesError):
            raise
        raise SamplesError(f"cannot read {path}: {first_line(error)}") from error
