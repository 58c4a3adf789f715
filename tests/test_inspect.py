"""The workbench: layers and their shares, and each finding with a case where it is silent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

import onnxcomp
from case_pages import parse
from onnxcomp.api import inspect
from onnxcomp.cli import cli
from onnxcomp.cli_options import SORTS
from onnxcomp.errors import UsageError
from onnxcomp.layers import Layer, sorted_layers
from onnxcomp.lint.finding import Finding
from onnxcomp.targets import TARGETS, find_target

CNN = Path(__file__).parent.parent / "models" / "digits_cnn.onnx"
CONV_BN = """g (float[N, 3, 8, 8] x) => (float[N, C, H, W] y)
<float[16, 3, 3, 3] w, float[16] s, float[16] b, float[16] mean, float[16] var>
{ c = Conv (x, w)  y = BatchNormalization (c, s, b, mean, var) }"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def findings(text: str, opset: int = 17, target: str = "x86") -> dict[str, Finding]:
    found = inspect(parse(text, opset), target=target).lint
    assert len({item.rule for item in found}) == len(found)
    return {item.rule: item for item in found}


# ---------------------------------------------------------------- layers
def test_layers_have_shapes_costs_and_shares() -> None:
    layers = inspect(CNN).layers
    assert [layer.op for layer in layers[:3]] == ["Conv", "BatchNormalization", "Relu"]
    first = layers[0]
    assert first.shape == (1, 32, 8, 8)
    assert first.macs == 32 * 8 * 8 * 9
    assert (first.params, first.bytes) == (32 * 9, 32 * 9 * 4)
    assert sum(layer.macs_share for layer in layers) == pytest.approx(1)
    assert sum(layer.bytes_share for layer in layers) == pytest.approx(1)
    assert first.to_dict()["shape"] == [1, 32, 8, 8]


def test_a_shared_weight_counts_once_and_constants_have_no_row() -> None:
    text = """g (float[1, 4] x) => (float[1, 4] y) <float[4, 4] w>
    { c = Constant <value = float[4] {1, 2, 3, 4}> ()
      a = MatMul (x, w)  b = MatMul (a, w)  d = Add (b, c)  e = NonZero (x)  y = Add (d, c) }"""
    layers = inspect(parse(text, 17)).layers
    assert [layer.op for layer in layers] == ["MatMul", "MatMul", "Add", "NonZero", "Add"]
    assert [layer.params for layer in layers] == [16, 0, 4, 0, 0]
    assert [layer.macs for layer in layers] == [16, 16, 0, 0, 0]
    assert layers[0].bytes_share == 0.8
    assert layers[3].shape is None


def test_layers_are_sorted_and_cut() -> None:
    layers = tuple(
        Layer(name, "Op", None, macs, params, params, 0.0, 0.0)
        for name, macs, params in (("a", 1, 5), ("b", 3, 5), ("c", 2, 9))
    )
    assert [layer.node for layer in sorted_layers(layers)] == ["a", "b", "c"]
    assert [layer.node for layer in sorted_layers(layers, "macs", 2)] == ["b", "c"]
    assert [layer.node for layer in sorted_layers(layers, "params")] == ["c", "a", "b"]
    assert all(sorted_layers(layers, sort) for sort in SORTS)


def test_a_model_without_weights_or_macs_has_shares_of_nothing() -> None:
    layers = inspect(parse("g (float[2] x) => (float[2] y) { y = Relu (x) }", 17)).layers
    assert (layers[0].macs_share, layers[0].bytes_share) == (0, 0)


def test_the_table_and_the_json_of_layers() -> None:
    table = run("inspect", CNN, "--sort", "macs", "--top", 2).stdout
    assert table.index("/conv4") < table.index("/conv2")
    assert "and 14 more layers" in table
    assert "x86" not in run("inspect", CNN).stdout
    plain = json.loads(run("inspect", CNN, "--json").stdout)
    assert "layers" not in plain
    full = json.loads(run("inspect", CNN, "--json", "--layers").stdout)
    assert len(full["layers"]) == full["nodes"] == plain["nodes"] == 16
    assert list(full["layers"][0]) == [
        "node", "op", "shape", "macs", "params", "bytes", "macs_share", "bytes_share",
    ]  # fmt: skip
    assert full == {**inspect(CNN).to_dict(), "path": str(CNN)}
    assert plain["macs"] == sum(layer["macs"] for layer in full["layers"])


