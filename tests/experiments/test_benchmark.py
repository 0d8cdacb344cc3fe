"""The benchmark: its arithmetic, and each case from end to end at a size that takes no time."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.backbones.tower import CutState
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.runtime.files import cache_root
from experiments.benchmark import isolation, page, plain, uncut
from experiments.benchmark.cases import (
    cluster,
    contrastive,
    decode,
    embed,
    gpu,
    knn,
    memory,
    probe,
    processes,
    step,
    store,
    study,
    text,
)
from experiments.benchmark.isolation import CACHE, empty_cache
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import pictures
from experiments.benchmark.timing import WHOLE, Side, Spent, Times, Watch, interleave
from tests.commands.conftest import Command, one_line

Rows = Iterator[Row]
QUICK = Options(arch="mini", repeats=2)


def times(*cpu: float) -> Times:
    return Times(tuple(Spent(seconds, 2 * seconds) for seconds in cpu))


def broken(rows: list[Row]) -> list[str]:
    return [str(check) for row in rows for check in row.checks if not check.holds]


def test_the_ratio_is_that_of_the_medians() -> None:
    row = Row("thing", "image", ours=times(1, 100, 2), naive=times(30, 10, 20), asked=10)
    assert (row.ours, row.naive) == (times(1, 100, 2), times(30, 10, 20))
    assert row.cpu_ratio == row.wall_ratio == 20 / 2
    assert row.to_json()["seconds"]["naive"]["wall"] == 40
    assert "**10x** (10x)" in page.line(row)
    assert "(short)" not in page.line(row)
    assert "(short)" in page.line(Row("thing", "image", times(1), times(9.9), asked=10))
    assert Row("thing", "image", ours=times(1)).cpu_ratio is None


def test_a_check_without_a_number_does_not_hold() -> None:
    assert Check("same", 1e-6, 1e-6).holds
    assert Check("same", 5.0).holds  # nothing was promised
    assert not Check("same", math.nan, 1e-6).holds
    assert str(Check("same", 2e-6, 1e-6)) == "same 2e-06 (NOT ≤ 1e-06)"
    assert str(Check("pictures per second", 1234.5)) == "pictures per second 1,234"
    assert str(Check("peak memory", 2.34, 3.0, "GiB")) == "peak memory 2.3 GiB (≤ 3)"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(1234, "1,234 s"), (2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.2 µs")]
)
def test_durations_have_three_digits_and_a_unit(seconds: float, shown: str) -> None:
    assert page.duration(seconds) == shown


def test_sides_take_turns_and_the_order_turns_round() -> None:
    order: list[str] = []

    def side(name: str) -> Side:
        def work(watch: Watch) -> None:
            order.append(f"{name}{watch.repeat}")
            for _ in range(2):
                with watch("half"):
                    sum(range(20_000))

        return Side(work, units=4)

    found = interleave({"a": side("a"), "b": side("b")}, repeats=3)
    assert order == ["a-1", "b-1", "b0", "a0", "a1", "b1", "b2", "a2"]
    for parts in found.values():
        assert len(parts[WHOLE].repeats) == len(parts["half"].repeats) == 3  # the first one is not counted
        assert 0 < parts["half"].cpu <= parts[WHOLE].cpu


def test_times_are_per_unit_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("experiments.benchmark.timing.now", lambda: Spent(*[float(next(clock))] * 2))
    found = interleave({"a": Side(lambda watch: None, units=4)}, repeats=2)
    assert found["a"][WHOLE].repeats == (Spent(0.25, 0.25),) * 2


def test_a_cache_of_ones_own_leaves_the_users_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("elsewhere", None):
        monkeypatch.setenv(CACHE, before) if before else monkeypatch.delenv(CACHE)
        with empty_cache():
            assert cache_root().is_dir()
            assert not list(cache_root().iterdir())
            within = cache_root()
        assert os.environ.get(CACHE) == before
        assert not within.exists()


@pytest.mark.parametrize("unfreeze", [1, 2])
def test_a_step_of_the_cut_has_the_gradients_of_the_whole(unfreeze: int) -> None:
    quick = Options(arch="mini", depths=(unfreeze,), batch=4, repeats=2)
    found = list(step.rows(quick))
    assert [row.what.split(": ")[1] for row in found] == [step.GRADIENTS, "step with AdamW"]
    assert len(found[0].checks) == 2
    assert broken(found) == []
    assert all(row.cpu_ratio is not None and row.cpu_ratio > 0 for row in found)


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = step.cut_gradients

    def wrong(task: step.Task, half: bool) -> dict[str, torch.Tensor]:
        return {name: gradient * 1.01 for name, gradient in right(task, half).items()}

    monkeypatch.setattr(step, "cut_gradients", wrong)
    assert len(broken(list(step.rows(Options(arch="mini", batch=2, repeats=1))))) == 2


@pytest.mark.parametrize("vision", [{"vision_layers": 2, "patch_size": 16}, {"vision_layers": (1, 1, 1, 1)}])
def test_openais_code_and_our_blocks_run_whole_agree(vision: dict[str, object]) -> None:
    """With one head per 64 channels OpenAI's own code is the plain way, where its package is at hand."""
    shape: dict[str, object] = {"embed_dim": 48, "image_size": 32, "patch_size": None, "vision_heads": 8}
    if "patch_size" in vision:
        shape |= {"vision_width": 128, "vision_heads": 2}
    else:
        shape |= {"vision_width": 16}
    config = CLIPConfig(**shape | vision, text_width=64, text_layers=2, text_heads=1)  # type: ignore[arg-type]
    backbone = build_backbone(config)
    theirs = plain.original(backbone)
    if theirs.name != "OpenAI's code":
        pytest.skip("openai-clip is not installed")
    pixels, tokens = torch.randn(2, 3, 32, 32), backbone.tokenize(["a photo of a wren.", "a dog"])
    with torch.no_grad():
        torch.testing.assert_close(theirs.visual(pixels), plain.Whole(backbone.visual)(pixels))
        torch.testing.assert_close(theirs.encode_text(tokens), plain.Whole(backbone.text)(tokens))
    assert set(plain.by_name(theirs.visual)) == set(plain.by_name(plain.Whole(backbone.visual)))


