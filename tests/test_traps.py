"""Legal models on which optimizers are known to fail, each through the whole lossless recipe.

`tests/traps/*.md` has titled sections of one model in ONNX's text syntax, read as the case pages
are. Settings before the block: `opset` (17 by default), `ir` (8 by default), and `keeps`, the
counts of operators that the result must have, such as `Identity 2, RandomUniform 1`. What the text
syntax cannot say is built here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxcomp
from case_pages import BLOCK, SECTION, parse
from lossless import again_failures, answer_failures, optimize, structure_failures
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, all_nodes
from onnxcomp.model_io import load_model
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Effect
from onnxcomp.runtime import Session, inline_bytes
from onnxcomp.structure import order_problems

FOLDER = Path(__file__).parent / "traps"
SETTING = re.compile(r"^(opset|ir|keeps): (.+)$", re.MULTILINE)
# What the folds and fuses of one small model may add: names and a few stored results.
GROWTH = 512


@dataclass(frozen=True)
class Trap:
    """One section of a page."""

    page: str
    title: str
    text: str
    opset: int = 17
    ir_version: int = 8
    keeps: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}: {self.title}"


def read_traps() -> list[Trap]:
    """Return every section of every page, sorted by page."""
    traps = []
    for path in sorted(FOLDER.glob("*.md")):
        for section in SECTION.finditer(path.read_text()):
            (text,) = BLOCK.findall(section["body"])
            settings = dict(SETTING.findall(section["body"].partition("```")[0]))
            counts = [item.split() for item in settings.get("keeps", "").split(", ") if item]
            traps.append(
                Trap(
                    path.stem,
                    section["title"].strip(),
                    text,
                    int(settings.get("opset", 17)),
                    int(settings.get("ir", 8)),
                    {name: int(count) for name, count in counts},
                )
            )
    return traps


TRAPS = read_traps()


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_trap(trap: Trap) -> None:
    proto = ir.to_proto(parse(trap.text, trap.opset))
    if trap.ir_version != 8:
        proto.ir_version = trap.ir_version
    result = check(proto)
    for op_type, count in trap.keeps.items():
        assert ops(result)[op_type] == count, ir.to_onnx_text(result)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in all_nodes(model))


def check(proto: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]] | None = None) -> ir.Model:
    """Optimize a legal model and hold the result to the contract; return it."""
    onnx.checker.check_model(proto)
    source = load_model(proto)
    result = optimize(source)
    shown = ir.to_onnx_text(result)[:5000]
    assert not structure_failures(source, result), shown
    assert not again_failures(result), shown
    assert len(inline_bytes(result)) <= len(inline_bytes(source)) + GROWTH, shown
    feeds = runnable_feeds(source, 3) if feeds is None else feeds
    failures = answer_failures(source, result, feeds, ignore=_unrepeatable(source, feeds))
    assert not failures, shown
    Session(result, optimize=True)
    return result


def _unrepeatable(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> frozenset[str]:
    """Name the outputs of unseeded random numbers, which follow from the index of their node."""
    answers = []
    for seed in (1, 2):
        onnxruntime.set_seed(seed)
        answers.append(Session(model).run(feeds[0]))
    parity = compare_outputs(*answers)
    return frozenset(name for name, item in parity.outputs.items() if item.broken or not item.equal)


# ---------------------------------------------------------------- what the text syntax cannot say
def model_of(text: str, opset: int = 17) -> onnx.ModelProto:
    return ir.to_proto(parse(text, opset))


@pytest.mark.parametrize("dim", [-1, "?", ""])
def test_dims_that_name_nothing(dim: int | str) -> None:
    proto = model_of("""g (float[A,3] x, float[B,3] z) => (float[C,3] y, float[D,3] w)
    <int64[2] s = {-1, 3}>
    { a = Reshape (x, s)   t = Shape (z)   b = Reshape (a, t)   y = Add (b, z)
      c = Reshape (y, s)   w = Add (c, x) }""")
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if isinstance(dim, int):
            first.dim_value = dim
        else:
            first.dim_param = dim
    rng = np.random.default_rng(0)
    feeds = [
        {name: rng.standard_normal((rows, 3)).astype(np.float32) for name in ("x", "z")}
        for rows in (1, 4)
    ]
    check(proto, feeds)


def test_one_row_broadcasts_where_no_dim_is_named() -> None:
    proto = model_of("""g (float["?",3] x, float["?",3] z) => (float["?",3] y)
    { a = Add (x, z)   s = Shape (x)   t = Shape (a)   e = Expand (x, t)   y = Mul (e, a) }""")
    rng = np.random.default_rng(0)
    shapes = [((1, 3), (4, 3)), ((4, 3), (1, 3)), ((4, 3), (4, 3))]
    draw = [tuple(rng.standard_normal(shape).astype(np.float32) for shape in p) for p in shapes]
    check(proto, [{"x": x, "z": z} for x, z in draw])


def test_metadata_documentation_and_producer_are_kept() -> None:
    proto = model_of("g (float[2] x) => (float[2] y) { a = Identity (x)   y = Relu (a) }")
    onnx.helper.set_model_props(proto, {"classes": "cat,dog", "stride": "32"})
    proto.producer_name, proto.doc_string, proto.domain, proto.model_version = "p", "d", "o.x", 7
    proto.graph.doc_string = "of the graph"
    result = ir.to_proto(check(proto))
    assert result.metadata_props == proto.metadata_props
    for name in ("producer_name", "doc_string", "domain", "model_version", "ir_version"):
        assert getattr(result, name) == getattr(proto, name)
    assert result.graph.doc_string == "of the graph"
    assert result.graph.name == "g"


def test_a_sequence_is_an_input() -> None:
    proto = model_of("""g (seq(float[2]) s) => (float[2] y, seq(float[2]) t)
    { t = Identity (s)   u = Identity (s)   k = Constant <value_int = 0> ()
      y = SequenceAt (u, k) }""")
    check(proto, [{"s": [np.ones(2, np.float32), np.zeros(2, np.float32)]}])  # type: ignore[dict-item]


def test_no_import_of_the_standard_operators() -> None:
    proto = model_of("""<ir_version: 8, opset_import: ["ai.onnx.ml" : 3]>
    g (float[2,3] x) => (float[2,3] y) { y = ai.onnx.ml.Normalizer <norm = "L2"> (x) }""")
    check(proto)


def test_the_standard_operators_under_their_other_name() -> None:
    proto = model_of("""<ir_version: 8, opset_import: ["ai.onnx" : 17]>
    g (float[2,3] x) => (float[2,3] y)
    { a = ai.onnx.Identity (x)   b = ai.onnx.Exp (a)   c = ai.onnx.Exp (a)
      y = ai.onnx.Add (b, c) }""")
    check(proto)


CUSTOM = """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
g (float[2] x) => (float[2] y, float[2] z) <float[2] v = {1, 2}, float[2] w = {1, 2}>
{ i = Identity (x)   a = acme.Mystery <k = 1> (i, v)   b = acme.Mystery <k = 1> (i, w)
  y = Add (a, b)   c = acme.Log (x)   e = Exp (x)   f = Exp (x)   z = Add (e, f)   k = Add (v, w)
  d = acme.Mystery (v, k)   q = acme.Identity (d)   dead = Relu (q) }"""


def test_unknown_operators_stay_with_what_they_read_and_the_rest_is_optimized() -> None:
    proto = model_of(CUSTOM)
    source = load_model(proto)
    result = optimize(source)
    assert not structure_failures(source, result)
    assert not again_failures(result)
    counts = Counter((node.domain, node.op_type) for node in all_nodes(result))
    assert {key: counts[key] for key in counts if key[0] == "acme"} == {
        ("acme", "Mystery"): 3,
        ("acme", "Log"): 1,
        ("acme", "Identity"): 1,
    }
    assert counts["", "Identity"] == counts["", "Relu"] == 0
    assert counts["", "Exp"] == 1


def test_unknown_operators_cannot_be_verified_and_the_error_says_what_to_do() -> None:
    proto = model_of(CUSTOM)
    with pytest.raises(ModelError, match="--no-verify"):
        onnxcomp.optimize(proto)
    assert len(onnxcomp.optimize(proto, verify=False).model.graph) < len(proto.graph.node)


def test_nodes_without_names() -> None:
    proto = model_of(OLD)
    for node in proto.graph.node:
        node.name = ""
    check(proto)


def test_all_nodes_of_one_name() -> None:
    """ONNX allows it and ONNX Runtime does not, so there are no answers to compare."""
    proto = model_of(OLD)
    for node in proto.graph.node:
        node.name = "same"
    onnx.checker.check_model(proto)
    source = load_model(proto)
    result = optimize(source)
    assert not structure_failures(source, result)
    assert not again_failures(result)


@pytest.mark.parametrize("condition", ["bool c = {0}", "bool c = {1}"])
def test_nodes_of_a_branch_have_the_names_of_nodes_outside(condition: str) -> None:
    proto = model_of(f"""g (float[2] x) => (float[2] y) <{condition}>
    {{ [one] a = Exp (x)   [two] b = Sin (a)
      [three] i = If (c) <
        then_branch = t () => (float[2] p) {{ [one] d = Neg (b)   [two] p = Abs (d) }},
        else_branch = e () => (float[2] q) {{ [two] e = Cos (b)   [one] q = Neg (e) }}>
      y = Add (i, a) }}""")
    check(proto)


def test_a_branch_weight_hides_one_of_the_graph() -> None:
    proto = model_of("""g (float[2] x, bool c) => (float[2] y) <float[2] k = {1, 2}>
    { i = Identity (x)   y = If (c) <
        then_branch = t () => (float[2] p) <float[2] u = {3, 4}> { p = Mul (i, u) },
        else_branch = e () => (float[2] q) { q = Sub (i, k) }> }""")
    (branch,) = (a.g for a in proto.graph.node[1].attribute if a.name == "then_branch")
    branch.initializer[0].name = branch.node[0].input[1] = "k"
    check_where_runnable(proto)


def test_a_branch_value_hides_a_weight_of_the_graph() -> None:
    """ONNX Runtime refuses it, so there are no answers to compare."""
    proto = model_of("""g (float[2] x, bool c) => (float[2] y) <float[2] k = {1, 2}>
    { i = Identity (x)   a = Add (i, k)
      y = If (c) <
        then_branch = t () => (float[2] p) { u = Exp (a)   p = Neg (u) },
        else_branch = e () => (float[2] q) { q = Sub (a, k) }> }""")
    (branch,) = (a.g for a in proto.graph.node[2].attribute if a.name == "then_branch")
    branch.node[0].output[0] = branch.node[1].input[0] = "k"
    result = optimize(load_model(proto))
    assert [node.op_type for node in all_nodes(result)] == ["Add", "If", "Exp", "Neg", "Sub"]
    assert not order_problems(result)


def check_where_runnable(proto: onnx.ModelProto) -> None:
    """Hold a model of doubtful names to the contract, whatever the checker thinks of it."""
    source = load_model(proto)
    result = optimize(source)
    assert not structure_failures(source, result)
    assert not again_failures(result)
    original = Session(proto.SerializeToString())
    for feeds in runnable_feeds(source, 3):
        assert not compare_outputs(original.run(feeds), Session(result).run(feeds)).failures(
            Effect.CLOSE
        )


@pytest.mark.parametrize("kind", ["Constant", "weight"])
def test_sparse_tensors_are_refused_by_name(kind: str) -> None:
    proto = model_of(
        "g (float[4] x) => (float[4] y) { k = Abs (x)   a = Mul (x, k)   y = Add (a, x) }"
    )
    values = onnx.helper.make_tensor("k", onnx.TensorProto.FLOAT, [2], [1.5, -2.0])
    places = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [2], [1, 3])
    sparse = onnx.helper.make_sparse_tensor(values, places, [4])
    if kind == "weight":
        del proto.graph.node[0]
        proto.graph.sparse_initializer.append(sparse)
    else:
        proto.graph.node[0].CopyFrom(
            onnx.helper.make_node("Constant", [], ["k"], sparse_value=sparse)
        )
    onnx.checker.check_model(proto)
    with pytest.raises(ModelError, match="sparse"):
        load_model(proto)


def test_weights_of_four_bits() -> None:
    proto = model_of(
        """g (float[2,4] x) => (float[2,2] y) <float s = {0.5}>
        { k = Exp (s)   d = DequantizeLinear (w, s)   m = MatMul (x, d)   y = Mul (m, k) }""",
        21,
    )
    proto.ir_version = 10
    data = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, [4, 2], [1, -2, 3, -4, 5, -6, 7, 0])
    proto.graph.initializer.append(data)
    assert ops(check(proto))["DequantizeLinear"] == 1


def test_large_weights_that_fold() -> None:
    proto = model_of("""g (float[2,64] x) => (float[2,32] y, float[32,64] z)
    <float[32,64] w, float[64] k, int64[1] s = {1}>
    { t = Transpose (w)   y = MatMul (x, t)   u = Mul (w, k)   v = Neg (u)   r = ReduceSum (x, s)
      q = ReduceMean <keepdims = 0> (r)   z = Mul (v, q) }""")
    check(proto)


def test_a_chain_of_2000_nodes() -> None:
    kinds = ["Identity", "Neg", "Transpose", "Exp", "Transpose", "Sin", "Relu", "Cos"]
    nodes = [
        onnx.helper.make_node(kinds[i % len(kinds)], [f"v{i}"], [f"v{i + 1}"]) for i in range(2000)
    ]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("v0", kind, [2, 3])],
        [onnx.helper.make_tensor_value_info("v2000", kind, [2, 3])],
    )
    imports = [onnx.helper.make_opsetid("", 17)]
    check(onnx.helper.make_model(graph, ir_version=8, opset_imports=imports))


def test_a_constant_chain_of_2000_nodes() -> None:
    lines = "   ".join(f"v{i + 1} = Add (v{i}, k)" for i in range(2000))
    proto = model_of(f"""g (float[2] x) => (float[2] y) <float[2] v0, float[2] k = {{0.5, 1}}>
    {{ {lines}   y = Add (x, v2000) }}""")
    assert ops(check(proto)) == {"Add": 1}


def test_a_value_that_500_nodes_read() -> None:
    lines = "   ".join(f"v{i} = {['Relu', 'Exp', 'Identity'][i % 3]} (a)" for i in range(500))
    names = ", ".join(f"v{i}" for i in range(500))
    proto = model_of(f"""g (float[2] x) => (float[2] y)
    {{ a = Neg (x)   {lines}   y = Sum ({names}) }}""")
    check(proto)


def test_branches_twenty_deep() -> None:
    inner = "r = Identity (a)"
    for depth in range(20):
        inner = (
            f"r{depth} = If (c) <then_branch = t () => (float[2] r) {{ {inner} }}, "
            f"else_branch = e () => (float[2] r) {{ i = Identity (x)   r = Exp (i) }}>"
            f"   r = Neg (r{depth})"
        )
    text = f"g (float[2] x, bool c) => (float[2] r) {{ a = Exp (x)   {inner} }}"
    check_where_runnable(model_of(text))


def test_a_graph_of_no_node() -> None:
    proto = model_of("g (float[2] x) => (float[2] x) <float[2] w> { y = Relu (x) }")
    del proto.graph.node[:]
    assert not list(all_nodes(check(proto)))


OLD = """g (float[1,2,6,6] x) => (float[1,5] y, float[1,3,2,2] z)
<float[3,2,3,3] w, float[3] s, float[3] b, float[3] mean, float[3] var, float[3,1,1] k,
 float[12,5] u, float[5] v, int64[2] flat = {1, -1}>
{ i = Identity (x)   c = Conv (i, w)   n = BatchNormalization (c, s, b, mean, var)
  d = Dropout (n)   m = Mul (d, k)   r = Relu (m)   z = MaxPool <kernel_shape = [3,3]> (r)
  t = Transpose <perm = [0,2,3,1]> (z)   o = Transpose <perm = [0,3,1,2]> (t)
  f = Reshape (o, flat)   g = Flatten (f)   p = MatMul (g, u)   a = Add (p, v)
  e = Concat <axis = 0> (a, a)   q = Constant <value = int64[1] {1}> ()
  l = Gather (e, q)  h = Cast <to = 1> (l)   y = Softmax (h) }"""


def newest_opset() -> int:
    """Return the newest operator set that both onnx and ONNX Runtime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 7, -1):
        proto = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset)
        try:
            Session(proto.SerializeToString())
        except ModelError:
            continue
        return opset
    raise AssertionError("there is none")


