"""A transformer of any size with random weights, written weight by weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ALIGN = 4096


def write_transformer(path: Path, *, width: int, layers: int, words: int, opset: int = 21) -> int:
    """Write a model of token ids [N, S] to states [N, S, width]; return the bytes of its weights.

    Each layer is attention of one head and a feed-forward net of four times the width. Weights go
    to `<name>.data`, none is in memory but the one that is written.
    """
    tensors: list[onnx.TensorProto] = []
    rng = np.random.default_rng(0)
    with path.with_name(f"{path.name}.data").open("wb") as data:

        def weight(name: str, *shape: int) -> str:
            values = rng.standard_normal(shape, dtype=np.float32)
            values *= np.float32(shape[0] ** -0.5)
            data.write(b"\0" * (-data.tell() % ALIGN))
            tensors.append(_external(name, shape, f"{path.name}.data", data.tell(), values.nbytes))
            data.write(values)
            return name

        nodes = [helper.make_node("Gather", [weight("words", words, width), "ids"], ["h0"])]
        for layer in range(layers):
            nodes += _layer(layer, width, weight)
        size = data.tell()
    x = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])
    y = helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, ["N", "S", width])
    graph = helper.make_graph(nodes, "transformer", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return size


def _external(
    name: str, shape: tuple[int, ...], file: str, offset: int, length: int
) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, item in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(item))
    return tensor


def _layer(layer: int, width: int, weight) -> list[onnx.NodeProto]:  # type: ignore[no-untyped-def]
    h, p = f"h{layer}", f"l{layer}."
    make = helper.make_node
    nodes = [
        make("MatMul", [h, weight(f"{p}{name}", width, width)], [f"{p}{name}.y"]) for name in "qkv"
    ]
    nodes += [
        make("Transpose", [f"{p}k.y"], [f"{p}kt"], perm=[0, 2, 1]),
        make("MatMul", [f"{p}q.y", f"{p}kt"], [f"{p}scores"]),
        make("Softmax", [f"{p}scores"], [f"{p}shares"]),
        make("MatMul", [f"{p}shares", f"{p}v.y"], [f"{p}mixed"]),
        make("MatMul", [f"{p}mixed", weight(f"{p}o", width, width)], [f"{p}o.y"]),
        make("Add", [h, f"{p}o.y"], [f"{p}a"]),
        make("MatMul", [f"{p}a", weight(f"{p}up", width, 4 * width)], [f"{p}up.y"]),
        make("Relu", [f"{p}up.y"], [f"{p}relu"]),
        make("MatMul", [f"{p}relu", weight(f"{p}down", 4 * width, width)], [f"{p}down.y"]),
        make("Add", [f"{p}a", f"{p}down.y"], [f"h{layer + 1}"]),
    ]
    return nodes
