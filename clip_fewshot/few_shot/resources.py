"""How many processes train side by side, with how many threads and how much memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import RunOptions
from clip_fewshot.errors import ResourceError, UsageError
from clip_fewshot.few_shot.approach import Approach
from clip_fewshot.few_shot.cross_validation import drop_first_layers
from clip_fewshot.few_shot.foreign import list_foreign_parts
from clip_fewshot.runtime.environment import usable_cores, usable_memory
from clip_fewshot.runtime.workers import explain_refusal

PROCESSES_MEMORY_SHARE = 0.75  # of the machine's memory, for all workers
BASE_BYTES = 420 << 20  # of a worker before it trains: torch, scikit-learn
STATE = 3  # of the trained layers, at least: gradients and two moments, beside a whole model
COPIES = 12  # of the trained layers, at most: weights, gradients, two moments, states between layers; 11 for ViT-B/32


class Resources(NamedTuple):
    """What the trainings of a run may use.

    Attributes:
        jobs: processes that train side by side.
        threads: of each training.
        memory: bytes of states in memory, as in :func:`prepare_support`; several processes map them from the disk and
            share them.
    """

    jobs: int
    threads: int
    memory: int | None


def measure_resources(run: RunOptions, backbone: Backbone, n: int) -> Resources:
    """What trainings of the last ``n`` layers may use; one process where several runs share a study, or on a GPU."""
    alone = bool(run.storage) or backbone.device.type != "cpu"
    if alone and (run.jobs or 1) > 1:
        fix = "leave it out"
        raise UsageError(expected="one process on a GPU", got=f"{run.jobs} (`jobs`)", fix=fix, where="`jobs`")
    room = count_processes(backbone, n)
    jobs = run.jobs or (1 if alone else room)
    memory = 0 if jobs > 1 else None
    if run.cache_memory is not None:
        memory = int(run.cache_memory * 2**30)
    return Resources(jobs, max(1, usable_cores() // room), memory)


def count_processes(backbone: Backbone, n: int) -> int:
    """How many processes that train the last ``n`` layers the cores and the memory of this machine suffice for.

    Raises:
        ResourceError: the memory does not suffice for one, on a CPU.
    """
    trained, room = _bytes_of(drop_first_layers(backbone, n)), usable_memory()
    least = BASE_BYTES + _bytes_of(backbone) + (STATE * trained if n else 0)
    if least > room and backbone.device.type == "cpu":
        got, fix = f"{room / 2**30:.2f} GiB", "train fewer layers (`max_unfreeze`), or take a smaller `model`"
        expected = f"{least / 2**30:.2f} GiB of memory or more"
        raise ResourceError(expected=expected, got=got, fix=fix, where=f"the last {n} layers")
    return max(1, min(usable_cores(), int(PROCESSES_MEMORY_SHARE * room) // (BASE_BYTES + COPIES * trained)))


def _bytes_of(backbone: Backbone) -> int:
    return sum(p.numel() * p.element_size() for p in backbone.parameters() if not p.is_meta)


def choose_jobs(approaches: Sequence[Approach], jobs: int) -> int:
    """``jobs``, or 1 with a warning where a foreign part cannot be sent to another process."""
    foreign = [approach for approach in approaches if list_foreign_parts(approach)]
    reasons = [reason for approach in foreign if jobs > 1 and (reason := explain_refusal(approach))]
    if not reasons:
        return jobs
    warnings.warn(f"one process instead of {jobs}: {reasons[0]}", RuntimeWarning, stacklevel=2)
    return 1
