"""What Kubernetes is sent, and what its answers are taken for.

There is no Kubernetes here: a stand-in for kubectl records what it is asked, and gives answers of the real one's shape.
"""

import base64
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from cxrdist.config import Study, load_study
from cxrdist.errors import UserError
from cxrdist.run import kuberay_jobs
from cxrdist.run.job_package import Package, pack
from cxrdist.run.kuberay_jobs import KubeRayJobs
from cxrdist.run.kuberay_manifest import KubeRayOptions
from tests.unit.job_examples import KEY, NAME, StandIn, package, stand_in, study
from tests.unit.test_cluster_files import definition, validate, with_schemas
from tests.unit.test_readme import refused

__all__ = ["package", "stand_in", "study"]

IMAGE = "registry.example/cxrdist:0.1.0"


@pytest.fixture
def kubectl(stand_in: Callable[[str], StandIn], monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setattr(kuberay_jobs, "_POLL_SECONDS", 0.0)
    return stand_in("kubectl")


def kuberay(**options: Any) -> KubeRayJobs:
    return KubeRayJobs(KubeRayOptions(**{"image": IMAGE, **options}))


def resources(package: Package, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    files, job = yaml.safe_load_all(kuberay(**options).preview(package, NAME))
    return files, job


@with_schemas
@pytest.mark.parametrize("options", [{}, {"gpus_per_worker": 0}, {"workers": 9, "gpus_per_worker": 4}])
def test_kuberay_would_accept_the_job(package: Package, options: dict[str, int]) -> None:
    _, job = resources(package, namespace="studies", **options)
    validate(job)


def test_a_dry_run_shows_what_is_sent_and_no_key_is_in_it(package: Package, kubectl: StandIn) -> None:
    assert kuberay().submit(package, NAME) == ""
    assert kubectl.calls == ["create --filename=-"] * 2
    sent = (kubectl.folder / "sent").read_text()
    assert sent == kuberay().preview(package, NAME) + "---\n"
    assert KEY not in sent
    job = resources(package)[1]["spec"]
    groups = [job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "cxrdist-environment", "optional": True}}]
        assert [variable["name"] for variable in pod["containers"][0]["env"]] == ["TORCH_HOME"]


