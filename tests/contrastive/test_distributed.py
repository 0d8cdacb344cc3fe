"""Real processes, started by torchrun, against one process; and what becomes of the others when one dies."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.distributed import liveness
from clip_fewshot.contrastive.distributed.liveness import Presence
from clip_fewshot.contrastive.distributed.torchrun import _buckets, join_world
from clip_fewshot.contrastive.distributed.world import SingleProcess
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.errors import ResourceError, UsageError
from tests.contrastive.pairs import CONFIG, symmetric
from tests.contrastive.processes import cases, finish, launch, load, model_and_pairs, trained

LIMIT = 60.0  # seconds from a death to the end of all


def check_against_one_process(folder: Path, size: int) -> None:
    ended = finish(launch(size, "gradients", folder))
    assert [code for code, _ in ended] == [0], ended[0][1]
    found = load(folder, size)
    for rank in found[1:]:  # the same bits everywhere, or the weights would drift apart
        assert all(torch.equal(rank[key], found[0][key]) for key in found[0])
    for name, _, _, dtype in cases(size):
        model, pairs = model_and_pairs(dtype)
        loss = contrastive_gradients(model, pairs, symmetric)
        bound = 1e-10 if dtype == torch.float64 else 1e-6
        assert float((found[0][f"{name} loss"] - loss).abs()) < bound
        right = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        norm = torch.cat([g.flatten() for g in right.values()]).norm()
        for key, gradient in right.items():
            assert float((found[0][f"{name} {key}"] - gradient).norm() / norm) < bound, f"{name} {key}"

    alone = trained(SingleProcess())
    first = build_backbone(CONFIG, seed=0).state_dict()
    moved = max(float((alone[key] - first[key]).abs().max()) for key in alone)
    # Adam divides by the gradient's size, so that rounding in a gradient near 0 moves a weight as far as a large one.
    assert max(float((found[0][f"trained {key}"] - alone[key]).abs().max()) for key in alone) < moved / 100
    apart = torch.cat([(found[0][f"trained {key}"] - alone[key]).flatten() for key in alone])
    whole = torch.cat([(alone[key] - first[key]).flatten() for key in alone])
    assert float(apart.norm() / whole.norm()) < 1e-3


def test_two_processes_give_the_gradients_and_weights_of_one_and_exchange_rows_of_every_kind(tmp_path: Path) -> None:
    check_against_one_process(tmp_path, 2)
    got = load(tmp_path, 2)[0]
    assert got["gathered bool"].tolist() == [True]
    assert (got["gathered int"] - 2**40).tolist() == [0, 1, 2]
    assert got["gathered half"].dtype == torch.bfloat16
    assert got["gathered half"][:, 0, 0].tolist() == [0, 1, 1]
    assert got["gathered none"].shape == (0, 4)
    assert got["gathered thin"].shape == (4, 0)
    columns = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(got["gathered sliced"], torch.cat([columns, columns[:3]]))
    assert [got[f"sum {i}"].flatten()[:1].tolist() for i in range(4)] == [[1], [2], [], [2]]


@pytest.mark.slow
def test_four_processes_give_the_gradients_and_weights_of_one(tmp_path: Path) -> None:
    check_against_one_process(tmp_path, 4)


@pytest.mark.slow
def test_a_killed_process_ends_torchrun_which_names_it(tmp_path: Path) -> None:
    ended = finish(launch(3, "die", tmp_path))
    assert time.time() - float((tmp_path / "died").read_text()) < LIMIT
    assert ended[0][0] != 0
    assert "rank      : 1 (local_rank: 1)" in ended[0][1]
    assert "SIGKILL" in ended[0][1]


@pytest.mark.slow
def test_a_killed_process_is_named_by_all_others_where_nobody_else_notices(tmp_path: Path) -> None:
    ended = finish(launch(3, "die", tmp_path, by="environment"))
    assert time.time() - float((tmp_path / "died").read_text()) < LIMIT
    assert [code for code, _ in ended] == [4, -9, 4]
    for rank in (0, 2):
        assert f"ResourceError: rank {rank}: expected all 3 processes" in ended[rank][1]
        assert "from rank 1 for" in ended[rank][1]


@pytest.mark.slow
def test_a_mistake_in_one_process_reaches_the_others_with_its_words(tmp_path: Path) -> None:
    ended = finish(launch(2, "fail", tmp_path, by="environment"))
    assert [code for code, _ in ended] == [4, 2]
    assert "rank 1 left: DataError: pictures/7.jpg: expected a picture, got a poem" in ended[0][1]


@pytest.mark.slow
def test_a_slow_process_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text(str(liveness.SILENCE * liveness.BEAT + 4))
    assert [code for code, _ in finish(launch(2, "dawdle", tmp_path))] == [0]
    assert (tmp_path / "0 done").exists()


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with join_world() as world:
        assert (world.rank, world.size) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun --nproc-per-node=1
    with join_world() as world:
        assert world.size == 1


@pytest.mark.parametrize(("name", "value"), [("RANK", None), ("WORLD_SIZE", "two"), ("MASTER_PORT", "")])
def test_half_an_environment_is_refused(name: str, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1"}
    for key, text in (whole | {name: value}).items():
        monkeypatch.delenv(key, raising=False) if text is None else monkeypatch.setenv(key, text)
    with pytest.raises(UsageError, match=name), join_world():
        pass


def test_sums_travel_in_buckets_of_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_fewshot.contrastive.distributed.torchrun.BUCKET", 40)
    sizes = [(4, torch.float32), (6, torch.float32), (1, torch.float32), (1, torch.float64), (99, torch.float64)]
    buckets = list(_buckets([torch.zeros(n, dtype=dtype) for n, dtype in sizes]))
    assert [[len(t) for t in bucket] for bucket in buckets] == [[4, 6], [1], [1], [99]]
    assert list(_buckets([])) == []


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BEAT": 0.01, "SILENCE": 10, "JOINING": 0.3}.items():
        monkeypatch.setattr(liveness, name, value)


def three(store: dist.Store) -> list[Presence]:
    """All present, none of them counting yet."""
    everyone = [Presence(store, rank, 3) for rank in range(3)]
    for rank in range(3):
        store.set(f"rank {rank}", "0")
    return everyone


def silence(present: Presence) -> ResourceError:
    """What ``present`` says once it says something."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            present.check()
        except ResourceError as error:
            return error
        time.sleep(0.01)
    raise AssertionError("nobody was missed")


