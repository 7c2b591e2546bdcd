#!/usr/bin/env python3
"""Computes reference outputs of a network with onnxruntime or PyTorch, to compare with `nettriage evaluate MODEL --inputs X.npy --logits Y.npy`.

ONNX models run in onnxruntime. PyTorch checkpoints run in PyTorch with the architecture that `--arch` names. Inputs are random numbers of
a seeded normal distribution, or come from a file, in the model's own layout.

    pip install numpy onnx onnxruntime safetensors torch torchvision
    python checks/reference_outputs.py resnet_2b.onnx --seed 1 --inputs X.npy --outputs Y.npy
    python checks/reference_outputs.py resnet20-12fca82f.th --arch cifar-resnet20 --inputs X.npy --outputs Y.npy
    python checks/reference_outputs.py resnet_2b.onnx --given X.npy --outputs Y.npy       # with inputs from a file
"""
import argparse
import pathlib

import numpy as np


def onnx_session(path):
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    constants = {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = [value for value in session.get_inputs() if value.name not in constants]
    return session, image


def run_onnx(path, inputs, count, seed):
    session, image = onnx_session(path)
    shape = [extent if isinstance(extent, int) else None for extent in image.shape]
    if inputs is None:
        if None in shape[1:]:
            raise SystemExit(f"{path}: its input has the shape {image.shape}; give inputs with --given")
        inputs = np.random.default_rng(seed).standard_normal([count, *shape[1:]]).astype(np.float32)
    # A model may have a fixed batch size.
    batch = shape[0] or 16
    outputs = []
    for start in range(0, len(inputs), batch):
        part = inputs[start:start + batch]
        missing = batch - len(part) if shape[0] else 0
        padded = np.concatenate([part, np.zeros([missing, *part.shape[1:]], np.float32)]) if missing else part
        outputs.append(session.run(None, {image.name: padded})[0][:len(part)])
    return inputs, np.concatenate(outputs)


def cifar_resnet(depth):
    """He et al. 2015, section 4.2, option A shortcuts; layers named as in Y. Idelbayev's repository."""
    import torch.nn as nn
    import torch.nn.functional as F

    class Unit(nn.Module):
        def __init__(self, cin, cout, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(cout)
            self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(cout)
            self.stride, self.extra = stride, cout - cin

        def forward(self, x):
            out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.stride != 1 or self.extra:
                x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
            return F.relu(out + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            units, channels = (depth - 2) // 6, 16
            for stage, width in enumerate((16, 32, 64)):
                layers = []
                for index in range(units):
                    layers.append(Unit(channels, width, 2 if stage and not index else 1))
                    channels = width
                setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    return Net(), (3, 32, 32)


def lenet():
    """The network of `mnist_lenet`: pooling before ReLU, softmax at the end."""
    import torch.nn as nn
    import torch.nn.functional as F

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
            self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

        def forward(self, x):
            x = F.relu(F.max_pool2d(self.conv1(x), 2))
            x = F.relu(F.max_pool2d(self.conv2(x), 2)).flatten(1)
            return F.softmax(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x))))), 1)

    return Net(), (1, 28, 28)


def mnist_conv():
    """The network of `mnist_conv`: batch norms after the activation, and after the last layer."""
    import torch.nn as nn
    import torch.nn.functional as F

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 24, 3)
            self.norm1, self.norm2 = nn.BatchNorm2d(24), nn.BatchNorm1d(10)
            self.fc1, self.fc2 = nn.Linear(24 * 22 * 22, 32), nn.Linear(32, 10)

        def forward(self, x):
            x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))
            return F.log_softmax(self.norm2(self.fc2(F.relu(self.fc1(self.norm1(x).flatten(1))))), 1)

    return Net(), (1, 28, 28)


def cifar_base_kw():
    """The network of `cifar_base_kw`; its layers have no names."""
    import torch.nn as nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 100), nn.ReLU(),
        nn.Linear(100, 10)), (3, 32, 32)


def resnet_2b():
    """The network of `resnet_2b`, its batch norms folded."""
    import torch.nn as nn
    import torch.nn.functional as F

    class Unit(nn.Module):
        def __init__(self, cin, cout, stride):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(cin, cout, 3, stride, 1), nn.Conv2d(cout, cout, 3, 1, 1)
            self.shortcut = nn.Sequential(*([nn.Conv2d(cin, cout, 1, stride)] if stride > 1 else []))

        def forward(self, x):
            return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
            self.layer1 = nn.Sequential(Unit(8, 16, 2), Unit(16, 16, 1))
            self.linear1, self.linear2 = nn.Linear(1024, 100), nn.Linear(100, 10)

        def forward(self, x):
            return self.linear2(F.relu(self.linear1(self.layer1(F.relu(self.conv1(x))).flatten(1))))

    return Net(), (3, 32, 32)


SMALL = {"lenet": lenet, "mnist-conv": mnist_conv, "cifar-base-kw": cifar_base_kw, "resnet-2b": resnet_2b}


def torch_network(name):
    if name in SMALL:
        return SMALL[name]()
    if name.startswith("cifar-resnet") and (int(name[12:]) - 2) % 6 == 0:
        return cifar_resnet(int(name[12:]))
    import torchvision

    return getattr(torchvision.models, name)(weights=None), (3, 224, 224)


def state_dict_of(path):
    import torch

    if pathlib.Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    while not any(hasattr(value, "shape") for value in found.values()):
        found = found["state_dict"]
        found = found[0] if isinstance(found, list) else found
    return {key.removeprefix("module."): value for key, value in found.items()}


def run_torch(path, arch, inputs, count, seed):
    import torch

    network, shape = torch_network(arch)
    network.load_state_dict(state_dict_of(path))
    network.eval()
    if inputs is None:
        inputs = np.random.default_rng(seed).standard_normal([count, *shape]).astype(np.float32)
    with torch.inference_mode():
        outputs = [network(torch.from_numpy(inputs[start:start + 16])).numpy() for start in range(0, len(inputs), 16)]
    return inputs, np.concatenate(outputs)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model")
    a.add_argument("--arch", help="for checkpoints: cifar-resnetN, one of " + ", ".join(SMALL) + ", or a model of torchvision")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--count", type=int, default=64)
    a.add_argument("--given", help="file of inputs, N first")
    a.add_argument("--inputs", help="where to write the inputs")
    a.add_argument("--outputs", required=True, help="where to write the outputs")
    a = a.parse_args()
    given = np.load(a.given).astype(np.float32) if a.given else None
    if pathlib.Path(a.model).suffix == ".onnx":
        inputs, outputs = run_onnx(a.model, given, a.count, a.seed)
    elif a.arch:
        inputs, outputs = run_torch(a.model, a.arch, given, a.count, a.seed)
    else:
        raise SystemExit(f"{a.model}: a checkpoint needs --arch")
    if a.inputs:
        np.save(a.inputs, inputs)
    np.save(a.outputs, outputs.reshape(len(outputs), -1))
    print(f"{len(outputs)} outputs of {outputs[0].size}, largest {np.abs(outputs).max():.6g}")


if __name__ == "__main__":
    main()
