"""The launcher's files pass Ray's own checks, and the commands for one's own machines run, on loopback."""

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.integration.conftest import free_ports, wait_until

pytestmark = pytest.mark.alone

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FILES = ("cloud/aws.yaml", "cloud/gcp.yaml", "onprem/local.yaml")
SECONDS = 240.0


def prepared(name: str) -> dict[str, Any]:
    """Return a launcher's file as Ray completes it, valid or not."""
    config: dict[str, Any] = prepare_config(yaml.safe_load((CLUSTER / name).read_text()))
    return config


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    config = prepared(name)
    validate_config(config)
    # Ray's defaults install another Ray, and show the dashboard to the network.
    assert "pip install" not in str(config)
    assert "0.0.0.0" not in str(config)
    assert any("--dashboard-host=127.0.0.1" in line for line in config["head_start_ray_commands"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("key", "value"), [("max_worker", 4), ("docker", {"img": "x"}), ("file_mounts", [])])
def test_ray_refuses_what_it_does_not_know(name: str, key: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared(name), key: value})


@pytest.mark.parametrize("name", FILES[:2])
def test_gpu_machines_are_spot_machines_that_come_and_go_and_the_head_is_neither(name: str) -> None:
    config = prepared(name)
    head, gpu = (config["available_node_types"][kind] for kind in ("head", "gpu"))
    assert (config["head_node_type"], head["resources"]) == ("head", {"CPU": 0})
    assert (gpu["min_workers"], gpu["max_workers"], gpu["resources"]["GPU"]) == (0, config["max_workers"], 1)
    assert re.search("spot", str(gpu["node_config"]), flags=re.IGNORECASE)
    assert not re.search("spot", str(head["node_config"]), flags=re.IGNORECASE)
    assert config["provider"]["use_internal_ips"] is True


@dataclass(frozen=True)
class Machines:
    """Two machines of one user, both of them this one."""

    home: Path
    port: int
    others: tuple[int, int]

    def block(self, title: str) -> str:
        """Return the commands of the README that follow a line, with this machine's address and port in them."""
        lines = iter((CLUSTER / "onprem" / "README.md").read_text().splitlines())
        while not next(lines).startswith(title):
            pass
        indented = itertools.dropwhile(lambda line: not line.startswith("    "), lines)
        found = [line.strip() for line in itertools.takewhile(lambda line: line.startswith("    "), indented)]
        kept = "\n".join(line for line in found if not line.startswith(("rsync", "cxrdist")))
        # What is run here must not be a text that was cut wrongly: `ray stop` ends other clusters of this machine, too.
        assert kept
        assert "`" not in kept
        assert "ray stop" not in kept
        return kept.replace("6379", str(self.port)).replace("HEAD", "127.0.0.1")

    @property
    def environment(self) -> dict[str, str]:
        """A login's environment, with cxrdist's own activated."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
        }

    def run(self, commands: str, **environment: str) -> tuple[int, str]:
        """Run commands as a shell does; return the exit status and what they printed."""
        done = subprocess.run(
            ["bash", "-c", commands],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def started(self, commands: str, *more: str) -> Iterator[None]:
        """Run commands that end in `ray start`, kept in the foreground so that they can be ended without `ray stop`."""
        foreground = f"exec {' '.join(['ray', 'start', '--block', *more])}"
        *before, start = commands.splitlines()
        script = "\n".join([*before, start.replace("ray start", foreground, 1)])
        with (self.home / f"{len(more)}.log").open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", script], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=60)


@pytest.fixture
def machines() -> Iterator[Machines]:
    port, *others = free_ports(3)
    # Not pytest's folder: the paths of Ray's sockets must stay short.
    with tempfile.TemporaryDirectory(prefix="cxr-", ignore_cleanup_errors=True) as home:
        yield Machines(Path(home), port, (others[0], others[1]))


def test_the_commands_of_the_readme_make_a_cluster_that_its_token_guards(machines: Machines) -> None:
    assert machines.run(machines.block("A token first")) == (0, "")
    token = machines.home / ".ray" / "auth_token"
    assert (token.parent.stat().st_mode & 0o777, token.stat().st_mode & 0o777) == (0o700, 0o600)
    written = token.read_text()
    assert len(written.strip()) == 64

    dashboard, client = machines.others
    head = (f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--num-cpus=0")
    see = machines.block("On the head, see")
    nodes = functools.partial(machines.run, see)
    with (
        machines.started(machines.block("On the head, with"), *head, f"--temp-dir={machines.home}/h"),
        machines.started(machines.block("On every other machine"), "--num-cpus=1", f"--temp-dir={machines.home}/w"),
    ):
        wait_until(lambda: nodes()[1].count(" node_") == 2, SECONDS)
        assert token.stat().st_mode & 0o777 == 0o600
        assert token.read_text() == written
        status, output = machines.run(see, RAY_AUTH_TOKEN="0" * 64)
        assert status != 0
        assert " node_" not in output
        status, output = machines.run(see.replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"))
        assert status != 0
        assert " node_" not in output


def test_ray_does_not_start_without_a_token(machines: Machines) -> None:
    # Kept in the foreground: should it start, it ends.
    start = machines.block("On the head, with").replace("ray start", "timeout 60 ray start --block")
    status, output = machines.run(start)
    assert status != 0
    assert "no authentication token was found" in output
