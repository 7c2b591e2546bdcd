#!/usr/bin/env python3
"""Compares a prescribed network with L1 channel pruning by Torch-Pruning, at equal latency and training.

    pip install torch torch-pruning onnxruntime onnxscript safetensors
    nettriage prescribe PARENT.safetensors --arch vgg16_bn --width 0.25 … -o child.onnx
    python bench/prune.py --parent PARENT.safetensors --child child.onnx --data DIR [--train-images 20000] [--seeds 3]

PARENT holds the weights of a vgg16_bn under torchvision's names (a run's `weights/parent-*.safetensors`, or `nettriage export`);
child.json is in the same folder as child.onnx. The network is pruned once, by the smallest uniform share of channels at which onnxruntime
(one thread, batch 1, both networks alternately) is as fast as with child.onnx. It is then trained on the same number of CIFAR-10 images
with the same loss (distillation, T 4, alpha 0.9), optimiser, schedule and augmentation. Prints latencies, multiply-accumulates, and
accuracies on all 10,000 test images of both networks and the parent; with `--plain plain.onnx` also those of a prescription without training.
"""
import argparse, copy, json, pathlib, statistics, sys, tempfile, time
import numpy as np
import onnxruntime as ort
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch_pruning as tp
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "checks"))
from torch_vgg import Vgg, cifar10


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx(net, folder, name):
    path = pathlib.Path(folder) / f"{name}.onnx"
    torch.onnx.export(net, (torch.zeros(1, 3, 32, 32),), str(path), input_names=["input"], dynamo=False)
    return session(path)


def latency(sessions, repetitions=200):
    """Median milliseconds of each session, measured alternately."""
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    seconds = [[] for _ in sessions]
    for repetition in range(repetitions + 20):
        for s, into in zip(sessions, seconds):
            begin = time.perf_counter()
            s.run(None, {s.get_inputs()[0].name: x})
            if repetition >= 20:
                into.append(time.perf_counter() - begin)
    return [1e3 * statistics.median(s) for s in seconds]


@torch.no_grad()
def accuracy(run, x, y, batch=500):
    correct = 0
    for i in range(0, len(x), batch):
        correct += (run(x[i:i + batch]).argmax(1) == y[i:i + batch]).sum().item()
    return 100 * correct / len(y)


def pruned(parent, share):
    net = copy.deepcopy(parent)
    pruner = tp.pruner.MagnitudePruner(net, torch.zeros(1, 3, 32, 32), importance=tp.importance.MagnitudeImportance(p=1),
                                       pruning_ratio=share, ignored_layers=[net.classifier])
    pruner.step()
    return net


def train(net, parent, x, y, mean, std, images, rate, seed, batch=128, temperature=4.0, alpha=0.9):
    generator = torch.Generator().manual_seed(seed)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = -(-images // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, cycle_momentum=False)
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(-(-images // len(x)))])[:images]
    for i in range(0, images, batch):
        index = order[i:i + batch]
        chosen = F.pad(torch.from_numpy(x[index.numpy()]).float() / 255, (4, 4, 4, 4))
        dy, dx = torch.randint(0, 9, (2, len(index)), generator=generator)
        chosen = torch.stack([c[:, a:a + 32, b:b + 32] for c, a, b in zip(chosen, dy.tolist(), dx.tolist())])
        flip = torch.rand(len(index), generator=generator) < 0.5
        chosen[flip] = chosen[flip].flip(3)
        inputs = (chosen - mean) / std
        logits, labels = net(inputs), torch.from_numpy(y[index.numpy()])
        with torch.no_grad():
            teacher = parent(inputs)
        soft = F.kl_div(F.log_softmax(logits / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
        loss = (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature ** 2 * soft
        optimizer.zero_grad(); loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step(); schedule.step()
    return net.eval()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--parent", required=True); a.add_argument("--child", required=True); a.add_argument("--plain")
    a.add_argument("--data", required=True); a.add_argument("--mean", required=True); a.add_argument("--std", required=True)
    a.add_argument("--train-images", type=int, default=20000); a.add_argument("--held", type=int, default=3000)
    a.add_argument("--rate", type=float, default=0.01); a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--threads", type=int, default=2)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    mean, std = (torch.tensor([float(v) for v in t.split(",")]).view(1, 3, 1, 1) for t in (a.mean, a.std))
    x, y, test_x, test_y = cifar10(a.data)
    x, y = x[:len(x) - a.held], y[:len(y) - a.held]  # the images that the prescription was evaluated on are not used for training
    test = (torch.from_numpy(test_x).float() / 255 - mean) / std
    parent = Vgg(load_file(a.parent)).eval()
    labels = torch.from_numpy(test_y)
    child = session(a.child)

    def with_onnxruntime(s):
        return lambda v: torch.from_numpy(np.concatenate([s.run(None, {s.get_inputs()[0].name: v[i:i + 100].numpy()})[0] for i in range(0, len(v), 100)]))

    with tempfile.TemporaryDirectory() as folder:
        unpruned = onnx(parent, folder, "parent")
        low, high = 0.0, 0.95
        for step in range(7):
            share = (low + high) / 2
            ours, theirs = latency([child, onnx(pruned(parent, share), folder, f"p{step}")])
            low, high = (low, share) if theirs <= ours else (share, high)
        share = high
        untrained = pruned(parent, share)
        before, ours, theirs = latency([unpruned, child, onnx(untrained, folder, "pruned")])
        macs = lambda net: tp.utils.count_ops_and_params(net, torch.zeros(1, 3, 32, 32))[0] / 1e6
        print(f"onnxruntime {ort.__version__}, one thread, batch 1, milliseconds: parent {before:.3f}, prescribed {ours:.3f} "
              f"({before / ours:.2f}x), pruned by {100 * share:.0f}% of the channels {theirs:.3f} ({before / theirs:.2f}x)")
        print(f"multiply-accumulates: parent {macs(parent):.2f} M, pruned {macs(untrained):.2f} M, prescribed "
              f"{json.loads(pathlib.Path(a.child).with_suffix('.json').read_text())['judged']['cost']['macs'] / 1e6:.2f} M")
        print(f"accuracy on 10,000 test images: parent {accuracy(parent, test, labels):.2f}")
        if a.plain:
            print(f"  prescribed, no training        {accuracy(with_onnxruntime(session(a.plain)), test, labels, 1000):.2f}")
        print(f"  prescribed, {a.train_images} images      {accuracy(with_onnxruntime(child), test, labels, 1000):.2f}")
        print(f"  pruned, no training            {accuracy(untrained, test, labels):.2f}")
        found = []
        for seed in range(a.seeds):
            trained = train(copy.deepcopy(untrained), parent, x, y, mean, std, a.train_images, a.rate, seed)
            found.append(accuracy(trained, test, labels))
        print(f"  pruned, {a.train_images} images          {statistics.mean(found):.2f} ({min(found):.2f} to {max(found):.2f}, n = {len(found)})")


if __name__ == "__main__":
    main()
