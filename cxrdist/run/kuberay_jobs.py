"""Studies as RayJobs of Kubernetes, through kubectl."""

import json
import math
import re
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from cxrdist.run.job_package import Package
from cxrdist.run.job_protocol import KUBERAY, WAITING_IS_LONG, Job, find_job
from cxrdist.run.kuberay_manifest import MANAGED_BY, STUDY_ANNOTATION, KubeRayOptions, manifests
from cxrdist.run.programs import RefusedError, ask

_OVER = frozenset({"complete", "failed", "succeeded", "stopped", "validationfailed"})
"""Of a job as a whole: `running` is the word for one whose try has ended and may be followed by another."""
_NEEDS = "--to kuberay asks Kubernetes through it"
_POLL_SECONDS = 2.0
_EXIT_CODE = re.compile(r"entrypoint command failed with exit code (\d+)")
"""In the message of a job that failed, in Ray's words."""


class KubeRayJobs:
    """The Kubernetes that kubectl's configuration names."""

    def __init__(self, options: KubeRayOptions) -> None:
        self._options = options
        self._namespace = (f"--namespace={options.namespace}",) if options.namespace else ()

    def preview(self, package: Package, name: str) -> str:
        """Return the YAML as it would be sent."""
        return "---\n".join(manifests(package, name, self._options))

    def submit(self, package: Package, name: str) -> str:
        """Create a ConfigMap with the study's files and a RayJob."""
        files, job = manifests(package, name, self._options)
        # Not `apply`, which keeps a copy in an annotation, where files of more than 256 KiB have no room.
        self._kubectl("create", "--filename=-", text=files)
        try:
            self._kubectl("create", "--filename=-", text=job)
        except RefusedError:
            self._kubectl("delete", f"configmaps/{name}")
            raise
        return ""

    def jobs(self) -> list[Job]:
        """Return the jobs of the namespace that this software submitted, the latest first."""
        return [_job(item) for item in self._items()]

    def logs(self, name: str) -> str:
        """Return what a job has printed so far."""
        return self._kubectl("logs", f"job/{self._job(name).name}", "--tail=-1")

    def stop(self, name: str) -> bool:
        """Delete a job that waits or runs: KubeRay stops the study before it takes the pods away."""
        job = self._job(name)
        if job.state in _OVER:
            return False
        name = job.name
        self._kubectl("delete", f"rayjobs.ray.io/{name}", f"configmaps/{name}", "--ignore-not-found", "--wait=false")
        return True

    def follow(self, name: str, write: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Pass on what a job prints until it ends, over all its tries, and return its exit status."""
        name = self._job(name).name
        started = time.monotonic()
        last_output: float | None = None
        told = False
        while (item := self._item(name)) is not None and _job(item).state not in _OVER:
            if last_output is None and not told and time.monotonic() - started > WAITING_IS_LONG:
                say(f"job {name} is {_job(item).state}: its pods have not come; `kubectl get pods` says more")
                told = True
            if self._stream(name, last_output, write):
                last_output = time.monotonic()
            time.sleep(_POLL_SECONDS)
        if item is None:
            say(f"job {name} was deleted")
            return 1
        if last_output is None:
            write(self.logs(name))
        return _exit_status(item, say)

    def _stream(self, name: str, last_output: float | None, write: Callable[[str], None]) -> bool:
        """Pass on output until the pod or the connection ends; return whether there was any."""
        # What came before a connection was lost is not shown again; Kubernetes' clock decides, whatever ours says.
        since = () if last_output is None else (f"--since={math.ceil(time.monotonic() - last_output)}s",)
        seen = False
        command = ["kubectl", "logs", f"job/{name}", "--follow", "--tail=-1", *since, *self._namespace]
        with subprocess.Popen(  # noqa: S603 - no shell: the arguments are handed over one by one
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    write(line)
                    seen = True
            finally:
                process.terminate()
        return seen

    def _job(self, name: str) -> Job:
        return find_job(self.jobs(), name, KUBERAY)

    def _item(self, name: str) -> dict[str, Any] | None:
        return next((item for item in self._items() if item["metadata"]["name"] == name), None)

    def _items(self) -> list[dict[str, Any]]:
        found = json.loads(self._kubectl("get", "rayjobs.ray.io", f"--selector={MANAGED_BY}", "--output=json"))
        return sorted(found["items"], key=lambda item: str(item["metadata"]["creationTimestamp"]), reverse=True)

    def _kubectl(self, verb: str, *arguments: str, text: str = "") -> str:
        return ask("kubectl", verb, *arguments, *self._namespace, needs=_NEEDS, text=text)


def _exit_status(item: dict[str, Any], say: Callable[[str], None]) -> int:
    job = _job(item)
    if job.state == "succeeded":
        return 0
    message = str(item["status"].get("message") or "no reason is given")
    known = _EXIT_CODE.search(message)
    if known:
        return int(known[1])
    say(f"job {job.name} {job.state}: {message.strip().splitlines()[0]}")
    return 1


def _job(item: dict[str, Any]) -> Job:
    metadata, status = item["metadata"], item.get("status", {})
    return Job(
        metadata["name"],
        metadata.get("annotations", {}).get(STUDY_ANNOTATION, ""),
        _state(status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")),
        _local_time(status.get("startTime")),
        status.get("jobId", ""),
    )


def _state(deployment: str, job: str) -> str:
    if deployment == "Complete" or (deployment == "Running" and job in ("PENDING", "RUNNING")):
        return (job or deployment).lower()
    return (deployment or "pending").lower()


def _local_time(stamp: str | None) -> str:
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S") if stamp else ""
