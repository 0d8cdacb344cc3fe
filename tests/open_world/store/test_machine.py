"""Any order of calls against a dictionary that does the same in ten lines."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.store import Store
from tests.open_world.store.conftest import MakeWorld

COUNT = 24  # pictures that may come
Held = dict[str, tuple[str, str | None]]  # digest -> state, class


class Machine(RuleBasedStateMachine):
    """A store, and what it should hold. The classifier itself decides between known and unknown: that is asked of an
    open-world classifier that goes through the same namings beside the store."""

    world: OpenWorldClassifier
    pictures: ImageDataset
    backbone: Backbone

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.twin = OpenWorldClassifier.from_artifact(*self.world.to_artifact(), self.backbone, "twin")
        self.store = Store.create(self.folder / "store", self.world)
        self.model: Held = {}
        self.past: list[tuple[Held, int]] = []  # before each decision that stands: what was held, namings of the twin
        self.names = 0
        self.decisions = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.check()
            self.store.close()
            shutil.rmtree(self.folder)

    def say(self, digests: list[str]) -> Held:
        rows = np.array([self.pictures.digests.index(digest) for digest in digests], dtype=np.int64)
        answers = self.twin.judge(self.twin.look(self.pictures.subset(rows)), 1)
        said = [("unknown", None) if answer.label is None else ("known", answer.label) for answer in answers]
        return dict(zip(digests, said, strict=True))

    @rule(rows=st.lists(st.integers(0, COUNT - 1), max_size=8), batch=st.integers(1, 5))
    def ingest(self, rows: list[int], batch: int) -> None:
        digests = [self.pictures.digests[row] for row in rows]
        new = [digest for digest in dict.fromkeys(digests) if digest not in self.model]
        done = self.store.ingest(self.pictures.subset(np.array(rows, dtype=np.int64)), batch)
        self.model |= self.say(new)
        assert (done.new, done.seen_before) == (len(new), len(rows) - len(new))

    @precondition(lambda self: any(state != "named" for state, _ in self.model.values()))
    @rule(data=st.data(), kind=st.sampled_from(["name", "assign", "reject", "review"]))
    def decide(self, data: st.DataObject, kind: str) -> None:
        free = sorted(digest for digest, (state, _) in self.model.items() if state != "named")
        chosen = data.draw(st.lists(st.sampled_from(free), min_size=1, max_size=4, unique=True))
        self.past.append((dict(self.model), len(self.twin.named_)))
        name = f"class {self.names}"
        self.names, self.decisions = self.names + 1, self.decisions + 1
        named = chosen if kind == "name" else chosen[: (len(chosen) + 1) // 2] if kind == "review" else []
        rejected = chosen if kind == "reject" else chosen[len(named) :] if kind == "review" else []
        if kind == "name":
            self.store.name(chosen, name)
        elif kind == "assign":
            name = self.twin.model.label_space_.names[0]
            self.store.assign(chosen, name)
        elif kind == "reject":
            self.store.reject(chosen)
        else:
            review = Review(self.store.id, self.store.revision, {name: tuple(named)}, {}, tuple(rejected))
            assert self.store.apply(review).again is False
            assert self.store.apply(review.to_json()).again is True
        if kind != "reject":
            learnt = named or chosen
            rows = np.array([self.pictures.digests.index(digest) for digest in learnt])
            (self.twin.assign if kind == "assign" else self.twin.name)(self.pictures.subset(rows), name)
            self.model |= dict.fromkeys(learnt, ("named", name))
        self.model |= dict.fromkeys(rejected, ("rejected", None))
        if kind != "reject":
            self.model |= self.say([digest for digest, (state, _) in self.model.items() if state == "unknown"])

    @precondition(lambda self: self.past)
    @rule()
    def undo(self) -> None:
        before, namings = self.past.pop()
        self.store.undo()
        learnt = len(self.twin.named_) > namings
        if learnt:
            self.twin.undo()
        since = [digest for digest in self.model if digest not in before]
        self.model = before | self.say(since)
        self.decisions += 1

    @rule()
    def close_and_open(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "store", self.backbone)

    @invariant()
    def holds_what_it_should(self) -> None:
        if not hasattr(self, "store"):
            return
        held = self.store.held(self.pictures.digests)
        assert {digest: one.verdict[:2] for digest, one in held.items()} == self.model
        assert self.store.revision == self.decisions
        unknown = {digest for digest, (state, _) in self.model.items() if state == "unknown"}
        assert set(self.store.unknown().pictures.digests) == unknown
        assert self.store.status().names == self.twin.model.label_space_.names
        counts = self.store.database.rows(
            "SELECT (SELECT count(*) FROM image), (SELECT count(*) FROM embedding), (SELECT count(*) FROM thumbnail)"
        )
        assert set(counts[0]) == {len(self.model)}


def machine_of(make_world: MakeWorld, strange: ImageDataset, familiar: ImageDataset, tiny: Backbone) -> type[Machine]:
    from clip_fewshot.data.collect import join_images

    half = np.arange(COUNT // 2)
    given = join_images([strange.subset(half), familiar.subset(half)])
    return type("Machine", (Machine,), {"world": make_world(), "pictures": given, "backbone": tiny})


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_any_order_of_calls(
    make_world: MakeWorld, strange: ImageDataset, familiar: ImageDataset, tiny: Backbone
) -> None:
    machine = machine_of(make_world, strange, familiar, tiny)
    few = settings(max_examples=8, stateful_step_count=12, deadline=None, derandomize=True, suppress_health_check=QUIET)
    run_state_machine_as_test(machine, settings=few)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_any_order_of_many_calls(
    make_world: MakeWorld, strange: ImageDataset, familiar: ImageDataset, tiny: Backbone
) -> None:
    machine = machine_of(make_world, strange, familiar, tiny)
    many = settings(max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=QUIET)
    run_state_machine_as_test(machine, settings=many)
