"""What a number depends on besides the options: versions, machine, device, threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "optuna", "pillow", "safetensors")


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Versions and machine as they stand in results.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    machine: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": name,
        "threads": torch.get_num_threads(),
    }
    return machine | {package: _version(package) for package in ("clip_fewshot", *PACKAGES)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "not installed"