def test_the_options_of_a_job_are_in_its_manifest(package: Package) -> None:
    files, job = resources(package, namespace="studies", workers=9, gpus_per_worker=4)
    for metadata in (files["metadata"], job["metadata"]):
        assert (metadata["name"], metadata["namespace"]) == (NAME, "studies")
        assert metadata["labels"] == {"app.kubernetes.io/managed-by": "cxrdist"}
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]
    assert group["maxReplicas"] == 9
    assert {container["resources"][kind]["nvidia.com/gpu"] for kind in ("requests", "limits")} == {"4"}
    assert set(re.findall(r"image: (\S+)", kuberay().preview(package, NAME))) == {IMAGE}
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "study" not in {mount["name"] for mount in container["volumeMounts"]}
    assert "study" in {mount["name"] for mount in head["volumeMounts"]}

    _, without = resources(package, gpus_per_worker=0)
    (group,) = without["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert "nvidia" not in json.dumps(group)
    assert group["maxReplicas"] == 4


@pytest.mark.parametrize("manifest", ["images.csv", "my images (1).parquet"])
@pytest.mark.parametrize("run_dir", ["/shared/runs/1", "s3://b/r?endpoint_override=h:9&scheme=http", "/shared/a b/$x"])
def test_the_head_finds_the_study_its_manifest_and_the_command(
    study: Study, tmp_path: Path, manifest: str, run_dir: str
) -> None:
    content = b"image_id,path,label\n" if manifest.endswith("csv") else b"PAR1\x00\xff"
    (tmp_path / manifest).write_bytes(content)
    cohort = study.cohort.model_copy(update={"manifest": str(tmp_path / manifest)})
    files, job = resources(pack(study.model_copy(update={"cohort": cohort}), run_dir, "/shared/images"))
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (each["configMap"] for each in pod["volumes"] if each["name"] == "study")
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "study")
    held = {key: text.encode() for key, text in files["data"].items()}
    held |= {key: base64.b64decode(text) for key, text in files.get("binaryData", {}).items()}
    assert volume["name"] == files["metadata"]["name"]
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]+", key) for key in held)
    for item in volume["items"]:
        target = tmp_path / "mounted" / item["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(held[item["key"]])
    assert load_study(tmp_path / "mounted" / "study.yaml").manifest_path().read_bytes() == content
    assert job["spec"]["entrypoint"] == f"sh {mount['mountPath']}/run.sh"
    command = shlex.split((tmp_path / "mounted" / "run.sh").read_text())
    assert command[:3] == ["exec", "cxrdist", "run"]
    assert command[3:6] == [f"{mount['mountPath']}/study.yaml", "--run-dir", run_dir]
    assert command[6:] == ["--set", "execution.device=gpu"]
    assert refused(command[1:]) == ""


@pytest.mark.parametrize(
    ("device", "gpus", "waits"), [("auto", None, 1), ("auto", 0, 0), ("cpu", None, 0), ("gpu", 2, 0)]
)
def test_a_study_waits_for_gpus_only_where_they_come_and_are_wanted(
    study: Study, device: str, gpus: int | None, waits: int
) -> None:
    execution = study.execution.model_copy(update={"device": device})
    package = pack(study.model_copy(update={"execution": execution}), "/r", "/i")
    files, _ = resources(package, gpus_per_worker=gpus)
    assert files["data"]["run.sh"].count("execution.device=gpu") == waits


def test_what_kubernetes_could_not_run_is_refused_before_anything_is_sent(
    study: Study, package: Package, kubectl: StandIn
) -> None:
    with pytest.raises(UserError, match="needs --image"):
        kuberay(image=None).submit(package, NAME)
    execution = study.execution.model_copy(update={"cache": None})
    with pytest.raises(UserError, match="cache is not given"):
        kuberay().submit(pack(study.model_copy(update={"execution": execution}), "/r", "/i"), NAME)
    study.manifest_path().write_bytes(b"x" * 1_000_000)
    with pytest.raises(UserError, match=r"have 1,00\d,\d{3} bytes, but at most 1,000,000 .*--manifest"):
        kuberay().submit(pack(study, "/r", "/i"), NAME)
    assert kubectl.calls == []


@pytest.mark.parametrize(("failing", "deleted"), [(1, []), (2, [f"delete configmaps/{NAME}"])])
def test_of_a_refused_job_nothing_stays_and_nothing_of_others_goes(
    package: Package, kubectl: StandIn, failing: int, deleted: list[str]
) -> None:
    journal = 'E1125 02:45:38.206832   25749 memcache.go:265] "Unhandled Error" err="something"\n'
    kubectl.answer(f"create.{failing}.err", journal + 'error: no matches for kind "RayJob" in version "ray.io/v1"\n')
    with pytest.raises(UserError, match=r'^kubectl refused: no matches for kind "RayJob" in version "ray.io/v1".$'):
        kuberay().submit(package, NAME)
    assert kubectl.calls[failing:] == deleted


def rayjob(name: str = NAME, created: str = "2026-11-24T10:15:01Z", **status: Any) -> dict[str, Any]:
    """A RayJob as the API gives it; its status as KubeRay fills it in."""
    metadata = {
        "annotations": {"cxrdist/study": "tiny"},
        "creationTimestamp": created,
        "finalizers": ["ray.io/rayjob-finalizer"],
        "generation": 2,
        "labels": {"app.kubernetes.io/managed-by": "cxrdist"},
        "name": name,
        "namespace": "studies",
        "resourceVersion": "4711",
        "uid": "9a1f3c1e-0000-4000-8000-000000000000",
    }
    if status:
        status |= {"jobId": f"{name}-x7k2p", "rayClusterName": f"{name}-q8w5z", "startTime": "2026-11-24T10:15:02Z"}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": {}, "status": status}


def listed(*jobs: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "items": jobs, "kind": "List", "metadata": {"resourceVersion": ""}})


NEW = rayjob()
STARTING = rayjob(jobDeploymentStatus="Initializing")
RUNNING = rayjob(jobDeploymentStatus="Running", jobStatus="RUNNING", dashboardURL="tiny-head-svc.studies.svc:8265")
LOST = rayjob(jobDeploymentStatus="Running", jobStatus="FAILED", message="The head was lost")
RETRYING = rayjob(jobDeploymentStatus="Retrying", jobStatus="", failed=1)
DONE = rayjob(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime="2026-11-24T11:00:00Z", succeeded=1)
MISTAKE = rayjob(
    jobDeploymentStatus="Failed",
    jobStatus="FAILED",
    reason="AppFailed",
    message="Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nx",
)
TOO_LATE = rayjob(jobDeploymentStatus="Failed", reason="DeadlineExceeded", message="The job has passed its deadline")


