#!/usr/bin/env python3
"""Counts how many prescriptions keep the drop that they promise.

    cargo build --release
    python bench/promises.py --data cifar10=DIR --data mnist=DIR --csv bench/results/promises.csv [--seeds 3] [--first-seed 0] [--drops 0.5,1,2] \\
        [--judged 1000] [--training "--epochs 5"] [--more "--attempts 8"] "resnet20 NET.th --arch cifar-resnet20 --data cifar10 --mean R,G,B --std R,G,B" "lenet …"

Each argument in quotes is a name and what `nettriage prescribe` needs to read a network that has not seen the test images. For
every network and seed the data set is copied with its training images and its test images in another order, so that every seed fits to
and judges by other images. Then every drop is prescribed, without training unless `--training` says how, judged by the first `--judged` test images
and tested on the others (`--judge-on-test`). The prescriptions of one network and seed share a scan and the networks that they build.

Writes one row a prescription and prints a table: how many promises the test images keep, by how much the others are missed, and how
far the drop on the judged images is from that on the test images, which no choice was made on. A promise that is *missed for certain*
is one whose 95% interval on the test images lies above it.
"""
import argparse, csv, gzip, json, math, pathlib, shlex, shutil, statistics, subprocess, sys, tempfile
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = ["network", "seed", "promised", "judged_images", "test_images", "result", "networks_built", "predicted", "judged", "judged_low", "judged_high",
           "test", "test_low", "test_high", "kept", "macs_share", "time_ratio"]


def permuted(folder, to, seed):
    """A copy of CIFAR-10's binary files or of IDX files with the images of each set in another order; the number of test images."""
    generator = np.random.default_rng(seed)
    to.mkdir(parents=True)
    batches = sorted(folder.glob("data_batch_*.bin"))
    if batches:
        rows = lambda path: np.fromfile(path, np.uint8).reshape(-1, 3073)
        train = np.concatenate([rows(path) for path in batches])[generator.permutation(sum(len(rows(path)) for path in batches))]
        for path, part in zip(batches, np.array_split(train, len(batches))):
            part.tofile(to / path.name)
        test = rows(folder / "test_batch.bin")
        test[generator.permutation(len(test))].tofile(to / "test_batch.bin")
        if (folder / "batches.meta.txt").exists():
            shutil.copy(folder / "batches.meta.txt", to)
        return len(test)
    for part in ("train", "t10k"):
        order = None
        for name, header in ((f"{part}-images-idx3-ubyte", 16), (f"{part}-labels-idx1-ubyte", 8)):
            plain = folder / name
            data = plain.read_bytes() if plain.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
            count = int.from_bytes(data[4:8], "big")
            order = generator.permutation(count) if order is None else order
            values = np.frombuffer(data, np.uint8, offset=header).reshape(count, -1)
            (to / name).write_bytes(data[:header] + values[order].tobytes())
    return count


def prescribe(program, words, folder, work, drop, judged, training, more):
    """The row of one prescription."""
    out = work / f"{drop}.onnx"
    command = [program, "prescribe", *words, "--data-dir", folder, "--judge-on-test", "--judged", judged, *training, "--max-drop", f"{drop}pp",
               "--work", work / "work", "-o", out, *more]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    built = done.stderr.count(" of at most ")
    row = {"promised": drop, "networks_built": built}
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1]
        if done.returncode != 2 or "drop" not in last:
            sys.exit(f"{shlex.join(map(str, command))} failed:\n{done.stderr}")
        return {**row, "result": "refused"}
    found = json.loads(out.with_suffix(".json").read_text())
    before, after = found["test"]
    rounded = lambda values: [round(value, 3) for value in values]
    row |= dict(zip(["judged", "judged_low", "judged_high"], rounded(found["judged"]["drop"])))
    row |= dict(zip(["test", "test_low", "test_high"], rounded(after["drop"])))
    return {**row, "result": "prescribed", "predicted": round(found["predicted"]["drop"][0], 3), "kept": int(found["kept"]),
            "macs_share": round(after["cost"]["macs"] / before["cost"]["macs"], 4), "time_ratio": round(found["time_ratio"][0], 4)}


