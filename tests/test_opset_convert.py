"""Operator sets up and down: every adapter, against ONNX Runtime, and what has no equivalent."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.errors import ModelError
from onnxcomp.graph import opset_version
from onnxcomp.opset_convert import convert_opset
from onnxcomp.parity import compare_outputs
from onnxcomp.reference import make_reference
from onnxcomp.registry import Effect
from onnxcomp.runtime import Session
from onnxcomp.verify import lossless_problems

X = "agraph (float[2, 4, 6, 6] x) => (float[A, B, C, D] y)"
FIVE = "<float[4] s, float[4] b, float[4] mean, float[4] var>"
# name: (body, the version it is of, those it is converted to)
UP = {
    "mean": ("y = ReduceMean <axes = [1, -1]> (x)", 13, (18, 21)),
    "max-all": ("y = ReduceMax (x)", 11, (13, 18)),
    "split": ("a, b = Split <axis = 1> (x)  y = Mul (a, b)", 13, (17, 18)),
    "grid": (
        """g = Constant <value_float = 0.3> ()  sh = Constant <value_ints = [2, 3, 3, 2]> ()
        grid = Expand (g, sh)  y = GridSample <mode = "bicubic"> (x, grid)""",
        16, (19, 20),
    ),
    "grid-default": (
        """g = Constant <value_float = 0.3> ()  sh = Constant <value_ints = [2, 3, 3, 2]> ()
        grid = Expand (g, sh)  y = GridSample (x, grid)""",
        16, (20,),
    ),
    "roi": (
        """r = Constant <value = float[1, 4] {0.5, 0.5, 4.2, 4.7}> ()
        i = Constant <value = int64[1] {0}> ()
        y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, r, i)""",
        15, (16, 17),
    ),
    "from-7": ("y = Dropout <ratio = 0.5> (x)", 7, (13, 21)),
}  # fmt: skip
DOWN = {
    "types-only": ("t = Relu (x)  y = Identity (t)", 21, (17, 13, 9)),
    "mean": (
        "a = Constant <value = int64[2] {1, -1}> ()  y = ReduceMean (x, a)", 18, (17, 11, 9),
    ),
    "sum": ("a = Constant <value = int64[1] {-3}> ()  y = ReduceSum (x, a)", 13, (12, 9)),
    "sum-all": ("y = ReduceSum (x)", 13, (11,)),
    "mean-empty": (
        "a = Constant <value = int64[0] {}> ()  y = ReduceMean (x, a)", 18, (13,),
    ),
    "squeeze": (
        """a = Constant <value_ints = [0]> ()  b = Constant <value_ints = [-5]> ()
        u = Unsqueeze (x, b)  y = Squeeze (u, a)""",
        13, (12, 10),
    ),
    "softmax": ("y = Softmax (x)", 13, (12, 9)),
    "log-softmax": ("y = LogSoftmax <axis = 3> (x)", 13, (11,)),
    "hardmax": ("y = Hardmax <axis = -1> (x)", 13, (10,)),
    "clip": (
        "a = Constant <value_float = -0.5> ()  b = Constant <value_float = 0.5> ()  "
        "y = Clip (x, a, b)", 13, (11, 10, 9),
    ),
    "clip-max": ("b = Constant <value_float = 0.5> ()  y = Clip (x, , b)", 13, (10,)),
    "pad": (
        """p = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 0, 2}> ()
        v = Constant <value_float = 0.5> ()  y = Pad (x, p, v)""",
        18, (13, 11, 10),
    ),
    "slice": (
        """a = Constant <value_ints = [1, 0]> ()  b = Constant <value_ints = [3, 5]> ()
        c = Constant <value_ints = [1, 2]> ()  d = Constant <value_ints = [1, 1]> ()
        y = Slice (x, a, b, c, d)""",
        13, (10, 9),
    ),
    "split-equal": ("a, b = Split <axis = 1, num_outputs = 2> (x)  y = Mul (a, b)", 18, (13, 11)),
    "split-sizes": (
        "n = Constant <value_ints = [1, 3]> ()  a, b = Split <axis = 1> (x, n)  y = Mul (a, b)",
        18, (13, 11),
    ),
    "dropout": ("y = Dropout <seed = 3> (x)", 13, (12, 10, 7)),
    "norm": ("y = BatchNormalization <training_mode = 0> (x, s, b, mean, var)", 15, (13, 9)),
    "resize": (
        """s = Constant <value = float[4] {1, 1, 2, 3}> ()
        y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
                    nearest_mode = "floor"> (x, , s)""",
        19, (18, 13, 11, 10, 9),
    ),
    "resize-linear": (
        """s = Constant <value = float[4] {1, 1, 2, 2}> ()
        y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , s)""",
        13, (11, 10),
    ),
    "resize-half": (
        """s = Constant <value = float[4] {1, 1, 2, 2}> ()
        y = Resize <mode = "linear", antialias = 0> (x, , s)""",
        18, (13, 11),
    ),
    "resize-sizes": (
        """n = Constant <value_ints = [2, 4, 9, 9]> ()
        y = Resize <mode = "cubic"> (x, , , n)""",
        18, (13, 11),
    ),
    "grid": (
        """g = Constant <value_float = 0.3> ()  sh = Constant <value_ints = [2, 3, 3, 2]> ()
        grid = Expand (g, sh)  y = GridSample <mode = "linear"> (x, grid)""",
        20, (16,),
    ),
    "roi": (
        """r = Constant <value = float[1, 4] {0.5, 0.5, 4.2, 4.7}> ()
        i = Constant <value = int64[1] {0}> ()
        y = RoiAlign <coordinate_transformation_mode = "output_half_pixel", output_height = 2,
                      output_width = 2, sampling_ratio = 2> (x, r, i)""",
        16, (10,),
    ),
    "scatter": (
        """i = Constant <value = int64[1, 1, 1, 2] {0, 3}> ()
        u = Constant <value = float[1, 1, 1, 2] {7, 8}> ()
        y = ScatterElements <axis = 3> (x, i, u)""",
        18, (13, 10),
    ),
    "top-k": (
        "k = Constant <value = int64[1] {2}> ()  y, i = TopK <axis = 1> (x, k)", 11, (10, 9),
    ),
    "depth": ('y = DepthToSpace <blocksize = 2, mode = "DCR"> (x)', 13, (9,)),
    "pool": ("y = AveragePool <kernel_shape = [2, 2], dilations = [1, 1]> (x)", 22, (13, 9)),
    "shape": ("s = Shape <start = 0> (x)  c = Cast <to = 1, saturate = 1> (s)  y = Add (x, x)",
              21, (13,)),
    "concat": ("y = Concat <axis = -1> (x, x)", 13, (9,)),
    "dft": (
        """a = Constant <value_int = 2> ()  e = Constant <value_ints = [2, 24, 6, 1]> ()
        z = Reshape (x, e)  y = DFT (z, , a)""",
        20, (17,),
    ),
}  # fmt: skip


def convert(model: ir.Model, version: int) -> ir.Model:
    reference = make_reference(model, tuple(runnable_feeds(model, 2)))
    return convert_opset(model, version, lambda found: lossless_problems(reference, found))


@pytest.mark.parametrize(
    ("body", "old", "new"),
    [
        pytest.param(body, old, new, id=f"{name}-{old}-{new}")
        for table in (UP, DOWN)
        for name, (body, old, versions) in table.items()
        for new in versions
    ],
)
def test_a_converted_model_answers_as_before(body: str, old: int, new: int) -> None:
    weights = FIVE if "mean, var" in body else ""
    before = parse(f"{X} {weights} {{ {body} }}", old)
    unchanged = ir.to_proto(before)
    after = convert(before, new)
    assert opset_version(after) == new
    assert ir.to_proto(before) == unchanged
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, 2):
        parity = compare_outputs(Session(before).run(feeds), Session(after).run(feeds))
        assert not parity.failures(Effect.CLOSE if "Pool" in body else Effect.EXACT)


@pytest.mark.parametrize(
    ("body", "old", "new", "reason"),
    [
        ("y = Softmax <axis = 1> (x)", 13, 12, "an axis that is not surely the last"),
        ("y = Softmax <axis = -2> (x)", 13, 12, "an axis that is not surely the last"),
        ("a, b, c, d = Split <axis = 2, num_outputs = 4> (x)  y = Add (a, b)", 18, 13, "unequal"),
        ("y = Reshape <allowzero = 1> (x, s)", 14, 13, "has no allowzero in opset 13"),
        ("a = Constant <value = int64[0] {}> ()  y = ReduceMean <noop_with_empty_axes = 1> (x, a)",
         18, 13, "noop_with_empty_axes"),
        ("p = Constant <value_ints = [1, 1]> ()  a = Constant <value_ints = [2]> ()  "
         "y = Pad (x, p, , a)", 18, 13, "takes 3 inputs in opset 13"),
        ("a = Constant <value_ints = [0]> ()  b = Constant <value_ints = [4]> ()  "
         "c = Constant <value_ints = [3]> ()  d = Constant <value_ints = [2]> ()  "
         "y = Slice (x, a, b, c, d)", 13, 9, "steps"),
        ("t = Constant <value = bool {1}> ()  r = Constant <value_float = 0.5> ()  "
         "y = Dropout (x, r, t)", 13, 11, "training_mode"),
        ("y, m = Dropout (x)  n = Not (m)", 13, 11, "a mask that is read"),
        ("s = Constant <value = float[4] {1, 1, 2, 2}> ()  y = Resize (x, , s)", 13, 10,
         "half_pixel, round_prefer_floor"),
        ('n = Constant <value_ints = [2, 4, 9, 9]> ()  '
         'y = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> '
         "(x, , , n)", 13, 10, "sizes or computed scales"),
        ('i = Constant <value = int64[1, 1, 1, 1] {0}> ()  '
         'u = Constant <value = float[1, 1, 1, 1] {7}> ()  '
         'y = ScatterElements <reduction = "add"> (x, i, u)', 16, 9, "has no reduction"),
        ("r = Constant <value = float[1, 4] {0, 0, 4, 4}> ()  "
         "i = Constant <value = int64[1] {0}> ()  y = RoiAlign (x, r, i)", 16, 15, "half_pixel"),
        ("y = GroupNormalization <num_groups = 2> (x, s, s)", 18, 21, "meaning that it had before"),
        ("y = GroupNormalization <num_groups = 2> (x, w, w)", 21, 18, "meaning that it has since"),
        ("y = Gelu (x)", 20, 19, "no Gelu in opset 19"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_refused(body: str, old: int, new: int, reason: str) -> None:
    weights = "<int64[4] s = {2, 4, 6, 6}, float[4] w>" if "(x, s)" in body else ""
    if "GroupNorm" in body:
        weights = "<float[2] s, float[4] w>"
    before = parse(f"{X} {weights} {{ {body} }}", old)
    with pytest.raises(ModelError, match=reason):
        convert_opset(before, new, lambda _: [])


def test_subgraphs_are_lowered_too() -> None:
    text = """agraph (bool c, float[4, 6] x) => (float[4, 1] y) {
        y = If (c) <then_branch = g1 () => (float[4, 1] a)
                      { k = Constant <value_ints = [1]> ()  a = ReduceMean (x, k) },
                    else_branch = g2 () => (float[4, 1] b)
                      { k = Constant <value_ints = [1]> ()  b = ReduceMax (x, k) }>
    }"""
    after = convert(parse(text, 18), 13)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    branches = [attr.as_graph() for attr in after.graph[0].attributes.values()]
    assert [[node.op_type for node in graph] for graph in branches] == [
        ["ReduceMean"],
        ["ReduceMax"],
    ]
    assert opset_version(after) == 13


def test_foreign_nodes_stay() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[2, 4] x) => (float[2, 4] y) { t = com.microsoft.Gelu (x)  y = Relu (t) }"""
    after = convert(parse(text, 17), 13)
    assert [node.domain for node in after.graph] == ["com.microsoft", ""]
    assert dict(after.opset_imports) == {"": 13, "com.microsoft": 1}
