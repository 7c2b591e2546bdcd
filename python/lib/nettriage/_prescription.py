"""Prescriptions: a smaller network within bounds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _nettriage, _page
from ._dataset import Dataset
from ._nettriage import NettriageError
from ._network import Network
from ._progress import Progress, ProgressFunction
from ._scan import Scan, options

if TYPE_CHECKING:
    import pandas
    import torch


class Prescription:
    """A smaller network, and how it was chosen and measured. In a notebook it shows its page.

    Attributes
    ----------
    network : Network
        The smaller network.
    data : dict
        Predicted beside measured figures.
    """

    def __init__(self, inner: _nettriage.Prescription) -> None:
        self._inner = inner
        self.network = Network(inner.network)
        self.data: dict[str, Any] = json.loads(inner.json())

    def to_torch(self) -> torch.nn.Module:
        """The smaller network as a PyTorch module, to train further."""
        return self.network.to_torch()

    def to_source(self, path: str | os.PathLike[str] | None = None, name: str = "Network") -> str:
        """The smaller network as the source of a PyTorch module, without its weights."""
        return self.network.to_source(path, name)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network (``.onnx`` or ``.safetensors``, with its model card beside it) or the page (``.html``)."""
        path = Path(path)
        if path.suffix == ".html":
            return _page.save(self._inner.html(), path)
        self.network.save(path)
        path.with_suffix(".md").write_text(self.card(), encoding="utf-8")
        return path

    def card(self) -> str:
        """The model card, in Markdown."""
        return self._inner.card("nettriage.prescribe(…)")

    def __repr__(self) -> str:
        return self._inner.text()

    def _repr_html_(self) -> str:
        return _page.in_notebook(self._inner.html())


