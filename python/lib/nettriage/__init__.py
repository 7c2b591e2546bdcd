"""Which blocks of a trained network matter, and which could be a single layer?

A :class:`Network` holds a graph with its weights, a :class:`Dataset` holds images with labels. :func:`scan` answers without training,
:func:`triage` by training every replacement beside controls of the same budget, :func:`prescribe` builds a smaller network,
:func:`prescribe_front` several of different sizes.
:func:`own_training` hands out the replacements for a training loop and a metric of your own.
"""

from ._dataset import Dataset
from ._nettriage import NettriageError, __version__
from ._network import Network
from ._own_training import Child, Metric, OwnTraining, own_training
from ._prescription import Front, Prescription, prescribe, prescribe_front
from ._run import open_run
from ._scan import Scan, scan
from ._study import Study, triage

__all__ = [
    "Child",
    "Dataset",
    "Front",
    "Metric",
    "NettriageError",
    "Network",
    "OwnTraining",
    "Prescription",
    "Scan",
    "Study",
    "__version__",
    "open_run",
    "own_training",
    "prescribe",
    "prescribe_front",
    "scan",
    "triage",
]
