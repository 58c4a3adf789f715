"""Small models of what exporters write, with what a quantizer should make of each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Exhibit:
    """A model in ONNX's text syntax, and what is expected of its int8 form.

    `floats` are the operators that stay float in ONNX Runtime's graph and could have been int8;
    `reasons` how the reasons that are left begin. `int8` are kernels that must be there, each as
    often. `lossless` says that the lossless passes go first. `least` is the signal-to-noise ratio
    of the outputs in dB.
    """

    text: str
    int8: dict[str, int] = field(default_factory=dict)
    floats: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()
    opset: int = 17
    lossless: bool = False
    least: float = 18.0


IMAGE = "agraph (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)"

RESIDUAL = """agraph (float[N, 8, 12, 12] x) => (float[N, 4] y)
<float[8, 8, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8] b2, float[8, 4] w3, float[4] b3>
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    [add] s = Add (c2, r1)
    r2 = Relu (s)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
    g = GlobalAveragePool (m)
    f = Flatten (g)
    y = Gemm (f, w3, b3)
}"""
SQUEEZE_EXCITE = f"""{IMAGE}
<float[8, 8, 1, 1] w1, float[4, 8, 1, 1] w2, float[4] b2, float[8, 4, 1, 1] w3, float[8] b3,
 float[8, 8, 1, 1] w4>
{{
    c = Conv (x, w1)
    g = GlobalAveragePool (c)
    a = Conv (g, w2, b2)
    r = Relu (a)
    e = Conv (r, w3, b3)
    gate = Sigmoid (e)
    m = Mul (c, gate)
    y = Conv (m, w4)
}}"""
SILU = f"""{IMAGE}
<float[8, 8, 1, 1] w1, float[8, 1, 3, 3] w2>
{{
    c = Conv (x, w1)
    gate = Sigmoid (c)
    m = Mul (c, gate)
    y = Conv <group = 8, pads = [1, 1, 1, 1]> (m, w2)
}}"""
CONCAT = f"""{IMAGE}
<float[8, 8, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 16, 1, 1] w3>
{{
    a = Conv (x, w1)
    b = Conv (x, w2)
    r = Relu (b)
    p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
    c = Concat <axis = 1> (a, p)
    y = Conv (c, w3)
}}"""
ATTENTION = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
<float[16, 16] wq, float[16, 16] wk, float[16, 16] wv, float[16, 16] wo, float[16] bq,
 int64[4] heads = {0, 6, 4, 4}, int64[3] flat = {0, 6, 16}>
{
    q0 = MatMul (x, wq)
    q1 = Add (q0, bq)
    q2 = Reshape (q1, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q2)
    k0 = MatMul (x, wk)
    k1 = Reshape (k0, heads)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v0 = MatMul (x, wv)
    v1 = Reshape (v0, heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    scores = MatMul (q, k)
    p = Softmax <axis = -1> (scores)
    o = MatMul (p, v)
    o1 = Transpose <perm = [0, 2, 1, 3]> (o)
    o2 = Reshape (o1, flat)
    y = MatMul (o2, wo)
}"""
CLIP = f"""{IMAGE}
<float[8, 8, 3, 3] w1, float low = {{0.0}}, float high = {{6.0}}, float[8, 8, 1, 1] w2>
{{
    c = Conv <pads = [1, 1, 1, 1]> (x, w1)
    r = Clip (c, low, high)
    y = Conv (r, w2)
}}"""
PRE_ACTIVATION = f"""{IMAGE}
<float[8, 8, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 8, 1, 1] w3>
{{
    c = Conv (x, w1)
    r = Relu (c)
    d = Conv (r, w2)
    s = Add (c, d)
    y = Conv (s, w3)
}}"""
HARD_SWISH = f"""{IMAGE}
<float[8, 8, 1, 1] w, float[8] b = {{3, -3, 1, -1, 2, -2, 0, 4}}, float[8, 1, 3, 3] d>
{{
    c = Conv (x, w, b)
    h = HardSwish (c)
    e = Conv <group = 8, pads = [1, 1, 1, 1]> (h, d)
    i = HardSwish (e)
    y = Conv (i, w)
}}"""
GATED_SWISH = f"""{IMAGE}
<float[8, 8, 1, 1] w, float[8] b = {{3, -3, 1, -1, 2, -2, 0, 4}}>
{{
    c = Conv (x, w, b)
    g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (c)
    h = Mul (g, c)
    y = Conv (h, w)
}}"""
WRITTEN_SWISH = f"""{IMAGE}
<float[8, 8, 1, 1] w, float[8] b = {{3, -3, 1, -1, 2, -2, 0, 4}}, float three = {{3.0}},
 float six = {{6.0}}, float zero = {{0.0}}>
{{
    c = Conv (x, w, b)
    s = Add (c, three)
    l = Clip (s, zero, six)
    m = Mul (c, l)
    h = Div (m, six)
    y = Conv (h, w)
}}"""
SCALED_SWISH = f"""{IMAGE}
<float[8, 8, 1, 1] w, float[8] b = {{3, -3, 1, -1, 2, -2, 0, 4}}, float[8, 8, 3, 3] v,
 float[1] k = {{1.7}}, float[1] s = {{0.4}}>
{{
    c = Conv (x, w, b)
    g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (c)
    h = Mul (c, g)
    i = Mul (k, h)
    j = Add (i, s)
    y = Conv <pads = [1, 1, 1, 1]> (j, v)
}}"""
HARD_GATE = SQUEEZE_EXCITE.replace("Sigmoid (e)", "HardSigmoid <alpha = 0.2, beta = 0.5> (e)")
LEAKY = f"""{IMAGE}
<float[8, 8, 3, 3] w, float[8] b, float[8, 8, 1, 1] v>
{{
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    l = LeakyRelu <alpha = 0.1> (c)
    y = Conv (l, v)
}}"""
TRANSPOSED = f"""{IMAGE}
<float[8, 8, 1, 1] w, float[8, 8, 3, 3] t>
{{
    c = Conv (x, w)
    u = ConvTranspose <pads = [1, 1, 1, 1]> (c, t)
    y = Conv (u, w)
}}"""
GEMM = """agraph (float[N, 8] x) => (float[N, 3] y)
<float[6, 8] w1, float[1, 6] b1, float[6, 3] w2, float one = {2.0}>
{
    a = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w1, b1)
    r = Relu (a)
    y = Gemm <alpha = 3.0, beta = 0.25> (r, w2, one)
}"""
SHARED = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y, float[N, 8, 6, 6] z)
<float[8, 8, 3, 3] w, float[8] b>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    y = Conv <pads = [1, 1, 1, 1]> (a, w, b)
    z = Conv <pads = [1, 1, 1, 1]> (a, w, b)
}"""
DYNAMIC = """agraph (float[N, 8, H, W] x) => (float[N, 8, H, W] y)
<float[8, 8, 3, 3] w, float[8] b>
{
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (c)
    d = Conv <pads = [1, 1, 1, 1]> (r, w, b)
    a = Add (d, x)
    y = Conv <pads = [1, 1, 1, 1]> (a, w, b)
}"""
HEAD = """agraph (float[N, 8, 12, 12] x) => (float[N, 6, 12, 12] y)
<float[8, 8, 1, 1] w, float[4, 8, 1, 1] v, float[2, 8, 1, 1] u, float k = {200.0}>
{
    c = Conv (x, w)
    r = Relu (c)
    b = Conv (r, v)
    p = Mul (b, k)
    q = Relu (p)
    s = Conv (r, u)
    t = Sigmoid (s)
    y = Concat <axis = 1> (q, t)
}"""
NORM = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
<float[16, 16] w, float[16] g, float[16] b, float[16, 16] v>
{
    m = MatMul (x, w)
    a = Add (m, x)
    n = LayerNormalization <axis = -1> (a, g, b)
    y = MatMul (n, v)
}"""
WRITTEN_NORM = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
<float[16, 16] w, float[16] g, float[16] b, float[16, 16] v, float two = {2.0}, float e = {1e-5}>
{
    m = MatMul (x, w)
    u = ReduceMean <axes = [-1]> (m)
    d = Sub (m, u)
    p = Pow (d, two)
    q = ReduceMean <axes = [-1]> (p)
    r = Add (q, e)
    s = Sqrt (r)
    t = Div (d, s)
    h = Mul (t, g)
    n = Add (h, b)
    y = MatMul (n, v)
}"""
GELU = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
<float[16, 16] w, float[16] b, float[16, 16] v, float r = {1.4142135}, float i = {1.0},
 float h = {0.5}>
{
    m = MatMul (x, w)
    a = Add (m, b)
    d = Div (a, r)
    e = Erf (d)
    p = Add (e, i)
    q = Mul (a, p)
    g = Mul (q, h)
    y = MatMul (g, v)
}"""
WRITTEN_SOFTMAX = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
<float[16, 16] w, float[16, 16] v>
{
    m = MatMul (x, w)
    t = ReduceMax <axes = [-1]> (m)
    d = Sub (m, t)
    e = Exp (d)
    s = ReduceSum <axes = [-1]> (e)
    p = Div (e, s)
    y = MatMul (p, v)
}"""
EMBEDDING = """agraph (int64[N, 6] x) => (float[N, 6, 16] y)
<float[10, 16] table, float[16] b, float[16, 16] w, int64 ten = {10}>
{
    i = Mod (x, ten)
    e = Gather (table, i)
    a = Add (e, b)
    y = MatMul (a, w)
}"""
TOP = """agraph (float[N, 8, 12, 12] x) => (float[N, M] y)
<float[8, 8, 1, 1] w, int64[2] flat = {0, -1}, int64[1] k = {5}>
{
    c = Conv (x, w)
    s = Sigmoid (c)
    f = Reshape (s, flat)
    y, place = TopK (f, k)
}"""
NMS = """agraph (float[1, 8, 4, 4] x) => (int64[2] y)
<float[4, 8, 1, 1] w, float[1, 8, 1, 1] v, int64[3] flat = {1, 4, 16}, int64[3] one = {1, 1, 16},
 int64 some = {3}, float whole = {1.0}>
{
    b = Conv (x, w)
    c = Reshape (b, flat)
    d = Transpose <perm = [0, 2, 1]> (c)
    s = Conv (x, v)
    t = Sigmoid (s)
    u = Reshape (t, one)
    z = NonMaxSuppression (d, u, some, whole)
    y = Shape (z)
}"""
RECURRENT = """agraph (float[6, N, 16] x) => (float[6, N, 4] y)
<float[1, 32, 16] w, float[1, 32, 8] r, float[8, 4] v, int64[1] one = {1}>
{
    a = LSTM <hidden_size = 8> (x, w, r)
    b = Squeeze (a, one)
    y = MatMul (b, v)
}"""
GATED_UNIT = RECURRENT.replace("LSTM", "GRU").replace("[1, 32,", "[1, 24,")
BRANCHES = """agraph (bool c, float[N, 8] x) => (float[N, 8] y)
<float[8, 8] w> {
    y = If (c) <then_branch = g1 () => (float[N, 8] a) { a = MatMul (x, w) },
                else_branch = g2 () => (float[N, 8] b) { b = Identity (x) }>
}"""
LOOP = """agraph (float[N, 8] x) => (float[N, 8] y)
<float[8, 8] w, int64 n = {3}, bool go = {1}> {
    y = Loop (n, go, x) <body = g (int64 i, bool c, float[N, 8] a) => (bool d, float[N, 8] b)
        { d = Identity (c)  b = MatMul (a, w) }>
}"""
GROUPED = f"""{IMAGE}
<float[8, 4, 3, 3] w, float[8] b, float[8, 8, 1, 1] v>
{{
    c = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (c)
    y = Conv (r, v)
}}"""
SIGNAL = """agraph (float[N, 8, 20] x) => (float[N, 8, 20] y)
<float[8, 8, 3] w, float[8] b>
{
    c = Conv <pads = [1, 1]> (x, w, b)
    r = Relu (c)
    y = Conv <pads = [1, 1]> (r, w, b)
}"""
PRODUCTS = """agraph (float[N, 5, 8] x) => (float[N, 5, 4] y)
<float[8, 6] w, float[6] b, float[6, 4] v>
{
    m = MatMul (x, w)
    a = Add (m, b)
    r = Relu (a)
    y = MatMul (r, v)
}"""

MIXED = "the ranges of its inputs differ"
NO_KERNEL = "ONNX Runtime has no int8 kernel for "
ZOO = {
    "residual": Exhibit(RESIDUAL, {"QLinearConv": 2, "QLinearAdd": 1, "QGemm": 1}, least=14),
    "residual, opset 9": Exhibit(
        RESIDUAL.replace("Flatten (g)", "Squeeze <axes = [2, 3]> (g)"), opset=9, least=14
    ),
    "squeeze-excite": Exhibit(SQUEEZE_EXCITE, {"QLinearConv": 4, "QLinearMul": 1}),
    "squeeze-excite, hard gate": Exhibit(HARD_GATE, {"QLinearConv": 4, "QLinearMul": 1}),
    "SiLU": Exhibit(SILU, {"QLinearSigmoid": 1, "QLinearMul": 1}),
    "hard swish": Exhibit(HARD_SWISH, {"QLinearLeakyRelu": 2, "QLinearMul": 2}),
    "hard swish, gate and product": Exhibit(GATED_SWISH, {"QLinearMul": 1}, opset=13),
    "hard swish, written out": Exhibit(WRITTEN_SWISH, {"QLinearMul": 1}, lossless=True),
    "hard swish, scaled and shifted": Exhibit(SCALED_SWISH, {"QLinearMul": 1, "QLinearAdd": 0}),
    "concat": Exhibit(CONCAT, {"QLinearConcat": 1, "QLinearAveragePool": 1}),
    "attention": Exhibit(ATTENTION, {"QLinearMatMul": 4, "MatMulIntegerToFloat": 2}, least=14),
    "clip to 6": Exhibit(CLIP, {"QLinearConv": 2}),
    "pre-activation": Exhibit(PRE_ACTIVATION, {"QLinearConv": 3, "QLinearAdd": 1}),
    "leaky": Exhibit(LEAKY, {"QLinearLeakyRelu": 1}),
    "transposed convolution": Exhibit(
        TRANSPOSED, {"QLinearConv": 2}, reasons=(f"{NO_KERNEL}ConvTranspose",)
    ),
    "Gemm with alpha, beta, transB": Exhibit(GEMM, {"QGemm": 2}),
    "shared weights": Exhibit(SHARED, {"QLinearConv": 3}, least=14),
    "dynamic sizes": Exhibit(DYNAMIC, {"QLinearConv": 3, "QLinearAdd": 1}, least=14),
    "detection head": Exhibit(
        HEAD,
        {"QLinearConv": 3},
        frozenset({"Concat", "Sigmoid"}),
        (MIXED,),
        least=25,
    ),
    "layer norm": Exhibit(NORM, {"MatMulIntegerToFloat": 2}),
    "layer norm, written out": Exhibit(WRITTEN_NORM, {"MatMulIntegerToFloat": 2}),
    "GELU": Exhibit(GELU, {"MatMulIntegerToFloat": 2}, frozenset({"Add", "Mul"})),
    "softmax, written out": Exhibit(WRITTEN_SOFTMAX, {"MatMulIntegerToFloat": 2}, opset=11),
    "embedding": Exhibit(EMBEDDING, {"MatMulIntegerToFloat": 1}, frozenset({"Add"})),
    "top k": Exhibit(TOP, {"QLinearConv": 1}, frozenset({"Sigmoid"})),
    "NMS": Exhibit(NMS, {"QLinearConv": 2}, frozenset({"Sigmoid"})),
    "LSTM": Exhibit(RECURRENT, {"MatMulIntegerToFloat": 1}, reasons=(f"{NO_KERNEL}LSTM",)),
    "GRU": Exhibit(GATED_UNIT, {"MatMulIntegerToFloat": 1}, reasons=(f"{NO_KERNEL}GRU",)),
    "If": Exhibit(BRANCHES, {}, frozenset({"MatMul"}), reasons=("in a subgraph",)),
    "Loop": Exhibit(LOOP, {}, frozenset({"MatMul"}), reasons=("in a subgraph",)),
    "max pool before opset 12": Exhibit(
        RESIDUAL.replace("Flatten (g)", "Squeeze <axes = [2, 3]> (g)"), opset=11, least=14
    ),
    "groups": Exhibit(GROUPED, {"QLinearConv": 2}),
    "one dim": Exhibit(SIGNAL, {"QLinearConv": 2}),
    "products": Exhibit(PRODUCTS, {"QLinearMatMul": 1, "QLinearAdd": 1}),
}
