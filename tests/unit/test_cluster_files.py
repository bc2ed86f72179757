"""The files of cluster/ are what the programs that read them would accept, and what their READMEs say of them."""

import copy
import functools
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from tests.unit.test_readme import commands, refused

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = ROOT / ".." / "shared" / "schemas"
READMES = sorted(CLUSTER.rglob("README.md"))
YAML_FILES = sorted([*CLUSTER.rglob("*.yaml"), *CLUSTER.rglob("*.yml")])

with_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the shared folder with KubeRay's definitions is absent")


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


@functools.cache
def definition(kind: str) -> dict[str, Any]:
    """Return the strict schema of one of KubeRay's kinds."""
    text = (SCHEMAS / f"{kind.lower()}s.yaml").read_text()
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    schema: dict[str, Any] = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    make_strict(schema["properties"]["spec"])
    return schema


def make_strict(schema: dict[str, Any]) -> None:
    """Forbid properties that a schema does not name, all the way down, as the server prunes them silently."""
    if "properties" in schema:
        schema["additionalProperties"] = False
        for inner in schema["properties"].values():
            make_strict(inner)
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            make_strict(inner)


def fill_defaults(schema: dict[str, Any], value: Any) -> Any:
    """Return a value with the defaults that the server fills in before it validates."""
    if isinstance(value, dict):
        named = schema.get("properties", {})
        missing = {name: inner["default"] for name, inner in named.items() if "default" in inner and name not in value}
        return missing | {name: fill_defaults(named.get(name, {}), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [fill_defaults(schema.get("items", {}), inner) for inner in value]
    return value


def validate(resource: dict[str, Any]) -> None:
    schema = definition(resource["kind"])
    jsonschema.Draft202012Validator(schema).validate(fill_defaults(schema, resource))


@with_schemas
@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberay_would_accept_the_file(name: str) -> None:
    validate(load(f"kuberay/{name}.yaml"))


def changed(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(resource: Any) -> None:
        for step in path[:-1]:
            resource = resource[step]
        resource[path[-1]] = to

    return change


POD = ("spec", "headGroupSpec", "template", "spec")


@with_schemas
@pytest.mark.parametrize(
    "change",
    [
        changed("spec", "headGroupSpec", "rayStartParams", "num-cpus", to=0),
        changed("spec", "authOptions", "mode", to="tokens"),
        changed("spec", "workerGroupSpecs", 0, "maxReplica", to=4),
        changed(*POD, "terminationGracePeriod", to=120),
        changed(*POD, "securityContext", "runAsNonRoot", to="true"),
        changed(*POD, "containers", 0, "resources", "limits", "memory", to="12 Gi"),
        changed(*POD, "containers", to=[{"image": "x"}]),
    ],
)
def test_a_wrong_field_is_refused(change: Callable[[Any], None]) -> None:
    cluster = load("kuberay/raycluster.yaml")
    change(cluster)
    with pytest.raises(jsonschema.ValidationError):
        validate(cluster)


@with_schemas
def test_the_volume_claim_is_one() -> None:
    pod = definition("RayCluster")["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    volume = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = volume["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    ours = load("kuberay/shared-volume.yaml")
    jsonschema.Draft202012Validator(claim).validate(ours["spec"])
    assert (ours["apiVersion"], ours["kind"], ours["spec"]["accessModes"]) == (
        "v1",
        "PersistentVolumeClaim",
        ["ReadWriteMany"],
    )


def clusters() -> list[dict[str, Any]]:
    return [load("kuberay/raycluster.yaml")["spec"], load("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"]]


def pods() -> Iterator[dict[str, Any]]:
    """Every pod template of both files."""
    for cluster in clusters():
        yield from (group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])
    yield load("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]["spec"]


def test_a_job_and_a_lasting_cluster_differ_in_their_fewest_workers_alone() -> None:
    lasting, job = copy.deepcopy(clusters())
    fewest = []
    for cluster in (lasting, job):
        (group,) = cluster["workerGroupSpecs"]
        fewest.append((group.pop("replicas"), group.pop("minReplicas")))
    assert lasting == job
    assert fewest == [(0, 0), (1, 1)]


def test_every_pod_runs_without_rights_and_within_limits() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod.get("volumes", [])}
        assert set(volumes.values()) <= {load("kuberay/shared-volume.yaml")["metadata"]["name"]}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)
            for variable in container.get("env", []):
                assert ("valueFrom" in variable) == bool(re.search("KEY|TOKEN|SECRET", variable["name"]))


def test_the_head_does_no_fold_job_and_is_reached_with_a_token_from_inside_alone() -> None:
    for cluster in clusters():
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert cluster["authOptions"] == {"mode": "token"}
        locked = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
        assert [cluster["rayVersion"]] == locked


def test_a_jobs_command_exists() -> None:
    assert refused(shlex.split(load("kuberay/rayjob.yaml")["spec"]["entrypoint"])) == ""


def folders_with_words() -> list[str]:
    return [folder.name for folder in CLUSTER.iterdir() if any("YOUR_" in p.read_text() for p in folder.glob("*.yaml"))]


@pytest.mark.parametrize("folder", sorted(folders_with_words()))
def test_every_word_to_replace_is_explained_and_nothing_else_is(folder: str) -> None:
    files = "".join(path.read_text() for path in (CLUSTER / folder).glob("*.yaml"))
    readme = (CLUSTER / folder / "README.md").read_text()
    assert set(re.findall(r"YOUR_[A-Z_]+[A-Z]", files)) == set(re.findall(r"`(YOUR_[A-Z_]+[A-Z])", readme))


@pytest.mark.parametrize("name", ["cloud/aws.yaml", "cloud/gcp.yaml", "onprem/local.yaml"])
def test_the_launchers_shell_commands_can_be_parsed(name: str) -> None:
    lines = [line for key, value in load(name).items() if key.endswith("_commands") for line in value]
    assert len(lines) >= 4
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True, timeout=10)
    starts = [line for line in lines if "ray start --head" in line]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_batch_script_can_be_parsed_and_asks_for_what_it_relies_on() -> None:
    script = CLUSTER / "slurm" / "study.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
    # SLURM reads no request after the first line that is neither empty nor a comment.
    head = re.split(r"^(?!#|$)", script.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    asked = re.findall(r"^#SBATCH (\S+)$", head, flags=re.MULTILINE)
    assert len(asked) == script.read_text().count("#SBATCH ")
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(asked)


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    (job,) = load("monitoring/prometheus.yml")["scrape_configs"]
    ((file,),) = (found["files"] for found in job["file_sd_configs"])
    assert file == "/tmp/ray/prom_metrics_service_discovery.json"


def test_every_panel_shows_something_of_the_chosen_source() -> None:
    dashboard = json.loads((CLUSTER / "monitoring" / "grafana-dashboard.json").read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "session"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & cells, f"{panel['title']} lies on another panel"
        assert at["x"] + at["w"] <= 24
        cells |= covered
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        assert {part["datasource"]["uid"] for part in [panel, *panel["targets"]]} == {"${datasource}"}
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) == {"session"}
            assert target["expr"].count("(") == target["expr"].count(")")


def test_the_dashboard_shows_all_metrics_of_ours_and_no_other() -> None:
    shown = re.findall(r"ray_(cxrdist_\w+)", (CLUSTER / "monitoring" / "grafana-dashboard.json").read_text())
    exported = re.findall(r'"(cxrdist_\w+)"', (ROOT / "cxrdist" / "run" / "ray_metrics.py").read_text())
    assert set(shown) == set(exported)


def test_a_curves_name_is_a_label_that_prometheus_leaves_as_it_is() -> None:
    panels = json.loads((CLUSTER / "monitoring" / "grafana-dashboard.json").read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", []) if "cxrdist_" in target["expr"]]
    shown = {label for target in targets for label in re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))}
    tags = set(re.findall(r'\("(\w+)",\)', (ROOT / "cxrdist" / "run" / "ray_metrics.py").read_text()))
    assert shown <= tags
    assert tags & {"job", "instance"} == set()
    documented = (CLUSTER / "monitoring" / "README.md").read_text()
    assert all(f"| `{tag}` |" in documented for tag in tags)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_a_readme_names_commands_and_files_that_exist(readme: Path) -> None:
    text = readme.read_text().replace("\\\n", " ")
    assert [fault for words in commands(text) if (fault := refused(words))] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    paths = re.findall(r"(?<![\w./])((?:cluster|tests|\.ci)/[\w./-]+\w)", text)
    assert [name for name in links if not (readme.parent / name).exists()] == []
    assert [name for name in paths if not (ROOT / name).exists()] == []


def test_every_folder_has_a_readme_that_says_what_was_run() -> None:
    for folder in filter(Path.is_dir, CLUSTER.iterdir()):
        assert "## What was run" in (folder / "README.md").read_text()
        assert f"]({folder.name}/README.md)" in (CLUSTER / "README.md").read_text()


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_says_each_key_once(path: Path) -> None:
    nodes = [yaml.compose(path.read_text(), yaml.CSafeLoader)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
