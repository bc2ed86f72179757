"""Shards: exactly what decoding gave, whole or not there at all, and never stale."""

import hashlib
import json
import multiprocessing
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cxrdist.cohort.chunks import CHUNK_IMAGES, DecodeChunk, ImageFile, decode_chunk, run_on_cores
from cxrdist.cohort.decode import DECODER_VERSION, Limits, Preprocessing, decode_grey, decode_mask
from cxrdist.cohort.shards import ShardError, ShardSet, check_quarantine, find_shards, prepare_shards
from cxrdist.cohort.table import COHORT_SCHEMA, Cohort
from cxrdist.errors import CxrdistError, UserError
from cxrdist.machine import usable_cores

SIZE = 32
IMAGE_BYTES = SIZE * SIZE
PREPROCESSING = Preprocessing(SIZE)

several_cores = pytest.mark.skipif(usable_cores() < 2, reason="one core decodes in this process")


def write_cohort(root, n, hashes=False):
    """n noise images, of which every other one has a mask."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(root / f"{i:03d}.png")
        row = {"image_id": f"image-{i:03d}", "path": f"{i:03d}.png", "label": "ab"[i % 2]}
        if i % 2:
            Image.fromarray(rng.integers(0, 2, (40, 40), dtype=np.uint8)).save(root / f"{i:03d}-mask.png")
            row["mask_path"] = f"{i:03d}-mask.png"
        if hashes:
            row["sha256"] = hashlib.sha256((root / row["path"]).read_bytes()).hexdigest()
        rows.append(row)
    return Cohort(pa.Table.from_pylist(rows, schema=COHORT_SCHEMA), root.resolve(), ("a", "b"))


@pytest.fixture
def cohort(tmp_path):
    return write_cohort(tmp_path / "images", 10)


def forbidden(function, chunks):
    raise AssertionError("decoded again")


def in_reverse(function, chunks):
    return map(function, reversed(chunks))


def prepare(cohort, cache, *, with_masks=False, **options):
    return prepare_shards(cohort, PREPROCESSING, cache, with_masks=with_masks, **options)


def assert_equal(shards, other):
    assert shards.image_ids == other.image_ids
    assert shards.pixels_hash == other.pixels_hash
    np.testing.assert_array_equal(shards.images, other.images)
    np.testing.assert_array_equal(shards.has_mask, other.has_mask)


def test_shards_hold_exactly_what_decoding_gives(cohort, tmp_path):
    shards = prepare(cohort, tmp_path / "cache", with_masks=True)
    assert shards.image_ids == cohort.image_ids
    assert shards.has_mask.tolist() == [i % 2 == 1 for i in range(10)]
    for row, (path, mask_path) in enumerate(zip(cohort.column("path"), cohort.column("mask_path"), strict=True)):
        decoded = decode_grey((cohort.root / path).read_bytes(), PREPROCESSING)
        np.testing.assert_array_equal(shards.images[row], decoded)
        mask = np.zeros_like(decoded)
        if mask_path:
            mask = decode_mask((cohort.root / mask_path).read_bytes(), PREPROCESSING, Limits(), None)
        np.testing.assert_array_equal(shards.masks[row], mask)


def test_images_are_the_mapped_file_itself_and_read_only(cohort, tmp_path):
    shards = prepare(cohort, tmp_path / "cache", with_masks=True)
    (path,) = shards.folder.glob("*.arrow")
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        assert file.num_record_batches == 1
        assert file.schema.field("pixels").type == pa.fixed_shape_tensor(pa.uint8(), [SIZE, SIZE])
        assert json.loads(file.schema.metadata[b"preprocessing"])["size"] == SIZE
        assert file.schema.metadata[b"cohort_hash"].decode() == cohort.content_hash
    for array in (shards.images, shards.masks):
        assert not array.flags.writeable
        assert not array.flags.owndata
    assert np.shares_memory(shards.images, shards.parts[0])
    assert np.shares_memory(shards.images, shards.images)
    with pytest.raises(ValueError, match="read-only"):
        shards.images[0, 0, 0] = 1
    # What is written into the file shows in the array: it is the file, not a copy.
    found = path.read_bytes().index(shards.images[3].tobytes())
    before = int(shards.images[3, 0, 0])
    with path.open("r+b") as raw:
        raw.seek(found)
        raw.write(bytes([255 - before]))
    assert shards.images[3, 0, 0] == 255 - before


@pytest.mark.parametrize("per_part", [1, 3, 4, 9])
def test_several_parts_are_as_one(cohort, tmp_path, per_part):
    one = prepare(cohort, tmp_path / "one", with_masks=True)
    several = prepare(
        cohort, tmp_path / "several", with_masks=True, max_shard_bytes=per_part * IMAGE_BYTES, run_chunks=in_reverse
    )
    assert len(one.parts) == 1
    assert [len(part) for part in several.parts[:-1]] == [per_part] * (len(several.parts) - 1)
    assert_equal(one, several)
    assert several.pixels.shape == one.images.shape
    rows = np.array([9, 0, 4, 4, 7, 3], dtype=np.int64)
    out = np.empty((6, SIZE, SIZE), dtype=np.uint8)
    for shards in (one, several):
        assert shards.take(rows, out) is out
        np.testing.assert_array_equal(out, one.images[rows])
        np.testing.assert_array_equal(shards.take_masks(rows), one.masks[rows])


def test_take_refuses_wrong_rows_and_buffers(cohort, tmp_path):
    shards = prepare(cohort, tmp_path)
    for rows in ([-1], [10]):
        with pytest.raises(IndexError, match=r"\[0, 10\)"):
            shards.take(np.array(rows))
    with pytest.raises(ValueError, match="out must be"):
        shards.take(np.array([1, 2]), np.empty((1, SIZE, SIZE), dtype=np.uint8))
    assert shards.take(np.array([], dtype=np.int64)).shape == (0, SIZE, SIZE)
    with pytest.raises(ShardError, match="made without masks"):
        shards.take_masks(np.array([0]))


def test_shards_are_found_once_they_are_made_and_no_more_when_a_file_changes(cohort, tmp_path):
    def found(*, with_masks=True):
        return find_shards(cohort, PREPROCESSING, tmp_path, with_masks=with_masks)

    assert found() is None
    made = prepare(cohort, tmp_path, with_masks=True)
    assert found().folder == made.folder
    assert found(with_masks=False) is None
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(cohort.root / "001-mask.png")
    assert found() is None


def test_hashes_tell_pixels_masks_and_ids_apart(cohort, tmp_path):
    original = prepare(cohort, tmp_path, with_masks=True)
    without_masks = prepare(cohort, tmp_path)
    assert without_masks.pixels_hash == original.pixels_hash
    assert without_masks.masks_hash != original.masks_hash

    rows = [{**row, "image_id": "z" + row["image_id"]} for row in cohort.table.to_pylist()]
    renamed = prepare(replace(cohort, table=pa.Table.from_pylist(rows, COHORT_SCHEMA)), tmp_path, with_masks=True)
    assert renamed.pixels_hash != original.pixels_hash
    assert renamed.masks_hash != original.masks_hash

    Image.fromarray(np.eye(40, dtype=np.uint8)).save(cohort.root / "001-mask.png")
    masked = prepare(cohort, tmp_path, with_masks=True)
    assert masked.pixels_hash == original.pixels_hash
    assert masked.masks_hash != original.masks_hash


def test_what_was_decoded_is_never_decoded_again(cohort, tmp_path):
    first = prepare(cohort, tmp_path / "cache", with_masks=True)
    again = prepare(cohort, tmp_path / "cache", with_masks=True, run_chunks=forbidden, on_note=pytest.fail)
    assert again.folder == first.folder
    assert_equal(first, again)


def test_what_another_decoder_decoded_is_decoded_again_and_equal_pixels_keep_their_hash(cohort, tmp_path, monkeypatch):
    before = prepare(cohort, tmp_path / "cache")
    monkeypatch.setattr("cxrdist.cohort.shards.DECODER_VERSION", DECODER_VERSION + 1)
    with pytest.raises(AssertionError, match="decoded again"):
        prepare(cohort, tmp_path / "cache", run_chunks=forbidden)
    after = prepare(cohort, tmp_path / "cache")
    assert after.folder != before.folder
    assert_equal(before, after)


def test_files_known_by_hash_are_found_again_in_a_copied_folder(tmp_path):
    cohort = write_cohort(tmp_path / "images", 4, hashes=True)
    first = prepare(cohort, tmp_path / "cache")
    shutil.copytree(cohort.root, tmp_path / "copy")
    moved = replace(cohort, root=tmp_path / "copy")
    assert_equal(first, prepare(moved, tmp_path / "cache", run_chunks=forbidden))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("L", (9, 9), 5).save(root / "002.png"),
        lambda root: Image.new("L", (9, 9), 1).save(root / "001-mask.png"),
        lambda root: (root / "002.png").unlink(),
    ],
    ids=["image", "mask", "removed"],
)
def test_a_changed_file_is_decoded_again(cohort, tmp_path, change):
    before = prepare(cohort, tmp_path, with_masks=True)
    change(cohort.root)
    after = prepare(cohort, tmp_path, with_masks=True)
    assert (after.pixels_hash, after.masks_hash) != (before.pixels_hash, before.masks_hash)


def test_bad_files_are_quarantined_with_the_reason(tmp_path):
    cohort = write_cohort(tmp_path / "images", 8, hashes=True)
    (cohort.root / "000.png").unlink()
    (cohort.root / "002.png").write_bytes(b"text")
    (cohort.root / "003-mask.png").write_bytes(b"")
    rows = cohort.table.to_pylist()
    rows[4]["sha256"] = "0" * 64
    rows[2]["sha256"] = None
    cohort = replace(cohort, table=pa.Table.from_pylist(rows, COHORT_SCHEMA))
    shards = prepare(cohort, tmp_path / "cache", with_masks=True)
    assert shards.image_ids == [f"image-{i:03d}" for i in (1, 5, 6, 7)]
    assert [(bad.image_id, bad.reason.split(" ...")[0][:24]) for bad in shards.quarantine] == [
        ("image-000", "is missing"),
        ("image-002", "is not an image (JPEG, P"),
        ("image-003", "mask: is empty"),
        ("image-004", "has sha256 " + hashlib.sha256((cohort.root / "004.png").read_bytes()).hexdigest()[:12] + "."),
    ]
    assert ShardSet.open(shards.folder).quarantine == shards.quarantine
    check_quarantine(shards, 8, 0.5, tmp_path)
    with pytest.raises(UserError, match=r"4 of 8 images \(50\.0%\) .*max_quarantined \(49\.0%\).*000\.png is missing"):
        check_quarantine(shards, 8, 0.49, tmp_path)
    (cohort.root / "000.PNG").touch()
    with pytest.raises(UserError, match=r"; 1 of 1 may be others that are there, such as '000.PNG' for '000.png'\.$"):
        check_quarantine(shards, 8, 0.49, cohort.root)


def test_a_mended_file_leaves_quarantine(tmp_path):
    cohort = write_cohort(tmp_path / "images", 4, hashes=True)
    good = (cohort.root / "002.png").read_bytes()
    (cohort.root / "002.png").write_bytes(good + b"x")
    assert len(prepare(cohort, tmp_path / "cache").quarantine) == 1
    assert len(prepare(cohort, tmp_path / "cache", run_chunks=forbidden).quarantine) == 1
    (cohort.root / "002.png").write_bytes(good)
    notes: list[str] = []
    assert prepare(cohort, tmp_path / "cache", on_note=notes.append).quarantine == []
    assert len(notes) == 1
    assert "'002.png', which has changed" in notes[0]


def test_a_cohort_of_bad_files_gives_no_images(cohort, tmp_path):
    for path in cohort.root.iterdir():
        path.write_bytes(b"")
    shards = prepare(cohort, tmp_path, with_masks=True)
    assert shards.images.shape == shards.masks.shape == (0, SIZE, SIZE)
    assert len(shards.quarantine) == 10


def spoil_index(folder, **values):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | values))


def flip_a_pixel(folder):
    part = folder / "part-00000.arrow"
    data = bytearray(part.read_bytes())
    data[data.index(ShardSet.open(folder).images[5].tobytes()) + 7] ^= 1
    part.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: spoil_index(folder, version=0), "are of version 0, not 2"),
        (lambda folder: spoil_index(folder, n=9), "hold 10 images, not 9"),
        (lambda folder: spoil_index(folder, parts=None), "cannot be read"),
        (lambda folder: spoil_index(folder, pixels_hash="0"), "does not belong to them"),
        (lambda folder: (folder / "index.json").write_text("{"), "have no readable index"),
        (lambda folder: (folder / "index.json").unlink(), "have no readable index"),
        (lambda folder: (folder / "part-00000.arrow").unlink(), "cannot be read"),
        (lambda folder: (folder / "part-00000.arrow").write_bytes(b"ARROW1\0\0"), "cannot be read"),
        (flip_a_pixel, "'part-00000.arrow' .* was changed since it was written"),
    ],
)
def test_shards_that_are_not_as_written_are_made_again(cohort, tmp_path, spoil, reason):
    shards = prepare(cohort, tmp_path)
    expected, images = shards.pixels_hash, shards.images.copy()
    del shards
    (folder,) = (tmp_path / "shards").iterdir()
    spoil(folder)
    with pytest.raises(ShardError, match=reason):
        ShardSet.open(folder, verify=True)
    notes: list[str] = []
    again = prepare(cohort, tmp_path, on_note=notes.append)
    assert again.pixels_hash == expected
    np.testing.assert_array_equal(again.images, images)
    assert len(notes) == 1
    assert notes[0].endswith("made again.")
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [folder.name]


def test_shards_written_meanwhile_by_another_process_are_taken(cohort, tmp_path):
    def overtaken(function, chunks):
        yield from map(function, chunks)
        prepare(cohort, tmp_path)

    assert len(prepare(cohort, tmp_path, run_chunks=overtaken).image_ids) == 10
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_a_failing_runner_leaves_nothing_behind(cohort, tmp_path):
    def losing(function, chunks):
        yield from ()

    def repeating(function, chunks):
        yield from [function(chunks[0])] * 2

    with pytest.raises(CxrdistError, match="Only 0 of 10 images came back"):
        prepare(cohort, tmp_path, run_chunks=losing)
    with pytest.raises(CxrdistError, match="decoded twice"):
        prepare(cohort, tmp_path, run_chunks=repeating)
    assert list((tmp_path / "shards").iterdir()) == []


def started(code, *arguments, sent) -> Any:
    """A Python process that runs `code` and finds `sent` pickled on its standard input."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(pickle.dumps(sent))
    process.stdin.close()
    return process


