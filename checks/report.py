"""Recomputes every number of a report from its exported table of trials, with NumPy and SciPy.

    nettriage report RUN --csv trials.csv --json analysis.json
    python checks/report.py trials.csv analysis.json

Reads only the two files. The JSON provides what the table does not contain: options, the order of blocks and of parents, and which
schemes train the whole network or distil. Every other number is computed independently and must agree to 6 digits. Prints how
many agree; exit code 1 if one does not.
"""

import base64
import csv
import itertools
import json
import math
import sys
from collections import defaultdict

import numpy as np
from scipy import stats

csv.field_size_limit(1 << 30)
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(seed, n, skip=0):
    """Outputs `skip` to `skip + n` of the generator SplitMix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (np.arange(skip, skip + n, dtype=np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def below(draws, n):
    return ((draws >> np.uint64(32)) * np.asarray(n, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)


class Check:
    def __init__(self):
        self.agree, self.wrong = 0, []

    def same(self, what, theirs, ours):
        if isinstance(ours, (list, tuple, np.ndarray)) and not isinstance(theirs, (str, type(None))):
            if len(theirs) != len(ours):
                self.wrong.append(f"{what}: {len(theirs)} values, expected {len(ours)}")
                return
            for i, (a, b) in enumerate(zip(theirs, ours)):
                self.same(f"{what}[{i}]", a, b)
            return
        if ours is None or theirs is None or isinstance(ours, (str, bool, np.bool_)):
            good = theirs == ours
        else:
            good = math.isclose(theirs, ours, rel_tol=1e-6, abs_tol=1e-9)
        if good:
            self.agree += 1
        else:
            self.wrong.append(f"{what}: {theirs}, expected {ours}")


def load(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for key in row:
            if key not in ("id", "role", "parent", "block", "substitute", "init", "scheme", "state", "test_per_class", "test_correct_bits", "similarity_layers", "similarity_before", "similarity_after", "machine"):
                row[key] = float(row[key]) if row[key] != "" else None
        row["bits"] = None
        if row["test_correct_bits"] and row["test_images"]:
            bits = np.unpackbits(np.frombuffer(base64.b64decode(row["test_correct_bits"]), dtype=np.uint8))
            bits = bits[: int(row["test_images"])]
            if bits.sum() == row["test_correct"]:
                row["bits"] = bits.astype(np.int64)
    return rows


class Study:
    def __init__(self, rows, analysis):
        self.analysis = analysis
        self.trained = [row for row in rows if row["role"] == "trained"]
        self.trials = [row for row in rows if row["role"] != "trained"]
        self.parent_index = {row["parent"]: i for i, row in enumerate(self.trained)}
        self.parent = {row["parent"]: row for row in self.trained}
        self.done = [row for row in self.trials if row["state"] == "done" and row["test_top1"] is not None]
        # Parents may have been tested on more images than trials; both used the first ones.
        self.common_images = int(max((row["test_images"] for row in self.done), default=0))
        self.keys = sorted({(self.parent_index[row["parent"]], row["seed"]) for row in self.trials})
        self.by_parent = len({key[0] for key in self.keys}) >= 2
        self.parents = {}
        for key in self.keys:
            row = self.trained[key[0]]
            top1, bits = row["test_top1"], row["bits"]
            if bits is not None and 0 < self.common_images < len(bits):
                bits = bits[: self.common_images]
                top1 = bits.mean()
            self.parents[key] = (top1, bits)

    def key(self, row):
        return (self.parent_index[row["parent"]], row["seed"])

    def rows(self, role, block="", substitute="", init="", scheme=""):
        return [row for row in self.done if (row["role"], row["block"], row["substitute"], row["init"], row["scheme"]) == (role, block, substitute, init, scheme)]

    def series(self, rows):
        return {self.key(row): (row["test_top1"], row["bits"]) for row in sorted(rows, key=self.key)}

    def control(self, scheme, block, keys):
        own = self.series(self.rows("parent-continued", block, "", "", scheme)) if self.planned("parent-continued", block, scheme) else self.series(self.rows("parent-continued", "", "", "", scheme))
        fallback_pairs = sum(key not in own for key in keys) if scheme != "none" else 0
        return {key: own.get(key, self.parents.get(key)) for key in sorted(keys)}, fallback_pairs

    def planned(self, role, block, scheme):
        return any((row["role"], row["block"], row["scheme"]) == (role, block, scheme) for row in self.trials)

    def incomplete(self, block, substitute, init, scheme):
        """Whether a child's trial diverged or failed."""
        return any((row["role"], row["block"], row["substitute"], row["init"], row["scheme"], row["state"] != "done") == ("child", block, substitute, init, scheme, True) for row in self.trials)

    def at_chance(self):
        test = self.analysis["validity"]["chance"]
        return test is not None and test["p"] >= 0.001

    def unit(self, key):
        return key[0] if self.by_parent else key


def differences(study, first, second):
    """Differences per unit in percentage points, the table (units, images) of differences or None, the number of pairs."""
    groups = defaultdict(list)
    for key in sorted(set(first) & set(second)):
        groups[study.unit(key)].append(key)
    values = [100 * np.mean([first[key][0] - second[key][0] for key in keys]) for keys in groups.values()]
    rows = []
    for keys in groups.values():
        pairs = [(first[key][1], second[key][1]) for key in keys]
        if any(a is None or b is None or len(a) != len(b) for a, b in pairs):
            rows = None
            break
        rows.append(np.mean([a - b for a, b in pairs], axis=0))
    return values, None if rows is None or not rows else np.array(rows), sum(map(len, groups.values()))


