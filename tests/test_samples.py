"""Samples in every form that users have them, and one clear line for each thing that is wrong."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.errors import SamplesError
from onnxcomp.runtime import InputSpec, input_specs

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
ONE = [InputSpec("x", F32, ("N", 2))]
TWO = [InputSpec("x", F32, ("N", 2)), InputSpec("n", I64, ())]
DATA = np.arange(12, dtype=np.float32).reshape(6, 2)
COUNT = np.arange(6, dtype=np.int64)


def rows(samples: Samples, name: str = "x") -> list[Any]:
    """What a name holds in each sample; read twice, because samples can be."""
    first = [feeds[name].tolist() for feeds in samples]
    assert [feeds[name].tolist() for feeds in samples] == first
    return first


def expected(count: int = 6) -> list[Any]:
    return DATA[:count, None].tolist()  # type: ignore[no-any-return]


def refused(spec: object, inputs: list[InputSpec] = ONE, **options: Any) -> str:
    with pytest.raises(SamplesError) as caught:
        open_samples(spec, inputs, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- forms
def test_npy_file_has_a_leading_sample_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(DATA))
    samples = open_samples(tmp_path / "x.npy", ONE)
    assert rows(samples) == expected()
    assert samples.count == 6
    assert samples.source == str(tmp_path / "x.npy")
    assert samples.labels is None
    assert not samples.synthetic


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_file_has_a_leading_sample_axis(tmp_path: Path, save: Any, order: Any) -> None:
    save(tmp_path / "d.npz", x=np.asarray(DATA, order=order), n=COUNT)
    samples = open_samples(str(tmp_path / "d.npz"), TWO)
    assert rows(samples) == expected()
    assert rows(samples, "n") == [0, 1, 2, 3, 4, 5]
    assert next(iter(samples))["n"].shape == ()


def test_npz_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=DATA, labels=np.array([3, 1, 4, 1, 5, 9], np.uint8))
    samples = open_samples(tmp_path / "d.npz", ONE, limit=4)
    assert samples.labels is not None
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == [3, 1, 4, 1]
    assert samples.count == len(rows(samples)) == 4


def test_labels_may_be_an_input() -> None:
    specs = [*ONE, InputSpec("labels", I64, (None,))]
    samples = open_samples({"x": DATA, "labels": COUNT}, specs)
    assert samples.labels is None
    assert rows(samples, "labels") == [[i] for i in range(6)]


def test_fixed_batch_takes_rows_together_and_drops_the_ragged_end() -> None:
    specs = [InputSpec("x", F32, (4, 2))]
    samples = open_samples({"x": DATA, "labels": COUNT}, specs)
    assert rows(samples) == [DATA[:4].tolist()]
    assert samples.count == 1
    assert samples.labels is not None
    assert samples.labels.tolist() == [[0, 1, 2, 3]]


def test_one_more_rank_means_ready_batches() -> None:
    batches = DATA.reshape(2, 3, 2)
    samples = open_samples({"x": batches, "labels": COUNT.reshape(2, 3)}, ONE)
    assert rows(samples) == batches.tolist()
    assert samples.labels is not None
    assert samples.labels.shape == (2, 3)


def test_fixed_batch_beside_one_scalar_per_sample() -> None:
    specs = [InputSpec("x", F32, (3, 2)), InputSpec("n", I64, ())]
    samples = open_samples({"x": DATA, "n": COUNT[:2]}, specs)
    assert rows(samples) == [DATA[:3].tolist(), DATA[3:].tolist()]


def test_unknown_rank_and_negative_dim_are_free() -> None:
    assert rows(open_samples(DATA, [InputSpec("x", None, None)])) == expected()
    assert rows(open_samples(DATA, [InputSpec("x", F32, (-1, 2))])) == expected()


def test_folder_of_npz_in_natural_order(tmp_path: Path) -> None:
    for index in (10, 9, 1):
        np.savez(tmp_path / f"s{index}.npz", x=np.full((2, 2), index, np.float32), n=index)
    samples = open_samples(tmp_path, TWO)
    assert rows(samples, "n") == [1, 9, 10]
    assert samples.count == 3


def test_folder_of_npy(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", DATA[index : index + 1])
    (tmp_path / "README.txt").touch()
    assert rows(open_samples(tmp_path, ONE)) == expected(3)


def test_onnx_test_data(tmp_path: Path) -> None:
    for index in range(3):
        folder = tmp_path / f"test_data_set_{index}"
        folder.mkdir()
        for place, data in enumerate([DATA[index : index + 1], np.array(index)]):
            text = numpy_helper.from_array(data).SerializeToString()
            (folder / f"input_{place}.pb").write_bytes(text)
    assert rows(open_samples(tmp_path, TWO)) == expected(3)
    assert rows(open_samples(tmp_path / "test_data_set_2", TWO), "n") == [2]


CODE = """
import numpy as np
from neighbour import COUNT