@pytest.mark.usefixtures("fast")
def test_silent_ranks_are_named() -> None:
    everyone = three(dist.HashStore())
    everyone[1].start()
    error = silence(everyone[1])
    everyone[1].stop()
    assert str(error).startswith("rank 1: expected all 3 processes to the end, got no sign of life from ranks 0, 2 for")


@pytest.mark.usefixtures("fast")
def test_who_leaves_by_an_error_says_so_and_who_leaves_for_another_does_not() -> None:
    everyone = three(dist.HashStore())
    for present in everyone:
        present.start()
    everyone[0].check()
    everyone[2].stop(ValueError("no more\n pictures"))
    error = silence(everyone[0])
    assert "rank 2 left: ValueError: no more pictures" in str(error)
    everyone[0].stop(error)
    assert "rank 2 left" in str(silence(everyone[1]))  # not "rank 0 left: ResourceError: ..."
    everyone[1].stop()


@pytest.mark.usefixtures("fast")
def test_who_does_not_come_is_named() -> None:
    store = dist.HashStore()
    store.set("rank 2", "0")
    with pytest.raises(ResourceError, match="no sign of rank 1 in"):
        Presence(store, 0, 3).start()


@pytest.mark.usefixtures("fast")
def test_a_broken_connection_among_the_living_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = three(dist.HashStore())
    for present in everyone:
        present.start()
    error = everyone[0].explain(RuntimeError("reset by a switch"))
    for present in everyone:
        present.stop()
    assert "a broken connection, though all live: reset by a switch" in str(error)
