"""Studies that the user's own program trains: the statistics against an independent computation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import nettriage as nt

EXAMPLES = 40


class Segmenter(nn.Module):
    """One output per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.middle(self.down(x)))


@pytest.fixture
def segmenter() -> nt.Network:
    torch.manual_seed(4)
    return nt.Network.from_torch(Segmenter(), torch.randn(2, 1, 8, 8))


METRIC = nt.Metric("error", better="lower", margin=0.5, unit="px")


def made_up(child: nt.Child) -> np.ndarray:
    """Values with known differences: an effect of the network, of the seed and of the example."""
    rng = np.random.default_rng([child.seed, len(child.role), len(child.block or "")])
    effect = {"parent": 0.0, "parent-continued": -0.2, "placebo": -0.2, "reinit": 0.6, "child": 0.1}[child.role]
    examples = np.random.default_rng(9).gamma(2.0, size=EXAMPLES)
    return 3.0 + effect + examples + 0.05 * child.seed + rng.normal(0.0, 0.2, EXAMPLES)


def test_losses_are_those_of_paired_tests(segmenter: nt.Network, tmp_path: Path) -> None:
    study = nt.own_training(segmenter, tmp_path / "run", metric=METRIC, examples=EXAMPLES, seeds=4)
    children = list(study.children())
    assert children[0].role == "parent" and not children[0].trains
    roles = {child.role for child in children}
    assert roles == {"parent", "parent-continued", "placebo", "reinit", "child"}
    for child in children:
        study.record(child, made_up(child))
    assert not list(study.children()) and len(list(study.children(again=True))) == len(children)
    analysis = study.analysis
    by = {(child.role, child.block, child.seed): study.values(child) for child in children}
    for cell in analysis["cells"]:
        # The error is lower for the better network: loss = child - control, by seed and example.
        rows = np.stack([by["child", cell["block"], seed] - by["parent-continued", None, seed] for seed in range(4)])
        loss = cell["loss"]
        np.testing.assert_allclose(loss["mean"], rows.mean(), rtol=1e-9)
        np.testing.assert_allclose(loss["values"], rows.mean(1), rtol=1e-9)
        np.testing.assert_allclose((loss["se"], loss["df"]), crossed(rows), rtol=1e-9)
        half = stats.t.ppf(0.975, loss["df"]) * loss["se"]
        np.testing.assert_allclose(loss["interval"], [rows.mean() - half, rows.mean() + half], rtol=1e-6)
        below = stats.t.cdf((rows.mean() - METRIC.margin) / loss["se"], loss["df"])
        assert cell["verdict"] == ("negligible" if below < 0.05 else "loss"), below
        np.testing.assert_allclose(cell["value"], np.mean([by["child", cell["block"], s] for s in range(4)]), rtol=1e-12)
    placebo = next(control for control in analysis["controls"] if control["role"] == "placebo")
    assert placebo["p_equivalent"] < 0.05
    reinit = [control for control in analysis["controls"] if control["role"] == "reinit"]
    assert all(control["loss"]["mean"] > 0.5 for control in reinit)
    assert analysis["f1"]["verdict"] == "equivalent" and analysis["f2"]["overall"]["verdict"] == "recovered"
    text = repr(study)
    assert "px" in text and "F3" in text and "error (lower is better) of 40 test examples" in " ".join(text.split())
    assert "<iframe" in study._repr_html_() and "error" in study.save(tmp_path / "report.html").read_text()
    frame = study.to_frame()
    assert len(frame) == len(children)
    np.testing.assert_allclose(frame["value"], [study.values(trial).mean() for trial in frame["id"]], rtol=1e-12)