def feeds():
    from late import WIDTH
    for i in range(COUNT):
        yield {"x": np.full((1, WIDTH), i, np.float32)}

def a_list(): return list(feeds())
ready = list(feeds())
used_up = feeds()
array = np.zeros((2, 2), np.float32)

class Reader:
    def __init__(self): self.left = list(ready)
    def get_next(self): return self.left.pop(0) if self.left else None

same = feeds()
def stale(): return same
def nothing(): pass
def fails(): raise ValueError("boom\\nmore")
def fails_late():
    yield from ready[:1]
    raise KeyError("gone")
def leaves(): raise SystemExit(3)
number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("COUNT = 3")
    (tmp_path / "late.py").write_text("WIDTH = 2")
    (tmp_path / "calib.py").write_text(CODE)
    return str(tmp_path / "calib.py")


@pytest.mark.parametrize("name", ["feeds", "a_list", "ready", "used_up", "Reader"])
def test_file_and_callable(code: str, name: str) -> None:
    path = list(sys.path)
    samples = open_samples(f"{code}:{name}", ONE)
    assert rows(samples) == [[[i, i]] for i in range(3)]
    assert samples.source == f"{code}:{name}"
    assert sys.path == path


def test_module_and_callable(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(code).parent)
    (Path(code).parent / "a_calibration_module.py").write_text(CODE)
    assert len(rows(open_samples("a_calibration_module:feeds", ONE))) == 3
    assert rows(open_samples("a_calibration_module:array", ONE)) == [[[0, 0]], [[0, 0]]]


def test_random_needs_no_data() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) {'
        "y = Relu(x) }"
    )
    specs = input_specs(model)
    samples = open_samples("random", specs, model=model)
    assert samples.synthetic
    assert samples.count == len(rows(samples)) == 16
    five = open_samples("random:5", specs, model=model, seed=1)
    assert len(rows(five)) == 5
    assert rows(five) == rows(open_samples("random:9", specs, model=model, seed=1, limit=5))
    assert rows(five) != rows(samples)[:5]


class Reader:
    """A reader as ONNX Runtime's quantizer takes it."""

    def __init__(self) -> None:
        self.done = 0

    def get_next(self) -> dict[str, Any] | None:
        self.done += 1
        return {"x": DATA[self.done - 1 : self.done]} if self.done <= len(DATA) else None


class Rewound(Reader):
    def rewind(self) -> None:
        self.done = 0


def generate() -> Iterator[dict[str, Any]]:
    for index in range(len(DATA)):
        yield {"x": DATA[index : index + 1]}


@pytest.mark.parametrize(
    "given",
    [
        generate,
        generate(),
        list(generate()),
        tuple(generate()),
        [DATA[i : i + 1] for i in range(6)],
        DATA,
        {"x": DATA},
        {"x": DATA.tolist()},
        Reader,
        Reader(),
        Rewound(),
        lambda: Reader(),
    ],
    ids=lambda given: type(given).__name__,
)
def test_python_objects(given: object) -> None:
    samples = open_samples(given, ONE)
    assert rows(samples) == expected()
    assert samples.source
    assert rows(split(samples)[1]) == expected()[3:4]


def test_generator_is_drained_no_further_than_the_limit() -> None:
    source = generate()
    assert rows(open_samples(source, ONE, limit=2)) == expected(2)
    assert next(source)["x"].tolist() == expected()[2]


def test_the_spool_serves_two_readers_at_once_and_closes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = open_samples(generate(), ONE)
        pairs = zip(samples, samples, strict=True)
        assert all(a["x"].tolist() == b["x"].tolist() for a, b in pairs)
        del samples
        gc.collect()


def test_strings_stay_strings() -> None:
    specs = [InputSpec("x", np.dtype(object), (None,))]
    for given in (["ab", "c"], np.array([b"ab", b"c"]), np.array(["ab", "c"], object)):
        for form in ({"x": given}, iter([{"x": given[:1]}, {"x": given[1:]}])):
            samples = open_samples(form, specs)
            assert rows(samples) == [["ab"], ["c"]]
            assert next(iter(samples))["x"].dtype == object


def test_widths_are_cast() -> None:
    specs = [InputSpec("x", np.dtype(np.float16), None), InputSpec("n", I64, None)]
    feeds = next(iter(open_samples([{"x": np.float64(1.5), "n": np.array([True])}], specs)))
    assert feeds["x"].dtype == np.float16
    assert feeds["n"].dtype == np.int64
    wide = open_samples({"x": DATA}, [InputSpec("x", np.dtype(np.float64), None)])
    assert next(iter(wide))["x"].dtype == np.float64


