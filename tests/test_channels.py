"""Removing channels gives what silencing them gives, on every topology, and nothing is guessed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from channel_nets import NETS, net
from onnxcomp.channels.groups import Channels, Group
from onnxcomp.channels.ids import UnruledError
from onnxcomp.channels.masking import neutralise_channels
from onnxcomp.channels.removal import remove_channels
from onnxcomp.channels.sharing import unshare_vectors
from onnxcomp.channels.splits import common_digits
from onnxcomp.channels.walk import find_channels
from onnxcomp.graph import Array, label, static_shape
from onnxcomp.runtime import Session
from onnxcomp.symbolic.dims import named

TOLERANCE = 1e-5  # of the output's range
# The first maker of each group, and its channels.
GROUPS: Mapping[str, Sequence[tuple[str, int]]] = {
    "vgg": [("c1", 8), ("c2", 6), ("h", 12)],
    "resnet basic": [("c1", 8), ("c2", 8), ("c4", 12), ("c5", 12)],
    "resnet bottleneck": [("c1", 16), ("c2", 4), ("c3", 4)],
    "mobilenet v2": [("stem", 8), ("e", 24), ("h", 16)],
    "mobilenet v3": [("s", 12), ("q1", 4), ("p", 6)],
    "densenet": [("a", 6), ("b", 4), ("c", 5), ("t", 8)],
    "shufflenet v1": [("a", 4), ("joined", 4), ("z", 8)],
    "shufflenet v2": [("a", 8), ("left", 8), ("z", 6)],
    "c2f": [("a", 6), ("a", 6), ("b", 6), ("z", 8)],
    "unet": [("a", 4), ("b", 8), ("up", 6), ("c", 8)],
    "bert": [("q0", 4), ("f0", 32)],
    "bert with computed shapes": [("q0", 4), ("f0", 32)],
    "vit": [("a0", 4), ("f0", 24)],
    "group norm": [("a", 4), ("c", 8)],
    "group norm in parts": [("a", 4), ("c", 8)],
    "grouped conv": [("a", 3), ("b", 2), ("d", 3), ("e", 6)],
    "shared weights": [("a", 8), ("d", 6)],
    "no rule": [("b", 6)],
    "reductions": [("a", 8), ("c", 4)],
    "prelu": [("a", 8), ("b", 6)],
    "quantized": [("a", 8), ("b", 6)],
    "capture": [("a", 8), ("c", 4)],
    "movement": [("a", 3), ("a", 5), ("c", 4), ("d", 4), ("g", 3), ("h", 8)],
    "sum over channels": [("a0", 5)],
    "mixer": [("a0", 10), ("c", 12)],
}
PINNED: Mapping[str, Mapping[str, str]] = {
    "bert": {"o0": "LayerNormalization", "f7": "LayerNormalization"},
    "vit": {"p0": "LayerNormalization", "y": "'y' is an output of the model"},
    "no rule": {"a": "Einsum"},
    "reductions": {"b": "ReduceMax"},
    "capture": {"b": "If"},
    "sum over channels": {"c0": "a product of two computed values"},
}
# One output channel per block, or a size that the open dims give: nothing to cut there.
SIZES = {"N": 2, "S": 5, "H": 6, "W": 4}


def feeds_of(model: ir.Model, seed: int = 0) -> dict[str, Array]:
    rng, feeds = np.random.default_rng(seed), {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.name is not None
        shape = [dim if isinstance(dim, int) else SIZES[str(dim.value)] for dim in value.shape]
        if value.dtype == ir.DataType.INT64:
            feeds[value.name] = rng.integers(0, 20, shape)
        elif value.dtype == ir.DataType.BOOL:
            feeds[value.name] = np.array(True)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def names(channels: Channels) -> list[tuple[str, int]]:
    return [(group.name.split(" -> ")[-1], group.channels) for group in channels.groups]


def random_kept(groups: Sequence[Group], seed: int) -> dict[Group, list[int]]:
    rng = np.random.default_rng(seed)
    return {
        group: sorted(rng.permutation(group.channels)[: rng.integers(1, group.channels + 1)])
        for group in groups
    }


def assert_parity(model: ir.Model, kept: Mapping[Group, Sequence[int]]) -> None:
    """Remove from the model, and compare with the silenced copy."""
    removed = {
        group: sorted(set(range(group.channels)) - set(left)) for group, left in kept.items()
    }
    silenced = neutralise_channels(model, removed)
    remove_channels(model, kept)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    expected, found = Session(silenced), Session(model)
    feeds = feeds_of(model)
    for name, after in found.run(feeds).items():
        before = expected.run(feeds)[name]
        assert after.shape == before.shape
        assert np.isfinite(before).all()
        assert np.abs(after - before).max() <= TOLERANCE * np.ptp(before), name


@pytest.mark.parametrize("name", NETS)
def test_the_groups(name: str) -> None:
    channels = find_channels(net(name))
    assert names(channels) == list(GROUPS[name])
    pinned = {label(node).split(" -> ")[-1]: reason for node, reason in channels.pinned.items()}
    for node, reason in PINNED.get(name, {}).items():
        assert pinned[node].startswith(reason)
    for group in channels.groups:
        for part in group.parts:
            shape = static_shape(part.value) if part.value.is_initializer() else None
            assert shape is None or part.places.size <= shape[part.axis]
            assert len(part.places) == group.channels
            assert len(np.unique(part.places)) == part.places.size


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_removing_is_silencing(name: str, seed: int) -> None:
    model = net(name)
    assert_parity(model, random_kept(find_channels(model).groups, seed))


@pytest.mark.parametrize("name", NETS)
def test_each_channel_alone_matters_and_can_go(name: str) -> None:
    original = Session(net(name)).run(feeds_of(net(name)))
    for number, (_, count) in enumerate(GROUPS[name]):
        model = net(name)
        group = find_channels(model).groups[number]
        assert_parity(model, {group: list(range(1, count))})
        after = Session(model).run(feeds_of(model))
        assert any(not np.array_equal(after[key], original[key]) for key in after)


@pytest.mark.parametrize("name", NETS)
def test_twice(name: str) -> None:
    model = net(name)
    for seed in (7, 8):
        groups = find_channels(model).groups
        kept = {
            group: sorted(np.random.default_rng(seed).permutation(group.channels)[:-1])
            for group in groups
        }
        assert_parity(model, kept)


@settings(max_examples=40)
@given(
    name=st.sampled_from(["shufflenet v1", "grouped conv", "movement", "unet", "vit"]),
    data=st.data(),
)
def test_any_choice(name: str, data: st.DataObject) -> None:
    model = net(name)
    kept = {
        group: data.draw(st.lists(st.integers(0, group.channels - 1), min_size=1, unique=True))
        for group in find_channels(model).groups
    }
    assert_parity(model, kept)


@pytest.mark.parametrize("name", NETS)
def test_removing_nothing_changes_nothing(name: str) -> None:
    model = net(name)
    before = ir.to_proto(model).SerializeToString()
    groups = find_channels(model).groups
    remove_channels(model, {group: range(group.channels) for group in groups})
    assert ir.to_proto(model).SerializeToString() == before


def test_finding_and_removing_are_deterministic() -> None:
    results = set()
    for _ in range(2):
        model = net("movement")
        remove_channels(model, random_kept(find_channels(model).groups, 3))
        results.add(ir.to_proto(model).SerializeToString())
    assert len(results) == 1


def test_what_cannot_be_removed_is_refused() -> None:
    model = net("vgg")
    group = find_channels(model).groups[0]
    with pytest.raises(ValueError, match="one channel must be left"):
        remove_channels(model, {group: []})
    with pytest.raises(ValueError, match="has the channels 0 to 7"):
        remove_channels(model, {group: [0, 8]})
    with pytest.raises(ValueError, match="was not found on this model"):
        remove_channels(net("vgg"), {group: [0]})
    remove_channels(model, {group: [0]})
    with pytest.raises(ValueError, match="was not found on this model"):
        remove_channels(model, {group: [0]})


def test_a_residual_stream_is_one_group() -> None:
    group = find_channels(net("resnet basic")).groups[0]
    assert [label(port.node).split(" -> ")[-1] for port in group.makers] == ["c1", "c3"]
    assert [label(port.node).split(" -> ")[-1] for port in group.readers] == ["c2", "c4", "c6"]


def test_heads_own_their_dims() -> None:
    group = find_channels(net("bert")).groups[0]
    widths = {
        label(port.node).split(" -> ")[-1]: port.part.places.tolist() for port in group.makers
    }
    assert set(widths) == {"q0", "k0", "v0"}
    assert widths["q0"][1] == [4, 5, 6, 7]
    packed = find_channels(net("vit")).groups[0].makers[0].part.places
    assert packed[1].tolist() == [*range(4, 8), *range(20, 24), *range(36, 40)]


def test_blocks_of_a_grouped_conv_stay_equal() -> None:
    model = net("grouped conv")
    groups = find_channels(model).groups
    assert groups[0].makers[0].part.places.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    remove_channels(model, {groups[0]: [0, 2], groups[3]: [1, 4]})
    counts = [node.attributes.get_int("group", 1) for node in model.graph if "Conv" in node.op_type]
    assert counts == [1, 4, 8, 4, 1, 2]


def test_a_flattened_channel_owns_its_places() -> None:
    group = find_channels(net("vgg")).groups[1]
    assert group.readers[0].part.places[1].tolist() == list(range(16, 32))


def test_constants_keep_their_names_and_inner_shapes_follow() -> None:
    model = net("vgg")
    remove_channels(model, {find_channels(model).groups[0]: [0, 1]})
    assert static_shape(model.graph.initializers["w1"]) == (2, 3, 3, 3)
    assert static_shape(model.graph.initializers["w2"]) == (6, 2, 3, 3)


def test_a_shared_constant_is_cut_once() -> None:
    model = net("shared weights")
    remove_channels(model, {find_channels(model).groups[0]: [2, 5]})
    assert static_shape(model.graph.initializers["w"]) == (2, 4, 3, 3)
    weights = [node.inputs[1] for node in model.graph if node.op_type == "Conv"]
    assert weights[0] is weights[1]


def test_vectors_shared_by_chance_tie_nothing_once_they_are_copied() -> None:
    text = """agraph (float[N, 4, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 4, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 8, 1, 1] w3, float[8] b>
    { a = Conv (x, w1, b)
      c = Conv (a, w2, b)
      y = Conv (c, w3, b) }"""
    model = parse(text, 17)
    feeds = feeds_of(model)
    before = Session(model).run(feeds)
    assert not find_channels(model).groups
    assert unshare_vectors(model) == 2
    assert unshare_vectors(model) == 0
    assert np.array_equal(Session(model).run(feeds)["y"], before["y"])
    groups = find_channels(model).groups
    assert [group.channels for group in groups] == [8, 8]
    assert_parity(model, random_kept(groups, 0))


def test_a_custom_operator_pins() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "other" : 1]>
        agraph (float[N, 3, 6, 6] x) => (float[N, 6, 6, 6] y)
        <float[8, 3, 1, 1] w1, float[8, 8, 1, 1] w2, float[6, 8, 1, 1] w3>
        { a = Conv (x, w1)
          b = Conv (a, w2)
          c = other.Relu (b)
          y = Conv (b, w3) }""",
        17,
    )
    channels = find_channels(model)
    assert names(channels) == [("a", 8)]
    assert "no rule" in next(iter(channels.pinned.values()))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "s = Shape (a) t = Cast <to = 1> (s) m = ReduceMax <keepdims = 0> (t) b = Mul (a, m)",
            "the size",
        ),
        ("b = Softmax <axis = 1> (a)", "Softmax"),
        ("b = LRN <size = 3> (a)", "LRN"),
        ("b, i = TopK <axis = 1> (a, three)", "TopK"),
        ("b = CumSum (a, one)", "CumSum"),
        ("b = LpNormalization <axis = 1> (a)", "LpNormalization"),
        ("b = Pad <mode = 'reflect'> (a, pads)", "Pad"),
        ("b = ArgMax <axis = 1> (a)", "ArgMax"),
    ],
)
def test_what_looks_across_channels_pins(body: str, why: str) -> None:
    body = body.replace("'", '"').replace(") ", ")\n")
    model = parse(
        f"""agraph (float[N, 3, 6, 6] x) => (float[N, C, 6, 6] y)
        <float[8, 3, 1, 1] w1, int64[1] three = {{3}}, int64 one = {{1}},
         int64[8] pads = {{0, 1, 0, 0, 0, 1, 0, 0}}>
        {{ a = Conv (x, w1)
          {body}
          z = Cast <to = 1> (b)
          y = Relu (z) }}""",
        17,
    )
    channels = find_channels(model)
    assert not channels.groups
    assert why in next(iter(channels.pinned.values()))


