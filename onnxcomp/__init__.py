"""Smaller and faster ONNX models without training, proven to answer the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxcomp.deferred import defer_sympy

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "ContractError",
    "Effect",
    "ModelError",
    "OnnxcompError",
    "Packed",
    "Preprocess",
    "Range",
    "Ranges",
    "Recipe",
    "RecipeError",
    "Report",
    "Result",
    "SamplesError",
    "Step",
    "Summary",
    "Unpacked",
    "UsageError",
    "as_ir_pass",
    "calibrate",
    "compare",
    "inspect",
    "leave",
    "list_passes",
    "load",
    "load_recipe",
    "open_samples",
    "optimize",
    "pack",
    "read_ranges",
    "register",
    "unpack",
]

# Imported when first used: `import onnxcomp` and `onnxcomp --help` stay fast.
_HOMES = {
    "onnxcomp.api": ("Comparison", "Summary", "calibrate", "compare", "inspect", "optimize"),
    "onnxcomp.calibration.preprocess": ("Preprocess",),
    "onnxcomp.calibration.ranges": ("Range", "Ranges", "read_ranges"),
    "onnxcomp.calibration.samples": ("open_samples",),
    "onnxcomp.container.packed": ("Packed", "Unpacked"),
    "onnxcomp.container.packing": ("pack",),
    "onnxcomp.container.reading": ("load",),
    "onnxcomp.container.unpacking": ("unpack",),
    "onnxcomp.errors": (
        "ContractError",
        "ModelError",
        "OnnxcompError",
        "RecipeError",
        "SamplesError",
        "UsageError",
    ),
    "onnxcomp.recipe": ("Recipe", "Step"),
    "onnxcomp.recipe_file": ("load_recipe",),
    "onnxcomp.registry": ("Effect", "as_ir_pass", "leave", "list_passes", "register"),
    "onnxcomp.report": ("Report",),
    "onnxcomp.run": ("Result",),
}
defer_sympy()
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from onnxcomp.api import Comparison, Summary, calibrate, compare, inspect, optimize
    from onnxcomp.calibration.preprocess import Preprocess
    from onnxcomp.calibration.ranges import Range, Ranges, read_ranges
    from onnxcomp.calibration.samples import open_samples
    from onnxcomp.container.packed import Packed, Unpacked
    from onnxcomp.container.packing import pack
    from onnxcomp.container.reading import load
    from onnxcomp.container.unpacking import unpack
    from onnxcomp.errors import (
        ContractError,
        ModelError,
        OnnxcompError,
        RecipeError,
        SamplesError,
        UsageError,
    )
    from onnxcomp.recipe import Recipe, Step
    from onnxcomp.recipe_file import load_recipe
    from onnxcomp.registry import Effect, as_ir_pass, leave, list_passes, register
    from onnxcomp.report import Report
    from onnxcomp.run import Result


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'onnxcomp' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
