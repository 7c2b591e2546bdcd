#!/usr/bin/env python3
"""Exports small modules of every kind found in convolutional networks from PyTorch to ONNX, at several operator sets, with the outputs
of onnxruntime, to compare with `nettriage evaluate MODEL --inputs X.npy --logits Y.npy`.

    pip install numpy onnx onnxruntime onnxscript torch
    python checks/onnx_zoo.py FOLDER                  # FOLDER/NAME.onnx, NAME.x.npy, NAME.y.npy
    python checks/onnx_zoo.py FOLDER --only lrn       # modules whose name contains `lrn`

nettriage has no layer for modules whose name begins with `refused` and must report that. A case that the exporter refuses at its operator
set, or that onnxruntime cannot load, is skipped and named on the last line.
"""
import argparse
import io
import logging
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn as nn
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
onnxruntime.set_default_logger_severity(3)


class Fn(nn.Module):
    """A convolution followed by a function."""

    def __init__(self, function, channels=8, inputs=3):
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels, pool, gate):
        super().__init__()
        self.pool, self.gate = pool, gate
        self.down, self.up = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x):
        return x * self.gate(self.up(F.relu(self.down(self.pool(x)))))


class SqueezeExciteLinear(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Linear(channels, channels // 2), nn.Linear(channels // 2, channels)

    def forward(self, x):
        n, c = x.shape[:2]
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).view(n, c)))))
        return x * gate.view(n, c, 1, 1)


class Residual(nn.Module):
    def __init__(self, cin, cout, stride, act=F.relu):
        super().__init__()
        self.a, self.an = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.b, self.bn = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.s = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)) if stride > 1 else nn.Identity()
        self.act = act

    def forward(self, x):
        return self.act(self.bn(self.b(self.act(self.an(self.a(x))))) + self.s(x))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.c1 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)
        self.n2, self.c2 = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x):
        x = torch.cat([x, self.c1(F.relu(self.n1(x)))], 1)
        return torch.cat([x, self.c2(F.relu(self.n2(x)))], 1)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 2, 5, padding=2)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x), self.c(F.max_pool2d(x, 3, 1, 1)), F.avg_pool2d(x, 3, 1, 1)], 1)


def shuffle(x, groups=2):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.d = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return shuffle(torch.cat([a, self.d(F.relu(self.p(b)))], 1))


class LayerScale(nn.Module):
    """Scale and shift per channel by parameters; subtraction and division by constants."""

    def __init__(self):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x):
        return 1 - ((x * self.g + self.b) - 0.5) / 0.225


class ReshapeArithmetic(nn.Module):
    """A reshape to a product of extents."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x):
        x = F.max_pool2d(x, 2)
        return self.fc(x.reshape(x.size(0), x.size(1) * x.size(2) * x.size(3)))


class TransformInput(nn.Module):
    """Each channel scaled and shifted alone, as in torchvision's Inception."""

    def __init__(self, order=(0, 1, 2)):
        super().__init__()
        self.order, self.conv = order, nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        parts = [x[:, c].unsqueeze(1) * (0.4 + 0.1 * c) + (0.3 - 0.2 * c) for c in self.order]
        return self.conv(torch.cat(parts, 1))


class ChannelOrder(nn.Module):
    """Channels in another order before a normalisation and a convolution with padding."""

    def __init__(self, function):
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 8, 3, padding=1)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x):
        return self.conv(self.function(x) * 2 - self.mean)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Qiao et al., arXiv:1903.10520)."""

    def forward(self, x):
        w = self.weight
        variance, mean = torch.var_mean(w, (1, 2, 3), keepdim=True, unbiased=False)
        return self._conv_forward(x, (w - mean) / torch.sqrt(variance + 1e-5), self.bias)


class Attention(nn.Module):
    """Multi-head attention over the pixels, with a class token, written out or by PyTorch's own operator."""

    def __init__(self, fused, relative=False):
        super().__init__()
        self.fused = fused
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.relative = nn.Parameter(torch.randn(1, 2, 17, 17)) if relative else None

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.relative)
        else:
            y = (q * 0.5) @ k.transpose(-2, -1)
            y = (y if self.relative is None else y + self.relative).softmax(-1) @ v
        return (x + self.proj(y.transpose(1, 2).reshape(n, t, c)))[:, 0]


