"""Recipes: presets, TOML in and out, edits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcomp.api import make_recipe
from onnxcomp.errors import OnnxcompError, RecipeError, UsageError
from onnxcomp.presets import PRESETS
from onnxcomp.recipe import Recipe, Step
from onnxcomp.recipe_file import load_recipe
from onnxcomp.settings import SCHEMES


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load(name: str) -> None:
    assert tuple(step.name for step in load_recipe(name).steps) == PRESETS[name]


@given(
    seed=st.integers(0, 2**40),
    samples=st.none() | st.integers(1, 1000),
    max_drop=st.none() | st.floats(0, 1),
    calib=st.none() | st.text(min_size=1),
    verify=st.booleans(),
    growth=st.integers(0, 2**30),
)
def test_a_printed_recipe_reads_back_to_itself(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    samples: int | None,
    max_drop: float | None,
    calib: str | None,
    verify: bool,
    growth: int,
) -> None:
    recipe = Recipe(
        steps=(Step("fold-constants", {"max_growth": growth}), Step("eliminate-identity")),
        seed=seed,
        samples=samples,
        max_drop=max_drop,
        calib=calib,
        verify=verify,
    )
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed = ", "not valid TOML"),
        ("speed = 3", "unknown setting 'speed'"),
        ('seed = "x"', "seed must be int"),
        ("seed = true", "seed must be int"),
        ("[[step]]\nratio = 1", "without `pass"),
        ("step = 3", "written as"),
        ('[[step]]\npass = "nope"', "there is no pass 'nope'"),
        ('[[step]]\npass = "fold-constants"\nsize = 1', "has no option 'size'"),
        ('target = "toaster"', "there is no target"),
        ("samples = 0", "at least 1"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(OnnxcompError, match=reason):
        load_recipe(str(path))


def test_a_missing_file_and_an_unknown_name_are_explained() -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe("nowhere.toml")
    with pytest.raises(RecipeError, match="choose from lossless"):
        load_recipe("fastest")


def test_options_edit_the_recipe() -> None:
    names = [step.name for step in make_recipe(skip=["fold-constants"]).steps]
    assert "fold-constants" not in names
    assert len(names) == len(PRESETS["lossless"]) - 1
    assert [s.name for s in make_recipe(select=["eliminate_identity"]).steps] == [
        "eliminate-identity"
    ]
    assert make_recipe(int8=True).schemes == make_recipe("none", int8=True).schemes == SCHEMES
    assert make_recipe(int8=True, schemes=["static", "static"]).schemes == ("static",)
    assert make_recipe(int8=True, exclude=["a*", "b"]).exclude == ("a*", "b")
    assert make_recipe(int8=True, skip=["equalize_channels"]).skip == ("equalize-channels",)


def test_contradictions_are_refused() -> None:
    with pytest.raises(UsageError, match="does not run it"):
        make_recipe(skip=["quantize-static"])
    with pytest.raises(UsageError, match="does not run"):
        make_recipe(exclude=["a"])
    with pytest.raises(RecipeError, match="choose from static"):
        make_recipe(schemes=["fastest"])
