"""Settings of preprocessing in Python, in recipes and as flags, to the end of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import onnxcomp
from onnxcomp import api
from onnxcomp.api import make_recipe
from onnxcomp.calibration.preprocess import CHANNELS, FITS, RESAMPLES, Preprocess, make_preprocess
from onnxcomp.cli import cli
from onnxcomp.errors import RecipeError, SamplesError, UsageError
from onnxcomp.recipe_file import load_recipe

MODELS = Path(__file__).parent.parent / "models"
CNN = MODELS / "digits_cnn.onnx"
DIGITS = MODELS / "digits.npz"

sides = st.integers(1, 4000)
numbers = st.floats(-300, 300).filter(bool)


@given(
    size=st.none() | sides | st.tuples(sides, sides),
    crop=st.none() | st.tuples(sides, sides),
    fit=st.none() | st.sampled_from(FITS),
    fill=st.integers(0, 255),
    resample=st.sampled_from(RESAMPLES),
    scale=st.none() | numbers,
    mean=st.lists(numbers, max_size=4).map(tuple),
    channels=st.none() | st.sampled_from(sorted(CHANNELS)),
)
def test_a_printed_recipe_reads_back_to_itself(
    tmp_path_factory: pytest.TempPathFactory, **settings: Any
) -> None:
    settings = {name: value for name, value in settings.items() if value != ()}
    recipe = make_recipe(preprocess=settings, samples=3)
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
    assert json.loads(json.dumps(recipe.to_dict()))["preprocess"] == json.loads(
        json.dumps(recipe.preprocess and recipe.preprocess.to_dict())
    )


def test_flags_and_values_are_the_same() -> None:
    flags = {"size": "256x128", "crop": "224", "scale": "1/255", "mean": "0.5, 1,-2", "std": "2"}
    assert make_preprocess(flags) == Preprocess(
        size=(256, 128), crop=(224, 224), scale=1 / 255, mean=(0.5, 1.0, -2.0), std=(2.0,)
    )
    lists: dict[str, Any] = {"size": [256, 128], "mean": np.array([0.5, 1]), "std": [1, 2]}
    assert make_preprocess(lists) == Preprocess(size=(256, 128), mean=(0.5, 1.0), std=(1.0, 2.0))
    assert make_preprocess({"size": "64"}) == make_preprocess({"size": 64}) == Preprocess(size=64)


def test_flags_edit_a_recipe_and_an_object_replaces_it() -> None:
    recipe = make_recipe(preprocess={"size": 256, "mean": 0.5})
    assert make_recipe(recipe, preprocess={"size": 64}).preprocess == Preprocess(64, mean=(0.5,))
    assert make_recipe(recipe, preprocess=Preprocess(64)).preprocess == Preprocess(64)
    assert make_recipe(recipe).preprocess == recipe.preprocess
    assert make_recipe().preprocess is None
    assert onnxcomp.Preprocess is Preprocess


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ("preprocess = 3", r"\[preprocess\] is a table"),
        ("[preprocess]\nsise = 3", "has no 'sise'; known: size, crop, fit"),
        ("[preprocess]\nsize = 0", r"size \(--image-size\) must be a side in pixels"),
        ("[preprocess]\nsize = [1, 2, 3]", "must be a side"),
        ("[preprocess]\nsize = true", "must be a side"),
        ("[preprocess]\nsize = 2.5", "must be a side"),
        ('[preprocess]\ncrop = "12by4"', r"crop \(--image-crop\) must be"),
        ('[preprocess]\nfit = "zoom"', r"\(--image-fit\) must be one of stretch, shorter-side"),
        ("[preprocess]\nfill = 256", "fill must be a grey value"),
        ('[preprocess]\nresample = "sinc"', "must be one of bilinear"),
        ("[preprocess]\nscale = 0", r"\(--image-scale\) must be one number other than 0"),
        ('[preprocess]\nscale = "1/0"', "must be one number"),
        ('[preprocess]\nmean = [0.5, "x"]', r"\(--image-mean\) must be one number, or one for"),
        ("[preprocess]\nmean = [true]", "must be one number"),
        ("[preprocess]\nmean = [nan]", "must be one number"),
        ("[preprocess]\nstd = [1, 0]", r"\(--image-std\) divides"),
        ('[preprocess]\nlayout = "CHWN"', "must be one of auto, NCHW, NHWC"),
        ('[preprocess]\nchannels = "CMYK"', "must be one of L, RGB, BGR, RGBA"),
    ],
)
def test_a_bad_table_is_explained(tmp_path: Path, table: str, part: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(table)
    with pytest.raises(RecipeError, match=part) as caught:
        load_recipe(str(path))
    assert str(caught.value).startswith(str(path))


# ---------------------------------------------------------------- the command line
@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits that models/ has as an .npz, as a folder of PNGs for each class."""
    folder = tmp_path_factory.mktemp("digits")
    with np.load(DIGITS) as data:
        for index, (image, label) in enumerate(zip(data["image"], data["labels"], strict=True)):
            path = folder / str(label) / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.round(image[0] * 255).astype(np.uint8)).save(path)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_optimize_takes_a_folder_by_class(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    result = run("optimize", CNN, "--int8", "--calib", digits, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["metric"]["before"] > 0.98
    assert report["metric"]["before"] - report["metric"]["after"] <= 0.01
    assert result.stderr == (
        "images: shorter-side to 8x8, centre crop 8x8, L, channels first, scale 1/255, "
        "no mean or std; labels of 10 classes by folder\n"
    )


FLAGS = ("--image-size", "8x8", "--image-scale", "1/255", "--image-channels", "L",
         "--image-layout", "NCHW", "--image-fit", "letterbox", "--image-crop", "8",
         "--image-mean", "-0.5", "--image-std", "2")  # fmt: skip


def test_a_recipe_repeats_the_flags(digits: Path, tmp_path: Path) -> None:
    arguments = ("--int8", "--calib", digits, "--samples", "40", *FLAGS)
    printed = run("optimize", CNN, *arguments, "--print-recipe")
    assert printed.exit_code == 0, printed.output
    assert "\n[preprocess]\nsize = [8, 8]\ncrop = [8, 8]\nfit = " in printed.stdout
    recipe = tmp_path / "r.toml"
    recipe.write_text(printed.stdout)
    again = run("optimize", CNN, "--recipe", recipe, "--print-recipe")
    assert again.stdout == printed.stdout


def test_calibrate_is_the_same_in_python_and_on_the_command_line(
    digits: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    result = run("calibrate", CNN, "--calib", digits, "--samples", "40", *FLAGS, "-o", path)
    assert result.exit_code == 0, result.output
    assert "letterbox to 8x8" in result.stderr
    keys = (flag.removeprefix("--image-") for flag in FLAGS[::2])
    settings = dict(zip(keys, FLAGS[1::2], strict=True))
    ranges = api.calibrate(CNN, calib=digits, samples=40, preprocess=settings)
    assert ranges.to_json() == path.read_text()
    widest = api.calibrate(
        CNN, calib=digits, samples=40, preprocess=settings, calib_method="minmax"
    )
    assert widest.values["image"].lo == pytest.approx(0.25)  # (0 + 0.5) / 2


def test_a_ranges_file_is_of_one_preprocessing(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    data = ("--calib", digits, "--samples", "8", "--workers", "1")
    again = ("calibrate", CNN, *data, "--calib-method", "minmax", "-o", path)
    assert "nothing to calibrate" not in run(*again).stderr
    assert "nothing to calibrate" in run(*again).stderr
    assert "nothing to calibrate" not in run(*again, "--image-mean", "0.5").stderr
    assert onnxcomp.read_ranges(path).values["image"].lo == -0.5


def test_compare_takes_images(digits: Path) -> None:
    arguments = ("--calib", digits, "--samples", "3", "--image-channels", "L", "--json")
    result = run("compare", CNN, CNN, *arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["passed"] is True


@pytest.mark.parametrize("verb", ["optimize", "calibrate", "compare"])
@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--image-mean", "0.5,0.5"), "mean (--image-mean) has 2 numbers, L has 1"),
        (("--image-mean", "a"), "mean (--image-mean) must be one number"),
        (("--image-channels", "RGB"), "it has 1 channel(s), RGB has 3"),
        (("--image-size", "9x9"), "wants float32[N,1,8,8], the sample has float32[1,1,9,9]"),
        (("--image-size", "4"), "4x4 before a centre crop of 8x8: pass a larger --image-size"),
        (("--calib", DIGITS, "--image-std", "2"), "these samples are no images"),
        (("--calib", "random", "--image-std", "2"), "these samples are no images"),
    ],
)
def test_errors_are_one_line(
    digits: Path, tmp_path: Path, verb: str, flags: tuple[object, ...], part: str
) -> None:
    first = {"optimize": (CNN, "--int8"), "compare": (CNN, CNN)}.get(verb, (CNN,))
    output = () if verb == "compare" else ("-o", tmp_path / "o")
    result = run(verb, *first, "--calib", digits, *flags, *output)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr
    assert not (tmp_path / "o").exists()


def test_settings_without_images_are_refused() -> None:
    with pytest.raises(UsageError, match="pass --calib DIR"):
        onnxcomp.optimize(CNN, preprocess={"mean": 0.5})
    with pytest.raises(SamplesError, match="no images"):
        onnxcomp.compare(CNN, CNN, preprocess={"mean": 0.5})