def test_a_shape_changes_what_is_counted_and_nothing_else(tmp_path: Path) -> None:
    small = json.loads(run("inspect", CNN, "--json").stdout)
    large = json.loads(run("inspect", CNN, "--json", "--shape", "4,1,8,8").stdout)
    assert large["macs"] == 4 * small["macs"]
    assert large["macs_at"] == {"image": [4, 1, 8, 8]}
    assert large["bytes"] == small["bytes"] == CNN.stat().st_size
    bad = run("inspect", CNN, "--shape", "4,2,8,8")
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "fixes at 1" in bad.stderr


# ---------------------------------------------------------------- findings
def test_findings_are_data_and_text() -> None:
    found = inspect(CNN).lint[0]
    assert found.to_dict() == {
        "rule": "unfused-batch-norm",
        "places": [f"/conv{i}/bn/BatchNormalization" for i in (1, 2, 3, 4)],
        "message": "4 BatchNormalization that the layer before could hold",
        "advice": "`onnxcomp optimize` folds them",
    }
    text = run("inspect", CNN).stdout
    assert "could hold: /conv1/bn/BatchNormalization, /conv2" in text
    assert "and 1 more\n    `onnxcomp optimize` folds them" in text


def test_a_clean_model_has_no_finding() -> None:
    text = "g (float[1, 16] x) => (float[1, 16] y) <float[16, 16] w> { y = MatMul (x, w) }"
    assert findings(text) == {}


def test_unfused_batch_norm() -> None:
    assert findings(CONV_BN)["unfused-batch-norm"].places == ("BatchNormalization -> y",)
    read_twice = CONV_BN.replace("y = Batch", "r = Relu (c)  y = Batch")
    assert "unfused-batch-norm" not in findings(read_twice)
    computed = CONV_BN.replace("c = Conv", "q = Exp (s)  c = Conv").replace("(c, s,", "(c, q,")
    assert "unfused-batch-norm" not in findings(computed)
    other = CONV_BN.replace("c = Conv (x, w)", "c = Relu (x)").replace("16]", "3]")
    assert "unfused-batch-norm" not in findings(other)


def test_training_mode() -> None:
    text = CONV_BN.replace(
        "y = BatchNormalization", "y, m, v = BatchNormalization <training_mode = 1>"
    )
    found = findings(text)
    assert found["training-mode"].message.startswith("1 BatchNormalization in training mode")
    assert "unfused-batch-norm" not in found
    dropout = """g (float[2] x) => (float[2] y) <float r = {0.5}, bool t = {1}>
    { y = Dropout (x, r, t) }"""
    assert findings(dropout)["training-mode"].places == ("Dropout -> y",)
    assert findings(dropout.replace("{1}", "{0}")) == {}


def test_random_nodes() -> None:
    text = "g (float[2] x) => (float[2] y) { r = RandomNormalLike (x)  y = Add (x, r) }"
    assert findings(text)["random-nodes"].places == ("RandomNormalLike -> r",)
    assert findings(text.replace("(x)  y", "<seed = 1.0> (x)  y")) == {}


def test_foreign_domains() -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "mine" : 1, "here" : 1]>'
    text = f"""{head} g (float[2] x) => (float[2] y)
    {{ a = com.microsoft.Gelu (x)  b = mine.Thing (a)  c = mine.Other (b)  y = here.twice (c) }}
    <domain: "here", opset_import: ["" : 17]> twice (a) => (b) {{ b = Add (a, a) }}"""
    found = [item for item in inspect(parse(text, 17)).lint if item.rule == "foreign-domain"]
    assert [item.places for item in found] == [
        ("Gelu -> a",), ("Thing -> b", "Other -> c"),
    ]  # fmt: skip
    assert "for ONNX Runtime only" in found[0].message
    assert found[1].message.startswith("1 Other, 1 Thing of mine, which is unknown")
    assert "--no-verify" in found[1].advice


