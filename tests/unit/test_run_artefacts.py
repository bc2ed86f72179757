"""Files of a run directory that are not what was written are named; those of other versions are looked at."""

import ast
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.config.document import dump_document
from cxrdist.config.models import Study
from cxrdist.learn.checkpoint import load_progress, save_progress
from cxrdist.learn.train import Epoch, Progress
from cxrdist.run.artefacts import DamagedError, map_arrow, read_json, table_bytes, write_arrow
from cxrdist.run.context import folds_table, read_folds, read_study
from cxrdist.run.dashboard import WORKSPACE, write_dashboard
from cxrdist.run.results import Standing, is_done, job_status, read_history, read_mark, read_predictions
from cxrdist.run.store import Store, json_bytes, parse_json
from cxrdist.study.folds import Folds, Part
from cxrdist.study.layout import JobFiles
from cxrdist.study.plan import FoldJob, Variant

PACKAGE = Path(__file__).resolve().parents[2] / "cxrdist"
CLASSES = ("a", "b")
JOB = FoldJob(Variant("whole", "resnet34"), 0, "f" * 64, 1.0)
FILES = JobFiles(JOB.key)
EPOCH = Epoch(1, 0.7, 0.5, 0.6, 0.5, 1.5)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text().filter(lambda key: key != "checksum"), plain, max_size=4)


@given(objects, st.booleans(), st.data())
def test_a_json_artefact_is_read_as_it_was_written_or_not_at_all(value, compact, data):
    written = json_bytes(value, compact=compact)
    assert parse_json(written) == json.loads(json.dumps(value))
    changed = bytearray(written)
    changed[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = parse_json(bytes(changed))
    except ValueError:
        return
    # What has changed is white space, or the checksum's own name.
    assert {key: read[key] for key in value} == parse_json(written)


def test_a_json_artefact_of_another_version_has_no_checksum_and_is_read():
    assert parse_json(b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b'{"a": 1', "is not whole JSON"),
        (b"[1]", "is not a JSON object"),
        (b"\xff\xfe", "not whole"),
    ],
)
def test_what_is_no_json_object_is_said_in_one_sentence_with_what_helps(tmp_path, content, words):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(DamagedError) as raised:
        read_json(Store(tmp_path), "plan.json", "do this")
    sentence = str(raised.value)
    assert sentence.startswith(str(tmp_path / "plan.json"))
    assert words in sentence
    assert sentence.endswith("; do this.")
    assert len(sentence.splitlines()) == 1
    assert Store(tmp_path).read_json("plan.json") is None


def test_an_arrow_file_with_a_changed_or_missing_byte_is_never_read_as_another(tmp_path):
    maps = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float16).reshape(3, 2, 2))
    table = pa.table({"id": pa.array(["a", None, "ccc"]), "map": maps}).replace_schema_metadata({"made": "from"})
    write_arrow(Store(tmp_path), "x.arrow", table)
    read = map_arrow(tmp_path / "x.arrow", "do this")
    assert read.equals(table)
    content = (tmp_path / "x.arrow").read_bytes()
    damaged = [content[:end] for end in range(0, len(content), 97)]
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 4
        damaged.append(bytes(changed))
    refused = 0
    for number, bad in enumerate(damaged):
        # Each under a name of its own: a file that is mapped must not change.
        path = tmp_path / f"{number}.arrow"
        path.write_bytes(bad)
        try:
            assert map_arrow(path, "do this").equals(table)
        except DamagedError as error:
            refused += 1
            assert str(error).startswith(str(path))
    assert refused > len(damaged) / 2


def digest(content):
    return hashlib.sha256(content).hexdigest()