def crossed(table):
    """Mean, standard error and degrees of freedom of a two-way random-effects layout (units, images)."""
    n, m = table.shape
    grand, units, images = table.mean(), table.mean(axis=1), table.mean(axis=0)
    ms_i = n * ((images - grand) ** 2).sum() / (m - 1)
    if n == 1:
        return grand, math.sqrt(ms_i / m), m - 1
    ms_u = m * ((units - grand) ** 2).sum() / (n - 1)
    ms_e = ((table - units[:, None] - images[None] + grand) ** 2).sum() / ((n - 1) * (m - 1))
    total = max(ms_u + ms_i - ms_e, ms_u, ms_i)
    spread = ms_u**2 / (n - 1) + ms_i**2 / (m - 1) + ms_e**2 / ((n - 1) * (m - 1))
    return grand, math.sqrt(total / (n * m)), (total**2 / spread if spread > 0 else n - 1)


def mean_of(values, table):
    if table is not None:
        grand, se, df = crossed(table)
        return 100 * grand, 100 * se, df
    if len(values) < 2:
        return None
    return np.mean(values), stats.sem(values), len(values) - 1


def t_interval(mean, se, df, level=0.95):
    return list(stats.t.interval(level, df, mean, se)) if se > 0 else [mean, mean]


def p_above(mean, se, df, bound):
    return float(stats.t.sf((mean - bound) / se, df)) if se > 0 else float(mean <= bound)


def p_below(mean, se, df, bound):
    return p_above(-mean, se, df, -bound)


def p_zero(mean, se, df):
    return float(2 * stats.t.sf(abs(mean / se), df)) if se > 0 else float(mean == 0)


def tost(mean, se, df, margin):
    return max(p_above(mean, se, df, -margin), p_below(mean, se, df, margin))


class Bootstrap:
    def __init__(self):
        self.counts = {}

    def images(self, m):
        if m not in self.counts:
            counts = np.empty((2000, m))
            for i in range(2000):
                counts[i] = np.bincount(below(splitmix(20180104, m, i * m), m), minlength=m)
            self.counts[m] = np.minimum(counts, 255)
        return self.counts[m]

    def interval(self, table):
        n, m = table.shape
        if n < 2 or not 0 < m <= 100_000:
            return None
        drawn = below(splitmix(20180104 ^ 0x5EED, 2000 * n), n).reshape(2000, n)
        times = np.stack([(drawn == unit).sum(axis=1) for unit in range(n)], axis=1)
        means = np.sort(((self.images(m) @ table.T) * times).sum(axis=1) / (n * m))
        grand = table.mean()
        influence = np.concatenate([(table.mean(axis=1) - grand) / n, (table.mean(axis=0) - grand) / m])
        squares = (influence**2).sum()
        a = (influence**3).sum() / (6 * squares**1.5) if squares > 0 else 0.0
        tied = np.abs(means - grand) <= 1e-12
        share = ((means < grand) & ~tied).sum() / 2000 + tied.sum() / 4000
        if means[0] == means[-1] or not 0 < share < 1:
            return None
        bias = stats.norm.ppf(share)
        z = bias + stats.norm.ppf([0.025, 0.975])
        return list(100 * np.quantile(means, stats.norm.cdf(bias + z / (1 - a * z))))


def check_estimate(check, what, theirs, study, first, second, bootstrap=None):
    values, table, pairs = differences(study, first, second)
    if not values:
        check.same(what, theirs, None)
        return None
    shown = mean_of(values, table)
    check.same(f"{what}.mean", theirs["mean"], np.mean(values))
    check.same(f"{what}.values", theirs["values"], values)
    check.same(f"{what}.units", theirs["units"], len(values))
    check.same(f"{what}.pairs", theirs["pairs"], pairs)
    check.same(f"{what}.se", theirs["se"], shown and shown[1])
    check.same(f"{what}.df", theirs["df"], shown and shown[2])
    check.same(f"{what}.interval", theirs["interval"], shown and t_interval(*shown))
    student = t_interval(np.mean(values), stats.sem(values), len(values) - 1) if len(values) > 1 else None
    check.same(f"{what}.student", theirs["student"], student)
    expected = bootstrap.interval(table) if bootstrap and table is not None else None
    check.same(f"{what}.bootstrap", theirs["bootstrap"], expected)
    return values, table


def recovery(rows):
    return [(row["recovered_at"], True) if row["recovered_at"] is not None else (row["examples"] or 0.0, False) for row in rows]


def censored(times):
    return stats.CensoredData(uncensored=[t for t, event in times if event], right=[t for t, event in times if not event])


def survival_steps(times):
    at = sorted({t for t, event in times if event})
    if not at:
        return [(0.0, 1.0)]
    curve = stats.ecdf(censored(times)).sf
    return [(0.0, 1.0)] + [(t, float(curve.evaluate(t))) for t in at]


def median_time(times):
    return next((t for t, surviving in survival_steps(times) if surviving <= 0.5 + 1e-12), None)


