"""Images as samples: a folder of them, or a folder of one folder per class."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxcomp.calibration.checks import Label, Later, Raw, only_input
from onnxcomp.calibration.image_input import ImageInput, fill_in
from onnxcomp.calibration.pixels import image_array, need_pillow
from onnxcomp.calibration.preprocess import Preprocess
from onnxcomp.calibration.reading import natural, reading
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class Pictures:
    """Image files in order; where they lie in folders by class, also the class of each."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] = ()
    classes: int = 0


def find_pictures(entries: Sequence[Path], source: str) -> Pictures:
    """Return the images among a folder's entries, or else those of its folders, each a class.

    A class is the place of its folder in the sorted names. Raises `SamplesError` for both kinds.
    """
    here = tuple(entry for entry in entries if _is_image(entry))
    folders = sorted(entry for entry in entries if entry.is_dir() and not _is_hidden(entry))
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        with reading(folder):
            found = sorted(filter(_is_image, folder.iterdir()), key=natural)
        if here and found:
            raise SamplesError(
                f"{source}: holds {here[0].name} and the images of {folder.name}/; keep all in "
                "one folder, or all in one folder for each class"
            )
        paths += found
        labels += [label] * len(found)
    return Pictures(tuple(paths), tuple(labels), len(folders)) if paths else Pictures(here)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _is_hidden(path) and path.is_file()


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def read_pictures(
    found: Pictures,
    source: str,
    specs: Sequence[InputSpec],
    settings: Preprocess | None = None,
    limit: int | None = None,
) -> Raw:
    """Read images as samples of a model with one input, which takes one or a fixed batch of them.

    A ragged rest is dropped. With classes, `limit` samples are spread evenly over all of them.
    Raises `SamplesError` when the settings do not fit the input, or Pillow is missing.
    """
    need_pillow(source)
    spec = only_input(specs, source, "images")
    wanted = fill_in(settings or Preprocess(), spec, source)
    step = wanted.batch or 1
    paths, labels = found.paths, np.array(found.labels, np.int64)
    if len(paths) < step:
        raise SamplesError(
            f'{source}: input "{spec.name}" takes {step} images for a sample, here are {len(paths)}'
        )
    if limit is not None and found.classes and limit * step < len(paths):
        spread = np.arange(limit * step) * len(paths) // (limit * step)
        paths, labels = tuple(paths[index] for index in spread), labels[spread]
    count = len(paths) // step

    def read() -> Iterator[tuple[str, object]]:
        for start in range(0, count * step, step):
            batch = paths[start : start + step]
            yield _place(batch), Later(functools.partial(_load, batch, wanted))

    return Raw(
        source,
        read,
        count,
        _by_sample(labels, count, step) if found.classes else None,
        costly=True,
        classes=found.classes,
        note=f"images: {wanted}",
    )


def _by_sample(labels: Label, count: int, step: int) -> Label:
    return labels if step == 1 else labels[: count * step].reshape(count, step)


def _place(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"


def _load(paths: Sequence[Path], wanted: ImageInput) -> Array:
    arrays = []
    for path in paths:
        with reading(path):
            arrays.append(image_array(path, wanted))
        if arrays[-1].shape != arrays[0].shape:
            raise SamplesError(
                f"{paths[0]} and {path} differ in size, and go into one batch: pass --image-size"
            )
    return arrays[0] if wanted.batch is None else np.stack(arrays)
