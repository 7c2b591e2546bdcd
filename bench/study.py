#!/usr/bin/env python3
"""Runs the same study in nettriage and in PyTorch, alternately: the ratio of the trials' seconds, and both accuracies.

    cargo build --release && pip install torch numpy
    python bench/study.py --data DIR --peer torch_study.py [--rounds 3] [--threads N] [--scale 1] [--all-readings]
        [--program nettriage] [--device torch:cpu] [--network cifar-resnet20]

DIR holds the binary batches of CIFAR-10. The peer is a PyTorch script that takes --data --kind --width --train --test --parent-epochs
--child-epochs --threads --out and writes {"trials_seconds", "trials": [{"block", "scheme", "accuracy"}]}. Both sides use one thread per
core. `--scale 5` uses a fifth of all images, for a quick test. With `--all-readings` nettriage also takes the default readings (filters,
inference times, similarity), not only accuracies. `--device` is nettriage's: torch:cpu computes with the PyTorch that `python3`, or
NETTRIAGE_TORCH, has. The network is VGG16 with batch norm at quarter width, or ResNet-20, whose stages are the blocks. Prints the ratio
of the trials' wall-clock seconds, and that of processor seconds, parents included, which depends less on other programs.
"""
import argparse, json, os, pathlib, re, statistics, subprocess, sys, tempfile

from reuse import run

ROOT = pathlib.Path(__file__).resolve().parent.parent


# The part of the study's file that names the network.
VGG = 'arch = "vgg16_bn"\nwidth = 0.25\n'


def ours(program, data, threads, scale, all_readings, device, network, folder):
    text = (ROOT / "studies/peer-cifar10.toml").read_text()
    assert VGG in text
    if network != "vgg16_bn":
        text = text.replace(VGG, f'arch = "{network}"\n')
    if all_readings:
        text = re.sub(r"^readings = .*\n", "", text, flags=re.M)
    text = re.sub(r"^(validation|train|test|images) = (\d+)", lambda m: f"{m[1]} = {int(m[2]) // scale}", text, flags=re.M)
    study = folder / "study.toml"
    study.write_text(text)
    out = folder / "run"
    cpu, _ = run([program, "run", study, "--out", out, "--data-dir", data, "--workers", threads, "--device", device])
    status = json.loads(subprocess.run([program, "status", out, "--json"], check=True, capture_output=True).stdout)
    plan = json.loads((out / "plan.json").read_text())["payload"]
    blocks = [block["name"] for block in plan["blocks"]]
    accuracies = {}
    for path in (out / "trials").glob("*.json"):
        record = json.loads(path.read_text())["payload"]
        spec = record["spec"]
        if spec["role"] == "child":
            accuracies[blocks.index(spec["block"]) + 1, spec["scheme"]] = record["readings"]["test"]["top1"]
    return status["trials_seconds"], accuracies, cpu


def theirs(peer, data, threads, scale, network, folder):
    out = folder / "torch_study.json"
    script = [peer] if network == "vgg16_bn" else [ROOT / "bench/torch_resnet20_study.py", "--peer", peer]
    cpu, _ = run([sys.executable, *script, "--data", data, "--kind", "cifar10", "--width", "0.25", "--train", 5000 // scale,
                  "--test", 2000 // scale, "--parent-epochs", "8", "--child-epochs", "2", "--threads", threads, "--out", out])
    record = json.loads(out.read_text())
    return record["trials_seconds"], {(t["block"], t["scheme"]): t["accuracy"] for t in record["trials"]}, cpu


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data", required=True); a.add_argument("--peer", required=True)
    a.add_argument("--rounds", type=int, default=3); a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--all-readings", action="store_true"); a.add_argument("--scale", type=int, default=1); a.add_argument("--program", default=ROOT / "target/release/nettriage")
    a.add_argument("--device", default="cpu")
    a.add_argument("--network", choices=["vgg16_bn", "cifar-resnet20"], default="vgg16_bn")
    a = a.parse_args()
    rounds = []
    for n in range(a.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            mine = ours(a.program, a.data, a.threads, a.scale, a.all_readings, a.device, a.network, scratch)
            peer = theirs(a.peer, a.data, a.threads, a.scale, a.network, scratch)
        rounds.append((mine, peer))
        print(f"round {n + 1}: nettriage {mine[0]:.1f} s, PyTorch {peer[0]:.1f} s, ratio {mine[0] / peer[0]:.3f}; "
              f"processor {mine[2]:.1f} and {peer[2]:.1f} s, ratio {mine[2] / peer[2]:.3f}", flush=True)
    ratios = [mine[0] / peer[0] for mine, peer in rounds]
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)}")
    mine, peer = rounds[-1][0][1], rounds[-1][1][1]
    schemes = list(dict.fromkeys(scheme for _, scheme in peer))
    print("\naccuracy, nettriage / PyTorch, per cent")
    for scheme in schemes:
        cells = [f"{100 * mine[b, scheme]:5.1f}/{100 * peer[b, scheme]:5.1f}" for b in sorted({b for b, _ in peer})]
        mean = lambda of: 100 * statistics.mean(v for (_, s), v in of.items() if s == scheme)
        print(f"{scheme:15} {'  '.join(cells)}   mean {mean(mine):5.1f}/{mean(peer):5.1f}")


if __name__ == "__main__":
    main()