def test_large_npz_streams(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((5000, 2000), np.float32))  # 40 MB
    samples = open_samples(tmp_path / "d.npz", [InputSpec("x", F32, (None, 2000))])
    tracemalloc.start()
    assert sum(1 for _ in samples) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


# ---------------------------------------------------------------- split
def test_split_holds_out_every_fourth() -> None:
    samples = open_samples({"x": DATA, "labels": COUNT}, ONE)
    kept, held_out = split(samples)
    assert rows(kept) == [expected()[i] for i in (0, 1, 2, 4, 5)]
    assert rows(held_out) == [expected()[3]]
    assert (kept.count, held_out.count) == (5, 1)
    assert kept.labels is not None
    assert held_out.labels is not None
    assert kept.labels.tolist() == [0, 1, 2, 4, 5]
    assert held_out.labels.tolist() == [3]


def test_split_of_few_is_all_of_them() -> None:
    samples = open_samples(DATA[:3], ONE)
    assert split(samples) == (samples, samples)


def test_split_of_a_stream_of_unknown_length() -> None:
    kept, held_out = split(open_samples(generate, ONE))
    assert (kept.count, held_out.count) == (None, None)
    assert len(rows(kept)) == 5


# ---------------------------------------------------------------- what does not fit
IMAGE = [InputSpec("image", F32, ("N", 1, 8, 8))]


def test_shape_mismatch_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, image=np.zeros((5, 3, 8, 8), np.float32))
    assert refused(path, IMAGE) == (
        f'{path}: input "image" wants float32[N,1,8,8], the sample has float32[1,3,8,8]'
    )


@pytest.mark.parametrize(
    ("given", "inputs", "parts"),
    [
        ({"x": DATA}, TWO, ['no array for input "n", int64[]']),
        ({"x": DATA, "y": DATA}, ONE, ['no input "y"', 'its inputs are "x"']),
        ([{"y": DATA}], ONE, ['no input "y"']),
        ({"x": DATA.astype(np.uint8)}, ONE, ["wants float32[N,2]", "uint8[1,2]", ".astype"]),
        ({"x": DATA > 3}, ONE, ["bool[1,2]", "convert it"]),
        ({"x": DATA, "n": DATA[:, 0]}, TWO, ["wants int64[]", "float32[]; convert it with"]),
        ({"x": [["a", "b"]]}, ONE, ["string[1,2]"]),
        ({"x": DATA[:, :1]}, ONE, ["float32[1,1]"]),
        ([DATA[0]], ONE, ["float32[2]"]),
        (DATA[None, None], ONE, ["float32[1,1,6,2]"]),
        ([{"x": [[1.0], [1.0, 2.0]]}], ONE, ["is no array"]),
        ({"x": DATA, "n": COUNT[:4]}, TWO, ['"x" and "n" hold 6 and 4 rows']),
        ({"x": DATA, "n": np.int64(3)}, TWO, ['"n" is a scalar']),
        ({"x": DATA, "labels": COUNT[:4]}, ONE, ['"labels" must be 6 integers', "int64[4]"]),
        ({"x": DATA, "labels": DATA}, ONE, ["float32[6, 2]"]),
        ({"x": DATA, "labels": np.int64(1)}, ONE, ['"labels" must be 6 integers']),
        ({"x": DATA}, [InputSpec("x", F32, (7, 2))], ["takes 7 row(s) for a sample", "has 6"]),
        ({"x": DATA[:0]}, ONE, ["the array has 0"]),
        ({}, [], ["no samples"]),
        ([], ONE, ["list: no samples"]),
        (iter([]), ONE, ["no samples"]),
        (list, ONE, ["no samples", "fresh iterable"]),
        (DATA, TWO, ["bare arrays", '2 ("x", "n")']),
        ([DATA], [], ["0 (none)"]),
        (["text"], ONE, ["a sample is a dict of arrays by input name, not str"]),
        ([None], ONE, ["not NoneType"]),
        (3, ONE, ["int gives no samples"]),
        (None, ONE, ["NoneType gives no samples"]),
        ([{"x": 2**40}], [InputSpec("x", np.dtype(np.int32), None)], ["1099511627776 does not"]),
        ([{"x": 1e6}], [InputSpec("x", np.dtype(np.float16), None)], ["1000000.0 does not fit"]),
        (b"bytes", ONE, ["gives no samples"]),
    ],
)  # fmt: skip
def test_objects_that_do_not_fit(given: object, inputs: list[InputSpec], parts: list[str]) -> None:
    message = refused(given, inputs)
    for part in parts:
        assert part in message


