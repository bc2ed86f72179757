"""Trackers and their failures; where W&B is, and whether it says anything."""

import socket

import pytest

from cxrdist.config.models import TrackingConfig
from cxrdist.run.tracking import GuardedTracker, has_key, server_url, wandb_mode, why_silent


class Broken:
    """A tracker that fails at what it is named for."""

    def __init__(self, at):
        self.at = at
        self.calls = []
        self._call("start")

    def resume(self, steps):
        self._call("resume")

    def log(self, step, measures):
        self._call("log")

    def finish(self, *, failed, summary=None):
        self._call("finish")

    def _call(self, name):
        self.calls.append(name)
        if name == self.at:
            raise RuntimeError(f"no {name}")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Neither the user's environment nor files decide."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path


def follow(tracker):
    tracker.resume(1)
    tracker.log(2, {"loss": 1.0})
    tracker.log(3, {"loss": 1.0})
    tracker.finish(failed=False)


@pytest.mark.parametrize("at", ["start", "resume", "log", "finish"])
def test_a_failure_is_told_once_and_raises_nothing(at, tmp_path):
    told: list[str] = []
    follow(GuardedTracker(lambda: Broken(at), told.append, f"{tmp_path}/{at}"))
    assert told == [f"tracking stopped: RuntimeError: no {at}"]


def test_after_a_failure_a_tracker_is_left_alone(tmp_path):
    broken, told = Broken("log"), list[str]()
    follow(GuardedTracker(lambda: broken, told.append, f"{tmp_path}"))
    assert broken.calls == ["start", "resume", "log"]


@pytest.mark.parametrize("at", ["start", "log"])
def test_where_tracking_failed_it_is_neither_tried_nor_told_again(at, tmp_path):
    told, started = list[str](), list[int]()

    def start():
        started.append(1)
        return Broken(at)

    for _ in range(3):
        follow(GuardedTracker(start, told.append, f"{tmp_path}/{at}"))
    assert (len(started), len(told)) == (1, 1)
    follow(GuardedTracker(start, told.append, f"{tmp_path}/elsewhere"))
    assert (len(started), len(told)) == (2, 2)


def test_a_tracker_that_works_is_used_to_its_end(tmp_path):
    working = Broken("nothing")
    follow(GuardedTracker(lambda: working, pytest.fail, f"{tmp_path}"))
    assert working.calls == ["start", "resume", "log", "log", "finish"]


def test_auto_is_online_where_there_is_a_key(monkeypatch):
    auto = TrackingConfig(wandb="auto")
    assert (has_key(), wandb_mode(auto)) == (False, "offline")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert (has_key(), wandb_mode(auto)) == (True, "online")
    assert wandb_mode(TrackingConfig(wandb="offline")) == "offline"
    assert wandb_mode(TrackingConfig()) == "disabled"


def test_a_key_that_wandb_login_wrote_is_found_for_its_server_alone(monkeypatch, no_settings):
    (no_settings / ".netrc").write_text("machine wandb.example.org\n  login user\n  password k\n")
    (no_settings / ".netrc").chmod(0o600)
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert has_key()


def test_the_server_is_what_the_environment_says_then_what_wandb_login_wrote(monkeypatch, no_settings):
    assert server_url() == "https://api.wandb.ai"
    (no_settings / "settings").write_text("[default]\nbase_url = https://wandb.example.org/\n")
    assert server_url() == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:8080")
    assert server_url() == "http://127.0.0.1:8080"
    (no_settings / "settings").write_text("no settings at all")
    monkeypatch.delenv("WANDB_BASE_URL")
    assert server_url() == "https://api.wandb.ai"


def test_a_server_that_is_not_there_or_is_none_does_not_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert why_silent(url) == f"{url} does not answer"
    assert why_silent("no address") == "no address does not answer"


def test_a_server_that_takes_connections_and_says_nothing_does_not_answer(monkeypatch):
    monkeypatch.setattr("cxrdist.run.tracking._ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert why_silent(url) == f"{url} does not answer"
