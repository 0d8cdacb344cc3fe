"""The folder of a run: what it was begun with, and whether this call goes on with that."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import names_code
from clip_fewshot.config import AUTO, HIDDEN, READING, DataOptions, FewShotConfig, RunOptions
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.formats import FORMATS
from clip_fewshot.data.names import number
from clip_fewshot.data.own_templates import choose_templates
from clip_fewshot.discovery import DISCOVERERS, find_discoverer
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.few_shot.approach import APPROACHES, Approach, find_approach
from clip_fewshot.few_shot.foreign import find_trusted_approach, list_foreign_parts
from clip_fewshot.novelty import DETECTORS
from clip_fewshot.open_world.artifact import OPEN_WORLD_KIND
from clip_fewshot.open_world.select_detector import list_detectors
from clip_fewshot.runtime.artifacts import check_artifact_folder
from clip_fewshot.runtime.files import check_seal, hash_bytes, read_json, remove_half_files, seal, write_json
from clip_fewshot.runtime.outputs import FolderKind, check_folder
from clip_fewshot.tuning import choose_depth

TRIALS_FOLDER, MODEL_FOLDER, RUN = "trials", "model", "run.json"
RUN_KIND = FolderKind("few-shot run", ((RUN, frozenset({"key", "config"})),))
OBJECTIVE = "log loss"  # what trials are judged by: those of a run that judged otherwise mean something else


def resume_config(config: FewShotConfig) -> FewShotConfig:
    """``config``, or under --resume the options of the interrupted run with this call's limits and device."""
    if config.run.resume is None:
        return config
    path = Path(config.run.resume) / RUN
    if not os.path.isfile(path):
        fix = "check the path; a run that was hit before it wrote that is begun again in a folder of its own (`out`)"
        got = f"no {RUN} in it"
        raise ArtifactError(expected="the folder of an interrupted run", got=got, fix=fix, where=config.run.resume)
    began = read_options(path)
    held, unset = began.study_key(), FewShotConfig().study_key()
    ignored = [
        f"`{name}`"
        for name, value in config.study_key().items()
        if name != "approaches" and value not in (held.get(name), unset.get(name))
    ]
    if ignored:
        fix = "leave them out, or begin another run"
        got = ", ".join(ignored)
        raise UsageError(expected="a run resumed under its own options", got=got, fix=fix, where="`resume`")
    model, form = began.data.model, began.data.format
    for option, said, foreign in (
        ("model", model, names_code(str(model))),
        ("format", form, form is not None and form not in FORMATS),
    ):
        if foreign and getattr(config.data, option) != said:
            fix = f"give it again (`{option}`): what a file names is not imported"
            raise ArtifactError(expected=f"a {option} of this library", got=repr(said), fix=fix, where=str(path))
    return replace(began, run=_resumed_run(config.run, began.run))


def write_out_templates(config: FewShotConfig) -> FewShotConfig:
    """``config`` with its templates themselves in place of a set's or file's name: what a file says may change.

    Raises:
        UsageError: a template without exactly one "{}".
        DataError: no such set or file.
    """
    chosen = choose_templates(config.data.templates, config.data.template)
    return replace(config, data=replace(config.data, template=chosen, templates=None))


def name_parts(config: FewShotConfig, approaches: Sequence[Approach]) -> FewShotConfig:
    """``config`` as it is written down: the names of its parts in their place, and its templates themselves.

    Raises:
        UsageError: no such detector or method of discovery, or a detector without neighbours that is given a number of
            them; and see :func:`write_out_templates`.
    """
    config = write_out_templates(config)
    run = config.run
    detectors = list_detectors(run.detector, run.n_neighbors)
    detector = AUTO if run.detector == AUTO else next(iter(detectors))
    discoverer = None if run.discoverer is None else find_discoverer(run.discoverer)[0]
    search = replace(config.search, approaches=tuple(approach.name for approach in approaches))
    return replace(config, search=search, run=replace(run, detector=detector, discoverer=discoverer))


def settle_depth(config: FewShotConfig, backbone: Backbone) -> FewShotConfig:
    """``config`` as it is written down: with the number of last layers that it leaves to the backbone."""
    depth = choose_depth(backbone.visual, config.search.max_unfreeze)
    return replace(config, search=replace(config.search, max_unfreeze=depth))


def _resumed_part(name: str, run: RunOptions, began: RunOptions, members: Collection[str]) -> Any:
    """The part that this call names, else that of the interrupted run; what a file names is not imported."""
    given, held = getattr(run, name), getattr(began, name)
    if given != getattr(RunOptions(), name):
        return given
    if held in (given, *members):
        return held
    fix = f"give `{name}` again: what a file names is not imported"
    raise ArtifactError(expected=f"a {name} of this library", got=repr(held), fix=fix, where="`resume`")