@pytest.mark.parametrize("opset", range(7, newest_opset() + 1))
def test_every_opset(opset: int) -> None:
    result = check(model_of(OLD, opset))
    assert ops(result)["Identity"] == ops(result)["BatchNormalization"] == 0
    assert ops(result)["Dropout"] == ops(result)["Transpose"] == 0


def test_the_callers_model_is_not_changed() -> None:
    proto = model_of("""g (float[2] x, bool c) => (float[2] y) <float[2] w, float[2] v>
    { k = Constant <value = float[2] other {1, 2}> ()   m = Mul (w, v)   a = Add (m, k)
      b = Mul (x, a)   y = Add (b, w) }""")
    content = proto.SerializeToString()
    for verify in (True, False):
        onnxcomp.optimize(proto, verify=verify)
        assert proto == onnx.ModelProto.FromString(content)
    model = ir.from_proto(onnx.ModelProto.FromString(content))
    onnxcomp.optimize(model)
    assert ir.to_proto(model) == onnx.ModelProto.FromString(content)


@pytest.mark.parametrize(
    "random", ["RandomNormalLike (i)", "Bernoulli (p)", "RandomUniform <shape = [6]> ()"]
)
def test_random_numbers_blame_no_pass(random: str) -> None:
    """Without a seed they follow from the index of their node, which removed nodes change."""
    report = onnxcomp.optimize(
        model_of(f"""g (float[6] x) => (float[6] y)
        {{ i = Identity (x)   p = Sigmoid (i)   d = Exp (p)   a = {random}   y = Add (i, a) }}""")
    ).report
    assert not [step.name for step in report.steps if step.status == "rolled-back"]