def wilson(kept, n, z=1.96):
    """The 95% interval of a share."""
    if n == 0:
        return 0.0, 1.0
    centre, spread = kept / n + z * z / (2 * n), z * math.sqrt(kept / n * (1 - kept / n) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def summary(rows):
    made = [row for row in rows if row["result"] == "prescribed"]
    kept = sum(row["kept"] for row in made)
    misses = sorted(row["test"] - row["promised"] for row in made if not row["kept"])
    certain = sum(row["test_low"] > row["promised"] for row in made)
    low, high = wilson(kept, len(made))
    gaps = [row["test"] - row["judged"] for row in made]
    mean = lambda values: f"{statistics.mean(values):.2f}" if values else ""
    missed = f"{statistics.median(misses):.2f}, at most {misses[-1]:.2f}" if misses else ""
    shares = [row["macs_share"] for row in made]
    return [len(made), len(rows) - len(made), f"{kept} of {len(made)}", f"{100 * low:.0f} to {100 * high:.0f}%", missed, certain, mean(gaps), mean(shares),
            mean([row["time_ratio"] for row in made])]


def table(rows):
    head = ["", "prescribed", "refused", "kept", "95% interval", "missed by (median), pp", "missed for certain", "test − judged, pp", "MACs", "time"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    groups = [(name, [row for row in rows if row["network"] == name]) for name in dict.fromkeys(row["network"] for row in rows)]
    groups += [(f"{drop} pp", [row for row in rows if row["promised"] == drop]) for drop in sorted({row["promised"] for row in rows})]
    for name, part in [*groups, ("all", rows)]:
        print("| " + " | ".join(map(str, [name, *summary(part)])) + " |")


def read(path):
    """The rows of an earlier measurement."""
    number = lambda text: float(text) if "." in text or "e" in text else int(text)
    with open(path, newline="") as file:
        return [{key: value if key in ("network", "result") else number(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("networks", nargs="*")
    a.add_argument("--data", action="append", default=[], help="NAME=FOLDER")
    a.add_argument("--csv", type=pathlib.Path, required=True)
    a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--first-seed", type=int, default=0)
    a.add_argument("--drops", default="0.5,1,2")
    a.add_argument("--judged", type=int, default=1000)
    a.add_argument("--training", default="--no-training")
    a.add_argument("--more", default="")
    a.add_argument("--table", action="store_true", help="print the table of the rows in --csv, and measure nothing")
    a.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/nettriage")
    a = a.parse_args()
    if a.table:
        return table(read(a.csv))
    folders = {name: pathlib.Path(folder) for name, folder in (entry.split("=", 1) for entry in a.data)}
    rows = []
    with tempfile.TemporaryDirectory() as scratch, open(a.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for seed in range(a.first_seed, a.first_seed + a.seeds):
            copies, test = {}, {}
            for text in a.networks:
                name, *words = shlex.split(text)
                data = words[words.index("--data") + 1]
                if data not in copies:
                    copies[data] = pathlib.Path(scratch, f"{data}-{seed}")
                    test[data] = permuted(folders[data], copies[data], seed) - a.judged
                work = pathlib.Path(scratch, f"{name}-{seed}")
                work.mkdir()
                for drop in [float(drop) for drop in a.drops.split(",")]:
                    row = prescribe(a.program, words, copies[data], work, drop, a.judged, shlex.split(a.training), shlex.split(a.more))
                    rows.append({"network": name, "seed": seed, "judged_images": a.judged, "test_images": test[data], **row})
                    writer.writerow(rows[-1])
                    file.flush()
                    print(rows[-1], file=sys.stderr, flush=True)
                shutil.rmtree(work)
            for copy in copies.values():
                shutil.rmtree(copy)
    table(rows)


if __name__ == "__main__":
    main()
