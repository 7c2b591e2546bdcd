#!/usr/bin/env python3
"""Compares a training step and a forward pass with PyTorch, alternately, as a ratio.

    python bench/step.py [--torch PATH/torch_step.py] [--python PYTHON] [--rounds 5] [--steps 9] [--threads 2]
                         [--only vgg16,small] [--exact] [--example PATH]

Every round runs PyTorch's script and the `step` example one after the other, one workload at a time. The ratio of a round is the median
seconds of the example divided by those of PyTorch's faster layout in the same round. Prints the median, smallest and largest ratio over
the rounds, and the largest relative difference between the losses of the first six steps.

PyTorch's script is `../shared/peers/torch_step.py`, or in the folder that NETTRIAGE_SHARED names.
"""
import argparse, json, os, statistics, subprocess, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKLOADS = "vgg16,vgg16_bn,vgg16_quarter,small"


def lines(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def build():
    command = ["cargo", "build", "--release", "--example", "step", "-p", "nettriage-engine", "--message-format", "json"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the example does not build:\n{done.stderr.strip()}")
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    built = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "step"]
    return built[-1]


def main():
    shared = Path(os.environ.get("NETTRIAGE_SHARED", HERE.parent.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", type=Path, default=shared / "peers" / "torch_step.py")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=WORKLOADS)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--example", help="the built `step` example; without it cargo builds it")
    args = parser.parse_args()
    if not args.torch.is_file():
        sys.exit(f"{args.torch} does not exist: name PyTorch's script with --torch")
    example = args.example or build()
    common = ["--threads", str(args.threads), "--steps", str(args.steps)]

    rounds = {}  # (workload, kind) -> list of (ours, the faster of theirs, difference of losses)
    for number in range(args.rounds):
        for workload in args.only.split(","):
            only = common + ["--only", workload]
            ours = lines([example, *only] + (["--exact"] if args.exact else []))
            theirs = lines([args.python, str(args.torch), *only])
            for line in ours:
                same = [t for t in theirs if t["kind"] == line["kind"]]
                best = min(same, key=lambda t: t["seconds"])
                pairs = list(zip(line["losses"][:6], best["losses"][:6]))
                difference = max((abs(a - b) / b for a, b in pairs), default=None)
                rounds.setdefault((workload, line["kind"]), []).append((line, best, difference))
                print(f"round {number + 1}: {workload} {line['kind']} {line['seconds']:.4f} s, "
                      f"PyTorch {best['seconds']:.4f} s ({best['layout']})", file=sys.stderr, flush=True)

    print(f"{'workload':14} {'kind':6} {'ratio':>6} {'min':>6} {'max':>6} {'ours s':>8} {'torch s':>8} "
          f"{'GFLOP/s':>8} {'MiB':>7} {'faults':>6}  loss difference")
    for (workload, kind), runs in rounds.items():
        ratios = [a["seconds"] / b["seconds"] for a, b, _ in runs]
        middle = lambda values: statistics.median(values)
        differences = [d for *_, d in runs if d is not None]
        faults = [a["faults"] for a, *_ in runs if a["faults"] is not None]
        print(f"{workload:14} {kind:6} {middle(ratios):6.3f} {min(ratios):6.3f} {max(ratios):6.3f} "
              f"{middle([a['seconds'] for a, *_ in runs]):8.4f} {middle([b['seconds'] for _, b, _ in runs]):8.4f} "
              f"{middle([a['gflops'] for a, *_ in runs]):8.1f} {runs[-1][0]['memory_mib']:7.1f} "
              f"{max(faults, default=-1):6d}  {f'{max(differences):.1e}' if differences else '-'}")
    print(f"{args.rounds} rounds of {args.steps} steps, {args.threads} threads, exact {str(args.exact).lower()}, "
          f"{rounds[next(iter(rounds))][0][1]['peer']}")


if __name__ == "__main__":
    main()
