"""A name in a file imports nothing and opens nothing, whatever it names and whoever reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.protocol.run_folder import RUN
from clip_fewshot.runtime.files import write_json
from tests.conftest import TINY

FORGED = "python:http.server:test"  # which would serve the current folder
LOADERS = {
    "classifier": "FewShotClassifier.load(folder / 'classifier')",
    "world": "OpenWorldClassifier.load(folder / 'world')",
    "store": "Store.open(folder / 'store').world",
    "run": "run_few_shot(FewShotConfig.of(resume=str(folder / 'run')), print, '')",
    "format": "run_few_shot(FewShotConfig.of(resume=str(folder / 'format')), print, '')",
    "approach": "run_few_shot(FewShotConfig.of(resume=str(folder / 'approach')), print, '')",
}
PROGRAM = """
import sys
from pathlib import Path
from clip_fewshot import FewShotClassifier, FewShotConfig, OpenWorldClassifier, Store, run_few_shot
from clip_fewshot.errors import ArtifactError
import clip_fewshot.pipeline, clip_fewshot.open_world.store.store

folder, seen = Path(sys.argv[1]), []
sys.addaudithook(lambda event, given: seen.append((event, given)) if event.startswith(("import", "socket")) else None)
for loader in {loaders!r}:
    try:
        eval(loader)
    except ArtifactError as error:
        assert {forged!r} in str(error), error
    else:
        raise SystemExit(loader + " took the forged name")
bad = [(event, given) for event, given in seen if event.startswith("socket") or "http" in str(given[0])]
raise SystemExit(str(bad) if bad else 0)
"""


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory, split: OpenWorldSplit) -> Path:
    """A model, a world, a store and three runs that name a server of the standard library."""
    folder = tmp_path_factory.mktemp("forged")
    backbone = build_backbone(TINY, seed=0, name=FORGED)
    world = OpenWorldClassifier(FewShotClassifier(backbone, "linear-probe"), detector="knn", alpha=0.2)
    world.fit(split.support)
    world.model.save(folder / "classifier")
    world.save(folder / "world")
    Store.create(folder / "store", world).close()
    options = FewShotConfig().to_json() | {"approaches": ["mlp"]}
    write_json(folder / "run" / RUN, {"key": {}, "config": options | {"model": FORGED}})
    write_json(folder / "format" / RUN, {"key": {}, "config": options | {"format": FORGED}})
    write_json(folder / "approach" / RUN, {"key": {}, "config": options | {"approaches": [FORGED]}})
    return folder


def test_all_loaders_refuse_and_nothing_is_imported_or_served(forged: Path) -> None:
    program = PROGRAM.format(loaders=list(LOADERS.values()), forged=FORGED)
    done = subprocess.run([sys.executable, "-c", program, str(forged)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_files_load_when_the_caller_passes_the_part(forged: Path, split: OpenWorldSplit) -> None:
    backbone = build_backbone(TINY, seed=0, name=FORGED)
    assert FewShotClassifier.load(forged / "classifier", backbone).predict(split.support).size
    assert OpenWorldClassifier.load(forged / "world", trusted={FORGED: lambda: backbone}).predict(split.support)
    with Store.open(forged / "store", backbone) as store:
        assert store.world.model.backbone is backbone
