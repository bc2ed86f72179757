"""Whatever becomes of a file of a finished run, no command shows other numbers or a traceback: it names the file."""

import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrdist.errors import CxrdistError
from cxrdist.report.audit import Audit, AuditRow, Kind
from cxrdist.report.results import Results
from cxrdist.report.sections import Findings
from cxrdist.run import dashboard
from cxrdist.run.context import read_plan
from cxrdist.run.store import Store, parse_json
from tests.integration.conftest import assert_one_sentence, run_here

STUDY = """\
name: damaged
seed: 3
cohort:
  manifest: {images}/manifest.csv
  images: {images}
  classes: [normal, covid19, viral_pneumonia, bacterial_pneumonia]
preprocessing: {{size: 32}}
folds: {{k: 2, validation: 0.3}}
variants: {{views: [whole, segmented], models: [resnet34]}}
model: {{weights: none, transfer: frozen}}
training: {{epochs: 1, batch_size: 4, learning_rate: 1e-3}}
execution: {{executor: inline, threads: 1, cache: {cache}}}
sweep:
  space: {{learning_rate: {{values: [1e-3, 1e-2]}}}}
  trials: 2
  folds: 2
"""

JOB = "jobs/segmented-resnet34/fold-1"
SEARCH = "sweep/segmented-resnet34/fold-1"
SWAPPED = {
    "study.yaml": "plan.json",
    "plan.json": f"{JOB}/done.json",
    "cohort.arrow": "folds.arrow",
    "folds.arrow": "cohort.arrow",
    "folds.json": "masks.json",
    "quarantine.json": "masks.json",
    "masks.json": "quarantine.json",
    "mask_examples.arrow": "cohort.arrow",
    "audit/audit.json": "masks.json",
    "shown_images.arrow": "mask_examples.arrow",
    "heatmaps/segmented-resnet34.arrow": "heatmaps/whole-resnet34.arrow",
    **{
        f"{JOB}/{name}": f"jobs/segmented-resnet34/fold-0/{name}"
        for name in ("done.json", "history.jsonl", "model.safetensors", "predictions.parquet", "progress.json")
    },
    f"{JOB}/validation.parquet": f"{JOB}/predictions.parquet",
    f"{SEARCH}/search.json": "sweep/segmented-resnet34/fold-0/search.json",
    f"{SEARCH}/images.arrow": "sweep/segmented-resnet34/fold-0/images.arrow",
    f"{SEARCH}/choice.json": "sweep/segmented-resnet34/fold-0/choice.json",
    f"{SEARCH}/trials/0000.json": f"{SEARCH}/trials/0001.json",
    f"{SEARCH}/trials/0001.json": f"{SEARCH}/trials/0000.json",
}
"""One file of each kind, and one of the same kind, or near it, that is put in its place."""

OPTIONAL = (
    "audit/audit.json",
    "heatmaps/segmented-resnet34.arrow",
    "shown_images.arrow",
    f"{JOB}/model.safetensors",
)
"""What a run need not have: removed, it is as if it had never been made."""
OF_OPTIONAL = ("audit", "heat_shares", "images", "warnings")
"""What a report shows of them."""

DAMAGES = ("cut", "one byte", "empty", "swapped", "removed")


@dataclass(frozen=True)
class Shown:
    """What a command showed."""

    status: int
    output: str
    results: Any
    """What a report would have been drawn of, as plain values by field; None where none was made."""


COMMANDS: Mapping[str, Callable[[Path], list[str]]] = {
    "report": lambda run: ["report", str(run)],
    "status": lambda run: ["status", str(run)],
    "compare": lambda run: ["compare", str(run.parent / "other"), str(run), "--out", str(run.parent / "out")],
    "heatmaps": lambda run: ["heatmaps", str(run)],
    "audit": lambda run: ["audit", str(run)],
    "dashboard": lambda run: ["dashboard", str(run)],
}


def show(command: str, run: Path) -> Shown:
    """Let a command read a run, without drawing, training or a server."""
    with undrawn() as made:
        status, output = run_here(*COMMANDS[command](run))
    return Shown(status, output, plain(made[-1]) if made else None)


@contextmanager
def undrawn() -> Iterator[list[Results]]:
    """Replace what takes long and is of no interest here; gives what reports would have been drawn of."""
    made: list[Results] = []

    def write_report(findings: Findings, _: Path, **__: Any) -> list[Path]:
        made.append(findings.results)
        return []

    def stop(*_: Any) -> Any:
        raise CxrdistError("What an audit needs was read.")

    with pytest.MonkeyPatch.context() as patch:
        # By import_module, since a command has the name of the module that it is in.
        commands, compare, audit = (import_module(f"cxrdist.cli.{name}") for name in ("commands", "compare", "audit"))
        patch.setattr(commands, "write_report", write_report)
        patch.setattr(compare, "write_sections", lambda _results, _sections, out, **_: [out / "index.html"])
        patch.setattr(audit, "run_to_end", stop)
        patch.setattr(dashboard, "write_dashboard", lambda *_: dashboard.Saved(url="http://localhost"))
        yield made


