"""Samples from Python: a function of the user, a list, a generator, another tool's reader."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxcomp.calibration.checks import FRESH, Raw, numbered, only_input
from onnxcomp.calibration.columns import array_column, from_columns
from onnxcomp.errors import SamplesError
from onnxcomp.runtime import InputSpec, first_line

_END = object()


def load_object(target: str, name: str, source: str) -> tuple[object, Path]:
    """Import `FILE.py` by its path, or a module, and return what has this name there.

    Also returns the folder that its imports are looked up in: that of the file, or the current
    one. Raises `SamplesError` when the import fails or finds no such name.
    """
    folder = Path(target).resolve().parent if target.endswith(".py") else Path.cwd()
    with _user_code(source, folder):
        module = _import_file(target) if target.endswith(".py") else importlib.import_module(target)
    if not hasattr(module, name):
        raise SamplesError(f"{source}: {target} defines no {name}")
    return getattr(module, name), folder


def _import_file(target: str) -> object:
    path = Path(target).resolve()
    name = f"onnxcomp_samples_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def from_object(
    given: Any, source: str, specs: Sequence[InputSpec], folder: Path | None = None
) -> Raw:
    """Make samples of a Python object.

    Arrays and dicts of arrays have a leading sample axis. Readers (`get_next`) are rewound
    before each reading if they can be, functions are called afresh, and what is exhausted by one
    reading (generators, readers without `rewind`) is marked `once`.
    """
    if isinstance(given, np.ndarray):
        name = only_input(specs, source).name
        return from_columns(source, {name: array_column(given)}, specs)
    if isinstance(given, Mapping):
        columns = {str(name): array_column(np.asarray(data)) for name, data in given.items()}
        return from_columns(source, columns, specs)

    def read() -> Iterator[tuple[str, object]]:
        return numbered(source, _steps(given, source, folder))

    if not isinstance(given, type) and hasattr(given, "get_next"):
        return Raw(source, read, once=not hasattr(given, "rewind"), costly=True)
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes, type)):
        count = len(given) if isinstance(given, Sequence) else None
        costly = not isinstance(given, Sequence)
        return Raw(source, read, count, once=isinstance(given, Iterator), costly=costly)
    if callable(given):
        made = _Fresh(given, source)
        return Raw(source, lambda: numbered(source, _steps(made, source, folder)), costly=True)
    raise SamplesError(
        f"{source}: {type(given).__name__} gives no samples; pass a function or an iterable of "
        "dicts of arrays by input name"
    )


def describe_object(given: object) -> str:
    """Name a Python object for reports and messages."""
    if isinstance(given, np.ndarray):
        return f"array {given.dtype}[{','.join(str(dim) for dim in given.shape)}]"
    name = getattr(given, "__qualname__", None) if callable(given) else None
    return name or type(given).__name__


@dataclass
class _Fresh:
    """A function that gives samples, whose iterators must not be the one that it gave before."""

    given: Callable[[], object]
    source: str
    _last: object = None

    def __call__(self) -> object:
        made = self.given()
        if isinstance(made, Iterator) and made is self._last:
            raise SamplesError(f"{self.source}: the same iterator again ({FRESH})")
        self._last = made
        return made


def _steps(given: Any, source: str, folder: Path | None) -> Iterator[object]:
    """Yield the samples of a function, a reader or an iterable; its errors become ours."""
    with _user_code(source, folder):
        iterator = _start(given)
    while True:
        with _user_code(source, folder):
            sample = next(iterator, _END)
        if sample is _END:
            return
        yield sample


def _start(given: Any) -> Iterator[object]:
    if not isinstance(given, type) and hasattr(given, "get_next"):
        if hasattr(given, "rewind"):
            given.rewind()
        return _drain(given)
    if isinstance(given, Iterable) and not isinstance(given, type):
        return iter(given)
    made = given()
    return _start(made) if hasattr(made, "get_next") else iter(made)


def _drain(reader: Any) -> Iterator[object]:
    while (sample := reader.get_next()) is not None:
        yield sample


@contextlib.contextmanager
def _user_code(source: str, folder: Path | None) -> Iterator[None]:
    """Let a folder's modules be imported, and say where an error of the user's code arose."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        yield
    except SamplesError:
        raise
    except (Exception, SystemExit) as error:
        raise SamplesError(
            f"{source}: {type(error).__name__}: {first_line(error)}{_place(error, folder)}"
        ) from error
    finally:
        if folder is not None:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))


def _place(error: BaseException, folder: Path | None) -> str:
    """Name the user's line that an error comes from, where there is one."""
    ours = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(ours)
    ]
    inside = [f for f in frames if folder is not None and Path(f.filename).is_relative_to(folder)]
    lines = [f" ({Path(f.filename).name}, line {f.lineno})" for f in inside or frames]
    return lines[-1] if lines else ""