def test_what_a_computed_size_names_follows() -> None:
    """A Reshape to the shape of another value gets numbers of its own."""
    model = parse(
        """agraph (float[N, 4, H, W] x) => (float[N, 5, H, W] y)
        <float[8, 4, 1, 1] w1, float[8, 4, 1, 1] w2, float[5, 8, 1, 1] w3, float[5, 8, 1, 1] w4,
         int64[3] flat = {0, 8, -1}>
        { a = Conv (x, w1)
          b = Conv (x, w2)
          r = Reshape (a, flat)
          s = Shape (b)
          t = Reshape (r, s)
          c = Conv (t, w3)
          d = Conv (b, w4)
          y = Add (c, d) }""",
        17,
    )
    channels = find_channels(model)
    assert names(channels) == [("a", 8), ("b", 8)]
    assert_parity(model, {channels.groups[1]: [1, 2, 5]})


def test_common_digits() -> None:
    n = named("N")
    found = common_digits((n, 3, 24), (n, 3, 4, 6))
    assert [(p.source, p.target, p.size, p.below) for p in found] == [
        (1, 1, 3, (1, 1)),
        (2, 2, 4, (6, 1)),
        (2, 3, 6, (1, 1)),
    ]
    with pytest.raises(UnruledError):
        common_digits((4, 6), (6, 4))
    with pytest.raises(UnruledError):
        common_digits((n, 7), (7, n))


def test_speed() -> None:
    """A net of 600 nodes takes less than two seconds."""
    block = "c{1} = Conv (a{0}, w)\n r{1} = Relu (c{1})\n a{1} = Add (r{1}, a{0})\n"
    blocks = "".join(block.format(i, i + 1) for i in range(199))
    model = parse(
        "agraph (float[N, 64, 56, 56] x) => (float[N, 10, 56, 56] y)\n"
        "<float[64, 64, 1, 1] w, float[64, 64, 1, 1] v, float[10, 64, 1, 1] u>\n"
        "{ a0 = Conv (x, v)\n" + blocks + "y = Conv (a199, u) }",
        17,
    )
    start = time.perf_counter()
    channels = find_channels(model)
    assert time.perf_counter() - start < 2
    assert names(channels) == [("a0", 64)]
