"""Passes over Slice, Concat, Squeeze, Pad and the like keep every bit, at any size and form."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np
import onnx_ir as ir
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.edits import sweep
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, count_nodes
from onnxcomp.parity import compare_outputs
from onnxcomp.passes.fuse.fuse_consecutive_casts import DIGITS, INTEGERS
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.shapes import infer_shapes

OPEN_END = 2**63 - 1
bounds = st.one_of(st.integers(-7, 7), st.just(OPEN_END))


def numbers(name: str, items: list[int]) -> str:
    return f"int64[{len(items)}] {name} = {{{', '.join(map(str, items))}}}"


def check(text: str, name: str, *shapes: tuple[int, ...], opset: int = 17) -> int:
    """Run a model of one float input before and after a pass at these shapes; return the sites."""
    before = parse(text, opset)
    infer_shapes(before)
    after = before.clone()
    found = find_pass(name)
    sites = apply(found, after).sites
    sweep(after)
    if not sites:
        return 0
    assert count_nodes(after) <= count_nodes(before)
    assert apply(found, after.clone()).sites == 0
    for shape in shapes:
        feeds = {"x": np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)}
        parity = compare_outputs(Session(before).run(feeds), Session(after).run(feeds))
        assert not parity.failures(found.effect), (text, ir.to_onnx_text(after), shape)
    return sites


@settings(max_examples=400)
@given(
    first=st.tuples(bounds, bounds, st.sampled_from([1, 1, 2, 3, -1])),
    second=st.tuples(bounds, bounds, st.sampled_from([1, 1, 2, 3, -1])),
    dim=st.sampled_from(["N", "N", "5"]),
)
def test_two_slices(first: tuple[int, int, int], second: tuple[int, int, int], dim: str) -> None:
    constants = [
        numbers(f"{letter}{index}", [number])
        for letter, cut in (("f", first), ("s", second))
        for index, number in enumerate(cut)
    ]
    text = f"""g (float[{dim}] x) => (float[M] y) <{", ".join(constants)}, int64[1] a = {{0}}>
    {{ m = Slice (x, f0, f1, a, f2)   n = Slice (m, s0, s1, a, s2)   y = Relu (n) }}"""
    sizes = [(size,) for size in ((5,) if dim == "5" else (0, 1, 2, 4, 7, 9, 16))]
    check(text, "fuse-consecutive-slices", *sizes)


@settings(max_examples=200)
@given(edges=st.lists(bounds, min_size=3, max_size=4), dim=st.sampled_from(["N", "5"]))
def test_a_concat_of_slices(edges: list[int], dim: str) -> None:
    constants = [numbers(f"e{index}", [edge]) for index, edge in enumerate(edges)]
    slices = [f"p{i} = Slice (x, e{i}, e{i + 1}, a)" for i in range(len(edges) - 1)]
    parts = ", ".join(f"p{i}" for i in range(len(slices)))
    text = f"""g (float[{dim}] x) => (float[M] y) <{", ".join(constants)}, int64[1] a = {{0}}>
    {{ {" ".join(slices)}   m = Concat <axis = 0> ({parts})   y = Relu (m) }}"""
    sizes = [(size,) for size in ((5,) if dim == "5" else (0, 1, 2, 4, 7, 9, 16))]
    check(text, "eliminate-concat-of-slices", *sizes)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 3), min_size=2, max_size=4),
    bound=st.tuples(bounds, bounds),
    opset=st.sampled_from([11, 13, 18]),
)
def test_a_slice_of_a_concat(sizes: list[int], bound: tuple[int, int], opset: int) -> None:
    assume(sum(sizes))
    edges = list(accumulate(sizes, initial=0))
    parts = [f"p{i} = Slice (x, s{i}, e{i}, a)   c{i} = Neg (p{i})" for i in range(len(sizes))]
    names = ", ".join(f"c{i}" for i in range(len(sizes)))
    constants = [
        f"{numbers(f's{i}', [start])}, {numbers(f'e{i}', [end])}"
        for i, (start, end) in enumerate(pairwise(edges))
    ]
    wanted = f"{numbers('s', [bound[0]])}, {numbers('e', [bound[1]])}"
    head = f"""g (float[{sum(sizes)},2] x) => (float[M,2] y)
    <{", ".join(constants)}, {wanted}, int64[1] a = {{0}}>"""
    body = f"{' '.join(parts)}   m = Concat <axis = -2> ({names})   n = Slice (m, s, e, a)"
    shape = (sum(sizes), 2)
    check(f"{head} {{ {body}   y = Relu (n) }}", "eliminate-slice-of-concat", shape, opset=opset)
    check(f"{head} {{ {body}   y = Relu (n) }}", "fuse-slices-into-split", shape, opset=opset)


@st.composite
def reshapings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, list[int]]]]:
    """Draw a shape, and two Squeeze or Unsqueeze nodes that are legal on it, axes of any sign."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 1, 2]), min_size=1, max_size=4)))
    rank, ones = len(shape), [size == 1 for size in shape]
    nodes = []
    for _ in range(2):
        op = draw(st.sampled_from(["Squeeze", "Unsqueeze"])) if any(ones) else "Unsqueeze"
        if op == "Squeeze":
            places = [axis for axis in range(rank) if ones[axis]]
        else:
            places = list(range(rank + 1))
        picked = draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True))
        counted = rank if op == "Squeeze" else rank + len(picked)
        if op == "Squeeze":
            ones = [one for axis, one in enumerate(ones) if axis not in picked]
        else:
            free = iter(ones)
            ones = [True if axis in picked else next(free) for axis in range(counted)]
        rank = len(ones)
        signs = [draw(st.sampled_from([0, -counted])) for _ in picked]
        nodes.append((op, [axis + sign for axis, sign in zip(picked, signs, strict=True)]))
    return shape, nodes


