"""What this process may use of the machine that it runs on."""

import os
from contextlib import suppress
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_OLDER_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_OLDER_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cores() -> int:
    """Return how many cores this process may use: those of its affinity, and no more than a container's share allows.

    A machine may have many more, which `os.cpu_count` counts.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _quota() -> float | None:
    """Return the cores' worth of time that the control group allows, None where it sets no limit."""
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota_us = int(_OLDER_QUOTA.read_text())
        return None if quota_us <= 0 else quota_us / int(_OLDER_PERIOD.read_text())
    return None


def cpu_name() -> str:
    """Return the model of the CPU, on which the last bits of what it computes may depend."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine
