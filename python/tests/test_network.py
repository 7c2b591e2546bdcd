"""Networks from PyTorch and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nettriage as nt
from nettriage import _network


def worst(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())


def test_outputs_and_names_are_the_modules(module: nn.Module, network: nt.Network, images: np.ndarray) -> None:
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    assert worst(network.outputs(images), wanted) < 1e-5
    names = {name for name, part in module.named_modules() if isinstance(part, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))}
    assert names <= {layer["name"] for layer in network.graph["layers"]}
    weights = network.weights()
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(weights[key], value.numpy())


def test_export_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).train()
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    nt.Network.from_torch(module, torch.randn(2, 3, 8, 8))
    assert [part.training for part in module] == [True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_round_trip_trains_compiles_and_exports(
    network: nt.Network, images: np.ndarray, digits: nt.Dataset, tmp_path: Path
) -> None:
    back = network.to_torch()
    x = torch.from_numpy(images)
    with torch.no_grad():
        wanted = back(x).numpy()
    assert worst(network.outputs(images), wanted) < 1e-5
    assert not back.training
    again = nt.Network.from_torch(back, x)
    assert worst(again.outputs(images), wanted) < 1e-5
    exported = torch.export.export(back, (x,))
    with torch.no_grad():
        assert torch.allclose(exported.module()(x), torch.from_numpy(wanted), atol=1e-5)
    pixels, labels = digits.arrays("train")
    x, y = (torch.from_numpy(pixels[:256]).float() / 255 - 0.3) / 0.35, torch.from_numpy(labels[:256])
    for part in back.parameters():
        part.data += 0.05 * torch.randn_like(part)
    optimizer = torch.optim.SGD(back.train().parameters(), 0.02)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(back(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_source_is_a_module_of_its_own(network: nt.Network, images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    text = network.to_source(path, "Small")
    assert path.read_text() == text
    space: dict = {}
    exec(compile(text, str(path), "exec"), space)
    module = space["Small"]()
    module.load_state_dict({key: torch.from_numpy(value) for key, value in network.weights().items()}, strict=False)
    with torch.no_grad():
        assert worst(module.eval()(torch.from_numpy(images)).numpy(), network.outputs(images)) < 1e-5


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4), nn.Hardswish()],
        [nn.Conv2d(3, 8, 5), nn.PReLU(8), nn.MaxPool2d(3, 2, 1), nn.SiLU()],
        [nn.Conv2d(3, 6, 3), nn.ELU(0.7), nn.AvgPool2d(3, 2, 1), nn.Tanh()],
        [nn.Conv2d(3, 6, 3), nn.GELU(), nn.AvgPool2d(2, 2, 1, count_include_pad=False), nn.Sigmoid()],
        [nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), nn.Mish()],
        [nn.Conv2d(3, 6, 3), nn.LocalResponseNorm(3), nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 2, 0, 1)), nn.Hardsigmoid()],
        [nn.Conv2d(3, 8, 3), nn.ChannelShuffle(4), nn.AdaptiveAvgPool2d(1), nn.Dropout(0.3)],
    ],
)
def test_layers(layers: list[nn.Module]) -> None:
    torch.manual_seed(2)
    body = nn.Sequential(*layers)
    x = torch.randn(3, 3, 13, 11)
    features = body.eval()(x).flatten(1).shape[1]
    module = nn.Sequential(body, nn.Flatten(), nn.Linear(features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)).eval()
    network = nt.Network.from_torch(module, x)
    with torch.no_grad():
        wanted = module(x).numpy()
        back = network.to_torch()(x).numpy()
    assert worst(network.outputs(x.numpy()), wanted) < 1e-5
    assert worst(back, wanted) < 1e-5


def test_modules_that_cannot_be_read_are_named() -> None:
    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft2(x).abs()

    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(3).values

    for kind, part in [(Strange, "body.strange"), (Sorted, "body.strange")]:
        body = nn.Sequential()
        body.add_module("first", nn.Conv2d(4, 4, 3))
        body.add_module("strange", kind())
        module = nn.Sequential()
        module.add_module("stem", nn.Conv2d(3, 4, 3))
        module.add_module("body", body)
        with pytest.raises(nt.NettriageError, match=f"because of its part {part}, a {kind.__name__}: .*replace this part"):
            nt.Network.from_torch(module, torch.zeros(1, 3, 8, 8))

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    with pytest.raises(nt.NettriageError, match="returns one tensor"):
        nt.Network.from_torch(Two(), torch.zeros(1, 3, 8, 8))


def test_rounding_of_the_module_itself_is_no_difference() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    # Values near 10,000 with deviations near 1, in single precision.
    module[0].bias.data.fill_(1e4)
    module[1].running_mean.fill_(1e4)
    x = torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="single precision"):
        network = nt.Network.from_torch(module, x)
    # The same module with another weight is another network, however it rounds.
    module[3].weight.data[0] += 0.1
    with pytest.raises(nt.NettriageError, match="differs from the module"):
        _network._compare(network._inner, module, x, module(x))


def test_wrong_input_is_one_line(network: nt.Network, tmp_path: Path) -> None:
    with pytest.raises(nt.NettriageError, match=r"the network takes \(N, 1, 8, 8\)"):
        network.outputs(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(nt.NettriageError, match="name the file .onnx or .safetensors"):
        network.save(tmp_path / "net.txt")
    with pytest.raises(nt.NettriageError, match="nothing.onnx"):
        nt.Network.load(tmp_path / "nothing.onnx")
    with pytest.raises(nt.NettriageError, match="go together"):
        network.with_info(mean=[0.5])


def test_saved_files_are_read_again(network: nt.Network, images: np.ndarray, tmp_path: Path) -> None:
    for name in ("net.onnx", "net.safetensors"):
        again = nt.Network.load(network.save(tmp_path / name))
        np.testing.assert_array_equal(again.outputs(images), network.outputs(images))
        assert again.mean == network.mean and again.classes == network.classes


def test_views(network: nt.Network) -> None:
    assert "blocks" in repr(network) and "<table>" in network._repr_html_()
    frame = network.to_frame()
    assert frame["parameters"].sum() == network.parameters and set(frame["block"].dropna()) == set(network.blocks)