@settings(max_examples=300)
@given(case=reshapings(), named=st.booleans(), opset=st.sampled_from([11, 13]))
def test_squeezes_and_unsqueezes(
    case: tuple[tuple[int, ...], list[tuple[str, list[int]]]], named: bool, opset: int
) -> None:
    shape, ((first, a), (second, b)) = case
    dims = ",".join("N" if named and size == 2 else str(size) for size in shape)
    if opset < 13:
        body = f"m = {first} <axes = {a}> (x)   n = {second} <axes = {b}> (m)"
        constants = ""
    else:
        body = f"m = {first} (x, a)   n = {second} (m, b)"
        constants = f"<{numbers('a', a)}, {numbers('b', b)}>"
    text = f"g (float[{dims}] x) => (float y) {constants} {{ {body}   y = Relu (n) }}"
    text = text.replace("(float y)", "(float[" + ",".join("ABCDEFGH"[: _rank(case)]) + "] y)")
    name = {
        ("Squeeze", "Squeeze"): "fuse-consecutive-squeezes",
        ("Unsqueeze", "Unsqueeze"): "fuse-consecutive-unsqueezes",
    }.get((first, second), "eliminate-squeeze-of-unsqueeze")
    sites = check(text, name, shape, opset=opset)
    assert sites or first != second


def _rank(case: tuple[tuple[int, ...], list[tuple[str, list[int]]]]) -> int:
    shape, nodes = case
    return len(shape) + sum(len(axes) * (1 if op == "Unsqueeze" else -1) for op, axes in nodes)


@settings(max_examples=150)
@given(
    op=st.sampled_from(["AveragePool", "MaxPool"]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 6),
    size=st.integers(1, 9),
    mode=st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]),
    counts=st.integers(0, 1),
)
def test_auto_pad(op: str, kernel: int, stride: int, size: int, mode: str, counts: int) -> None:
    assume(mode != "VALID" or size >= kernel)
    count = f", count_include_pad = {counts}" if op == "AveragePool" else ""
    text = f"""g (float[1,1,{size}] x) => (float[1,1,M] y) {{ y = {op} <auto_pad = "{mode}",
    kernel_shape = [{kernel}], strides = [{stride}]{count}> (x) }}"""
    check(text, "normalize-auto-pad", (1, 1, size))


@settings(max_examples=150)
@given(
    op=st.sampled_from(["AveragePool", "MaxPool"]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    size=st.integers(1, 7),
    own=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    counts=st.integers(0, 1),
)
def test_a_pad_before_a_pool(
    op: str,
    kernel: int,
    stride: int,
    size: int,
    own: tuple[int, int],
    pads: tuple[int, int],
    counts: int,
) -> None:
    assume(max(own) < kernel <= size + sum(own) + sum(pads))
    count = f", count_include_pad = {counts}" if op == "AveragePool" else ""
    fill = "0" if op == "AveragePool" else "-inf"
    text = f"""g (float[1,1,{size}] x) => (float[1,1,M] y)
    <float v = {{{fill}}}, {numbers("p", [0, 0, pads[0], 0, 0, pads[1]])}>
    {{ d = Pad (x, p, v)   y = {op} <kernel_shape = [{kernel}], strides = [{stride}],
    pads = [{own[0]}, {own[1]}]{count}> (d) }}"""
    check(text, "fuse-pad-into-pool", (1, 1, size))


def test_the_digits_of_types() -> None:
    for kind, digits in DIGITS.items():
        if kind is ir.DataType.BOOL:
            assert digits == 1
        elif kind in INTEGERS:
            assert digits == int(np.iinfo(kind.numpy()).max).bit_length()
        else:
            near = [2**digits - 1, 2**digits + 1]
            assert (np.array(near).astype(kind.numpy()).astype(np.int64) == near).tolist() == [
                True,
                False,
            ]


KINDS = [kind for kind in DIGITS if kind is not ir.DataType.BFLOAT16]


@settings(max_examples=150)
@given(kinds=st.tuples(*[st.sampled_from(KINDS)] * 3), seed=st.integers(0, 99))
def test_two_casts(kinds: tuple[ir.DataType, ir.DataType, ir.DataType], seed: int) -> None:
    source, target = (str(kind.name).lower() for kind in kinds[::2])
    text = f"""g ({source}[300] x) => ({target}[300] y)
    {{ m = Cast <to = {int(kinds[1])}> (x)   n = Cast <to = {int(kinds[2])}> (m)
       y = Identity (n) }}"""
    before = parse(text, 17)
    after = before.clone()
    if not apply(find_pass("fuse-consecutive-casts"), after).sites:
        return
    feeds = {"x": _bits(np.dtype(kinds[0].numpy()), seed)}
    try:
        wanted = Session(before).run(feeds)
    except ModelError:
        return  # ONNX Runtime has no such cast
    assert wanted["y"].tobytes() == Session(after).run(feeds)["y"].tobytes(), text


def _bits(dtype: np.dtype[np.generic], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, 300).astype(bool)
    return rng.integers(0, 256, 300 * dtype.itemsize, dtype=np.uint8).view(dtype)
