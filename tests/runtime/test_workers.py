"""Worker processes: the same answers as here, no hang when one dies, none left when the parent does."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.config import RunOptions
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import ClipFewShotError, DivergedError, ResourceError, UsageError
from clip_fewshot.few_shot import resources as resources_module
from clip_fewshot.few_shot.approach import APPROACHES
from clip_fewshot.few_shot.cross_validation import drop_first_layers
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import Task, build_cross_validation, prepare
from clip_fewshot.runtime import workers
from clip_fewshot.runtime.workers import WorkerPool, limit_threads
from tests.runtime.worker_tasks import Tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PRICE", 0.0)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_workers_answer_as_this_process_does_and_are_gone_afterwards(at_once: None) -> None:
    tasks = Tasks(bytes(1_000_000))
    calls = [(tasks.add, (0.1 * i, 0.2)) for i in range(20)]
    with WorkerPool(2) as crew:
        assert crew.gather(calls) == WorkerPool(1).gather(calls)
        sizes = crew.gather([(tasks.size, ())] * 20)
        pids = {pid for pid, _ in sizes}
        assert len(pids - {os.getpid()}) == 2
        assert {size for _, size in sizes} == {1_000_000}
        assert crew.gather([(Tasks(b"other").size, ())])[0][1] == 5
        with pytest.raises(DivergedError, match="nan") as diverged:
            crew.submit(tasks.diverge).result()
        assert (diverged.value.fix, diverged.value.where) == ("lower the rates", "step 3")
        with pytest.raises(KeyError, match="a defect"):
            crew.submit(tasks.stumble).result()
        assert crew.submit(tasks.sleep, 0.05).result().seconds >= 0.05
        began = time.monotonic()
        crew.submit(tasks.sleep, 60)
    assert time.monotonic() - began < 20
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("how", ["lack_memory", "answer_with_half"])
def test_a_worker_that_dies_is_an_error_and_not_a_hang(how: str, at_once: None) -> None:
    with WorkerPool(2) as crew, pytest.raises(ResourceError, match="fewer `jobs`"):
        crew.gather([(getattr(Tasks(), how), ())] * 3)


PARENT = """
import signal
from clip_fewshot.runtime import workers
from tests.runtime.worker_tasks import Tasks
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
workers.PRICE = 0.0
with workers.WorkerPool(2) as crew:
    pids = {pid for pid, _ in crew.gather([(Tasks().size, ())] * 50)}
    print(*pids, flush=True)
    crew.gather([(Tasks().sleep, (100,))] * 2)
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A script without a `__main__` guard, read from standard input, in a session of its own."""
    command = [sys.executable, "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(PARENT)
        process.stdin.close()
        yield process
        process.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(number: signal.Signals, parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    assert parent.stderr is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(gone(pid) for pid in pids)
    # A terminal sends Ctrl-C to the parent and to its workers alike.
    os.kill(parent.pid, number) if number == signal.SIGKILL else os.killpg(parent.pid, number)
    end = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < end, "a worker is left over"
        time.sleep(0.02)
    assert parent.stderr.read().count("KeyboardInterrupt") == (number == signal.SIGINT)


def test_small_jobs_never_start_a_worker() -> None:
    with WorkerPool(8) as crew:
        assert crew.slots == 1
        assert crew.gather([(Tasks().size, ())])[0][0] == os.getpid()
        crew._spent = workers.PRICE
        assert crew.slots == 8


def test_calls_get_the_threads_that_workers_have_and_the_setting_comes_back() -> None:
    torch.set_num_threads(2)
    try:
        with limit_threads(1):
            assert torch.get_num_threads() == 1
        assert WorkerPool(1, threads=3).gather([(Tasks().torch_threads, ())]) == [3]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("cores", "gigabytes", "options", "expected"),
    [
        (2, 24, {}, (2, 1, 0)),
        (16, 64, {}, (16, 1, 0)),
        (16, 4, {}, (7, 2, 0)),
        (16, 4, {"jobs": 1}, (1, 2, None)),
        (16, 4, {"jobs": 3}, (3, 2, 0)),
        (1, 24, {}, (1, 1, None)),
        (2, 24, {"storage": "sqlite:///study.db"}, (1, 1, None)),
        (2, 24, {"cache_memory": 0.5}, (2, 1, 1 << 29)),
    ],
)
def test_threads_hang_on_the_machine_and_never_on_the_number_of_processes(
    cores: int,
    gigabytes: int,
    options: dict[str, Any],
    expected: tuple[int, int, int | None],
    tiny: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources_module, "usable_cores", lambda: cores)
    monkeypatch.setattr(resources_module, "usable_memory", lambda: gigabytes << 30)
    assert resources_module.measure_resources(RunOptions(**options), tiny, 2) == expected


def test_memory_too_small_for_one_training_is_told_before_it_runs_out(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = resources_module._bytes_of(tiny)
    for room, deep in ((resources_module.BASE_BYTES + size, 0), (resources_module.BASE_BYTES + 4 * size, 2)):
        monkeypatch.setattr(resources_module, "usable_memory", lambda room=room: room)
        assert resources_module.measure_resources(RunOptions(), tiny, deep).jobs == 1
        monkeypatch.setattr(resources_module, "usable_memory", lambda size=size: resources_module.BASE_BYTES + size - 1)
        with pytest.raises(ResourceError, match="`max_unfreeze`") as refused:
            resources_module.measure_resources(RunOptions(), tiny, deep)
        assert refused.value.exit_code == 4


def test_several_processes_on_a_gpu_are_refused(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "device", torch.device("cuda"))
    with pytest.raises(UsageError, match="jobs"):
        resources_module.measure_resources(RunOptions(jobs=2), tiny, 2)


@pytest.mark.parametrize("kind", [ClipFewShotError, UsageError, ResourceError, DivergedError])
def test_errors_keep_their_parts_on_the_way(kind: type[ClipFewShotError]) -> None:
    error = kind(expected="a", got="b", fix="c", where="d")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.where) == (kind, str(error), "d")


RESNET = CLIPConfig(
    embed_dim=16, image_size=32, vision_layers=(1, 1, 1, 1), vision_width=8, vision_heads=4, patch_size=None,
    text_width=32, text_layers=2, text_heads=2,
)  # fmt: skip


@pytest.mark.parametrize("resnet", [False, True])
def test_a_workbench_that_went_through_a_pipe_trains_to_the_same_weights(
    resnet: bool, tiny: Backbone, split: OpenWorldSplit
) -> None:
    backbone = build_backbone(RESNET, seed=1) if resnet else tiny
    task = Task(backbone, split.pool, shots=4, settings=TrainSettings(epochs=1, min_steps=3), views=1, seed=0)
    bench = build_cross_validation(task, prepare(task, split.support, range(3)))
    copy = pickle.loads(pickle.dumps(bench))
    params = APPROACHES["contrastive-arcface"].at({"unfreeze": 2})
    assert copy.score(params, 1) == bench.score(params, 1)
    ours, theirs = bench.fit(params).suffix.state_dict(), copy.fit(params).suffix.state_dict()
    assert all(torch.equal(theirs[key], tensor) for key, tensor in ours.items())


def test_layers_that_cannot_train_are_left_behind(tiny: Backbone) -> None:
    there = {name for name, tensor in drop_first_layers(tiny, 1).state_dict().items() if not tensor.is_meta}
    trained = {f"visual.{name}" for name in tiny.visual.last_parameters(1)} | set(tiny.text.last_parameters(1))
    assert there == trained | {"logit_scale"}
    assert not any(tensor.is_meta for tensor in tiny.state_dict().values())
