"""A study goes to a cluster as a job: its output comes back, and so does its exit status."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrdist.config import load_study
from cxrdist.errors import UserError
from cxrdist.run.job_package import pack
from tests.integration.conftest import STUDY, STUDY_EPOCHS, assert_one_sentence, free_ports

pytestmark = pytest.mark.alone

START_SECONDS = 120


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of the job server of a cluster of one machine, which asks for a token."""
    port, dashboard, agent = free_ports(3)
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"),
            *(f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--num-cpus=2", f"--temp-dir={folder}"),
            *(f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"),
        ],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_server(f"{address}/api/version", process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        # Its processes have sessions of their own, and its folder in their arguments.
        subprocess.run(["/usr/bin/pkill", "-9", "-f", str(folder)], check=False)
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_server(url: str, process: "subprocess.Popen[bytes]") -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        assert process.poll() is None, "the head ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            # Without a token it refuses, so it is there.
            if error.code == 401:
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError("no job server within two minutes")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("submitted")
    text = STUDY.format(manifest=phantoms / "manifest.csv").replace(STUDY_EPOCHS, "epochs: 4")
    text = text.replace("views: [whole, segmented]", "views: [whole]")
    text = text.replace("threads: 1", f"threads: 1, workers: 2, cache: {shared_cache}")
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def command(*arguments: str) -> tuple[int, str]:
    """Run the command line in a new process: Ray reads once for all whether there are tokens."""
    done = subprocess.run(
        [sys.executable, "-m", "cxrdist", *arguments], capture_output=True, text=True, timeout=400, check=False
    )
    return done.returncode, done.stdout + done.stderr


def submitted(head: str, study: Path, phantoms: Path, *more: str, run: str = "run") -> list[str]:
    where = ["--images", str(phantoms), "--run-dir", str(study.parent / run)]
    return ["submit", str(study), "--to", head, *where, *more]


def test_a_submitted_study_is_followed_to_its_end(head: str, study: Path, phantoms: Path) -> None:
    status, output = command(*submitted(head, study, phantoms))
    assert status == 0, output
    assert "whole-vgg16/fold-0  done" in output
    assert "report: " in output
    assert (study.parent / "run/report/index.html").is_file()
    status, listed = command("jobs", "list", "--to", head)
    assert status == 0
    (name,) = (line.split()[0] for line in listed.splitlines() if " tiny " in line)
    assert "succeeded" in listed
    status, log = command("jobs", "logs", name, "--to", head)
    assert status == 0
    assert "whole-vgg16/fold-1  done" in log


@pytest.mark.long
def test_an_audit_is_submitted_too_and_shown_where_the_cluster_is_not(head: str, study: Path, phantoms: Path) -> None:
    status, output = command(*submitted(head, study, phantoms, run="audited"))
    assert status == 0, output
    status, output = command(*submitted(head, study, phantoms, "--command", "audit", run="audited"))
    assert status == 0, output
    assert "job tiny-audit-" in output
    run_dir = study.parent / "audited"
    made = {path: path.stat().st_mtime_ns for path in run_dir.rglob("done.json")}
    assert len(made) > 2
    status, output = command("audit", str(run_dir), "--executor", "inline")
    assert status == 0, output
    assert "everything but the lungs" in output
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("done.json")} == made


def test_the_job_of_a_study_that_cannot_run_gives_its_exit_status(head: str, study: Path, phantoms: Path) -> None:
    nowhere = submitted(head, study, phantoms)
    nowhere[nowhere.index("--images") + 1] = "/nowhere/at/all"
    status, output = command(*nowhere)
    assert status == 2, output
    assert "The image folder '/nowhere/at/all' does not exist" in output


@pytest.mark.long
def test_a_stopped_job_keeps_what_was_done_and_is_resumed(head: str, study: Path, phantoms: Path) -> None:
    long = ("--set", "training.epochs=20000", "--detach")
    status, output = command(*submitted(head, study, phantoms, *long, run="stopped"))
    assert status == 0, output
    name = next(word for word in output.split() if word.startswith("tiny-"))
    started = time.monotonic()
    while not list(study.parent.glob("stopped/jobs/*/*/checkpoint.safetensors")):
        assert time.monotonic() - started < START_SECONDS, command("jobs", "logs", name, "--to", head)[1]
        time.sleep(0.2)
    status, output = command("jobs", "stop", name, "--to", head)
    assert status == 0
    assert "asked to stop" in output
    status, output = command("jobs", "logs", name, "--to", head, "--follow")
    assert status != 0
    assert list(study.parent.glob("stopped/jobs/*/*/checkpoint.safetensors"))
    assert "is not running" in command("jobs", "stop", name, "--to", head)[1]


def test_a_dry_run_sends_nothing(study: Path, phantoms: Path) -> None:
    status, output = command(*submitted("http://127.0.0.1:9", study, phantoms, "--dry-run"))
    assert status == 0, output
    assert "manifest/manifest.csv" in output
    assert "nothing was sent" in output


def test_no_server_no_token_and_no_such_job_are_one_sentence_each(
    head: str, study: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_one_sentence(command(*submitted("http://127.0.0.1:9", study, phantoms)), 2, ["No Ray job server", "--to"])
    assert_one_sentence(command(*submitted("ftp://x", study, phantoms)), 2, ["--to is 'ftp://x'", "http://"])
    assert_one_sentence(command("jobs", "logs", "nobody", "--to", head), 2, ["'nobody'", "jobs there"])
    relative = submitted(head, study, phantoms)
    relative[relative.index("--run-dir") + 1] = "runs/x"
    assert_one_sentence(command(*relative), 2, ["--run-dir is 'runs/x'", "absolute path"])
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", "/nowhere")
    assert_one_sentence(command("jobs", "list", "--to", head), 2, ["asks for a token", "RAY_AUTH_MODE=token"])


def test_a_package_holds_the_study_and_its_manifest_and_no_key(
    study: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    loaded = load_study(study)
    package = pack(loaded, "/runs/1", str(phantoms))
    assert sorted(package.files) == ["manifest/manifest.csv", "study.yaml"]
    assert package.files["manifest/manifest.csv"] == (phantoms / "manifest.csv").read_bytes()
    assert b"address: auto" in package.files["study.yaml"]
    assert not any(b"0123456789abcdef" in content for content in package.files.values())
    with pytest.raises(UserError, match="absolute path"):
        pack(loaded, "runs/1", str(phantoms))
