#!/usr/bin/env python3
"""Explains why a study in PyTorch reaches other accuracies than nettriage, by changing the script's training recipe in one detail at a time.

    cargo build --release && pip install torch numpy scipy
    python bench/recipe.py --data DIR --peer torch_study.py --out FOLDER [--seeds 5] [--parents 10] [--program nettriage]

DIR holds the binary batches of CIFAR-10. The peer is the PyTorch script that `bench/study.py` times. It is imported as a module, and its
functions are patched so that it trains like nettriage in any of three details:

    crops     each image has its own random shift; the script shifts all images of a batch alike
    momentum  constant at 0.9; the script's OneCycleLR varies it from 0.95 to 0.85 and back
    batches   continue across epochs; the script ends every epoch with a partial batch (8 images of 5,000)

`drop` leaves out the partial batch instead.

Parents are trained by the script's recipe, with each detail alone, with all three except `batches`, and with all three. For the script
and for all three the running statistics of batch norm are also recomputed over full batches, which changes no weight. Children of all
blocks and schemes are trained by the script's recipe and by all three details; those trained with cross-entropy also by the script's
recipe from parents of all three. The same study runs in nettriage; its parents are also trained with 10 validation images instead of
1,000, which leaves nearly as many training images as the script has. There are --seeds parents, each with its own seed for itself and its
children; about 80 minutes on one thread. Every result is written to FOLDER at once and not computed again. `--only tables` prints the
results. Differences of means over blocks have 95% intervals by Welch's test; details are paired by seed.
"""
import argparse, contextlib, functools, importlib.util, itertools, json, pathlib, re, statistics, subprocess
from unittest import mock

import torch
import torch.nn.functional as F
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parent.parent
DETAILS = ("crops", "momentum", "batches")
SCRIPT, OURS = frozenset(), frozenset(DETAILS)
RECIPES = [SCRIPT, *(frozenset([detail]) for detail in DETAILS), frozenset(["drop"]), OURS - {"batches"}, OURS]
# Recipes of parents and of children, and the schemes.
CHILDREN = [(OURS, OURS, None), (OURS, SCRIPT, ["local", "global"]), (SCRIPT, SCRIPT, None)]
TRAIN, TEST, BATCH, WIDTH = 5000, 2000, 128, 0.25
PARENT, CHILD = {"epochs": 8, "rate": 0.1}, {"epochs": 2, "rate": 0.02}


def name_of(recipe):
    return {SCRIPT: "script", OURS: "all three"}.get(recipe) or " + ".join(sorted(recipe))


