"""Scans: which ranges of layers could be one layer, without training."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _device, _nettriage, _page
from ._dataset import Dataset
from ._network import Network
from ._progress import Progress, ProgressFunction

if TYPE_CHECKING:
    import pandas


def options(
    images: int,
    judged: int | None,
    ranges: str,
    substitutes: Sequence[str] | None,
    methods: Sequence[str] | None,
    threads: int | None,
    device: str,
    precision: str,
) -> dict[str, Any]:
    """The options of a scan as the binding takes them."""
    return {
        "images": images,
        "judged": judged,
        "ranges": ranges,
        "substitutes": None if substitutes is None else list(substitutes),
        "methods": None if methods is None else list(methods),
        "threads": threads,
        "device": _device.options(device, precision),
    }


class Scan:
    """A finished scan. In a notebook it shows itself as a triangle over all ranges of layers.

    Attributes
    ----------
    data : dict
        Everything that was measured, as ``nettriage scan --json`` writes it.
    """

    def __init__(self, inner: _nettriage.Scan) -> None:
        self._inner = inner
        self.data: dict[str, Any] = json.loads(inner.json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scan:
        """Read a scan that :meth:`save` or ``nettriage scan --json`` wrote.

        Parameters
        ----------
        path : path
            A JSON file.
        """
        return cls(_nettriage.Scan.from_json(Path(path).read_text(encoding="utf-8")))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the scan: a page if the name ends in ``.html``, JSON otherwise.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        Path
            The file.
        """
        return _page.save(self._inner.html() if Path(path).suffix == ".html" else self._inner.json() + "\n", path)

    def to_frame(self) -> pandas.DataFrame:
        """One row per candidate: a range of layers and the single layer in its place.

        Returns
        -------
        pandas.DataFrame
            Columns: range, block, first and last layer, substitute, method, accuracy (0 to 1), drop in percentage points with its
            95% interval, agreement (0 to 1) or, of outputs that are numbers, the lowest R² (r2), parameters, macs and
            milliseconds before and after.
        """
        import pandas

        rows = []
        for entry in self.data["ranges"]:
            for candidate in entry["candidates"]:
                drop = candidate.get("drop") or [None, None, None]
                rows.append(
                    {
                        "range": entry["name"],
                        "block": entry.get("block"),
                        "first": entry["layers"][0],
                        "last": entry["layers"][1],
                        "substitute": candidate["substitute"],
                        "method": candidate["method"],
                        "accuracy": candidate.get("accuracy"),
                        "drop_pp": drop[0],
                        "drop_low": drop[1],
                        "drop_high": drop[2],
                        "agreement": candidate.get("agreement"),
                        "r2": candidate.get("r2"),
                        "parameters": entry["cost"]["parameters"],
                        "parameters_after": candidate["cost"]["parameters"],
                        "macs": entry["cost"]["macs"],
                        "macs_after": candidate["cost"]["macs"],
                        "milliseconds": entry["milliseconds"],
                        "milliseconds_after": candidate["milliseconds"],
                    }
                )
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        return self._inner.text()

    def _repr_html_(self) -> str:
        return _page.in_notebook(self._inner.html())


def scan(
    network: Network,
    data: Dataset,
    *,
    images: int = 2000,
    judged: int | None = None,
    ranges: str = "all",
    substitutes: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "f32",
    progress: bool | ProgressFunction = True,
) -> Scan:
    """Find which ranges of layers could be one layer, without training.

    Parameters
    ----------
    network : Network
        A trained network.
    data : Dataset
        The images that it was trained for.
    images : int
        Training images to which weights are fitted; their labels are not used.
    judged : int, optional
        Other training images, by which the accuracy is measured; at most 1,000 and a fifth of the training images if not given.
    ranges : {"all", "stages", "blocks"}
        Which ranges: all within a stage and beyond, those within a stage, or the blocks of a study.
    substitutes : sequence of str, optional
        Single layers to try, such as ``"conv3x3"`` or ``"drop"``.
    methods : sequence of str, optional
        How weights are solved.
    threads : int, optional
        Threads; one per core if not given.
    device : str
        What networks run on: ``"cpu"``, or a device of the installed PyTorch: ``"torch:cuda"``, ``"torch:mps"``, ``"torch:cpu"``.
    precision : {"f32", "tf32", "bf16"}
        Of convolutions and matrix products on a device of PyTorch.
    progress : bool or callable
        A bar, nothing, or a function of (phase, done, of).

    Returns
    -------
    Scan
        The scan.

    Raises
    ------
    NettriageError
        A network that does not fit the images, or in which no range could be one layer.
    """
    chosen = options(images, judged, ranges, substitutes, methods, threads, device, precision)
    with Progress(progress) as bar:
        return Scan(_nettriage.scan(network._inner, data._inner, chosen, bar.function))