class Windows(nn.Module):
    """Shifted windows of 2x2 pixels, each a sequence of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        x = self.b(F.gelu(self.a(x)).transpose(1, 2)).transpose(1, 2)
        x = x.view(n, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1)
        return torch.roll(x, (1, 1), (1, 2)).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a feature map, written out."""

    def __init__(self, centred):
        super().__init__()
        self.centred, self.weight, self.bias = centred, nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x):
        d = x - x.mean(1, keepdim=True) if self.centred else x
        y = d / torch.sqrt(d.pow(2).mean(1, keepdim=True) + 1e-5) * self.weight
        return y + self.bias if self.centred else y


class GlobalResponseNorm(nn.Module):
    """Woo et al., arXiv:2301.00808, section 3."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        norm = x.norm(p=2, dim=(1, 2), keepdim=True)
        return (x + x * (norm / (norm.mean(-1, keepdim=True) + 1e-6)) * self.weight + self.bias).permute(0, 3, 1, 2)


def selective(x):
    """Two branches weighted by a softmax over the branches (Li et al., arXiv:1903.06586)."""
    branches = torch.stack([x, F.avg_pool2d(x, 3, 1, 1)], 1)
    weights = branches.sum(1).mean((2, 3)).view(-1, 2, 4).repeat(1, 1, 2).softmax(1)
    return (branches * weights[:, :, :, None, None]).sum(1)


class ChannelAttention(nn.Module):
    """ECA (Wang et al., arXiv:1910.03151): a convolution along the channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1)).view(x.shape[0], -1, 1, 1)
        return x * torch.sigmoid(y)


def head(channels=8, classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def after(*modules, channels=8):
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *modules)


