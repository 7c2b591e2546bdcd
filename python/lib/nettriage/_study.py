"""Studies: what each block costs after training, with intervals."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _device, _frame, _nettriage, _page, _ray, _toml
from ._dataset import Dataset
from ._nettriage import NettriageError
from ._network import Network
from ._progress import Progress, ProgressFunction

if TYPE_CHECKING:
    import pandas


class Study:
    """The results of a study. In a notebook it shows its report.

    Attributes
    ----------
    analysis : dict
        Criticality of every block with its interval, controls, costs and findings, as ``nettriage report --json`` writes it.
    """

    def __init__(self, inner: _nettriage.Report) -> None:
        self._inner = inner
        self.analysis: dict[str, Any] = json.loads(inner.json())

    @property
    def folder(self) -> Path:
        """The run's folder, which the command line opens too."""
        return Path(self._inner.folder)

    def report(self) -> Study:
        """The report, which a notebook shows."""
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report: a page if the name ends in ``.html``, the analysis as JSON otherwise."""
        return _page.save(self._inner.html() if Path(path).suffix == ".html" else self._inner.json(), path)

    def to_frame(self) -> pandas.DataFrame:
        """One row per trial and control, as ``nettriage report --csv`` writes them."""
        return _frame.from_csv(self._inner.csv())

    def best(self, block: str) -> Network:
        """The best child of a block.

        Of the substitute, init and scheme whose validation accuracy is highest in the mean over seeds, the child whose own is highest.

        Parameters
        ----------
        block : str
            A block's name, such as ``"block3"``.
        """
        return self.child(self._inner.best(block))

    def child(self, trial: str) -> Network:
        """The child of a trial, by the trial's id; it is computed again if its weights were not kept."""
        return Network(self._inner.child(trial))

    def __repr__(self) -> str:
        return self._inner.text()

    def _repr_html_(self) -> str:
        return _page.in_notebook(self._inner.html())


def triage(
    network: Network,
    data: Dataset,
    folder: str | os.PathLike[str] | None = None,
    *,
    blocks: Mapping[str, tuple[str, str]] | None = None,
    substitutes: Sequence[str] | None = None,
    inits: Sequence[str] = ("random", "least-squares"),
    schemes: Sequence[str] | None = None,
    seeds: int = 3,
    epochs: float | None = None,
    images: int | None = None,
    rate: float | Literal["auto"] = 0.02,
    batch: int = 128,
    validation: int | None = None,
    pad: int = 0,
    flip: bool = False,
    name: str = "study",
    children: Mapping[str, Any] | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    workers: int | None = None,
    executor: str = "threads",
    ray_options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    precision: str = "f32",
    progress: bool | ProgressFunction = True,
) -> Study:
    """Measure what each block costs: replace it by a single layer, train, and compare with controls of the same budget.

    The same call in the same folder continues a study that was interrupted, by Ctrl-C for example.

    Parameters
    ----------
    network : Network
        A trained network.
    data : Dataset
        The images that it was trained for.
    folder : path, optional
        Where records are written; ``runs/``, the study's name and a hash of its plan, as on the command line, if not given.
    blocks : mapping, optional
        Names of blocks, each with the names of its first and last layer, or of the modules that these are; the default blocks if not
        given.
    substitutes : sequence of str, optional
        What takes a block's place: ``conv3x3``, ``conv1x1``, ``conv3x3g4``, ``separable3x3``, ``linear``, each also with ``+skip``;
        ``attention``, ``mlp``. If not given, ``conv3x3``; ``separable3x3`` for a network of depthwise convolutions, ``conv1x1+skip`` for
        one with attention.
    inits : sequence of str
        First weights: ``random``, ``xavier``, ``first``, ``last``, ``mean``, ``collapse``, ``least-squares``, ``identity``.
    schemes : sequence of str, optional
        How children are trained, such as ``global`` or ``hint-then-distill``; all built-in ones if not given.
    seeds : int
        Repetitions, each with its own order of images, augmentation and random weights.
    epochs, images : float, int, optional
        How long a child is trained: passes over the training images, or images; one epoch if neither is given.
    rate : float or "auto"
        Largest learning rate. With ``"auto"`` a range test finds it, once for all trainings of the study.
    batch : int
        Images in a step.
    validation : int, optional
        Training images set apart; a tenth if not given.
    pad, flip : int, bool
        Augmentation: padding before a random crop, in pixels, and random mirroring.
    name : str
        Letters, digits, ``-`` and ``_``.
    children : mapping, optional
        Every other key of ``[children]`` in a study file, such as ``{"margin": 0.5}``.
    controls : mapping, optional
        Schemes of the controls ``parent_continued``, ``placebo``, ``reinit`` and ``drop``; all if not given.
    workers : int, optional
        Trials at a time; one per core if not given.
    executor : {"threads", "ray"}
        Where trials run: in this process, or as tasks of a Ray cluster, whose number the cluster's resources bound. The records are
        the same. Tasks whose node is lost run again on another.
    ray_options : mapping, optional
        Options of a Ray task, such as ``{"num_cpus": 2, "num_gpus": 1}``; one core if not given.
    device, precision : str
        As of :func:`scan`; with Ray, trials run on processors.
    progress : bool or callable
        A bar, nothing, or a function of (phase, done, of).

    Returns
    -------
    Study
        The results.

    Raises
    ------
    NettriageError
        Settings that contradict each other; a folder that holds another study.
    """
    train = data._inner.counts[0]
    validation = max(train // 10, 1) if validation is None else validation
    if epochs is not None and images is not None:
        raise NettriageError("epochs and images are two forms of one budget: give one")
    if images is None:
        images = max(round((1.0 if epochs is None else epochs) * max(train - validation, 0)), 1)
    keys = [
        _toml.table("data", {"name": data.name, "validation": validation, "augment": {"pad": pad, "flip": flip}}),
        _toml.table("children", {"seeds": seeds, "images": images, "rate": rate, "batch": batch, **(children or {})}),
        _toml.table(
            "triage",
            {**({} if substitutes is None else {"substitutes": substitutes}), "inits": inits, **({} if schemes is None else {"schemes": schemes}), **(controls or {})},
        ),
    ]
    keys.append(network._blocks(blocks))
    text = "\n".join(keys)
    if executor not in ("threads", "ray"):
        raise NettriageError(f'executor={executor!r}: use "threads" or "ray"')
    if executor == "ray" and device != "cpu":
        raise NettriageError(f'device="{device}": tasks of Ray compute on processors; leave it out, or use executor="threads"')
    chosen = _device.options(device, precision)
    ray = _ray.submitter(network, data, name, text, ray_options) if executor == "ray" else None
    with Progress(progress) as bar:
        inner = _nettriage.triage(network._inner, data._inner, None if folder is None else Path(folder), name, text, chosen, workers, bar.function, ray)
    study = Study(inner)
    if study.analysis["failed"]:
        import warnings

        warnings.warn(
            f"{study.analysis['failed']} trials failed; `nettriage status {study.folder}` tells why, `nettriage retry` opens them again",
            stacklevel=2,
        )
    return study