def image_by_image(images, generator):
    """Random shifts of -4 to 4 pixels with zero padding, and random flips, per image."""
    n, size = len(images), images.shape[-1]
    dy, dx = torch.randint(0, 9, (2, n), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    rows = dy[:, None] + torch.arange(size)
    columns = dx[:, None] + torch.where(flip[:, None], torch.arange(size - 1, -1, -1), torch.arange(size))
    padded = F.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    moved = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


class Images:
    """A tensor of images or labels whose length is reported as `total`."""

    def __init__(self, tensor, total):
        self.tensor, self.total, self.device = tensor, total, tensor.device

    def __len__(self):
        return self.total

    def __getitem__(self, index):
        return self.tensor[index]


def fit(peer, recipe, net, data, epochs, rate, seed, *more):
    """The peer's `fit` with a recipe."""
    with contextlib.ExitStack() as replaced:
        replace = lambda *what: replaced.enter_context(mock.patch.object(*what))
        if "crops" in recipe:
            replace(peer, "augment", image_by_image)
        if "momentum" in recipe:
            schedules = torch.optim.lr_scheduler
            replace(schedules, "OneCycleLR", functools.partial(schedules.OneCycleLR, cycle_momentum=False))
        shuffled, images = torch.randperm, len(data[0])
        if "batches" in recipe:
            # One long epoch with the concatenated orders of all epochs.
            orders = lambda total, **how: torch.cat([shuffled(images, **how) for _ in range(total // images)])
            replace(torch, "randperm", orders)
            data, epochs = [Images(part, epochs * images) for part in data], 1
        if "drop" in recipe:
            replace(torch, "randperm", lambda total, **how: shuffled(images, **how)[:total])
            data = [Images(part, images // BATCH * BATCH) for part in data]
        peer.fit(net, data, epochs, rate, seed, BATCH, True, *more)


def parent(peer, recipe, seed, train, folder):
    """Trains and stores a parent, or loads it."""
    path = folder / f"parent {name_of(recipe)} {seed}.pt"
    torch.manual_seed(seed)
    net = peer.parent_of(3, 32, 10, WIDTH).to(memory_format=torch.channels_last)
    if path.exists():
        net.load_state_dict(torch.load(path))
    else:
        fit(peer, recipe, net, train, PARENT["epochs"], PARENT["rate"], seed)
        torch.save(net.state_dict(), path)
    net.eval()
    return net


@torch.no_grad()
def recompute_statistics(peer, net, images, seed):
    """Recomputes batch norm's running statistics as means over one epoch of full batches, augmented as in the script."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    net.train()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        net(peer.augment(images[order[start:start + BATCH]], generator))
    return net.eval()


class Results:
    """Accuracies by key, in a file."""

    def __init__(self, path):
        self.path, self.known = path, json.loads(path.read_text()) if path.exists() else {}

    def add(self, key, value):
        self.known[key] = value
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.known, indent=0))
        new.replace(self.path)
        print(f"{key}: {100 * value:.2f}", flush=True)


def theirs(a, peer, results, parents_too):
    train, test = peer.read(a.data, "cifar10")
    mean, std = train[0].mean((0, 2, 3), keepdim=True), train[0].std((0, 2, 3), keepdim=True)
    train, test = [(((x[:n] - mean) / std).contiguous(memory_format=torch.channels_last), y[:n])
                   for (x, y), n in ((train, TRAIN), (test, len(test[0])))]
    all_test, test = test, [part[:TEST] for part in test]
    for seed, recipe in itertools.product(range(a.parents), RECIPES if parents_too else []):
        if seed >= a.seeds and recipe != OURS:
            continue
        key = f"parent/{name_of(recipe)}/{seed}"
        if key not in results.known:
            results.add(key, peer.accuracy(parent(peer, recipe, seed, train, a.out), *test))
        key = f"whole test/{name_of(recipe)}/{seed}"
        if key not in results.known and recipe == OURS:
            results.add(key, peer.accuracy(parent(peer, recipe, seed, train, a.out), *all_test))
        key = f"parent/{name_of(recipe)}, recomputed statistics/{seed}"
        if key not in results.known and recipe in (SCRIPT, OURS):
            net = recompute_statistics(peer, parent(peer, recipe, seed, train, a.out), train[0], seed)
            results.add(key, peer.accuracy(net, *test))
    for (before, after, schemes), seed in itertools.product([] if parents_too else CHILDREN, range(a.seeds)):
        net = parent(peer, before, seed, train, a.out)
        for (block, at), scheme in itertools.product(enumerate(peer.blocks_of(net), 1), schemes or peer.SCHEMES):
            key = f"{name_of(before)}, {name_of(after)}/{block}/{scheme}/{seed}"
            if key in results.known:
                continue
            # All schemes start from the same weights, as in nettriage.
            torch.manual_seed(1000 + 10 * seed + block)
            child = peer.compress(net, at)
            if scheme != "none":
                # The script uses one seed for a parent and its children, and so the same order of images in their first epochs.
                order = seed + (1000 if after == OURS else 0)
                fit(peer, after, child, train, CHILD["epochs"], CHILD["rate"], order, scheme, net, at)
            results.add(key, peer.accuracy(child, *test))


def trained(a, results, validation):
    """Trains the parents of the study; records their accuracies on all test images."""
    text = (ROOT / "studies/peer-cifar10.toml").read_text()
    text = re.sub(r"^seeds = 1$", f"seeds = {a.seeds}", text, flags=re.M)
    text = re.sub(r"^\[parent\]$", f"[parent]\nseeds = {a.parents}", text, flags=re.M)
    text = re.sub(r"^validation = .*$", f"validation = {validation}", text, flags=re.M)
    # The plan depends on the number of parents.
    run = a.out / f"nettriage-{a.parents}-{validation}"
    study = run.with_suffix(".toml")
    study.write_text(text)
    call(a.program, "train", study, "--out", run, "--data-dir", a.data, "--workers", a.threads)
    for path in (run / "parents").glob("*.json"):
        record = json.loads(path.read_text())["payload"]
        key = f"whole test/nettriage, validation = {validation}/{record['seed']}"
        if key not in results.known:
            results.add(key, record["test"]["top1"])
    return run


def call(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def ours(a, results):
    # With few validation images nearly all of the script's 5,000 training images remain.
    trained(a, results, 10)
    run = trained(a, results, 1000)
    plan = json.loads((run / "plan.json").read_text())["payload"]
    seeds = {parent["id"]: parent["seed"] for parent in plan["parents"]}
    blocks = [block["name"] for block in plan["blocks"]]
    # Every parent, with the children of its own seed.
    indices = [i for i, spec in enumerate(plan["trials"]) if spec["role"] == "parent" or spec["seed"] == seeds[spec["parent"]]]
    call(a.program, "trial", "--plan", run, "--index", ",".join(map(str, indices)), "--missing", "--data-dir", a.data, "--threads", a.threads)
    for spec in (plan["trials"][i] for i in indices):
        seed = seeds[spec["parent"]]
        key = "parent/nettriage" if spec["role"] == "parent" else f"nettriage/{blocks.index(spec['block']) + 1}/{spec['scheme']}"
        record = json.loads((run / "trials" / f"{spec['id']}.json").read_text())["payload"]
        if f"{key}/{seed}" not in results.known:
            results.add(f"{key}/{seed}", record["readings"]["test"]["top1"])


def spread(values):
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def interval(test):
    low, high = test.confidence_interval(0.95)
    return f"{low:+.1f} to {high:+.1f}"


def tables(a, results):
    """Per cent: mean ± standard deviation over seeds, and differences."""
    parents, whole = {}, {}
    for key, value in results.known.items():
        what, recipe, *seed = key.split("/")
        if what in ("parent", "whole test"):
            (parents if what == "parent" else whole).setdefault(recipe, {})[int(seed[0])] = 100 * value
    for title, table, mine in (("parents", parents, "nettriage"), ("parents, on all 10,000 test images", whole, name_of(OURS))):
        print(f"\n{title}\n\n| recipe | accuracy | n | {mine} - recipe | 95% |\n|---|---|---|---|---|")
        mine = list(table.get(mine, {}).values())
        for recipe, by_seed in table.items():
            values = list(by_seed.values())
            if min(len(values), len(mine)) > 1:
                difference = f"{statistics.mean(mine) - statistics.mean(values):+.1f} | {interval(stats.ttest_ind(mine, values, equal_var=False))}" if values != mine else " | "
                print(f"| {recipe} | {spread(values)} | {len(values)} | {difference} |")
    print("\ndetails, on parents, paired by seed\n\n| from | to | gain | 95% | n |\n|---|---|---|---|---|")
    recomputed = lambda recipe: f"{name_of(recipe)}, recomputed statistics"
    steps = [(name_of(SCRIPT), name_of(r)) for r in RECIPES[1:]] + [(name_of(OURS - {"batches"}), name_of(OURS))]
    for before, after in steps + [(name_of(r), recomputed(r)) for r in (SCRIPT, OURS)]:
        without, with_it = parents.get(before, {}), parents.get(after, {})
        gains = [with_it[seed] - without[seed] for seed in sorted(with_it.keys() & without.keys())]
        if len(gains) > 1:
            print(f"| {before} | {after} | {spread(gains)} | {interval(stats.ttest_1samp(gains, 0))} | {len(gains)} |")
    cells = {}
    for key, value in results.known.items():
        if not key.startswith(("parent/", "whole test/")):
            recipe, block, scheme, seed = key.split("/")
            cells.setdefault((recipe, scheme), {}).setdefault(int(seed), {})[int(block)] = 100 * value
    # Per seed the mean over blocks, if all blocks have a result.
    means = {}
    for which, by_seed in cells.items():
        means[which] = {seed: statistics.mean(by_block.values()) for seed, by_block in by_seed.items() if len(by_block) == 5}

    def compare(title, of):
        print(f"\n{title}\n\n| recipe of parents, of children | scheme | accuracy | n | nettriage | n | nettriage - recipe | 95% |\n|---|---|---|---|---|---|---|---|")
        for recipe, scheme in means:
            values, mine = of(recipe, scheme), of("nettriage", scheme)
            if recipe != "nettriage" and min(len(values), len(mine)) > 1:
                test = stats.ttest_ind(mine, values, equal_var=False)
                print(f"| {recipe} | {scheme} | {spread(values)} | {len(values)} | {spread(mine)} | {len(mine)} | {statistics.mean(mine) - statistics.mean(values):+.1f} | {interval(test)} |")

    def minus_parent(recipe, scheme):
        own = parents.get(recipe.split(", ")[0], {})
        return [value - own[seed] for seed, value in means.get((recipe, scheme), {}).items() if seed in own]

    compare("children, means over blocks", lambda *which: list(means.get(which, {}).values()))
    compare("children minus their own parents", minus_parent)
    print("\nchildren of all three, paired by seed\n\n| the script's recipe for | scheme | all three gain | 95% | n |\n|---|---|---|---|---|")
    whole = ", ".join([name_of(OURS)] * 2)
    for (recipe, scheme), values in means.items():
        gains = [better - values[seed] for seed, better in means.get((whole, scheme), {}).items() if seed in values]
        if recipe not in ("nettriage", whole) and len(gains) > 1:
            what = "parents and children" if recipe.startswith(name_of(SCRIPT)) else "children"
            print(f"| {what} | {scheme} | {spread(gains)} | {interval(stats.ttest_1samp(gains, 0))} | {len(gains)} |")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data", required=True); a.add_argument("--peer", required=True)
    a.add_argument("--out", type=pathlib.Path, required=True); a.add_argument("--seeds", type=int, default=5)
    a.add_argument("--parents", type=int, default=0, help="number of seeds for parents with all three details and for nettriage, if more than --seeds")
    a.add_argument("--threads", type=int, default=1); a.add_argument("--program", default=ROOT / "target/release/nettriage")
    a.add_argument("--only", default="parents,nettriage,children", help="any of parents, nettriage, children, tables")
    a = a.parse_args()
    a.parents = max(a.parents, a.seeds)
    torch.set_num_threads(a.threads)
    a.out.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.spec_from_file_location("peer", a.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    results = Results(a.out / "accuracies.json")
    parts = a.only.split(",")
    if "nettriage" in parts:
        ours(a, results)
    for part in ("parents", "children"):
        if part in parts:
            theirs(a, peer, results, part == "parents")
    tables(a, results)


if __name__ == "__main__":
    main()
