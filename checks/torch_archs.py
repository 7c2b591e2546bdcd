#!/usr/bin/env python3
"""Writes the built-in architectures with PyTorch, and checks what `nettriage` exports from them.

    pip install numpy onnx onnxruntime safetensors torch torchvision
    python checks/torch_archs.py write FOLDER          # FOLDER/NAME.pth with seeded random weights, NAME.x.npy, NAME.y.npy
    nettriage evaluate NAME.pth --arch NAME --inputs NAME.x.npy --logits ...
    nettriage export NAME.pth --arch NAME -o FOLDER/NAME.safetensors --state-dict, and FOLDER/NAME.onnx
    python checks/torch_archs.py check FOLDER          # both files reproduce PyTorch's outputs
"""
import pathlib
import sys

import numpy as np
import torch
import torch.nn as nn

from reference_outputs import cifar_resnet, onnx_session

NAMES = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
NAMES += [f"cifar-resnet{depth}" for depth in (18, 34, 50, 20, 32, 44, 56, 110)]
# With the input size and classifier of torchvision.
LARGE = ["vgg11.large", "resnet18", "resnet34", "resnet50"]


def network(name):
    """The module and the shape (C, H, W) of its images."""
    import torchvision.models as models

    if name.endswith(".large"):
        return models.get_model(name.removesuffix(".large"), weights=None, num_classes=10), (3, 224, 224)
    if name.startswith("vgg"):
        small = models.get_model(name, weights=None, num_classes=10)
        # The usual variant for CIFAR: a feature map of 1x1 and a single linear layer.
        small.avgpool, small.classifier = nn.Identity(), nn.Linear(512, 10)
        return small, (3, 32, 32)
    if name.startswith("cifar-resnet") and (int(name[12:]) - 2) % 6 == 0 and name != "cifar-resnet50":
        return cifar_resnet(int(name[12:]))
    net = models.get_model(name.removeprefix("cifar-"), weights=None, num_classes=10)
    if name.startswith("cifar-"):
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        return net, (3, 32, 32)
    return net, (3, 224, 224)


def write(folder):
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    for name in NAMES + LARGE:
        net, shape = network(name)
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.8, 1.5)
                part.weight.data.uniform_(0.6, 1.1)
        x = rng.standard_normal([2, *shape]).astype(np.float32)
        with torch.inference_mode():
            y = net.eval()(torch.from_numpy(x)).numpy()
        torch.save(net.state_dict(), folder / f"{name}.pth")
        np.save(folder / f"{name}.x.npy", x)
        np.save(folder / f"{name}.y.npy", y)
        print(name)


def check(folder):
    import onnx
    from safetensors.torch import load_file

    found = sorted(folder.glob("*.safetensors"))
    assert found, f"nothing to check in {folder}"
    for path in found:
        name = path.name.removesuffix(".safetensors")
        x, y = np.load(folder / f"{name}.x.npy"), np.load(folder / f"{name}.y.npy")
        net, _ = network(name)
        net.load_state_dict(load_file(path), strict=True)
        with torch.inference_mode():
            again = net.eval()(torch.from_numpy(x)).numpy()
        # The export folds biases into the mean of the following batch norm, which changes the rounding.
        assert np.abs(again - y).max() <= 1e-5 * np.abs(y).max(), f"{name}: the exported weights give other outputs in PyTorch"
        model = folder / f"{name}.onnx"
        onnx.checker.check_model(str(model), full_check=True)
        session, image = onnx_session(str(model))
        outputs = session.run(None, {image.name: x})[0]
        worst = np.abs(outputs - y).max() / np.abs(y).max()
        assert worst <= 1e-4, f"{name}: onnxruntime and PyTorch differ by {worst}"
    print(f"{len(found)} architectures: load_state_dict(strict=True) and outputs within 1e-5, onnx.checker, onnxruntime within 1e-4")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
