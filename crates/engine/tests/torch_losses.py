#!/usr/bin/env python3
"""Twelve training losses of a few small networks in PyTorch: the numbers that `tests/torch.rs` compares with.

    pip install torch numpy
    python torch_losses.py > torch_losses.json

Weights and images come from `hashed`, a counter-based generator that the Rust side repeats, so nothing large is stored.
Losses are those of f64 arithmetic, rounded to 9 digits; `f32` beside them are those of f32 arithmetic, for scale.
"""
import json
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

STEPS = 12
CASES = {
    # name: network, batch, optimiser (as nettriage-engine writes it), schedule, base rate, clip
    "vgg with batch norm, momentum": (
        {"plan": [16, 16, 0, 32, 32, 0, 64, 64, 64, 0], "channels": 3, "size": 16, "batch_norm": True}, 32,
        {"sgd": {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}}, "constant", 0.003, None),
    "residual, nesterov and weight decay, one cycle": (
        {"residual": [8, 16], "channels": 3, "size": 16}, 32,
        {"sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0005}}, "one-cycle", 0.05, None),
    "vgg, adamw, clipped": (
        {"plan": [16, 0, 32, 32, 0, 48, 0], "channels": 1, "size": 28, "batch_norm": False}, 24,
        {"adam-w": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05}}, "constant", 0.0005, 1.0),
    "vgg, plain descent, clipped, cosine": (
        {"plan": [12, 0, 24, 0], "channels": 3, "size": 12, "batch_norm": False}, 20,
        {"sgd": {"momentum": 0.0, "nesterov": False, "weight_decay": 0.01}}, "cosine", 0.2, 0.5),
    "vgg with batch norm, label smoothing, no decay of norms and biases": (
        {"plan": [16, 16, 0, 32, 0], "channels": 3, "size": 16, "batch_norm": True}, 32,
        {"sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05}}, "constant", 0.01, None,
        {"label_smoothing": 0.1, "decay_all": False, "average": 0.8}),
    "residual, distillation of the logits and of the ends of units": (
        {"residual": [8, 16], "channels": 3, "size": 16}, 32,
        {"sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0005}}, "constant", 0.01, 5.0,
        {"distilled": {"temperature": 4.0, "alpha": 0.9, "beta": 2.0}}),
}


def hashed(n, stream, scale):
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint32) * np.uint32(2654435761)
        x += np.uint32((stream * 0x9E3779B9) & 0xFFFFFFFF)
        x ^= x >> np.uint32(16); x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13); x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    unit = (x >> np.uint32(8)).astype(np.float32) / np.float32(8388608.0) - np.float32(1)
    return torch.from_numpy(unit * np.float32(scale))


class Streams:
    """Hands out streams 1, 2, ... in the order of the layers."""

    def __init__(self):
        self.next = 1

    def fill(self, tensor, scale):
        with torch.no_grad():
            tensor.copy_(hashed(tensor.numel(), self.next, scale).view_as(tensor))
        self.next += 1

    def conv(self, inputs, filters, kernel, stride=1, bias=True):
        conv = nn.Conv2d(inputs, filters, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.fill(conv.weight, (6 / (inputs * kernel * kernel)) ** 0.5)
        if bias:
            nn.init.zeros_(conv.bias)
        return conv

    def linear(self, inputs, outputs):
        linear = nn.Linear(inputs, outputs)
        self.fill(linear.weight, (3 / inputs) ** 0.5)
        nn.init.zeros_(linear.bias)
        return linear


def vgg(plan, channels, size, batch_norm):
    streams, layers = Streams(), []
    for width in plan:
        if width == 0:
            layers.append(nn.MaxPool2d(2)); size //= 2
            continue
        layers.append(streams.conv(channels, width, 3))
        layers += [nn.BatchNorm2d(width)] if batch_norm else []
        layers.append(nn.ReLU())
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), streams.linear(channels * size * size, 10))


