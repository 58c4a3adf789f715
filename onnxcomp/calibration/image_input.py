"""What a model's input asks of images: layout, channels, size, batch, kind of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from onnxcomp.calibration.checks import is_fixed
from onnxcomp.calibration.preprocess import CHANNELS, Preprocess
from onnxcomp.errors import SamplesError
from onnxcomp.runtime import InputSpec

Dim = int | str | None
Open = tuple[int | None, int | None]
NO_SIZE: Open = (None, None)
BY_COUNT = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ImageInput:
    """The settings with all that was open filled in from one input.

    `size` and `crop` are height and width, of which None is left as it comes; a `size` of one
    number is the shorter side. `scale` is None where pixels are fed as the integers they are.
    """

    channels: str
    channels_first: bool
    batch: int | None
    size: int | Open
    crop: Open
    fit: str
    fill: int
    resample: str
    scale: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        layout = "channels first" if self.channels_first else "channels last"
        return f"{self._geometry()}, {self.channels}, {layout}, {self._arithmetic()}"

    def _geometry(self) -> str:
        size = self.size if isinstance(self.size, int) else _dims(self.size)
        parts = [] if self.size == NO_SIZE else [f"{self.fit} to {size}"]
        parts += [] if self.crop == NO_SIZE else [f"centre crop {_dims(self.crop)}"]
        return ", ".join(parts) or "each in its own size"

    def _arithmetic(self) -> str:
        if self.scale is None:
            return "pixels as they are"
        scale = "1/255" if self.scale == 1 / 255 else f"{self.scale:g}"
        parts = [f"scale {scale}"]
        for name, values in (("mean", self.mean), ("std", self.std)):
            parts.append(f"{name} {','.join(f'{item:g}' for item in values)}" if values else "")
        return ", ".join(filter(None, parts)) + (
            "" if self.mean or self.std else ", no mean or std"
        )


def fill_in(settings: Preprocess, spec: InputSpec, source: str) -> ImageInput:
    """Return the settings for one input; raise `SamplesError` for what does not follow from it."""
    where = f"{source}: images for input {spec}"
    batched, channels_first = _layout(settings, spec.shape, where)
    dims = (None, None, None, None) if spec.shape is None else spec.shape[-4:]
    batch = dims[0] if batched else None
    first, second, third = (dim if is_fixed(dim) else None for dim in dims[-3:])
    count = first if channels_first else third
    wanted = (second, third) if channels_first else (first, second)
    channels = _channels(settings, count, where)
    size, crop, fit = _geometry(settings, wanted, where)
    scale = _scale(settings, spec, where)
    for name, values in (("mean", settings.mean), ("std", settings.std)):
        if len(values) not in (0, 1, CHANNELS[channels]):
            raise SamplesError(
                f"{where}: {name} (--image-{name}) has {len(values)} numbers, "
                f"{channels} has {CHANNELS[channels]} channel(s)"
            )
    if settings.mean and scale is not None and min(settings.mean) > 255 * abs(scale):
        raise SamplesError(
            f"{where}: mean {settings.mean[0]:g} is beyond pixels scaled to 0..{255 * scale:g}; "
            "it counts after scaling: pass --image-scale 1 to keep 0..255"
        )
    return ImageInput(
        channels=channels,
        channels_first=channels_first,
        batch=(batch if is_fixed(batch) and batch > 0 else 1) if batched else None,
        size=size,
        crop=crop,
        fit=fit,
        fill=settings.fill,
        resample=settings.resample,
        scale=scale,
        mean=settings.mean,
        std=settings.std,
    )


def _layout(settings: Preprocess, shape: tuple[Dim, ...] | None, where: str) -> tuple[bool, bool]:
    """Return whether there is a batch axis, and whether channels come before height and width."""
    if shape is not None and len(shape) not in (3, 4):
        raise SamplesError(
            f"{where}: an image has 3 axes, or 4 with the batch; convert the images to .npz"
        )
    batched = shape is None or len(shape) == 4
    if settings.layout != "auto":
        return batched, settings.layout == "NCHW"
    dims = (None, None, None) if shape is None else shape[-3:]
    counts = set(BY_COUNT)
    if settings.channels is not None and CHANNELS[settings.channels] in dims:
        counts = {CHANNELS[settings.channels]}
    first, last = dims[0] in counts, dims[2] in counts
    if first == last:
        raise SamplesError(
            f"{where}: which axis holds the channels is not clear: "
            "pass --image-layout NCHW or --image-layout NHWC"
        )
    return batched, first


def _channels(settings: Preprocess, count: int | None, where: str) -> str:
    if settings.channels is None:
        if count is not None and count not in BY_COUNT:
            raise SamplesError(
                f"{where}: it has {count} channels, images have 1, 3 or 4: pass another "
                "--image-layout, or convert the images to .npz"
            )
        return "RGB" if count is None else BY_COUNT[count]
    if count not in (None, CHANNELS[settings.channels]):
        raise SamplesError(
            f"{where}: it has {count} channel(s), {settings.channels} has "
            f"{CHANNELS[settings.channels]}: pass another --image-channels or --image-layout"
        )
    return settings.channels


def _geometry(settings: Preprocess, wanted: Open, where: str) -> tuple[int | Open, Open, str]:
    """Return size, crop and fit.

    Without a size it is the input's, unless only a crop is asked for. A resized image that covers
    more than the input takes is cropped to it.
    """
    size, crop = settings.size, settings.crop or NO_SIZE
    fit = settings.fit or ("stretch" if isinstance(size, tuple) else "shorter-side")
    if size is None:
        if settings.fit is not None and wanted == NO_SIZE:
            raise SamplesError(f"{where}: --image-fit {fit} needs a size: pass --image-size")
        if settings.crop is not None and settings.fit is None:
            return NO_SIZE, crop, fit
        return wanted, crop if crop != NO_SIZE or fit != "shorter-side" else wanted, fit
    if fit == "shorter-side":
        return size, settings.crop or (wanted if isinstance(size, int) else size), fit
    return (size, size) if isinstance(size, int) else size, crop, fit


def _scale(settings: Preprocess, spec: InputSpec, where: str) -> float | None:
    if spec.dtype is None or spec.dtype.kind not in "iu":
        return 1 / 255 if settings.scale is None else settings.scale
    for name in ("mean", "std", "scale"):
        if getattr(settings, name) not in (None, (), 1):
            raise SamplesError(
                f"{where}: {spec.dtype} takes pixels as they are: leave --image-{name} out"
            )
    return None


def _dims(size: Open) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in size)
