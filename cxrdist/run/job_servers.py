"""Where studies can be sent as jobs: a Ray cluster's job server, SLURM, or Kubernetes with KubeRay."""

from urllib.parse import urlsplit

from cxrdist.errors import UserError
from cxrdist.run.job_protocol import KUBERAY, SLURM, JobServer


def connect(
    to: str,
    *,
    slurm: tuple[str, ...] = (),
    run_dir: str | None = None,
    image: str | None = None,
    namespace: str | None = None,
    workers: int | None = None,
    gpus_per_worker: int | None = None,
) -> JobServer:
    """Return the job server that `--to` names; nothing is asked of it yet.

    Raises:
        UserError: it is no such name or address, or an option is not one of that server's.
    """
    of_slurm = {"--slurm": slurm or None, "--run-dir": run_dir}
    of_kuberay = {
        "--image": image,
        "--namespace": namespace,
        "--workers": workers,
        "--gpus-per-worker": gpus_per_worker,
    }
    for server, options in ((SLURM, of_slurm), (KUBERAY, of_kuberay)):
        for option, value in options.items():
            if value is not None and to != server:
                raise UserError(f"{option} is an option of --to {server}, but --to is {to!r}.")
    # What one server needs, such as Ray, takes seconds to import.
    if to == SLURM:
        from cxrdist.run.slurm_jobs import SlurmJobs

        return SlurmJobs(slurm, run_dir)
    if to == KUBERAY:
        from cxrdist.run.kuberay_jobs import KubeRayJobs
        from cxrdist.run.kuberay_manifest import KubeRayOptions

        return KubeRayJobs(KubeRayOptions(image, namespace, workers, gpus_per_worker))
    parts = urlsplit(to)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"--to is {to!r}, but should be {SLURM}, {KUBERAY}, or the address of a Ray cluster's dashboard, such as "
            "http://127.0.0.1:8265."
        )
    from cxrdist.run.ray_jobs import RayJobs

    return RayJobs(to)