class Residual(nn.Module):
    """Stem, a unit that keeps its shape, a unit that halves the feature map with a 1x1 shortcut, mean, linear."""

    def __init__(self, residual, channels, size):
        super().__init__()
        narrow, wide = residual
        s = Streams()
        self.stem, self.stem_norm = s.conv(channels, narrow, 3, bias=False), nn.BatchNorm2d(narrow)
        self.a1, self.an1 = s.conv(narrow, narrow, 3, bias=False), nn.BatchNorm2d(narrow)
        self.a2, self.an2 = s.conv(narrow, narrow, 3, bias=False), nn.BatchNorm2d(narrow)
        self.b1, self.bn1 = s.conv(narrow, wide, 3, stride=2, bias=False), nn.BatchNorm2d(wide)
        self.b2, self.bn2 = s.conv(wide, wide, 3, bias=False), nn.BatchNorm2d(wide)
        self.down, self.down_norm = s.conv(narrow, wide, 1, stride=2, bias=False), nn.BatchNorm2d(wide)
        self.head = s.linear(wide, 10)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        y = F.relu(self.an1(self.a1(x)))
        x = F.relu(self.an2(self.a2(y)) + x)
        self.ends = [x]
        y = F.relu(self.bn1(self.b1(x)))
        x = F.relu(self.bn2(self.b2(y)) + self.down_norm(self.down(x)))
        self.ends.append(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def distillation(net, logits, labels, temperature, alpha, beta):
    """(1 - alpha) CE + alpha T^2 KL + beta times the mean over the ends of MSE / variance; the teacher's values are hashed."""
    values = lambda tensor, stream, scale: hashed(tensor.numel(), stream, scale).view_as(tensor).to(tensor.dtype)
    teacher = values(logits, 2000, 3.0)
    soft = F.kl_div(F.log_softmax(logits / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    targets = [values(end, 2001 + i, 1.0 + i) for i, end in enumerate(net.ends)]
    ends = [F.mse_loss(end, target) / target.var(correction=0) for end, target in zip(net.ends, targets)]
    hard = F.cross_entropy(logits, labels)
    return (1 - alpha) * hard + alpha * temperature ** 2 * soft + beta * sum(ends) / len(ends)


def train(network, batch, optimiser, schedule, rate, clip, recipe, dtype):
    net = (Residual(**network) if "residual" in network else vgg(**network)).to(dtype)
    channels, size = network["channels"], network["size"]
    images = hashed(batch * channels * size * size, 1000, 1.0).view(batch, channels, size, size).to(dtype)
    labels = torch.arange(batch) % 10
    (kind, settings), = optimiser.items()
    make = {"sgd": torch.optim.SGD, "adam-w": torch.optim.AdamW}[kind]
    groups = net.parameters()
    if not recipe.get("decay_all", True):
        kernels = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim < 2]
        groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    optim = make(groups, lr=rate, **settings)
    average = recipe.get("average")
    averaged = average and torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(average))
    sched = {"constant": lambda: torch.optim.lr_scheduler.ConstantLR(optim, factor=1.0),
             "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optim, T_max=STEPS),
             "one-cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optim, max_lr=rate, total_steps=STEPS + 1, cycle_momentum=False),
             }[schedule]()
    losses = []
    for _ in range(STEPS):
        optim.zero_grad()
        logits = net(images)
        if "distilled" in recipe:
            loss = distillation(net, logits, labels, **recipe["distilled"])
        else:
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.get("label_smoothing", 0.0))
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optim.step()
        sched.step()
        losses.append(loss.item())
        if averaged:
            averaged.update_parameters(net)
    net = averaged.module if averaged else net
    net.eval()
    with torch.inference_mode():
        losses.append(F.cross_entropy(net(images), labels).item())
    return losses


if __name__ == "__main__":
    out = []
    for name, (network, batch, optimiser, schedule, rate, clip, *more) in CASES.items():
        recipe = more[0] if more else {}
        settings = (network, batch, optimiser, schedule, rate, clip, recipe)
        out.append({"name": name, "network": network, "batch": batch, "optimizer": optimiser, "schedule": schedule,
                    "rate": rate, "clip": clip, **recipe, "torch": torch.__version__.split("+")[0],
                    "losses": [round(x, 9) for x in train(*settings, torch.float64)],
                    "f32": [round(x, 6) for x in train(*settings, torch.float32)]})
    print(json.dumps(out, indent=1))
