"""Runs of the command line on real models, and what is read of their results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner

from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.cli import cli
from onnxcomp.graph import Array
from onnxcomp.model_io import load_model
from onnxcomp.runtime import input_specs


def optimize(*arguments: object) -> dict[str, Any]:
    command = ["optimize", *(str(argument) for argument in arguments), "--json"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["schema"] == 1
    return found


def interface(path: Path) -> list[tuple[str, str]]:
    proto = onnx.load(path, load_external_data=False)
    initializers = {item.name for item in proto.graph.initializer}
    values = [v for v in proto.graph.input if v.name not in initializers]
    metadata = [(prop.key, prop.value) for prop in proto.metadata_props]
    return [(v.name, str(v.type)) for v in (*values, *proto.graph.output)] + metadata


def real_and_random(source: Path, spec: str, count: int) -> Iterator[Mapping[str, Array]]:
    model = load_model(source)
    yield from runnable_feeds(model, 2)
    yield from itertools.islice(open_samples(spec, input_specs(model)), count)