def finished(folder, *, noted=True, probabilities=((0.3, 0.7), (0.5, 0.5)), ids=("x", "y"), **metadata):
    """A run directory with one fold job that is done; `noted`: as this version writes it, or as earlier ones did."""
    store = Store(folder)
    told = {"cohort": "c", "fingerprint": JOB.fingerprint, "classes": json.dumps(CLASSES)} | metadata
    values = np.array(probabilities)
    columns = {"image_id": list(ids), "truth": ["a", "b"], "p_a": values[:, 0], "p_b": values[:, 1]}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(told), sink)
    store.write_bytes(FILES.predictions, sink.getvalue())
    store.write_bytes(FILES.history, (json.dumps(vars(EPOCH)) + "\n").encode())
    mark = {"fingerprint": JOB.fingerprint, "epochs": 1, "seconds": 1.5, "lane": "inline", "machine": {}}
    hashes = {Path(name).name: digest(store.read_bytes(name)) for name in (FILES.predictions, FILES.history)}
    if noted:
        store.write_json(FILES.done, {**mark, "artefacts": hashes})
    else:
        before = {**mark, "predictions_sha256": hashes["predictions.parquet"]}
        store.write_bytes(FILES.done, json.dumps(before).encode())
    return store


def predictions_of(store):
    mark = read_mark(store, JOB)
    assert mark is not None
    return read_predictions(store, JOB, mark, CLASSES)


@pytest.mark.parametrize("noted", [True, False])
def test_what_an_earlier_version_has_done_stays_done(tmp_path, noted):
    store = finished(tmp_path, noted=noted)
    assert is_done(store, JOB)
    assert job_status(store, JOB, driver_lives=False).standing is Standing.DONE
    assert predictions_of(store).probabilities.tolist() == [[0.3, 0.7], [0.5, 0.5]]
    assert read_history(store, JOB, read_mark(store, JOB) or {}) == [vars(EPOCH)]


@pytest.mark.parametrize("name", [FILES.predictions, FILES.history])
@pytest.mark.parametrize("content", [b"", b"other", None])
def test_a_job_with_a_damaged_or_missing_file_is_not_done_and_its_status_names_the_file(tmp_path, name, content):
    store = finished(tmp_path)
    store.remove(name)
    if content is not None:
        store.write_bytes(name, content)
    assert not is_done(store, JOB)
    status = job_status(store, JOB, driver_lives=False)
    assert status.standing is Standing.DAMAGED
    assert status.reason.startswith(store.where(name))


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"probabilities": ((0.2, 0.3), (0.5, 0.5))}, "gives 'x' probabilities that sum to 0.5, not to 1"),
        ({"probabilities": ((0.5, 0.5), (float("nan"), 1.0))}, "gives 'y' the probabilities [nan, 1.0]"),
        ({"probabilities": ((0.5, 0.5), (1.5, -0.5))}, "which are not all from 0 to 1"),
        ({"fingerprint": "0" * 64}, "is of another fold job than whole-resnet34/fold-0"),
        ({"classes": '["b", "a"]'}, "not those of the study"),
    ],
)
def test_predictions_that_cannot_be_are_refused_though_their_hash_was_noted(tmp_path, noted, told, words):
    with pytest.raises(DamagedError) as raised:
        predictions_of(finished(tmp_path, noted=noted, **told))
    assert words in str(raised.value)
    assert "predictions.parquet" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all"])
def test_predictions_of_an_earlier_version_that_cannot_be_read_are_named(tmp_path, content):
    store = finished(tmp_path, noted=False)
    store.write_bytes(FILES.predictions, content)
    mark = {**(read_mark(store, JOB) or {}), "predictions_sha256": digest(content)}
    store.write_bytes(FILES.done, json.dumps(mark).encode())
    with pytest.raises(DamagedError, match=r"predictions\.parquet is damaged \(.+\); start the run again"):
        predictions_of(store)


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (b'{"epoch": 1, "train_lo', "is not whole lines of JSON"),
        (b"[1]\n", "lines that are no JSON objects"),
        (b'{"epoch": 1}\n', "does not hold what it should"),
        (b"", "holds 0 epochs, not 1"),
    ],
)
def test_a_history_of_an_earlier_version_that_cannot_be_is_named(tmp_path, history, words):
    store = finished(tmp_path, noted=False)
    store.write_bytes(FILES.history, history)
    with pytest.raises(DamagedError) as raised:
        read_history(store, JOB, read_mark(store, JOB) or {})
    assert str(raised.value).startswith(store.where(FILES.history))
    assert words in str(raised.value)


