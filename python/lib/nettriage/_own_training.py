"""Studies whose children the user's own program trains and measures, by a metric of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _frame, _nettriage, _page, _toml
from ._dataset import Dataset
from ._nettriage import NettriageError
from ._network import Network

if TYPE_CHECKING:
    import pandas
    import torch

#: Names of the controls that a study may leave out, and their keys in a study.
_CONTROLS = {"parent-continued": "parent_continued", "placebo": "placebo", "reinit": "reinit", "drop": "drop"}


@dataclass(frozen=True)
class Metric:
    """A number per test example, by which networks are compared.

    Attributes
    ----------
    name : str
        Such as ``"IoU"``.
    better : {"higher", "lower"}
        Which values are better.
    margin : float
        Losses below this do not matter, in the unit of the values.
    unit : str
        The unit of the values, such as ``"px"``; empty if they have none.
    """

    name: str
    better: str
    margin: float
    unit: str = ""


class Child:
    """A network to train: a child, or a control.

    Attributes
    ----------
    trial : str
        The trial's id.
    role : str
        ``"child"``, or a control: ``"parent"``, ``"parent-continued"``, ``"placebo"``, ``"reinit"`` or ``"drop"``.
    block : str or None
        The block that is replaced, re-initialised or dropped.
    substitute, init : str or None
        The single layer in the block's place, and its first weights.
    seed : int
        Trials are paired by it: let it decide the order of the data, augmentation and whatever else is random.
    trains : bool
        False for the parent as it is, which is only measured.
    """

    def __init__(self, inner: _nettriage.MetricStudy, spec: Mapping[str, Any]) -> None:
        self._inner = inner
        self.trial: str = spec["id"]
        self.role: str = spec["role"]
        self.block: str | None = spec["block"]
        self.substitute: str | None = spec["substitute"]
        self.init: str | None = spec["init"]
        self.seed: int = spec["seed"]
        self.trains: bool = self.role != "parent"

    def network(self) -> Network:
        """The network with the weights that training starts from."""
        return Network(self._inner.network(self.trial))

    def module(self) -> torch.nn.Module:
        """The network as a trainable module, a new one at every call."""
        return self.network().to_torch()

    def __repr__(self) -> str:
        what = [self.role, self.block, self.substitute, self.init, f"seed {self.seed}"]
        return f"Child({', '.join(part for part in what if part)}: {self.trial})"


class OwnTraining:
    """A study whose children your program trains; made by :func:`own_training`. In a notebook it shows its report."""

    def __init__(
        self,
        inner: _nettriage.MetricStudy,
        score: Callable[[Any, Any], Any] | None = None,
        targets: Any = None,
    ) -> None:
        self._inner = inner
        self._score = score
        self._targets = targets

    @property
    def folder(self) -> Path:
        """The run's folder, which ``nettriage report``, ``status`` and ``serve`` open too."""
        return Path(self._inner.folder)

    def children(self, *, again: bool = False) -> Iterator[Child]:
        """The children and controls without a result so far, in the order of the plan; the parent as it is comes first.

        Parameters
        ----------
        again : bool
            Whether those with values, or with a failure, come too.
        """
        for trial in json.loads(self._inner.trials_json()):
            if again or trial["state"] is None:
                yield Child(self._inner, trial["spec"])

    def record(self, child: Child | str, values: npt.ArrayLike | None = None, *, predictions: Any = None) -> None:
        """Store what a trained child achieves, one value per test example.

        Parameters
        ----------
        child : Child or str
            The child, or its trial's id.
        values : array, (N,), optional
            The metric's value for every test example, in the same order for every child.
        predictions : any, optional
            In place of values: what the ``score`` of :func:`own_training` turns into them, with the targets.

        Raises
        ------
        NettriageError
            Another number of values than test examples, values that are not finite, an unknown trial, a trial with other values.
        """
        trial = child.trial if isinstance(child, Child) else child
        if (values is None) == (predictions is None):
            raise NettriageError("record(child, …): give values, or predictions=…")
        if predictions is not None:
            if self._score is None:
                raise NettriageError("predictions need a score: own_training(…, score=…, targets=…)")
            values = self._score(predictions, self._targets)
        self._inner.record(trial, _per_example(values).tolist())

    def failed(self, child: Child | str, reason: str) -> None:
        """Store that a child could not be trained, such as one whose loss became NaN. Its block then has no verdict.

        Parameters
        ----------
        child : Child or str
            The child, or its trial's id.
        reason : str
            Why, for the reader.
        """
        self._inner.fail(child.trial if isinstance(child, Child) else child, reason)

    def values(self, child: Child | str) -> npt.NDArray[np.float64] | None:
        """The values that were stored for a child; ``None`` if there are none.

        Parameters
        ----------
        child : Child or str
            The child, or its trial's id.
        """
        values = self._inner.values(child.trial if isinstance(child, Child) else child)
        return None if values is None else np.asarray(values, np.float64)

    @property
    def analysis(self) -> dict[str, Any]:
        """Loss of every block with its interval, controls, costs and findings, from the records that exist now."""
        return json.loads(self._inner.results()[0])  # type: ignore[no-any-return]

    def report(self) -> OwnTraining:
        """The report, which a notebook shows."""
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report: a page if the name ends in ``.html``, the analysis as JSON otherwise."""
        text = self._inner.results()
        return _page.save(text[2] if Path(path).suffix == ".html" else text[0], path)

    def to_frame(self) -> pandas.DataFrame:
        """One row per recorded trial: what it is, the mean of its values, its cost."""
        return _frame.from_csv(self._inner.results()[1])

    def __repr__(self) -> str:
        return self._inner.results()[3]

    def _repr_html_(self) -> str:
        return _page.in_notebook(self._inner.results()[2])


def own_training(
    network: Network,
    folder: str | os.PathLike[str],
    *,
    metric: Metric,
    examples: int | None = None,
    targets: Any = None,
    score: Callable[[Any, Any], Any] | None = None,
    images: Any = None,
    blocks: Mapping[str, tuple[str, str]] | None = None,
    substitutes: Sequence[str] | None = None,
    inits: Sequence[str] = ("random",),
    seeds: int = 3,
    controls: Sequence[str] = ("parent-continued", "placebo", "reinit"),
    name: str = "study",
) -> OwnTraining:
    """Plan a study that your own program trains: any task, any loss, any metric that has a value per test example.

    nettriage builds the children and controls, and judges the values that come back: pairing by seed and example, intervals, findings
    F1 and F2, controls. F3 and recovery need learning curves and are left out. The same call in the same folder continues a study.

    Parameters
    ----------
    network : Network
        A trained network; its output need not be classes.
    folder : path
        Where records are written.
    metric : Metric
        What is measured.
    examples : int, optional
        Number of test examples; that of ``targets`` if not given.
    targets : any, optional
        What ``score`` compares predictions with; its length is the number of test examples.
    score : callable, optional
        ``score(predictions, targets)`` returns the metric's value for every test example.
    images : Dataset or array, (N, C, H, W), optional
        Training images as bytes, for inits that are computed from images, such as ``least-squares``; see :class:`Dataset`.
    blocks : mapping, optional
        Names of blocks, each with the names of its first and last layer, or of the modules that these are; the default blocks if not
        given.
    substitutes : sequence of str, optional
        What takes a block's place: ``conv3x3``, ``conv1x1``, ``conv3x3g4``, ``separable3x3``, ``linear``, each also with ``+skip``;
        ``attention``, ``mlp``. If not given, ``conv3x3``; ``separable3x3`` for a network of depthwise convolutions, ``conv1x1+skip`` for
        one with attention.
    inits : sequence of str
        First weights: ``random``, ``xavier``, ``first``, ``last``, ``mean``, ``collapse``, ``least-squares``, ``identity``.
    seeds : int
        Repetitions.
    controls : sequence of str
        ``parent-continued`` (the fine-tuned parent, which children are compared with), ``placebo``, ``reinit``, ``drop``.
    name : str
        Letters, digits, ``-`` and ``_``.

    Returns
    -------
    OwnTraining
        The study; train its :meth:`OwnTraining.children`, give each to :meth:`OwnTraining.record`.

    Raises
    ------
    NettriageError
        A metric that cannot judge, settings that contradict each other, a folder that holds another study.
    """
    if examples is None:
        if targets is None:
            raise NettriageError("the number of test examples is missing: own_training(…, examples=…), or targets=…")
        examples = len(targets)
    elif targets is not None and len(targets) != examples:
        raise NettriageError(f"examples={examples}, but there are {len(targets)} targets")
    if (score is None) != (targets is None):
        raise NettriageError("score and targets go together")
    unknown = [control for control in controls if control not in _CONTROLS]
    if unknown:
        raise NettriageError(f"controls={unknown[0]!r}: use {', '.join(_CONTROLS)}")
    if images is not None and not isinstance(images, Dataset):
        pixels = images
        labels = np.zeros(len(pixels), np.int64)
        mean, std = (network.mean, network.std) if network.mean else (None, None)
        images = Dataset((pixels, labels), (pixels[:1], labels[:1]), mean=mean, std=std, name="images", labelled=False)
    left_out: dict[str, list[str]] = {key: [] for control, key in _CONTROLS.items() if control not in controls}
    keys = [
        _toml.table("data", {"name": "none", "validation": 1}),
        _toml.table("children", {"seeds": seeds, "images": 1, "rate": 0.01}),
        _toml.table("triage", {**({} if substitutes is None else {"substitutes": substitutes}), "inits": inits, **left_out}),
    ]
    keys.append(network._blocks(blocks))
    options = {**asdict(metric), "margin": float(metric.margin), "examples": examples}
    inner = _nettriage.MetricStudy.create(
        network._inner, Path(folder), name, "\n".join(keys), options, None if images is None else images._inner
    )
    return OwnTraining(inner, score, targets)


def _per_example(values: Any) -> npt.NDArray[np.float64]:
    """Values as an array of one axis."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise NettriageError(f"values of shape {array.shape}: give one number per test example, (N,)")
    return array
