#!/usr/bin/env python3
"""Writes the seeds of the fuzz target `onnx` that no exporter wrote: attention, norms, resizing, selections and constants.

    pip install onnx
    python fuzz/seeds/onnx/write.py
"""
import pathlib

import numpy as np
import onnx
from onnx import numpy_helper, parser

# Operators that exporters write for transformers: tokens, a class token, positions, heads, masks.
ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[N, 4, 4, 4] x) => (float[N, 3] y) {
    patches = Reshape <allowzero = 0> (x, shape_patches)
    body = Transpose <perm = [0, 2, 1]> (patches)
    size = Shape <start = 0, end = 1> (x)
    rest = Constant <value_ints = [1, 4]> ()
    extents = Concat <axis = 0> (size, rest)
    tokens = Expand (token, extents)
    all = Concat <axis = 1> (tokens, body)
    placed = Add (all, position)
    normed = LayerNormalization <axis = -1, epsilon = 1e-6> (placed, norm_weight, norm_bias)
    joint = MatMul (normed, qkv_weight)
    biased = Add (qkv_bias, joint)
    heads = Reshape (biased, shape_heads)
    turned = Transpose <perm = [2, 0, 3, 1, 4]> (heads)
    q, k, v = Split <axis = 0> (turned, thirds)
    q0 = Squeeze (q, first)
    k0 = Squeeze (k, first)
    v0 = Gather <axis = 0> (v, zero)
    kt = Transpose <perm = [0, 1, 3, 2]> (k0)
    scaled = Mul (q0, scale)
    scores = MatMul (scaled, kt)
    masked = Add (scores, mask)
    share = Softmax <axis = -1> (masked)
    nan = IsNaN (share)
    safe = Where (nan, zero_float, share)
    mixed = MatMul (safe, v0)
    back = Transpose <perm = [0, 2, 1, 3]> (mixed)
    flat = Reshape (back, shape_tokens)
    projected = MatMul (flat, out_weight)
    sum = Add (placed, projected)
    first_token = Gather <axis = 1> (sum, zero)
    y = Gemm <transB = 1> (first_token, head_weight, head_bias)
}
"""

# Borders, changes of size, selections along every axis, channels as pixels and back.
PIXELS = """
<ir_version: 8, opset_import: ["" : 18]>
pixels (float[N, 4, 6, 6] x) => (float[N, 2] y) {
    reflected = Pad <mode = "reflect"> (x, sides)
    edged = Pad <mode = "edge"> (reflected, one_side, , last_axes)
    cropped = Pad (edged, crop)
    padded = Pad (cropped, one_side, half, last_axes)
    sized = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (padded, , , sizes)
    scaled = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (sized, , twice)
    nearest = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (scaled, , other_scales)
    depth = SpaceToDepth <blocksize = 2> (nearest)
    space = DepthToSpace <blocksize = 2, mode = "CRD"> (depth)
    a = Slice (space, starts0, ends, pixel_axes, steps)
    b = Slice (space, starts1, ends, pixel_axes, steps)
    focus = Concat <axis = 1> (a, b)
    chosen = Gather <axis = 1> (focus, channels)
    rows = Gather <axis = 2> (chosen, rows_index)
    reversed = Slice (rows, minus_one, far_back, axis3, minus_one)
    halves, others = Split <axis = 1, num_outputs = 2> (reversed)
    shuffled = Reshape (halves, shape_shuffle)
    moved = Transpose <perm = [0, 2, 1, 3, 4]> (shuffled)
    joined = Reshape (moved, shape_like)
    rolled0 = Slice (others, zero, one, axis3)
    rolled1 = Slice (others, one, far, axis3)
    rolled = Concat <axis = 3> (rolled1, rolled0)
    sum = Sub (joined, rolled)
    tiled = Tile (sum, repeats)
    shown = ConvTranspose <strides = [2, 2], kernel_shape = [2, 2]> (tiled, conv_weight)
    most = ReduceMax <keepdims = 0> (shown, pixel_axes)
    y = Gemm (most, head_weight)
}
"""

# Norms as operators and spelled out, reductions, activations of several operators.
NORMS = """
<ir_version: 8, opset_import: ["" : 17]>
norms (float[N, 4, 3, 3] x) => (float[N, 2] y) {
    instance = InstanceNormalization <epsilon = 1e-5> (x, four, four)
    grouped_view = Reshape (instance, shape_groups)
    grouped_norm = InstanceNormalization <epsilon = 1e-5> (grouped_view, two, two)
    grouped_back = Reshape (grouped_norm, shape_back)
    grouped_scaled = Mul (grouped_back, per_channel)
    grouped = Add (grouped_scaled, per_channel)
    mean = ReduceMean <axes = [1]> (grouped)
    centred = Sub (grouped, mean)
    squared = Pow (centred, two_float)
    variance = ReduceMean <axes = [1]> (squared)
    with_eps = Add (variance, eps)
    deviation = Sqrt (with_eps)
    normed = Div (centred, deviation)
    layer = Mul (normed, per_channel)
    tokens = Transpose <perm = [0, 2, 3, 1]> (layer)
    length = ReduceL2 <axes = [1, 2], keepdims = 1> (tokens)
    typical = ReduceMean <axes = [-1], keepdims = 1> (length)
    typical_eps = Add (typical, eps)
    response = Div (length, typical_eps)
    product = Mul (tokens, response)
    root = Mul (tokens, tokens)
    root_mean = ReduceMean <axes = [-1]> (root)
    root_eps = Add (root_mean, eps)
    below = Sqrt (root_eps)
    rms = Div (product, below)
    erf_in = Div (rms, root_two)
    erf = Erf (erf_in)
    erf_one = Add (erf, one)
    erf_mul = Mul (rms, erf_one)
    gelu = Mul (erf_mul, half)
    softplus = Softplus (gelu)
    tanh = Tanh (softplus)
    mish = Mul (gelu, tanh)
    back = Transpose <perm = [0, 3, 1, 2]> (mish)
    channels = GlobalAveragePool (back)
    line = Squeeze (channels, last_axis)
    sequence = Transpose <perm = [0, 2, 1]> (line)
    attended = Conv <kernel_shape = [3], pads = [1, 1]> (sequence, eca_weight)
    gate = Sigmoid (attended)
    gate_turned = Transpose <perm = [0, 2, 1]> (gate)
    gate_map = Unsqueeze (gate_turned, last_axis)
    excited = Mul (back, gate_map)
    classes = Einsum <equation = "nchw,kc->nkhw"> (excited, head_weight)
    pooled = ReduceMean <axes = [2, 3], keepdims = 0> (classes)
    y = LogSoftmax <axis = 1> (pooled)
}
"""

# Weights and shapes that the model computes from constants.
CONSTANTS = """
<ir_version: 8, opset_import: ["" : 17]>
constants (float[N, 2, 5, 5] x) => (float[N, 3] y) {
    weight8 = DequantizeLinear <axis = 0> (weight_int8, scales, zeros)
    mean = ReduceMean <axes = [1, 2, 3]> (weight8)
    centred = Sub (weight8, mean)
    squares = Mul (centred, centred)
    variance = ReduceMean <axes = [1, 2, 3]> (squares)
    with_eps = Add (variance, eps)
    deviation = Sqrt (with_eps)
    standardised = Div (centred, deviation)
    shape = Shape (x)
    height = Gather <axis = 0> (shape, index2)
    up = Add (height, one_int)
    half = Div (up, two_int)
    less = Sub (half, one_int)
    reach = Mul (less, two_int)
    extent = Add (reach, three_int)
    missing = Sub (extent, height)
    none = Max (missing, zero_int)
    before = Div (none, two_int)
    after = Sub (none, before)
    list_before = Unsqueeze (before, axis0)
    list_after = Unsqueeze (after, axis0)
    four_zeros = ConstantOfShape <value = int64[1] {0}> (list_two)
    pads = Concat <axis = 0> (four_zeros, list_before, list_before, four_zeros, list_after, list_after)
    padded = Pad (x, pads)
    conv = Conv <strides = [2, 2], kernel_shape = [3, 3]> (padded, standardised, bias)
    range = Range (zero_int, nine, two_int)
    float_range = Cast <to = 1> (range)
    clipped = Clip (float_range, low, high)
    flat_shape = Constant <value_ints = [0, -1]> ()
    flat = Reshape (conv, flat_shape)
    expanded_shape = Constant <value_ints = [27, 3]> ()
    narrow = Slice (clipped, list_zero, list_three)
    head = Expand (narrow, expanded_shape)
    tail = Gemm <alpha = 0.5> (flat, head)
    y = Relu (tail)
}
"""


def model(text, **constants):
    built = parser.parse_model(text)
    for name, value in constants.items():
        built.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(built, full_check=True)
    return built


def main():
    draw = np.random.default_rng(1)
    weight = lambda *shape: (draw.standard_normal(shape) * 0.5).astype(np.float32)
    ints = lambda *values: np.array(values, np.int64)
    number = lambda value: np.array(value, np.float32)
    models = {
        "attention": model(
            ATTENTION, shape_patches=ints(0, 4, 16), token=weight(1, 1, 4), position=weight(1, 17, 4), norm_weight=weight(4), norm_bias=weight(4),
            qkv_weight=weight(4, 12), qkv_bias=weight(12), shape_heads=ints(-1, 17, 3, 2, 2), thirds=ints(1, 1, 1), first=ints(0),
            zero=np.int64(0), scale=number(0.7), mask=weight(1, 2, 17, 17), zero_float=number(0), shape_tokens=ints(-1, 17, 4),
            out_weight=weight(4, 4), head_weight=weight(3, 4), head_bias=weight(3)),
        "pixels": model(
            PIXELS, sides=ints(0, 0, 2, 1, 0, 0, 1, 2), one_side=ints(1, 0, 0, 1), half=number(0.5), last_axes=ints(2, 3),
            crop=ints(0, 0, -1, 0, 0, 0, 0, -2), sizes=ints(1, 4, 5, 7), twice=np.array([1, 1, 2, 2], np.float32),
            other_scales=np.array([1, 1, 1.2, 2], np.float32), starts0=ints(0, 1), starts1=ints(1, 0), ends=ints(2**62, 2**62),
            pixel_axes=ints(2, 3), steps=ints(2, 2), channels=ints(3, 0, 5, 1), rows_index=ints(0, 2, 1, 1), minus_one=ints(-1),
            far_back=ints(-2**62), axis3=ints(3), shape_shuffle=ints(0, 2, 1, 4, 14), shape_like=ints(0, 2, 4, 14), zero=ints(0), one=ints(1),
            far=ints(2**62), repeats=ints(1, 2, 1, 1), conv_weight=weight(4, 3, 2, 2), head_weight=weight(3, 2)),
        "norms": model(
            NORMS, four=weight(4), two=weight(2), shape_groups=ints(0, 2, -1), shape_back=ints(0, 4, 3, 3), per_channel=weight(4, 1, 1),
            two_float=number(2), eps=number(1e-5), root_two=number(2**0.5), one=number(1), half=number(0.5), last_axis=ints(3),
            eca_weight=weight(1, 1, 3), head_weight=weight(2, 4)),
        "constants": model(
            CONSTANTS, weight_int8=draw.integers(-100, 100, (3, 2, 3, 3)).astype(np.int8), scales=np.array([0.1, 0.2, 0.3], np.float32),
            zeros=np.array([0, 1, -1], np.int8), eps=number(1e-5), index2=np.int64(2), one_int=np.int64(1), two_int=np.int64(2), three_int=np.int64(3),
            zero_int=np.int64(0), axis0=ints(0), list_two=ints(2), bias=weight(3), nine=np.int64(9), low=number(1), high=number(6),
            list_zero=ints(0), list_three=ints(3)),
    }
    for name, built in models.items():
        (pathlib.Path(__file__).parent / f"{name}.onnx").write_bytes(built.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
