"""Which blocks of a trained network matter, and which could be a single layer?

A :class:`Network` holds a graph with its weights, a :class:`Dataset` holds images with labels. :func:`scan` answers without training,
:func:`triage` by training every replacement beside controls of the same budget, :func:`prescribe` builds a smaller network.
"""

from ._dataset import Dataset
from ._nettriage import NettriageError, __version__
from ._network import Network
from ._prescription import Prescription, prescribe
from ._scan import Scan, scan
from ._study import Study, open_run, triage

__all__ = [
    "Dataset",
    "NettriageError",
    "Network",
    "Prescription",
    "Scan",
    "Study",
    "__version__",
    "open_run",
    "prescribe",
    "scan",
    "triage",
]
