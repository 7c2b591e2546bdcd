#!/usr/bin/env python3
"""Recomputes the least-squares substitutes of VGG16's blocks in PyTorch and compares the accuracy drops with those of `nettriage scan`.

    pip install torch numpy safetensors
    nettriage scan PARENT.safetensors --arch vgg16_bn --width 0.25 … --ranges blocks --on-test --judged 2000 \\
        --substitutes conv3x3 --methods plain --json scan.json
    python checks/least_squares.py --parent PARENT.safetensors --scan scan.json --data DIR --mean R,G,B --std R,G,B

PARENT holds the weights of a vgg16_bn under torchvision's names, DIR the binary batches of CIFAR-10. For every block: ridge regression in
f64 from the patches to the targets (before the closing ReLU) at every position of the first 2,000 training images, with a penalty of
1e-4 of the mean diagonal element of Z'Z; then the accuracy on the first 2,000 test images with that convolution as substitute.
nettriage samples positions, so drops differ a little: exit code 1 if one differs by more than 1 percentage point.
"""
import argparse, json, sys
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

from torch_vgg import Vgg, cifar10


def blocks_of(layers):
    """(first, end) of the layers between two poolings; the last one is a ReLU."""
    blocks, start = [], 0
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            blocks.append((start, i))
            start = i + 1
    return blocks


@torch.no_grad()
def solve(inputs, targets, ridge=1e-4):
    """Weight and bias of the 3x3 convolution from `inputs` to `targets`, both (N, C, H, W)."""
    channels, filters = inputs.shape[1], targets.shape[1]
    n = 9 * channels
    gram, cross, sums, target_sums, rows = torch.zeros(n, n).double(), torch.zeros(n, filters).double(), 0, 0, 0
    for x, t in zip(inputs.split(100), targets.split(100)):
        z = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, n).double()
        t = t.flatten(2).transpose(1, 2).reshape(-1, filters).double()
        gram += z.T @ z
        cross += z.T @ t
        sums, target_sums, rows = sums + z.sum(0), target_sums + t.sum(0), rows + len(z)
    mean, target_mean = sums / rows, target_sums / rows
    gram -= rows * torch.outer(mean, mean)
    cross -= rows * torch.outer(mean, target_mean)
    gram += ridge * gram.trace() / n * torch.eye(n).double()
    weight = torch.linalg.solve(gram, cross)
    return weight.T.reshape(filters, channels, 3, 3).float(), (target_mean - mean @ weight).float()


@torch.no_grad()
def accuracy(net, layers, x, labels):
    """Percent of the images classified correctly."""
    predicted = [net.classifier(torch.flatten(layers(part), 1)).argmax(1) for part in x.split(500)]
    return 100 * (torch.cat(predicted) == labels).double().mean().item()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("parent", "scan", "data", "mean", "std"):
        a.add_argument(f"--{name}", required=True)
    a.add_argument("--threads", type=int, default=2)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    scanned = {r["block"]: r["candidates"][0]["drop"][0] for r in json.load(open(a.scan))["ranges"] if r["candidates"][0]["method"] == "plain"}
    mean, std = (torch.tensor([float(v) for v in t.split(",")]).view(1, 3, 1, 1) for t in (a.mean, a.std))
    x, _, test_x, test_y = cifar10(a.data)
    x = (torch.from_numpy(x[:2000].copy()).float() / 255 - mean) / std
    test = (torch.from_numpy(test_x[:2000].copy()).float() / 255 - mean) / std
    labels = torch.from_numpy(test_y[:2000])
    net = Vgg(load_file(a.parent)).eval()
    layers = list(net.features)
    worst = 0.0
    base = accuracy(net, net.features, test, labels)
    print(f"parent {base:.2f}% of 2,000 test images\n\n| block | PyTorch, accuracy drop (pp) | nettriage, accuracy drop (pp) |\n|---|---|---|")
    for number, (start, end) in enumerate(blocks_of(layers), 1):
        with torch.no_grad():
            inputs = torch.cat([nn.Sequential(*layers[:start])(part) for part in x.split(100)])
            targets = torch.cat([nn.Sequential(*layers[start:end - 1])(part) for part in inputs.split(100)])
        weight, bias = solve(inputs, targets)
        single = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        single.weight.data, single.bias.data = weight, bias
        child = nn.Sequential(*layers[:start], single, nn.ReLU(), *layers[end:])
        drop = base - accuracy(net, child, test, labels)
        worst = max(worst, abs(drop - scanned[f"block{number}"]))
        print(f"| block{number} | {drop:.2f} | {scanned[f'block{number}']:.2f} |", flush=True)
    print(f"\nlargest difference {worst:.2f} percentage points")
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
