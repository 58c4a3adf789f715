"""The public face: what is exported, what the verbs accept, and that imports go one way."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import click
import pytest

import onnxcomp
from onnxcomp import api
from onnxcomp.cli import cli

PACKAGE = Path(onnxcomp.__file__).parent
OUTPUT_ONLY = {"output", "as_json", "dry_run", "print_recipe", "quiet", "verbose"} | {
    *("diff", "layers", "save_recipe", "sort", "tensorrt", "top"),
}
# What only Python can give, and what a verb writes.
PYTHON_ONLY = {"say", "progress", "executor"}
SPELLING = {"eval_": "eval", "no_verify": "verify", "shape": "shapes"}


def test_every_export_exists_and_is_documented() -> None:
    for name in onnxcomp.__all__:
        assert inspect.getdoc(getattr(onnxcomp, name)), name
    with pytest.raises(AttributeError):
        _ = onnxcomp.nothing


@pytest.mark.parametrize("verb", ["optimize", "calibrate", "compare", "inspect", "pack", "unpack"])
def test_a_verb_and_its_twin_take_the_same_options(verb: str) -> None:
    command = cli.commands[verb]
    options = {p.name or "" for p in command.params if isinstance(p, click.Option)} - OUTPUT_ONLY
    options = {"preprocess" if name.startswith("image_") else name for name in options}
    twin = inspect.signature(getattr(api, verb)).parameters.values()
    keywords = {p.name for p in twin if p.kind is inspect.Parameter.KEYWORD_ONLY}
    written = {"ranges"} if verb == "calibrate" else set()  # its -o
    assert {SPELLING.get(name, name) for name in options} == keywords - PYTHON_ONLY - written


def imports_of(path: Path) -> set[str]:
    """Return the modules of this package that a file imports at module level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onnxcomp"):
            found.add(node.module or "")
    return found


def modules() -> dict[str, set[str]]:
    return {
        ".".join(("onnxcomp", *path.relative_to(PACKAGE).with_suffix("").parts)): imports_of(path)
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }


def test_there_is_no_import_cycle() -> None:
    graph = modules()
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_no_pass_imports_another_and_none_sees_the_pipeline() -> None:
    above = {"cli", "api", "run", "pipeline", "recipe", "acceptance", "report", "table", "verify"}
    for name, imported in modules().items():
        if not name.startswith("onnxcomp.passes."):
            continue
        for other in imported:
            last = other.rpartition(".")[2]
            assert not (other.startswith("onnxcomp.passes.") and not last.startswith("_")), name
            assert last not in above, f"{name} imports {other}"
