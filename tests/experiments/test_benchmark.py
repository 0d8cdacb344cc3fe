"""The benchmark: its arithmetic, and each case from end to end at a size that takes no time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import clip_fewshot as cf
from experiments.benchmark import page, plain
from experiments.benchmark.cases import decode, embed, knn, probe, step, text
from experiments.benchmark.isolation import CACHE, empty_cache
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.timing import WHOLE, Side, Spent, Times, Watch, interleave
from tests.experiments.conftest import Command, one_line

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
    assert "NOT" in str(Check("same", 2e-6, 1e-6))


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
            assert cf.cache_root().is_dir()
            assert not list(cf.cache_root().iterdir())
            within = cf.cache_root()
        assert os.environ.get(CACHE) == before
        assert not within.exists()


@pytest.mark.parametrize("unfreeze", [1, 2])
def test_a_step_of_the_cut_has_the_gradients_of_the_whole(unfreeze: int) -> None:
    quick = Options(arch="mini", unfreeze=(unfreeze,), batch=4, repeats=2)
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
    config = cf.CLIPConfig(**shape | vision, text_width=64, text_layers=2, text_heads=1)  # type: ignore[arg-type]
    backbone = cf.build_backbone(config)
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
    chosen = step.settings(Options(arch="ViT-B/32", unfreeze=(1, 6), batch=64))
    assert chosen == [step.Setting("ViT-B/32", 1, 64, None), step.Setting("ViT-B/32", 6, 64, None)]


CASES: dict[str, Callable[[], Rows]] = {
    "text": lambda: text.rows(QUICK, prompts=6),
    "probe": lambda: probe.rows(QUICK, probe.Sizes(classes=4, shots=4, width=16, measured=3, tests=20)),
    "decode": lambda: decode.rows(QUICK, decode.Sizes(shapes=((100, 75, 3),))),
    "embed": lambda: embed.rows(QUICK, pictures=2),
    "knn": lambda: knn.rows(QUICK, knn.Sizes(classes=4, per_class=20, width=32, queries_per_class=4)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_sides_of_a_case_agree(name: str) -> None:
    with empty_cache():
        found = list(CASES[name]())
    assert [row for row in found if row.checks]
    assert [problem for problem in broken(found) if not problem.startswith("accuracy")] == []
    assert all(row.cpu_ratio is not None and row.cpu_ratio > 0 for row in found)


def test_the_command_prints_a_page_and_writes_every_repeat(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    before = torch.get_num_threads()
    ended = command("benchmark", "step", "text", "--arch", "mini", "--batch", 2, "--repeats", 3, "--json", file)
    assert ended.code == 0, ended
    assert torch.get_num_threads() == before
    for words in ("**step**", "**text**", "3 repeats", "1 threads", "load average"):
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