def time_ratio(rows):
    """Median, ends of the interval and number of the longest measurements, each counted once; none without an interval."""
    timed = [row for row in rows if row["parent_inference_seconds"]]
    longest = max((row["inference_repetitions"] for row in timed), default=0)
    names = ("inference_seconds", "parent_inference_seconds", "inference_ratio", "inference_ratio_low", "inference_ratio_high")
    distinct = {tuple(row[name] for name in names) for row in timed if row["inference_repetitions"] == longest}
    ratios = [(network / parent,) * 3 if ratio is None else (ratio, low, high) for network, parent, ratio, low, high in distinct]
    if not ratios or (len(ratios) < 2 and any(one[2] is None for one in distinct)):
        return None
    return float(np.median([one[0] for one in ratios])), min(one[1] for one in ratios), max(one[2] for one in ratios), len(ratios)


def check_timing(check, study):
    """Whether networks with the parent's architecture take the parent's time."""
    theirs = study.analysis["timing"]
    pooled = time_ratio([row for row in study.done if row["role"] in ("placebo", "parent", "parent-continued", "reinit")])
    check.same("timing", theirs is None, pooled is None)
    if pooled is None:
        return True
    passed = abs(pooled[0] - 1) <= 0.05 and pooled[2] - pooled[1] <= 0.3
    check.same("timing", [theirs[name] for name in ("measurements", "ratio", "interval", "passed")], [pooled[3], pooled[0], list(pooled[1:3]), passed])
    return passed


def check_validity(check, study):
    theirs = study.analysis["validity"]
    if theirs["chance"]:
        test = theirs["chance"]
        # The labels are not in the table of trials: the share of the most frequent class is taken as given.
        check.same("validity.chance.p", test["p"], stats.binomtest(test["correct"], test["images"], test["chance"], alternative="greater").pvalue)
    headline = study.analysis["headline"]
    if headline is None:
        return
    keys = combination(study, headline)
    check.same("validity.incomplete_blocks", theirs["incomplete_blocks"], [block for block, key in keys.items() if study.incomplete(*key)])
    constant = []
    for block, key in keys.items():
        child = study.series(study.rows("child", *key))
        values, _, _ = differences(study, study.control(key[3], block, child)[0], child)
        if len(values) > 1 and len(set(values)) == 1:
            constant.append(block)
    check.same("validity.zero_variance_blocks", theirs["zero_variance_blocks"], constant)


def check_cells(check, study, bootstrap, timed):
    theirs = {(cell["block"], cell["substitute"], cell["init"], cell["scheme"]): cell for cell in study.analysis["cells"]}
    ours = {(row["block"], row["substitute"], row["init"], row["scheme"]) for row in study.done if row["role"] == "child"}
    check.same("cells", sorted(theirs), sorted(ours)) if sorted(theirs) != sorted(ours) else None
    for key, cell in theirs.items():
        what = "/".join(key)
        rows = study.rows("child", *key)
        child = study.series(rows)
        control, fallback_pairs = study.control(key[3], key[0], child)
        mean = lambda column: float(np.mean([row[column] for row in rows]))
        check.same(f"{what}.trials", cell["trials"], len(rows))
        check.same(f"{what}.fallback_pairs", cell["fallback_pairs"], fallback_pairs)
        for name, column in [("accuracy", "test_top1"), ("best_accuracy", "best_test_top1"), ("top5", "test_top5"), ("agreement", "test_agreement"), ("calibration_error", "test_calibration_error")]:
            check.same(f"{what}.{name}", cell[name], 100 * mean(column))
        check.same(f"{what}.seconds", cell["seconds"], mean("seconds"))
        check_estimate(check, f"{what}.criticality", cell["criticality"], study, control, child, bootstrap)
        check_estimate(check, f"{what}.loss_to_parent", cell["loss_to_parent"], study, study.parents, child)
        check.same(f"{what}.drop_before_training", cell["drop_before_training"], 100 * np.mean([study.parent[row["parent"]]["validation_top1"] - row["before_top1"] for row in rows]))
        times = recovery(rows)
        check.same(f"{what}.recovered", cell["recovered"], sum(event for _, event in times))
        check.same(f"{what}.median_recovery", cell["median_recovery"], median_time(times))
        alike = [row for other in theirs if other[:2] == key[:2] for row in study.rows("child", *other)]
        pooled = time_ratio(alike) if timed else None
        if pooled and pooled[2] - pooled[1] > 0.3:
            pooled = None
        check.same(f"{what}.latency", cell["latency"], pooled and pooled[0])
        check.same(f"{what}.latency_interval", cell["latency_interval"], pooled and list(pooled[1:3]))
        check.same(f"{what}.control_accuracy", cell["control_accuracy"], 100 * np.mean([control[key][0] for key in control]))
        check.same(f"{what}.cost", [cell["cost"]["parameters"], cell["cost"]["macs"]], [rows[0]["parameters"], rows[0]["macs"]])


def check_controls(check, study, bootstrap):
    for control in study.analysis["controls"]:
        what = f"{control['role']}/{control['block']}/{control['scheme']}"
        rows = study.rows(control["role"], control["block"] or "", "", "", control["scheme"])
        own = study.series(rows)
        check.same(f"{what}.accuracy", control["accuracy"], 100 * np.mean([row["test_top1"] for row in rows]))
        reference = study.parents if control["role"] == "parent-continued" else study.control(control["scheme"], control["block"] or "", own)[0]
        check_estimate(check, f"{what}.criticality", control["criticality"], study, reference, own, bootstrap)
        values, table, _ = differences(study, reference, own)
        known = mean_of(values, table) if len(values) > 1 else None
        check.same(f"{what}.p_equivalent", control["p_equivalent"], None if known is None else max(p_above(*known, -study.analysis["options"]["margin"]), p_below(*known, study.analysis["options"]["margin"])))
        if control["role"] == "placebo":
            # A placebo replaces nothing: its trials classify the same images correctly as the fine-tuned parent (control).
            pairs = [(own[key], reference[key]) for key in own if key in reference]
            check.same(f"{what}.bits", [bool((a[1] == b[1]).all()) for a, b in pairs], [True] * len(pairs))


