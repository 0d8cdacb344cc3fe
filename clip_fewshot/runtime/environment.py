"""What a number depends on besides the options: versions, machine, device, threads."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

if sys.platform != "win32":
    import resource

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CGROUP_CORES = "/sys/fs/cgroup/cpu.max"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "optuna", "pillow", "safetensors")


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Versions and machine as they stand in results.json."""
    import torch  # here, because command lines ask this module for the cores and must answer at once

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    machine: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": name,
        "threads": torch.get_num_threads(),
    }
    return machine | {package: _version(package) for package in ("clip_fewshot", *PACKAGES)}


def usable_memory() -> int:
    """Bytes of RAM that this process may use: the machine's, its container's share, or what ulimit -v leaves it.

    8 GiB where none is known.
    """
    limits = [8 << 30] if not hasattr(os, "sysconf") else [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _memory_limits():
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(path.read_text("ascii")))
    if sys.platform != "win32" and (allowed := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(allowed)
    return min(limits)


def _memory_limits() -> Iterator[Path]:
    """Files with the limits of this process's control group and of those around it, of both versions of groups."""
    lines = []
    with contextlib.suppress(OSError):
        lines = OWN_CGROUPS.read_text("utf-8", "surrogateescape").splitlines()
    for line in ["0::/", "0:memory:/", *lines]:  # inside a container its own group is the root
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            root, name = (CGROUPS, "memory.max") if not controllers else (CGROUPS / "memory", "memory.limit_in_bytes")
            group = root / place.strip("/")
            yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(root))


def usable_cores() -> int:
    """Processors that this process may keep busy: those it is bound to, or its container's share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        quota, period = Path(CGROUP_CORES).read_text("ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "not installed"