def test_a_later_sample_is_named_by_its_index(tmp_path: Path) -> None:
    samples = open_samples([DATA[:1], DATA[:1], DATA[0]], ONE)
    with pytest.raises(SamplesError, match=r'list, sample 2: input "x" wants'):
        list(samples)
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", DATA[: 1 - index, : 2 - index])
    with pytest.raises(SamplesError, match=r"1\.npy: input"):
        list(open_samples(tmp_path, ONE))


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("missing.npz", "missing.npz: no such file or folder"),
        ("", "empty name"),
        ("a/data:feeds", "a/data:feeds: no such file or folder"),
        ("https://example.org/x.npz", "no such file or folder"),
        (".relative:feeds", "no such file or folder"),
        ("missing.py:feeds", "no such file: missing.py"),
        ("no_such_module_here:feeds", "ModuleNotFoundError: No module named"),
        ("json:no_such_name", "json defines no no_such_name"),
        ("random:0", "whole number of at least 1"),
        ("random:x", "whole number of at least 1"),
        ("random", "none was given"),
    ],
)
def test_names_of_nothing(spec: str, part: str) -> None:
    assert part in refused(spec)


def test_a_limit_of_none_is_refused() -> None:
    assert refused(DATA, limit=0) == "at least one sample is needed, not 0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", "TypeError: 'NoneType' object is not iterable"),
        ("fails", "ValueError: boom (calib.py, line 22)"),
        ("leaves", "SystemExit: 3 (calib.py, line 26)"),
        ("stale", None),
        ("number", "int gives no samples"),
    ],
)
def test_errors_of_user_code(code: str, name: str, text: str | None) -> None:
    if text is not None:
        assert text in refused(f"{code}:{name}")
        return
    samples = open_samples(f"{code}:{name}", ONE)  # one sample is gone after this
    with pytest.raises(SamplesError, match="must return a fresh iterable"):
        list(samples)


def test_errors_of_user_code_on_the_way(code: str) -> None:
    samples = open_samples(f"{code}:fails_late", ONE)
    with pytest.raises(SamplesError, match=r"KeyError: 'gone' \(calib.py, line 25\)"):
        list(samples)


def test_a_broken_python_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("x = \n")
    assert "SyntaxError: invalid syntax (bad.py, line 1)" in refused(f"{path}:feeds")
    assert f"name the function that gives the samples: {path}:feeds" in refused(path)


def test_damaged_files(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "good.npz", x=np.random.default_rng(0).random((900, 2)))
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (tmp_path / "bits.npz").write_bytes(bytes(damaged))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "zip.npy").write_bytes(whole)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], object))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object))
    (tmp_path / "data.csv").touch()
    np.save(tmp_path / "none.npy", DATA[:0])
    assert "the array has 0" in refused(tmp_path / "none.npy")
    for name in ("cut.npz", "text.npy", "empty.npy", "zip.npy", "objects.npz", "objects.npy"):
        assert f"cannot read {tmp_path / name}: " in refused(tmp_path / name)
    with pytest.raises(SamplesError, match="cannot read"):
        list(open_samples(tmp_path / "bits.npz", ONE))
    assert "not an .npz, an .npy" in refused(tmp_path / "data.csv")


def test_damaged_folders(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> Path:
        (tmp_path / name).mkdir()
        for stem, data in files.items():
            (tmp_path / name / stem.replace("_dot_", ".")).write_bytes(data)
        return tmp_path / name

    assert "no samples in this folder" in refused(folder("empty"))
    mixed = folder("mixed", a_dot_npy=b"", b_dot_npz=b"")
    assert "holds b.npz and a.npy; keep samples of one kind" in refused(mixed)
    assert "a.npz: " in refused(folder("npz", a_dot_npz=b"PK\x03\x04 nonsense"))
    assert "bare arrays" in refused(folder("npy", a_dot_npy=b""), TWO)
    bad = folder("pb", input_0_dot_pb=b"\xff\xff")
    assert f"cannot read {bad}: " in refused(bad)
    tensor = numpy_helper.from_array(DATA).SerializeToString()
    many = folder("many", input_0_dot_pb=tensor, input_1_dot_pb=tensor)
    assert "input_1.pb is more than the model has inputs (1)" in refused(many)
    assert 'no array for input "n"' in refused(folder("few", input_0_dot_pb=tensor), TWO)
    single = folder("single")
    with (single / "a.npz").open("wb") as file:
        np.save(file, DATA)
    assert "it is a single array" in refused(single)
