"""The options of the main job, free of torch so that a command line answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from clip_fewshot.config.options import AUTO as AUTO
from clip_fewshot.config.options import BUILTIN_DATA as BUILTIN_DATA
from clip_fewshot.config.options import DEVICES as DEVICES
from clip_fewshot.config.options import HIDDEN as HIDDEN
from clip_fewshot.config.options import MODEL_HELP as MODEL_HELP
from clip_fewshot.config.options import MODELS as MODELS
from clip_fewshot.config.options import READING as READING
from clip_fewshot.config.options import SOURCED as SOURCED
from clip_fewshot.config.options import Depth as Depth
from clip_fewshot.config.options import OutputOptions as OutputOptions
from clip_fewshot.config.options import ReadingOptions as ReadingOptions
from clip_fewshot.config.options import SourceOptions as SourceOptions
from clip_fewshot.config.options import TextOptions as TextOptions
from clip_fewshot.config.options import check_fractions as check_fractions
from clip_fewshot.config.options import check_range as check_range
from clip_fewshot.config.options import count_or_names as count_or_names
from clip_fewshot.config.options import model_for as model_for
from clip_fewshot.config.options import option as option
from clip_fewshot.config.options import split_names as split_names
from clip_fewshot.errors import ArtifactError, UsageError

DEFAULT_TRIALS, DEFAULT_UNFREEZE = 50, 5
# Optimiser -> peak learning rates of a fine-tuning, of pretrained layers and of what is added to them. Measured:
# docs/figures/fine_tuning_rates.md.
FINE_TUNING_RATES = {"adamw": (1e-4, 3e-3), "sgd": (1e-2, 0.1)}
ALPHA_HELP = (
    "false-alarm rate of the unknown warning, in (0, 1) (default: 0.05, or the least that the shots support if more)"
)
APPROACHES_HELP = "approaches to search over, such as prolip,lora; python:MODULE:NAME for your own (default: all four)"


@dataclass(frozen=True)
class DataOptions(SourceOptions):
    """What to learn from: pictures, the model that looks at them, and the texts that it reads.

    Raises:
        UsageError: a value outside its range.
    """

    data: str = option(
        "digits",
        "folder, list, table, JSON or Parquet of pictures; or digits, digits-wild",
        positional=True,
        flag="--data",
    )
    model: str | None = option(None, MODEL_HELP)
    pretrained: bool = option(
        True, "load trained weights (--no-pretrained: the named architecture with random weights)"
    )
    shots: int = option(16, "labelled pictures per class, validation included")
    unseen: str | None = option(
        None, "number of classes to hold out as unknown, or their names (default: 0; 3 for digits)", listed=True
    )
    test_fraction: float = option(0.5, "share of each class sealed as test set where the data has no test part")
    seed: int = option(0, "seed of everything random")
    unlabelled: str | None = option(
        None,
        "folder of pictures without labels that sharpen the text-informed probe; copies of sealed test pictures and "
        "what shows something else are left out",
        metavar="FOLDER",
    )

    def __post_init__(self) -> None:
        check_range(self, "shots")
        check_fractions(self, "test_fraction")
        self.reading()

    @property
    def builtin(self) -> bool:
        """Whether the data ships with the package."""
        return self.data in BUILTIN_DATA

    @property
    def model_name(self) -> str:
        """The model, or the usual one for such data."""
        return model_for(self.data, self.model)

    @property
    def unseen_classes(self) -> int | list[str]:
        """A count, or class names."""
        if self.unseen is None:
            return 3 if self.builtin else 0
        return count_or_names(self.unseen)


@dataclass(frozen=True)
class SearchOptions:
    """How to search, to train and to judge.

    Raises:
        UsageError: a value outside its range.
    """

    seeds: int = option(5, "fresh support sets on which the best of each approach is refitted")
    approaches: tuple[Any, ...] = option(  # names; in Python Approach objects too
        (), APPROACHES_HELP, parse=split_names
    )
    max_unfreeze: int | None = option(
        None,
        "largest N of 'the last N layers'; 0: heads alone "
        f"(default: {DEFAULT_UNFREEZE}; 0 where the image tower is locked, as that of photos is)",
    )
    epochs: int = option(20, "passes over the support set in each training")
    views: int | None = option(
        None, "fixed views per picture: 1 centre crop, 2 with its mirror image (default: 2; 1 for digits)"
    )
    alpha: float | None = option(None, ALPHA_HELP)

    def __post_init__(self) -> None:
        check_range(self, "seeds", "epochs")
        check_range(self, "max_unfreeze", least=0)
        check_range(self, "views", most=2)
        check_fractions(self, "alpha")


@dataclass(frozen=True)
class RunOptions(OutputOptions):
    """How long to go on, where to compute, and where the results go. What a trial means does not depend on it.

    Raises:
        UsageError: a value outside its range.
    """

    detector: Any = option(  # a name; in Python a class too
        AUTO, 'what says "unknown": auto chooses; one by its name, or your own as python:MODULE:NAME', parse=str
    )
    n_neighbors: int | None = option(
        None, "most neighbours that --detector compares with, below the shots (default: chosen by hiding known classes)"
    )
    discoverer: Any = option(  # a name; in Python a class too
        None,
        "what groups the unknown: ward, average, semi-supervised or python:MODULE:NAME (default: what fits)",
        parse=str,
    )
    trials: int | None = option(
        None, f"total trials of the study, interrupted runs included (default: {DEFAULT_TRIALS})"
    )
    budget: float | None = option(None, "stop searching in time, e.g. 90s, 10min, 2h", duration=True)
    device: str = option("auto", "where to compute", choices=DEVICES)
    jobs: int | None = option(
        None, "processes that train side by side (default: by cores and memory; 1 on a GPU or with --storage)"
    )
    cache_memory: float | None = option(
        None,
        "stored states held in memory, over which they are mapped from disk (default: a quarter of RAM)",
        unit="GiB",
    )
    tensorboard: bool = option(False, "show the figures in TensorBoard too")
    storage: str | None = option(None, "database URL of a study that several workers share, e.g. postgresql://...")
    out: str | None = option(None, "output folder (default: runs/<data>-<model>)")
    resume: str | None = option(None, "go on with the run in this folder, under its own options")

    def __post_init__(self) -> None:
        check_range(self, "trials", "jobs", "n_neighbors")
        check_range(self, "cache_memory", least=0)
        if self.storage and (self.jobs or 1) > 1:
            fix = "start more runs on that database instead"
            expected, got = "one process per worker of a shared study", f"{self.jobs} (`jobs`)"
            raise UsageError(expected=expected, got=got, fix=fix, where="`jobs`")

    @property
    def n_trials(self) -> int:
        """Trials, by default 50."""
        return DEFAULT_TRIALS if self.trials is None else self.trials


@dataclass(frozen=True)
class FewShotConfig:
    """What ``run_few_shot`` does, in three parts. Fractions are in [0, 1], durations in seconds.

    Args:
        data, search, run: the options of each part; :meth:`of` puts them where they belong.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.FewShotConfig.of(data="digits", shots=4).data.model_name
        'mini'
    """

    data: DataOptions = field(default_factory=DataOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @classmethod
    def of(cls, **options: Any) -> FewShotConfig:
        """Each option to the part that has it.

        Raises:
            UsageError: a value outside its range.
            TypeError: an option that no part has.
        """
        parts = {
            name: part(**{f.name: options.pop(f.name) for f in fields(part) if f.name in options})
            for name, part in PARTS.items()
        }
        if options:
            raise TypeError(f"no such option: {', '.join(options)}")
        return cls(**parts)

    @property
    def n_views(self) -> int:
        """Mirrored digits and letters are other digits and letters, so only photos get the second view."""
        return self.search.views or (1 if self.data.builtin else 2)

    def to_json(self) -> dict[str, Any]:
        """All options side by side, as they may be written down."""
        told = self.study_key() | _told(self.run) | {"storage": self.run.storage and HIDDEN}
        return {name: value for name, value in told.items() if name != "overwrite"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FewShotConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            TypeError, KeyError: options of another release.
            ArtifactError: pictures that were decoded in a way that is gone.
        """
        if any(record.get(name, value) != value for name, value in GONE.items()):
            fix = "begin another run: pictures are decoded as CLIP's own preprocessing does, and in no other way"
            raise ArtifactError(expected=f"a run with {GONE}", got="another one", fix=fix, where="options of a run")
        options = {name: value for name, value in record.items() if name not in GONE}
        lists = {name: tuple(record.get(name, ())) for name in ("approaches", "columns", "template")}
        return cls.of(**options | lists)

    def study_key(self) -> dict[str, Any]:
        """The options that decide what a finished trial means; they must be equal on resume."""
        return _told(self.data) | _told(self.search) | GONE


PARTS: Mapping[str, type[Any]] = {"data": DataOptions, "search": SearchOptions, "run": RunOptions}
GONE = {"decode": "exact"}  # what is left of an option of earlier releases, whose runs go on
# Written down where chosen: without them a run is one of schema 1.
LATER: Mapping[str, Any] = {
    "detector": AUTO,
    "discoverer": None,
    "n_neighbors": None,
    "unlabelled": None,
    "tensorboard": False,
    **SOURCED,
}


def _told(part: Any) -> dict[str, Any]:
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
