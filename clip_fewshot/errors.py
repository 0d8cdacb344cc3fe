"""The errors a user can cause or meet; each says what was expected, what came, where, and what to do."""

from __future__ import annotations

from typing import Any


class ClipFewShotError(Exception):
    """Base of all errors of this library.

    Args:
        expected: what would have been right, as the end of "expected ...".
        got: what came instead.
        fix: what the user can do about it, as an imperative clause.
        where: file, row, layer or argument the message is about.

    Example:
        >>> import clip_fewshot as cf
        >>> try:
        ...     cf.load_backbone("ViT-B/23")
        ... except cf.ClipFewShotError as error:
        ...     print(error.where, error.got, error.fix, error.exit_code, sep=" - ")
        model - 'ViT-B/23' - check the spelling - 2
    """

    exit_code: int = 1

    def __init__(self, *, expected: str, got: str, fix: str, where: str | None = None) -> None:
        self.expected, self.got, self.fix, self.where = expected, got, fix, where
        place = f"{where}: " if where else ""
        super().__init__(f"{place}expected {expected}, got {got}; {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)  # passes from a worker to its parent


def _rebuild(kind: type[ClipFewShotError], args: tuple[Any, ...], state: dict[str, Any]) -> ClipFewShotError:
    error = kind.__new__(kind)
    error.args = args  # OSError sets none of its own here
    error.__dict__.update(state)
    return error


class UsageError(ClipFewShotError, ValueError):
    """An argument outside its range, or arguments that exclude each other. Exit code 2.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.ArcFaceHead(in_features=8, n_classes=3, margin=90)
        Traceback (most recent call last):
        clip_fewshot.errors.UsageError: margin: expected an angular margin in radians in [0, 1.57...], got 90; ...
    """

    exit_code = 2


class DataError(ClipFewShotError, ValueError):
    """A file, folder or table of the user's that cannot be used as it is. Exit code 2.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.read_dataset("nowhere/")
        Traceback (most recent call last):
        clip_fewshot.errors.DataError: nowhere: expected an existing folder or file, got nothing there; ...
    """

    exit_code = 2


class ArtifactError(ClipFewShotError):
    """A saved model, cache or checkpoint that is damaged, foreign, or of another version. Exit code 2.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.FewShotClassifier.load("nothing/")
        Traceback (most recent call last):
        clip_fewshot.errors.ArtifactError: nothing: expected a folder with a saved few-shot classifier, got ...
    """

    exit_code = 2


class ResourceError(ClipFewShotError, OSError):
    """The machine lacks something: disk, memory, device, network, permission, a free lock. Exit code 4.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.load_backbone("mini", device="cuda:99")
        Traceback (most recent call last):
        clip_fewshot.errors.ResourceError: device: expected ...
    """

    exit_code = 4


class DivergedError(ClipFewShotError, ArithmeticError):
    """A training run whose loss or weights stopped being finite. Ends the trial, never the study.

    Example:
        >>> import clip_fewshot as cf
        >>> split = cf.split_open_world(cf.read_dataset("digits"), shots=2)
        >>> cf.FewShotClassifier(cf.load_backbone("mini"), "mlp", unfreeze=0, head_lr=1e38).fit(split.support)
        Traceback (most recent call last):
        clip_fewshot.errors.DivergedError: training: expected a finite loss, got nan ...; lower the learning rates
    """
