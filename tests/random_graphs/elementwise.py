"""Operators that work on each element: arithmetic, activations, comparisons, casts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from random_graphs.builder import BATCH, CODES, ROUNDING, Graph, Item, broadcast

# Operators with a slope of at most one: the bound of the result, by that of the input.
SMOOTH: dict[str, tuple[int, Callable[[float], float]]] = {
    "Relu": (6, lambda b: b),
    "Neg": (6, lambda b: b),
    "Abs": (6, lambda b: b),
    "Identity": (1, lambda b: b),
    "Sigmoid": (6, lambda b: 1.0),
    "Tanh": (6, lambda b: 1.0),
    "LeakyRelu": (6, lambda b: b),
    "Elu": (6, lambda b: b),
    "Softsign": (1, lambda b: 1.0),
    "HardSigmoid": (6, lambda b: 1.0),
    "Softplus": (1, lambda b: b + 1),
    "Erf": (9, lambda b: 1.0),
    "Sin": (7, lambda b: 1.0),
    "Cos": (7, lambda b: 1.0),
    "Atan": (7, lambda b: 2.0),
    "HardSwish": (14, lambda b: b),
    "Gelu": (20, lambda b: b),
    "Celu": (12, lambda b: b),
    "ThresholdedRelu": (10, lambda b: b),
}
EXACT = frozenset({"Relu", "Neg", "Abs", "Identity"})
JUMPS = {"Floor": 6, "Ceil": 6, "Round": 11, "Sign": 9}


def smooth(g: Graph) -> None:
    op = g.pick([name for name, (since, _) in SMOOTH.items() if since <= g.opset])
    x = g.find(lambda item: op != "ThresholdedRelu" or item.noise == 0)
    if x is None:
        return
    bound = SMOOTH[op][1](x.bound)
    noise = x.noise if op in EXACT else 1.5 * x.noise + ROUNDING * max(bound, x.bound)
    g.add(op, [x], x.shape, bound=bound, noise=noise)


def jump(g: Graph) -> None:
    op = g.pick([name for name, since in JUMPS.items() if since <= g.opset])
    x = g.find(lambda item: item.noise == 0)
    if x is not None:
        g.add(op, [x], x.shape, bound=x.bound + 1)


def root(g: Graph) -> None:
    """|x| + c below a root, a logarithm or a fraction: c keeps the slope small."""
    x = g.find(lambda item: True)
    if x is None:
        return
    a = g.add("Abs", [x], x.shape, bound=x.bound, noise=x.noise)
    one = g.constant(np.array(1.0, np.float32))
    b = a and g.add(
        "Add", [a, one], x.shape, bound=x.bound + 1, noise=x.noise + ROUNDING * (x.bound + 1)
    )
    if b is not None:
        op = g.pick(["Sqrt", "Log", "Reciprocal"])
        g.add(op, [b], x.shape, bound=x.bound + 1, noise=b.noise + ROUNDING * b.bound)


def clip(g: Graph) -> None:
    x = g.find(lambda item: True)
    if x is None:
        return
    low, high = g.pick([-1.0, -0.5, 0.0, 0.25]), g.pick([6.0, 1.0, 0.5, 0.0, -0.25])
    which = g.number(0, 2)
    ends = (low if which != 1 else None, high if which != 2 else None)
    bound = max(x.bound, abs(low), abs(high))
    if g.opset < 11:
        low, high = min(low, high), max(low, high)  # ONNX Runtime insists
        ends = (low if which != 1 else None, high if which != 2 else None)
        g.add("Clip", [x], x.shape, bound=bound, noise=x.noise, min=ends[0], max=ends[1])
        return
    operands = [None if end is None else g.constant(np.array(end, np.float32)) for end in ends]
    if operands[1] is None:
        operands.pop()
    g.add("Clip", [x, *operands], x.shape, bound=bound, noise=x.noise)


def dropout(g: Graph) -> None:
    x = g.find(lambda item: True)
    if x is None:
        return
    if g.opset < 12:
        g.add("Dropout", [x], x.shape, bound=x.bound, noise=x.noise, ratio=0.5)
        return
    ratio = g.constant(np.array(0.5, np.float32)) if g.flip() else None
    train = g.constant(np.array(False)) if g.flip() else None
    inputs = [x, ratio, train]
    while inputs[-1] is None:
        inputs.pop()
    g.add("Dropout", inputs, x.shape, bound=x.bound, noise=x.noise)


def operand(g: Graph, x: Item, *, low: float = 0.25) -> Item | None:
    """Return a second operand that broadcasts with the first: a constant or another value."""
    if g.flip(8 if g.chained else 3):
        return g.find(lambda item: broadcast(item.shape, x.shape) is not None)
    return constant_like(g, x, low=low)


def constant_like(g: Graph, x: Item, *, low: float) -> Item:
    """Return a constant that broadcasts with a value: per channel, per column, a number, ..."""
    dims = [1 if dim == BATCH else int(dim) for dim in x.shape]
    way = g.number(0, 8)
    shape: Sequence[int] = ()
    if way == 1:
        shape = (1,)
    elif way in (2, 7) and x.rank >= 2:
        shape = (dims[1], *[1] * (x.rank - 2))  # per channel
    elif way in (3, 8) and x.rank >= 2:
        shape = (1, dims[1], *[1] * (x.rank - 2))
    elif way == 4:
        shape = dims[-1:]
    elif way == 5:
        shape = [dim if g.flip() else 1 for dim in dims]
    elif way == 6 and x.rank < 5:
        shape = (1, *dims) if g.flip() else dims
    return g.floats(*shape, low=low)


ARITHMETIC = ("Mul", "Add", "Mul", "Add", "Sub", "Div", "Min", "Max", "PRelu", "Mean", "Sum", "Pow")


def arithmetic(g: Graph) -> None:
    x = g.find(lambda item: True)
    if x is None:
        return
    op = g.pick(ARITHMETIC)
    if op == "Pow":
        two = g.constant(np.array(g.pick([1.0, 2.0]), np.float32))
        bound = max(x.bound**2, x.bound)
        noise = 2 * max(x.bound, 1) * x.noise + ROUNDING * bound
        g.add("Pow", [x, two], x.shape, bound=bound, noise=noise)
        return
    y = _divisor(g, x) if op == "Div" else operand(g, x)
    if y is None:
        return
    a, b = (x, y) if op in ("Div", "PRelu") or not g.flip() else (y, x)
    shape = broadcast(a.shape, b.shape)
    if shape is None or (op == "PRelu" and shape != x.shape):
        return
    bound, noise = combined(op, a, b)
    g.add(op, [a, b], shape, bound=bound, noise=noise)


def scale(g: Graph) -> None:
    """One of the four operations with a constant of any shape that fits."""
    x = g.find(lambda item: item.rank >= 1)
    if x is None:
        return
    op = g.pick(["Mul", "Add", "Sub", "Div"])
    y = _divisor(g, x) if op == "Div" and g.flip() else constant_like(g, x, low=0.5)
    if op == "Div" and y.bound < 0.5:
        return
    a, b = (y, x) if g.flip(3) and op != "Div" else (x, y)
    shape = broadcast(a.shape, b.shape)
    if shape is not None:
        bound, noise = combined(op, a, b)
        g.add(op, [a, b], shape, bound=bound, noise=noise)


def _divisor(g: Graph, x: Item) -> Item:
    dims = [1 if dim == BATCH else int(dim) for dim in x.shape]
    shape = [dim if g.flip() else 1 for dim in dims] if g.flip() else []
    sign = -1.0 if g.flip(4) else 1.0
    return g.constant(np.asarray(sign * g.rng.uniform(0.5, 2, shape), np.float32))


def combined(op: str, a: Item, b: Item) -> tuple[float, float]:
    if op in ("Min", "Max"):
        return max(a.bound, b.bound), max(a.noise, b.noise)
    if op in ("Mul", "PRelu"):
        bound = max(a.bound * b.bound, a.bound if op == "PRelu" else 0.0)
        noise = max(a.bound, 1) * b.noise + max(b.bound, 1) * a.noise
    elif op == "Div":  # by a constant of at least a half
        bound, noise = 2 * a.bound, 2 * a.noise
    else:
        bound, noise = a.bound + b.bound, a.noise + b.noise
    return bound, noise + ROUNDING * bound


def compare(g: Graph) -> None:
    """A comparison of exact values, perhaps negated."""
    if g.flip(3):
        x = g.find(lambda item: True, "i")
        y: Item | None = g.constant(np.array(g.number(-2, 2), np.int64))
    else:
        x = g.find(lambda item: item.noise == 0)
        y = x and operand(g, x)
    shape = None if x is None or y is None else broadcast(x.shape, y.shape)
    if x is None or y is None or shape is None or y.noise or (x.kind == "i" and g.opset < 9):
        return
    op = g.pick(["Less", "Greater", *(["LessOrEqual", "GreaterOrEqual"] if g.opset >= 16 else [])])
    c = g.add(op, [x, y], shape, kind="b")
    if c is not None and g.flip():
        g.add("Not", [c], shape, kind="b")


def logic(g: Graph) -> None:
    a = g.find(lambda item: True, "b")
    b = a and g.find(lambda item: broadcast(item.shape, a.shape) is not None, "b")
    shape = None if a is None or b is None else broadcast(a.shape, b.shape)
    if a is not None and b is not None and shape is not None:
        g.add(g.pick(["And", "Or", "Xor"]), [a, b], shape, kind="b")


def where(g: Graph) -> None:
    c = g.find(lambda item: True, "b")
    x = c and g.find(lambda item: broadcast(item.shape, c.shape) is not None)
    if c is None or x is None:
        return
    y = operand(g, x)
    shape = None if y is None else broadcast(x.shape, y.shape)
    shape = None if shape is None else broadcast(shape, c.shape)
    if y is not None and shape is not None:
        bound, noise = combined("Max", x, y)
        g.add("Where", [c, x, y], shape, bound=bound, noise=noise)


def cast(g: Graph) -> None:
    """To integers, booleans, half precision and back; none of it may read a rounded value."""
    to = g.pick(["f", "i", "b", "half", "double"])
    if to == "f":
        x = g.find(lambda item: True, g.pick(["f", "i", "b"]))
        if x is not None:
            bound = x.bound if x.kind != "b" else 1.0
            g.add("Cast", [x], x.shape, bound=bound, noise=x.noise, to=CODES["f"])
        return
    kind = g.pick(["f", "i"]) if to in CODES else "f"
    x = g.find(lambda item: item.noise == 0 or to == "double", kind)
    if x is None:
        return
    if to in CODES:
        g.add("Cast", [x], x.shape, kind=to, bound=x.bound + 1, to=CODES[to])
        return
    code = {"half": onnx.TensorProto.FLOAT16, "double": onnx.TensorProto.DOUBLE}[to]
    (name,) = g.node("Cast", [x], to=code)
    middle = Item(name, to, x.shape, x.bound, x.noise, x.constant)
    g.add("Cast", [middle], x.shape, bound=x.bound, noise=x.noise, to=CODES["f"])


def integers(g: Graph) -> None:
    x = g.find(lambda item: True, "i")
    if x is None:
        return
    op = g.pick(["Add", "Mul", "Sub", "Div", "Mod", "Neg", "Abs", "MatMul"])
    if op in ("Neg", "Abs"):
        g.add(op, [x], x.shape, kind="i", bound=x.bound)
    elif op == "MatMul":
        if x.rank == 2 and x.shape[1] != BATCH:
            inner = int(x.shape[1])
            w = g.constant(g.rng.integers(-3, 4, (inner, 3)))
            m = g.add("MatMul", [x, w], (x.shape[0], 3), kind="i", bound=3 * inner * x.bound)
            b = g.constant(g.rng.integers(-3, 4, 3))
            if m is not None:
                g.add("Add", [m, b], m.shape, kind="i", bound=m.bound + 3)
    elif op != "Mod" or g.opset >= 10:
        low = 1 if op in ("Div", "Mod") else -2
        y = g.constant(np.array(g.number(low, 4), np.int64))
        bound = x.bound * 4 if op == "Mul" else x.bound + 4
        g.add(op, [x, y], x.shape, kind="i", bound=bound)


def fraction(g: Graph) -> None:
    """a * (1 / b), and 1 / b alone."""
    y = g.floats(low=0.5)
    x = g.find(lambda item: True)
    if x is None or y.bound < 0.5:
        return
    (name,) = g.node("Reciprocal", [y])
    _multiply(g, x, Item(name, "f", (), 2.0, ROUNDING, constant=True))


def _multiply(g: Graph, x: Item, y: Item) -> None:
    bound, noise = combined("Mul", x, y)
    g.add("Mul", [x, y] if g.flip() else [y, x], x.shape, bound=bound, noise=noise)
