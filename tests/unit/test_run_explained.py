"""What the system refuses is said of the file that it refused, with what would help there."""

import errno
import os
from pathlib import Path

import pytest

from cxrdist.cohort.publish import cache_errors
from cxrdist.errors import UserError, explanation
from cxrdist.run.object_store import explained_cache
from cxrdist.run.store import Store, explained, whole_file

REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE]


def refused(number, path):
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_the_place_that_failed_is_named_with_its_own_remedy(number, tmp_path):
    run, cache = Store(tmp_path / "run"), Store(tmp_path / "cache")
    for path, words, others in (
        (tmp_path / "run" / "plan.json", ["run directory", "--run-dir"], "execution.cache"),
        (tmp_path / "cache" / "shards" / "x", ["cache folder", "execution.cache"], "--run-dir"),
    ):
        with (
            pytest.raises(UserError) as failed,
            run.explained("choose another with --run-dir"),
            explained_cache(cache),
        ):
            raise refused(number, path)
        assert all(word in str(failed.value) for word in [*words, os.strerror(number)])
        assert others not in str(failed.value)


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_another_file_is_not_blamed_on_a_folder_but_named_itself(number, tmp_path):
    path = tmp_path / "images" / "a.png"
    with (
        pytest.raises(OSError, match="images") as failed,
        Store(tmp_path / "run").explained("choose another"),
        explained_cache(Store(tmp_path / "cache")),
        cache_errors(tmp_path / "cache"),
    ):
        raise refused(number, path)
    sentence = explanation(failed.value)
    assert sentence is not None
    assert str(path) in sentence
    assert "run directory" not in sentence


def test_a_folder_that_cannot_be_made_in_another_is_the_one_that_was_asked_for(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "run"
    said = r"The folder X cannot be written \(Not a directory.*\); choose"
    with pytest.raises(UserError, match=said), explained("The folder X", "choose another", folder):
        folder.mkdir(parents=True)


def test_a_file_that_cannot_be_read_is_not_said_to_be_unwritable(tmp_path, monkeypatch):
    (tmp_path / "plan.json").write_text("{}")
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = r"cannot be read \(Permission denied: '.*plan.json'\)"
    with pytest.raises(UserError, match=said), Store(tmp_path).explained("choose another"):
        raise refused(errno.EACCES, tmp_path / "plan.json")


def test_a_full_disk_in_the_middle_of_an_artefact_says_which(tmp_path):
    run = Store(tmp_path)
    with (
        pytest.raises(UserError, match=r"The run directory .* is full"),
        run.explained("choose another"),
        whole_file(tmp_path / "a" / "b"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_errors_of_no_file_stay_what_they_are(tmp_path):
    for error in (ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError("late"), OSError("damaged")):
        with pytest.raises(OSError, match=str(error)[-5:]), Store(tmp_path).explained("choose another"):
            raise error
        assert explanation(error) is None
    assert "A disk is full" in str(explanation(OSError(errno.ENOSPC, "No space left on device")))


def test_a_relative_name_is_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="The run directory"), Store(Path("run")).explained("choose another"):
        raise refused(errno.EACCES, tmp_path / "run" / "x")
