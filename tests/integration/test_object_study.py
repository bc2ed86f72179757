"""A study whose run directory and cache are in an object store: the same bytes, whatever fails, from any machine."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cxrdist.run.object_store import open_store
from cxrdist.study import layout
from tests.integration.conftest import (
    DEADLINE,
    STUDY,
    SWEEP,
    Workplace,
    decided,
    free_ports,
    run_here,
    wait_for,
    wait_until,
)
from tests.integration.object_server import ObjectServer, Request, server

EPOCHS = ["--set", "training.epochs=40"]

__all__ = ["server"]


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> dict[str, bytes]:
    """Results of the study in a folder."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "study.yaml").write_text(STUDY.format(manifest=phantoms / "manifest.csv"))
    place = Workplace(folder, phantoms, shared_cache)
    status, output = run_here(*place.arguments(*EPOCHS))
    assert status == 0, output
    return place.results("run")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands work on a machine of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))


def arguments(place: Workplace, server: ObjectServer, *more: str, executor: str = "inline") -> list[str]:
    """Arguments of `cxrdist run` with everything in the bucket."""
    name = place.folder.name
    where = ["--images", str(place.images), "--run-dir", server.location(f"{name}/run"), "--executor", executor]
    return ["run", str(place.study), *where, "--set", f"execution.cache={server.location(f'{name}/cache')}", *more]


def results(place: Workplace, server: ObjectServer) -> dict[str, bytes]:
    """Read every prediction and table from the bucket."""
    store = open_store(server.location(f"{place.folder.name}/run"))
    names = [n for n in store.names("") if re.fullmatch(r"jobs/.*/predictions\.parquet|report/tables/.*", n)]
    return {name: store.read_bytes(name) for name in names}


