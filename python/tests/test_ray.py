"""Trials as tasks of a Ray cluster of several nodes while a node is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nettriage as nt

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

SETTINGS: dict[str, Any] = {
    "schemes": ["local", "global"], "inits": ["least-squares", "random"], "seeds": 2, "images": 2000, "rate": 0.02, "validation": 200,
    "children": {"keep": "network"},
}  # fmt: skip


@pytest.fixture
def cluster() -> Any:
    # A node that is gone is noticed within seconds.
    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": checks})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def records(folder: Path) -> dict[str, Any]:
    """Every record without its timings, by the trial's id."""
    found = {}
    for path in sorted((folder / "trials").glob("*.json")):
        payload = json.loads(path.read_text())["payload"]
        found[path.stem] = {key: value for key, value in payload.items() if key != "clock"}
    return found


def test_records_are_the_local_runs_though_a_node_is_killed(
    network: nt.Network, digits: nt.Dataset, tmp_path: Path, cluster: Any
) -> None:
    killed = []

    def kill_one(phase: str, done: int, of: int) -> None:
        if phase == "trials" and done >= 3 and not killed:
            node = next(iter(cluster.worker_nodes))
            killed.append(node)
            # At once, as a node that loses power.
            cluster.remove_node(node, allow_graceful=False)

    nt.triage(network, digits, tmp_path / "ray", executor="ray", progress=kill_one, **SETTINGS)
    nt.triage(network, digits, tmp_path / "local", progress=False, **SETTINGS)
    theirs, ours = records(tmp_path / "ray"), records(tmp_path / "local")
    assert killed and len(ours) > 20
    assert theirs == ours
    for path in (tmp_path / "local" / "weights").iterdir():
        assert path.read_bytes() == (tmp_path / "ray" / "weights" / path.name).read_bytes(), path.name
    # The folder is one like any other: the same call finds nothing to do, and without Ray, too.
    again = nt.triage(network, digits, tmp_path / "ray", progress=False, **SETTINGS)
    assert again.analysis["recorded"] == again.analysis["planned"] == len(ours)


def test_wrong_executors_are_refused(network: nt.Network, digits: nt.Dataset, tmp_path: Path) -> None:
    with pytest.raises(nt.NettriageError, match='use "threads" or "ray"'):
        nt.triage(network, digits, tmp_path / "run", executor="dask", **SETTINGS)
    assert not (tmp_path / "run").exists()
