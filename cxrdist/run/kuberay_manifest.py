"""What Kubernetes is given for a study: a ConfigMap with its files, and a RayJob of the template's shape."""

import base64
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxrdist.config.document import CoreDumper, parse_document
from cxrdist.errors import UserError
from cxrdist.run.job_package import Package

TEMPLATE = Path(__file__).parent / "templates" / "rayjob.yaml"
MANAGED_BY = "app.kubernetes.io/managed-by=cxrdist"
"""The label that tells our jobs from others'."""
STUDY_ANNOTATION = "cxrdist/study"
MOST_BYTES = 1_000_000
"""Kubernetes takes 1 MiB in a ConfigMap."""

_FOLDER = "/etc/cxrdist"
"""Where the head finds the files."""
_START = "run.sh"
_GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class KubeRayOptions:
    """What a study asks of Kubernetes; None leaves what the template says, and kubectl's own namespace."""

    image: str | None = None
    namespace: str | None = None
    workers: int | None = None
    """The most worker pods."""
    gpus_per_worker: int | None = None


def manifests(package: Package, name: str, options: KubeRayOptions) -> tuple[str, str]:
    """Return the YAML of the ConfigMap and of the RayJob.

    Args:
        package: the study.
        name: of both.
        options: with an image.

    Raises:
        UserError: there is no image or no cache that pods share, or the files are too large.
    """
    if options.image is None:
        raise UserError(
            "--to kuberay needs --image, the one that cluster/container/README.md makes, such as "
            "--image REGISTRY/cxrdist:0.1.0."
        )
    if package.study.execution.cache is None:
        raise UserError(
            "execution.cache is not given, but pods share no home folder: add --set execution.cache=DIR, a folder that "
            "all of them see."
        )
    size = sum(len(content) for content in package.files.values())
    if size > MOST_BYTES:
        raise UserError(
            f"The study and its manifest have {size:,} bytes, but at most {MOST_BYTES:,} can go along to Kubernetes: "
            "copy the manifest to the volume that all pods see, and name it there by --manifest."
        )
    template = parse_document(TEMPLATE.read_text(), TEMPLATE.name).data
    # Parts that the template's anchors share become parts of their own.
    job = json.loads(json.dumps(template))
    metadata = {
        "name": name,
        **({"namespace": options.namespace} if options.namespace else {}),
        "labels": dict([MANAGED_BY.split("=")]),
        "annotations": {STUDY_ANNOTATION: package.study.name},
    }
    job["metadata"] = metadata
    job["spec"]["entrypoint"] = f"sh {_FOLDER}/{_START}"
    _fill(job["spec"], options)
    files = {**package.files, _START: _start_script(package, options)}
    _mount(job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"], name, files)
    return _yaml(_config_map(metadata, files)), _yaml(job)


def _fill(spec: dict[str, Any], options: KubeRayOptions) -> None:
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    pods = [part["template"]["spec"] for part in (cluster["headGroupSpec"], workers)]
    for pod in (spec["submitterPodTemplate"]["spec"], *pods):
        pod["containers"][0]["image"] = options.image
    if options.workers is not None:
        workers["maxReplicas"] = options.workers
    if options.gpus_per_worker is not None:
        for amounts in pods[1]["containers"][0]["resources"].values():
            amounts[_GPU] = str(options.gpus_per_worker)
            if not options.gpus_per_worker:
                del amounts[_GPU]
    if options.gpus_per_worker == 0:
        workers["groupName"] = "cpu"
        del pods[1]["tolerations"]


def _start_script(package: Package, options: KubeRayOptions) -> bytes:
    """Return the command as a file: the entrypoint passes through shells, how many is KubeRay's and Ray's to say."""
    command = ["cxrdist", *package.arguments(f"{_FOLDER}/")]
    if options.gpus_per_worker != 0 and package.study.execution.device == "auto":
        # Said by name, GPUs are waited for: pods come after the study has begun.
        command += ["--set", "execution.device=gpu"]
    return f"exec {shlex.join(command)}\n".encode()


def _mount(pod: dict[str, Any], name: str, files: dict[str, bytes]) -> None:
    items = [{"key": _key(path), "path": path} for path in files]
    pod["volumes"].append({"name": "study", "configMap": {"name": name, "items": items}})
    pod["containers"][0]["volumeMounts"].append({"name": "study", "mountPath": _FOLDER, "readOnly": True})


def _config_map(metadata: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    text: dict[str, str] = {}
    binary: dict[str, str] = {}
    for path, content in files.items():
        try:
            text[_key(path)] = content.decode()
        except UnicodeDecodeError:
            binary[_key(path)] = base64.b64encode(content).decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": text,
        **({"binaryData": binary} if binary else {}),
    }


def _yaml(resource: dict[str, Any]) -> str:
    return str(yaml.dump(resource, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _key(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", path)


class _Dumper(CoreDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write what is shared in full each time."""
        return True

    def represent_text(self, text: str) -> yaml.Node:
        """Write text of several lines as it stands."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)
