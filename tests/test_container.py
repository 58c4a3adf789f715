"""Packed models: every byte comes back, weights take what their entropy says, damage is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxcomp
from onnxcomp.cli import cli
from onnxcomp.container import layout, packing, reading
from onnxcomp.container.damage import Cursor, DamageError
from onnxcomp.container.decoding import decode_chunk
from onnxcomp.container.encoding import encode_chunk
from onnxcomp.container.layout import FOOTER, HEAD, is_inside
from onnxcomp.container.streams import LIMIT, decode_stream, encode_stream
from onnxcomp.container.symbols import code_lengths, entropy, huffman_bits
from onnxcomp.container.wire import INSIDE, find_tensors
from onnxcomp.container.words import FORMS, Form
from onnxcomp.model_io import load_model

MODELS = Path(__file__).parent.parent / "models"
CNN = MODELS / "digits_cnn.onnx"
Words = npt.NDArray[np.uint32]


def round_trip(path: Path, folder: Path) -> onnxcomp.Packed:
    """Pack and unpack a file; assert that nothing was lost either way."""
    packed, out = folder / "m.onnxz", folder / "out.onnx"
    found = onnxcomp.pack(path, packed)
    onnxcomp.unpack(packed, out)
    assert out.read_bytes() == path.read_bytes()
    assert found.after == packed.stat().st_size
    return found


def model_of(*weights: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    nodes = nodes or [helper.make_node("Abs", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def raw(name: str, dtype: int, dims: list[int], data: bytes) -> TensorProto:
    return TensorProto(name=name, data_type=dtype, dims=dims, raw_data=data)


def pruned(seed: int, count: int, share: float = 0.8, levels: int = 15) -> Words:
    """Return normal weights of which a share is zero and the others have few values."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(count).astype(np.float32)
    kept = np.abs(weights) > np.quantile(np.abs(weights), share)
    centres = np.linspace(-3, 3, levels, dtype=np.float32)
    near = centres[np.abs(weights[:, None] - centres).argmin(1)]
    return np.where(kept, near, np.float32(0)).astype(np.float32).view(np.uint32)


# ---------------------------------------------------------------- exactness
@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.onnx")))
def test_every_model_comes_back_smaller_and_whole(name: str, tmp_path: Path) -> None:
    path = MODELS / f"{name}.onnx"
    found = round_trip(path, tmp_path)
    assert found.after < 0.85 * found.before
    assert onnxcomp.load(tmp_path / "m.onnxz") == path.read_bytes()


def test_the_loaded_bytes_run(tmp_path: Path) -> None:
    onnxcomp.pack(CNN, tmp_path / "m.onnxz")
    feeds = {"image": np.load(MODELS / "digits.npz")["image"][:4]}
    content = onnxcomp.load(tmp_path / "m.onnxz")
    mine, theirs = (
        onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, feeds)
        for source in (content, str(CNN))
    )
    np.testing.assert_array_equal(mine[0], theirs[0])


WORDS = st.one_of(
    st.binary(max_size=600),
    st.integers(0, 2**32 - 1).flatmap(
        lambda seed: st.builds(
            lambda count, kinds: (
                np.random.default_rng(seed)
                .choice(np.random.default_rng(seed).integers(0, 2**32, kinds, np.uint32), count)
                .tobytes()
            ),
            st.integers(1, 4000),
            st.integers(1, 300),
        )
    ),
    st.builds(
        lambda seed, count, share: pruned(seed, count, share).tobytes(),
        st.integers(0, 1000),
        st.integers(1, 3000),
        st.sampled_from([0.3, 0.9, 0.995]),
    ),
)
SPECIAL = np.array(
    [0, 1 << 31, 0x7FC00001, 0x7F800001, 0xFFC12345, 1, 0x80000001, 0x7F800000], np.uint32
)


