"""A process uses the cores that it was given, not those that the machine has."""

import os
from pathlib import Path

import pytest

from cxrdist import machine

SOURCES = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_quota(monkeypatch, tmp_path):
    for name in ("_QUOTA", "_OLDER_QUOTA", "_OLDER_PERIOD"):
        monkeypatch.setattr(machine, name, tmp_path / name)
    return tmp_path


@pytest.mark.usefixtures("no_quota")
@pytest.mark.parametrize("cores", [{0}, {3, 7, 8}])
def test_cores_that_the_affinity_leaves_out_are_not_counted(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert machine.usable_cores() == len(cores)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"_QUOTA": "300000 100000\n"}, 3),
        ({"_QUOTA": "50000 100000\n"}, 1),
        ({"_QUOTA": "9900000 100000\n"}, 8),
        ({"_QUOTA": "max 100000\n"}, 8),
        ({"_QUOTA": "what"}, 8),
        ({"_OLDER_QUOTA": "200000\n", "_OLDER_PERIOD": "100000\n"}, 2),
        ({"_OLDER_QUOTA": "-1\n", "_OLDER_PERIOD": "100000\n"}, 8),
    ],
)
def test_a_containers_share_is_not_exceeded(monkeypatch, no_quota, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (no_quota / name).write_text(text)
    assert machine.usable_cores() == cores


def test_no_other_module_counts_the_cores_of_the_machine():
    modules = [path for path in (SOURCES / "cxrdist").rglob("*.py") if path.name != "machine.py"]
    assert [path.name for path in modules if "cpu_count" in path.read_text()] == []
