"""What a number depends on besides the options: versions, machine, device, threads."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
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
    """Bytes of RAM that this process may use: the machine's, or its container's share; 8 GiB where none is known."""
    limits = [8 << 30] if not hasattr(os, "sysconf") else [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(Path(path).read_text("ascii")))
    return min(limits)


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