class Front:
    """Networks of several sizes, from the largest to the smallest: a sequence of :class:`Prescription`. In a notebook it shows its page.

    Attributes
    ----------
    networks : list of Prescription
        The networks with their figures.
    data : dict
        The figures of all networks, and the plans that the scan predicts.
    """

    def __init__(self, inner: _nettriage.Front) -> None:
        self._inner = inner
        self.networks = [Prescription(network) for network in inner.networks()]
        self.data: dict[str, Any] = json.loads(inner.json())

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, index: int) -> Prescription:
        return self.networks[index]

    def __iter__(self) -> Iterator[Prescription]:
        return iter(self.networks)

    def to_frame(self) -> pandas.DataFrame:
        """One row for each network: accuracy (0 to 1) and drop (percentage points, with its 95% interval) on the test set, or without
        labels on the evaluation images; cost; measured time as a share of the original's; what is replaced; and whether another
        network is at least as good in both loss and time, and better in one."""
        import pandas

        rows = []
        for number, (network, dominated) in enumerate(zip(self.networks, self._inner.dominated(), strict=True), 1):
            data = network.data
            figures = data["test"][1] if data["test"] else data["judged"]
            drop, low, high = figures["drop"] or (None, None, None)
            ratio, ratio_low, ratio_high = data["time_ratio"]
            rows.append(
                {
                    "network": number,
                    "accuracy": figures["accuracy"],
                    "drop": drop,
                    "drop_low": low,
                    "drop_high": high,
                    "parameters": figures["cost"]["parameters"],
                    "macs": figures["cost"]["macs"],
                    "time_ratio": ratio,
                    "time_ratio_low": ratio_low,
                    "time_ratio_high": ratio_high,
                    "milliseconds": figures["milliseconds"],
                    "replaced": ", ".join(f"{part['range']}: {part['substitute']}" for part in data["replaced"]),
                    "dominated": dominated,
                }
            )
        return pandas.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the networks, or the page (``.html``). ``small.onnx`` (or ``small.safetensors``) gives ``small-1.onnx``, the largest, to
        ``small-N.onnx``, each with its model card beside it. Returns the files."""
        path = Path(path)
        if path.suffix == ".html":
            return [_page.save(self._inner.html(), path)]
        return [
            network.save(path.with_name(f"{path.stem}-{number}{path.suffix}"))
            for number, network in enumerate(self.networks, 1)
        ]

    def __repr__(self) -> str:
        return self._inner.text()

    def _repr_html_(self) -> str:
        return _page.in_notebook(self._inner.html())


def prescribe(
    network: Network,
    data: Dataset,
    *,
    max_drop: float | str | None = None,
    max_latency: float | str | None = None,
    max_macs: float | str | None = None,
    max_parameters: float | str | None = None,
    training: str | bool = "distill-global",
    training_images: int | None = None,
    epochs: float | None = None,
    rate: float | None = None,
    recipe: str = "one-cycle",
    seed: int = 0,
    attempts: int | None = None,
    workers: int = 1,
    work: str | os.PathLike[str] | None = None,
    scan: Scan | None = None,
    images: int = 2000,
    judged: int | None = None,
    substitutes: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "f32",
    progress: bool | ProgressFunction = True,
) -> Prescription:
    """Choose, build, fine-tune and measure a smaller network.

    Parameters
    ----------
    network : Network
        A trained network.
    data : Dataset
        The images that it was trained for.
    max_drop : float or str, optional
        Most accuracy to lose, in percentage points: 0.5 or ``"0.5pp"``.
    max_latency : float or str, optional
        Most time of a forward pass: a share of the original's (0.6 or ``"60%"``) or ``"2ms"``.
    max_macs, max_parameters : float or str, optional
        Most multiply-accumulates or parameters: a share (0.6 or ``"60%"``) or a number as a string (``"40e6"``).
    training : str or False
        Scheme of the fine-tuning, or False for weights in closed form alone.
    training_images : int, optional
        Images that training sees; twice the training set, at most 40,000, if not given.
    epochs : float, optional
        Passes over the training images, in place of `training_images`.
    rate : float, optional
        Largest learning rate; 0.01 if not given, with the recipe ``"adam-w"`` 0.0005.
    recipe : str
        Schedule and regularisation: ``"one-cycle"``, or ``"cosine"``: a warm-up, then a cosine, without weight decay of
        biases and norms, with smoothed labels and averaged weights; or ``"adam-w"``: the same with AdamW, for transformers and ConvNeXts.
    seed : int
        Seed of the order of images.
    attempts : int, optional
        Most networks that are built in search of the best. If not given: under `max_drop` 5, and up to 10 while none keeps it;
        under limits on cost alone the first that keeps them.
    workers : int
        Networks that are built and trained at a time; they share `threads`. As many are chosen before any of them is known, so
        another number may build others.
    work : str or path, optional
        Folder that keeps the scan, measured times, networks and checkpoints: the same call continues there after an
        interruption.
    scan : Scan, optional
        A scan of this network, instead of making one.
    images, judged, substitutes, methods, threads, device, precision
        As of :func:`scan`. Substitutes may also be ``"narrow1"`` to ``"narrow99"``, a residual unit with that percentage
        of its inner channels.
    progress : bool or callable
        A bar, nothing, or a function of (phase, done, of).

    Returns
    -------
    Prescription
        The smaller network with its figures.

    Raises
    ------
    NettriageError
        No bound; bounds that no network satisfies; both `training_images` and `epochs`; a `work` folder of another
        network or data set.
    """
    bounds = {
        "max_drop_pp": _points(max_drop),
        "max_latency_ms": _bound("max_latency", max_latency, "ms"),
        "max_macs": _bound("max_macs", max_macs, ""),
        "max_parameters": _bound("max_parameters", max_parameters, ""),
        "attempts": attempts,
    }
    chosen = bounds | _training(training, training_images, epochs, rate, recipe, seed, workers, work)
    scanning = options(images, judged, "all", substitutes, methods, threads, device, precision)
    with Progress(progress) as bar:
        inner = _nettriage.prescribe(
            network._inner, data._inner, chosen, scanning, None if scan is None else scan._inner, bar.function
        )
    return Prescription(inner)


def prescribe_front(
    network: Network,
    data: Dataset,
    networks: int = 5,
    *,
    workers: int = 1,
    max_latency: float | str | None = None,
    max_macs: float | str | None = None,
    max_parameters: float | str | None = None,
    training: str | bool = "distill-global",
    training_images: int | None = None,
    epochs: float | None = None,
    rate: float | None = None,
    recipe: str = "one-cycle",
    seed: int = 0,
    work: str | os.PathLike[str] | None = None,
    scan: Scan | None = None,
    images: int = 2000,
    judged: int | None = None,
    substitutes: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "f32",
    progress: bool | ProgressFunction = True,
) -> Front:
    """Choose, build, fine-tune and measure networks of several sizes.

    They are evenly spaced by predicted cost: the one that is limited, or time. What each of them loses is a result, so there is no
    limit on it.

    Parameters
    ----------
    network : Network
        A trained network.
    data : Dataset
        The images that it was trained for.
    networks : int
        Networks to make, 2 to 100; there are fewer if fewer selections of ranges satisfy the limits.
    workers : int
        Networks that are built and trained at a time. They share `threads`, and are the same with any number of workers. Times are
        measured when all are trained, one network at a time.
    max_latency, max_macs, max_parameters : float or str, optional
        As of :func:`prescribe`: limits that every network meets.
    training, training_images, epochs, rate, recipe, seed, work, scan
        As of :func:`prescribe`.
    images, judged, substitutes, methods, threads, device, precision
        As of :func:`scan`, with the substitutes of :func:`prescribe`.
    progress : bool or callable
        A bar, nothing, or a function of (phase, done, of).

    Returns
    -------
    Front
        The networks with their figures.

    Raises
    ------
    NettriageError
        Limits that no network satisfies; both `training_images` and `epochs`; a `work` folder of another network or data set.
    """
    if not 2 <= networks <= 100:
        raise NettriageError(f"networks = {networks}: give 2 to 100")
    bounds = {
        "max_drop_pp": None,
        "max_latency_ms": _bound("max_latency", max_latency, "ms"),
        "max_macs": _bound("max_macs", max_macs, ""),
        "max_parameters": _bound("max_parameters", max_parameters, ""),
        "attempts": None,
    }
    chosen = bounds | _training(training, training_images, epochs, rate, recipe, seed, workers, work)
    scanning = options(images, judged, "all", substitutes, methods, threads, device, precision)
    own = None if scan is None else scan._inner
    with Progress(progress) as bar:
        inner = _nettriage.prescribe_front(
            network._inner, data._inner, networks, chosen, scanning, own, bar.function
        )
    return Front(inner)


def _training(
    training: str | bool,
    training_images: int | None,
    epochs: float | None,
    rate: float | None,
    recipe: str,
    seed: int,
    workers: int,
    work: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """How networks are trained, and where they are kept."""
    if not 1 <= workers <= 1024:
        raise NettriageError(f"workers = {workers}: give 1 to 1024")
    if epochs is not None and not 0 < epochs <= 1e5:
        raise NettriageError(f"epochs = {epochs}: give a number above 0 and at most 100,000")
    if epochs is not None and training_images is not None:
        raise NettriageError("training_images and epochs both say how long training is: give one")
    return {
        "scheme": "distill-global" if training is True else training or None,
        "training_images": training_images,
        "epochs": epochs,
        "rate": rate,
        "recipe": recipe,
        "seed": seed,
        "workers": workers,
        "work": None if work is None else str(Path(work)),
    }


def _bound(key: str, value: float | str | None, unit: str) -> tuple[float, bool] | None:
    """A bound as (value, whether it is a share)."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            text = value.strip()
            if text.endswith("%"):
                return _share(key, float(text[:-1]) / 100.0)
            return float(text.removesuffix(unit) if unit else text), False
        return _share(key, float(value))
    except ValueError:
        absolute = f'"2{unit}"' if unit else '"40e6"'
        raise NettriageError(f'{key}={value!r}: give a share such as 0.6 or "60%", or {absolute}') from None


def _points(value: float | str | None) -> float | None:
    """Percentage points."""
    if value is None:
        return None
    try:
        return float(value.strip().removesuffix("pp") if isinstance(value, str) else value)
    except ValueError:
        raise NettriageError(f'max_drop={value!r}: give percentage points, such as 0.5 or "0.5pp"') from None


def _share(key: str, share: float) -> tuple[float, bool]:
    if not 0.0 < share <= 1.0:
        raise NettriageError(f"{key}={share:g}: a share of the original's is above 0 and at most 1; write absolute bounds as strings")
    return share, True
