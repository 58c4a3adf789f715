"""Calibration samples: whatever the user has, as feeds that stream again and again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibration.checks import Label, Raw, conform, numbered
from onnxcomp.calibration.files import read_file, read_folder
from onnxcomp.calibration.kept import Kept
from onnxcomp.calibration.preprocess import Preprocess, make_preprocess
from onnxcomp.calibration.spool import spooled
from onnxcomp.calibration.synthetic import random_feeds, runnable_sizes
from onnxcomp.calibration.user_code import describe_object, from_object, load_object
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec, value_spec

RANDOM_COUNT = 16
# Bytes of samples that may be kept; the others are read again whenever they are wanted.
KEPT = 32_000_000


@dataclass(frozen=True, eq=False)
class Samples:
    """Feeds that can be iterated again and again, one in memory at a time.

    `source` is what the user gave, for reports; `pick` reads those whose index it says yes to;
    `labels` is the class of each sample, `[samples]` (or `[samples, B]` where a sample is a batch
    of B), where the data has them; `synthetic` says that the samples are random; `count` is None
    where only reading would tell; `note` says how images were preprocessed.
    """

    source: str
    pick: Callable[[Callable[[int], bool]], Iterator[dict[str, Array]]]
    count: int | None = None
    labels: Label | None = None
    synthetic: bool = False
    note: str = ""

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self.pick(lambda _: True)


def open_samples(
    spec: object,
    inputs: Sequence[InputSpec],
    *,
    limit: int | None = None,
    seed: int = 0,
    model: ir.Model | None = None,
    preprocess: Preprocess | Mapping[str, object] | None = None,
    keep: bool = False,
) -> Samples:
    """Open calibration data, of which the first sample is checked at once, the others when read.

    `spec` is a folder, an .npz, an .npy, an image, `FILE.py:callable`, `pkg.module:callable`,
    `random` or `random:N` (for which `model` is needed and `seed` counts), or a Python object: a
    function, an iterable of dicts, arrays with a leading sample axis, a reader with `get_next`. At
    most the first `limit` samples are used; of images in folders by class, as many from all over
    them. `preprocess` says how images become inputs; what it leaves open follows from the input.
    `keep` says that samples which take work to read are kept, up to 32 MB.
    Raises `SamplesError`, one line that quotes the mismatch.
    """
    if limit is not None and limit < 1:
        raise SamplesError(f"at least one sample is needed, not {limit}")
    settings = make_preprocess({} if preprocess is None else preprocess)
    text = os.fspath(spec) if isinstance(spec, (str, os.PathLike)) else None
    synthetic = text == "random" or (isinstance(spec, str) and spec.startswith("random:"))
    if text is None:
        raw = from_object(spec, describe_object(spec), inputs)
    elif synthetic:
        raw = _random(str(text), model, limit, seed)
    else:
        raw = _named(str(text), inputs, settings, limit)
    if settings.to_dict() and not raw.note:
        raise SamplesError(
            f"{raw.source}: these samples are no images and are fed as they are; leave the "
            "--image options ([preprocess] in a recipe) out"
        )
    if raw.once:
        raw = spooled(raw, inputs, limit)
    raw = _with_true_classes(raw, model)
    samples = _checked(raw, inputs, limit, synthetic=synthetic, keep=keep)
    next(iter(samples))
    return samples


def split(samples: Samples, every: int = 4) -> tuple[Samples, Samples]:
    """Return the samples to calibrate on and those held out: the last one of every four.

    With fewer than four, both are all the samples.
    """
    count = samples.count
    if (sum(1 for _ in islice(samples, every)) if count is None else count) < every:
        return samples, samples
    return _part(samples, every, held_out=False), _part(samples, every, held_out=True)


def _part(samples: Samples, every: int, *, held_out: bool) -> Samples:
    def mine(index: int) -> bool:
        return (index % every == every - 1) == held_out

    def pick(wanted: Callable[[int], bool]) -> Iterator[dict[str, Array]]:
        own = itertools.count()
        return samples.pick(lambda index: mine(index) and wanted(next(own)))

    count, labels = samples.count, samples.labels
    if count is not None:
        count = sum(1 for index in range(count) if mine(index))
    if labels is not None:
        labels = labels[[mine(index) for index in range(len(labels))]]
    return replace(samples, pick=pick, count=count, labels=labels)


def _checked(
    raw: Raw, inputs: Sequence[InputSpec], limit: int | None, *, synthetic: bool, keep: bool
) -> Samples:
    def as_feeds(where: str, sample: object) -> dict[str, Array]:
        return conform(where, sample, inputs)

    pick = Kept(raw, limit, as_feeds, KEPT if keep and raw.costly else 0).pick
    count = raw.count if raw.count is None or limit is None else min(raw.count, limit)
    labels = raw.labels if raw.labels is None else raw.labels[:limit]
    return Samples(raw.source, pick, count, labels, synthetic, raw.note)


def _with_true_classes(raw: Raw, model: ir.Model | None) -> Raw:
    """Drop labels that come from folders, where the model answers with another number of classes.

    They would be other classes than the model's: a few of a thousand, or no classes at all.
    """
    if not raw.classes or model is None:
        return raw
    output = value_spec(model.graph.outputs[0])
    if output.shape is not None and len(output.shape) == 2 and output.shape[1] == raw.classes:
        return replace(raw, note=f"{raw.note}; labels of {raw.classes} classes by folder")
    note = f'{raw.note}; {raw.classes} folders are no labels for output "{output}"'
    return replace(raw, labels=None, note=note)


def _named(text: str, inputs: Sequence[InputSpec], settings: Preprocess, limit: int | None) -> Raw:
    path = Path(text)
    if not text:
        raise SamplesError("the samples have an empty name; name a folder, a file or a callable")
    if path.is_dir():
        return read_folder(path, text, inputs, settings, limit)
    if path.exists():
        return read_file(path, text, inputs, settings)
    target, colon, name = text.rpartition(":")
    if target.endswith(".py") and not Path(target).is_file():
        raise SamplesError(f"{text}: no such file: {target}")
    dotted = target.endswith(".py") or all(part.isidentifier() for part in target.split("."))
    if not colon or not dotted or not name.isidentifier():
        raise SamplesError(f"{text}: no such file or folder")
    found, folder = load_object(target, name, text)
    return from_object(found, text, inputs, folder)


def _random(text: str, model: ir.Model | None, limit: int | None, seed: int) -> Raw:
    _, colon, number = text.partition(":")
    if colon and not (number.isdecimal() and int(number) > 0):
        raise SamplesError(f"{text}: the number of samples must be a whole number of at least 1")
    if model is None:
        raise SamplesError(f"{text}: random samples are drawn for a model, and none was given")
    count = min(int(number) if colon else RANDOM_COUNT, limit or 10**9)
    sizes = runnable_sizes(model, count, seed)

    def read() -> Iterator[tuple[str, object]]:
        return numbered(text, random_feeds(model, count, seed, sizes))

    return Raw(text, read, count)