def _resumed_run(run: RunOptions, began: RunOptions) -> RunOptions:
    """This call's limits and device; what else the interrupted run was given where this call names nothing."""
    if began.storage and HIDDEN in began.storage and run.storage is None:
        fix = "give `storage` again: it is not written down, as it may hold a password"
        raise UsageError(expected="the address of the database", got="none", fix=fix, where="`storage`")
    trials, storage = run.trials or began.trials, run.storage or began.storage
    detector = _resumed_part("detector", run, began, DETECTORS)
    discoverer = _resumed_part("discoverer", run, began, DISCOVERERS)
    parts = {"detector": detector, "discoverer": discoverer, "n_neighbors": run.n_neighbors or began.n_neighbors}
    return replace(run, trials=trials, storage=storage, out=run.resume, resume=None, **parts)


def choose_approaches(config: FewShotConfig) -> tuple[Approach, ...]:
    """The approaches to search over. A resumed run's file names its own, and what a file names is not imported."""
    chosen = [find_approach(approach) for approach in config.search.approaches] or list(APPROACHES.values())
    names = [approach.name for approach in chosen]
    if len(set(names)) < len(names):
        raise UsageError(expected="each approach once", got=", ".join(names), fix="drop one", where="`approaches`")
    path = Path(config.run.resume or "") / RUN
    if config.run.resume is None or not os.path.isfile(path):
        return tuple(chosen)
    began = read_options(path).search.approaches
    if config.search.approaches and sorted(names) != sorted(began):
        fix = "leave them out, or begin another run"
        expected = f"the approaches of the run, {', '.join(began)}"
        raise UsageError(expected=expected, got=", ".join(names), fix=fix, where="`approaches`")
    return tuple(find_trusted_approach(name, (), dict(zip(names, chosen, strict=True)), str(path)) for name in began)


def read_options(path: Path) -> FewShotConfig:
    """The options that a run wrote down."""
    try:
        return FewShotConfig.from_json(check_seal(read_json(path), str(path))["config"])
    except (KeyError, TypeError, AttributeError) as error:
        fix = "resume it with the release that began it, or begin another run"
        got = f"{type(error).__name__}: {error}"
        raise ArtifactError(expected="the options of a run", got=got, fix=fix, where=str(path)) from error


def choose_folder(data: DataOptions, out: str | None) -> Path:
    """``out``, or a name that says what ran."""
    if out:
        return Path(out)
    model = data.model_name.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{Path(data.data).resolve().name if not data.builtin else data.data}-{model}"


def claim(
    out: Path,
    config: FewShotConfig,
    approaches: Sequence[Approach],
    dataset: ImageDataset,
    backbone: Backbone,
    unlabelled: ImageDataset | None = None,
) -> None:
    """Write down what this run is, or make sure that it is the one that the folder holds already."""
    key = {
        "options": config.study_key(),
        "fingerprint": dataset.fingerprint(),
        "backbone": backbone.digest,
        "objective": OBJECTIVE,
    }
    foreign = [part for approach in approaches for part in list_foreign_parts(approach)]
    if unlabelled is not None:
        key["unlabelled"] = unlabelled.fingerprint()
    key = json.loads(json.dumps(key | ({"foreign": foreign} if foreign else {})))
    path = out / RUN
    if RUN_KIND.owns(out):
        held = check_seal(read_json(path), str(path))["key"]
        if held != key:
            names = {**held["options"], **key["options"]}
            changed = [name for name in names if held["options"].get(name) != key["options"].get(name)]
            what = (
                f"one with other {', '.join(changed)}" if changed else "one begun with other pictures, weights or code"
            )
            fix = "choose another folder (`out`), or go on with it under its own options (`resume`)"
            if held.get("objective") != OBJECTIVE:
                what, fix = "a run that an earlier release judged by F1", "choose another folder (`out`)"
            raise ArtifactError(expected="an empty folder or one of the same run", got=what, fix=fix, where=str(out))
    for folder in (out, out / TRIALS_FOLDER):
        remove_half_files(folder)
    write_json(path, seal({"key": key, "config": config.to_json()}))


def check_run_folder(config: FewShotConfig) -> Path:
    """Where the results go.

    Raises:
        ResourceError: what is there is not ours to replace. Trials of which nothing says what they mean are refused
            even where ``overwrite`` insists: the study would go on with them.
    """
    out = check_folder(choose_folder(config.data, config.run.out), RUN_KIND, config.run.overwrite, config)
    if not RUN_KIND.owns(out):
        check_folder(out / TRIALS_FOLDER, RUN_KIND, None)
    check_artifact_folder(out / MODEL_FOLDER, OPEN_WORLD_KIND, config.run.overwrite)
    return out


def study_name(config: FewShotConfig, pool: ImageDataset, backbone: Backbone) -> str:
    """Equal for runs that mean the same by a trial, wherever pictures and weights lie."""
    options = {name: value for name, value in config.study_key().items() if name not in ("data", "model", *READING)}
    same = json.dumps([options, pool.fingerprint(), backbone.digest, OBJECTIVE], sort_keys=True)
    return hash_bytes(same.encode())[:16]


def study_title(config: FewShotConfig, pool: ImageDataset) -> str:
    """What people know a study by; made of what is equal in all its workers, wherever pictures and weights lie."""
    data = config.data
    return f"{number(len(pool.label_space), 'class', 'classes')}, {number(data.shots, 'shot')}, seed {data.seed}"