def modules():
    """Name, module, and the shape of an image."""
    image = (3, 8, 8)
    acts = {
        "relu": nn.ReLU(), "relu6": nn.ReLU6(), "leaky": nn.LeakyReLU(0.2), "prelu": nn.PReLU(8), "prelu1": nn.PReLU(), "elu": nn.ELU(0.7),
        "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"),
        "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(), "hardtanh": nn.Hardtanh(-0.4, 0.6), "clamp": Fn(lambda x: x.clamp(min=-0.3)),
    }
    for name, act in acts.items():
        yield f"act_{name}", (act if isinstance(act, Fn) else after(act)), image
    for name, act in {"selu": nn.SELU(), "celu": nn.CELU(0.7), "softplus": nn.Softplus(), "squared_relu": Fn(lambda x: F.relu(x) ** 2), "abs": Fn(torch.abs), "atan": Fn(torch.atan)}.items():
        yield f"act_{name}", (act if isinstance(act, Fn) else after(act)), image
    yield "attention_fused", after(nn.MaxPool2d(2), Attention(True), nn.Linear(8, 3)), image
    yield "attention_written", after(nn.MaxPool2d(2), Attention(False), nn.Linear(8, 3)), image
    yield "attention_relative", after(nn.MaxPool2d(2), Attention(False, True), nn.Linear(8, 3)), image
    yield "attention_module", Fn(lambda x, a=nn.MultiheadAttention(8, 2, batch_first=True): (lambda t: a(t, t, t, need_weights=False)[0])(x.flatten(2).transpose(1, 2)).mean(1)), image
    yield "windows", after(Windows(), nn.Conv2d(16, 4, 3)), image
    yield "layer_norm_channels", after(ChannelNorm(True)), image
    yield "rms_norm_channels", after(ChannelNorm(False)), image
    yield "layer_norm_last", Fn(lambda x, norm=nn.LayerNorm(8): norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), image
    yield "group_norm", after(nn.GroupNorm(2, 8)), image
    yield "instance_norm", after(nn.InstanceNorm2d(8, affine=True)), image
    yield "global_response_norm", after(GlobalResponseNorm()), image
    yield "selective_kernels", Fn(selective), image
    yield "channel_attention", after(ChannelAttention()), image
    yield "bilinear", after(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 4, 3)), image
    yield "bilinear_corners", after(nn.Upsample(size=(11, 5), mode="bilinear", align_corners=True), nn.Conv2d(8, 4, 3)), image
    yield "nearest_by_any_factor", after(nn.Upsample(size=(11, 5)), nn.Conv2d(8, 4, 3)), image
    yield "pixel_shuffle", after(nn.PixelShuffle(2), nn.Conv2d(2, 4, 3)), image
    yield "pixel_unshuffle", after(nn.PixelUnshuffle(2), nn.Conv2d(32, 4, 3)), image
    yield "reflection", nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(3, 8, 3), nn.ReplicationPad2d((1, 0, 2, 1)), nn.Conv2d(8, 4, 3)), image
    yield "crop", Fn(lambda x: F.relu(x[:, :, 1:7, 2:])), image
    yield "focus", Fn(lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)), image
    yield "avg_pool_ceil_padded", after(nn.AvgPool2d(3, 2, 1, ceil_mode=True)), image
    yield "divide_by_norm", Fn(lambda x: F.normalize(x, dim=1)), image
    yield "einsum", Fn(lambda x: torch.einsum("bchw,bcvw->bhwv", x, x)), image
    yield "silu_written", Fn(lambda x: x * torch.sigmoid(x)), image
    yield "hardswish_written", Fn(lambda x: x * F.relu6(x + 3) / 6), image
    yield "gelu_written", Fn(lambda x: x * 0.5 * (1 + torch.erf(x / 2 ** 0.5))), image
    yield "gelu_tanh_written", Fn(lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x ** 3)))), image
    yield "mish", Fn(F.mish), image
    yield "quick_gelu", Fn(lambda x: x * torch.sigmoid(1.702 * x)), image
    yield "swish_beta_outputs", nn.Sequential(after(nn.SiLU(), nn.Conv2d(8, 8, 1)), nn.SiLU(), head()), image
    yield "lrn", after(nn.LocalResponseNorm(5), head()), image
    yield "refused_lrn_even", after(nn.LocalResponseNorm(4, 1e-3, 0.6, 2.0)), image
    yield "conv_asymmetric", nn.Sequential(nn.Conv2d(3, 8, (1, 7), padding=(0, 3)), nn.Conv2d(8, 6, (3, 1), stride=(2, 1), padding=(1, 0))), image
    yield "conv_dilated_groups", nn.Sequential(nn.Conv2d(3, 6, 3, padding=2, dilation=2), nn.Conv2d(6, 12, 3, groups=3, bias=False)), image
    yield "conv_same", nn.Sequential(nn.Conv2d(3, 8, 4, padding="same"), nn.ReLU()), image
    yield "conv_transpose", nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1), nn.ReLU(), head(4)), image
    yield "conv_transpose_groups", nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2, 2, groups=2, bias=False)), image
    yield "batch_norm_first", nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), image
    yield "batch_norm_vector", nn.Sequential(after(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), image
    yield "transform_input", TransformInput(), image
    yield "transform_input_bgr", TransformInput((2, 1, 0)), image
    yield "bgr_by_list", ChannelOrder(lambda x: x[:, [2, 1, 0]]), image
    yield "bgr_by_flip", ChannelOrder(lambda x: x.flip(1)), image
    yield "weight_norm", nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU()), image
    yield "weight_standardised", nn.Sequential(StandardisedConv(3, 8, 3), nn.ReLU()), image
    yield "max_pools", after(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 2, ceil_mode=True)), (3, 9, 11)
    yield "avg_pools", after(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)), (3, 9, 11)
    yield "avg_pool_ceil", after(nn.AvgPool2d(2, 2, ceil_mode=True)), (3, 9, 9)
    yield "adaptive_divides", after(nn.AdaptiveAvgPool2d(2)), image
    yield "global_max", after(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)), image
    yield "mean_keep", Fn(lambda x: x.mean((2, 3), keepdim=True)), image
    yield "mean_drop", nn.Sequential(Fn(lambda x: x.mean([-1, -2])), nn.Linear(8, 4)), image
    yield "mean_twice", nn.Sequential(Fn(lambda x: x.mean(3).mean(2)), nn.Linear(8, 4)), image
    yield "flatten_mean", Fn(lambda x: x.flatten(2).mean(-1)), image
    yield "squeeze_excite", after(SqueezeExcite(8, nn.AdaptiveAvgPool2d(1), torch.sigmoid)), image
    yield "squeeze_excite_mean", after(SqueezeExcite(8, lambda x: x.mean((2, 3), keepdim=True), F.hardsigmoid)), image
    yield "squeeze_excite_linear", after(SqueezeExciteLinear(8)), image
    yield "residual", nn.Sequential(Residual(3, 8, 2), Residual(8, 8, 1, F.silu), head()), image
    yield "dense_join", after(Dense(), head(16)), image
    yield "inception_join", after(Inception(), head(20)), image
    yield "shuffle", after(Fn(shuffle, 8, 8), head()), image
    yield "shuffle_unit", after(ShuffleUnit(), ShuffleUnit(), head()), image
    yield "pixel_skip", Fn(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))), image
    yield "channel_slices", Fn(lambda x: torch.cat([x[:, :3], x[:, 3:7] * 2], 1)), image
    yield "zero_pad", nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 8, 3), nn.ConstantPad2d(1, 0.5), nn.Conv2d(8, 4, 3)), image
    yield "layer_scale", after(LayerScale()), image
    yield "normalised", nn.Sequential(Normalise(), nn.Conv2d(3, 4, 3)), image
    yield "linear_only", nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 3)), image
    yield "matmul_bias", nn.Sequential(Fn(lambda x: x.flatten(1)), MatMul(512, 4)), image
    yield "softmax", nn.Sequential(after(), head(), nn.Softmax(1)), image
    yield "log_softmax", nn.Sequential(after(), head(), nn.LogSoftmax(-1)), image
    yield "dropout", nn.Sequential(after(nn.Dropout2d(0.3)), head(), nn.Dropout(0.5)), image
    yield "reshape_arithmetic", after(ReshapeArithmetic()), image
    yield "squeeze_unsqueeze", Fn(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1).unsqueeze(-1).unsqueeze(-1)), image
    yield "upsample", after(nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3)), image
    yield "sum_of_three", Sum3(), image
    yield "subtract", Fn(lambda x: F.relu(x) - F.avg_pool2d(x, 3, 1, 1)), image
    yield "channels_last_inside", Fn(lambda x: F.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), image
    yield "channels_last_linear", ConvNeXtLike(), image
    yield "inverted_residual", after(Inverted(), head()), image
    yield "grey", nn.Sequential(nn.Conv2d(1, 4, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)), (1, 10, 10)


