"""What is packed for a cluster, what SLURM is handed of it, and what its programs' answers are taken for.

SLURM itself is in tests/integration/test_cluster_slurm.py; sacct, which needs a database, is here a stand-in alone.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cxrdist.cli.jobs import submit
from cxrdist.config import Study
from cxrdist.config.sweep import SpaceConfig, SweepConfig
from cxrdist.errors import UserError
from cxrdist.run import slurm_jobs
from cxrdist.run.job_package import Command, Package, pack, study_of, submission_name
from cxrdist.run.job_servers import connect
from cxrdist.run.slurm_jobs import SlurmJobs
from tests.unit.job_examples import KEY, NAME, StandIn, package, stand_in, study
from tests.unit.test_readme import refused

__all__ = ["package", "stand_in", "study"]


@pytest.mark.parametrize("run_dir", ["/runs/1", "s3://bucket/runs/1", "gs://bucket/runs/1?region=eu"])
def test_runs_and_caches_may_be_folders_or_in_an_object_store(study: Study, run_dir: str) -> None:
    execution = study.execution.model_copy(update={"cache": run_dir})
    package = pack(study.model_copy(update={"execution": execution}), run_dir, "/images")
    assert package.arguments() == ("run", "study.yaml", "--run-dir", run_dir)
    assert yaml.safe_load(package.files["study.yaml"])["execution"]["cache"] == run_dir


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("runs/1", "/images"), r"--run-dir is 'runs/1', but should be an absolute path"),
        (("/runs/1", "images"), r"--images is 'images', but should be an absolute path"),
        (("/runs/1", "s3://bucket/images"), r"--images is 's3://bucket/images', but should be an absolute path"),
        (("ftp://host/runs", "/images"), r"--run-dir is 'ftp://host/runs', but should be"),
        (("/runs/1", "/images", "table.csv"), r"--manifest is 'table.csv', but should be an absolute path"),
    ],
)
def test_a_place_that_not_all_machines_see_is_refused(study: Study, places: tuple[str, ...], message: str) -> None:
    run_dir, images, manifest = (*places, None)[:3]
    with pytest.raises(UserError, match=message):
        pack(study, str(run_dir), str(images), manifest)


def test_an_audit_is_a_job_of_its_own_name(study: Study) -> None:
    package = pack(study, "/runs/1", "/images", command="audit")
    words = package.arguments("/there/")
    assert words == ("audit", "/there/study.yaml", "--run-dir", "/runs/1")
    # SLURM's script adds the address of its cluster, KubeRay's start that GPUs are waited for.
    assert refused(["cxrdist", *words, "--address", "10.0.0.1:6379", "--set", "execution.device=gpu"]) == ""
    assert submission_name(package, 1_800_000_000.0).startswith("tiny-audit-2027")


def test_a_sweep_is_submitted_of_a_study_that_has_one(study: Study) -> None:
    with pytest.raises(UserError, match="The study file has no `sweep`"):
        pack(study, "/runs/1", "/images", command="sweep")
    space = SpaceConfig.model_validate({"batch_size": {"values": [4, 8]}})
    swept = study.model_copy(update={"sweep": SweepConfig(space=space)})
    assert pack(swept, "/runs/1", "/images", command="sweep").arguments()[0] == "sweep"


def test_a_manifest_that_lies_on_the_cluster_is_named_and_not_sent(study: Study) -> None:
    package = pack(study, "/runs/1", "/images", "/shared/table.csv")
    assert [*package.files] == ["study.yaml"]
    assert yaml.safe_load(package.files["study.yaml"])["cohort"]["manifest"] == "/shared/table.csv"


@pytest.mark.parametrize("command", ["run", "audit"])
@pytest.mark.parametrize("name", ["tiny", "7-T.Study_A", "x" * 64, "a..b--", "A"])
def test_every_server_takes_the_name_of_a_job(study: Study, name: str, command: Command) -> None:
    package = Package(study.model_copy(update={"name": name}), "/runs/1", {}, command)
    made = submission_name(package, 1_800_000_000.0)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?-\d{8}-\d{6}-[0-9a-f]{6}", made)
    assert len(made) <= 47


def test_jobs_that_are_submitted_in_one_second_have_names_of_their_own(package: Package) -> None:
    names = {submission_name(package, 1_800_000_000.0) for _ in range(20)}
    assert len(names) == 20
    assert {study_of(name) for name in names} == {"tiny"}


def test_jobs_of_one_name_are_told_apart_by_their_numbers(stand_in: Callable[[str], StandIn]) -> None:
    stand_in("squeue").answer(
        "--me", f"12|cxrdist-{NAME}|RUNNING|2026-11-24T10:15:00|/a\n13|cxrdist-{NAME}|RUNNING|2026-11-24T10:15:00|/b\n"
    )
    scancel = stand_in("scancel")
    assert [job.number for job in SlurmJobs().jobs()] == ["13", "12"]
    with pytest.raises(UserError, match=f"There are 2 jobs '{NAME}' at slurm; name one by its number: 13, 12"):
        SlurmJobs().stop(NAME)
    assert SlurmJobs().stop("12")
    assert scancel.calls == ["--batch --signal=TERM 12"]


@pytest.mark.parametrize(
    ("to", "option", "message"),
    [
        ("slurm", ("--image", "x"), "--image is an option of --to kuberay, but --to is 'slurm'"),
        ("kuberay", ("--slurm", "nodes=2"), "--slurm is an option of --to slurm, but --to is 'kuberay'"),
        ("http://127.0.0.1:9", ("--workers", "2"), "--workers is an option of --to kuberay"),
        ("slrum", (), "--to is 'slrum', but should be slurm, kuberay, or the address"),
    ],
)
def test_what_a_server_does_not_take_is_refused(study: Study, to: str, option: tuple[str, ...], message: str) -> None:
    file = study.manifest_path().with_name("study.yaml")
    arguments = [str(file), "--to", to, "--images", "/i", "--run-dir", "/r", "--dry-run", *option]
    result = CliRunner().invoke(submit, arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_slurm_is_given_one_command_line_and_the_script_that_it_shows(package: Package) -> None:
    shown = SlurmJobs(("nodes=2", "gpus-per-node=4", "exclusive")).preview(package, NAME)
    path, line = shown.splitlines()[:2]
    folder = f"/shared/runs/1/submitted/{NAME}"
    words = shlex.split(line.removeprefix("# "))
    assert words == [
        *("sbatch", "--parsable", f"--job-name=cxrdist-{NAME}", f"--chdir={folder}", f"--output={folder}/output.log"),
        *("--nodes=2", "--gpus-per-node=4", "--exclusive"),
        *(str(slurm_jobs.SCRIPT), "run", "study.yaml", "--run-dir", "/shared/runs/1"),
    ]
    assert refused(["cxrdist", *words[words.index("run") :]]) == ""
    assert shown.endswith(slurm_jobs.SCRIPT.read_text())
    assert path.startswith("# PATH=")
    assert KEY not in shown


@pytest.mark.parametrize(
    "option", ["--nodes=2", "N=2", "=2", "job-name=x", "export=ALL,KEY=1", "wrap=true", "output=x"]
)
def test_an_option_that_is_not_the_users_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"--slurm '{re.escape(option)}'"):
        SlurmJobs((option,))


def test_slurm_is_handed_the_study_and_no_key(study: Study, stand_in: Callable[[str], StandIn], tmp_path: Path) -> None:
    sbatch = stand_in("sbatch")
    sbatch.answer("--parsable", "17;cluster\n")
    run_dir = tmp_path / "runs"
    package = pack(study, str(run_dir), "/shared/images")
    assert SlurmJobs().submit(package, NAME) == "17"
    folder = run_dir / "submitted" / NAME
    written = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert written == package.files
    assert KEY not in "".join(sbatch.calls)
    with pytest.raises(UserError, match="cannot be written"):
        SlurmJobs().submit(package, NAME)


def test_a_run_in_an_object_store_has_its_slurm_files_in_the_working_folder(
    study: Study, stand_in: Callable[[str], StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("sbatch").answer("--parsable", "17\n")
    monkeypatch.chdir(tmp_path)
    SlurmJobs().submit(pack(study, "s3://bucket/runs/1", "/shared/images"), NAME)
    assert (tmp_path / "submitted" / NAME / "study.yaml").is_file()


def test_jobs_are_found_in_the_queue_in_the_accounts_and_in_the_run_directory(
    stand_in: Callable[[str], StandIn], tmp_path: Path
) -> None:
    squeue, sacct = stand_in("squeue"), stand_in("sacct")
    old, forgotten = "tiny-20261101-000000", "my-study-20260101-000000"
    squeue.answer(
        "--me",
        f"18|cxrdist-{NAME}|PENDING|2026-11-24T12:00:00|/runs/a|b\n19|somebody-elses|RUNNING|2026-11-24T11:00:00|/x\n",
    )
    sacct.answer(
        "--allocations",
        f"7|cxrdist-{old}|CANCELLED by 1000|2026-11-01T00:00:05|/runs/old\n"
        f"18|cxrdist-{NAME}|RUNNING|2026-11-24T11:00:00|/runs/a|b\n",
    )
    kept = tmp_path / "runs" / "submitted" / forgotten
    kept.mkdir(parents=True)
    (kept / "output.log").write_text("all of it\n")
    server = SlurmJobs(run_dir=str(tmp_path / "runs"))
    assert [(job.number, job.name, job.study, job.state, job.started) for job in server.jobs()] == [
        ("18", NAME, "tiny", "pending", ""),
        ("7", old, "tiny", "cancelled", "2026-11-01 00:00:05"),
        ("", forgotten, "my-study", "forgotten", ""),
    ]
    assert server.logs(forgotten) == "all of it\n"
    assert not server.stop(forgotten)
    assert not server.stop("7")
    with pytest.raises(UserError, match="SLURM has forgotten the job 'my-study-20260101-000000'; its output is"):
        server.follow(forgotten, print, print)
    (sacct.folder / "--allocations").rename(sacct.folder / "--allocations.err")
    assert [job.number for job in server.jobs()] == ["18", ""]


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("JobState=COMPLETED Reason=None ExitCode=0:0", 0, []),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0", 2, []),
        ("JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15", 143, [f"job {NAME} ended: timeout"]),
        ("JobState=CANCELLED Reason=None ExitCode=0:0", 1, [f"job {NAME} ended: cancelled"]),
    ],
)
def test_a_followed_slurm_job_gives_its_exit_status(
    stand_in: Callable[[str], StandIn],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
    said: list[str],
) -> None:
    monkeypatch.setattr(slurm_jobs, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm_jobs, "_ASK_SECONDS", 0.01)
    stand_in("sacct").answer("--allocations", "")
    stand_in("squeue").answer("--me", f"18|cxrdist-{NAME}|RUNNING|2026-11-24T11:00:00|{tmp_path}\n")
    scontrol = stand_in("scontrol")
    scontrol.answer("--oneliner.1", "JobId=18 JobState=PENDING Reason=BeginTime Requeue=1 ExitCode=0:0\n")
    scontrol.answer("--oneliner", f"JobId=18 {answer}\n")
    (tmp_path / "output.log").write_bytes("Lüb".encode() + b"\xff")
    written: list[str] = []
    told: list[str] = []
    assert SlurmJobs().follow(NAME, written.append, told.append) == status
    assert ("".join(written), told) == ("Lüb�", said)


@pytest.mark.parametrize(("to", "program"), [("slurm", "squeue"), ("kuberay", "kubectl")])
def test_a_program_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, program: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"^The program '{program}' is not on the PATH; [^\n]*--to {to}"):
        connect(to).jobs()


def test_the_folder_of_the_images_is_no_run_directory(study: Study) -> None:
    for run_dir in ("/images", "/images/", "/runs/../images"):
        with pytest.raises(UserError, match=r"--run-dir is .* the folder of the images"):
            pack(study, run_dir, "/images")
    assert pack(study, "/images/runs/1", "/images").run_dir == "/images/runs/1"