@with_schemas
@pytest.mark.parametrize("job", [NEW, STARTING, RUNNING, LOST, RETRYING, DONE, MISTAKE, TOO_LATE])
def test_the_stand_ins_answers_are_of_kuberays_shape(job: dict[str, Any]) -> None:
    schema = definition("RayJob")["properties"]["status"]
    jsonschema.Draft202012Validator(schema | {"additionalProperties": False}).validate(job["status"])


def test_the_jobs_of_a_namespace_are_listed_the_latest_first(kubectl: StandIn) -> None:
    older = rayjob("tiny-20261123-000000", "2026-11-23T00:00:00Z", jobDeploymentStatus="Suspended")
    kubectl.answer("get", listed(older, RUNNING))
    first, second = kuberay(namespace="studies").jobs()
    assert (first.name, first.study, first.state, first.number) == (NAME, "tiny", "running", f"{NAME}-x7k2p")
    assert re.fullmatch(r"2026-11-2\d \d\d:\d\d:02", first.started)
    assert (second.name, second.state) == ("tiny-20261123-000000", "suspended")
    selector = "--selector=app.kubernetes.io/managed-by=cxrdist"
    assert kubectl.calls == [f"get rayjobs.ray.io {selector} --output=json --namespace=studies"]


@pytest.mark.parametrize(
    ("state", "word"),
    [(NEW, "pending"), (STARTING, "initializing"), (LOST, "running"), (RETRYING, "retrying"), (DONE, "succeeded")],
)
def test_a_state_is_the_jobs_not_that_of_one_try(kubectl: StandIn, state: dict[str, Any], word: str) -> None:
    kubectl.answer("get", listed(state))
    assert kuberay().jobs()[0].state == word


def test_a_running_job_is_deleted_with_its_files_and_one_that_ended_is_not(kubectl: StandIn) -> None:
    kubectl.answer("get.1", listed(RUNNING))
    kubectl.answer("get", listed(DONE))
    assert kuberay().stop(f"{NAME}-x7k2p"), "what Ray calls the job reaches it, too"
    assert kubectl.calls[1:] == [f"delete rayjobs.ray.io/{NAME} configmaps/{NAME} --ignore-not-found --wait=false"]
    assert not kuberay().stop(NAME)
    with pytest.raises(UserError, match=f"There is no job 'nobody' at kuberay; jobs there: {NAME}."):
        kuberay().stop("nobody")
    assert len([call for call in kubectl.calls if call.startswith("delete")]) == 1


def test_a_job_is_followed_through_its_tries_and_shown_once(kubectl: StandIn) -> None:
    for number, state in enumerate((STARTING, STARTING, RUNNING, RETRYING, RUNNING), start=1):
        kubectl.answer(f"get.{number}", listed(state))
    kubectl.answer("get", listed(DONE))
    kubectl.answer("logs.1.err", "Error from server (NotFound): jobs.batch not found\n")
    kubectl.answer("logs.2", "one\n")
    kubectl.answer("logs.3", "")
    kubectl.answer("logs.4", "two\n")
    written: list[str] = []
    assert kuberay(namespace="studies").follow(NAME, written.append, print) == 0
    assert written == ["one\n", "two\n"]
    logs = [call for call in kubectl.calls if call.startswith("logs")]
    follow = f"logs job/{NAME} --follow --tail=-1"
    assert logs[:2] == [f"{follow} --namespace=studies"] * 2
    assert [re.sub(r"=\d+s", "=Ns", call) for call in logs[2:]] == [f"{follow} --since=Ns --namespace=studies"] * 2


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        ([DONE], 0, []),
        ([MISTAKE], 2, []),
        ([TOO_LATE], 1, [f"job {NAME} failed: The job has passed its deadline"]),
        ([], 1, [f"job {NAME} was deleted"]),
    ],
)
def test_a_followed_rayjob_gives_its_exit_status(
    kubectl: StandIn, last: list[dict[str, Any]], status: int, said: list[str]
) -> None:
    kubectl.answer("get.1", listed(RUNNING))
    kubectl.answer("get", listed(*last))
    kubectl.answer("logs", "all of it\n")
    written: list[str] = []
    told: list[str] = []
    assert kuberay().follow(NAME, written.append, told.append) == status
    assert told == said
    assert written == (["all of it\n"] if last else [])
