#!/usr/bin/env python3
"""Times inference and training steps of usual networks beside PyTorch and onnxruntime, alternately.

    cargo build --release -p nettriage-cli --example time_network
    python bench/networks.py FOLDER [--rounds 3] [--only mobilenet_v2] [--kinds infer,train] [--threads 2] [--csv FILE] [--date DATE]

FOLDER keeps the exported networks (random weights). Every program has a process of its own, which builds the network and runs the first
batch alone; then rounds alternate: each program in turn runs batches for `--seconds`, while the others wait. The ratio of a round is
nettriage's median time of a batch divided by the other program's; the ratio of processor time, of all threads, is measured beside it. On
a machine where other processes compute, the ratio of processor time on one thread (`--threads 1`) is the reproducible one: programs whose
threads wait for each other lose more time to such processes. Prints the medians of the rounds and their ranges; the first batch
includes the time to build the model. Memory is the growth of a process over its size before the network was built, at its largest. PyTorch
runs in the faster of the layouts in `--peers`, which a round before the first decides.
"""
import argparse
import csv
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent

# name: (library, model, side of an image, images of a batch, kinds of steps)
NETWORKS = {
    "resnet18_224": ("torchvision", "resnet18", 224, 32, ["infer"]),
    "resnet50_224": ("torchvision", "resnet50", 224, 32, ["infer"]),
    "mobilenet_v2_224": ("torchvision", "mobilenet_v2", 224, 32, ["infer"]),
    "efficientnet_b0_224": ("torchvision", "efficientnet_b0", 224, 32, ["infer"]),
    "regnet_y_400mf_64": ("torchvision", "regnet_y_400mf", 64, 64, ["infer"]),
    "resnext50_32x4d_64": ("torchvision", "resnext50_32x4d", 64, 64, ["infer"]),
    "densenet121_64": ("torchvision", "densenet121", 64, 64, ["infer", "train"]),
    "mobilenet_v2_64": ("torchvision", "mobilenet_v2", 64, 64, ["infer", "train"]),
    "efficientnet_b0_64": ("torchvision", "efficientnet_b0", 64, 64, ["train"]),
    "resnet50_64": ("torchvision", "resnet50", 64, 32, ["train"]),
    "cifar_resnet20": ("own", "cifar_resnet20", 32, 128, ["infer", "train"]),
    "convnext_atto_64": ("timm", "convnext_atto", 64, 64, ["infer", "train"]),
    "deit_tiny_64": ("timm", "deit_tiny_patch16_224", 64, 64, ["infer", "train"]),
}


def module_of(name):
    """The network as a PyTorch module."""
    import torch

    library, model, side, *_ = NETWORKS[name]
    torch.manual_seed(1)
    if library == "torchvision":
        import torchvision
        return getattr(torchvision.models, model)(weights=None)
    if library == "timm":
        import timm
        return timm.create_model(model, pretrained=False, **({"img_size": side} if model.startswith("deit") else {}))
    return cifar_resnet20()


