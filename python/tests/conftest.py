"""Networks and data sets that the tests share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nettriage as nt


class Custom(nn.Module):
    """A residual branch and a depthwise layer, in a user-defined class."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1),
        )
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.branch(x)))
        x = torch.nn.functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


def trained(module: nn.Module, data: nt.Dataset, mean: float, std: float, epochs: int = 12) -> nn.Module:
    """The module after a short training on normalised images."""
    torch.manual_seed(0)
    images, labels = data.arrays("train")
    x, y = (torch.from_numpy(images).float() / 255 - mean) / std, torch.from_numpy(labels)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    module.train()
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[part]), y[part]).backward()
            optimizer.step()
    return module.eval()


@pytest.fixture(scope="session")
def digits() -> nt.Dataset:
    return nt.Dataset.open("digits")


@pytest.fixture(scope="session")
def module(digits: nt.Dataset) -> nn.Module:
    return trained(Custom(), digits, 0.3, 0.35)


@pytest.fixture(scope="session")
def network(module: nn.Module, digits: nt.Dataset) -> nt.Network:
    return nt.Network.from_torch(module, torch.zeros(2, 1, 8, 8), mean=[0.3], std=[0.35], classes=digits.classes)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, 1, 8, 8)).astype(np.float32)