class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class MatMul(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(inputs, outputs) / inputs ** 0.5), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.w + self.b


class Sum3(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 4, k, padding=k // 2) for k in (1, 3, 5))

    def forward(self, x):
        return self.a(x) + self.b(x) + self.c(x) * torch.sigmoid(self.a(x))


class Inverted(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(), nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24),
            nn.Hardswish(), SqueezeExcite(24, nn.AdaptiveAvgPool2d(1), F.hardsigmoid), nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x):
        return x + self.body(x)


class ConvNeXtLike(nn.Module):
    """Linear layers over channels, between two permutations."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x):
        x = self.stem(x)
        return x + (self.b(F.gelu(self.a(x.permute(0, 2, 3, 1)))) * self.scale).permute(0, 3, 1, 2)


def randomised(module):
    """Random batch-norm statistics and PReLU slopes, so that a wrong formula changes the outputs."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.5)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.normal_(1, 0.3)
            part.bias.data.normal_(0, 0.3)
        if isinstance(part, nn.PReLU):
            part.weight.data.uniform_(0.1, 0.5)
    return module.eval()


def export(module, shape, opset, dynamic, new=False):
    x = torch.randn(2, *shape)
    axes = {"dynamic_axes": {"x": {0: "batch"}}} if dynamic else {}
    if new:
        from torch.export import Dim

        axes = {"dynamic_shapes": ({0: Dim("batch")},)} if dynamic else {}
        program = torch.onnx.export(module, (x,), None, opset_version=opset, dynamo=True, verbose=False, input_names=["x"], **axes)
        return program.model_proto.SerializeToString()
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, opset_version=opset, dynamo=False, input_names=["x"], **axes)
    return file.getvalue()


def save_case(folder, name, model, shape, batch=None):
    """Writes the model, random inputs, and the outputs of onnxruntime."""
    (folder / f"{name}.onnx").write_bytes(model)
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    count = batch or 3
    x = np.random.default_rng(len(name)).standard_normal([count, *shape]).astype(np.float32)
    y = session.run(None, {image.name: x})[0]
    np.save(folder / f"{name}.x.npy", x)
    np.save(folder / f"{name}.y.npy", y.reshape(count, -1))


