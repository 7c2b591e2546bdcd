"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import _nettriage
from ._nettriage import NettriageError

if TYPE_CHECKING:
    from ._dataset import Dataset
    from ._network import Network

#: Seconds between looks at a study that is to stop.
_POLL = 0.2

#: How often a task is run again whose node or process was lost.
_RETRIES = 3

#: The study of this process, by its plan: tasks that follow each other share what is in memory.
_workers: dict[str, tuple[_nettriage.TrialWorker, tempfile.TemporaryDirectory[str]]] = {}


def submitter(
    network: Network, data: Dataset, name: str, keys: str, options: Mapping[str, Any] | None
) -> Callable[[list[int], str], Iterator[tuple[int, dict[str, bytes] | str] | None]]:
    """What submits the trials of a study to the cluster.

    Parameters
    ----------
    network, data, name, keys
        The study, as ``triage`` has it.
    options : mapping, optional
        Options of a task, such as ``{"num_cpus": 2}``.
    """
    try:
        import ray
    except ImportError as error:
        raise NettriageError('executor="ray" needs Ray: pip install ray') from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError as error:
            raise NettriageError("no Ray cluster runs here: `ray start --head` starts one, ray.init(address) connects to one") from error
    own = {"num_cpus": 1, "max_retries": _RETRIES, **(options or {})}
    task = ray.remote(_trial).options(**own)
    threads = max(int(own["num_cpus"]), 1)

    def submit(trials: list[int], plan: str) -> Iterator[tuple[int, dict[str, bytes] | str] | None]:
        # The driver owns them, so they outlive every other node.
        study = ray.put((network._inner.packed(), data._inner.packed(), name, keys))
        running = {task.remote(study, plan, trial, threads): trial for trial in trials}
        try:
            while running:
                ready, _ = ray.wait(list(running), timeout=_POLL)
                if not ready:
                    yield None
                for reference in ready:
                    trial = running.pop(reference)
                    try:
                        yield trial, ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        yield trial, f"its task failed: {_last_line(error)}"
                    except ray.exceptions.RayError as error:
                        yield trial, f"its node or process was lost {own['max_retries'] + 1} times: {_last_line(error)}"
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    return submit


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _trial(study: tuple[Any, Any, str, str], plan: str, trial: int, threads: int) -> dict[str, bytes]:
    """Run one trial in the process of a task."""
    if plan not in _workers:
        _workers.clear()
        network, data, name, keys = study
        folder = tempfile.TemporaryDirectory(prefix="nettriage-")
        inner = _nettriage.TrialWorker(
            _nettriage.Network.unpacked(*network), _nettriage.Dataset.from_arrays(*data), name, keys, plan, folder.name, threads
        )
        _workers[plan] = (inner, folder)
    return _workers[plan][0].trial(trial)
