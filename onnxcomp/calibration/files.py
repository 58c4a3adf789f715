"""Samples in files: .npz, .npy, images, folders of them, and the test data that ONNX ships."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from onnxcomp.calibration.checks import Raw, only_input
from onnxcomp.calibration.columns import array_column, from_columns, npz_columns
from onnxcomp.calibration.images import SUFFIXES, Pictures, find_pictures, read_pictures
from onnxcomp.calibration.preprocess import Preprocess
from onnxcomp.calibration.reading import natural, reading
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec

FOLDER_HOLDS = (
    "images (or a folder of images for each class), .npz files, .npy files or ONNX test data "
    "(input_0.pb, test_data_set_0/input_0.pb)"
)


def read_file(
    path: Path, source: str, specs: Sequence[InputSpec], preprocess: Preprocess | None = None
) -> Raw:
    """Read one .npz or .npy whose arrays have a leading sample axis, or one image."""
    if path.suffix.lower() in SUFFIXES:
        return read_pictures(Pictures((path,)), source, specs, preprocess)
    if path.suffix == ".npz":
        with reading(path):
            columns = npz_columns(path)
        raw = from_columns(source, columns, specs)
        return Raw(source, lambda: _guarded(path, raw.read), raw.count, raw.labels)
    if path.suffix == ".npy":
        name = only_input(specs, source).name
        with reading(path):
            data = np.lib.format.open_memmap(path, mode="r")
        return from_columns(source, {name: array_column(data)}, specs)
    if path.suffix == ".py":
        raise SamplesError(f"{source}: name the function that gives the samples: {source}:feeds")
    raise SamplesError(f"{source}: not an .npz, an .npy, an image, a FILE.py:callable or a folder")


def read_folder(
    folder: Path,
    source: str,
    specs: Sequence[InputSpec],
    preprocess: Preprocess | None = None,
    limit: int | None = None,
) -> Raw:
    """Read a folder in natural order of its names: one sample per file, or per ONNX data set.

    Images lie in it or in one folder for each class; `preprocess` says how they become inputs.
    """
    with reading(folder):
        entries = sorted(folder.iterdir(), key=natural)
        sets = [folder] if _input_files(folder) else []
        sets = sets or [entry for entry in entries if entry.is_dir() and _input_files(entry)]
    arrays = {
        suffix: [entry for entry in entries if entry.suffix == suffix and entry.is_file()]
        for suffix in (".npz", ".npy")
    }
    pictures = Pictures(()) if sets else find_pictures(entries, source)
    found = [kind for kind in (sets, *arrays.values(), pictures.paths) if kind]
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
    if pictures.paths:
        return read_pictures(pictures, source, specs, preprocess, limit)
    raise SamplesError(f"{source}: no samples in this folder; it may hold {FOLDER_HOLDS}")


def _per_file(source: str, paths: Sequence[Path], load: Callable[[Path], dict[str, Array]]) -> Raw:
    def read() -> Iterator[tuple[str, object]]:
        for path in paths:
            with reading(path):
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
    return sorted(folder.glob("input_*.pb"), key=natural)


def _guarded(
    path: Path, read: Callable[[], Iterator[tuple[str, object]]]
) -> Iterator[tuple[str, object]]:
    with reading(path):
        yield from read()
