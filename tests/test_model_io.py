"""Models in and out: external data, links, limits, atomic writes, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.model_io import (
    check_writable,
    default_output,
    external_tensors,
    load_model,
    model_bytes,
    save_model,
)
from onnxcomp.runtime import Session

NET = "g (float[1,64] x) => (float[1,64] y) <float[64,64] w> { y = MatMul (x, w) }"
FEEDS = {"x": np.ones((1, 64), np.float32)}


def save_external(folder: Path) -> Path:
    path = folder / "model.onnx"
    ir.save(parse(NET, 17), path, external_data="model.onnx.data", size_threshold_bytes=16)
    return path


def answer(model: ir.Model) -> np.ndarray:
    return Session(model).run(FEEDS)["y"]


def test_external_data_is_read_lazily_and_written_back_as_external(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    model = load_model(path)
    assert [value.name for value, _ in external_tensors(model)] == ["w"]
    out = tmp_path / "out" / "o.onnx"
    out.parent.mkdir()
    size = save_model(model, out, external=True)
    assert sorted(file.name for file in out.parent.iterdir()) == ["o.onnx", "o.onnx.data"]
    assert size == sum(file.stat().st_size for file in out.parent.iterdir())
    np.testing.assert_array_equal(answer(load_model(out)), answer(model))


def test_links_as_in_a_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path = save_external(blobs)
    (blobs / "model.onnx").rename(blobs / "1f")
    (blobs / "model.onnx.data").rename(blobs / "2e")
    (snapshot / "model.onnx").symlink_to("../../blobs/1f")
    (snapshot / "model.onnx.data").symlink_to("../../blobs/2e")
    assert not path.exists()
    np.testing.assert_array_equal(
        answer(load_model(snapshot / "model.onnx")), answer(parse(NET, 17))
    )


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "C:\\x", ""])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = save_external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(path)


def test_missing_and_short_weights_are_refused(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match="too short for w"):
        load_model(path)
    data.unlink()
    with pytest.raises(ModelError, match=r"model\.onnx\.data is missing"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12\x00", b"PK\x03\x04"])
def test_what_is_not_a_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_model(path)


def test_truncation_at_any_byte_is_refused_or_whole(tmp_path: Path) -> None:
    data = ir.to_proto(parse(NET, 17)).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(0, len(data) - 1, 997):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_model(path)


def test_given_objects_are_never_changed() -> None:
    model = parse(NET, 17)
    proto = ir.to_proto(model)
    before = proto.SerializeToString(deterministic=True)
    for source in (model, proto):
        loaded = load_model(source)
        loaded.graph.inputs[0].name = "z"
        loaded.graph.remove(list(loaded.graph))
    assert proto.SerializeToString(deterministic=True) == before
    assert model.graph.inputs[0].name == "x"


def test_initializers_listed_as_inputs_become_constants() -> None:
    model = parse(NET, 17)
    model.graph.inputs.append(model.graph.initializers["w"])
    model.ir_version = 3
    loaded = load_model(model)
    assert [value.name for value in loaded.graph.inputs] == ["x"]
    assert loaded.ir_version == 4


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o.onnx"
    out.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ModelError, match="No space left"):
        save_model(parse(NET, 17), out)
    assert [file.name for file in tmp_path.iterdir()] == ["o.onnx"]
    assert out.read_bytes() == b"old"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    save_model(parse(NET, 17), first)
    save_model(parse(NET, 17), second)
    assert first.read_bytes() == second.read_bytes()
    assert model_bytes(parse(NET, 17)) == first.stat().st_size


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for out, reason in [
        (source, "is the input"),
        (tmp_path / "folder", "is a folder"),
        (tmp_path / "no" / "o.onnx", "there is no folder"),
    ]:
        with pytest.raises(UsageError, match=reason):
            check_writable(out, source)
    assert default_output(source) == tmp_path / "m.opt.onnx"


def test_the_inputs_own_weights_file_is_not_overwritten(tmp_path: Path) -> None:
    model = load_model(save_external(tmp_path))
    with pytest.raises(UsageError, match="holds the input's weights"):
        save_model(model, tmp_path / "model.onnx", external=True)
