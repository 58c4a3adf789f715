"""Small nets of the well-known topologies, in ONNX's text syntax, with seeded weights."""

from __future__ import annotations

import onnx_ir as ir

from case_pages import parse

# Name -> (opset, text). Weights without values are seeded by their names.
NETS: dict[str, tuple[int, str]] = {}


def net(name: str) -> ir.Model:
    """Return a net by its name."""
    opset, text = NETS[name]
    return parse(text, opset)


NETS["vgg"] = (
    17,
    """agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[8, 3, 3, 3] w1, float[8] b1, float[6, 8, 3, 3] w2, float[96, 12] w3, float[12] b3,
 float[5, 12] w4>
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    r2 = LeakyRelu (c2)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
    f = Flatten (p)
    h = Gemm (f, w3, b3)
    t = Elu (h)
    y = Gemm <transB = 1> (t, w4)
}""",
)

_NORM = "float[{c}] g{n}, float[{c}] h{n}, float[{c}] m{n}, float[{c}] var{n}"


def _norms(*channels: int) -> str:
    return ", ".join(_NORM.format(n=n, c=c) for n, c in enumerate(channels, 1))


NETS["resnet basic"] = (
    17,
    f"""agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[8, 3, 3, 3] w1, float[8, 8, 3, 3] w2, float[8, 8, 3, 3] w3, float[12, 8, 3, 3] w4,
 float[12, 12, 3, 3] w5, float[12, 8, 1, 1] w6, float[12, 5] wy, float[5] by,
 {_norms(8, 8, 8, 12, 12, 12)}>
{{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    n1 = BatchNormalization (c1, g1, h1, m1, var1)
    r1 = Relu (n1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    n2 = BatchNormalization (c2, g2, h2, m2, var2)
    r2 = Relu (n2)
    c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3)
    n3 = BatchNormalization (c3, g3, h3, m3, var3)
    a1 = Add (n3, r1)
    r3 = Relu (a1)
    c4 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r3, w4)
    n4 = BatchNormalization (c4, g4, h4, m4, var4)
    r4 = Relu (n4)
    c5 = Conv <pads = [1, 1, 1, 1]> (r4, w5)
    n5 = BatchNormalization (c5, g5, h5, m5, var5)
    c6 = Conv <strides = [2, 2]> (r3, w6)
    n6 = BatchNormalization (c6, g6, h6, m6, var6)
    a2 = Add (n5, n6)
    r5 = Relu (a2)
    g = GlobalAveragePool (r5)
    f = Flatten (g)
    y = Gemm (f, wy, by)
}}""",
)

NETS["resnet bottleneck"] = (
    17,
    f"""agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[16, 3, 3, 3] w1, float[4, 16, 1, 1] w2, float[4, 4, 3, 3] w3, float[16, 4, 1, 1] w4,
 float[16, 5] wy, {_norms(16, 4, 4, 16)}>
{{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    n1 = BatchNormalization (c1, g1, h1, m1, var1)
    r1 = Relu (n1)
    c2 = Conv (r1, w2)
    n2 = BatchNormalization (c2, g2, h2, m2, var2)
    r2 = Relu (n2)
    c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3)
    n3 = BatchNormalization (c3, g3, h3, m3, var3)
    r3 = Relu (n3)
    c4 = Conv (r3, w4)
    n4 = BatchNormalization (c4, g4, h4, m4, var4)
    a = Add (n4, r1)
    r = Relu (a)
    g = ReduceMean <axes = [2, 3], keepdims = 0> (r)
    y = MatMul (g, wy)
}}""",
)

NETS["mobilenet v2"] = (
    17,
    """agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[8, 3, 3, 3] ws, float[24, 8, 1, 1] w1, float[24] b1, float[24, 1, 3, 3] w2, float[24] b2,
 float[8, 24, 1, 1] w3, float[8] b3, float[16, 8, 1, 1] w4, float[16, 5] w5,
 float low = {0.0}, float high = {6.0}>
{
    stem = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, ws)
    e = Conv (stem, w1, b1)
    r1 = Clip (e, low, high)
    d = Conv <group = 24, pads = [1, 1, 1, 1]> (r1, w2, b2)
    r2 = Clip (d, low, high)
    p = Conv (r2, w3, b3)
    a = Add (p, stem)
    h = Conv (a, w4)
    r3 = Relu (h)
    g = GlobalAveragePool (r3)
    f = Flatten (g)
    y = Gemm (f, w5)
}""",
)

