"""Reads the binary batches of CIFAR-10 and rebuilds a VGG in PyTorch from its weights."""
import pathlib

import numpy as np
import torch
import torch.nn as nn


def cifar10(folder):
    """Training images (N, C, H, W) as bytes and labels, then test images and labels."""
    def batch(name):
        rows = np.fromfile(pathlib.Path(folder) / name, np.uint8).reshape(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)
    train = [batch(f"data_batch_{i}.bin") for i in range(1, 6)]
    return np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train]), *batch("test_batch.bin")


class Vgg(nn.Module):
    """The layers follow from the numbers in the names of the weights; a gap in the numbers is a max-pool."""

    def __init__(self, weights):
        super().__init__()
        layers, at = [], 0
        numbers = sorted({int(k.split(".")[1]) for k in weights if k.startswith("features.")})
        for n in (n for n in numbers if weights[f"features.{n}.weight"].dim() == 4):
            if n > at:
                layers.append(nn.MaxPool2d(2)); at += 1
            out, inputs = weights[f"features.{n}.weight"].shape[:2]
            layers += [nn.Conv2d(inputs, out, 3, padding=1, bias=f"features.{n}.bias" in weights), nn.BatchNorm2d(out), nn.ReLU()]
            at += 3
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2))
        self.classifier = nn.Linear(*reversed(weights["classifier.weight"].shape))
        self.load_state_dict(weights, strict=False)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))
