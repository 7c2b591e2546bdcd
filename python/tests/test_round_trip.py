"""Every built-in architecture, and the networks of other people, to PyTorch and back."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import nettriage as nt

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("NETTRIAGE_SHARED", ROOT.parent / "shared"), "networks")


#: The built-in architectures.
ALL = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
ALL += [f"cifar-resnet{depth}" for depth in (18, 34, 50, 20, 32, 44, 56, 110)]


#: Files of weights alone: the built-in architecture, or the module of `checks/reference_outputs.py`.
WEIGHTS = {
    "cifar10_resnet/resnet20-12fca82f.th": "cifar-resnet20",
    "cifar10_resnet/resnet44-014dd654.th": "cifar-resnet44",
    "cifar10_small/cifar_base_kw.pth": "cifar-base-kw",
    "cifar10_small/resnet_2b.pth": "resnet-2b",
    "mnist_lenet/lenet.pth": "lenet",
    "mnist_conv/mnist.pt": "mnist-conv",
    "mnist_conv/mnist.safetensors": "mnist-conv",
}


def files(*endings: str) -> list[Path]:
    return sorted(path for path in SHARED.rglob("*") if path.suffix in endings)


def checks(name: str) -> ModuleType:
    """A script of `checks/` as a module."""
    sys.path.insert(0, str(ROOT / "checks"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "checks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(network: nt.Network, *, trains: bool = True) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, *network.input_shape)).astype(np.float32)
    module = network.to_torch()
    with torch.no_grad():
        found = module(torch.from_numpy(x))
    if found.dim() == 4:
        found = found.permute(0, 2, 3, 1)
    wanted = network.outputs(x)
    assert np.abs(found.numpy().reshape(wanted.shape) - wanted).max() <= 1e-5 * max(np.abs(wanted).max(), 1.0)
    if trains:
        assert descends(module, torch.from_numpy(x))


def descends(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether five SGD steps towards disturbed outputs reduce the loss, at one of a few rates."""
    torch.manual_seed(6)
    with torch.no_grad():
        outputs = module(x).flatten(1)
    target = outputs + outputs.std() * torch.randn_like(outputs)
    start = {key: value.clone() for key, value in module.state_dict().items()}
    for share in (0.1, 0.03, 0.01, 0.003):
        module.load_state_dict(start)
        loss = nn.functional.mse_loss(module(x).flatten(1), target)
        loss.backward()
        squares = sum(float((part.grad**2).sum()) for part in module.parameters() if part.grad is not None)
        # At this rate the first step would take `share` of the loss away if the loss were linear.
        optimizer = torch.optim.SGD(module.parameters(), share * loss.item() / squares)
        first = loss.item()
        for _ in range(5):
            optimizer.step()
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(module(x).flatten(1), target)
            loss.backward()
        if loss.item() < first:
            return True
        module.zero_grad()
    return False


@pytest.mark.parametrize("name", ALL)
def test_architectures(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(7)
    net, shape = checks("torch_archs").network(name)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    network = nt.Network.load(tmp_path / "net.pth", arch=name, input=shape, classes=10)
    check(network)
    agree(network, net, shape)


def agree(network: nt.Network, module: nn.Module, shape: tuple[int, int, int]) -> None:
    """Whether the network computes what the module computes."""
    x = torch.randn(2, *shape)
    with torch.no_grad():
        wanted = module.eval()(x).numpy()
    found = network.outputs(x.numpy())
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_every_file_of_weights_is_listed() -> None:
    names = [path.relative_to(SHARED).as_posix() for path in files(".th", ".pth", ".pt", ".safetensors")]
    assert names == [name for name in sorted(WEIGHTS) if SHARED.is_dir()]


@pytest.mark.parametrize("name", sorted(WEIGHTS) if SHARED.is_dir() else [])
def test_weights_of_others(name: str, tmp_path: Path) -> None:
    reference = checks("reference_outputs")
    torch.manual_seed(7)
    module, shape = reference.torch_network(WEIGHTS[name])
    module.load_state_dict(reference.state_dict_of(SHARED / name))
    arch = WEIGHTS[name]
    if not arch.startswith("cifar-resnet"):
        # The graph of the same module with other weights: those of the file must replace them.
        other, _ = reference.torch_network(arch)
        arch = str(tmp_path / "graph.onnx")
        nt.Network.from_torch(other.eval(), torch.zeros(2, *shape)).save(arch)
    network = nt.Network.load(SHARED / name, arch=arch)
    check(network)
    agree(network, module, shape)


@pytest.mark.parametrize("path", files(".onnx"), ids=lambda path: path.name)
def test_networks_of_others(path: Path) -> None:
    # The graphs in `structure` have constant weights: their outputs do not depend on the image, and have no gradient.
    check(nt.Network.load(path), trains=not path.name.startswith("light_"))