def check_parent(check, study):
    parent = study.analysis["parent"]
    of = lambda column: 100 * np.mean([row[column] for row in study.trained])
    for name, column in [("accuracy", "test_top1"), ("top5", "test_top5"), ("validation", "validation_top1"), ("calibration_error", "test_calibration_error")]:
        check.same(f"parent.{name}", parent[name], of(column))
    controls = study.rows("parent", scheme="none")
    same = None
    if controls and controls[0]["test_images"] != study.trained[0]["test_images"]:
        mean = lambda column: 100 * np.mean([row[column] for row in controls])
        same = {"images": controls[0]["test_images"], "accuracy": mean("test_top1"), "top5": mean("test_top5"), "calibration_error": mean("test_calibration_error")}
    for name in ("images", "accuracy", "top5", "calibration_error"):
        check.same(f"parent.on_trial_images.{name}", (parent["on_trial_images"] or {}).get(name), (same or {}).get(name))
    accuracies = [100 * row["test_top1"] for row in study.trained]
    check.same("parent.range", parent["range"], [min(accuracies), max(accuracies)])


def combination(study, headline):
    return {block: (block, substitute, headline["init"], headline["scheme"]) for block, substitute in headline["substitutes"]}


def check_headline(check, study):
    """Of the combinations with the most trials, the headline shows the one with the highest validation accuracy."""
    headline = study.analysis["headline"]
    if headline is None:
        return
    cells = combination(study, headline)
    blocks = list(cells)

    def score(init, scheme, substitutes):
        groups = [study.rows("child", block, substitutes[block], init, scheme) for block in blocks]
        if not all(groups):
            return None
        return scheme != "none", min(map(len, groups)), float(np.mean([np.mean([row["validation_top1"] for row in group]) for group in groups]))

    substitutes = dict(headline["substitutes"])
    best = score(headline["init"], headline["scheme"], substitutes)
    others = {(row["init"], row["scheme"]) for row in study.done if row["role"] == "child"}
    for init, scheme in others:
        other = score(init, scheme, substitutes)
        check.same(f"headline over {init}/{scheme}", other is None or other[:2] < best[:2] or (other[:2] == best[:2] and other[2] <= best[2] + 1e-12), True)
    ranked = sorted((cell for cell in study.analysis["blocks"] if cell["cell"] is not None), key=lambda block: -study.analysis["cells"][block["cell"]]["criticality"]["mean"])
    check.same("ranks", [block["rank"] for block in ranked], [1 + sum(study.analysis["cells"][o["cell"]]["criticality"]["mean"] > study.analysis["cells"][b["cell"]]["criticality"]["mean"] for o in ranked) for b in ranked])
    parent = study.trained[0]
    for block in study.analysis["blocks"]:
        if block["cell"] is not None:
            cell = study.rows("child", *cells[block["block"]])[0]
            check.same(f"{block['block']}.saves", [block["saves_parameters"], block["saves_macs"]], [1 - cell["parameters"] / parent["parameters"], 1 - cell["macs"] / parent["macs"]])


def table_of(study, series):
    groups = defaultdict(list)
    for key in sorted(set.intersection(*map(set, series))):
        groups[study.unit(key)].append(key)
    return np.array([[100 * np.mean([one[key][0] for key in keys]) for one in series] for keys in groups.values()])


def permutation_p(rows):
    n, k = rows.shape
    spread = lambda table: ((table.sum(axis=0) - table.sum() / k) ** 2).sum()
    observed = spread(rows)
    draws = splitmix(180104651, 9999 * n * (k - 1)).reshape(9999, n, k - 1)
    at = below(draws, np.arange(k, 1, -1))
    shuffled, count = [list(row) for row in rows], 0
    for one in at:
        for row, swaps in zip(shuffled, one):
            for i, j in zip(range(k - 1, 0, -1), swaps):
                row[i], row[j] = row[j], row[i]
        count += spread(np.array(shuffled)) >= observed * (1 - 1e-9)
    return (count + 1) / 10000