@settings(max_examples=120, deadline=None)
@given(WORDS, st.sampled_from([Form(), *FORMS.values()]))
def test_a_chunk_is_decoded_to_its_bytes(data: bytes, form: Form) -> None:
    coded = encode_chunk(data, form)
    assert decode_chunk(coded.payload, len(data)) == data
    assert len(coded.payload) <= len(data) + 7


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=300, max_size=2000), st.integers(1, 99))
def test_nans_signed_zeros_and_denormals_keep_their_bits(picks: list[int], often: int) -> None:
    words = np.repeat(SPECIAL[picks], often % 5 + 1)
    data = words.tobytes()
    assert decode_chunk(encode_chunk(data, FORMS[TensorProto.FLOAT]).payload, len(data)) == data


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_random_models_come_back(seed: int, files: int) -> None:
    rng = np.random.default_rng(seed)
    types = [number for number in TensorProto.DataType.values() if number not in (0, 8)]
    weights = []
    for index in range(int(rng.integers(0, 8))):
        size = int(rng.choice([0, 3, 511, 512, 513, 2048, 9999]))
        data = rng.integers(0, int(rng.choice([2, 9, 256])), size, np.uint8).tobytes()
        weights.append(raw(f"w{index}", int(rng.choice(types)), [size], data))
    text = TensorProto(name="text", data_type=TensorProto.STRING, dims=[2])
    text.string_data.extend([b"a" * 900, b"\xff"])
    weights.append(text)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        source.mkdir()
        model = model_of(*weights)
        for index in range(min(files, len(weights) - 1)):
            move_out(model.graph.initializer[index], source / f"{index % 2}.bin", rng)
        path = source / "m.onnx"
        path.write_bytes(model.SerializeToString())
        onnxcomp.pack(path, folder / "m.onnxz")
        onnxcomp.unpack(folder / "m.onnxz", folder / "m.onnx")
        for file in source.iterdir():
            assert (folder / file.name).read_bytes() == file.read_bytes()


def move_out(tensor: TensorProto, file: Path, rng: np.random.Generator) -> None:
    """Put a weight into a file, behind some bytes that are nobody's."""
    with open(file, "ab") as out:
        out.write(bytes(rng.integers(0, 256, 77, np.uint8)))
        entries = {"location": file.name, "offset": out.tell(), "length": len(tensor.raw_data)}
        out.write(tensor.raw_data)
        out.write(b"tail")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def test_weights_are_found_wherever_they_lie() -> None:
    value = numpy_helper.from_array(np.arange(300, dtype=np.float32), "inside")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [300], np.arange(300, dtype=np.float32))
    double = helper.make_tensor("double", TensorProto.DOUBLE, [200], np.arange(200.0))
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=value)], "branch", [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [300])], [typed],
    )  # fmt: skip
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    model = model_of(double, nodes=nodes)
    indices = numpy_helper.from_array(np.arange(300, dtype=np.int64), "indices")
    values = numpy_helper.from_array(np.ones(300, np.float32), "values")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1000]))
    call = helper.make_node("Constant", [], ["f"], value=value)
    ids = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("d", "F", [], ["f"], [call], ids))
    names = [tensor.name for tensor in find_tensors(memoryview(model.SerializeToString()))]
    assert sorted(names) == sorted(
        ["double", *["inside", "typed"] * 2, "values", "indices", "inside"]
    )


def test_the_fields_are_those_of_onnx_proto() -> None:
    for message, inside in INSIDE.items():
        found = {
            field.number: field.message_type.name.removesuffix("Proto")
            for field in getattr(onnx, f"{message}Proto").DESCRIPTOR.fields
            if field.message_type is not None
        }
        assert inside == {
            number: name for number, name in found.items() if name in {*INSIDE, "Tensor"}
        }


def test_weights_longer_than_a_chunk_and_repeated_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "CHUNK", 4096)
    monkeypatch.setattr(packing, "CHUNK", 4096)
    data = np.random.default_rng(0).standard_normal(10_001).astype(np.float32)
    weights = [numpy_helper.from_array(data, name) for name in ("a", "b")]
    path = tmp_path / "long.onnx"
    model = model_of(*weights)
    model.doc_string = random.Random(0).randbytes(6000).hex()
    path.write_bytes(model.SerializeToString())
    found = round_trip(path, tmp_path)
    assert [tensor.coding for tensor in found.tensors] == ["exponents", "repeated"]
    assert found.tensors[1].after == 0
    assert found.after < 0.52 * found.before


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "other.onnx"
    copy.write_bytes(CNN.read_bytes())
    for source, out in ((CNN, "a"), (copy, "b")):
        onnxcomp.pack(source, tmp_path / out)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---------------------------------------------------------------- size
