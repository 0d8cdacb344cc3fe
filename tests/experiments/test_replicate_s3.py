"""The defects of S3 and their repairs, side by side."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.contrastive.distillation import SelfDistillation
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.objectives import identity_objective
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.geometry import unit_rows
from clip_fewshot.losses.distillation import transport_targets
from clip_fewshot.protocol.retrieval import find_candidates
from clip_fewshot.runtime.rng import seed_torch
from experiments.recipes import s3, s3_stored, s3_written
from tests.backbones.encoders import pair
from tests.commands.conftest import Command, one_line

CAPTIONS = ("a {} in white", "somebody wrote the {}")


@pytest.fixture(scope="module")
def captioned(digits: cf.ImageDataset) -> cf.ImageDataset:
    """40 digits with two captions each; pictures of one digit share theirs."""
    some = digits.subset(np.repeat(np.arange(40), 2))
    names = some.label_space.decode(some.required_labels())
    return replace(some, captions=tuple(CAPTIONS[i % 2].format(name) for i, name in enumerate(names)))


def gradients(model: cf.Backbone) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("chunk", "passes"), [(4, 4), (3, 6), (8, 2)])
def test_as_written_the_scale_has_its_gradient_once_for_each_chunk_and_tower(
    tiny: cf.Backbone, chunk: int, passes: int
) -> None:
    model = copy.deepcopy(tiny).double()
    draw = torch.Generator().manual_seed(0)
    images = torch.randn((8, 3, 16, 16), generator=draw, dtype=torch.float64)
    batch = PairBatch(images, model.tokenize([f"a picture of {i}" for i in range(8)]))
    contrastive_gradients(model, batch, identity_objective)
    whole = gradients(model)
    s3_written.written_gradients(model, batch, chunk)
    written = gradients(model)
    contrastive_gradients(model, batch, identity_objective, chunk=chunk)
    ours = gradients(model)
    assert float(written["logit_scale"] / whole["logit_scale"]) == pytest.approx(passes, rel=1e-10)
    assert float(ours["logit_scale"] / whole["logit_scale"]) == pytest.approx(1, rel=1e-10)
    for name in whole.keys() - {"logit_scale"}:  # the towers' gradient is right in both
        torch.testing.assert_close(written[name], whole[name], rtol=1e-8, atol=1e-12)


def test_as_written_the_target_is_least_where_ours_is_largest() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn((30, 16), generator=draw)
    texts = images + 0.3 * torch.randn((30, 16), generator=draw)
    own = torch.arange(30)
    per_image, per_text = s3_written.written_targets(images, texts)
    ours = transport_targets(images, texts)
    for wrong, right in ((per_image, ours.per_image), (per_text, ours.per_text)):
        torch.testing.assert_close(wrong.sum(1), torch.ones(30))
        assert (wrong.argmin(dim=1) == own).all()
        assert (right.argmax(dim=1) == own).all()


def test_as_written_the_teacher_is_the_student_after_a_step(captioned: cf.ImageDataset) -> None:
    encoders, start = s3_stored.locked(pair(0, 0))
    data = s3_stored.stored(encoders, captioned)
    batch = next(data.batches(0))
    lags = []
    for teaching in (s3_written.WrittenDistillation(start), SelfDistillation(start)):
        student = copy.deepcopy(start)
        with torch.no_grad():
            next(student.visual.parameters()).add_(1)
        teaching.prepare(batch)
        teaching.after_step(student)
        lags.append(s3.distance(teaching.teacher, student) / s3.distance(start, student))
    assert lags == pytest.approx([0.001, 0.1], rel=1e-3)  # ours warms up: a tenth at the first step, then ever more


@pytest.mark.parametrize("kind", ["pair", "clip"])
def test_the_projections_are_the_model(captioned: cf.ImageDataset, mini: cf.Backbone, kind: str) -> None:
    model = pair(0, 0) if kind == "pair" else mini
    encoders, start = s3_stored.locked(model)
    test = s3_stored.held(encoders, captioned)
    among = find_candidates(model, captioned)
    pictures = cf.encode_images(model, among.pictures).features
    texts = cf.encode_texts(model, among.captions)
    np.testing.assert_allclose(test.cosines(start), unit_rows(pictures) @ unit_rows(texts).T, atol=1e-5)
    np.testing.assert_array_equal(test.belongs, among.belongs)


def test_an_epoch_has_every_picture_once_beside_a_caption_of_its_own(
    captioned: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_stored, "BATCH", 16)
    monkeypatch.setattr(s3_stored, "EPOCHS", 2)
    data = s3_stored.stored(s3_stored.locked(pair(0, 0))[0], captioned)
    batches = list(data.batches(0))
    assert [len(batch) for batch in batches] == 2 * [14, 13, 13]
    for epoch in (batches[:3], batches[3:]):
        images = torch.cat([batch.images for batch in epoch])
        assert len(torch.unique(images, dim=0)) == len(torch.unique(data.pictures, dim=0)) == len(images)
        for image, text in zip(images, torch.cat([batch.tokens for batch in epoch]), strict=True):
            picture = int((data.pictures == image).all(dim=1).nonzero()[0, 0])
            assert any(torch.equal(data.captions[row], text) for row in data.rows[picture])
    again = data.batches(0)
    assert all(torch.equal(next(again).tokens, batch.tokens) for batch in batches)


def test_training_brings_the_encoders_together_and_as_written_less_so() -> None:
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn((60, 24), generator=draw)
    captions = pictures @ torch.randn((24, 16), generator=draw)
    rows = [np.array([i]) for i in range(60)]
    data = s3_stored.Stored(pictures, captions, torch.arange(60), rows)
    test = s3_stored.Held(pictures, captions, np.eye(60, dtype=bool))
    with seed_torch(0, "two layers"):
        layers = torch.nn.Linear(24, 32, bias=False), torch.nn.Linear(16, 32, bias=False)
    start = s3_stored.Projections(*layers, torch.tensor(1 / 0.07).log())
    found, lags = {}, {}
    for kind in s3.KINDS:
        model, lags[kind] = s3.ended(kind, start, data, 0)
        found[kind] = float(np.mean(test.cosines(model).argmax(axis=1) == np.arange(60)))
    assert found["contrastive"] > 0.5
    assert found["distilled, ours"] > 0.5
    assert found["distilled, as written"] < min(found["contrastive"], found["distilled, ours"])
    assert lags["distilled, as written"] < 0.01 < lags["distilled, ours"]


def test_the_command_has_a_part_per_defect(
    command: Command,
    digits: cf.ImageDataset,
    captioned: cf.ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_stored, "EPOCHS", 1)
    rows = [("image", "caption")]
    for row in range(0, 60, 2):
        captioned.open(row).save(tmp_path / f"{row}.png")
        rows += [(f"{row}.png", caption) for caption in (captioned.captions or ())[row : row + 2]]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = command(
        "replicate", "s3", "--data", tmp_path / "pairs.csv", "--model", "mini", "--seeds", 2, "--json"
    ).record
    assert [round(row["scale_ratio"], 2) for row in found["gradients"]] == [
        4,
        1,
        8,
        1,
        14,
        1,
    ]  # 27 pairs: 7 chunks of 4
    assert list(found["recall"]) == ["before", *s3.KINDS]
    text = s3.table(found)
    for part in ("in one piece", "matching pair", "behind the student", "recall@10"):
        assert part in text
    one_line(command("replicate", "s3", "--model", "mini"), 2, "a caption per row")
