"""What a model is and costs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxcomp.calibration.checks import is_fixed
from onnxcomp.calibration.synthetic import first_runs, random_feeds
from onnxcomp.container.reading import is_container
from onnxcomp.cost import ModelCost, concrete_shapes, one_sample, total_cost
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, opset_version
from onnxcomp.interface import fix_shapes
from onnxcomp.layers import Layer, list_layers
from onnxcomp.lint.finding import Finding
from onnxcomp.lint.rules import lint
from onnxcomp.model_io import (
    AS_READ,
    AsRead,
    ModelSource,
    external_tensors,
    load_model,
)
from onnxcomp.runtime import InputSpec, Session, input_specs, value_spec
from onnxcomp.settings import make_shapes
from onnxcomp.stages import stage
from onnxcomp.targets import find_target


@dataclass(frozen=True)
class Summary:
    """What a model is and costs; `counted_at` are the input shapes that its MACs are for."""

    path: str | None
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    counted_at: Mapping[str, tuple[int, ...]]
    opset: int
    ir_version: int
    producer: str
    cost: ModelCost
    layers: tuple[Layer, ...]
    lint: tuple[Finding, ...]
    metadata: Mapping[str, str]

    def to_dict(self, *, layers: bool = True) -> dict[str, Any]:
        """Return the summary as JSON data, with or without the list of layers."""
        return {
            "schema": 1,
            "path": self.path,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "producer": self.producer,
            "inputs": [_spec_dict(spec) for spec in self.inputs],
            "outputs": [_spec_dict(spec) for spec in self.outputs],
            "nodes": self.cost.nodes,
            "bytes": self.cost.bytes,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "macs_at": {name: list(shape) for name, shape in self.counted_at.items()},
            "ops": dict(self.cost.ops),
            **({"layers": [layer.to_dict() for layer in self.layers]} if layers else {}),
            "lint": [finding.to_dict() for finding in self.lint],
            "metadata": dict(self.metadata),
        }


def _spec_dict(spec: InputSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "type": None if spec.dtype is None else str(spec.dtype),
        "shape": None if spec.shape is None else list(spec.shape),
    }


def inspect(
    model: ModelSource,
    *,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    target: str = "auto",
) -> Summary:
    """Return what a model is: inputs, outputs, operators, layers, MACs, bytes and findings.

    MACs are counted at the declared shapes, or those of `shapes`; open dims get the first size at
    which the model runs. Findings about speed are for `target`.
    """
    machine = find_target(target)
    path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    packed = path is not None and is_container(path)
    stage("loading")
    loaded = load_model(model)
    stage("counting")
    subject = fix_shapes(loaded, make_shapes(shapes)) if shapes else loaded
    feeds = _any_feeds(subject, None if shapes or packed else path)
    concrete = concrete_shapes(subject, feeds)
    layers = list_layers(subject, concrete)
    external = any(True for _ in external_tensors(loaded))
    size = None if path is None or external or packed else Path(path).stat().st_size
    read = loaded.meta.get(AS_READ)
    return Summary(
        path=path,
        inputs=tuple(input_specs(subject)),
        outputs=tuple(value_spec(value) for value in subject.graph.outputs),
        counted_at={} if feeds is None else _shapes(one_sample(subject, feeds)),
        opset=opset_version(loaded),
        ir_version=read.ir_version if isinstance(read, AsRead) else loaded.ir_version or 0,
        producer=" ".join(filter(None, [loaded.producer_name, loaded.producer_version])),
        cost=total_cost(loaded, sum(layer.macs for layer in layers), size),
        layers=layers,
        lint=lint(subject, concrete, layers, machine),
        metadata=dict(loaded.metadata_props),
    )


def _any_feeds(model: ir.Model, file: str | None) -> Mapping[str, Array] | None:
    """Return feeds for their shapes; a model without open dims need not run for it.

    `file` holds the very model, where there is one: then ONNX Runtime reads it itself.
    """
    if all(is_fixed(dim) for spec in input_specs(model) for dim in spec.shape or (None,)):
        return next(random_feeds(model, 1))
    session = None
    if file is not None:
        with contextlib.suppress(ModelError):  # such as weights behind symbolic links
            session = Session(file)
    try:
        return first_runs(model, 1, session=session).feeds[0]
    except ModelError:
        return None


def _shapes(feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: data.shape for name, data in feeds.items()}