NETS["mobilenet v3"] = (
    17,
    """agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[12, 3, 3, 3] ws, float[12, 1, 3, 3] wd, float[4, 12, 1, 1] w1, float[4] b1,
 float[12, 4, 1, 1] w2, float[12] b2, float[6, 12, 1, 1] w3, float[6, 5] wy>
{
    s = Conv <pads = [1, 1, 1, 1]> (x, ws)
    h = HardSwish (s)
    d = Conv <group = 12, pads = [1, 1, 1, 1]> (h, wd)
    q = GlobalAveragePool (d)
    q1 = Conv (q, w1, b1)
    q2 = Relu (q1)
    q3 = Conv (q2, w2, b2)
    gate = HardSigmoid (q3)
    m = Mul (gate, d)
    p = Conv (m, w3)
    r = Relu (p)
    g = GlobalMaxPool (r)
    f = Flatten (g)
    y = Gemm (f, wy)
}""",
)

NETS["densenet"] = (
    17,
    """agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[6, 3, 3, 3] w1, float[4, 6, 3, 3] w2, float[5, 10, 3, 3] w3, float[15] g, float[15] h,
 float[15] m, float[15] var, float[8, 15, 1, 1] w4, float[8, 5] wy>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Conv <pads = [1, 1, 1, 1]> (a, w2)
    ab = Concat <axis = 1> (a, b)
    c = Conv <pads = [1, 1, 1, 1]> (ab, w3)
    abc = Concat <axis = 1> (ab, c)
    n = BatchNormalization (abc, g, h, m, var)
    r = Relu (n)
    t = Conv (r, w4)
    p = GlobalAveragePool (t)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

_SHUFFLE = """
    five = Reshape (joined, split)
    swapped = Transpose <perm = [0, 2, 1, 3, 4]> (five)
    shuffled = Reshape (swapped, merge)"""

NETS["shufflenet v1"] = (
    17,
    f"""agraph (float[N, 4, 6, 6] x) => (float[N, 5] y)
<float[12, 4, 1, 1] w1, float[12, 4, 1, 1] w2, float[12, 1, 3, 3] wd, float[8, 12, 1, 1] w3,
 float[8, 5] wy, int64[5] split = {{0, 3, 4, 6, 6}}, int64[4] merge = {{0, -1, 6, 6}}>
{{
    a = Conv (x, w1)
    joined = Conv <group = 3> (a, w2)
    {_SHUFFLE}
    d = Conv <group = 12, pads = [1, 1, 1, 1]> (shuffled, wd)
    z = Conv <group = 1> (d, w3)
    g = GlobalAveragePool (z)
    f = Flatten (g)
    y = Gemm (f, wy)
}}""",
)

NETS["shufflenet v2"] = (
    17,
    f"""agraph (float[N, 4, 6, 6] x) => (float[N, 5] y)
<float[8, 4, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 8, 1, 1] w3, float[6, 16, 1, 1] w4,
 float[6, 5] wy, int64[5] split = {{0, 2, 8, 6, 6}}, int64[4] merge = {{0, 16, 6, 6}}>
{{
    a = Conv (x, w1)
    left = Conv (a, w2)
    right = Conv (a, w3)
    joined = Concat <axis = 1> (left, right)
    {_SHUFFLE}
    z = Conv (shuffled, w4)
    g = GlobalAveragePool (z)
    f = Flatten (g)
    y = Gemm (f, wy)
}}""",
)

NETS["c2f"] = (
    17,
    """agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[12, 3, 1, 1] w1, float[6, 6, 3, 3] w2, float[6, 6, 3, 3] w3, float[8, 24, 1, 1] w4,
 float[8, 5] wy, int64[2] halves = {6, 6}>
{
    a = Conv (x, w1)
    s = Sigmoid (a)
    m = Mul (a, s)
    left, right = Split <axis = 1> (m, halves)
    b = Conv <pads = [1, 1, 1, 1]> (right, w2)
    c = Conv <pads = [1, 1, 1, 1]> (b, w3)
    d = Add (c, b)
    joined = Concat <axis = 1> (left, right, b, d)
    z = Conv (joined, w4)
    g = GlobalAveragePool (z)
    f = Flatten (g)
    y = Gemm (f, wy)
}""",
)

NETS["unet"] = (
    18,
    """agraph (float[N, 1, H, W] x) => (float[N, 2, h, w] y)
<float[4, 1, 3, 3] w1, float[8, 4, 3, 3] w2, float[8, 6, 2, 2] wt, float[6] bt,
 float[8, 10, 3, 3] w3, float[2, 12, 1, 1] w4, float[4] scales = {1.0, 1.0, 2.0, 2.0},
 int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] one = {1}>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    ra = Relu (a)
    down = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (ra)
    b = Conv <pads = [1, 1, 1, 1]> (down, w2)
    rb = Relu (b)
    up = ConvTranspose <strides = [2, 2]> (rb, wt, bt)
    joined = Concat <axis = 1> (up, ra)
    c = Conv <pads = [1, 1, 1, 1]> (joined, w3)
    rc = Relu (c)
    low = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (rc)
    wide = Resize <mode = "nearest"> (low, , scales)
    shape = Shape (ra)
    outer = Slice (shape, zero, one, zero)
    inner = Slice (shape, two, four, zero)
    kept = Shape <start = 1, end = 2> (ra)
    sizes = Concat <axis = 0> (outer, kept, inner)
    skip = Resize <mode = "nearest"> (ra, , , sizes)
    last = Concat <axis = 1> (wide, skip)
    y = Conv (last, w4)
}""",
)

_BERT = """agraph (int64[N, S] ids) => (float[N, S, 16] y)
<float[20, 16] table, float[16] g1, float[16] h1, float[16] g2, float[16] h2,
 float[16, 16] wq, float[16] bq, float[16, 16] wk, float[16] bk, float[16, 16] wv, float[16] bv,
 float[16, 16] wo, float[16] bo, float[16, 32] w1, float[32] b1, float[32, 16] w2, float[16] b2,
 float root = {2.0}, float half = {0.5}, float one = {1.0}, float sqrt2 = {1.4142135},
 %s>
{
    e = Gather (table, ids)
    h = LayerNormalization <axis = -1> (e, g1, h1)
    %s
    q0 = MatMul (h, wq)
    q1 = Add (bq, q0)
    q2 = Reshape (q1, split)
    q = Transpose <perm = [0, 2, 1, 3]> (q2)
    k0 = MatMul (h, wk)
    k1 = Add (bk, k0)
    k2 = Reshape (k1, split)
    k = Transpose <perm = [0, 2, 3, 1]> (k2)
    v0 = MatMul (h, wv)
    v1 = Add (bv, v0)
    v2 = Reshape (v1, split)
    v = Transpose <perm = [0, 2, 1, 3]> (v2)
    s0 = MatMul (q, k)
    s1 = Div (s0, root)
    s = Softmax <axis = -1> (s1)
    c0 = MatMul (s, v)
    c1 = Transpose <perm = [0, 2, 1, 3]> (c0)
    c = Reshape (c1, merge)
    o0 = MatMul (c, wo)
    o = Add (o0, bo)
    r = Add (o, h)
    n = LayerNormalization <axis = -1> (r, g2, h2)
    f0 = MatMul (n, w1)
    f1 = Add (f0, b1)
    f2 = Div (f1, sqrt2)
    f3 = Erf (f2)
    f4 = Add (f3, one)
    f5 = Mul (f1, f4)
    f6 = Mul (f5, half)
    f7 = MatMul (f6, w2)
    f8 = Add (f7, b2)
    y = Add (f8, n)
}"""
_CONSTANT = "int64[4] split = {0, 0, 4, 4}, int64[3] merge = {0, 0, 16}"
_COMPUTED = """
    shape = Shape (h)
    n0 = Gather (shape, i0)
    n1 = Gather (shape, i1)
    n2 = Unsqueeze (n0, i0v)
    n3 = Unsqueeze (n1, i0v)
    split = Concat <axis = 0> (n2, n3, heads)
    rows = Mul (n2, n3)
    merge = Concat <axis = 0> (n2, n3, sixteen)"""
NETS["bert"] = 17, _BERT % (_CONSTANT, "")
NETS["bert with computed shapes"] = (
    17,
    _BERT
    % (
        "int64 i0 = {0}, int64 i1 = {1}, int64[1] i0v = {0}, int64[2] heads = {4, 4}, "
        "int64[1] sixteen = {16}",
        _COMPUTED,
    ),
)

NETS["vit"] = (
    17,
    """agraph (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float[16, 3, 4, 4] wp, int64[3] flat = {0, 16, -1}, float[1, 4, 16] places,
 float[16] g1, float[16] h1, float[16, 48] wqkv, float[48] bqkv,
 int64[5] split = {0, 4, 3, 4, 4}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2},
 int64[3] merge = {0, 4, 16}, float root = {2.0}, float[16, 16] wo,
 float[16, 24] w1, float[24] b1, float[24, 16] w2, float[16, 5] wy>
{
    p0 = Conv <strides = [4, 4]> (x, wp)
    p1 = Reshape (p0, flat)
    p2 = Transpose <perm = [0, 2, 1]> (p1)
    p = Add (p2, places)
    h = LayerNormalization <axis = -1> (p, g1, h1)
    a0 = MatMul (h, wqkv)
    a1 = Add (a0, bqkv)
    a2 = Reshape (a1, split)
    a3 = Transpose <perm = [2, 0, 3, 1, 4]> (a2)
    q = Gather <axis = 0> (a3, i0)
    k = Gather <axis = 0> (a3, i1)
    v = Gather <axis = 0> (a3, i2)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    s0 = MatMul (q, kt)
    s1 = Div (s0, root)
    s = Softmax <axis = -1> (s1)
    c0 = MatMul (s, v)
    c1 = Transpose <perm = [0, 2, 1, 3]> (c0)
    c = Reshape (c1, merge)
    o = MatMul (c, wo)
    r = Add (o, p)
    f0 = MatMul (r, w1)
    f1 = Add (f0, b1)
    f2 = Relu (f1)
    f3 = MatMul (f2, w2)
    f = Add (f3, r)
    m = ReduceMean <axes = [1], keepdims = 0> (f)
    y = MatMul (m, wy)
}""",
)

NETS["group norm"] = (
    21,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[12, 3, 1, 1] w1, float[12] g, float[12] b, float[8, 12, 1, 1] w2, float[8, 5] wy>
{
    a = Conv (x, w1)
    n = GroupNormalization <num_groups = 4> (a, g, b)
    r = Relu (n)
    c = Conv (r, w2)
    p = GlobalAveragePool (c)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

NETS["group norm in parts"] = (
    17,
    """agraph (float[N, 3, H, W] x) => (float[N, 5] y)
