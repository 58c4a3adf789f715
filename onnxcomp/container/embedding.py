"""Weights of other files put into the model, so that it is one message."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from onnxcomp.container.damage import DamageError
from onnxcomp.container.wire import BITS

if TYPE_CHECKING:
    import onnx

EXTERNAL = 1


def with_weights(model: bytes, files: dict[str, bytes]) -> bytes:
    """Return a model's bytes with the weights of its data files inside."""
    import onnx

    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf raises several types
        raise DamageError("the model in it does not decode") from error
    for tensor in _tensors(proto):
        if tensor.data_location != EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        data = files.get(PurePosixPath(place.get("location", "")).as_posix(), b"")
        values = math.prod(tensor.dims)
        try:
            start = int(place.get("offset") or 0)
            size = int(place.get("length") or -(-values * BITS.get(tensor.data_type, 8) // 8))
        except ValueError as error:
            raise DamageError(f"the place of {tensor.name} is not a number") from error
        if start < 0 or not start <= (end := start + size) <= len(data):
            raise DamageError(f"the weights of {tensor.name} are not in it")
        tensor.raw_data = data[start:end]
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    return bytes(proto.SerializeToString(deterministic=True))


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield every TensorProto of a message, however deep."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            yield from _tensors(inner)
