"""The lists and limits of the fold family, and the keys that equal weights share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxcomp.passes.cleanup._content import BLOCK, BLOCKS, SHORT, content, outline, sample
from onnxcomp.passes.fold import fold_constants, fold_shape_arithmetic
from onnxcomp.passes.fold.fold_constants import EXPANDING, _is_foldable, _misfit
from onnxcomp.symbolic.content_rules import CONTENT_RULES

MIB = 2**20


def node(op_type: str, size: int = 4, domain: str = "") -> ir.Node:
    value = ir.val("x", const_value=ir.tensor(np.zeros(size // 4, np.float32), name="x"))
    made = ir.node(op_type, [value], domain=domain)
    made.outputs[0].name = "y"
    return made


def test_arithmetic_on_shapes_is_what_has_a_rule() -> None:
    assert fold_shape_arithmetic.ARITHMETIC | {"Identity", "Transpose"} == CONTENT_RULES.keys()


@pytest.mark.parametrize(
    "op_type",
    [
        *("ConstantOfShape", "Tile", "Expand", "Range", "Pad", "OneHot", "Resize", "Upsample"),
        *("EyeLike", "CenterCropPad", "Col2Im", "MaxUnpool", "AffineGrid", "STFT", "DFT"),
        *("HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "RoiAlign"),
    ],
)
def test_what_may_explode_is_computed_only_when_its_size_is_known(op_type: str) -> None:
    made = node(op_type)
    assert op_type in EXPANDING
    assert _misfit(made, {}, {}) == "the size of its result is not known"
    assert _misfit(made, {made.outputs[0]: 16}, {}) is None
    made.outputs[0].name = ""
    assert _misfit(made, {}, {}) is None


def test_others_are_computed_to_learn_their_size() -> None:
    assert len(EXPANDING) == 20
    assert _misfit(node("Add"), {}, {}) is None


@pytest.mark.parametrize("taken", [0, 4, 4 * MIB])
def test_how_large_a_result_may_be(taken: int) -> None:
    made = ir.node("Mul", [ir.val("a")])
    source, result = made.inputs[0], made.outputs[0]
    assert source is not None
    largest = 64 * MIB + 2 * taken
    assert _misfit(made, {source: taken, result: largest}, {}) is None
    too_large = _misfit(made, {source: taken, result: largest + 1}, {})
    assert too_large == f"its result would take {largest + 1:,} B"


def test_what_is_not_known_counts_as_nothing_taken() -> None:
    made = ir.node("Mul", [ir.val("a")])
    assert _misfit(made, {made.outputs[0]: 64 * MIB}, {}) is None
    assert _misfit(made, {made.outputs[0]: 64 * MIB + 1}, {}) is not None


def test_a_type_that_is_not_returned_is_named() -> None:
    made = node("Cast")
    kinds = {made.outputs[0]: ir.DataType.BFLOAT16}
    assert _misfit(made, {}, kinds) == "ONNX Runtime does not return values of type BFLOAT16"


@pytest.mark.parametrize(
    ("op_type", "foldable"),
    [
        *(("Add", True), ("Shape", False), ("Size", False), ("SequenceAt", False)),
        *(("ConcatFromSequence", False), ("OptionalHasElement", False), ("Loop", False)),
        *(("QuantizeLinear", False), ("DequantizeLinear", False), ("RandomNormalLike", False)),
    ],
)
def test_what_is_folded(op_type: str, foldable: bool) -> None:
    assert _is_foldable(node(op_type)) is foldable
    assert not _is_foldable(node(op_type, domain="com.example"))


def test_nothing_is_made_of_nothing() -> None:
    assert not _is_foldable(ir.node("Add", [None, None]))
    assert not _is_foldable(ir.node("Constant", []))


def test_a_reference_or_a_graph_is_not_folded() -> None:
    made = node("Clip")
    made.attributes["min"] = ir.RefAttr("min", "low", ir.AttributeType.FLOAT)
    assert not _is_foldable(made)
    own = node("Op")
    own.attributes["body"] = ir.AttrGraph("body", ir.Graph([], [], nodes=[]))
    own.domain = ""
    assert _is_foldable(own)  # a standard operator outside control flow has no graph
    scan = node("Scan")
    scan.attributes["body"] = ir.AttrGraph("body", ir.Graph([], [], nodes=[]))
    assert not _is_foldable(scan)


def test_the_limits_are_the_documented_ones() -> None:
    assert fold_constants.LARGEST == 64 * MIB
    assert fold_constants.UNCOUNTED == 1024
    assert fold_constants.GROWTH_PER_WEIGHT == 1 / 2000
    assert fold_constants.fold_constants.__kwdefaults__ == {"max_growth": 128}


# ---------------------------------------------------------------- keys of weights
def weight(data: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> ir.TensorProtocol:
    return ir.tensor(data)


LONG = (BLOCKS + 4) * BLOCK


def test_keys_of_equal_and_of_other_weights() -> None:
    data = np.arange(LONG, dtype=np.float32)
    for look in (outline, sample, content):
        assert look(weight(data)) == look(weight(data.copy()))
        assert look(weight(data)) != look(weight(data.reshape(2, -1)))
        assert look(weight(data)) != look(weight(data[:-1]))
    assert outline(weight(data)) == outline(weight(data + 1))
    assert sample(weight(data)) != sample(weight(data + 1))


@pytest.mark.parametrize("place", [0, BLOCK // 4 - 1, LONG - BLOCK // 4, LONG - 1])
def test_a_sample_sees_both_ends(place: int) -> None:
    data = np.zeros(LONG, np.float32)
    other = data.copy()
    other[place] = 1
    assert sample(weight(data)) != sample(weight(other))


def test_a_sample_sees_as_many_blocks_as_it_says() -> None:
    data = np.zeros(LONG, np.float32)
    base, seen = sample(weight(data)), 0
    for place in range(0, LONG, BLOCK // 4):
        other = data.copy()
        other[place : place + BLOCK // 4] = 1
        seen += sample(weight(other)) != base
    assert BLOCKS <= seen <= 2 * BLOCKS
    assert content(weight(other)) != content(weight(data))


@pytest.mark.parametrize("size", [SHORT // 4, SHORT // 4 + 1, BLOCKS * BLOCK // 4])
def test_short_ones_are_looked_at_whole(size: int) -> None:
    data = np.zeros(size, np.float32)
    for place in range(0, size, max(1, size // 7)):
        other = data.copy()
        other[place] = -0.0
        assert sample(weight(data)) != sample(weight(other))
        assert sample(weight(data)) == content(weight(data))


def test_up_to_a_size_the_bytes_are_the_key() -> None:
    whole = content(weight(np.zeros(SHORT // 4, np.float32)))
    digest = content(weight(np.zeros(SHORT // 4 + 1, np.float32)))
    assert isinstance(whole, tuple)
    assert isinstance(digest, tuple)
    assert (len(whole[1]), len(digest[1])) == (SHORT, 20)


def test_strings_are_their_own_key() -> None:
    one, same, other = (
        ir.StringTensor([text.encode()], shape=ir.Shape([1])) for text in ("a", "a", "b")
    )
    for look in (sample, content):
        assert look(one) == look(same)
        assert look(one) != look(other)