def test_pruned_and_clustered_weights_take_hardly_more_than_their_entropy(tmp_path: Path) -> None:
    words = pruned(1, 300_000)
    path = tmp_path / "p.onnx"
    weight = numpy_helper.from_array(words.view(np.float32), "w")
    path.write_bytes(model_of(weight).SerializeToString())
    found = round_trip(path, tmp_path)
    coded = found.tensors[0]
    assert coded.coding == "sparse codebook"
    assert 8 * coded.after < 1.03 * coded.entropy_bits
    assert coded.after <= coded.huffman_bytes
    assert found.after < 0.05 * found.before


@pytest.mark.parametrize(
    ("dtype", "most"), [(np.float32, 0.86), (np.float16, 0.92), (np.float64, 0.96)]
)
def test_floats_are_coded_by_their_exponents(dtype: type, most: float) -> None:
    data = np.random.default_rng(2).standard_normal(100_000).astype(dtype).tobytes()
    form = FORMS[helper.np_dtype_to_tensor_dtype(np.dtype(dtype))]
    coded = encode_chunk(data, form)
    assert len(coded.payload) < most * len(data)


def test_zeros_take_nothing_but_what_the_limit_asks(tmp_path: Path) -> None:
    path = tmp_path / "z.onnx"
    path.write_bytes(model_of(raw("w", 1, [25 << 20], bytes(100 << 20))).SerializeToString())
    found = round_trip(path, tmp_path)
    assert found.before <= layout.limit_of(found.after)
    assert found.after < 50_000


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
def test_huffman_codes_are_within_a_bit_of_entropy_and_complete(counts: list[int]) -> None:
    lengths = [length for length in code_lengths(counts) if length]
    used = sum(count > 0 for count in counts)
    assert len(lengths) == used
    if used > 1:
        assert sum(2.0**-length for length in lengths) == 1
        bits = entropy(np.array(counts)) * sum(counts)
        assert bits - 1e-6 <= huffman_bits(np.array(counts)) < bits + sum(counts)


# ---------------------------------------------------------------- damage
@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a container with every coding and a weights file."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(3)
    floats = rng.standard_normal(600).astype(np.float32)
    weights = [
        numpy_helper.from_array(floats, "dense"),
        numpy_helper.from_array(pruned(4, 4000, 0.97).view(np.float32), "pruned"),
        numpy_helper.from_array(pruned(5, 2000, 0.0, 5).view(np.float32), "clustered"),
        numpy_helper.from_array(rng.integers(-3, 3, 900).astype(np.int8), "bytes"),
        numpy_helper.from_array(np.zeros(400, np.float32), "zero"),
        numpy_helper.from_array(floats, "again"),
        numpy_helper.from_array(floats[::-1].copy(), "outside"),
    ]
    model = model_of(*weights)
    move_out(model.graph.initializer[-1], folder / "m.data", rng)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    found = onnxcomp.pack(folder / "m.onnx")
    codings = {tensor.coding for tensor in found.tensors}
    assert codings >= {"exponents", "sparse codebook", "codebook", "repeated"}
    return (folder / "m.onnxz").read_bytes()


def decoded(data: bytes) -> list[bytes]:
    container = reading.Container(view := memoryview(data), tuple(layout.read_index(view)))
    return [b"".join(reading.pieces(container, file)) for file in container.files]


def refused(data: bytes) -> str:
    """Return why a container is refused, or nothing."""
    try:
        decoded(data)
    except DamageError as error:
        return str(error)
    return ""