KILLED = """
import pickle, sys, time
from pathlib import Path
from typing import Any
from cxrdist.cohort.decode import Preprocessing
from cxrdist.cohort.shards import find_shards, prepare_shards

def stuck(function, chunks):
    yield function(chunks[0])
    print("writing", flush=True)
    time.sleep(60)

cohort = pickle.loads(sys.stdin.buffer.read())
prepare_shards(cohort, Preprocessing(32), Path(sys.argv[1]), with_masks=False, run_chunks=stuck, max_shard_bytes=5000)
"""


def test_a_killed_writer_leaves_a_usable_cache(cohort, tmp_path):
    writer = started(KILLED, tmp_path, sent=cohort)
    assert writer.stdout.readline() == b"writing\n"
    (half,) = (tmp_path / "shards").iterdir()
    assert (half / "part-00000.arrow").exists()
    # Of a process that lives, nothing is touched.
    other = prepare_shards(cohort, Preprocessing(64), tmp_path, with_masks=False)
    assert half.exists()
    writer.kill()
    writer.wait()
    writer.stdout.close()
    shards = prepare(cohort, tmp_path)
    assert len(shards.image_ids) == 10
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {shards.folder.name, other.folder.name}


def test_a_pool_of_processes_gives_the_same_shards(tmp_path):
    cohort = write_cohort(tmp_path / "images", 2 * CHUNK_IMAGES + 5)
    progress = []
    pooled = prepare(cohort, tmp_path / "pool", on_progress=lambda done, total: progress.append((done, total)))
    inline = prepare(cohort, tmp_path / "inline", run_chunks=map)
    assert_equal(pooled, inline)
    assert progress == sorted(set(progress))
    assert len(progress) == 3
    assert progress[-1] == (133, 133)