<float[12, 3, 1, 1] w1, int64[3] groups = {0, 4, -1}, float[4] ones, float[4] zeros,
 float[12, 1, 1] g, float[12, 1, 1] b, float[8, 12, 1, 1] w2, float[8, 5] wy>
{
    a = Conv (x, w1)
    t = Reshape (a, groups)
    i = InstanceNormalization (t, ones, zeros)
    shape = Shape (a)
    back = Reshape (i, shape)
    m = Mul (back, g)
    n = Add (m, b)
    c = Conv (n, w2)
    p = GlobalAveragePool (c)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

NETS["grouped conv"] = (
    17,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[12, 3, 1, 1] w1, float[8, 3, 3, 3] w2, float[16, 1, 3, 3] w3, float[16, 3, 2, 2] w4,
 float[12] b4, float[6, 12, 1, 1] w5, float[6, 2, 2, 2] w6, float[12, 5] wy>
{
    a = Conv (x, w1)
    b = Conv <group = 4, pads = [1, 1, 1, 1]> (a, w2)
    c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, w3)
    d = ConvTranspose <group = 4, strides = [2, 2]> (c, w4, b4)
    e = Conv (d, w5)
    h = ConvTranspose <group = 6, strides = [2, 2]> (e, w6)
    p = GlobalAveragePool (h)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

NETS["shared weights"] = (
    17,
    """agraph (float[N, 4, 6, 6] x, float[N, 4, 6, 6] z) => (float[N, 5] y)
<float[8, 4, 3, 3] w, float[8] b, float[6, 8, 1, 1] v, float[12, 5] wy>
{
    a = Conv (x, w, b)
    c = Conv (z, w, b)
    ra = Relu (a)
    rc = Relu (c)
    d = Conv (ra, v)
    e = Conv (rc, v)
    j = Concat <axis = 1> (d, e)
    p = GlobalAveragePool (j)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

NETS["no rule"] = (
    17,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[8, 3, 1, 1] w1, float[6, 8, 1, 1] w2, float[6, 5] wy>
{
    a = Conv (x, w1)
    e = Einsum <equation = "nchw->nchw"> (a)
    b = Conv (e, w2)
    p = GlobalAveragePool (b)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

NETS["reductions"] = (
    18,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[8, 3, 1, 1] w1, float[6, 8, 1, 1] w2, float[4, 6, 1, 1] w3, float[4, 5] wy,
 int64[2] spatial = {2, 3}, int64[1] channel = {1}>
{
    a = Conv (x, w1)
    b = Conv (a, w2)
    m = ReduceMax (b, channel)
    s = Sub (b, m)
    c = Conv (s, w3)
    p = ReduceSum <keepdims = 0> (c, spatial)
    y = Gemm (p, wy)
}""",
)

NETS["prelu"] = (
    17,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[8, 3, 1, 1] w1, float[8, 1, 1] slope, float[6, 8, 1, 1] w2, float[1] one, float[6, 5] wy>
{
    a = Conv (x, w1)
    r = PRelu (a, slope)
    b = Conv (r, w2)
    s = PRelu (b, one)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

_CODES = ", ".join(str(7 * i % 23 - 11) for i in range(48))
NETS["quantized"] = (
    17,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[8, 3, 1, 1] w1, int8[6, 8, 1, 1] w2q = {CODES},
 float[6] s2 = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, int8[6] z2 = {0, 0, 0, 0, 0, 0},
 float s = {0.05}, uint8 z = {128}, float[6, 5] wy>
{
    a = Conv (x, w1)
    q = QuantizeLinear (a, s, z)
    d = DequantizeLinear (q, s, z)
    w2 = DequantizeLinear <axis = 0> (w2q, s2, z2)
    b = Conv (d, w2)
    p = GlobalAveragePool (b)
    f = Flatten (p)
    y = Gemm (f, wy)
}""".replace("CODES", _CODES),
)

NETS["capture"] = (
    17,
    """agraph (float[N, 3, 6, 6] x, bool flag) => (float[N, 5] y)
<float[8, 3, 1, 1] w1, float[6, 8, 1, 1] w2, float[4, 6, 1, 1] w3, float[4, 5] wy>
{
    a = Conv (x, w1)
    b = Conv (a, w2)
    r = If (flag) <
        then_branch = yes () => (float[N, 6, 6, 6] t) { t = Relu (b) },
        else_branch = no () => (float[N, 6, 6, 6] e) { e = Neg (b) }
    >
    c = Conv (r, w3)
    p = GlobalAveragePool (c)
    f = Flatten (p)
    y = Gemm (f, wy)
}""",
)

NETS["movement"] = (
    17,
    """agraph (float[N, 3, 6, 6] x) => (float[N, 5] y)
<float[8, 3, 1, 1] w1, int64[2] from = {0, 1}, int64[2] to = {6, 5}, int64[2] axes = {1, 2},
 int64[2] steps = {2, 1}, float[3, 3, 1, 1] w2, int64[8] order = {7, 3, 1, 5, 0, 2, 4, 6},
 float[4, 8, 1, 1] w3, int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0}, float[8, 8, 1, 1] w4,
 float[12, 8, 1, 1] w5, int64[4] twice = {1, 2, 1, 1}, float[8, 6, 1, 1] w6,
 int64[4] wide = {1, 8, 1, 1}, float[1, 1, 1, 1] k, int64[1] one = {1}, float[32, 5] wz>
{
    a = Conv (x, w1)
    s = Slice (a, from, to, axes, steps)
    b = Conv (s, w2)
    u = Gather <axis = 1> (a, order)
    c = Conv (u, w3)
    padded = Pad (c, pads)
    d = Conv (a, w4)
    e = Add (d, padded)
    g = Conv (e, w5)
    deep = DepthToSpace <blocksize = 2> (g)
    t = Tile (deep, twice)
    h = Conv (t, w6)
    ex = Expand (k, wide)
    hh = Mul (h, ex)
    sd = SpaceToDepth <blocksize = 2> (hh)
    p = GlobalAveragePool (sd)
    f = Flatten (p)
    y0 = Gemm (f, wz)
    bb = ReduceMean (b)
    y1 = Reshape (bb, one)
    y = Add (y0, y1)
}""",
)

NETS["sum over channels"] = (
    17,
    """agraph (float[N, 6, 8] x) => (float[N, 6, 6] y, float[N, 6, 9] z)
<float[8, 5] wa, float[5] ba, float[8, 5] wb, float[8, 4] wc, float[8, 4] wd, float[5, 3] we,
 float[4, 3] wf>
{
    a0 = MatMul (x, wa)
    a1 = Add (a0, ba)
    a = Relu (a1)
    b0 = MatMul (x, wb)
    b = Transpose <perm = [0, 2, 1]> (b0)
    y = MatMul (a, b)
    c0 = MatMul (x, wc)
    c = Sigmoid (c0)
    d0 = MatMul (x, wd)
    d = Transpose <perm = [0, 2, 1]> (d0)
    cd = MatMul (c, d)
    e = MatMul (a, we)
    f = MatMul (c, wf)
    ef = Mul (e, f)
    z = Concat <axis = 2> (cd, ef)
}""",
)

NETS["mixer"] = (
    17,
    """agraph (float[N, 6, 8] x) => (float[N, 6, 8] y)
<float[10, 6] w1, float[10, 1] b1, float[6, 10] w2, float[8, 12] w3, float[12, 8] w4>
{
    a0 = MatMul (w1, x)
    a1 = Add (a0, b1)
    a = Relu (a1)
    t = MatMul (w2, a)
    r = Add (t, x)
    c = MatMul (r, w3)
    d = Relu (c)
    e = MatMul (d, w4)
    y = Add (e, r)
}""",
)
