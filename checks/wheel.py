#!/usr/bin/env python3
"""Whether an installed wheel works on its own: the digits are scanned, triaged and prescribed, without PyTorch.

    python checks/wheel.py          # in an environment with the wheel and pandas
"""

import tempfile
from pathlib import Path

import numpy as np

import nettriage as nt


def network(folder: Path) -> nt.Network:
    """A trained network of a few layers: the parent of a study of the command line."""
    from nettriage import _nettriage

    study = folder / "study.toml"
    study.write_text(
        """
name = "wheel"
[data]
name = "digits"
validation = 200
[parent]
arch = "vgg"
plan = [[8, 8], [16, 16]]
[parent.training]
epochs = 2
rate = 0.05
[children]
seeds = 1
images = 64
rate = 0.02
[triage]
inits = ["random"]
schemes = ["none"]
"""
    )
    assert _nettriage.main(["nettriage", "run", str(study), "--out", str(folder / "parent")]) == 0
    return nt.Network.load(next((folder / "parent" / "weights").glob("parent-*.safetensors")))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = nt.Dataset("digits")
        parent = network(folder)
        images, labels = data.arrays("test")
        x = (images.astype(np.float32) / 255 - 0.3) / 0.35
        assert parent.outputs(x).shape == (len(labels), 10)
        scan = nt.scan(parent, data, images=300, judged=200, progress=False)
        assert len(scan.to_frame()) > 0
        study = nt.triage(parent, data, folder / "run", seeds=2, images=256, schemes=["global"], inits=["least-squares"], progress=False)
        assert study.analysis["recorded"] == study.analysis["planned"] and "<html" in study.save(folder / "report.html").read_text("utf-8")
        small = nt.prescribe(parent, data, max_macs="90%", training=False, scan=scan, progress=False)
        assert small.network.macs <= 0.9 * parent.macs
        print(study)
        print(f"{small.network.macs} of {parent.macs} multiply-accumulates")


if __name__ == "__main__":
    main()