def sometimes(request: Request, seen: dict[str, int]) -> str:
    """Fail about one request in eight, each in its own way, and none for ever."""
    seen[request.key] = seen.get(request.key, 0) + 1
    number = sum(seen.values())
    if number % 8 or seen[request.key] % 4 == 3:
        return ""
    return ("refused", "late", "cut" if request.method == "GET" else "refused")[number // 8 % 3]


@pytest.mark.long
def test_a_study_in_a_bucket_that_fails_gives_the_bytes_of_one_in_a_folder(
    workplace: Workplace, server: ObjectServer, in_a_folder: dict[str, bytes]
) -> None:
    seen: dict[str, int] = {}
    server.faults.clear()
    with server.failing(lambda request: sometimes(request, seen)):
        status, output = workplace.run(*arguments(workplace, server, *EPOCHS))
    assert status == 0, output
    assert results(workplace, server) == in_a_folder
    assert {fault for _, fault in server.faults} == {"refused", "late", "cut"}
    place = f"s3://studies/{workplace.folder.name}/run"
    assert f"report: {place}/report/index.html" in output
    run_dir = server.location(f"{workplace.folder.name}/run")
    assert b"<html" in open_store(run_dir).read_bytes("report/index.html")[:200]
    status, output = run_here("status", run_dir)
    assert (status, "4 of 4 done" in output) == (0, True), output
    status, output = run_here("report", run_dir)
    assert (status, f"report: {place}/report/index.html" in output) == (0, True), output
    status, output = workplace.run(*arguments(workplace, server, *EPOCHS))
    assert status == 0, output
    assert f"Nothing to train: all 4 fold jobs of {place} were done before." in output


def test_a_study_whose_driver_died_is_continued_by_another_machine(
    workplace: Workplace, server: ObjectServer, in_a_folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(server.location(f"{workplace.folder.name}/run"))
    process = workplace.start(*arguments(workplace, server, *EPOCHS))
    done = wait_for(process, lambda: "".join(n for n in store.names("jobs") if n.endswith("done.json")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=DEADLINE)
    marks = {name: store.read_bytes(name) for name in store.names("jobs") if name.endswith("done.json")}
    assert done
    assert len(marks) < 4

    shutil.rmtree(workplace.folder / "machine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace.folder / "another"))
    server.requests.clear()
    status, output = workplace.run(*arguments(workplace, server, *EPOCHS))
    assert status == 0, output
    assert results(workplace, server) == in_a_folder
    assert {name: store.read_bytes(name) for name in marks} == marks, "what was done was done again"
    # It decoded nothing: the shards came from the bucket.
    assert not [r for r in server.requests if r.method == "PUT" and "/shards/" in r.key]


@pytest.mark.long
def test_a_sweep_in_a_bucket_decides_what_one_in_a_folder_decides(workplace: Workplace, server: ObjectServer) -> None:
    study = workplace.study.read_text().replace("views: [whole, segmented]", "views: [whole]")
    workplace.study.write_text(study + SWEEP)
    status, output = workplace.run(*workplace.arguments("--set", "training.epochs=6"))
    assert status == 0, output
    run = workplace.folder / "run"
    in_a_folder = decided({str(p.relative_to(run)): p.read_bytes() for p in run.glob("sweep/**/*.json")})
    assert len([name for name in in_a_folder if name.endswith("choice.json")]) == 2

    status, output = workplace.run(*arguments(workplace, server, "--set", "training.epochs=6"))
    assert status == 0, output
    store = open_store(server.location(f"{workplace.folder.name}/run"))
    assert decided({n: store.read_bytes(n) for n in store.names("sweep") if n.endswith(".json")}) == in_a_folder
    # Of what the searches took, in seconds, no two runs are sure to say the same.
    timed = "report/tables/sweep_cost."
    tables = {name: data for name, data in results(workplace, server).items() if not name.startswith(timed)}
    assert tables == {name: data for name, data in workplace.results("run").items() if not name.startswith(timed)}


@pytest.mark.long
def test_a_bucket_that_stops_answering_ends_in_a_sentence_and_the_study_continues(
    workplace: Workplace, server: ObjectServer, in_a_folder: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrdist.run.object_store.PATIENCE_SECONDS", 1.0)
    begun = []

    def gone(request: Request) -> str:
        begun.extend([request] if "/jobs/" in request.key else [])
        return "refused" if len(begun) > 40 else ""

    with server.failing(gone):
        status, output = run_here(*arguments(workplace, server, *EPOCHS))
    assert status == 1
    assert "has not answered for 1 s" in output
    assert "the same command continues" in output
    assert "Traceback" not in output
    # The process that signed lives on: it is this one.
    store = open_store(server.location(f"{workplace.folder.name}/run"))
    store.remove(*store.names(layout.DRIVERS))
    status, output = workplace.run(*arguments(workplace, server, *EPOCHS))
    assert status == 0, output
    assert results(workplace, server) == in_a_folder


@contextmanager
def cluster_without_a_shared_disk(hidden: Path, machine: Path) -> Iterator[str]:
    """Run a head without CPUs and a machine of two that sees nothing of a folder; give the head's address."""
    temporary = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    ray = str(Path(sys.executable).parent / "ray")
    port, dashboard, agent, other_agent = free_ports(4)
    token = temporary / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    ports = ["--min-worker-port=0", "--max-worker-port=0", "--block"]
    head = [ray, "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    head += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}", "--num-cpus=0", *ports]
    worker = [ray, "start", f"--address=127.0.0.1:{port}", f"--dashboard-agent-listen-port={other_agent}"]
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    apart = ["unshare", "--mount", "bash", "-c", script, "bash", str(hidden), *worker, "--num-cpus=2", *ports]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command, own in ((head, environment), (apart, {**environment, "XDG_CACHE_HOME": str(machine)})):
            log = (temporary / f"{len(processes)}.log").open("wb")
            with log:
                processes.append(subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True))
            wait_until(lambda: _answers(port), DEADLINE)
        yield f"127.0.0.1:{port}"
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
        # Its processes have sessions of their own, and its folder in their arguments.
        subprocess.run(["/usr/bin/pkill", "-9", "-f", str(temporary)], check=False)
        patch.undo()
        shutil.rmtree(temporary, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def can_unshare() -> bool:
    """Return whether this user may hide folders from a process."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.skipif(not can_unshare(), reason="this user may not hide folders from a process (unshare --mount)")
def test_driver_and_workers_need_no_disk_in_common(
    workplace: Workplace, server: ObjectServer, in_a_folder: dict[str, bytes], phantoms: Path
) -> None:
    # Study file, images, the driver's cache: all in this folder, which the worker's machine does not see.
    images = workplace.folder / "images"
    shutil.copytree(phantoms, images)
    workplace.study.write_text(STUDY.format(manifest=images / "manifest.csv"))
    place = Workplace(workplace.folder, images, workplace.cache)
    machine = Path(tempfile.mkdtemp(prefix="cxrdist-machine-"))
    server.requests.clear()
    try:
        with cluster_without_a_shared_disk(workplace.folder, machine) as address:
            more = ["--address", address, "--workers", "2", *EPOCHS]
            status, output = place.run(*arguments(place, server, *more, executor="ray"))
        assert status == 0, output
        assert results(place, server) == in_a_folder
        fetched = [r.key for r in server.requests if r.method == "GET" and re.search(r"/shards/.*/part-", r.key)]
        assert len(fetched) == 1, "two lanes of one machine, and the shard was not fetched once"
        assert list(machine.rglob("shards/*/index.json"))
    finally:
        shutil.rmtree(machine, ignore_errors=True)
