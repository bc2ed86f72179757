"""Artefacts in an object store: as in a folder, whole or not at all, whatever the store or the network does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxrdist.errors import CxrdistError, UserError
from cxrdist.run.object_store import ObjectStore, open_cache, open_store
from cxrdist.run.store import Store
from tests.integration.object_server import ObjectServer, Request, server

__all__ = ["server"]


@pytest.fixture(params=["folder", "run directory", "cache"])
def store(request: pytest.FixtureRequest, tmp_path: Path, server: ObjectServer) -> Store:
    """A store of each kind, empty."""
    if request.param == "folder":
        return Store(tmp_path / "store")
    location = server.location(f"{request.param.split()[0]}-{tmp_path.name}")
    return ObjectStore(location, tmp_path / "node", keeps=request.param == "cache", patience=20)


def bucket(server: ObjectServer, tmp_path: Path, *, keeps: bool = False, patience: float = 20.0) -> ObjectStore:
    """The store of a test in the bucket, seen from a machine of its own."""
    return ObjectStore(server.location(tmp_path.name), tmp_path / "node", keeps=keeps, patience=patience)


def test_what_is_written_is_read_wherever_it_lies(store: Store) -> None:
    store.create()
    store.write_bytes("a/b.bin", b"\0\1")
    store.write_json("a/c.json", {"x": 1.5})
    store.write_file("d.txt", lambda path: path.write_text("text"))
    assert store.read_bytes("a/b.bin") == b"\0\1"
    assert store.read_json("a/c.json") == {"x": 1.5}
    assert store.local("d.txt").read_text() == "text"
    assert [path.read_bytes() for path in store.local_files(["a/b.bin", "d.txt"])] == [b"\0\1", b"text"]
    assert store.exists("d.txt")
    assert not store.exists("a")
    assert store.names("") == ["a/b.bin", "a/c.json", "d.txt"]
    assert store.names("a") == ["a/b.bin", "a/c.json"]
    assert store.names("nothing") == []
    assert store.sub("a").read_bytes("b.bin") == b"\0\1"


def test_what_is_not_there_is_missing_in_the_same_way(store: Store) -> None:
    store.create()
    assert not store.exists("x/y")
    assert store.read_json("x/y") is None
    assert not store.local("x/y").exists()
    with pytest.raises(FileNotFoundError):
        store.read_bytes("x/y")
    store.remove("x/y")


def test_what_was_removed_is_gone(store: Store) -> None:
    store.create()
    store.write_bytes("x", b"1")
    store.local("x")
    store.remove("x")
    assert not store.exists("x")
    assert not store.local("x").exists()
    assert store.names("") == []


def test_a_folder_is_moved_whole_and_a_copy_leaves_the_original(store: Store) -> None:
    for name in ("jobs/a/done.json", "jobs/a/deep/model.bin", "jobs/ab/done.json"):
        store.write_bytes(name, name.encode())
    store.copy("jobs/a/done.json", "aside/1/copied.json")
    store.move("jobs/a", "aside/1/jobs/a")
    store.move("jobs/ab/done.json", "aside/1/done.json")
    assert store.names("jobs") == []
    moved = {"copied.json": "jobs/a/done.json", "done.json": "jobs/ab/done.json"}
    moved |= {name: name for name in ("jobs/a/done.json", "jobs/a/deep/model.bin")}
    assert {name: store.read_bytes(name).decode() for name in store.names("aside")} == {
        f"aside/1/{name}": content for name, content in moved.items()
    }


def test_an_empty_file_is_a_file(store: Store) -> None:
    store.create()
    store.write_bytes("empty", b"")
    store.write_file("made", lambda path: path.touch())
    assert store.read_bytes("empty") == store.read_bytes("made") == b""
    assert store.local("made").read_bytes() == b""


def test_a_later_version_of_a_run_directorys_artefact_is_the_one_that_is_read(
    server: ObjectServer, tmp_path: Path
) -> None:
    here, there = (
        ObjectStore(server.location(tmp_path.name), tmp_path / name, keeps=False, patience=20) for name in "ab"
    )
    here.write_bytes("checkpoint", b"first")
    assert there.local("checkpoint").read_bytes() == b"first"
    here.write_bytes("checkpoint", b"later")
    assert there.local("checkpoint").read_bytes() == b"later"
    here.remove("checkpoint")
    assert not there.local("checkpoint").exists()


def test_an_artefact_of_a_cache_is_fetched_once_by_a_machine(server: ObjectServer, tmp_path: Path) -> None:
    ObjectStore(server.location(tmp_path.name), tmp_path / "other", keeps=True, patience=20).write_bytes(
        "part", b"x" * 1000
    )
    server.requests.clear()
    for _ in range(3):
        assert len(bucket(server, tmp_path, keeps=True).local("part").read_bytes()) == 1000
    assert sum(request.method == "GET" for request in server.requests) == 1


def test_processes_of_a_machine_that_need_the_same_artefact_fetch_it_once(server: ObjectServer, tmp_path: Path) -> None:
    ObjectStore(server.location(tmp_path.name), tmp_path / "other", keeps=True, patience=20).write_bytes(
        "part", b"x" * 1000
    )
    server.requests.clear()
    code = (
        "import sys; from cxrdist.run.object_store import open_cache; "
        "print(len(open_cache(sys.argv[1], sys.argv[2]).local('part').read_bytes()))"
    )
    command = [sys.executable, "-c", code, server.location(tmp_path.name), str(tmp_path / "node")]
    with server.failing(lambda request: "late" if request.method == "GET" else ""):
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["1000"] * 3
    assert sum(request.method == "GET" for request in server.requests) == 1


@pytest.mark.parametrize("fault", ["refused", "cut", "late"])
def test_a_request_that_fails_some_times_is_repeated(server: ObjectServer, tmp_path: Path, fault: str) -> None:
    store = bucket(server, tmp_path)
    content = bytes(range(256)) * 40
    seen: dict[Request, int] = {}

    def twice(request: Request) -> str:
        seen[request] = seen.get(request, 0) + 1
        # What is cut is the answer to a question: an upload that came to its end was one, however it is answered.
        return fault if seen[request] <= 4 and (fault != "cut" or request.method == "GET") else ""

    with server.failing(twice):
        store.write_bytes("a", content)
        store.write_file("b", lambda path: path.write_bytes(content))
        assert store.read_bytes("a") == content
        assert store.local("b").read_bytes() == content
        assert store.names("") == ["a", "b"]
    assert len(server.faults) >= 4


def test_a_store_that_stays_away_ends_in_a_sentence(server: ObjectServer, tmp_path: Path) -> None:
    store = bucket(server, tmp_path, patience=1.0)
    started = time.monotonic()
    with server.failing(lambda _: "refused"), pytest.raises(CxrdistError) as failure:
        store.write_bytes("a", b"1")
    assert time.monotonic() - started < 20
    assert failure.value.exit_status == 1
    assert f"s3://studies/{tmp_path.name} has not answered for 1 s" in str(failure.value)
    assert "the same command continues" in str(failure.value)


def test_a_bucket_that_does_not_exist_is_a_users_mistake(server: ObjectServer, tmp_path: Path) -> None:
    location = server.location("x").replace("studies", "studdies")
    with pytest.raises(UserError, match="s3://studdies/x is in a bucket that does not exist"):
        ObjectStore(location, tmp_path, keeps=False, patience=20).create()


def test_a_refusal_is_not_repeated(server: ObjectServer, tmp_path: Path) -> None:
    store = ObjectStore(server.location("x").replace("studies", "studdies"), tmp_path, keeps=False, patience=20)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"s3://studdies/x refuses \(.*NO_SUCH_BUCKET"):
        store.write_bytes("a", b"1")
    assert time.monotonic() - started < 10


def test_a_full_disk_here_is_not_taken_for_a_store_that_fails(server: ObjectServer, tmp_path: Path) -> None:
    store = bucket(server, tmp_path)
    store.write_bytes("a", b"1" * 100)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        store._bucket.download(f"studies/{tmp_path.name}/a", full)


def test_a_process_killed_while_it_writes_leaves_no_artefact(server: ObjectServer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cxrdist.run.object_store import ObjectStore; "
        "store = ObjectStore(sys.argv[1], Path(sys.argv[2]), keeps=False, patience=20); "
        "store.write_bytes('model', b'x' * (50 * 2**20))"
    )
    command = [sys.executable, "-c", code, server.location(tmp_path.name), str(tmp_path / "node")]
    server.requests.clear()
    with server.failing(lambda request: "late" if "partNumber" in request.key else ""):
        process = subprocess.Popen(command)
        while not any("partNumber" in request.key for request in server.requests):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    store = bucket(server, tmp_path)
    assert not store.exists("model")
    assert store.names("") == []


def test_a_folder_comes_as_a_whole_and_is_checked_before_it_is_used(server: ObjectServer, tmp_path: Path) -> None:
    maker = ObjectStore(server.location(tmp_path.name), tmp_path / "maker", keeps=True, patience=20)
    folder = maker.root / "shards" / "key"
    folder.mkdir(parents=True)
    for name in ("index.json", "part-0", "part-1"):
        (folder / name).write_text(name)
    maker.publish_folder("shards/key")

    def refuse(_: Path) -> None:
        raise ValueError("damaged")

    store = bucket(server, tmp_path, keeps=True)
    with pytest.raises(ValueError, match="damaged"):
        store.fetch_folder("shards/key", refuse)
    assert not (store.root / "shards" / "key").exists()
    checked: list[Path] = []
    store.fetch_folder("shards/key", checked.append)
    assert {path.name for path in (store.root / "shards" / "key").iterdir()} == {"index.json", "part-0", "part-1"}
    assert len(checked) == 1
    store.fetch_folder("shards/key", refuse)


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("s4://bucket/x", "--run-dir is 's4://bucket/x', but should be a folder, s3://BUCKET/PREFIX"),
        ("s3://", "--run-dir is 's3://'"),
        ("s3:/bucket/x", "--run-dir is 's3:/bucket/x', but should be a folder, s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/x", "--run-dir holds a user or a key before an @"),
        ("s3://bucket/x?regoin=eu", r"has the option 'regoin' after the \?, but should have one of region, .*'region'"),
    ],
)
def test_a_wrong_location_is_one_sentence_without_the_secret(location: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as failure:
        open_store(location)
    assert "secret" not in str(failure.value)


def test_a_place_in_google_cloud_storage_is_opened_without_asking_it(tmp_path: Path) -> None:
    store = open_cache("gs://bucket/cache?anonymous=true", str(tmp_path))
    assert (store.where("shards/x"), store.location) == (
        "gs://bucket/cache/shards/x",
        "gs://bucket/cache?anonymous=true",
    )
