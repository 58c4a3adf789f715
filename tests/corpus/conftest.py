"""Real models that their owners ship, with data: the folder that ONNXCOMP_CORPUS names."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

CORPUS = os.environ.get("ONNXCOMP_CORPUS", "")
REASON = (
    "set ONNXCOMP_CORPUS to a folder with models/*.onnx and a corpus_eval.py that defines TASKS"
)


def corpus_models() -> list[Path]:
    """Return the models of the corpus; none without one."""
    if not CORPUS or not (Path(CORPUS) / "corpus_eval.py").is_file():
        return []
    return sorted((Path(CORPUS) / "models").glob("*.onnx"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder's tests, saying why, where there is no corpus."""
    if CORPUS and not corpus_models():
        raise pytest.UsageError(f"ONNXCOMP_CORPUS={CORPUS}: no corpus_eval.py and models there")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.corpus)
            if not CORPUS:
                item.add_marker(pytest.mark.skip(reason=REASON))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test once per model."""
    if "source" in metafunc.fixturenames:
        models: list[object] = list(corpus_models()) or [pytest.param(None, id="no corpus")]
        metafunc.parametrize(
            "source", models, ids=lambda path: path.stem if isinstance(path, Path) else None
        )


@pytest.fixture
def samples_spec(source: Path, tmp_path: Path) -> str:
    """Return a --calib SPEC that streams the corpus's own calibration samples."""
    script = tmp_path / "corpus_samples.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {CORPUS!r})\nfrom corpus_eval import TASKS\n"
        f"def feeds():\n    return TASKS[{source.stem!r}].calib()\n"
    )
    return f"{script}:feeds"


@pytest.fixture
def task(source: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the corpus's task of a model: `calib()` and `evaluate(infer) -> metrics`."""
    monkeypatch.syspath_prepend(CORPUS)
    return importlib.import_module("corpus_eval").TASKS[source.stem]