def sealed(data: bytes) -> bytes:
    """Return a container with the digest that its bytes ask for."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def damage(data: bytes, rng: random.Random) -> bytes:
    out, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at] = (out[at] + rng.randrange(1, 256)) % 256
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        out[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 4:
        del out[at : at + rng.randrange(1, 9)]
    else:
        out += rng.randbytes(rng.randrange(1, 9))
    return bytes(out)


def test_no_damage_is_believed(small: bytes) -> None:
    assert refused(small) == ""
    rng = random.Random(0)
    for _ in range(10_000):
        changed = damage(small, rng)
        assert changed == small or refused(changed)


def test_no_damage_is_believed_with_a_digest_that_fits(small: bytes) -> None:
    """The index and the chunks hold by themselves: only padding-like bits may go unseen."""
    rng = random.Random(1)
    for _ in range(2_000):
        changed = sealed(damage(small, rng))
        if not refused(changed):
            assert decoded(changed) == decoded(small)


def rebuilt(data: bytes, edit: Callable[[bytearray], None]) -> bytes:
    """Return a container whose index is edited, sealed again."""
    length, stored = struct.unpack("<II", data[-FOOTER:-32])
    start = len(data) - FOOTER - stored
    index = bytearray(decode_stream(Cursor(data[start : start + stored]), length))
    edit(index)
    coded, numbers = layout.encode_footer(bytes(index))
    return sealed(data[:start] + coded + numbers + bytes(32))


def test_every_field_of_the_index_is_checked(small: bytes) -> None:
    rng = random.Random(2)
    assert refused(rebuilt(small, lambda index: None)) == ""
    length = struct.unpack("<I", small[-FOOTER : -FOOTER + 4])[0]
    for at in range(length):
        for value in (0, 0x7F, 0xFF, rng.randrange(256)):

            def edit(index: bytearray, at: int = at, value: int = value) -> None:
                index[at] = value

            changed = rebuilt(small, edit)
            if changed != rebuilt(small, lambda index: None) and not refused(changed):
                assert decoded(changed) == decoded(small)  # a weights file of another name


def test_bombs_are_refused_before_they_are_decoded(small: bytes) -> None:
    def larger(index: bytearray) -> None:  # the model's size, after the count and an empty name
        index[4:12] = struct.pack("<Q", 1 << 45)

    assert "the limit is" in refused(rebuilt(small, larger))
    index = layout.encode_index(
        [layout.PackedFile("", 1 << 50, bytes(32), ())], [9] * 9, [layout.NONE] * 9, 0
    )
    coded, numbers = layout.encode_footer(index)
    assert "the limit is" in refused(sealed(small[:HEAD] + coded + numbers + bytes(32)))
    huge = struct.pack("<II", 0xFFFFFFFF, len(coded))
    assert "limit" in refused(sealed(small[:HEAD] + coded + huge + bytes(32)))


def test_a_frame_that_decodes_to_more_than_announced_is_refused() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    stream = bytes([1]) + len(bomb).to_bytes(4, "little") + bomb
    with pytest.raises(DamageError, match="instead of 100"):
        decode_stream(Cursor(stream), 100)
    with pytest.raises(DamageError, match="limit"):
        decode_stream(Cursor(stream), 1 << 28)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    stream = bytes([1]) + len(silent).to_bytes(4, "little") + silent
    with pytest.raises(DamageError):
        decode_stream(Cursor(stream), 1 << 20)
    twice = encode_stream(bytes(1000))[5:] * 2
    stream = bytes([1]) + len(twice).to_bytes(4, "little") + twice
    with pytest.raises(DamageError):
        decode_stream(Cursor(stream), 1000)
    assert LIMIT == 1 << 24


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 2000))
def test_any_bytes_as_a_chunk_decode_or_are_refused(payload: bytes, size: int) -> None:
    with contextlib.suppress(DamageError):
        assert len(decode_chunk(payload, size)) == size


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_as_a_model_are_scanned_or_refused(data: bytes) -> None:
    with contextlib.suppress(DamageError):
        for tensor in find_tensors(memoryview(data)):
            assert tensor.location is not None or 0 <= tensor.start <= tensor.end <= len(data)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *[("a.data", True), ("w/a.data", True), ("", False), ("..", False), ("w/../../a", False)],
        *[("/etc/a", False), ("C:\\a", False), ("C:a", False), ("..\\a", False), ("a\0", False)],
    ],
)
def test_weights_files_stay_in_the_models_folder(name: str, inside: bool) -> None:
    assert is_inside(name) is inside


# ---------------------------------------------------------------- the verbs
def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_verbs_say_what_they_did(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(CNN.read_bytes())
    packed = run("pack", model)
    assert packed.exit_code == 0, packed.output
    assert "conv4.conv.weight" in packed.stdout
    assert "exponents" in packed.stdout
    found = json.loads(run("pack", model, "--json", "-o", tmp_path / "n.onnxz").stdout)
    assert found["after"] == (tmp_path / "m.onnxz").stat().st_size
    assert found["ratio"] < 0.84
    assert found["tensors"][0]["bits_per_value"] < 32
    again = run("unpack", tmp_path / "m.onnxz", "-q")  # the same bytes are there: no loss
    assert (again.exit_code, again.output) == (0, "")
    model.write_bytes(b"mine")
    lost = run("unpack", tmp_path / "m.onnxz")
    assert lost.exit_code == 2
    assert "exists and is another file" in lost.stderr
    asked = run("unpack", tmp_path / "m.onnxz", "-o", model, "--json")
    assert json.loads(asked.stdout)["written"] == [str(model)]
    assert model.read_bytes() == CNN.read_bytes()


def test_bad_input_exits_2_with_one_line_and_writes_nothing(tmp_path: Path, small: bytes) -> None:
    model, packed = tmp_path / "m.onnx", tmp_path / "m.onnxz"
    model.write_bytes(CNN.read_bytes())
    packed.write_bytes(small[:-1])
    (tmp_path / "text.onnx").write_text("hello, I am a text file\n" * 50)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(CNN.read_bytes()[:100_000])
    (tmp_path / "none").mkdir()
    before = sorted(os.listdir(tmp_path))
    for arguments, reason in (
        (["pack", "missing.onnx"], "there is no file"),
        (["pack", tmp_path], "is a folder"),
        (["pack", tmp_path / "text.onnx"], "not an ONNX model"),
        (["pack", tmp_path / "cut.onnx"], "damaged"),
        (["pack", tmp_path / "empty.onnx"], "is empty"),
        (["pack", packed], "is packed already"),
        (["pack", model, "-o", model], "is the input"),
        (["pack", model, "-o", tmp_path / "no" / "m.onnxz"], "there is no folder"),
        (["unpack", packed], "damaged"),
        (["unpack", model, "-o", tmp_path / "x.onnx"], "is no container"),
        (["unpack", packed, "-o", packed], "damaged"),
        (["unpack", tmp_path / "none"], "is a folder"),
        (["inspect", packed], "damaged"),
        (["optimize", packed], "damaged"),
        (["optimize", model, "-o", tmp_path / "n.onnxz"], "would not be packed"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert reason in result.stderr, arguments
        assert result.stderr.count("\n") == 1, result.stderr
        assert sorted(os.listdir(tmp_path)) == before
    packed.write_bytes(small)
    assert "is the input" in run("unpack", packed, "-o", packed).stderr


def test_the_other_verbs_read_packed_models(tmp_path: Path) -> None:
    packed, out = tmp_path / "m.onnxz", tmp_path / "o.onnx"
    onnxcomp.pack(CNN, packed)
    summary = json.loads(run("inspect", packed, "--json").stdout)
    assert summary["bytes"] == pytest.approx(CNN.stat().st_size, abs=100)  # of the model in it
    assert run("compare", CNN, packed).exit_code == 0
    assert run("optimize", packed, "-o", out).exit_code == 0
    plain = tmp_path / "plain.onnx"
    assert run("optimize", CNN, "-o", plain).exit_code == 0
    assert out.read_bytes() == plain.read_bytes()
    identity = tmp_path / "i.onnxz"
    onnxcomp.pack(plain, identity)
    assert run("optimize", identity, "-o", tmp_path / "p.onnx").exit_code == 0
    assert onnx.load(tmp_path / "p.onnx").graph.node  # a model, not the container


def test_weights_files_come_back_and_are_put_inside_when_loaded(
    tmp_path: Path, small: bytes
) -> None:
    (tmp_path / "m.onnxz").write_bytes(small)
    model = onnx.load_from_string(onnxcomp.load(tmp_path / "m.onnxz"))
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    found = onnxcomp.unpack(tmp_path / "m.onnxz")
    assert [Path(name).name for name in found.written] == ["m.onnx", "m.data"]
    outside = onnx.load(tmp_path / "m.onnx").graph.initializer[-1]
    assert model.graph.initializer[-1].raw_data == outside.raw_data
    assert load_model(tmp_path / "m.onnxz").graph.initializers["outside"].const_value is not None
    (tmp_path / "m.data").write_bytes(b"mine")
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(onnxcomp.UsageError, match=r"m\.data exists and is another file"):
        onnxcomp.unpack(tmp_path / "m.onnxz")
    assert not (tmp_path / "m.onnx").exists()
