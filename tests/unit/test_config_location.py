"""Where things are kept: one place has one name, however it is written, and there may be no home folder."""

import pwd
from contextlib import ExitStack

import pytest

from cxrdist.cli.compare import folder_name
from cxrdist.config import load_study
from cxrdist.config.location import absolute_location, home_folder, is_same_place, own_folder, with_home
from cxrdist.errors import UserError
from cxrdist.learn import weights
from cxrdist.run.driver import open_tools
from cxrdist.run.object_store import open_cache, open_store, user_cache
from cxrdist.run.tracking import server_url

STUDY = "name: s\ncohort: {manifest: m.csv, classes: [a, b]}\n"


@pytest.fixture
def homeless(monkeypatch):
    """An account that the system does not know, as containers have: no HOME, and no entry in the list of accounts."""

    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("given", ["s3://b/p", "s3://b/p/", "s3://b/p//", "s3://b/p/?", "s3://b/p?"])
def test_slashes_at_the_end_of_a_uri_mean_nothing(given):
    assert absolute_location(given, "--run-dir") == "s3://b/p"
    assert absolute_location("gs://b/?anonymous=true", "--run-dir") == "gs://b?anonymous=true"


def test_a_folder_has_one_location_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "x")
    monkeypatch.chdir(tmp_path)
    given = [
        "runs/x",
        "runs/x/",
        "./runs//x",
        "runs/../runs/x",
        "link",
        str(tmp_path / "runs" / "x"),
        str(tmp_path / "link"),
    ]
    assert {absolute_location(one, "--run-dir") for one in given} == {str((tmp_path / "runs" / "x").resolve())}


def test_a_place_in_a_bucket_is_one_however_it_is_reached_but_not_on_another_server():
    reached = ["s3://b/p", "s3://b/p?region=eu-central-1", "s3://b/p?scheme=http"]
    assert all(is_same_place(one, other) for one in reached for other in reached)
    others = ["s3://b/q", "gs://b/p", "s3://b", "/b/p", "s3://b/p?endpoint_override=127.0.0.1:1"]
    assert not any(is_same_place(one, other) for one in reached for other in others)


@pytest.mark.parametrize("given", ["s3://b/first/", "s3://b/first"])
def test_a_run_in_a_bucket_is_called_by_the_last_part_of_its_prefix(given, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder_name(open_store(f"{given}?endpoint_override=127.0.0.1:1&scheme=http")) == "first"


def test_where_there_is_no_home_folder_one_sentence_says_what_to_set(homeless, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no home folder .* set HOME or XDG_CACHE_HOME to a folder"):
        user_cache()
    with pytest.raises(UserError, match=r"no home folder .* set HOME or XDG_CONFIG_HOME to a folder"):
        own_folder("XDG_CONFIG_HOME", ".config")
    with pytest.raises(UserError, match="set HOME to a folder"):
        home_folder()
    with pytest.raises(UserError, match=r"--run-dir is '~/x', but should be a path: this account has no home folder"):
        open_store("~/x")
    (tmp_path / "s.yaml").write_text(f"{STUDY}execution: {{cache: ~/x}}\n")
    with pytest.raises(UserError, match=r"s.yaml:3: execution.cache is '~/x', .* this account has no home folder"):
        load_study(tmp_path / "s.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="TORCH_HOME"):
        weights._imagenet_file("vgg16")
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_what_needs_no_home_folder_works_without_one(homeless, tmp_path, monkeypatch):
    assert open_cache(str(tmp_path)).root == tmp_path
    assert server_url() == "https://api.wandb.ai"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "cxrdist"


def test_ray_is_not_started_without_a_home_folder_for_it_asks_for_one(homeless, tmp_path):
    (tmp_path / "s.yaml").write_text(STUDY)
    execution = load_study(tmp_path / "s.yaml").execution
    with pytest.raises(UserError, match="set HOME"):
        open_tools(execution, ExitStack())


def test_a_user_that_the_system_does_not_know_is_named():
    with pytest.raises(ValueError, match="knows no user 'nobody-of-this-name'"):
        with_home("~nobody-of-this-name/x")