def test_the_table_is_what_was_promised() -> None:
    asked = {(s.arch, s.unfreeze, s.batch): s.asked for s in step.settings(Options())}
    assert asked["ViT-B/32", 1, 16] == 50
    assert asked["ViT-B/16", 1, 4] == 80
    chosen = step.settings(Options(arch="ViT-B/32", depths=(1, 6), batch=64))
    assert chosen == [step.Setting("ViT-B/32", 1, 64, None), step.Setting("ViT-B/32", 6, 64, None)]


def test_the_search_without_the_shortcut_scores_the_same() -> None:
    small = study.Sizes(classes=4, shots=3, trials=6, epochs=1, max_unfreeze=2)
    with empty_cache():
        found = study.measured(plain.random_backbone("mini", 0), small, QUICK)
    assert len(found.scores) == len(found.points) == 6
    assert found.pictures == 12
    assert {1, 2} <= set(found.depths)
    steps = {n: {"naive": times(4.0 * n), "ours": times(1.0 * n)} for n in (1, 2)}
    row = study.searched(found, steps, small, plain.original(plain.random_backbone("mini", 0)))
    assert broken([row]) == []
    assert row.asked == pytest.approx(0.8 * 4)
    assert row.ours is not None
    assert row.ours.cpu == found.spent["ours"].cpu + found.prefix.cpu


def test_the_plain_search_runs_the_whole_network_on_pixels() -> None:
    """Else it would be ours under another name: what its suffix reads are pictures, and all layers are in it."""
    backbone = plain.random_backbone("mini", 0)
    tower = uncut.UncutTower(backbone.visual, plain.original(backbone).visual)
    pixels = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    for n in range(3):
        suffix = tower.suffix(n)
        trained = {name for name, p in plain.by_name(suffix.visual).items() if p.requires_grad}
        assert trained == set(backbone.visual.last_parameters(n))
        assert len(plain.by_name(suffix.visual)) == len(list(backbone.visual.parameters()))
        features = suffix(CutState(pixels, torch.zeros(2, dtype=torch.int64)))
        torch.testing.assert_close(features, backbone.visual(pixels))


def test_a_large_search_is_its_steps_its_pass_and_what_pruning_left() -> None:
    found = study.Found(pictures=10, prefix=Spent(1.0, 2.0))
    steps = {1: {"naive": times(1.0), "ours": times(0.1)}, 2: {"naive": times(3.0), "ours": times(0.3)}}
    large = study.Large(classes=2, shots=60, trials=5, folds=3)
    row = study.extrapolated(found, steps, 0.5, large, QUICK)
    settings = TrainSettings()
    pictures = 5 * 3 * settings.steps(80) * settings.batch_size(80)
    assert row.naive is not None
    assert row.ours is not None
    assert row.naive.cpu == pytest.approx(pictures * 2.0)
    assert row.ours.cpu == pytest.approx(0.5 * pictures * 0.2 + 12.0)
    assert "Extrapolated, not run" in row.note


@pytest.mark.slow
def test_pruning_loses_no_more_than_noise() -> None:
    with empty_cache():
        row, share = study.pruning("digits-wild", study.Sizes(digits_trials=50, digits_epochs=5), QUICK)
    assert broken([row]) == []
    assert 0 < share <= 0.5


def test_memory_is_that_of_a_process_of_its_own() -> None:
    held = bytearray(b"x") * (600 << 20)
    found = isolation.alone(1, operator.mul, b"x", 128 << 20)
    assert len(held) == 600 << 20
    assert 0.125 < found.peak_gib < 0.6  # what this process holds is not in it