def holm(p):
    order = np.argsort(p, kind="stable")
    adjusted, least = np.empty(len(p)), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def check_f1(check, study, margin):
    f1 = study.analysis["f1"]
    if f1 is None:
        return
    blocks = combination(study, study.analysis["headline"])
    series = {block: study.series(study.rows("child", *key)) for block, key in blocks.items()}
    rows = table_of(study, list(series.values()))
    check.same("f1.units", f1["units"], len(rows))
    check.same("f1.spread", f1["spread"], np.ptp(rows.mean(axis=0)))
    if len(rows) > 1:
        p = permutation_p(rows)
        check.same("f1.p_permutation", f1["p_permutation"], p)
    else:
        p = None
        check.same("f1.p_permutation", f1["p_permutation"], None)
    if len(rows) > 1 and rows.shape[1] > 2:
        friedman = stats.friedmanchisquare(*rows.T)
        if not math.isnan(friedman.statistic):
            check.same("f1.friedman", [f1["friedman"], f1["p_friedman"]], [friedman.statistic, friedman.pvalue])
            check.same("f1.concordance", f1["concordance"], friedman.statistic / (len(rows) * (rows.shape[1] - 1)))
    ours, errors = [], []
    for first, second in itertools.combinations(series, 2):
        values, table, _ = differences(study, series[second], series[first])
        if len(values) > 1:
            mean = mean_of(values, table)
            errors.append(mean[1:])
            sd, df = np.std(values, ddof=1), len(values) - 1
            effect = np.mean(values) / sd * (1 - 3 / (4 * df - 1)) if sd > 0 and df > 1 else None
            ours.append((first, second, mean, p_zero(*mean), tost(*mean, margin), effect))
    check.same("f1.pairs", len(f1["pairs"]), len(ours))
    for pair, (first, second, mean, zero, equivalent, effect), corrected in zip(f1["pairs"], ours, holm([pair[3] for pair in ours])):
        what = f"f1.{first}-{second}"
        check.same(what, [pair["first"], pair["second"]], [first, second])
        check.same(f"{what}.difference", pair["difference"], mean[0])
        check.same(f"{what}.interval", pair["interval"], t_interval(*mean))
        check.same(f"{what}.p", [pair["p"], pair["p_holm"], pair["p_equivalent"]], [zero, corrected, equivalent])
        check.same(f"{what}.effect", pair["effect"], effect)
    worst = max((pair[4] for pair in ours), default=0.0) if len(ours) == len(series) * (len(series) - 1) // 2 else None
    check.same("f1.p_equivalent", f1["p_equivalent"], worst)
    if errors:
        errors.sort(key=lambda error: error[0])
        se, df = errors[len(errors) // 2]
        check.same("f1.detectable", f1["detectable"], (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)) * se)
    undecided = study.at_chance() or any(study.incomplete(*key) for key in blocks.values())
    verdict = "undecided" if undecided else "equivalent" if worst is not None and worst < 0.05 else "different" if p is not None and p < 0.05 else "undecided"
    check.same("f1.verdict", f1["verdict"], verdict)


def f2_verdict(parent, continued, margin):
    if parent is None:
        return "undecided"
    if p_above(*parent, 0) < 0.05 and continued is not None:
        if p_above(*continued, 0) < 0.05:
            return "exceeded"
        if p_below(*continued, margin) < 0.05:
            return "exceeded-by-training"
    if p_above(*parent, -margin) < 0.05:
        return "recovered"
    return "not-recovered" if p_below(*parent, -margin) < 0.05 else "undecided"


def check_f2(check, study, margin):
    f2 = study.analysis["f2"]
    if f2 is None:
        return
    blocks = combination(study, f2["headline"])
    series = {block: study.series(study.rows("child", *key)) for block, key in blocks.items()}
    common = sorted(set.intersection(*map(set, series.values())))
    series[None] = {key: (np.mean([one[key][0] for one in series.values()]), None) for key in common}
    for own in f2["blocks"] + [f2["overall"]]:
        what = f"f2.{own['block']}"
        child = series[own["block"]]
        control, fallback_pairs = study.control(f2["headline"]["scheme"], own["block"] or "", child)
        test = lambda pair: mean_of(*pair[:2]) if pair and len(pair[0]) > 1 else None
        parent = check_estimate(check, f"{what}.to_parent", own["to_parent"], study, child, study.parents)
        continued = check_estimate(check, f"{what}.to_fine_tuned", own["to_fine_tuned"], study, child, control) if fallback_pairs == 0 else None
        chosen = [key for block, key in blocks.items() if own["block"] in (None, block)]
        undecided = study.at_chance() or any(study.incomplete(*key) for key in chosen)
        check.same(f"{what}.verdict", own["verdict"], "undecided" if undecided else f2_verdict(test(parent), test(continued), margin))


def log_rank(strata):
    observed = expected = variance = 0.0
    for first, second in strata:
        for at in sorted({t for t, event in first + second if event}):
            n1, n2 = (sum(t >= at for t, _ in group) for group in (first, second))
            d1, d2 = (sum(event and t == at for t, event in group) for group in (first, second))
            n, d = n1 + n2, d1 + d2
            observed += d1
            expected += d * n1 / n
            if n > 1:
                with np.errstate(all="ignore"):
                    variance += stats.hypergeom.var(n, n1, d)
    return observed, expected, variance


def swap_p(strata, observed):
    """The paired permutation test: swapping the arms of pairs keeps the joint risk sets, so O - E of a stratum is a sum over its times."""
    pairs = sum(len(first) for first, _ in strata)
    draws = below(splitmix(1966, 1999 * pairs), 2).reshape(1999, pairs)
    state, count = np.zeros(pairs, dtype=bool), 0
    tables, at = [], 0
    for first, second in strata:
        times = sorted({t for t, event in first + second if event})
        grid = np.array(times)[None]
        one = lambda group: (np.array([[t] for t, _ in group]) >= grid, (np.array([[t] for t, _ in group]) == grid) & np.array([[event] for _, event in group]))
        tables.append((at, at + len(first), one(first), one(second)) if times else None)
        at += len(first)
    for draw in draws:
        state ^= draw.astype(bool)
        difference = 0.0
        for table in tables:
            if table is None:
                continue
            low, high, (risk1, event1), (risk2, event2) = table
            swap = state[low:high, None]
            n1, n2 = np.where(swap, risk2, risk1).sum(axis=0), np.where(swap, risk1, risk2).sum(axis=0)
            d1, d = np.where(swap, event2, event1).sum(axis=0), (event1 | event2).sum(axis=0) * 0 + event1.sum(axis=0) + event2.sum(axis=0)
            difference += (d1 - d * n1 / (n1 + n2)).sum()
        count += abs(difference) >= observed - 1e-9
    return (count + 1) / 2000