def test_open_dims() -> None:
    text = """g (float[N, C, H] x, float[?] z) => (float[N, P] y, float[Q] w)
    <int64[1] a = {0}, int64[1] b = {1}, int64[1] m = {-1}>
    { s = Shape (x)  n = Slice (s, a, b)  t = Concat <axis = 0> (n, m)  y = Reshape (x, t)
      w = Relu (z) }"""
    found = findings(text)["open-dims"]
    assert found.places == ("x[0] N", "x[1] C", "x[2] H", "z[0]")
    assert found.message == (
        "3 nodes only to compute shapes from dims that are not fixed (N 3, C 1, H 1)"
    )
    assert "--shape x:<N>,<C>,<H> --shape z:<dim0> folds" in found.advice
    assert "open-dims" not in findings(text.replace("N, C, H", "2, 3, 4"))
    assert "open-dims" not in findings("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    known = "g (float[N, 4] x) => (int64[1] y) { y = Shape <start = 1> (x) }"
    assert "open-dims" not in findings(known)
    fixed = onnxcomp.optimize(parse(text, 17), shapes={"x": (2, 3, 4), "z": (5,)})
    assert sorted(node.op_type for node in fixed.model.graph) == ["Relu", "Reshape"]


def test_unaligned_channels() -> None:
    text = """g (float[1, 8, 6, 6] x) => (float[1, C, H, W] y)
    <float[12, 8, 3, 3] v, float[7, 12, 1, 1] w> { c = Conv (x, v)  y = Conv (c, w) }"""
    found = findings(text, target="x86")["unaligned-channels"]
    assert found.places == ("Conv -> c",)  # 7 is below a block
    assert "no multiple of 8 (12)" in found.message
    assert "91.1% of MACs" in found.message
    assert "(target x86)" in found.advice
    wide = text.replace("12", "24")
    assert "unaligned-channels" not in findings(wide, target="x86")
    assert (
        "no multiple of 16 (24)" in findings(wide, target="x86-vnni")["unaligned-channels"].message
    )
    assert "unaligned-channels" not in findings(text.replace("12", "16"), target="portable")
    little = text.replace("[12, 8, 3, 3] v", "[16, 8, 3, 3] v").replace(
        "[7, 12, 1, 1] w> { c", "[9, 16, 1, 1] w, float[1024, 9, 3, 3] u> { d"
    ).replace("y = Conv (c, w)", "c = Conv (d, w)  y = Conv (c, u)")  # fmt: skip
    assert "unaligned-channels" not in findings(little)


def test_float64() -> None:
    text = """g (float[2] x) => (float[2] y) <double[200] w>
    { d = Cast <to = 11> (x)  e = Exp (d)  f = Abs (e)  i = ReduceSum (w)  g = Add (f, i)
      y = Cast <to = 1> (g) }"""
    found = findings(text)
    assert found["float64-nodes"].message.startswith("1 Abs, 1 Add, 1 Exp, 1 ReduceSum in float64")
    assert found["float64-weights"].places == ("w",)
    assert "1.6 KB" in found["float64-weights"].message
    small = findings(text.replace("200", "2"))
    assert "float64-weights" not in small
    assert "float64-nodes" in small
    kind = "g (double[2] x) => (double[2] y) { y = Exp (x) }"
    assert findings(kind)["float64-nodes"].places == ("Exp -> y",)
    constant = """g (float[2] x) => (float[2] y) { c = Constant <value = double[2] {1, 2}> ()
    e = Exp (c)  f = Cast <to = 1> (e)  y = Add (x, f) }"""
    assert findings(constant)["float64-nodes"].places == ("Exp -> e",)


def test_duplicate_weights() -> None:
    text = """g (float[1, 32] x) => (float[1, 32] y)
    <float[32, 32] a, float[32, 32] b, float[32, 32] c, float[2, 16] d>
    { p = MatMul (x, a)  q = MatMul (p, b)  y = MatMul (q, c) }"""
    model = parse(text, 17)
    weights = {name: value.const_value for name, value in model.graph.initializers.items()}
    same_start = np.array(weights["a"].numpy())  # type: ignore[union-attr]
    same_start[-1, -1] += 1
    model.graph.initializers["b"].const_value = ir.tensor(np.array(weights["a"].numpy()))  # type: ignore[union-attr]
    model.graph.initializers["c"].const_value = ir.tensor(same_start)
    found = {item.rule: item for item in inspect(model).lint}
    assert found["duplicate-weights"].places == ("b",)
    assert "1 weight (4.1 KB) with" in found["duplicate-weights"].message
    assert found["unused"].places == ("d",)
    assert "duplicate-weights" not in findings(text)


def test_weights_in_constants() -> None:
    model = parse("g (float[1, 300] x) => (float[1, 300] y) { y = Add (x, x) }", 17)
    node = ir.Node(
        "", "Constant", [], [ir.AttrTensor("value", ir.tensor(np.ones(300, np.float32)))]
    )
    node.outputs[0].name = "big"
    model.graph.insert_before(model.graph[0], node)
    model.graph[1].replace_input_with(1, node.outputs[0])
    found = {item.rule: item for item in inspect(model).lint}
    assert found["weights-in-constants"].places == ("big",)
    small = "g (float[2] x) => (float[2] y) { c = Constant <value = float {1}> ()  y = Add (x, c) }"
    assert findings(small) == {}


def test_unused() -> None:
    text = """g (float[2] x) => (float[2] y) <float[2] w, float[2] v>
    { t = Mul (x, w)  u = Exp (t)  y = Abs (x) }"""
    assert findings(text)["unused"].places == ("Exp -> u", "Mul -> t", "v", "w")


def test_old_forms(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = parse("g (float[2] x) => (float[2] y) <float[2] w> { y = Mul (x, w) }", 9)
    proto = ir.to_proto(model)
    proto.ir_version = 3
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2]))
    onnx.save(proto, path)
    found = inspect(path)
    assert found.ir_version == 3
    rules = {item.rule: item for item in found.lint}
    assert rules["initializers-as-inputs"].places == ("w",)
    assert rules["old-opset"].places == rules["old-ir-version"].places == ()
    assert "`--opset 13`" in rules["old-opset"].advice
    assert "IR version 3" in rules["old-ir-version"].message
    assert {item.rule for item in inspect(proto).lint} == set(rules)
    assert list(findings("g (float[2] x) => (float[2] y) { y = Abs (x) }", 12)) == ["old-opset"]
    assert findings("g (float[2] x) => (float[2] y) { y = Abs (x) }", 13) == {}


