"""What is refused before Ray is started, since Ray would say it late, in part, or in its own words."""

import signal
import socket
import sys

import pytest
import ray

from cxrdist.errors import UserError
from cxrdist.run.ray_session import RaySession, require_room_for_sockets


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize("pid", [1, 4_194_304])
def test_the_longest_folder_that_is_accepted_has_room_for_ray_and_the_next_has_not(variable, pid):
    def accepts(length):
        try:
            require_room_for_sockets({variable: "/" + (length - 1) * "x"}, pid)
        except UserError as error:
            assert f"has at most {most_of(error)}" in str(error)
            assert f"{variable} is '/xxx" in str(error)
            assert "RAY_TMPDIR=/tmp" in str(error)
            return False
        return True

    def most_of(error):
        return int(str(error).split("has at most ")[1].split(";")[0])

    most = max(length for length in range(1, 200) if accepts(length))
    assert not accepts(most + 1)
    path = f"/{(most - 1) * 'x'}/ray/session_2026-12-01_03-32-56_679535_{pid}/sockets/dash_MetricsHead"
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(FileNotFoundError):
        one.connect(path)
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match="too long"):
        one.connect(f"{path}x")


def test_bytes_count_and_not_letters():
    require_room_for_sockets({"TMPDIR": "/" + 25 * "x"}, 12345)
    with pytest.raises(UserError, match="of 51 bytes"):
        require_room_for_sockets({"TMPDIR": "/" + 25 * "é"}, 12345)


def test_the_usual_folder_and_ray_s_own_variable_go_before():
    require_room_for_sockets({}, 12345)
    require_room_for_sockets({"RAY_TMPDIR": "/tmp", "TMPDIR": 200 * "x"}, 12345)


def test_a_session_says_it_before_it_starts_anything(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / (60 * "x")))
    with RaySession(None) as session, pytest.raises(UserError, match="TMPDIR is"):
        session.start()
    assert not list(tmp_path.iterdir())


def test_sigterm_while_ray_starts_ends_the_command_as_at_any_other_time(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    with RaySession(None) as session, pytest.raises(KeyboardInterrupt):
        session.start()
    assert signal.getsignal(signal.SIGTERM) is before