def chunks_of(n):
    file = ImageFile("i", "i.png", None, None)
    return [DecodeChunk(i, Path("/"), (file,) * CHUNK_IMAGES, PREPROCESSING, False, Limits()) for i in range(n)]


@several_cores
def test_a_killed_decoding_process_is_an_error_of_one_sentence():
    def kill_the_first():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.001)
        children[0].kill()

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with pytest.raises(CxrdistError, match=r"processes died.*run the command again\.$"):
        list(run_on_cores(decode_chunk, chunks_of(2)))
    killer.join()
    assert multiprocessing.active_children() == []


ORPHANING = """
import pickle, sys, time
from cxrdist.cohort.chunks import decode_chunk, run_on_cores
results = run_on_cores(decode_chunk, pickle.loads(sys.stdin.buffer.read()))
next(results)
print("decoding", flush=True)
time.sleep(60)
"""


@several_cores
@pytest.mark.timeout(30)
def test_decoding_processes_end_with_their_killed_parent():
    parent = started(ORPHANING, sent=chunks_of(2))
    assert parent.stdout.readline() == b"decoding\n"
    parent.kill()
    parent.wait()
    # The pipe ends when the last process that inherited it does.
    assert parent.stdout.read() == b""
    parent.stdout.close()


def test_a_shard_set_is_sent_to_other_processes_by_its_folder(cohort, tmp_path):
    shards = prepare(cohort, tmp_path, with_masks=True)
    sent = pickle.dumps(shards)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert_equal(shards, received)
    np.testing.assert_array_equal(shards.masks, received.masks)


def test_chunks_and_results_can_be_sent_to_other_processes(cohort, tmp_path):
    def through_pickle(function, chunks):
        assert function is decode_chunk
        return (pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(chunk))))) for chunk in chunks)

    assert len(prepare(cohort, tmp_path, with_masks=True, run_chunks=through_pickle).image_ids) == 10


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_key(cohort, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache folder .*/file. cannot be written \(.*\).*execution\.cache"):
        prepare(cohort, tmp_path / "file")


def test_a_full_disk_is_an_error_that_names_the_key(cohort, tmp_path):
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The nearest to a full disk that needs no rights: no file may grow beyond 2 kB.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        with pytest.raises(UserError, match=r"cannot be written .*execution\.cache"):
            prepare(cohort, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((tmp_path / "cache" / "shards").iterdir()) == []