def handwritten(folder):
    """Graphs that no PyTorch module exports."""
    rng = np.random.default_rng(5)

    def constant(name, *shape, scale=1.0):
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    def model(nodes, initializers, image, output, opset):
        graph = helper.make_graph(
            nodes, "by hand", [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, 3 + opset // 3))

    # As tf2onnx writes it: NHWC, a transpose before and after each convolution, a separate Add for biases, MatMul and Add for the head.
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Transpose", ["c"], ["u"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["u", "b"], ["v"]),
        helper.make_node("Relu", ["v"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["g"]),
        helper.make_node("Add", ["g", "n"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([-1, 96], np.int64), "shape")
    parts = [constant("w", 6, 3, 3, 3), constant("b", 6), shape, constant("m", 96, 4, scale=0.1), constant("n", 4)]
    save_case(folder, "nhwc_by_hand", model(nodes, parts, ["n", 8, 8, 3], "y", 11).SerializeToString(), (8, 8, 3))

    # Opset 7's Upsample and BatchNormalization; Mul and Add after a convolution.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "s"], ["d"]),
        helper.make_node("Add", ["d", "b"], ["e"]),
        helper.make_node("Sum", ["e", "c"], ["f"]),
        helper.make_node("GlobalMaxPool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "m", "n"], ["y"], transB=0, alpha=0.5, beta=2.0),
    ]
    parts = [constant("w", 6, 3, 3, 3), constant("s", 6, 1, 1), constant("b", 6, 1, 1), constant("m", 6, 4), constant("n", 4)]
    save_case(folder, "scaled_by_hand_7", model(nodes, parts, ["n", 3, 8, 8], "y", 7).SerializeToString(), (3, 8, 8))

    # Min and Max as clipping bounds, ConstantOfShape, Identity, a fixed batch of 1.
    nodes = [
        helper.make_node("Identity", ["w"], ["w2"]),
        helper.make_node("Conv", ["x", "w2"], ["c"]),
        helper.make_node("ConstantOfShape", ["one"], ["two"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("Min", ["c", "two"], ["d"]),
        helper.make_node("Neg", ["d"], ["e"]),
        helper.make_node("Unsqueeze", ["e", "last"], ["f"]),
        helper.make_node("Squeeze", ["f", "last"], ["y"]),
    ]
    ints = [numpy_helper.from_array(np.array([1], np.int64), "one"), numpy_helper.from_array(np.array([4], np.int64), "last")]
    save_case(folder, "bounds_by_hand_15", model(nodes, [constant("w", 4, 3, 3, 3), *ints], [1, 3, 6, 6], "y", 15).SerializeToString(), (3, 6, 6), 1)

    # Weights in an external data file.
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    beside = model(nodes, [constant("w", 16, 3, 5, 5), constant("b", 16)], ["n", 3, 9, 9], "y", 17)
    onnx.save(beside, folder / "external.onnx", save_as_external_data=True, location="external.bin", size_threshold=0)
    save_case(folder, "external", (folder / "external.onnx").read_bytes(), (3, 9, 9))


def check(folder, again):
    models = sorted(again.glob("*.onnx"))
    assert models, f"no models in {again}"
    for path in models:
        name = path.name.removesuffix(".onnx")
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        x, y = np.load(folder / f"{name}.x.npy"), np.load(folder / f"{name}.y.npy")
        # nettriage exports NCHW.
        x = x.transpose(0, 3, 1, 2) if name.startswith("nhwc") else x
        found = session.run(None, {image.name: x.reshape([len(x), *image.shape[1:]])})[0].reshape(y.shape)
        worst = np.abs(found - y).max() / np.abs(y).max()
        assert worst <= 1e-4, f"{name}: differs by {worst}"
    print(f"{len(models)} exported models: valid for onnx.checker, onnxruntime within 1e-4")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder", type=pathlib.Path)
    a.add_argument("--only", default="")
    a.add_argument("--opsets", default="7,9,11,13,17,20", help="operator sets of PyTorch's TorchScript exporter")
    a.add_argument("--new", default="18,21,22", help="operator sets of PyTorch's dynamo exporter")
    a.add_argument("--check", help="subfolder of FOLDER with exports of the same names, to check with onnx.checker and onnxruntime")
    a = a.parse_args()
    if a.check:
        return check(a.folder, a.folder / a.check)
    a.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    refused = []
    for name, module, shape in modules():
        if a.only not in name:
            continue
        module = randomised(module)
        for new, opset in [(False, o) for o in a.opsets.split(",") if o] + [(True, o) for o in a.new.split(",") if o]:
            case = f"{name}.{'new' if new else 'old'}{opset}"
            dynamic = not new and int(opset) != 11
            try:
                model = export(module, shape, int(opset), dynamic, new)
            except Exception as problem:  # the exporters raise exceptions of many types
                refused.append(f"{case} ({type(problem).__name__})")
                continue
            try:
                save_case(a.folder, case, model, shape, None if dynamic else 2)
            except Exception as problem:  # the exporter wrote an operator that its operator set does not have
                (a.folder / f"{case}.onnx").unlink()
                refused.append(f"{case} ({type(problem).__name__})")
    if not a.only:
        handwritten(a.folder)
    print(f"{len(list(a.folder.glob('*.onnx')))} models; skipped: {', '.join(refused) or 'none'}")


if __name__ == "__main__":
    main()
