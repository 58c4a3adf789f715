"""Images as samples: the formula of preprocessing, the files, the folders, the labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.errors import RecipeError, SamplesError
from onnxcomp.runtime import InputSpec
from pictures import Pixels, picture, pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def inputs(*shape: int | str | None, dtype: str = "float32") -> list[InputSpec]:
    return [InputSpec("x", np.dtype(dtype), shape)]


def arrays(folder: Path, *shape: int | str | None, dtype: str = "float32", **given: Any) -> Any:
    samples = open_samples(folder, inputs(*shape, dtype=dtype), preprocess=given)
    return [feeds["x"] for feeds in samples]


def refused(folder: Path, *shape: int | str | None, dtype: str = "float32", **given: Any) -> str:
    with pytest.raises(SamplesError) as caught:
        arrays(folder, *shape, dtype=dtype, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- the formula
@pytest.mark.parametrize(("high", "wide"), [(30, 47), (47, 30), (33, 33), (20, 60)])
def test_the_formula_of_classifiers(tmp_path: Path, high: int, wide: int) -> None:
    """Resize the shorter side to 24, crop 16x16 from the centre, /255, mean, std, transpose."""
    image = Image.fromarray(picture(tmp_path / "a.png", high, wide))
    size = (int(24 * wide / high), 24) if high <= wide else (24, int(24 * high / wide))
    resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    top, left = round((size[1] - 16) / 2), round((size[0] - 16) / 2)
    cropped = resized[top : top + 16, left : left + 16]
    wanted = ((cropped / 255 - MEAN) / STD).transpose(2, 0, 1)[None]

    (found,) = arrays(tmp_path, "N", 3, 16, 16, size=24, crop=(16, 16), mean=MEAN, std=STD)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    (open_crop,) = arrays(tmp_path, "N", 3, 16, 16, size=24, mean=MEAN, std=STD)
    np.testing.assert_array_equal(open_crop, found)  # the input's size is the crop


@pytest.mark.parametrize(
    ("name", "method"), [("nearest", "NEAREST"), ("bicubic", "BICUBIC"), ("area", "BOX")]
)
def test_stretch_and_resample(tmp_path: Path, name: str, method: str) -> None:
    image = Image.fromarray(picture(tmp_path / "a.png", 30, 47))
    wanted = np.asarray(image.resize((20, 10), Image.Resampling[method])) / 255
    (found,) = arrays(tmp_path, None, None, None, 3, size=(10, 20), resample=name)
    np.testing.assert_allclose(found, wanted[None], rtol=0, atol=1e-6)


def test_letterbox(tmp_path: Path) -> None:
    image = Image.fromarray(picture(tmp_path / "a.png", 30, 45))
    wanted = np.full((32, 32, 3), 7, np.uint8)
    wanted[5:26] = np.asarray(image.resize((32, 21), Image.Resampling.BILINEAR))
    for size in ({}, {"size": 32}, {"size": "32x32"}):
        (found,) = arrays(tmp_path, 1, 32, 32, 3, dtype="uint8", fit="letterbox", fill=7, **size)
        np.testing.assert_array_equal(found[0], wanted)
    picture(tmp_path / "a.png", 45, 30)
    (tall,) = arrays(tmp_path, 1, 32, 32, 3, dtype="uint8", fit="letterbox")
    assert (tall[0, :, 0] == 114).all()
    assert not (tall[0, :, 5] == 114).all()


def test_no_settings_cover_the_input_and_crop(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 16, 40)
    (found,) = arrays(tmp_path, 1, 3, 16, 24)
    np.testing.assert_allclose(found[0], data[:, 8:32].transpose(2, 0, 1) / 255, atol=1e-7)


def test_one_open_side_follows_in_proportion(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 20, 50)
    picture(tmp_path / "b.png", 40, 20)
    assert [item.shape for item in arrays(tmp_path, "N", 3, 32, "W")] == [
        (1, 3, 32, 80),
        (1, 3, 32, 16),
    ]
    assert arrays(tmp_path, "N", "H", 10, 3)[0].shape == (1, 4, 10, 3)


def test_open_sizes_keep_each_image_as_it_is(tmp_path: Path) -> None:
    data = [picture(tmp_path / f"{i}.png", 8 + i, 9, seed=i) for i in range(2)]
    found = arrays(tmp_path, "N", "H", "W", 3, dtype="uint8")
    assert all((item[0] == own).all() for item, own in zip(found, data, strict=True))


# ---------------------------------------------------------------- layout, channels, numbers
def test_layouts_and_channels(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 8, 6)
    first = arrays(tmp_path, 1, 3, 8, 6, dtype="uint8")[0]
    last = arrays(tmp_path, 1, 8, 6, 3, dtype="uint8")[0]
    np.testing.assert_array_equal(last[0], data)
    np.testing.assert_array_equal(first[0], data.transpose(2, 0, 1))
    bgr = arrays(tmp_path, 1, 8, 6, 3, dtype="uint8", channels="BGR")[0]
    np.testing.assert_array_equal(bgr[0], data[..., ::-1])
    alpha = arrays(tmp_path, 8, 6, 4, dtype="uint8")[0]  # no batch axis
    np.testing.assert_array_equal(alpha[..., :3], data)
    assert (alpha[..., 3] == 255).all()
    free = arrays(tmp_path, None, None, None, None, dtype="uint8", layout="NHWC")[0]
    np.testing.assert_array_equal(free[0], data)
    shapeless = [InputSpec("x", None, None)]
    samples = open_samples(tmp_path, shapeless, preprocess={"layout": "NCHW"})
    assert next(iter(samples))["x"].shape == (1, 3, 8, 6)


def test_bgr_means_are_in_that_order_and_scale_1_keeps_the_range(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 8, 6)
    mean = (103.94, 116.78, 123.68)
    (found,) = arrays(tmp_path, 1, 8, 6, 3, channels="BGR", scale=1, mean=mean)
    np.testing.assert_allclose(found[0], data[..., ::-1] - np.array(mean), atol=1e-4)
    (symmetric,) = arrays(tmp_path, 1, 8, 6, 3, scale="1/127.5", mean=1)
    np.testing.assert_allclose(symmetric[0], data / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "uint8"])
def test_kinds_of_numbers(tmp_path: Path, dtype: str) -> None:
    data = picture(tmp_path / "a.png", 8, 6)
    (found,) = arrays(tmp_path, 1, 8, 6, 3, dtype=dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0], data / (255 if dtype.startswith("f") else 1), rtol=1e-3)


# ---------------------------------------------------------------- kinds of files
def save(folder: Path, image: Image.Image, name: str, **options: Any) -> Pixels:
    """Write an image and return it as an RGB input has it."""
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)
    found: Pixels = arrays(folder, "N", "H", "W", 3, dtype="uint8")[0][0]
    return found


def test_kinds_of_images(tmp_path: Path) -> None:
    data = pixels(8, 6)
    color, grey = Image.fromarray(data), Image.fromarray(pixels(8, 6, 1))
    for suffix in ("png", "bmp", "tif", "TIFF", "ppm"):
        np.testing.assert_array_equal(save(tmp_path / suffix, color, f"a.{suffix}"), data)
    for suffix in ("jpg", "jpeg", "webp", "gif"):
        assert save(tmp_path / suffix, color, f"a.{suffix}").shape == (8, 6, 3)
    np.testing.assert_array_equal(
        save(tmp_path / "grey", grey, "a.png"), np.stack([np.asarray(grey)] * 3, -1)
    )
    transparent = Image.fromarray(np.dstack([data, np.zeros((8, 6), np.uint8)]))
    np.testing.assert_array_equal(save(tmp_path / "alpha", transparent, "a.png"), data)
    palette = color.quantize(16)
    colors = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(save(tmp_path / "palette", palette, "a.png"), colors)
    clear = save(tmp_path / "clear", palette, "a.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(clear, colors)
    frames = save(tmp_path / "frames", palette, "a.gif", save_all=True, append_images=[grey])
    assert frames.shape == (8, 6, 3)
    assert save(tmp_path / "print", color.convert("CMYK"), "a.jpg").shape == (8, 6, 3)
    assert set(save(tmp_path / "bits", grey.convert("1"), "a.png").flat) <= {0, 255}


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    grey = pixels(8, 6, 1)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    for suffix in ("png", "tif"):
        np.testing.assert_array_equal(save(tmp_path / suffix, deep, f"a.{suffix}")[..., 0], grey)
    for name, data in (("f.tif", np.ones((8, 6), np.float32)), ("i.tif", -np.ones((8, 6), "i4"))):
        Image.fromarray(data).save(tmp_path / name)
        assert "its pixels have 32 bits" in refused(tmp_path / name, 1, 8, 6, 3)


def test_the_orientation_of_cameras(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = pixels(8, 6)
    found = save(tmp_path / "turned", Image.fromarray(data), "a.png", exif=exif)
    np.testing.assert_array_equal(found, np.rot90(data, -1))


def test_colour_becomes_grey_for_a_grey_model(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 8, 6)
    wanted = np.asarray(Image.fromarray(data).convert("L")) / 255
    np.testing.assert_allclose(arrays(tmp_path, "N", 1, 8, 6)[0][0, 0], wanted, atol=1e-7)


# ---------------------------------------------------------------- folders
def test_natural_order_count_and_one_image(tmp_path: Path) -> None:
    for index in (10, 9, 1):
        picture(tmp_path / f"s{index}.png", index, 6)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "._s1.png").touch()
    samples = open_samples(tmp_path, inputs("N", "H", "W", 3))
    assert [feeds["x"].shape[1] for feeds in samples] == [1, 9, 10]
    assert (samples.count, samples.labels) == (3, None)
    assert arrays(tmp_path / "s9.png", "N", "H", "W", 3)[0].shape == (1, 9, 6, 3)


def test_images_held_out_are_not_read_for_calibration(tmp_path: Path) -> None:
    for index in range(9):
        picture(tmp_path / f"{index}.png", index + 1, 6)
    kept, held_out = split(open_samples(tmp_path, inputs("N", "H", "W", 3)))
    (tmp_path / "3.png").write_text("damaged")
    assert [feeds["x"].shape[1] for feeds in kept] == [1, 2, 3, 5, 6, 7, 9]
    assert [feeds["x"].shape[1] for feeds in split(kept)[1]] == [5]
    with pytest.raises(SamplesError, match=r"3\.png"):
        list(held_out)


def test_a_fixed_batch_takes_images_together(tmp_path: Path) -> None:
    data = [picture(tmp_path / f"{i}" / "a.png", 8, 6, seed=i) for i in range(5)]
    samples = open_samples(tmp_path, inputs(2, 8, 6, 3, dtype="uint8"))
    for index, feeds in enumerate(samples):
        np.testing.assert_array_equal(feeds["x"], data[2 * index : 2 * index + 2])
    assert samples.count == 2
    assert samples.labels is not None
    assert samples.labels.tolist() == [[0, 1], [2, 3]]
    assert "takes 6 images for a sample, here are 5" in refused(tmp_path, 6, 8, 6, 3)
    picture(tmp_path / "0" / "a.png", 9, 6)
    assert "differ in size" in refused(tmp_path, 2, "H", "W", 3)


def classes(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture(folder / name / f"{index}.png", 8, 6, seed=index)
    return folder


def model_of(outputs: str) -> ir.Model:
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,8,6,3] x) '
        f"=> (float[{outputs}] y) {{ y = ReduceMean (x) }}"
    )


def opened(folder: Path, outputs: str, limit: int | None = None) -> Samples:
    specs = inputs("N", 8, 6, 3)
    return open_samples(folder, specs, limit=limit, model=model_of(outputs))


def test_folders_by_class_are_labels(tmp_path: Path) -> None:
    samples = opened(classes(tmp_path, dog=3, b10=1, b9=0, cat=4), "N,4")
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, *[2] * 4, *[3] * 3]
    assert (samples.count, len(list(samples))) == (8, 8)
    assert "labels of 4 classes" in samples.note
    held_out = split(samples)[1].labels
    assert held_out is not None
    assert held_out.tolist() == [2, 3]


def test_few_samples_come_from_all_classes(tmp_path: Path) -> None:
    samples = opened(classes(tmp_path, a=4, b=4, c=8), "N,3", limit=4)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 2]
    assert (samples.count, len(list(samples))) == (4, 4)


@pytest.mark.parametrize("outputs", ["N,1000", "N,K", "N,3,3", "N"])
def test_folders_that_are_not_the_models_classes_are_no_labels(
    tmp_path: Path, outputs: str
) -> None:
    samples = opened(classes(tmp_path, a=1, b=1, c=1), outputs)
    assert samples.labels is None
    assert "3 folders are no labels" in samples.note


def test_what_is_done_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 6)

    def note(*shape: int | str, dtype: str = "float32", **given: Any) -> str:
        return open_samples(tmp_path, inputs(*shape, dtype=dtype), preprocess=given).note

    assert note(1, 3, 5, 5, size=6, mean=0.5) == (
        "images: shorter-side to 6, centre crop 5x5, RGB, channels first, scale 1/255, mean 0.5"
    )
    assert note("N", "H", "W", 1, dtype="uint8") == (
        "images: each in its own size, L, channels last, pixels as they are"
    )
    assert "stretch to 5x4, BGR, channels first, scale 2, no mean" in note(
        1, 3, 5, 4, size="5x4", channels="BGR", scale=2
    )


# ---------------------------------------------------------------- what does not fit
@pytest.mark.parametrize(
    ("shape", "given", "part"),
    [
        ((1, 3, 8, 6), {"mean": (0.5, 0.5)}, "mean (--image-mean) has 2 numbers, RGB has 3"),
        ((1, 1, 8, 6), {"std": (1, 1, 1)}, "std (--image-std) has 3 numbers, L has 1"),
        ((1, 3, 8, 6), {"mean": (123.7, 116.3, 103.5)}, "pass --image-scale 1"),
        ((1, 8, 6, 7), {}, "pass --image-layout"),
        ((1, 3, 8, 3), {}, "pass --image-layout"),
        (("N", "C", "H", "W"), {}, "pass --image-layout"),
        ((1, 7, 8, 6), {"layout": "NCHW"}, "7 channels"),
        ((1, 3, 8, 6), {"layout": "NCHW", "channels": "L"}, "--image-channels"),
        ((1, 48), {}, "an image has 3 axes"),
        ((1, 3, "H", "W"), {"fit": "letterbox"}, "pass --image-size"),
        ((1, 3, "H", "W"), {"crop": 9}, "8x6 before a centre crop of 9x9"),
        ((1, 3, 5, 5), {"size": "4x4"}, 'input "x" wants float32[1,3,5,5]'),
    ],
)
def test_what_does_not_follow_is_asked_for(
    tmp_path: Path, shape: tuple[int | str, ...], given: dict[str, Any], part: str
) -> None:
    picture(tmp_path / "a.png", 8, 6)
    assert part in refused(tmp_path, *shape, **given)


def test_integers_take_no_arithmetic(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 6)
    for name, value in (("mean", 0.5), ("std", 0.5), ("scale", 0.1)):
        assert f"leave --image-{name} out" in refused(
            tmp_path, 1, 8, 6, 3, dtype="uint8", **{name: value}
        )
    assert arrays(tmp_path, 1, 8, 6, 3, dtype="uint8", scale=1)
    picture(tmp_path / "a.png", 8, 60)
    assert "does not fit" in refused(tmp_path, 1, 8, 60, 3, dtype="int8")
    assert "wants bool" in refused(tmp_path, 1, 8, 6, 3, dtype="bool")


def test_damaged_images_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 40, 40)
    whole = (tmp_path / "1.png").read_bytes()
    for name, data in (("2.png", whole[:900]), ("2.png", b"text"), ("2.jpg", b"")):
        (tmp_path / name).write_bytes(data)
        samples = open_samples(tmp_path, inputs("N", "H", "W", 3))
        with pytest.raises(SamplesError) as caught:
            list(samples)
        assert f"cannot read {tmp_path / name}: " in str(caught.value)
        assert str(caught.value).count(name) == 1
        (tmp_path / name).unlink()


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", 8, 6)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install 'onnxcomp[images]'" in refused(tmp_path, 1, 8, 6, 3)


def test_folders_of_two_kinds(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 6)
    picture(tmp_path / "cats" / "b.png", 8, 6)
    assert "holds a.png and the images of cats/" in refused(tmp_path, 1, 8, 6, 3)
    (tmp_path / "cats" / "b.png").unlink()
    np.save(tmp_path / "c.npy", np.zeros((1, 8, 6, 3), np.float32))
    assert "holds c.npy and a.png" in refused(tmp_path, 1, 8, 6, 3)
    with pytest.raises(SamplesError, match="holds images, which fit a model of one input"):
        open_samples(tmp_path / "a.png", inputs(1, 8, 6, 3) * 2)


@pytest.mark.parametrize("given", [{"mean": 0.5}, {"size": 8}])
def test_only_images_are_preprocessed(tmp_path: Path, given: dict[str, Any]) -> None:
    data = np.zeros((4, 8, 6, 3), np.float32)
    np.save(tmp_path / "a.npy", data)
    for source in (tmp_path, tmp_path / "a.npy", data, lambda: [data]):
        with pytest.raises(SamplesError, match=r"these samples are no images .* leave"):
            open_samples(source, inputs(4, 8, 6, 3), preprocess=given)
        assert open_samples(source, inputs(4, 8, 6, 3), preprocess={})


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no 'sise'"):
        open_samples(tmp_path, [], preprocess={"sise": 3})
