#!/usr/bin/env python3
"""The PyTorch side of `bench/study.py --network cifar-resnet20`: a study of ResNet-20's three stages.

    python bench/torch_resnet20_study.py --peer torch_study.py --data DIR --out FILE [the peer's other arguments]

Everything is the peer's, which studies a VGG16, but three functions: the parent, where its blocks are, and the child. Each stage becomes one
3x3 convolution with batch norm and ReLU that has the stage's stride.
"""
import argparse
import copy
import importlib.util
import sys

import torch
from torch import nn

from networks import cifar_resnet20


def parent_of(channels, size, classes, width):
    """The network of He et al., arXiv:1512.03385, section 4.2: a first layer, three stages, and the classifier."""
    layers = list(cifar_resnet20())
    stages = [nn.Sequential(*layers[first:first + 3]) for first in (3, 6, 9)]
    net = nn.Sequential(nn.Sequential(*layers[:3]), *stages, *layers[12:])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net


def blocks_of(net):
    return [1, 2, 3]


def compress(parent, at):
    child = copy.deepcopy(parent)
    convs = [module for module in child[at].modules() if isinstance(module, nn.Conv2d)]
    conv = nn.Conv2d(convs[0].in_channels, convs[-1].out_channels, 3, convs[0].stride, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    child[at] = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())
    return child.to(next(parent.parameters()).device, memory_format=torch.channels_last)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    args, rest = parser.parse_known_args()
    spec = importlib.util.spec_from_file_location("peer", args.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    peer.parent_of, peer.blocks_of, peer.compress = parent_of, blocks_of, compress
    sys.argv = [args.peer, *rest]
    peer.main()


if __name__ == "__main__":
    main()
