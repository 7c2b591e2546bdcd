#!/usr/bin/env python3
"""Compares a training step on --device torch:cpu with the same step in plain Python PyTorch, alternately, in processor seconds.

    python bench/torch_engine.py [--python PYTHON] [--rounds 5] [--steps 9] [--threads 1] [--only vgg16,resnet18] [--example PATH]

Every round runs the `device_step` example, then this script with --plain, one workload at a time: the same PyTorch, threads, network,
batch and steps, each in a process of its own. --plain measures both orders of a tensor's elements (contiguous, PyTorch's default, and
channels_last). Prints, over the rounds, the median, smallest and largest ratio to each, and the largest relative difference of the
losses of the first two steps from those of PyTorch (of the VGGs, whose weights are the same).

The VGGs are built by `../shared/peers/torch_step.py`, or in the folder that NETTRIAGE_SHARED names; ResNet-18 is
torchvision's, on images of 32 x 32.
"""
import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("NETTRIAGE_SHARED", HERE.parent.parent / "shared"))
WORKLOADS = "vgg16,vgg16_bn,vgg16_quarter,resnet18"
LAYOUTS = ("contiguous_format", "channels_last")
WARM_UP = 3


def plain(name, threads, steps, layout):
    """Processor seconds a step, and losses, of a script as anyone would write it."""
    import torch
    import torch.nn.functional as F
    sys.path.insert(0, str(SHARED / "peers"))
    import torch_step
    torch.set_num_threads(threads)
    if name == "resnet18":
        import torchvision
        net, channels, size, batch = torchvision.models.resnet18(num_classes=10), 3, 32, 64
    else:
        plan, channels, size, batch, norm = torch_step.WORKLOADS[name]
        net, _ = torch_step.build(plan, channels, size, norm)
    order = getattr(torch, layout)
    images = torch_step.hashed(batch * channels * size * size, 1000, 1.0).view(batch, channels, size, size)
    net, images = net.to(memory_format=order), images.contiguous(memory_format=order)
    labels = torch.arange(batch) % 10
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            before = time.process_time()
        optimiser.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return (time.process_time() - before) / steps, losses


def run(command, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def build():
    command = ["cargo", "build", "--release", "-p", "nettriage-train", "--example", "device_step", "--message-format", "json"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the example does not build:\n{done.stderr.strip()}")
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "device_step"][-1]


def torch_folder(python):
    code = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default=WORKLOADS)
    parser.add_argument("--example", help="the built `device_step` example; without it cargo builds it")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--layout", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        cpu, losses = plain(args.plain, args.threads, args.steps, args.layout)
        print(json.dumps({"cpu_seconds": cpu, "losses": losses}))
        return
    example = args.example or build()
    environment = dict(os.environ, NETTRIAGE_TORCH=torch_folder(args.python))
    common = ["--threads", str(args.threads), "--steps", str(args.steps)]
    for workload in args.only.split(","):
        rounds = []
        for _ in range(args.rounds):
            ours = run([example, "--device", "torch:cpu", "--only", workload, *common], environment)
            theirs = [run([args.python, __file__, "--plain", workload, "--layout", layout, *common]) for layout in LAYOUTS]
            losses = zip(ours["losses"][:2], theirs[0]["losses"][:2])
            difference = max(abs(a - b) / abs(b) for a, b in losses)
            rounds.append((ours["cpu_seconds"], [t["cpu_seconds"] for t in theirs], difference))
        median = statistics.median
        text = f"{workload}: {median(r[0] for r in rounds):.4f} s"
        for index, layout in enumerate(LAYOUTS):
            ratios = [r[0] / r[1][index] for r in rounds]
            text += f"; {layout} {median(r[1][index] for r in rounds):.4f} s, ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        if workload != "resnet18":
            text += f"; losses differ by {max(r[2] for r in rounds):.1e}"
        print(f"{text}; n = {args.rounds}", flush=True)


if __name__ == "__main__":
    main()
