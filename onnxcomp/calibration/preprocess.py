"""How images become inputs: the settings, as recipes, Python and the command line give them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from onnxcomp.errors import RecipeError

FITS = ("stretch", "shorter-side", "letterbox")
RESAMPLES = ("bilinear", "nearest", "bicubic", "area")
LAYOUTS = ("auto", "NCHW", "NHWC")
CHANNELS: Mapping[str, int] = {"L": 1, "RGB": 3, "BGR": 3, "RGBA": 4}

Size = tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """How images become inputs; what is not given follows from the model's input.

    `size` is (height, width) to `stretch` to, or one number for the shorter side; `fit` chooses
    another way, of which `letterbox` fills the rest with `fill`. `crop` is taken from the centre.
    Pixels of 0 to 255 become `(pixel * scale - mean) / std`, `mean` and `std` in the order of
    `channels`; without `scale` they are divided by 255. Raises `RecipeError` for what makes no
    sense.
    """

    size: int | Size | None = None
    crop: Size | None = None
    fit: str | None = None
    fill: int = 114
    resample: str = "bilinear"
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = "auto"
    channels: str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not item.default:
                object.__setattr__(self, item.name, _READERS[item.name](value, item.name))
        if 0 in self.std:
            raise RecipeError("std (--image-std) divides, so that it must not be 0")

    def to_dict(self) -> dict[str, object]:
        """Return the settings that differ from their defaults."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


def make_preprocess(
    given: object, where: str = "preprocess", start: Preprocess | None = None
) -> Preprocess:
    """Return settings from a table of them, which edits `start`; a `Preprocess` stands for itself.

    Raises `RecipeError` for an unknown key or a value that is none.
    """
    if isinstance(given, Preprocess):
        return given
    if not isinstance(given, Mapping):
        raise RecipeError(f"{where}: [preprocess] is a table of settings, got {given!r}")
    known = [item.name for item in fields(Preprocess)]
    for key in given:
        if key not in known:
            raise RecipeError(f"{where}: [preprocess] has no {key!r}; known: {', '.join(known)}")
    try:
        return replace(start or Preprocess(), **given)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


# ---------------------------------------------------------------- values, also as flags have them
def _refused(name: str, wish: str, value: object) -> RecipeError:
    return RecipeError(f"{name} (--image-{name}) must be {wish}, got {value!r}")


def _size(value: object, name: str) -> int | Size:
    text = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?:[xX,]([1-9][0-9]{0,5}))?", text)
    if found is None:
        raise _refused(name, "a side in pixels as 224, or height x width as 256x128", value)
    high, wide = found.groups()
    return int(high) if wide is None else (int(high), int(wide))


def _crop(value: object, name: str) -> Size:
    size = _size(value, name)
    return (size, size) if isinstance(size, int) else size


def _scale(value: object, name: str) -> float:
    numbers = _numbers(value)
    if len(numbers) != 1 or numbers[0] == 0:
        raise _refused(name, "one number other than 0, as 0.0078 or 1/255", value)
    return numbers[0]


def _per_channel(value: object, name: str) -> tuple[float, ...]:
    numbers = _numbers(value)
    if not numbers:
        raise _refused(name, "one number, or one for each channel as 0.5,0.5,0.5", value)
    return tuple(numbers)


def _numbers(value: object) -> list[float]:
    """Return the finite numbers in a number, a list or a text, or nothing if one is none."""
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's
    items = value.split(",") if isinstance(value, str) else value
    items = list(items) if isinstance(items, (list, tuple)) else [items]
    try:
        found = [_number(item) for item in items]
    except (TypeError, ValueError, ZeroDivisionError):
        return []
    return found if all(math.isfinite(item) for item in found) else []


def _number(item: object) -> float:
    if isinstance(item, str):
        above, slash, below = item.partition("/")
        return float(above) / float(below) if slash else float(item)
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise TypeError
    return float(item)


def _fill(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise RecipeError(f"{name} must be a grey value from 0 to 255, got {value!r}")
    return value


def _one_of(names: tuple[str, ...]) -> Callable[[object, str], str]:
    def read(value: object, name: str) -> str:
        if value not in names:
            raise _refused(name, f"one of {', '.join(names)}", value)
        return str(value)

    return read


_READERS: Mapping[str, Callable[[object, str], object]] = {
    "size": _size,
    "crop": _crop,
    "fit": _one_of(FITS),
    "fill": _fill,
    "resample": _one_of(RESAMPLES),
    "scale": _scale,
    "mean": _per_channel,
    "std": _per_channel,
    "layout": _one_of(LAYOUTS),
    "channels": _one_of(tuple(CHANNELS)),
}
