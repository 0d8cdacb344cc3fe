"""Results of one kind, one a row, that pandas can take over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from clip_fewshot.errors import ResourceError

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")
_SHOWN = 5  # items that a person is shown


class ResultRows(list[T]):
    """A list with :meth:`to_frame`.

    Args:
        items: mappings, named tuples, or objects with a ``to_row()`` that returns a mapping.
        beside: columns that stand before those of the items, each a value per row, as ``image=names``.
    """

    def __init__(self, items: Iterable[T], **beside: Sequence[Any]) -> None:
        super().__init__(items)
        self._beside = beside

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (list(self), self._beside)

    def __repr__(self) -> str:
        more = len(self) - _SHOWN
        lines = [*map(repr, self[:_SHOWN]), *([f"... and {more:,} more"] if more > 0 else [])]
        return "[" + ",\n ".join(lines) + "]"

    def to_frame(self) -> pandas.DataFrame:
        """A DataFrame with a row per item.

        Raises:
            ResourceError: pandas is not installed.
        """
        package = import_pandas()
        rows = [_to_row(item) for item in self]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        frame: pandas.DataFrame = package.DataFrame(rows, columns=package.Index(columns))
        for place, (name, values) in enumerate(self._beside.items()):
            frame.insert(place, name, list(values))
        return frame


def import_pandas() -> Any:
    """The module ``pandas``, which is imported here and nowhere before: tables alone need it.

    Raises:
        ResourceError: not installed.
    """
    try:
        import pandas
    except ImportError as error:
        fix = "pip install 'clip-fewshot[pandas]'"
        raise ResourceError(expected="the package pandas", got=str(error), fix=fix, where="to_frame") from error
    return pandas


def _rebuild(items: list[Any], beside: Mapping[str, Sequence[Any]]) -> ResultRows[Any]:
    return ResultRows(items, **beside)


def _to_row(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    row: Mapping[str, Any] = item.to_row() if hasattr(item, "to_row") else item._asdict()
    return row
