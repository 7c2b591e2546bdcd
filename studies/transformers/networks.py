#!/usr/bin/env python3
"""Writes two networks for 32x32 images with random weights as ONNX files, which vit.toml and convnext.toml train.

    pip install onnx torch
    python studies/transformers/networks.py        # vit.onnx and convnext.onnx beside this file
"""

import pathlib

import torch
import torch.nn.functional as F
from torch import nn

FOLDER = pathlib.Path(__file__).resolve().parent


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        images, tokens, width = x.shape
        heads = self.qkv(x).reshape(images, tokens, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(images, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Attention and MLP, each behind a layer norm and with a skip (Dosovitskiy et al., arXiv:2010.11929)."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A ViT with 64 tokens from two convolutions of stride 2 (Xiao et al., arXiv:2106.14881), mean over tokens."""

    def __init__(self, width=80, depth=6, heads=4, hidden=160):
        super().__init__()
        self.patch_embed = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, 2, 1))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.ModuleList([EncoderLayer(width, heads, hidden) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class LayerNormOfChannels(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Liu et al., arXiv:2201.03545, with 5x5 kernels, since the feature maps are small."""

    def __init__(self, width):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 5, 1, 2, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, widths=(32, 64, 128), depths=(2, 2, 4)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1), LayerNormOfChannels(widths[0]))
        stages = []
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            down = []
            if stage > 0:
                before = widths[stage - 1]
                down = [nn.Sequential(LayerNormOfChannels(before), nn.Conv2d(before, width, 2, 2))]
            stages.append(nn.Sequential(*down, *[ConvNeXtBlock(width) for _ in range(depth)]))
        self.stages = nn.ModuleList(stages)
        self.norm, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 10)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x.mean((2, 3))))


def main():
    torch.manual_seed(1)
    for name, module in (("vit", Vit()), ("convnext", ConvNeXt())):
        path = FOLDER / f"{name}.onnx"
        images = torch.zeros(1, 3, 32, 32)
        axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(module.train(False), images, path, input_names=["images"], output_names=["logits"],
                          dynamic_axes=axes, opset_version=17, dynamo=False, do_constant_folding=True)
        print(path, sum(weights.numel() for weights in module.parameters()), "parameters")


if __name__ == "__main__":
    main()
