"""Scan, study and prescription."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nettriage as nt


@pytest.fixture(scope="session")
def scan(network: nt.Network, digits: nt.Dataset) -> nt.Scan:
    return nt.scan(network, digits, images=400, judged=200, progress=False)


def test_scan(scan: nt.Scan, tmp_path: Path) -> None:
    frame = scan.to_frame()
    assert len(frame) == sum(len(entry["candidates"]) for entry in scan.data["ranges"]) > 0
    assert frame["accuracy"].between(0, 1).all() and (frame["drop_low"] <= frame["drop_high"]).all()
    assert nt.Scan.load(scan.save(tmp_path / "scan.json")).data == scan.data
    assert "<html" in scan.save(tmp_path / "scan.html").read_text() and "<iframe" in scan._repr_html_()


def test_scan_is_the_command_lines(network: nt.Network, scan: nt.Scan, tmp_path: Path) -> None:
    network.save(tmp_path / "net.onnx")
    command = ["scan", str(tmp_path / "net.onnx"), "--data", "digits", "--images", "400", "--judged", "200", "--json"]
    file = tmp_path / "scan.json"
    run([*command, str(file), "-o", str(tmp_path / "scan.html")])
    theirs = json.loads(file.read_text())
    for ours, other in zip(scan.data["ranges"], theirs["ranges"], strict=True):
        for mine, candidate in zip(ours["candidates"], other["candidates"], strict=True):
            for key in ("substitute", "ridge", "error", "accuracy", "drop", "agreement"):
                assert mine[key] == candidate[key], (ours["name"], key)


def run(arguments: list[str]) -> str:
    """The command line; its standard output."""
    text = "import sys, nettriage._command; sys.exit(nettriage._command.main())"
    done = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_progress_reaches_its_end(network: nt.Network, digits: nt.Dataset) -> None:
    calls: list[tuple[str, int, int]] = []
    nt.scan(network, digits, images=200, judged=100, ranges="blocks", progress=lambda *call: calls.append(call))
    assert {"fitting", "judging", "timing"} <= {phase for phase, _, _ in calls}
    assert any(done == of for _, done, of in calls)


def test_an_exception_of_the_callback_ends_a_scan(network: nt.Network, digits: nt.Dataset) -> None:
    def stop(phase: str, done: int, of: int) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        nt.scan(network, digits, images=200, judged=100, progress=stop)


STUDY = {"schemes": ["none", "local", "global"], "inits": ["least-squares"], "seeds": 2, "images": 256, "rate": 0.02, "validation": 200}


def test_study(
    network: nt.Network, digits: nt.Dataset, tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = nt.triage(network, digits, tmp_path / "run", progress=False, **STUDY)
    assert [block["block"] for block in study.analysis["blocks"]] == list(network.blocks)
    assert study.analysis["recorded"] == study.analysis["planned"]
    # The parent as it is has a row, too.
    assert len(study.to_frame()) == study.analysis["recorded"] + 1
    assert "<html" in study.save(tmp_path / "report.html").read_text() and "<iframe" in study._repr_html_()
    block = next(iter(network.blocks))
    child = study.best(block)
    assert child.parameters < network.parameters and child.outputs(images).shape == (5, 10)
    again = nt.open_run(tmp_path / "run")
    assert again.analysis["blocks"] == study.analysis["blocks"]
    # Without a folder, the run is where the command line has its runs.
    monkeypatch.chdir(tmp_path)
    other = nt.triage(network, digits, progress=False, **{**STUDY, "schemes": ["none"], "seeds": 1})
    assert other.folder.parent == Path("runs") and other.folder.name.startswith("study-")
    assert "trials" in run(["status", str(tmp_path / "run")])
    with pytest.raises(nt.NettriageError, match="no trial"):
        study.child("nonsense")


@pytest.mark.parametrize("name", ["0", "NA"])
def test_names_of_blocks_are_text_in_a_frame(network: nt.Network, digits: nt.Dataset, tmp_path: Path, name: str) -> None:
    layers = next(iter(network.blocks.values()))
    blocks = {name: (layers[0], layers[-1])}
    study = nt.triage(network, digits, tmp_path / "run", blocks=blocks, progress=False, **{**STUDY, "schemes": ["none"], "seeds": 1})
    (named,) = study.to_frame()["block"].dropna().unique()
    assert named == name
    assert study.best(named).parameters < network.parameters


def test_a_range_test_finds_the_rate(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    study = nt.triage(network, digits, tmp_path / "run", progress=False, **{**STUDY, "rate": "auto", "schemes": ["global"], "seeds": 1})
    (test,) = study.analysis["rates"]
    assert test["of"] == "children" and 1e-5 < test["rate"] < 1
    assert study.analysis["recorded"] == study.analysis["planned"]


def test_study_is_the_command_lines_to_the_bit(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    study = nt.triage(network, digits, tmp_path / "ours", progress=False, **STUDY)
    network.save(tmp_path / "net.safetensors")
    (tmp_path / "study.toml").write_text(
        f"""
