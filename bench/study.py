#!/usr/bin/env python3
"""The same study in nettriage and in PyTorch, alternating: the ratio of the trials' seconds, and both accuracies.

    cargo build --release && pip install torch numpy
    python bench/study.py --data DIR --peer torch_study.py [--rounds 3] [--threads N]

DIR holds CIFAR-10's binary batches; the peer is a plain PyTorch script that takes --data --kind --width --train
--test --parent-epochs --child-epochs --threads --out and writes {"trials_seconds", "trials": [{"block", "scheme",
"accuracy"}]}. Both sides use one thread per core.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def ours(data, threads, folder):
    study = ROOT / "studies/peer-cifar10.toml"
    program = [ROOT / "target/release/nettriage"]
    subprocess.run(program + ["run", study, "--out", folder, "--data-dir", data, "--workers", str(threads)],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = json.loads(subprocess.run(program + ["status", folder, "--json"], check=True, capture_output=True).stdout)
    plan = json.loads((folder / "plan.json").read_text())["payload"]
    blocks = [block["name"] for block in plan["blocks"]]
    accuracies = {}
    for path in (folder / "trials").glob("*.json"):
        record = json.loads(path.read_text())["payload"]
        spec = record["spec"]
        if spec["role"] == "child":
            accuracies[blocks.index(spec["block"]) + 1, spec["scheme"]] = record["readings"]["test"]["top1"]
    return status["trials_seconds"], accuracies


def theirs(peer, data, threads, folder):
    out = folder / "torch_study.json"
    subprocess.run([sys.executable, peer, "--data", data, "--kind", "cifar10", "--width", "0.25", "--train", "5000",
                    "--test", "2000", "--parent-epochs", "8", "--child-epochs", "2", "--threads", str(threads),
                    "--out", out], check=True, stdout=subprocess.DEVNULL)
    record = json.loads(out.read_text())
    return record["trials_seconds"], {(t["block"], t["scheme"]): t["accuracy"] for t in record["trials"]}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data", required=True); a.add_argument("--peer", required=True)
    a.add_argument("--rounds", type=int, default=3); a.add_argument("--threads", type=int, default=os.cpu_count())
    a = a.parse_args()
    rounds = []
    for n in range(a.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            mine, peer = ours(a.data, a.threads, scratch / "run"), theirs(a.peer, a.data, a.threads, scratch)
        rounds.append((mine, peer))
        print(f"round {n + 1}: nettriage {mine[0]:.1f} s, PyTorch {peer[0]:.1f} s, ratio {mine[0] / peer[0]:.3f}", flush=True)
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
