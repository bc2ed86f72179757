"""The batch script on a SLURM of this test's own: two nodes of one GPU each, all on this machine, with fake GPUs.

What this cannot show: real GPUs, cgroups, a network between nodes, and the minutes before a real time limit; the signal
that the time limit sends is sent here by hand.
"""

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import Workplace, assert_one_sentence, free_ports, wait_until

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "study.sbatch"
SIZES = ("cpus-per-task=2", "mem=1G")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
SECONDS = 240.0

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(
        not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in PROGRAMS),
        reason="SLURM is not installed (.ci/install-slurm.sh installs it on Debian)",
    ),
]

# The character devices stand for GPUs; config_overrides lets the nodes claim more than this machine has. Ray's ports
# follow from the jobs' numbers, which may not be those of another run of this test.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=15
SchedulerParameters=sched_interval=2
FirstJobId={first_job}
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
GresTypes=gpu
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 Gres=gpu:1 RealMemory=40000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 Gres=gpu:1 RealMemory=40000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = """\
NodeName=n1 Name=gpu File=/dev/null
NodeName=n2 Name=gpu File=/dev/zero
"""


@dataclass(frozen=True)
class Slurm:
    """A running SLURM, and what submits to it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user who has activated cxrdist's."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.folder / "home"),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "CXRDIST_HEAD_ADDRESS": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def token_files(self) -> list[Path]:
        """Files with tokens of clusters that run."""
        return [*self.folder.glob("home/.ray/*")]

    def ask(self, *command: str) -> str:
        """Run a command of SLURM that must succeed; return what it printed."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, *arguments: str) -> str:
        """Submit a study; return the number of its job."""
        sizes = (*(f"--{size}" for size in SIZES), f"--output={self.folder}/%j.log")
        return self.ask("sbatch", "--parsable", *sizes, str(SCRIPT), *arguments).strip()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start our command line on this SLURM's login node."""
        return subprocess.Popen(
            [sys.executable, "-m", "cxrdist", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run our command line to its end; return its exit status and what it printed."""
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output

    def job(self, number: str) -> dict[str, str]:
        """Return what SLURM says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.ask("scontrol", "show", "job", number)))

    def wait(self, number: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; not if the job ends badly before."""

        def look() -> bool:
            met = condition()
            assert met or self.job(number)["JobState"] not in {"FAILED", "TIMEOUT", "NODE_FAIL"}, self.log(number)
            return met

        wait_until(look, SECONDS)

    def log(self, number: str) -> str:
        """Return what a job has printed."""
        return Path(self.job(number)["StdOut"]).read_text()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("home", "state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    conf = SLURM_CONF.format(user=getpass.getuser(), folder=folder, ports=free_ports(3), first_job=os.getpid())
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(GRES_CONF)
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    slurm = Slurm(folder)
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{ending}" for option, ending in files.items()]
    commands = {
        "munged": ["munged", "--foreground", "--force", *munge],
        "slurmctld": ["slurmctld", "-D", "-c"],
        "slurmd-n1": ["slurmd", "-D", "-N", "n1"],
        "slurmd-n2": ["slurmd", "-D", "-N", "n2"],
    }
    daemons = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.out").open("w") as log:
                daemons.append(subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log))
            if name == "munged":
                wait_until((folder / "munge.sock").exists, 30)
        wait_until(lambda: "2 idle" in sinfo(slurm), 60)
        yield slurm
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=slurm.environment, check=True)
        wait_until(lambda: not slurm.ask("squeue", "--noheader"), 60)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)


def sinfo(slurm: Slurm) -> str:
    """Return how many nodes are in which state, empty where the controller does not answer yet."""
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%D %t"], env=slurm.environment, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def done_jobs(run_dir: Path) -> dict[str, int]:
    """Return when each fold job that is done was done."""
    marks = run_dir.glob("jobs/*/*/done.json")
    return {str(path.parent.relative_to(run_dir)): path.stat().st_mtime_ns for path in marks}


def scratch_folders() -> set[Path]:
    return set(Path("/tmp").glob("cxr.??????"))


def test_the_scripts_own_requests_are_accepted_and_impossible_ones_are_not(slurm: Slurm) -> None:
    assert "to start at" in slurm.ask("sbatch", "--test-only", str(SCRIPT), "run", "study.yaml")
    with pytest.raises(AssertionError, match="Requested node configuration is not available"):
        slurm.ask("sbatch", "--test-only", "--gpus-per-node=2", str(SCRIPT), "run", "study.yaml")


def submission(workplace: Workplace, *more: str, run_dir: str = "run") -> list[str]:
    """Arguments of `cxrdist submit` for the study."""
    where = ["--images", str(workplace.images), "--run-dir", str(workplace.folder / run_dir)]
    sizes = [word for size in SIZES for word in ("--slurm", size)]
    cache = ["--set", f"execution.cache={workplace.cache}"]
    return ["submit", str(workplace.study), "--to", "slurm", *where, *cache, *sizes, *more]


@pytest.mark.long
def test_a_study_goes_on_after_its_time_limit_and_does_nothing_twice(
    slurm: Slurm, workplace: Workplace, undisturbed: dict[str, bytes]
) -> None:
    before = scratch_folders()
    run_dir = workplace.folder / "run"
    with slurm.start(*submission(workplace)) as follower:
        assert follower.stdout is not None
        name, number = re.findall(r"^job (\S+) was submitted to slurm as number (\d+)$", follower.stdout.readline())[0]
        slurm.wait(number, lambda: bool(done_jobs(run_dir)))
        (token_file,) = slurm.token_files
        assert token_file.stat().st_mode & 0o777 == 0o600
        assert token_file.read_text() not in slurm.log(number)

        slurm.ask("scancel", "--batch", "--signal=USR1", number)
        slurm.wait(number, lambda: slurm.job(number)["Restarts"] == "1")
        first = done_jobs(run_dir)
        assert len(first) < 4, "interrupted too late to show anything"
        assert "Interrupted; what was done is kept" in slurm.log(number)
        assert not list(run_dir.glob("driver/*"))

        slurm.wait(number, lambda: slurm.job(number)["JobState"] == "COMPLETED")
        followed = follower.stdout.read()
    assert follower.returncode == 0, followed
    log = slurm.log(number)
    assert [line for line in followed.splitlines() if "is waiting: SLURM's reason" not in line] == log.splitlines()
    assert slurm.run("jobs", "logs", name, "--to", "slurm") == (0, log)
    assert f"{len(first)} of 4 fold jobs were done before" in log
    assert len(log.split("is ready")) - 1 >= 4, "two nodes, twice"
    assert {job: done_jobs(run_dir)[job] for job in first} == first
    for job in done_jobs(run_dir):
        epochs = [json.loads(line)["epoch"] for line in (run_dir / job / "history.jsonl").read_text().splitlines()]
        assert epochs == list(range(1, 401))
    assert workplace.results("run") == undisturbed
    assert slurm.token_files == []
    assert scratch_folders() <= before


@pytest.mark.long
def test_a_stopped_study_ends_in_order_keeps_its_checkpoint_and_stays_stopped(
    slurm: Slurm, workplace: Workplace
) -> None:
    run_dir = workplace.folder / "run"
    long = ("--detach", "--slurm", "nodes=1", "--set", "training.epochs=20000")
    status, output = slurm.run(*submission(workplace, *long))
    assert status == 0, output
    name, number = re.findall(r"^job (\S+) was submitted to slurm as number (\d+)$", output)[0]
    slurm.wait(number, lambda: bool([*run_dir.glob("jobs/*/*/checkpoint.safetensors")]))
    listed = next(line.split() for line in slurm.run("jobs", "list", "--to", "slurm")[1].splitlines() if name in line)
    assert (listed[:3], listed[-1]) == ([name, "tiny", "running"], number)

    status, output = slurm.run("jobs", "stop", name, "--to", "slurm")
    assert (status, output) == (0, f"job {name} was asked to stop; what was done is kept\n")
    status, output = slurm.run("jobs", "logs", number, "--to", "slurm", "--follow")
    assert status == 130, output
    assert "Interrupted; what was done is kept" in output
    assert [*run_dir.glob("jobs/*/*/checkpoint.safetensors")]
    # Asked of the script, which ends Ray after the study; a plain scancel, which ends both at once, would be CANCELLED.
    ended = slurm.job(number)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "130:0", "0")
    assert slurm.token_files == []
    assert slurm.run("jobs", "stop", name, "--to", "slurm") == (0, f"job {name} is not running\n")


def test_what_slurm_refuses_is_said_in_its_words_and_leaves_nothing(slurm: Slurm, workplace: Workplace) -> None:
    nowhere = slurm.run(*submission(workplace, "--slurm", "partition=nowhere"))
    assert_one_sentence(nowhere, 2, ["sbatch refused", "nowhere"])
    assert [*workplace.folder.glob("run/submitted/*")] == []
    assert_one_sentence(slurm.run("jobs", "logs", "nobody", "--to", "slurm"), 2, ["'nobody'", "jobs there"])
    assert_one_sentence(slurm.run("jobs", "stop", "999999", "--to", "slurm"), 2, ["'999999'", "jobs there"])


@pytest.mark.long
def test_a_job_that_waits_is_taken_back(slurm: Slurm, workplace: Workplace) -> None:
    _, output = slurm.run(*submission(workplace, "--detach", "--slurm", "begin=now+1hour"))
    name, number = re.findall(r"^job (\S+) was submitted to slurm as number (\d+)$", output)[0]
    assert slurm.run("jobs", "logs", name, "--to", "slurm") == (0, "")
    assert slurm.run("jobs", "stop", name, "--to", "slurm")[0] == 0
    assert slurm.job(number)["JobState"] == "CANCELLED"
    assert slurm.run("jobs", "logs", name, "--to", "slurm", "--follow")[0] != 0


@pytest.mark.long
def test_a_cancelled_study_stays_cancelled(slurm: Slurm, workplace: Workplace) -> None:
    number = slurm.submit(*workplace.arguments(executor="ray"))
    slurm.wait(number, lambda: bool(slurm.token_files))
    slurm.ask("scancel", number)
    wait_until(lambda: slurm.job(number)["JobState"] == "CANCELLED" and slurm.token_files == [], SECONDS)
    assert slurm.job(number)["Restarts"] == "0"


def test_a_mistake_ends_the_job_with_one_sentence_and_is_not_repeated(slurm: Slurm) -> None:
    number = slurm.submit()
    wait_until(lambda: slurm.job(number)["JobState"] == "FAILED", SECONDS)
    job = slurm.job(number)
    assert (job["ExitCode"], job["Restarts"]) == ("2:0", "0")
    assert "What is to be done?" in slurm.log(number)