def pooled(study, strata, pick):
    """The mean over strata per unit, of the strata with the most units."""
    units = [tuple(dict.fromkeys(study.unit(key) for key in stratum["keys"])) for stratum in strata]
    most = max(map(len, units))
    model = next(own for own in units if len(own) == most)
    kept = []
    for stratum, own in zip(strata, units):
        values, table, pairs = differences(study, *pick(stratum))
        if own == model and len(values) == len(model):
            kept.append((values, table, pairs))
    values = list(np.mean([one[0] for one in kept], axis=0))
    table = np.mean([one[1] for one in kept], axis=0) if all(one[1] is not None for one in kept) else None
    return values, table, sum(one[2] for one in kept)


def check_pooled(check, what, theirs, found):
    values, table, pairs = found
    shown = mean_of(values, table)
    check.same(f"{what}.mean", theirs["mean"], np.mean(values))
    check.same(f"{what}.pairs", theirs["pairs"], pairs)
    check.same(f"{what}.se", theirs["se"], shown and shown[1])
    check.same(f"{what}.df", theirs["df"], shown and shown[2])
    check.same(f"{what}.interval", theirs["interval"], shown and t_interval(*shown))
    return mean_of(values, table) if len(values) > 1 else None


def accuracy_verdict(mean, margin):
    if mean is None:
        return "undecided"
    if tost(*mean, margin) < 0.05:
        return "equivalent"
    if p_zero(*mean) < 0.05:
        return "higher" if mean[0] > 0 else "lower"
    return "undecided"


def strata_of(study, distilled, plain):
    strata = []
    for cell in study.analysis["cells"]:
        if cell["scheme"] != distilled:
            continue
        key = (cell["block"], cell["substitute"], cell["init"])
        a, b = ({study.key(row): row for row in study.rows("child", *key, scheme)} for scheme in (distilled, plain))
        keys = sorted(set(a) & set(b))
        if keys and not study.incomplete(*key, distilled) and not study.incomplete(*key, plain):
            strata.append({"keys": keys, "first": recovery([a[k] for k in keys]), "second": recovery([b[k] for k in keys]), "distilled": study.series(a.values()), "plain": study.series(b.values())})
    return strata


def check_f3_pair(check, study, theirs, strata, margin):
    what = f"f3.{theirs['distilled']}-{theirs['plain']}"
    arms = [(stratum["first"], stratum["second"]) for stratum in strata]
    first, second = (sum((arm[i] for arm in arms), []) for i in (0, 1))
    events = [sum(event for _, event in group) for group in (first, second)]
    check.same(f"{what}.pairs", theirs["pairs"], len(first))
    check.same(f"{what}.recovered", theirs["recovered"], events)
    check.same(f"{what}.median", theirs["median"], [median_time(first), median_time(second)])
    observed, expected, variance = log_rank(arms)
    convergence = "never-reached" if sum(events) == 0 else "undecided"
    if variance > 0:
        chi2 = (observed - expected) ** 2 / variance
        p = stats.chi2.sf(chi2, 1)
        own = theirs["log_rank"]
        check.same(f"{what}.log_rank", [own[name] for name in ("observed", "expected", "variance", "chi2", "p")], [observed, expected, variance, chi2, p])
        check.same(f"{what}.p_permutation", theirs["p_permutation"], swap_p(arms, abs(observed - expected)))
        if p < 0.05 and len({study.unit(key) for stratum in strata for key in stratum["keys"]}) > 1:
            convergence = "faster" if observed > expected else "slower"
        if len(arms) == 1:
            check.same(f"{what}.scipy", chi2, stats.logrank(censored(first), censored(second)).statistic ** 2)
    check.same(f"{what}.convergence", theirs["convergence"], "undecided" if study.at_chance() else convergence)
    by_unit = defaultdict(list)
    for stratum in strata:
        for key, a, b in zip(stratum["keys"], stratum["first"], stratum["second"]):
            by_unit[study.unit(key)].append(a[0] - b[0])
    saved = [np.mean(values) for _, values in sorted(by_unit.items())]
    if len(saved) > 1:
        check.same(f"{what}.examples", [theirs["examples"][0], *theirs["examples"][1]], [np.mean(saved), *t_interval(np.mean(saved), stats.sem(saved), len(saved) - 1)])
    for name, verdict, pick in [
        ("to_plain", "against_plain", lambda s: (s["distilled"], s["plain"])),
        ("to_parent", "against_parent", lambda s: (s["distilled"], study.parents)),
        ("plain_to_parent", None, lambda s: (s["plain"], study.parents)),
    ]:
        mean = check_pooled(check, f"{what}.{name}", theirs[name], pooled(study, strata, pick))
        if verdict:
            check.same(f"{what}.{verdict}", theirs[verdict], "undecided" if study.at_chance() else accuracy_verdict(mean, margin))


def check_f3(check, study, margin):
    f3 = study.analysis["f3"]
    if f3 is None:
        return
    everything = []
    for pair in f3["pairs"]:
        strata = strata_of(study, pair["distilled"], pair["plain"])
        check_f3_pair(check, study, pair, strata, margin)
        everything += strata
    check_f3_pair(check, study, f3["overall"], everything, margin)


def kendall(a, b):
    """Kendall's tau-b, where values that differ by rounding alone are tied."""
    if len(a) < 2:
        return math.nan
    tied = lambda values: np.round(np.asarray(values) / max(np.abs(values).max(), 1e-300), 9)
    return stats.kendalltau(tied(a), tied(b)).statistic