def test_a_study_file_of_an_earlier_version_that_was_edited_is_explained_with_the_line(tmp_path):
    study = Study.model_validate({"name": "s", "cohort": {"manifest": "m.csv", "classes": ["a", "b"]}})
    text = dump_document(study.model_dump(mode="json"))
    assert "  k: 5\n" in text
    (tmp_path / "study.yaml").write_text(text.replace("  k: 5\n", "  k: three\n"))
    with pytest.raises(
        DamagedError, match=r"study\.yaml:\d+: folds\.k is 'three', but should be a whole number; start"
    ):
        read_study(Store(tmp_path))


def test_folds_of_an_earlier_version_that_were_cut_are_named(tmp_path):
    store = Store(tmp_path)
    content = table_bytes(folds_table(Folds(["x", "y"], np.array([[Part.TEST, Part.TRAINING]], dtype=np.int8))))
    store.write_bytes("folds.arrow", content)
    assert read_folds(store).test_ids() == {0: ["x"]}
    for end in range(0, len(content) - 1, 50):
        store.write_bytes("folds.arrow", content[:end])
        with pytest.raises(DamagedError, match=r"folds\.arrow is damaged"):
            read_folds(store)


@pytest.mark.parametrize("part", ["history", "tensor"])
def test_a_checkpoint_with_another_number_is_not_continued_and_that_is_told(tmp_path, part):
    path = tmp_path / "c.safetensors"
    save_progress(path, Progress([EPOCH], {"w": torch.full((3,), 7.0)}, {}, {}), "f")
    old, new = {"history": (b"0.7", b"0.8"), "tensor": (np.float32(7).tobytes(), np.float32(8).tobytes())}[part]
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    told: list[str] = []
    assert load_progress(path, "f", Epoch, lambda: told.append("damaged")) is None
    assert told == ["damaged"]


def test_a_workspace_that_is_damaged_is_not_replaced_by_a_second_one(tmp_path):
    study = Study.model_validate({"name": "s", "cohort": {"manifest": "m.csv", "classes": ["a", "b"]}})
    Store(tmp_path).write_bytes(WORKSPACE, b'{"id": "abc')
    with pytest.raises(DamagedError, match=r"workspace\.json is not whole JSON; remove it"):
        write_dashboard(study, Store(tmp_path))


READERS = {
    "run.artefacts": "where run directories are read",
    "run.store": "reads JSON for it",
    "run.results": "reads the classes in the metadata of a file that was checked",
    "run.context": "reads in the metadata of features what computed them",
    "run.tracking_live": "reads a pipe",
    "run.kuberay_jobs": "reads what kubectl prints",
    "run.kuberay_manifest": "copies plain data",
}


def raw_readers(text):
    """Calls that read a file's content and know nothing of what was written."""
    calls = {"open_file", "open_stream", "parquet_table", "ParquetFile", "safe_load", "loads", "model_validate_json"}
    tree = ast.walk(ast.parse(text))
    return [
        node.lineno
        for node in tree
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in calls)
            or (isinstance(node.func, ast.Name) and node.func.id in calls)
        )
    ]


def test_run_directories_are_read_by_one_module_that_names_what_is_damaged():
    found = {
        f"{part}.{path.stem}": lines
        for part in ("run", "cli", "report")
        for path in sorted((PACKAGE / part).glob("*.py"))
        if (lines := raw_readers(path.read_text(encoding="utf-8")))
    }
    assert set(found) <= set(READERS), found


def test_a_raw_reader_is_found():
    assert raw_readers("import json\n\ndef f(path):\n    return json.loads(path.read_text())\n") == [4]
    assert raw_readers("from x import parquet_table\nparquet_table(b'')") == [2]
