"""Whatever is killed while a sweep runs on Ray, the same trials are made and the same settings chosen."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.integration.conftest import STUDY, STUDY_EPOCHS, SWEEP, Workplace, decided, ray_processes, wait_for

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> Workplace:
    """A study with a sweep of two searches, whose trials take a second or so."""
    folder = tmp_path_factory.mktemp("interrupted")
    text = STUDY.format(manifest=phantoms / "manifest.csv").replace("views: [whole, segmented]", "views: [whole]")
    text = text.replace(STUDY_EPOCHS, "epochs: 300").replace("checkpoint_seconds: 0.0", "checkpoint_seconds: 0.1")
    (folder / "study.yaml").write_text(text + SWEEP)
    return Workplace(folder, phantoms, shared_cache)


def arguments(place: Workplace, run_dir: str, executor: str, *more: str) -> list[str]:
    return ["sweep", *place.arguments(*more, run_dir=run_dir, executor=executor)[1:]]


def outcome(place: Workplace, run_dir: str) -> dict[str, object]:
    """Everything that a sweep decided."""
    run = place.folder / run_dir
    return decided({str(p.relative_to(run)): p.read_bytes() for p in run.glob("sweep/**/*.json")})


def trials_done(place: Workplace, run_dir: str) -> int:
    return len([p for p in (place.folder / run_dir).glob("sweep/*/*/trials/*.json") if "progress" not in p.name])


def trial_processes() -> list[int]:
    return ray_processes("ImplicitFunc")


@pytest.fixture(scope="module")
def undisturbed_sweep(place: Workplace) -> dict[str, object]:
    """What the sweep decides inline, without disturbance."""
    status, output = place.run(*arguments(place, "quiet", "inline"))
    assert status == 0, output
    found = outcome(place, "quiet")
    assert len([name for name in found if "/trials/" in name]) == 12
    assert len([name for name in found if name.endswith("choice.json")]) == 2
    return found


@pytest.mark.long
def test_killing_the_driver_and_then_a_trial_changes_nothing(
    place: Workplace, undisturbed_sweep: dict[str, object]
) -> None:
    with place.start(*arguments(place, "run", "ray")) as driver:
        wait_for(driver, lambda: "some" if trials_done(place, "run") >= 3 else "")
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    before = trials_done(place, "run")
    assert before < 12
    with place.start(*arguments(place, "run", "ray")) as driver:
        wait_for(driver, lambda: "more" if trials_done(place, "run") > before and trial_processes() else "")
        os.kill(trial_processes()[0], signal.SIGKILL)
        output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    assert f"{before} of them done before" in output
    assert outcome(place, "run") == undisturbed_sweep


def test_ctrl_c_ends_a_sweep_in_order(place: Workplace) -> None:
    with place.start(*arguments(place, "stopped", "ray")) as driver:
        wait_for(driver, lambda: "some" if trials_done(place, "stopped") else "")
        os.kill(driver.pid, signal.SIGINT)
        output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert output.rstrip().endswith("Interrupted; what was done is kept, and the same command continues.")
    assert "Traceback" not in output


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """A cluster of two simulated nodes with a core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.long
def test_losing_a_node_changes_nothing(
    place: Workplace, undisturbed_sweep: dict[str, object], two_nodes: Cluster
) -> None:
    second = two_nodes.add_node(num_cpus=1)
    with place.start(*arguments(place, "nodes", "ray", "--address", two_nodes.address)) as driver:
        wait_for(driver, lambda: "both" if len(trial_processes()) >= 2 and trials_done(place, "nodes") >= 2 else "")
        time.sleep(0.2)
        two_nodes.remove_node(second, allow_graceful=False)
        output, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, output
    assert outcome(place, "nodes") == undisturbed_sweep
