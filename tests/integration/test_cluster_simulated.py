"""A study on a simulated cluster: every lane works, a lost node costs no result, and a new one is used."""

import json
import re
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.integration.conftest import STUDY, Workplace, wait_for

pytestmark = [pytest.mark.long, pytest.mark.alone]

NODES, GPUS = 4, 2
OUR_METRICS = ("ray_cxrdist_fold_jobs", "ray_cxrdist_epoch", "ray_cxrdist_images_per_second")


@pytest.fixture
def place(tmp_path: Path, phantoms: Path, shared_cache: Path) -> Workplace:
    """A study of twelve fold jobs."""
    text = STUDY.format(manifest=phantoms / "manifest.csv").replace("k: 2", "k: 6")
    text = text.replace("checkpoint_seconds: 0.0", "checkpoint_seconds: 0.2, resize_seconds: 5.0, device: gpu")
    (tmp_path / "study.yaml").write_text(text)
    return Workplace(tmp_path, phantoms, shared_cache)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without work of its own, and nodes of two cores with a logical GPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def groups_of_lanes(output: str) -> list[int]:
    """Return how many lanes each start of the workers had; the first lane of a new start gives back the old claims."""
    lines = re.findall(r"is ready|interrupted", output)
    sizes = [0]
    for line, following in pairwise([*lines, ""]):
        if line == "is ready":
            if following == "interrupted":
                sizes.append(0)
            sizes[-1] += 1
    return sizes


def test_a_lost_node_costs_no_result_and_a_new_one_is_used(place: Workplace, cluster: Cluster) -> None:
    nodes = [cluster.add_node(num_cpus=GPUS, num_gpus=GPUS) for _ in range(NODES)]
    arguments = place.arguments("--address", cluster.address, run_dir="ray", executor="ray")
    with place.start(*arguments) as driver:
        wait_for(driver, lambda: "all" if len(lanes_in_work(place.folder / "ray")) == NODES * GPUS else "")
        wait_for(driver, lambda: exported_metrics(cluster.address))
        cluster.remove_node(nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=GPUS, num_gpus=GPUS)
        output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    sizes = groups_of_lanes(output)
    assert len(sizes) >= 2, output
    assert sizes[-1] == NODES * GPUS, "without the new node there is room for less"
    assert "continues from its last checkpoint" in output

    status, quiet = place.run(*place.arguments("--set", "execution.device=cpu", run_dir="inline"))
    assert status == 0, quiet
    assert len([name for name in place.results("ray") if name.endswith(".parquet")]) == 12
    assert place.results("ray") == place.results("inline")


def lanes_in_work(run_dir: Path) -> set[str]:
    """Return the lanes that have trained an epoch of a fold job."""
    return {
        state["lane"]
        for path in run_dir.glob("jobs/*/*/progress.json")
        if (state := json.loads(path.read_text()))["epoch"] >= 1
    }


def exported_metrics(address: str) -> str:
    """Return "there" once every metric of ours is exported by one of the nodes."""
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    exported = ""
    for node in ray.nodes():
        try:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=5) as page:
                exported += page.read().decode()
        except OSError:
            continue
    return "there" if all(f"{name}{{" in exported for name in OUR_METRICS) else ""
