"""W&B runs read back from the files that W&B writes offline."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER_OF_FILE = 7
HEADER = struct.Struct("<IHB")
WHOLE, LAST = 1, 4


@dataclass(frozen=True)
class Run:
    """A W&B run, as its file has it; the type of the job is cut off the names of what was logged."""

    path: Path
    name: str
    id: str
    group: str
    job_type: str
    project: str
    config: dict[str, Any]
    """But for W&B's own."""
    rows: list[dict[str, Any]]
    """What was logged under the job's type, with `_step`."""
    logged: dict[str, Any]
    """The last value of everything else that was logged; of a table what W&B says of it, by KEY/path and the like."""
    summary: dict[str, Any]
    artifacts: dict[str, str]
    """Type by name."""
    exit_code: int


def read_run(path: Path) -> Run:
    """Read a run when it is whole: W&B's own process may still be writing when the run is finished."""
    started = time.monotonic()
    while not (ends := [record.exit for record in records(path) if record.WhichOneof("record_type") == "exit"]):
        assert time.monotonic() - started < 60, f"{path} has no end"
        time.sleep(0.05)
    found = list(records(path))
    run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
    history = [_values(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    own = f"{run.job_type}/"
    summary: dict[str, Any] = {}
    config = _values(run.config.update)
    for record in found:
        match record.WhichOneof("record_type"):
            case "summary":
                summary |= _values(record.summary.update)
            case "config":
                config |= _values(record.config.update)
    return Run(
        path=path,
        name=run.display_name,
        id=run.run_id,
        group=run.run_group,
        job_type=run.job_type,
        project=run.project,
        config={key: value for key, value in config.items() if key != "_wandb"},
        rows=[{"_step": row["_step"], **_own(row, own)} for row in history if _own(row, own)],
        logged={key: value for row in history for key, value in row.items() if not key.startswith((own, "_"))},
        summary={key.removeprefix(own): value for key, value in summary.items() if not key.startswith("_")},
        artifacts={
            record.artifact.name: record.artifact.type
            for record in found
            if record.WhichOneof("record_type") == "artifact"
        },
        exit_code=ends[0].exit_code,
    )


def files_of(run_dir: Path) -> set[Path]:
    """Return the files of the runs of a run directory."""
    return set(run_dir.glob("wandb/offline-run-*/run-*.wandb"))


def runs_of(run_dir: Path) -> dict[str, Run]:
    """Read the runs by name; there are no two of one name."""
    found = [read_run(path) for path in files_of(run_dir)]
    by_name = {run.name: run for run in found}
    assert len(by_name) == len(found) == len({run.id for run in found})
    return by_name


def table(run: Run, key: str) -> list[dict[str, Any]]:
    """Read a table that was logged under a key: a mapping a row."""
    content = json.loads((run.path.parent / "files" / run.logged[f"{key}/path"]).read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def records(path: Path) -> Iterator[Any]:
    """Read a run's file: a log of protobuf records in LevelDB's format, after a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    position, part = HEADER_OF_FILE, b""
    while position + HEADER.size <= len(data):
        if BLOCK - position % BLOCK < HEADER.size:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        if kind == 0:
            break
        position += HEADER.size
        part += data[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _own(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
