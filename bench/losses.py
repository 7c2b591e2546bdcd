#!/usr/bin/env python3
"""Compares the losses of the first training steps with f64 arithmetic: those of nettriage and those of PyTorch.

    python bench/losses.py [--torch PATH/torch_step.py] [--steps 6] [--threads 2] [--only vgg16,small] [--example PATH]

PyTorch trains every workload of its step script in f64, from the same hashed weights and images, and then in f32: in both of its
layouts, and on one thread. Prints the relative differences from the f64 losses, step by step, and the largest. Training amplifies
rounding errors from step to step, so the criterion is whether nettriage stays as close to f64 as PyTorch does.

PyTorch's script is `../shared/peers/torch_step.py`, or in the folder that NETTRIAGE_SHARED names.
"""
import argparse, importlib.util, json, os, subprocess, sys
from pathlib import Path

from step import HERE, WORKLOADS, build


def module(path):
    spec = importlib.util.spec_from_file_location("torch_step", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def theirs(script, name, steps, dtype, layout, threads):
    """The losses of `steps` steps of the script in `dtype`, unrounded."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    plan, channels, size, batch, bn = script.WORKLOADS[name]
    net, _ = script.build(plan, channels, size, bn)
    images = script.hashed(batch * channels * size * size, 1000, 1.0).view(batch, channels, size, size)
    net = net.to(dtype).to(memory_format=layout)
    images = images.to(dtype).contiguous(memory_format=layout)
    labels = torch.arange(batch) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def ours(example, name, steps, threads, *flags):
    # The example runs three steps before those that it times.
    command = [example, "--only", name, "--steps", str(max(1, steps - 3)), "--threads", str(threads), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(line["losses"] for line in lines if line["kind"] == "train")[:steps]


def main():
    shared = Path(os.environ.get("NETTRIAGE_SHARED", HERE.parent.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", type=Path, default=shared / "peers" / "torch_step.py")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=WORKLOADS)
    parser.add_argument("--example", help="the built `step` example; without it cargo builds it")
    args = parser.parse_args()
    if not args.torch.is_file():
        sys.exit(f"{args.torch} does not exist: name PyTorch's script with --torch")
    example = args.example or build()
    script = module(args.torch)
    import torch

    nchw, nhwc = torch.contiguous_format, torch.channels_last
    for name in args.only.split(","):
        exact = theirs(script, name, args.steps, torch.float64, nchw, args.threads)
        print(f"\n{name}, f64: {'  '.join(f'{loss:.7f}' for loss in exact)}")
        runs = {
            "PyTorch, NCHW": theirs(script, name, args.steps, torch.float32, nchw, args.threads),
            "PyTorch, channels last": theirs(script, name, args.steps, torch.float32, nhwc, args.threads),
            "PyTorch, NCHW, one thread": theirs(script, name, args.steps, torch.float32, nchw, 1),
            "nettriage": ours(example, name, args.steps, args.threads),
            "nettriage, exact": ours(example, name, args.steps, args.threads, "--exact"),
        }
        for label, losses in runs.items():
            errors = [abs(a - b) / b for a, b in zip(losses, exact)]
            print(f"{label:26} {'  '.join(f'{d:9.1e}' for d in errors)}   largest {max(errors):.1e}", flush=True)


if __name__ == "__main__":
    main()
