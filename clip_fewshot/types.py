"""Array aliases and the plain values that cross steps.

Axis letters, here and everywhere: n samples, c classes, d features, b batch, l tokens, t templates.
Angles are radians, accuracies are fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.errors import UsageError

FloatArray = NDArray[np.floating[Any]]  # (n, d) features, (n, c) probabilities, (n,) scores
LabelArray = NDArray[np.int64]  # (n,) class indices into a LabelSpace
IndexArray = NDArray[np.int64]  # (n,) row numbers
BoolArray = NDArray[np.bool_]  # (n,)
Say = Callable[[str], None]  # takes a line for the screen


class Progress(Protocol):
    """Called after each unit of work; ``total`` units make a stage."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Called while ``stage`` runs, after ``done`` of ``total`` steps."""
        ...


def ignore_progress(stage: str, done: int, total: int, /) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class LabelSpace:
    """The ordered class names; a label is an index into them.

    Attributes:
        names: of the classes, in the order of their labels.
        former: what classes that were renamed were called before, in the same order; empty where none was. Draws of
            classes go by these, so that other names never hide other classes.
        numbers: whether the labels were given as whole numbers.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.LabelSpace(("cat", "dog")).encode(["dog", "cat"]).tolist()
        [1, 0]
    """

    names: tuple[str, ...]
    former: tuple[str, ...] = field(default=(), compare=False, repr=False)
    numbers: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        given: object = self.names
        if not isinstance(given, tuple | list) or not all(isinstance(name, str) for name in given):
            got, fix = repr(self.names)[:100], "write ('cat', 'dog')"
            raise UsageError(expected="class names that are texts", got=got, fix=fix, where="LabelSpace")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise UsageError(expected="distinct class names", got=f"{twice} more than once", fix="rename or merge them")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        more = f", ... {len(self) - 20:,} more" if len(self) > 20 else ""
        return f"LabelSpace(names=({', '.join(map(repr, self.names[:20]))}{more}))"

    def encode(self, names: Iterable[str]) -> LabelArray:
        """Class names -> (n,) indices."""
        index = {name: i for i, name in enumerate(self.names)}
        wanted = list(names)
        unknown = sorted({str(name) for name in wanted if not isinstance(name, str) or name not in index})
        if isinstance(names, str):  # a text is not a list of its letters
            unknown = [names]
        if unknown:
            got = f"{unknown}"
            raise UsageError(expected=f"class names out of {list(self.names)}", got=got, fix="check the spelling")
        return np.array([index[name] for name in wanted], dtype=np.int64)

    def decode(self, labels: LabelArray) -> list[str]:
        """(n,) indices -> class names.

        Raises:
            UsageError: an index that no class has; -1 is not the last one.
        """
        indices = np.asarray(labels)
        fits = indices.ndim == 1 and (not indices.size or indices.dtype.kind in "iu")
        if not fits or (indices.size and not 0 <= indices.min() <= indices.max() < len(self.names)):
            got, fix = f"{labels!r}"[:60], "take the names of the space that encoded them"
            raise UsageError(expected=f"(n,) indices in 0..{len(self.names) - 1}", got=got, fix=fix, where="LabelSpace")
        return [self.names[i] for i in indices.tolist()]

    def subset(self, names: Sequence[str]) -> LabelSpace:
        """The named classes, kept in this space's order."""
        self.encode(names)
        kept = [name in set(names) for name in self.names]
        return LabelSpace(tuple(compress(self.names, kept)), tuple(compress(self.former, kept)), self.numbers)

    def to_array(self) -> NDArray[Any]:
        """(c,) the classes as they were given: texts, or whole numbers."""
        return np.array(self.names, dtype=np.str_).astype(np.int64 if self.numbers else np.str_)


@dataclass(frozen=True)
class FeatureSet:
    """Features of images or texts with all that later steps need of them.

    Attributes:
        features: (n, d) float32, not normalised.
        labels: (n,) indices into ``label_space``, or None.
        digests: (n,) content digests of the inputs.
        label_space: the class names, or None where there are no labels.
        backbone: digest of the weights that made the features.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> found = cf.FeatureSet(np.ones((3, 8), np.float32), digests=("x", "y", "z"), backbone="mini")
        >>> found.subset(np.array([0, 2])).digests
        ('x', 'z')
    """

    features: FloatArray
    digests: tuple[str, ...]
    backbone: str
    labels: LabelArray | None = None
    label_space: LabelSpace | None = None

    def __post_init__(self) -> None:
        columns: list[Any] = [self.digests, self.features if self.labels is None else self.labels]
        lengths = {len(self.features), *(-1 if isinstance(one, str | int) else len(one) for one in columns)}
        if len(lengths) > 1 or np.ndim(self.features) != 2:
            got, fix = f"{np.shape(self.features)} and lengths {sorted(lengths)}", "give one digest and label per row"
            raise UsageError(expected="features (n, d), n digests, n labels", got=got, fix=fix, where="FeatureSet")

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        classes = "" if self.label_space is None else f", classes: {len(self.label_space):,}"
        return f"FeatureSet({len(self):,} x {self.features.shape[1]}{classes}, backbone {self.backbone[:12]})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> FloatArray:
        return np.asarray(self.features, dtype=dtype) if copy is None else np.array(self.features, dtype, copy=copy)

    def subset(self, rows: IndexArray) -> FeatureSet:
        """The chosen rows, in the order given."""
        return replace(
            self,
            features=self.features[rows],
            digests=tuple(self.digests[int(i)] for i in rows),
            labels=None if self.labels is None else self.labels[rows],
        )


@dataclass(frozen=True)
class EvalResult:
    """A figure measured over seeds, mostly a fraction in [0, 1], with its 95 % interval over seeds and test images.

    Attributes:
        mean, per_seed: over the seeds, and of each.
        ci95: low and high end of the interval.
        n_test: test images.
        notes: what a reader should know besides.
    """

    mean: float
    ci95: tuple[float, float]
    per_seed: tuple[float, ...]
    n_test: int
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """The figure and its interval, as a table has them: ``0.992 [0.981, 0.997]``."""
        return f"{self.mean:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"

    def __repr__(self) -> str:
        seeds = f", {len(self.per_seed)} seeds" if len(self.per_seed) > 1 else ""
        notes = "".join(f"; {note}" for note in self.notes)
        return f"EvalResult({self}, n_test={self.n_test}{seeds}{notes})"

    def to_json(self) -> dict[str, Any]:
        """The form it has in results.json."""
        record: dict[str, Any] = {
            "mean": self.mean,
            "ci95": list(self.ci95),
            "per_seed": list(self.per_seed),
            "n_test": self.n_test,
        }
        return record | {"notes": list(self.notes)} if self.notes else record
