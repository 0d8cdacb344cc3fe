"""docs/extending: each file of one's own keeps its contract, is used, saved, and loaded in a new process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clip_fewshot import testing
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.discovery import discover_classes
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.pipeline import run_few_shot

DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted((DOCS / "extending").glob("*.py"))
BACKBONE = "python:my_backbone:build"
PARTS = {
    "cosine": ("my_head", "COSINE"),
    "mlp-focal": ("my_loss", "MLP_FOCAL"),
    "NearestMean": ("my_probe", "NearestMean"),
    "nearest-mean": ("my_probe", "NEAREST_MEAN"),
    "NearestMeanDetector": ("my_detector", "NearestMeanDetector"),
}
PROGRAM = """
import json, sys
from clip_fewshot import FewShotClassifier, OpenWorldClassifier, Store, read_dataset
from my_backbone import build
from my_detector import NearestMeanDetector
from my_head import COSINE
from my_loss import MLP_FOCAL
from my_probe import NEAREST_MEAN, NearestMean

trusted = {"cosine": COSINE, "mlp-focal": MLP_FOCAL, "NearestMean": NearestMean, "python:my_backbone:build": build}
trusted |= {"NearestMeanDetector": NearestMeanDetector, "nearest-mean": NEAREST_MEAN}
pictures = read_dataset("digits").subset(range(12))
said = {name: FewShotClassifier.load(name, trusted=trusted).predict(pictures).tolist() for name in sys.argv[1:]}
said["world"] = [str(answer) for answer in OpenWorldClassifier.load("world", trusted=trusted).predict(pictures)]
with Store.open("store", trusted=trusted) as store:
    said["store"] = [str(answer) for answer in store.world.predict(pictures)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module", autouse=True)
def mine() -> Iterator[SimpleNamespace]:
    """The files as modules, as Python finds them from the folder in which they lie."""
    sys.path.insert(0, str(DOCS / "extending"))
    yield SimpleNamespace(**{path.stem.removeprefix("my_"): import_module(path.stem) for path in FILES})
    sys.path.remove(str(DOCS / "extending"))


@pytest.fixture(scope="module")
def saved(mine: SimpleNamespace, split: OpenWorldSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models on a backbone of one's own: three approaches, a probe, a world with a detector, and a store of it."""
    folder, backbone = tmp_path_factory.mktemp("saved"), load_backbone(BACKBONE, device="cpu")
    for approach in (mine.head.COSINE, mine.loss.MLP_FOCAL, mine.probe.NEAREST_MEAN):
        FewShotClassifier(backbone, approach, epochs=1).fit(split.support).save(folder / approach.name)
    model = FewShotClassifier(backbone, "linear-probe", probe=mine.probe.NearestMean)
    world = OpenWorldClassifier(model, "python:my_detector:NearestMeanDetector", alpha=0.2).fit(split.support)
    model.save(folder / "probe")
    world.save(folder / "world")
    Store.create(folder / "store", world).close()
    return folder


def mine_but(missing: str = "") -> dict[str, Any]:
    """All parts by their names in files, less one."""
    return {name: getattr(sys.modules[module], part) for name, (module, part) in PARTS.items() if name != missing}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_one_s_own_has_thirty_lines_at_most(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 30


def test_the_page_shows_every_file_and_every_file_has_its_section() -> None:
    page = (DOCS / "extending.md").read_text("utf-8")
    assert sorted(set(re.findall(r"\(extending/(\w+\.py)\)", page))) == [path.name for path in FILES]


CHECKED: dict[str, Callable[[SimpleNamespace], None]] = {
    "head": lambda mine: testing.check_head(mine.head.CosineHead),
    "loss": lambda mine: testing.check_loss(mine.loss.focal),
    "probe": lambda mine: testing.check_probe(mine.probe.NearestMean),
    "detector": lambda mine: testing.check_detector(mine.detector.NearestMeanDetector),
    "discoverer": lambda mine: testing.check_discoverer(mine.discoverer.CompleteLinkage),
    "backbone": lambda mine: testing.check_backbone(mine.backbone.build()),
}


@pytest.mark.parametrize("kind", CHECKED)
def test_it_keeps_its_contract(kind: str, mine: SimpleNamespace) -> None:
    CHECKED[kind](mine)


def test_the_main_job_takes_parts_of_one_s_own_and_shows_them_by_name(mine: SimpleNamespace, tmp_path: Path) -> None:
    options: dict[str, Any] = {"shots": 4, "unseen": "3", "trials": 4, "seeds": 1, "epochs": 1, "jobs": 1}
    parts: dict[str, Any] = {
        "model": BACKBONE,
        "approaches": (mine.head.COSINE, "python:my_loss:MLP_FOCAL", "python:my_probe:NEAREST_MEAN"),
        "detector": mine.detector.NearestMeanDetector,
        "discoverer": "python:my_discoverer:CompleteLinkage",
    }
    out = tmp_path / "run"
    results = run_few_shot(FewShotConfig.of(**options, **parts, device="cpu", out=str(out)))
    assert {"cosine", "mlp-focal", "nearest-mean"} <= results["approaches"].keys()
    assert results["novelty"]["detector"] == "NearestMeanDetector"
    report = (out / "report.html").read_text("utf-8")
    shown = ("cosine", "mlp-focal", "nearest-mean", "NearestMeanDetector", "CompleteLinkage")
    assert [name for name in shown if name not in report] == []
    for forgotten in ("detector", "discoverer"):
        fewer = {name: part for name, part in parts.items() if name != forgotten}
        with pytest.raises(ArtifactError, match=f"give `{forgotten}` again: what a file names is not imported"):
            run_few_shot(FewShotConfig.of(**fewer, resume=str(out)))


def test_what_was_saved_is_loaded_in_a_new_process_that_is_given_the_parts(saved: Path, digits: ImageDataset) -> None:
    names = ["cosine", "mlp-focal", "nearest-mean", "probe"]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PROGRAM}", *names],
        cwd=saved,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, backbone = json.loads(done.stdout), load_backbone(BACKBONE, device="cpu")
    trusted, pictures = mine_but(), digits.subset(range(12))
    for name in names:
        assert said[name] == FewShotClassifier.load(saved / name, backbone, trusted).predict(pictures).tolist()
    world = OpenWorldClassifier.load(saved / "world", backbone, trusted)
    assert said["world"] == said["store"] == [str(answer) for answer in world.predict(pictures)]
    assert world.foreign_parts().keys() == {"NearestMean", "NearestMeanDetector"}
    assert world.rejector_ is not None
    assert str(world.rejector_.chosen).startswith("NearestMeanDetector, frozen features")


@pytest.mark.parametrize("missing", PARTS)
def test_a_part_that_is_not_passed_is_refused_by_name(missing: str, saved: Path) -> None:
    backbone = load_backbone(BACKBONE, device="cpu")
    trusted = mine_but(missing)
    load: Callable[[], object] = {
        "NearestMean": lambda: FewShotClassifier.load(saved / "probe", backbone, trusted),
        "NearestMeanDetector": lambda: OpenWorldClassifier.load(saved / "world", backbone, trusted),
    }.get(missing, lambda: FewShotClassifier.load(saved / missing, backbone, trusted))
    with pytest.raises(ArtifactError, match=f"got '{missing}', which a file must not import; pass it: trusted="):
        load()


@pytest.mark.parametrize("changed", ["NearestMean", "NearestMeanDetector"])
def test_a_part_with_other_code_is_refused(changed: str, saved: Path, mine: SimpleNamespace) -> None:
    trusted = mine_but()

    class Other(trusted[changed]):  # type: ignore[misc]
        pass

    backbone = load_backbone(BACKBONE, device="cpu")
    with pytest.raises(ArtifactError, match=f"{changed} as it was then .*with other source text"):
        OpenWorldClassifier.load(saved / "world", backbone, trusted | {changed: Other})


def test_a_store_learns_and_goes_back_with_parts_of_one_s_own(
    saved: Path, mine: SimpleNamespace, split: OpenWorldSplit, tmp_path: Path
) -> None:
    backbone = load_backbone(BACKBONE, device="cpu")
    trusted = mine_but()
    world = OpenWorldClassifier.load(saved / "world", backbone, trusted)
    novel = split.novel.open("docs/extending")
    with Store.create(tmp_path / "store", world) as store:
        store.ingest(novel.subset(range(40)))
        store.name(store.unknown().pictures.subset(range(4)), "new")
        assert "new" in store.world.model.label_space_.names
        store.undo()
        assert "new" not in store.world.model.label_space_.names


def test_a_method_of_discovery_groups_what_was_called_unknown(
    saved: Path, mine: SimpleNamespace, split: OpenWorldSplit
) -> None:
    method = mine.discoverer.CompleteLinkage
    trusted = mine_but()
    world = OpenWorldClassifier.load(saved / "world", load_backbone(BACKBONE, device="cpu"), trusted)
    world.predict(split.novel.open("docs/extending").subset(range(60)))
    world.discover(method)
    assert world.discovery_.method == "CompleteLinkage"
    features = world.reference_[0]
    by_name = discover_classes(features, reference=world.reference_, method="python:my_discoverer:CompleteLinkage")
    assert by_name.method == "CompleteLinkage"


def test_a_format_reads_what_no_other_does(mine: SimpleNamespace, digits: ImageDataset, tmp_path: Path) -> None:
    for i in range(4):
        digits.open(i).save(tmp_path / f"{i}.png")
    records = [{"file": f"{i}.png", "label": "even" if i % 2 == 0 else "odd"} for i in range(4)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, records)))
    for format in (mine.format.JSON_LINES, "python:my_format:JSON_LINES"):
        read = read_dataset(tmp_path / "labels.jsonl", format=format)
        assert read.label_space.names == ("even", "odd")
        assert read.required_labels().tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match="got a folder"):
        read_dataset(tmp_path, format=mine.format.JSON_LINES)
    with pytest.raises(UsageError, match="expected a Format, got a function"):
        read_dataset(tmp_path, format="python:my_format:read_json_lines")


def test_auto_chooses_among_the_library_s_own_alone(mine: SimpleNamespace, split: OpenWorldSplit) -> None:
    model = FewShotClassifier(load_backbone(BACKBONE, device="cpu"), "linear-probe")
    world = OpenWorldClassifier(model, alpha=0.2).fit(split.support)
    assert world.foreign_parts() == {}