name = "study"
[data]
name = "digits"
validation = {STUDY["validation"]}
[parent]
file = "net.safetensors"
[children]
seeds = {STUDY["seeds"]}
images = {STUDY["images"]}
rate = {STUDY["rate"]}
[triage]
inits = {json.dumps(STUDY["inits"])}
schemes = {json.dumps(STUDY["schemes"])}
"""
    )
    run(["run", str(tmp_path / "study.toml"), "--out", str(tmp_path / "theirs")])
    theirs = nt.open_run(tmp_path / "theirs")
    ours, others = study.to_frame(), theirs.to_frame()
    keys = [key for key in ("role", "block", "substitute", "init", "scheme", "seed") if key in ours]
    ours, others = (frame.sort_values(keys).reset_index(drop=True) for frame in (ours, others))
    timed = [column for column in ours.columns if any(word in column for word in ("inference", "second", "latency", "micro", "milli", "id", "time", "ratio"))]
    assert len(ours.columns) - len(timed) > 15
    import pandas

    pandas.testing.assert_frame_equal(ours.drop(columns=timed), others.drop(columns=timed), check_exact=True)


def test_wrong_settings_have_the_words_of_a_study_file(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    for settings, words in [
        ({"rate": -1.0}, r"\[children\] rate is -1"),
        ({"schemes": ["globl"]}, "global"),
        ({"inits": ["nonsense"]}, "nonsense"),
        ({"children": {"curv": 3}}, "curve"),
        ({"images": 10, "epochs": 1}, "two forms of one budget"),
        ({"validation": 100000}, "100000|100,000"),
    ]:
        with pytest.raises(nt.NettriageError, match=words):
            nt.triage(network, digits, tmp_path / "wrong", progress=False, **{**STUDY, **settings})
        assert not (tmp_path / "wrong").exists()


def test_ctrl_c_stops_a_study_and_the_same_call_continues(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    settings = {**STUDY, "images": 2000, "workers": 1}
    whole = nt.triage(network, digits, tmp_path / "whole", progress=False, **settings)
    timer = threading.Timer(0.0, lambda: None)

    def interrupt_after_two(phase: str, done: int, of: int) -> None:
        nonlocal timer
        if phase == "trials" and done == 2:
            timer = threading.Timer(0.0, lambda: signal.raise_signal(signal.SIGINT))
            timer.start()

    with pytest.raises(KeyboardInterrupt):
        nt.triage(network, digits, tmp_path / "run", progress=interrupt_after_two, **settings)
        time.sleep(2)
    timer.join()
    done = nt.open_run(tmp_path / "run").analysis["recorded"]
    assert 2 <= done < whole.analysis["planned"]
    again = nt.triage(network, digits, tmp_path / "run", progress=False, **settings)
    assert measured(again) == measured(whole)


def measured(study: nt.Study) -> list[dict]:
    """The blocks without what was timed."""
    return [{key: value for key, value in block.items() if key != "saves_time"} for block in study.analysis["blocks"]]


def test_prescription(network: nt.Network, digits: nt.Dataset, scan: nt.Scan, images: np.ndarray, tmp_path: Path) -> None:
    small = nt.prescribe(network, digits, max_macs="90%", training=False, scan=scan, images=400, judged=200, progress=False)
    assert small.network.macs <= 0.9 * network.macs
    module = small.to_torch()
    assert isinstance(module, nn.Module)
    with torch.no_grad():
        found = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, small.network.outputs(images), rtol=1e-4, atol=1e-4)
    small.save(tmp_path / "small.onnx")
    assert (tmp_path / "small.md").read_text() == small.card() and "class Small" in small.to_source(name="Small")
    assert nt.Network.load(tmp_path / "small.onnx").macs == small.network.macs
    assert "<iframe" in small._repr_html_()
    for bounds, words in [
        ({}, "needs a bound"),
        ({"max_macs": "lots"}, "give a share"),
        ({"max_drop": "a bit"}, "give percentage points"),
        ({"max_macs": 40e6}, "write absolute bounds as strings"),
        ({"max_macs": "90%", "workers": 0}, "give 1 to 1024"),
    ]:
        with pytest.raises(nt.NettriageError, match=words):
            nt.prescribe(network, digits, training=False, scan=scan, progress=False, **bounds)


def test_a_prescription_continues_in_its_folder(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    def make(images: int = 400, **more: Any) -> nt.Prescription:
        work = tmp_path / "work"
        return nt.prescribe(network, digits, max_macs="90%", images=images, judged=200, attempts=1, work=work, progress=False, **more)

    first = make(epochs=0.5)
    # Half of the 1,437 training images but for the 200 that judge.
    assert "619 images" in first.data["training"] and len(list((tmp_path / "work/attempts").iterdir())) == 1
    # Everything is read: the same figures, measured times among them.
    assert make(epochs=0.5).data == first.data
    assert len(list((tmp_path / "work/attempts").iterdir())) == 1
    with pytest.raises(nt.NettriageError, match="images to fit to"):
        make(epochs=0.5, images=300)
    with pytest.raises(nt.NettriageError, match="give one"):
        make(epochs=0.5, training_images=100)


def test_a_front(network: nt.Network, digits: nt.Dataset, scan: nt.Scan, images: np.ndarray, tmp_path: Path) -> None:
    def make(workers: int, **more: Any) -> nt.Front:
        settings: dict[str, Any] = {"training_images": 256, "scan": scan, "images": 400, "judged": 200, "threads": 2, "progress": False}
        return nt.prescribe_front(network, digits, 3, workers=workers, max_macs="95%", **settings | more)

    calls: list[tuple[str, int, int]] = []
    front = make(2, progress=lambda *call: calls.append(call))
    # Plans by ascending predicted loss: those within the bound that cost less than all before. How many there are depends on the
    # weights, which PyTorch trains differently on different processors.
    costs = [plan["cost"]["macs"] for plan in front.data["plans"] if plan["replaced"] and plan["cost"]["macs"] <= 0.95 * network.macs]
    cheaper = [number for number, cost in enumerate(costs) if cost < min(costs[:number], default=cost + 1)]
    count = min(3, len(cheaper))
    assert len(front) == count >= 2 and {("attempt", number, count) for number in range(1, count + 1)} <= set(calls)
    assert any(phase == "training" and done == of for phase, done, of in calls)
    macs = [small.network.macs for small in front]
    assert 0.95 * network.macs >= macs[0] and all(larger > smaller for larger, smaller in pairwise(macs))
    frame = front.to_frame()
    assert list(frame["macs"]) == macs and list(frame["network"]) == list(range(1, count + 1))
    # The drop is the difference of the accuracies on the test set.
    before = front[0].data["test"][0]["accuracy"]
    np.testing.assert_allclose(frame["drop"], 100 * (before - frame["accuracy"]), atol=1e-9)
    dominated = [
        any(o.drop <= f.drop and o.time_ratio <= f.time_ratio and (o.drop, o.time_ratio) != (f.drop, f.time_ratio) for o in frame.itertuples())
        for f in frame.itertuples()
    ]
    assert list(frame["dominated"]) == dominated
    files = front.save(tmp_path / "small.onnx")
    assert [file.name for file in files] == [f"small-{number}.onnx" for number in range(1, count + 1)]
    assert [nt.Network.load(file).macs for file in files] == macs and (tmp_path / f"small-{count}.md").exists()
    page = front.save(tmp_path / "front.html")[0].read_text()
    assert f"{count} networks" in page and "<iframe" in front._repr_html_() and "as it is" in repr(front)
    # One at a time they are the same.
    for one, two in zip(make(1), front, strict=True):
        np.testing.assert_array_equal(one.network.outputs(images), two.network.outputs(images))
        assert one.data["judged"]["drop"] == two.data["judged"]["drop"]
    for wrong, words in [({"max_macs": "0.01%"}, "cannot be met"), ({"networks": 1}, "give 2 to 100"), ({"workers": 0}, "give 1 to 1024")]:
        with pytest.raises(nt.NettriageError, match=words):
            nt.prescribe_front(network, digits, training=False, scan=scan, progress=False, **wrong)

    def stop(phase: str, done: int, of: int) -> None:
        if phase == "training":
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        make(2, progress=stop)


def test_a_study_on_a_device_of_pytorch(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"schemes": ["global"], "inits": ["least-squares"], "seeds": 1, "images": 64, "validation": 100, "progress": False}
    study = nt.triage(network, digits, tmp_path / "run", device="torch:cpu", workers=1, **settings)
    assert study.analysis["recorded"] == study.analysis["planned"] > 0
    # The engine is part of the plan, so another one does not continue it.
    with pytest.raises(nt.NettriageError):
        nt.triage(network, digits, tmp_path / "run", **settings)
    for wrong, words in [({"device": "gpu"}, "torch:cuda"), ({"device": "torch:cpu", "executor": "ray"}, "compute on processors")]:
        with pytest.raises(nt.NettriageError, match=words):
            nt.triage(network, digits, tmp_path / "none", **wrong, **settings)


def test_the_command_line_comes_with_the_package() -> None:
    assert "Usage" in run(["--help"])
    text = "import sys, nettriage._command; sys.exit(nettriage._command.main())"
    done = subprocess.run([sys.executable, "-c", text, "inspect", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