def test_unknown_shapes() -> None:
    text = """g (float[2, 3] x, int64[K] s) => (float[A] y) <float[2] w>
    { r = Reshape (x, s)  t = Abs (r)  u = Mul (x, x)  f = Flatten <axis = 0> (t)
      y = Squeeze (f) }"""
    model = parse(
        text.replace("float[A] y", "float[A, B] y").replace("y = Squeeze (f)", "y = Abs (f)"), 17
    )
    found = {item.rule: item for item in inspect(model).lint}["unknown-shapes"]
    assert found.places == ("Reshape -> r", "Abs -> t")
    assert "output shapes of 2 nodes, from Reshape -> r (Reshape) on" in found.message
    assert "unknown-shapes" not in findings(CONV_BN)


# ---------------------------------------------------------------- targets
def test_targets_know_their_block() -> None:
    assert {name: target.channel_block for name, target in TARGETS.items()} == {
        "x86-vnni": 16, "x86": 8, "arm64": 8, "tensorrt": 16, "portable": 16,
    }  # fmt: skip
    with pytest.raises(UsageError, match="no target 'toaster'"):
        inspect(CNN, target="toaster")


@pytest.mark.parametrize(
    ("machine", "flags", "name", "block"),
    [
        ("x86_64", {"avx2"}, "x86", 8),
        ("x86_64", {"avx2", "avx512f"}, "x86", 16),
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, "x86-vnni", 16),
        ("aarch64", set(), "arm64", 8),
        ("riscv64", set(), "portable", 16),
    ],
)
def test_auto_is_this_machine(
    machine: str, flags: set[str], name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxcomp.targets.platform.machine", lambda: machine)
    monkeypatch.setattr("onnxcomp.targets._cpu_flags", lambda: flags)
    found = find_target("auto")
    assert (found.name, found.channel_block) == (name, block)
