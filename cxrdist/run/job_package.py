"""A study packed for a cluster: the files that go along, and the command that is run there."""

import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrdist.config import Study
from cxrdist.config.document import dump_document
from cxrdist.config.location import is_remote, parse_bucket
from cxrdist.errors import UserError

MANIFEST_FOLDER = "manifest"
STUDY_FILE = "study.yaml"

Command = Literal["run", "sweep", "audit"]
"""Of `cxrdist`, with a study and a run directory."""

_LONGEST_NAME = 47
"""Of KubeRay's jobs, whose rule is the strictest."""

_RANDOM_BYTES = 3
"""At the end of a job's name: a script may submit a study many times in a second, from several machines."""

_STAMP = re.compile(r"-[0-9]{8}-[0-9]{6}(-[0-9a-f]{6})?$")


@dataclass(frozen=True)
class Package:
    """What is sent to a cluster."""

    study: Study
    """As it is read there."""
    run_dir: str
    """As all machines of the cluster see it."""
    files: dict[str, bytes]
    """Content by name, relative to the folder that the study file will lie in."""
    command: Command = "run"

    def arguments(self, folder: str = "") -> tuple[str, ...]:
        """Return the arguments of `cxrdist` on the cluster.

        Args:
            folder: that the files lie in, empty or with a slash at its end.
        """
        return (self.command, f"{folder}{STUDY_FILE}", "--run-dir", self.run_dir)

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def pack(study: Study, run_dir: str, images: str, manifest: str | None = None, command: Command = "run") -> Package:
    """Pack a study for a cluster.

    Args:
        study: with absolute paths; those of weights and cache are paths of the cluster.
        run_dir: a folder, or a place in an object store, that all machines of the cluster see.
        images: a folder that they see.
        manifest: a file that they see; without one, the study's own goes along.
        command: what is done with the study.

    Raises:
        UserError: the manifest cannot be read, a location is not one that all machines see, or there is no sweep to do.
    """
    if command == "sweep":
        study.required_sweep()
    if is_remote(run_dir):
        parse_bucket(run_dir, "--run-dir")
    else:
        _require_path("--run-dir", run_dir, ", or s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    _require_path("--images", images)
    if os.path.normpath(run_dir) == os.path.normpath(images):
        raise UserError(f"--run-dir is {run_dir!r}, the folder of the images; give the run a folder of its own.")
    data = study.model_dump(mode="json")
    files = {}
    if manifest is None:
        own = study.manifest_path()
        manifest = f"{MANIFEST_FOLDER}/{own.name}"
        files[manifest] = _content(own)
    else:
        _require_path("--manifest", manifest)
    data["cohort"] |= {"manifest": manifest, "images": images}
    data["execution"] |= {"executor": "ray", "address": "auto"}
    return Package(Study.model_validate(data), run_dir, {STUDY_FILE: dump_document(data).encode(), **files}, command)


def submission_name(package: Package, now: float) -> str:
    """Return a name for a job, another each time: a study that is submitted again continues under another.

    A job that does something else than to run the study has that in its name.

    All servers take it: at most 47 lower-case letters, digits and hyphens, the first one a letter.
    """
    stamp = f"{time.strftime('-%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(_RANDOM_BYTES)}"
    ending = stamp if package.command == "run" else f"-{package.command}{stamp}"
    plain = re.sub(r"[^a-z0-9]+", "-", package.study.name.lower())
    if not plain[:1].isalpha():
        plain = f"study-{plain}"
    return plain[: _LONGEST_NAME - len(ending)].rstrip("-") + ending


def study_of(name: str) -> str:
    """Return what a name of `submission_name` begins with: the study's name, and what is done with it."""
    return _STAMP.sub("", name)


def _content(manifest: Path) -> bytes:
    try:
        return manifest.read_bytes()
    except OSError as error:
        raise UserError(
            f"The manifest {str(manifest)!r} cannot be read ({error.strerror}); name one that lies on the cluster by "
            "--manifest."
        ) from None


def _require_path(option: str, location: str, otherwise: str = "") -> None:
    if not Path(location).is_absolute():
        raise UserError(
            f"{option} is {location!r}, but should be an absolute path that all machines of the cluster see{otherwise}."
        )