def plain(value: Any) -> Any:
    """Return a value as such that can be compared."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes() if value.dtype != object else value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return [(key, plain(one)) for key, one in value.items()]
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, one_thread: None) -> Path:
    """A finished run with masks, sweep, heat maps and an audit, in a folder with its study file and cache."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(STUDY.format(images=phantoms, cache=folder / "cache"))
    with undrawn():
        assert run_study(folder, folder / "run")[0] == 0
        assert run_here("heatmaps", str(folder / "run"))[0] == 0
    store, value = Store(folder / "run"), (0.6, 0.55, 0.7)
    kinds: tuple[Kind, ...] = ("whole", "lungs_blanked")
    rows = [
        AuditRow(f"{kind}-resnet34", "images", kind, ("a", "b"), 9, 0.5, 0.5, value, (value,) * 2) for kind in kinds
    ]
    store.write_json("audit/audit.json", {"cohort": read_plan(store).cohort, **Audit(tuple(rows), (), "").to_json()})
    return folder


def run_study(folder: Path, run: Path, *more: str) -> tuple[int, str]:
    """Run the study of a folder."""
    return run_here("run", str(folder / "study.yaml"), "--run-dir", str(run), *more)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run to spoil; beside it another one."""
    shutil.copytree(finished / "run", tmp_path / "other")
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(finished: Path) -> Mapping[str, Shown]:
    """What the commands show of the undamaged run."""
    shutil.copytree(finished / "run", finished / "other")
    shown = {command: show(command, finished / "run") for command in COMMANDS}
    for command, one in shown.items():
        assert one.status == (1 if command == "audit" else 0), one.output
    return shown


def damage(run: Path, name: str, how: str) -> None:
    """Spoil a file."""
    path = run / name
    content = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(content[: len(content) * 2 // 3])
        case "one byte":
            changed = bytearray(content)
            changed[random.Random(name).randrange(len(content))] ^= 1
            path.write_bytes(changed)
        case "empty":
            path.write_bytes(b"")
        case "swapped":
            path.write_bytes((run / SWAPPED[name]).read_bytes())
        case "removed":
            path.unlink()


def lines(output: str, folder: Path) -> list[str]:
    """The lines of an output that hold numbers of results, wherever the run lies."""
    made = ("made ", ": it is made again.")
    return [line for line in output.replace(str(folder), "").splitlines() if not any(word in line for word in made)]


def check(command: str, name: str, how: str, run: Path, whole: Shown, finished: Path) -> None:
    """Hold a command to showing the same as before, or one sentence that names the file."""
    shown = show(command, run)
    what = f"{command} after {name} was {how}:\n{shown.output}"
    assert "Traceback" not in shown.output, what
    undone = name == f"{JOB}/done.json" and how in ("swapped", "removed")
    if shown.status != whole.status or (command == "audit" and "was read" not in shown.output):
        message = shown.output[shown.output.index("Error: ") :].strip()
        assert shown.status == (1 if undone else 2), what
        assert len(message.splitlines()) == 1, what
        assert name.removeprefix("audit/") in message or (undone and "segmented-resnet34 fold 1" in message), what
        assert how != "removed" or name not in OPTIONAL, what
    elif command == "status" and undone:
        assert "3 of 4 done" in shown.output, what
    else:
        if not (command == "compare" and how == "removed" and name == "audit/audit.json"):
            # There, the warning of what the audit found is of one run instead of both.
            assert lines(shown.output, run.parent) == lines(whole.output, finished), what
        before, after = dict(whole.results or {}), dict(shown.results or {})
        if name in OPTIONAL and how != "cut":
            for field in OF_OPTIONAL:
                before.pop(field, None), after.pop(field, None)
        assert before == after, what


def cases() -> list[tuple[str, str, tuple[str, ...]]]:
    """Each file with each damage: the report, and of the other commands one after the other."""
    others = itertools.cycle([command for command in COMMANDS if command != "report"])
    return [(name, how, ("report", next(others))) for name in SWAPPED for how in DAMAGES]


@pytest.mark.parametrize("name", SWAPPED)
def test_a_damaged_file_is_named_or_changes_nothing_that_is_shown(
    name: str, finished: Path, whole: Mapping[str, Shown], run: Path
) -> None:
    content = (run / name).read_bytes()
    for own, how, chosen in cases():
        if own == name:
            for command in chosen:
                damage(run, name, how)
                check(command, name, how, run, whole[command], finished)
                (run / name).write_bytes(content)


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", SWAPPED)
def test_every_command_names_a_damaged_file_or_shows_the_same(
    name: str, command: str, finished: Path, whole: Mapping[str, Shown], run: Path
) -> None:
    content = (run / name).read_bytes()
    for how in DAMAGES:
        damage(run, name, how)
        check(command, name, how, run, whole[command], finished)
        (run / name).write_bytes(content)


def files_of(run: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob(pattern))}


@pytest.mark.parametrize(
    ("name", "how", "again"),
    [
        (f"{JOB}/validation.parquet", "one byte", "segmented-resnet34/fold-1 is done again"),
        (f"{JOB}/history.jsonl", "cut", "segmented-resnet34/fold-1 is done again"),
        (f"{JOB}/model.safetensors", "one byte", "segmented-resnet34/fold-1 is done again"),
        (f"{JOB}/predictions.parquet", "swapped", "segmented-resnet34/fold-1 is done again"),
        (f"{SEARCH}/trials/0001.json", "one byte", "of the search segmented-resnet34/fold-1 is done again"),
        (f"{SEARCH}/choice.json", "swapped", "1 search"),
        ("folds.arrow", "cut", "Nothing to train"),
        ("plan.json", "cut", "Nothing to train"),
    ],
)
def test_run_does_again_what_is_damaged_says_so_and_comes_to_the_same(
    name: str, how: str, again: str, finished: Path, run: Path
) -> None:
    damage(run, name, how)
    with undrawn():
        status, output = run_study(finished, run)
    assert status == 0, output
    assert again in output
    for pattern in ("jobs/*/*/*.parquet", "jobs/*/*/model.safetensors", "*.arrow", "plan.json"):
        assert files_of(run, pattern) == files_of(finished / "run", pattern)
    assert show("status", run).status == 0
    assert (run / name).read_bytes() != b""


@pytest.fixture
def cache(finished: Path, tmp_path: Path) -> Path:
    """A copy of the cache to spoil."""
    return Path(shutil.copytree(finished / "cache", tmp_path / "cache"))


def spoil(path: Path, how: str) -> None:
    """Damage a file of numbers where these are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content if how == "one byte" else content[: len(content) * 2 // 3])


@pytest.mark.parametrize("how", ["cut", "one byte"])
def test_a_damaged_cache_is_made_again_and_changes_no_prediction(
    how: str, finished: Path, run: Path, cache: Path
) -> None:
    (run / JOB / "done.json").unlink()
    for pattern in ("features/*/*.arrow", "masks/*.arrow", "shards/*/part-*.arrow"):
        found = list(cache.glob(pattern))
        assert found
        for path in found:
            spoil(path, how)
    with undrawn():
        status, output = run_study(finished, run, "--set", f"execution.cache={cache}")
    assert status == 0, output
    assert "they are made again" in output
    assert output.count(": it is made again.") == 1
    assert "features/segmented-resnet34/0  done" in output
    assert files_of(run, "jobs/*/*/*.parquet") == files_of(finished / "run", "jobs/*/*/*.parquet")
    assert files_of(cache, "masks/*.arrow") == files_of(finished / "cache", "masks/*.arrow")


@pytest.mark.parametrize("pattern", ["masks/*.arrow", "shards/*/part-*.arrow"])
def test_heat_maps_are_not_made_of_damaged_images_or_masks(pattern: str, run: Path, cache: Path) -> None:
    shutil.rmtree(run / "heatmaps")
    for path in cache.glob(pattern):
        spoil(path, "one byte")
    result = run_here("heatmaps", str(run), "--cache", str(cache))
    assert_one_sentence(result, 2, [pattern.partition("/")[0], "was changed"])


def test_a_damaged_checkpoint_is_said_and_the_job_starts_anew(finished: Path, run: Path) -> None:
    (run / JOB / "done.json").unlink()
    (run / JOB / "checkpoint.safetensors").write_bytes((run / JOB / "model.safetensors").read_bytes()[:-9])
    with undrawn():
        status, output = run_study(finished, run)
    assert status == 0, output
    assert f"{JOB}/checkpoint.safetensors is damaged: segmented-resnet34/fold-1 starts anew." in output
    assert files_of(run, "jobs/*/*/*.parquet") == files_of(finished / "run", "jobs/*/*/*.parquet")


def test_what_an_earlier_version_did_stays_done_and_shows_the_same(
    finished: Path, whole: Mapping[str, Shown], run: Path
) -> None:
    for path in [run / "plan.json", *run.rglob("done.json"), *run.rglob("choice.json"), *run.rglob("search.json")]:
        value = parse_json(path.read_bytes())
        noted = value.pop("artefacts", {})
        value.pop("made_from", None)
        if path.name == "done.json":
            value["predictions_sha256"] = noted["predictions.parquet"]
        path.write_text(json.dumps(value))
    shown = show("report", run)
    assert shown.status == 0, shown.output
    assert shown.results == whole["report"].results
    with undrawn():
        assert "Nothing to train" in run_study(finished, run)[1]
