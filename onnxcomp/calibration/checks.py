"""What a reader gives, and the checks that make feeds of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array
from onnxcomp.runtime import InputSpec, first_line

# What is asked of the functions that give samples.
FRESH = "a function must return a fresh iterable at each call"
STRING = np.dtype(object)
Label = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Later:
    """A sample that is costly to read, and is read where it is wanted."""

    load: Callable[[], object]


@dataclass(frozen=True, eq=False)
class Raw:
    """Samples as a reader finds them, unchecked.

    `read` starts afresh and yields where a sample is (for messages) and the sample: a mapping by
    input name, the one array of a one-input model, or either `Later`. `once` says that it can be
    read one time, `costly` that reading computes something, `classes` how many classes the labels
    are of where that is known, `note` how images were preprocessed.
    """

    source: str
    read: Callable[[], Iterator[tuple[str, object]]]
    count: int | None = None
    labels: Label | None = None
    once: bool = False
    costly: bool = False
    classes: int = 0
    note: str = ""


def numbered(source: str, samples: Iterable[object]) -> Iterator[tuple[str, object]]:
    """Say of each sample where it is: the source, with the index from the second sample on."""
    for index, sample in enumerate(samples):
        yield (f"{source}, sample {index}" if index else source), sample


def only_input(specs: Sequence[InputSpec], what: str, kind: str = "bare arrays") -> InputSpec:
    """Return the one input of a model; raise `SamplesError` when there are more (or none)."""
    if len(specs) == 1:
        return specs[0]
    names = ", ".join(f'"{spec.name}"' for spec in specs) or "none"
    raise SamplesError(
        f"{what} holds {kind}, which fit a model of one input; this one has {len(specs)} "
        f"({names}): name the arrays, as in an .npz"
    )


def conform(where: str, sample: object, specs: Sequence[InputSpec]) -> dict[str, Array]:
    """Return a sample as feeds in the order and the types of the inputs.

    Raises `SamplesError` that quotes the first name, type or shape that does not fit.
    """
    if isinstance(sample, Later):
        sample = sample.load()
    if not isinstance(sample, Mapping):
        if isinstance(sample, (str, bytes)) or sample is None:
            raise SamplesError(
                f"{where}: a sample is a dict of arrays by input name, not {type(sample).__name__}"
            )
        sample = {only_input(specs, where).name: sample}
    check_names(where, sample, specs)
    return {spec.name: _fit(where, spec, sample[spec.name]) for spec in specs}


def check_names(where: str, names: Iterable[object], specs: Sequence[InputSpec]) -> None:
    """Raise `SamplesError` when there is a name that no input has, or an input without a name."""
    given, known = list(names), [spec.name for spec in specs]
    for name in given:
        if name not in known:
            inputs = ", ".join(f'"{item}"' for item in known)
            raise SamplesError(f'{where}: the model has no input "{name}"; its inputs are {inputs}')
    for spec in specs:
        if spec.name not in given:
            raise SamplesError(f'{where}: no array for input "{spec.name}", {_wish(spec)}')


def _fit(where: str, spec: InputSpec, given: object) -> Array:
    try:
        data = np.asarray(given, order="C")
    except Exception as error:  # lists of unequal lengths, tensors of other tools on a device
        raise SamplesError(
            f'{where}: input "{spec.name}" is no array: {first_line(error)}'
        ) from error
    if spec.dtype is not None and not _can_become(data, spec.dtype):
        raise SamplesError(f"{_mismatch(where, spec, data)}{_advice(data, spec.dtype)}")
    if spec.shape is not None and not _same_shape(data.shape, spec.shape):
        raise SamplesError(_mismatch(where, spec, data))
    same = spec.dtype is None or spec.dtype == data.dtype  # numpy holds None for float64
    return data if same else _cast(where, spec, data)


def _can_become(data: Array, wanted: np.dtype[np.generic]) -> bool:
    """Say whether only the width of the numbers changes (or booleans become 0 and 1)."""
    kind = data.dtype.kind
    if wanted == STRING:
        return kind in "OUS"
    if wanted.kind in "iu":
        return kind in "iub"
    return wanted.kind == kind


def _cast(where: str, spec: InputSpec, data: Array) -> Array:
    if spec.dtype == STRING:
        plain = np.char.decode(data, "utf-8") if data.dtype.kind == "S" else data
        return plain.astype(STRING)
    with np.errstate(over="ignore"):
        cast = data.astype(spec.dtype)
    lost = np.isfinite(data) & ~np.isfinite(cast) if cast.dtype.kind == "f" else cast != data
    if lost.any():
        value = data[lost].flat[0]
        raise SamplesError(f"{_mismatch(where, spec, data)}: {value} does not fit")
    return cast


def is_fixed(dim: int | str | None) -> TypeGuard[int]:
    """Say whether a dim is a number; some exporters write -1 where they mean that it is free."""
    return isinstance(dim, int) and dim >= 0


def _same_shape(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(w == d for d, w in zip(shape, wanted, strict=True) if is_fixed(w))


def _mismatch(where: str, spec: InputSpec, data: Array) -> str:
    dims = ",".join(str(dim) for dim in data.shape)
    found = f"{data.dtype.name if data.dtype == STRING else _type_name(data.dtype)}[{dims}]"
    return f'{where}: input "{spec.name}" wants {_wish(spec)}, the sample has {found}'


def _advice(data: Array, wanted: np.dtype[np.generic]) -> str:
    if wanted.kind == "f" and data.dtype.kind in "iub":
        return f'; convert it, with the scaling that the model expects: .astype("{wanted}")'
    return f'; convert it with .astype("{_type_name(wanted)}")' if wanted != STRING else ""


def _wish(spec: InputSpec) -> str:
    dims = "..." if spec.shape is None else ",".join(_dim(dim) for dim in spec.shape)
    return f"{'any' if spec.dtype is None else _type_name(spec.dtype)}[{dims}]"


def _dim(dim: int | str | None) -> str:
    return str(dim) if is_fixed(dim) or (dim and isinstance(dim, str)) else "?"


def _type_name(dtype: np.dtype[np.generic]) -> str:
    return "string" if dtype.kind in "OUS" else dtype.name