def cifar_resnet20():
    """The network of He et al., arXiv:1512.03385, section 4.2, with shortcuts of type A."""
    import torch.nn as nn
    import torch.nn.functional as F

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.stride, self.more = stride, outputs - inputs

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.more:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
            return F.relu(y + x)

    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for inputs, outputs in [(16, 16), (16, 32), (32, 64)]:
        layers += [Block(inputs if i == 0 else outputs, outputs, 2 if i == 0 and inputs != outputs else 1) for i in range(3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def export(folder, name):
    """The network as an ONNX file in which the batch norms are layers of their own, as trained networks have them."""
    path = folder / f"{name}.onnx"
    if not path.is_file():
        import torch

        warnings.filterwarnings("ignore")
        module, side = module_of(name).eval(), NETWORKS[name][2]
        partial = path.with_suffix(".partial")
        with torch.no_grad():
            torch.onnx.export(module, (torch.randn(2, 3, side, side),), str(partial), dynamo=False, input_names=["x"],
                              dynamic_axes={"x": {0: "batch"}}, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
        partial.rename(path)
    return path


def memory(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":")), None)


def serve(step, build, base):
    """Runs as many batches as each line of the input says; the protocol of `time_network`."""
    def timed():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    print(json.dumps({"build": build, "first": timed(), "base_mib": base}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": [timed() for _ in range(int(line))]}), flush=True)
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


def peer(program, path, name, kind, batch, threads):
    """The process of another program."""
    import numpy as np

    side = NETWORKS[name][2]
    x = np.random.default_rng(1).standard_normal((batch, 3, side, side)).astype("f4")
    if program == "onnxruntime":
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        base, start = memory("VmRSS"), time.perf_counter()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return serve(lambda: session.run(None, {"x": x}), time.perf_counter() - start, base)
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if program == "torch-nhwc" else torch.contiguous_format
    images = torch.from_numpy(x).to(memory_format=layout)
    labels = torch.arange(batch) % 10
    # Imports what the first step would import.
    torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()
    base, start = memory("VmRSS"), time.perf_counter()
    module = module_of(name).to(memory_format=layout)
    if kind == "infer":
        module.eval()

        def step():
            with torch.inference_mode():
                module(images)
    else:
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.001, momentum=0.9)

        def step():
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(module(images), labels).backward()
            optimizer.step()
    serve(step, time.perf_counter() - start, base)


class Program:
    """A running process that times batches."""

    def __init__(self, command):
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = self.line()
        self.batches = 1

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a program ended early: {' '.join(map(str, self.process.args))}")
        return json.loads(line)

    def processor(self):
        """Processor time of all threads so far, in seconds."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, seconds):
        """The median time of a batch, and the mean of the processor time."""
        start = self.processor()
        self.process.stdin.write(f"{self.batches}\n")
        self.process.stdin.flush()
        times = self.line()["seconds"]
        median, processor = statistics.median(times), (self.processor() - start) / self.batches
        # By processor time, whose resolution is 10 ms.
        self.batches = max(1, round(seconds / max(processor, 1e-3)))
        return median, processor

    def end(self):
        self.process.stdin.close()
        last = self.line()
        self.process.wait()
        return last["peak_mib"] - self.start["base_mib"]


def measure(args, path, name, kind, rounds):
    """For each program its median per round, its first batch with the building of the model, and its memory."""
    batch = args.batch or NETWORKS[name][3]
    others = [peer for peer in args.peers.split(",") if peer and (kind == "infer" or peer != "onnxruntime")]
    programs = {"nettriage": Program([args.example, path, kind, batch, args.threads])}
    if args.before:
        programs["before"] = Program([args.before, path, kind, batch, args.threads])
    for other in others:
        programs[other] = Program([sys.executable, __file__, args.folder, "--peer", other, "--name", name, "--kind", kind,
                                   "--batch", batch, "--threads", args.threads])
    # Not counted: it warms up, decides how many batches a round has, and which layout PyTorch runs in.
    warm = {}
    for key, program in programs.items():
        program.run(args.seconds)
        warm[key] = program.run(args.seconds)[1]
    first = {key: program.start["build"] + program.start["first"] for key, program in programs.items()}
    layouts = sorted((key for key in programs if key.startswith("torch")), key=warm.get)
    ends = {key: programs.pop(key).end() for key in layouts[1:]}
    times = {key: [] for key in programs}
    for number in range(rounds):
        for key, program in programs.items():
            # Threads of the last program may still spin.
            time.sleep(0.25)
            times[key].append(program.run(args.seconds))
        text = ", ".join(f"{key} {values[-1][0]:.4f}" for key, values in times.items())
        print(f"  {name} {kind}, round {number + 1}: {text}", file=sys.stderr, flush=True)
    ends.update({key: program.end() for key, program in programs.items()})
    return times, first, ends


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--kinds", default="infer,train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--peers", default="torch-nhwc,torch-nchw,onnxruntime")
    parser.add_argument("--example", type=pathlib.Path, default=ROOT / "target/release/examples/time_network")
    parser.add_argument("--before", type=pathlib.Path, help="an earlier build of the example, as another program beside")
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args.peer, args.folder / f"{args.name}.onnx", args.name, args.kind, args.batch, args.threads)
    if not os.access(args.example, os.X_OK):
        sys.exit(f"{args.example} does not exist: cargo build --release -p nettriage-cli --example time_network")
    args.folder.mkdir(parents=True, exist_ok=True)
    wanted = [word for word in args.only.split(",") if word]
    table = []
    for name, (*_, batch, kinds) in NETWORKS.items():
        if wanted and not any(word in name for word in wanted):
            continue
        for kind in [kind for kind in kinds if kind in args.kinds.split(",")]:
            # In a process of its own: the exporter would stay in memory.
            subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import networks, pathlib; "
                            f"networks.export(pathlib.Path({str(args.folder)!r}), {name!r})"], check=True, stdout=subprocess.DEVNULL)
            times, first, peaks = measure(args, args.folder / f"{name}.onnx", name, kind, args.rounds)
            for other in times:
                if other == "nettriage":
                    continue
                pairs = list(zip(times["nettriage"], times[other]))
                ratios, processor = [[a[i] / b[i] for a, b in pairs] for i in (0, 1)]
                seconds = lambda key, i: f"{statistics.median(round_[i] for round_ in times[key]):.5f}"
                table.append({
                    "network": name, "kind": kind, "batch": args.batch or batch, "threads": args.threads, "beside": other, "n": len(ratios),
                    "ratio": f"{statistics.median(ratios):.3f}", "least": f"{min(ratios):.3f}", "most": f"{max(ratios):.3f}",
                    "cpu_ratio": f"{statistics.median(processor):.3f}", "cpu_least": f"{min(processor):.3f}", "cpu_most": f"{max(processor):.3f}",
                    "seconds": seconds("nettriage", 0), "other": seconds(other, 0),
                    "cpu": seconds("nettriage", 1), "other_cpu": seconds(other, 1),
                    "first": f"{first['nettriage']:.4f}", "other_first": f"{first[other]:.4f}",
                    "mib": f"{peaks['nettriage']:.0f}", "other_mib": f"{peaks[other]:.0f}",
                })
                show(table[-1])
            if args.csv and table:
                with args.csv.open("w", newline="") as file:
                    writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(table)


def show(row):
    print(f"{row['network']:20} {row['kind']:5} {row['beside']:11} ratio {row['ratio']} ({row['least']} to {row['most']}), "
          f"{row['seconds']} s and {row['other']} s, processor time {row['cpu_ratio']} ({row['cpu_least']} to {row['cpu_most']}), first batch {row['first']} s and {row['other_first']} s, "
          f"{row['mib']} MiB and {row['other_mib']} MiB", flush=True)


if __name__ == "__main__":
    main()
