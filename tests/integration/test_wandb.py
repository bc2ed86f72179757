"""W&B in offline mode, read back from the files that it writes."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Workplace

BLOCK = 32768
HEADER_OF_FILE = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Read a run's file: a log of protobuf records in LevelDB's format, after a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    position, part = HEADER_OF_FILE, b""
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0:
            break
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def history(path: Path) -> list[dict[str, Any]]:
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def run_of(path: Path) -> Any:
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> Path:
    """The run directory of a study that was tracked offline."""
    from tests.integration.conftest import STUDY

    folder = tmp_path_factory.mktemp("tracked")
    (folder / "study.yaml").write_text(
        STUDY.format(manifest=phantoms / "manifest.csv").replace("epochs: 400", "epochs: 4")
    )
    place = Workplace(folder, phantoms, shared_cache)
    status, output = place.run(*place.arguments("--wandb", "offline", "--set", "variants.views=[whole]"))
    assert status == 0, output
    assert "W&B" not in output, "something was not logged"
    return folder / "run"


def test_each_fold_job_is_a_run_of_the_study(tracked: Path) -> None:
    runs = {run_of(path).display_name: path for path in tracked.glob("wandb/offline-run-*/run-*.wandb")}

    assert sorted(runs) == ["aggregate", "whole-vgg16/fold-0", "whole-vgg16/fold-1"]
    for name, path in runs.items():
        run = run_of(path)
        assert run.run_group == "tiny"
        assert run.job_type == ("aggregate" if name == "aggregate" else "fold")
    rows = [row for row in history(runs["whole-vgg16/fold-0"]) if "fold/train_loss" in row]
    written = (tracked / "jobs/whole-vgg16/fold-0/history.jsonl").read_text().splitlines()
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert [row["fold/train_loss"] for row in rows] == [json.loads(line)["train_loss"] for line in written]


def test_the_aggregate_run_has_the_tables_and_the_curves(tracked: Path) -> None:
    path = next(p for p in tracked.glob("wandb/offline-run-*/run-*.wandb") if run_of(p).job_type == "aggregate")
    keys = {key for row in history(path) for key in row}
    for logged in ("tables/summary", "tables/folds", "tables/confusion_whole-vgg16", "roc/whole-vgg16"):
        assert any(key.startswith(logged) for key in keys), f"{logged} is not among {sorted(keys)}"
    tables = list(path.parent.glob("files/media/table/**/*.table.json"))
    assert any("Accuracy" in table.read_text() for table in tables)


def test_no_key_is_in_the_run_directory(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    short = ("--set", "variants.views=[whole]", "--set", "training.epochs=1")
    status, output = workplace.run(*workplace.arguments("--wandb", "offline", *short))
    assert status == 0, output
    assert key not in output
    holders = [p for p in workplace.folder.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert holders == []


def test_a_tracker_that_fails_does_not_stop_the_study(workplace: Workplace) -> None:
    (workplace.folder / "run").mkdir()
    (workplace.folder / "run" / "wandb").write_text("in the way of W&B's folder")
    short = ("--set", "variants.views=[whole]", "--set", "training.epochs=1")
    status, output = workplace.run(*workplace.arguments("--wandb", "online", "--set", "tracking.entity=nobody", *short))
    assert status == 0, output
    assert "tracking stopped" in output or "the tables were not logged" in output
    assert "report:" in output
