"""Runs on disk."""

from __future__ import annotations

import os
from pathlib import Path

from . import _nettriage
from ._own_training import OwnTraining
from ._study import Study


def open_run(folder: str | os.PathLike[str]) -> Study | OwnTraining:
    """Open the run in a folder, made here or by the command line.

    Parameters
    ----------
    folder : path
        The run's folder.

    Returns
    -------
    Study or OwnTraining
        By what the run is. The children of an :class:`OwnTraining` can be built only by the call that made it.
    """
    own = _nettriage.MetricStudy.open(Path(folder))
    return Study(_nettriage.open_run(Path(folder))) if own is None else OwnTraining(own)