def crossed(rows: np.ndarray) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean of a two-way random layout (Searle et al. 1992; Satterthwaite 1946)."""
    n, m = rows.shape
    grand, units, images = rows.mean(), rows.mean(1), rows.mean(0)
    ms_u = m * ((units - grand) ** 2).sum() / (n - 1)
    ms_i = n * ((images - grand) ** 2).sum() / (m - 1)
    ms_e = ((rows - units[:, None] - images[None] + grand) ** 2).sum() / ((n - 1) * (m - 1))
    total = max(ms_u + ms_i - ms_e, ms_u, ms_i)
    df = total**2 / (ms_u**2 / (n - 1) + ms_i**2 / (m - 1) + ms_e**2 / ((n - 1) * (m - 1)))
    return float(np.sqrt(total / (n * m))), float(df)


def test_children_are_modules_that_train(segmenter: nt.Network, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (64, 1, 8, 8), np.uint8)
    study = nt.own_training(
        segmenter, tmp_path / "run", metric=METRIC, examples=4, seeds=2, images=images, inits=["least-squares", "random"],
        controls=["parent-continued", "placebo", "reinit", "drop"],
    )  # fmt: skip
    x = torch.randn(4, 1, 8, 8)
    weights: dict[tuple[str | None, str | None, int], torch.Tensor] = {}
    for child in study.children():
        module = child.module()
        outputs = module(x)
        assert outputs.shape == (4, 1, 8, 8)
        np.testing.assert_allclose(
            outputs.detach().numpy().transpose(0, 2, 3, 1).reshape(4, -1), child.network().outputs(x.numpy()), rtol=1e-4, atol=1e-5
        )
        if child.role in ("parent", "parent-continued", "placebo"):
            np.testing.assert_allclose(outputs.detach().numpy(), segmenter.to_torch()(x).detach().numpy(), rtol=1e-6, atol=1e-6)
        if child.trains:
            outputs.square().mean().backward()
            assert all(part.grad is not None and part.grad.isfinite().all() for part in module.parameters())
        if child.role == "child":
            assert child.network().parameters < segmenter.parameters
            name = next(name for name, _ in module.named_parameters() if child.block in name)
            weights[child.block, child.init, child.seed] = module.get_parameter(name)
    blocks = {block for block, _, _ in weights}
    for block in blocks:
        assert torch.equal(weights[block, "least-squares", 0], weights[block, "least-squares", 1])
        assert not torch.equal(weights[block, "random", 0], weights[block, "random", 1])


def test_predictions_are_scored(segmenter: nt.Network, tmp_path: Path) -> None:
    targets = np.arange(6.0)
    score = lambda predictions, targets: np.abs(predictions - targets)  # noqa: E731
    # The block ends with a module without weights, an activation.
    blocks = {"middle": ("middle.1", "middle.4")}
    study = nt.own_training(segmenter, tmp_path / "run", metric=METRIC, score=score, targets=targets, blocks=blocks)
    child = next(study.children())
    study.record(child, predictions=torch.arange(6.0).numpy() + 2.0)
    np.testing.assert_array_equal(study.values(child), np.full(6, 2.0))
    # The same call continues the study; a run that was opened shows it, but has no parent to build children of.
    again = nt.own_training(segmenter, tmp_path / "run", metric=METRIC, examples=6, blocks=blocks)
    assert [block["block"] for block in again.analysis["blocks"]] == ["middle"]
    assert next(again.children()).trial != child.trial
    opened = nt.open_run(tmp_path / "run")
    assert isinstance(opened, nt.OwnTraining) and opened.analysis["recorded"] == 1
    with pytest.raises(nt.NettriageError, match=r"call own_training\(…\) with this folder again"):
        next(opened.children()).module()


def test_what_cannot_be_judged_is_refused(segmenter: nt.Network, tmp_path: Path) -> None:
    def start(folder: str = "run", network: nt.Network = segmenter, **changes: object) -> nt.OwnTraining:
        return nt.own_training(network, tmp_path / folder, **{"metric": METRIC, "examples": 5, **changes})  # type: ignore[arg-type]

    study = start()
    first, second, third = list(study.children())[:3]
    values = np.arange(5.0)
    study.record(first, values)
    study.record(first, values)
    for given, words in [
        ((second, values[:4]), "4 values of error, but the study has 5 test examples"),
        ((second, np.append(values[:4], np.nan)), "error of test example 4 is NaN"),
        ((second, np.append(np.inf, values[:4])), "error of test example 0 is inf"),
        ((second, values[None]), r"values of shape \(1, 5\)"),
        (("nonsense", values), "no trial of .* has this id"),
        ((first, values + 1), "has other values of error already"),
        ((second, None), "give values, or predictions"),
    ]:
        with pytest.raises(nt.NettriageError, match=words):
            study.record(*given)  # type: ignore[arg-type]
    with pytest.raises(nt.NettriageError, match="predictions need a score"):
        study.record(second, predictions=values)
    study.failed(second, "the loss became NaN")
    assert study.analysis["failed"] == 1
    study.record(second, values)
    assert study.analysis["failed"] == 0
    with pytest.raises(nt.NettriageError, match="has its values already"):
        study.failed(second, "too late")
    with pytest.raises(nt.NettriageError, match="another plan, which differs in .*metric.margin"):
        start(metric=nt.Metric("error", "lower", 0.4, "px"))
    for changes, words in [
        ({"metric": nt.Metric("error", "smaller", 0.5)}, 'use "higher" or "lower"'),
        ({"metric": nt.Metric("error", "lower", 0.0)}, "margin is 0"),
        ({"metric": nt.Metric("", "lower", 1.0)}, "name is not empty"),
        ({"examples": 1}, "give at least 2"),
        ({"examples": None}, "number of test examples is missing"),
        ({"inits": ["least-squares"]}, "init least-squares is computed from images"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8), "inits": ["least-squares"]}, "images"),
        ({"controls": ["nothing"]}, "controls='nothing'"),
        ({"schemes": 1}, "schemes"),
    ]:
        expected = TypeError if "schemes" in changes else nt.NettriageError
        with pytest.raises(expected, match=words):
            start("other", **changes)
        assert not (tmp_path / "other").exists()
    assert study.values(third) is None


def test_the_command_line_reports_it(segmenter: nt.Network, tmp_path: Path) -> None:
    import subprocess
    import sys

    study = nt.own_training(segmenter, tmp_path / "run", metric=METRIC, examples=EXAMPLES, seeds=2)
    for child in study.children():
        study.record(child, made_up(child))
    text = "import sys, nettriage._command; sys.exit(nettriage._command.main())"

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=False)

    done = command("report", str(tmp_path / "run"), "--json", str(tmp_path / "own.json"))
    assert done.returncode == 0, done.stderr
    written, ours = json.loads((tmp_path / "own.json").read_text()), study.analysis
    assert written["cells"] == ours["cells"] and written["f1"] == ours["f1"]
    assert command("report", str(tmp_path / "run")).returncode == 0 and (tmp_path / "run" / "report.html").exists()
    assert "0 of 0" in command("status", str(tmp_path / "run")).stdout
    refused = command("report", str(tmp_path / "run"), "--parquet", str(tmp_path / "x.parquet"))
    assert refused.returncode == 2 and "has no --parquet" in refused.stderr
