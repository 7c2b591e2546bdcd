#!/usr/bin/env python3
"""Exports networks whose blocks crates/cli/tests/blocks.rs compares with the names that a person would give.

    pip install onnx onnxscript timm torch torchvision
    python checks/blocks.py FOLDER          # NAME.older.onnx and NAME.newer.onnx, by PyTorch's two exporters

Weights are random.
"""

import logging
import pathlib
import sys
import warnings

import torch
import zoo
from torch import nn

NAMES = [
    "vgg16_bn", "alexnet", "resnet50", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf",
    "convnext_tiny", "deit_tiny", "swin_t", "hrnet_w18_small", "unet", "autoencoder",
]


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid())

    def forward(self, x):
        return self.decoder(self.encoder(x))


def module(name):
    """The module and the rows and columns of an image."""
    import timm
    import torchvision

    if name == "unet":
        made, shape = zoo.own()["unet"]()
        return made, shape[-1]
    if name == "autoencoder":
        return Autoencoder(), 32
    if name == "deit_tiny":
        return timm.create_model("deit_tiny_patch16_224", img_size=64), 64
    if name == "hrnet_w18_small":
        return timm.create_model(name), 64
    size = 224 if name in ("vgg16_bn", "alexnet") else 64
    return torchvision.models.get_model(name, weights=None), size


def main():
    folder = pathlib.Path(sys.argv[1])
    for name in NAMES:
        made, size = module(name)
        made, images = made.train(False), torch.zeros(1, 3, size, size)
        options = {"input_names": ["images"], "output_names": ["outputs"]}
        torch.onnx.export(made, (images,), folder / f"{name}.older.onnx", dynamo=False, opset_version=17, **options)
        torch.onnx.export(made, (images,), folder / f"{name}.newer.onnx", dynamo=True, external_data=False, **options)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    main()