def tau_interval(a, b):
    n = len(a)
    if n < 2:
        return None
    if n <= 5:
        ways = [[way // n**i % n for i in range(n)] for way in range(n**n)]
    else:
        ways = below(splitmix(1938, 2000 * n), n).reshape(2000, n)
    with np.errstate(invalid="ignore"):
        found = [kendall(a[way].mean(axis=0), b[way].mean(axis=0)) for way in ways]
    found = [tau for tau in found if not math.isnan(tau)]
    return list(np.quantile(found, [0.025, 0.975])) if found else None


def check_proxies(check, study):
    headline = study.analysis["headline"]
    if headline is None:
        return
    cells = combination(study, headline)

    def scores(init, scheme, measure):
        columns, seconds = [], []
        for block, substitute in headline["substitutes"]:
            rows = study.rows("child", block, substitute, init, scheme)
            if not rows:
                return None, None
            seconds += [row["seconds"] for row in rows]
            if measure == "criticality":
                child = study.series(rows)
                control, _ = study.control(scheme, block, child)
                columns.append({key: 100 * (control[key][0] - child[key][0]) for key in child})
            else:
                columns.append({study.key(row): row["hint_loss"] for row in rows})
        grouped = []
        for column in columns:
            groups = defaultdict(list)
            for key in sorted(column):
                groups[study.unit(key)].append(column[key])
            grouped.append({unit: np.mean(values) for unit, values in groups.items()})
        return grouped, np.mean(seconds)

    full, full_seconds = scores(headline["init"], headline["scheme"], "criticality")
    for proxy in study.analysis["proxies"]:
        what = f"proxies.{proxy['measure']}/{proxy['init']}/{proxy['scheme']}"
        own, seconds = scores(proxy["init"], proxy["scheme"], proxy["measure"])
        if own is None:
            continue  # a combination with other substitutes than the headline
        units = [unit for unit in own[0] if all(unit in column for column in own + full)]
        a = np.array([[column[unit] for column in own] for unit in units])
        b = np.array([[column[unit] for column in full] for unit in units])
        check.same(f"{what}.scores", proxy["scores"], a.mean(axis=0))
        tau = kendall(a.mean(axis=0), b.mean(axis=0))
        check.same(f"{what}.tau", proxy["tau"], None if math.isnan(tau) else tau)
        check.same(f"{what}.interval", proxy["interval"], tau_interval(a, b))
        check.same(f"{what}.relative_cost", proxy["relative_cost"], seconds / full_seconds if full_seconds > 0 else 0.0)
    assert cells


def check_rest(check, study):
    points = study.analysis["pareto"]
    for point in points:
        for cost in ("parameters", "macs", "latency"):
            known = [other for other in points if other[cost] is not None]
            dominated = any(o[cost] <= point[cost] and o["accuracy"] >= point["accuracy"] and (o[cost] < point[cost] or o["accuracy"] > point["accuracy"]) for o in known) if point[cost] is not None else True
            check.same(f"pareto.{point['cell']}.{cost}", point["front"][cost], not dominated)
        if point["cell"] is None:
            check.same("pareto.parent", point["accuracy"], 100 * np.mean([top1 for top1, _ in study.parents.values()]))
    headline = study.analysis["headline"]
    if headline is None:
        return
    cells = combination(study, headline)
    order = list(dict.fromkeys(change["class"] for change in study.analysis["classes"]))
    classes = lambda row: np.array(row["test_per_class"].split(" "), dtype=float)
    # The unchanged parent, evaluated on the same images as the trials.
    unchanged = {row["parent"]: row for row in study.rows("parent", scheme="none")}
    same_images = lambda parent: unchanged.get(parent, study.parent[parent])
    for change in study.analysis["classes"]:
        c = order.index(change["class"])
        values = [100 * (classes(row)[c] - classes(same_images(row["parent"]))[c]) for row in study.rows("child", *cells[change["block"]])]
        check.same(f"classes.{change['block']}.{change['class']}", change["change"], np.mean(values))
        check.same(f"classes.{change['block']}.{change['class']}.interval", change["interval"], t_interval(np.mean(values), stats.sem(values), len(values) - 1) if len(values) > 1 else None)
    for flips in study.analysis["flips"]:
        rows = study.rows("child", *cells[flips["block"]])
        lost = np.array([(study.parents[study.key(row)][1] == 1) & (row["bits"] == 0) for row in rows])
        gained = np.array([(study.parents[study.key(row)][1] == 0) & (row["bits"] == 1) for row in rows])
        check.same(f"flips.{flips['block']}", [flips["lost"], flips["gained"], flips["always_lost"], flips["always_gained"]], [lost.sum(axis=1).mean(), gained.sum(axis=1).mean(), lost.all(axis=0).sum(), gained.all(axis=0).sum()])
        check.same(f"flips.{flips['block']}.lost_images", flips["lost_images"], list(np.flatnonzero(lost.all(axis=0))[:100]))
        check.same(f"flips.{flips['block']}.gained_images", flips["gained_images"], list(np.flatnonzero(gained.all(axis=0))[:100]))
    for similarity in study.analysis["similarity"]:
        rows = [row for row in study.rows("child", *cells[similarity["block"]]) if row["similarity_layers"]]
        check.same(f"similarity.{similarity['block']}.trials", similarity["trials"], len(rows))
        check.same(f"similarity.{similarity['block']}.layers", [layer["layer"] for layer in similarity["layers"]], rows[0]["similarity_layers"].split(" "))
        for index, layer in enumerate(similarity["layers"]):
            for when in ("before", "after"):
                values = [row[f"similarity_{when}"].split(" ")[index] for row in rows]
                values = [float(value) for value in values if value != "-"]
                check.same(f"similarity.{similarity['block']}.{layer['layer']}.{when}", layer[when], np.mean(values) if values else None)
    for survival in study.analysis["survival"]:
        what = f"survival.{survival['scheme']}.{survival['block']}"
        rows = [row for row in study.done if row["role"] == "child" and row["scheme"] == survival["scheme"] and survival["block"] in (None, row["block"])]
        times = recovery(rows)
        steps = survival_steps(times)
        check.same(f"{what}.steps", [step["at"] for step in survival["steps"]], [at for at, _ in steps])
        check.same(f"{what}.surviving", [step["surviving"] for step in survival["steps"]], [surviving for _, surviving in steps])
        check.same(f"{what}.at_risk", [step["at_risk"] for step in survival["steps"]], [len(times)] + [sum(t >= at for t, _ in times) for at, _ in steps[1:]])
        check.same(f"{what}.median", survival["median"], median_time(times))


def at_budget(rows, images):
    """The rows of trials that train on that number of images, of those that do not train, and of parents."""
    return [row for row in rows if row["budget"] in (None, images)]


def check_budgets(check, rows, analysis, margin):
    """The results under every budget, which trainings had converged, and whether the blocks rank alike."""
    budgets = analysis["budgets"]
    images = sorted({int(row["budget"]) for row in rows if row["budget"] is not None})
    check.same("budgets", [each["images"] for each in budgets["each"]], images)
    studies = {}
    for each in budgets["each"]:
        own = {name: each[name] for name in ("headline", "blocks", "cells", "controls", "f1", "f2", "f3")}
        studies[each["images"]] = study = Study(at_budget(rows, each["images"]), {**analysis, **own})
        check_cells(check, study, None, check_timing(Check(), study))
        check_f1(check, study, margin)
        check_f2(check, study, margin)
        check_f3(check, study, margin)
    judged = defaultdict(list)
    for cell in budgets["convergence"]:
        kind, budget = (cell["block"], cell["substitute"], cell["init"], cell["scheme"]), cell["budget"]
        what = f"convergence.{kind}.{budget}"
        smaller = [other for other in images if 2 * other <= budget]
        before = studies[smaller[-1]].rows("child", *kind) if smaller else []
        check.same(f"{what}.smaller", cell["smaller"], smaller[-1] if before else None)
        p, converged = None, None
        if before:
            study = studies[budget]
            values, table, _ = differences(study, study.series(study.rows("child", *kind)), study.series(before))
            check.same(f"{what}.gain", cell["gain"]["mean"], np.mean(values))
            if len(values) > 1:
                p = tost(*mean_of(values, table), margin)
                complete = not any(studies[at].incomplete(*kind) for at in (budget, smaller[-1]))
                converged = bool(p < 0.05 and complete)
        check.same(f"{what}.p_equivalent", cell["p_equivalent"], p)
        check.same(f"{what}.converged", cell["converged"], converged)
        judged[budget].append(converged)
    for each in budgets["each"]:
        known = [converged for converged in judged[each["images"]] if converged is not None]
        check.same(f"budgets.{each['images']}.converged", [each["converged"], each["judged"]], [sum(known), len(known)])
    blocks = dict(analysis["headline"]["substitutes"]) if analysis["headline"] else {}

    def drop(study, block):
        kind = (block, blocks[block], analysis["headline"]["init"], analysis["headline"]["scheme"])
        child = study.series(study.rows("child", *kind))
        return np.mean(differences(study, study.control(kind[3], block, child)[0], child)[0])

    for ranking in budgets["rankings"]:
        pair = [[drop(studies[ranking[name]], block) for block in blocks] for name in ("smaller", "larger")]
        tau = kendall(*pair)
        check.same(f"rankings.{ranking['smaller']}.{ranking['larger']}", ranking["tau"], None if math.isnan(tau) else tau)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: report.py trials.csv analysis.json")
    rows = load(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        analysis = json.load(file)
    check, margin = Check(), analysis["options"]["margin"]
    trials = [row for row in rows if row["role"] != "trained"]
    check.same("recorded", analysis["recorded"], len(trials))
    for state in ("diverged", "failed"):
        check.same(state, analysis[state], sum(row["state"] == state for row in trials))
    if analysis["budgets"]:
        check_budgets(check, rows, analysis, margin)
        rows = at_budget(rows, analysis["budget"])
    study = Study(rows, analysis)
    check.same("unit", analysis["unit"], "parents" if study.by_parent else "seeds")
    bootstrap = Bootstrap() if analysis["options"]["bootstrap"] else None
    check_parent(check, study)
    check_validity(check, study)
    check_cells(check, study, bootstrap, check_timing(check, study))
    check_controls(check, study, bootstrap)
    check_headline(check, study)
    check_f1(check, study, margin)
    check_f2(check, study, margin)
    check_f3(check, study, margin)
    check_proxies(check, study)
    check_rest(check, study)
    for line in check.wrong[:40]:
        print("different:", line)
    print(f"{check.agree} values agree to 6 digits, {len(check.wrong)} differ")
    sys.exit(1 if check.wrong else 0)


if __name__ == "__main__":
    main()
