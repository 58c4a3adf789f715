"""One image file as an array: read with Pillow, resized, cropped, normalized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxcomp.calibration.image_input import ImageInput, Open
from onnxcomp.errors import SamplesError
from onnxcomp.graph import Array

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's names; with these, an image made smaller averages over all pixels of the original.
FILTERS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "area": "BOX"}


def need_pillow(source: str) -> None:
    """Raise `SamplesError` when Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise SamplesError(
            f"{source}: holds images, which Pillow reads: pip install 'onnxcomp[images]'"
        ) from error


def image_array(path: Path, wanted: ImageInput) -> Array:
    """Return one image as the input takes it, without the batch axis."""
    image = _read(path, "RGB" if wanted.channels == "BGR" else wanted.channels)
    pixels = np.asarray(_cropped(_resized(image, wanted), wanted.crop, path))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels  # [H, W, C]
    if wanted.channels == "BGR":
        pixels = pixels[..., ::-1]
    data = _normalized(pixels, wanted)
    return data.transpose(2, 0, 1) if wanted.channels_first else data


# ---------------------------------------------------------------- reading
def _read(path: Path, mode: str) -> Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            upright = ImageOps.exif_transpose(file)
    except UnidentifiedImageError as error:  # whose message is the path once more
        raise ValueError("it is no image that Pillow knows") from error
    return _eight_bits(upright).convert(mode)


def _eight_bits(image: Image) -> Image:
    """Return an image of 8 bits; 16 bits are scaled, and transparency does not hide a colour."""
    from PIL import Image

    if image.mode in ("RGBa", "La"):
        return image.convert("RGBA")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    data = np.asarray(image)
    if image.mode == "F" or data.min() < 0 or data.max() > 65535:
        raise ValueError("its pixels have 32 bits; convert it to 8 or 16 bits")
    return Image.fromarray(((data.astype(np.uint32) + 128) // 257).astype(np.uint8))


# ---------------------------------------------------------------- geometry
def _resized(image: Image, wanted: ImageInput) -> Image:
    from PIL import Image

    width, height = image.size
    new = _new_size((height, width), wanted)
    method = Image.Resampling[FILTERS[wanted.resample]]
    if new != (height, width):
        image = image.resize((new[1], new[0]), method)
    if wanted.fit != "letterbox" or not isinstance(wanted.size, tuple):
        return image
    full = (wanted.size[0] or new[0], wanted.size[1] or new[1])
    canvas = Image.new(image.mode, (full[1], full[0]), _color(wanted))
    canvas.paste(image, ((full[1] - new[1]) // 2, (full[0] - new[0]) // 2))
    return canvas


def _color(wanted: ImageInput) -> int | tuple[int, ...]:
    if wanted.channels == "L":
        return wanted.fill
    return (wanted.fill,) * 3 + ((255,) if wanted.channels == "RGBA" else ())


def _new_size(old: tuple[int, int], wanted: ImageInput) -> tuple[int, int]:
    """Return height and width after resizing; of a pair, None follows from the other."""
    height, width = old
    high, wide = _pair(wanted.size, portrait=height > width)
    if high is None and wide is None:
        return old
    if high is not None and wide is not None:
        if wanted.fit == "stretch":
            return high, wide
        covers = high * width >= wide * height  # whether this height makes it wide enough
        high, wide = (high, None) if covers == (wanted.fit == "shorter-side") else (None, wide)
    nearest = wanted.fit == "letterbox"
    if high is not None:
        return high, _share(high, width, height, nearest=nearest)
    assert wide is not None
    return _share(wide, height, width, nearest=nearest), wide


def _pair(size: int | Open, *, portrait: bool) -> Open:
    """Return one number as the shorter side of a pair that is open in the other."""
    if isinstance(size, int):
        return (None, size) if portrait else (size, None)
    return size


def _share(side: int, other: int, own: int, *, nearest: bool) -> int:
    """Return the other side in proportion, rounded down or to the nearest."""
    return max((side * other + (own // 2 if nearest else 0)) // own, 1)


def _cropped(image: Image, crop: Open, path: Path) -> Image:
    width, height = image.size
    high, wide = crop[0] or height, crop[1] or width
    if high > height or wide > width:
        raise SamplesError(
            f"{path}: it is {height}x{width} before a centre crop of {high}x{wide}: "
            "pass a larger --image-size, or a smaller --image-crop"
        )
    top, left = round((height - high) / 2), round((width - wide) / 2)
    return image.crop((left, top, left + wide, top + high))


# ---------------------------------------------------------------- numbers
def _normalized(pixels: Array, wanted: ImageInput) -> Array:
    if wanted.scale is None:
        return pixels
    data = pixels.astype(np.float32) * np.float32(wanted.scale)
    if wanted.mean:
        data -= np.asarray(wanted.mean, np.float32)
    if wanted.std:
        data /= np.asarray(wanted.std, np.float32)
    return data