def test_a_search_that_tells_its_memory_trains_the_deepest_cut(tmp_path: Path) -> None:
    pictures(tmp_path, classes=2, per_class=3, seed=0, size=(60, 40))
    with empty_cache():
        memory.search("mini", tmp_path, memory.Sizes(classes=2, shots=3, cuts=1), seed=0)
        assert any(cache_root().rglob("*.bin"))


def test_a_gpu_is_asked_for_by_name_only(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = command("benchmark", "gpu")
    assert ended.code == 4
    assert "CUDA" in ended.err
    assert ended.err.count("\n") == 1


def test_the_case_of_a_gpu_from_end_to_end_on_the_cpu() -> None:
    small = gpu.Sizes(3, 3, 4, 1, 1, gemm=64, steps=2, architectures=("mini",), precisions=(torch.bfloat16,))
    with empty_cache():
        found = list(gpu.rows(QUICK, small, "cpu"))
    assert [row.what.rsplit(": ")[-1] for row in found[:4]] == ["decoding", "frozen layers", "4 trials", "all of it"]
    assert broken(found) == []
    shares = [check.value for row in found for check in row.checks if check.what == "share of the peak"]
    assert len(shares) == 2
    assert all(share > 0 for share in shares)


CASES: dict[str, Callable[[], Rows]] = {
    "text": lambda: text.rows(QUICK, prompts=6),
    "probe": lambda: probe.rows(QUICK, probe.Sizes(classes=4, shots=4, width=16, measured=3, tests=20)),
    "cluster": lambda: cluster.rows(QUICK, cluster.Sizes(classes=4, per_class=12, width=16, large_per_class=15)),
    "decode": lambda: decode.rows(QUICK, decode.Sizes(shapes=((100, 75, 3),))),
    "embed": lambda: embed.rows(QUICK, pictures=2),
    "store": lambda: store.rows(QUICK, store.Sizes(batches=3, classes=4, known=8, new=3, shots=6, arch="mini")),
    "knn": lambda: knn.rows(QUICK, knn.Sizes(classes=4, per_class=20, width=32, queries_per_class=4)),
}


def here(threads: int, work: Callable[..., object], *args: object) -> isolation.Alone:
    """In place of a process of its own, which takes seconds to start."""
    return isolation.Alone(times(1.0), 1.0, work(*args))


@pytest.mark.parametrize("name", CASES)
def test_both_sides_of_a_case_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "alone", here)
    monkeypatch.setattr(store, "alone", here)
    with empty_cache():
        found = list(CASES[name]())
    assert [row for row in found if row.checks]
    assert [problem for problem in broken(found) if not problem.startswith("accuracy")] == []
    assert all(row.cpu_ratio is None or row.cpu_ratio > 0 for row in found)


def test_the_command_prints_a_page_and_writes_every_repeat(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    before = torch.get_num_threads()
    ended = command("benchmark", "step", "text", "--arch", "mini", "--batch", 2, "--repeats", 3, "--record", file)
    assert ended.code == 0, ended
    assert torch.get_num_threads() == before
    for words in ("**step**", "**text**", "3 repeats", "1 thread,", "load average"):
        assert words in ended.out
    table = [line for line in ended.out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2 + 2 + 1
    assert {line.count("|") for line in table} == {len(page.HEAD) + 1}
    record = json.loads(file.read_text("utf-8"))
    assert record["machine"]["cores"] >= 1
    for case in record["cases"].values():
        assert len(case["load"]) == 2
        for row in case["rows"]:
            assert len(row["seconds"]["ours"]["repeats"]) == 3
            assert row["ratio"]["cpu"] == row["seconds"]["naive"]["cpu"] / row["seconds"]["ours"]["cpu"]


def test_a_figure_out_of_its_bounds_fails_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "FP32", -1.0)
    assert command("benchmark", "step", "--arch", "mini", "--batch", 2, "--repeats", 1).code == 1


def test_mistakes_are_one_line(command: Command) -> None:
    one_line(command("benchmark", "steps"), 2, "steps", "step, ")
    one_line(command("benchmark", "--repeats", 0), 2, "--repeats")


def test_the_law_of_memory_foretells_a_step_that_was_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(threads: int, work: object, arch: str, batch: int, chunk: int, seed: int) -> isolation.Alone:
        return isolation.Alone(times(1), 2.5 + 0.001 * batch + 0.125 * chunk)

    monkeypatch.setattr(contrastive, "alone", measured)
    *_, law, large = list(contrastive.rows(QUICK))
    assert law.checks[0].value == pytest.approx(0, abs=1e-9)
    assert [check.value for check in large.checks] == pytest.approx([2.5 + 4.096 + 4, 2.5 + 4.096 + 512])
    assert large.checks[0].holds


def test_a_step_that_tells_its_memory_is_one_of_the_trainer() -> None:
    contrastive.step("mini", 4, 2, seed=0)


@pytest.mark.slow
def test_two_processes_train_as_one_does() -> None:
    (row,) = processes.rows(QUICK, processes.Sizes(pairs=16, batch=8, epochs=2, unseen=1))
    assert broken([row]) == []
    assert row.cpu_ratio is not None
