"""The registry: names, options and needs are read from the signature."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.errors import RecipeError, UsageError
from onnxcomp.registry import Effect, apply, as_ir_pass, find_pass, list_passes

NET = """g (float[1,3,8,8] x) => (float[1,4,6,6] y)
<float[4,3,3,3] w, float[4] gamma, float[4] beta, float[4] mean, float[4] var>
{ c = Conv (x, w)   y = BatchNormalization (c, gamma, beta, mean, var) }"""


def test_every_pass_says_what_it_does_in_one_sentence() -> None:
    for found in list_passes().values():
        assert found.summary.endswith("."), found.name
        assert len(found.summary) <= 100, found.name
        assert found.function.__module__.endswith(found.function.__name__), found.name


def test_a_name_in_either_spelling_finds_the_pass() -> None:
    assert find_pass("fuse_bn_into_conv") is find_pass("fuse-bn-into-conv")
    assert find_pass("fuse-bn-into-conv").effect is Effect.CLOSE
    assert find_pass("fuse-bn-into-conv").needs == ("opset",)


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean fuse-bn-into-conv"):
        find_pass("fuse-bn-into-con")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:Pass", "cannot load the pass"),
        ("bad_passes:Missing", "cannot load the pass"),
        ("bad_passes:NOT_A_PASS", "not an onnx_ir pass"),
    ],
)
def test_foreign_passes_are_checked(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        find_pass(name)


def test_as_ir_pass_composes_with_other_managers() -> None:
    model = parse(NET, 17)
    manager = ir.passes.PassManager([as_ir_pass("fuse-bn-into-conv")], steps=5)
    assert manager(model).modified
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert not manager(model).modified


def test_as_ir_pass_refuses_what_needs_data() -> None:
    with pytest.raises(UsageError, match="needs ranges"):
        as_ir_pass("quantize-static")


def test_options_are_checked_by_name_and_type() -> None:
    model = parse(NET, 17)
    with pytest.raises(RecipeError, match="has no option 'size'"):
        apply(find_pass("fold-constants"), model, {"size": 3})
    with pytest.raises(RecipeError, match="max_growth must be a int"):
        apply(find_pass("fold-constants"), model, {"max_growth": "much"})


def test_leaves_carry_the_node_and_the_reason() -> None:
    model = parse(
        NET.replace("x)", "x, float[4,3,3,3] w)").replace(
            "float[4,3,3,3] w, float[4] g", "float[4] g"
        ),
        17,
    )
    outcome = apply(find_pass("fuse-bn-into-conv"), model)
    assert outcome.sites == 0
    [left] = outcome.left
    assert left.node == "BatchNormalization -> y"
    assert left.reason == "a weight of the convolution is not constant"
