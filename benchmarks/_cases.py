"""What compressors run on: models, samples to calibrate on, and answers to judge.

Three kinds: the models of a folder that ONNXCOMP_CORPUS names (models/*.onnx, and a corpus_eval.py
that defines TASKS), those of this repository that have data, and networks with seeded weights.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _networks import noise, write_mobilenet, write_resnet18

Feeds = Mapping[str, Any]
Predict = Callable[[Feeds], list[Any]]

PUBLIC, OWN, BUILT = "public models", "this repository's models", "built networks"
MODELS = Path(__file__).resolve().parent.parent / "models"
# Samples of a built network on which it is judged.
JUDGED = 8


@dataclass(frozen=True)
class Case:
    """A model with its data.

    `calib` yields samples to calibrate on; `evaluate` asks for the answers to others, and returns
    the metric (higher is better) or None where nothing is labelled.
    """

    name: str
    kind: str
    write: Callable[[Path], object]
    calib: Callable[[], Iterator[Feeds]]
    evaluate: Callable[[Predict], float | None]


def find_cases() -> dict[str, Case]:
    """Return every case by name."""
    found = [*_public(os.environ.get("ONNXCOMP_CORPUS", "")), *_own(), *_built()]
    return {case.name: case for case in found}


class _Enough(Exception):  # noqa: N818  (not an error)
    pass


def judged_feeds(case: Case, predict: Predict, count: int) -> list[Feeds]:
    """Return the first samples that a case is judged on."""
    found: list[Feeds] = []

    def record(feeds: Feeds) -> list[Any]:
        found.append(feeds)
        if len(found) == count:
            raise _Enough
        return predict(feeds)

    with contextlib.suppress(_Enough):
        case.evaluate(record)
    return found


# ---------------------------------------------------------------- models with tasks of their own
def _public(folder: str) -> Iterator[Case]:
    if not folder:
        return
    sys.path.insert(0, folder)
    tasks = importlib.import_module("corpus_eval").TASKS
    for path in sorted(Path(folder).glob("models/*.onnx")):
        if path.stem in tasks:
            task = tasks[path.stem]
            copy = functools.partial(shutil.copyfile, path)
            yield Case(path.stem, PUBLIC, copy, task.calib, functools.partial(_primary, task))


def _primary(task: Any, predict: Predict) -> float:
    return float(next(iter(task.evaluate(predict).values())))


# ---------------------------------------------------------------- models of this repository
def _own() -> Iterator[Case]:
    for path in sorted(MODELS.glob("*.onnx")):
        data = next((each for each in _data_of(path) if each.exists()), None)
        if data is not None:
            copy = functools.partial(shutil.copyfile, path)
            evaluate = functools.partial(_top1, data)
            yield Case(path.stem, OWN, copy, functools.partial(_rows, data, "calib"), evaluate)


def _data_of(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".npz"), path.with_name(f"{path.stem.split('_')[0]}.npz")


def _rows(data: Path, part: str) -> Iterator[dict[str, Any]]:
    """Yield samples of a file, each a batch of one: even rows to calibrate on, odd to judge."""
    with np.load(data) as stored:
        columns = dict(stored)
    count = len(next(iter(columns.values())))
    for row in range(part != "calib", count, 2):
        yield {name: column[row : row + 1] for name, column in columns.items()}


def _top1(data: Path, predict: Predict) -> float | None:
    hits = []
    for row in _rows(data, "judged"):
        label = row.pop("labels", None)
        answer = predict(row)[0]
        if label is not None:
            hits.append(np.asarray(answer).argmax(-1) == label)
    return float(np.mean(hits)) if hits else None


# ---------------------------------------------------------------- networks
def _built() -> Iterator[Case]:
    writers = {
        "resnet18": functools.partial(write_resnet18, batch_norm=True),
        "mobilenetv2": write_mobilenet,
    }
    for name, writer in writers.items():
        yield Case(name, BUILT, writer, functools.partial(_noise, 1), _answer_noise)


def _noise(seed: int) -> Iterator[Feeds]:
    for count in itertools.count():
        yield {"x": noise(1, seed * 1000 + count)}


def _answer_noise(predict: Predict) -> None:
    for feeds in itertools.islice(_noise(2), JUDGED):
        predict(feeds)
