"""Which test pictures a run keeps for its page."""

from __future__ import annotations

import numpy as np
from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.protocol.examples import EXAMPLES_SHOWN, draw_examples
from clip_fewshot.protocol.final_test import OpenWorldTest
from clip_fewshot.types import FloatArray, LabelSpace

SPACE = LabelSpace(("cat", "dog"))


def met(
    names: str, said: list[float], p: list[float] | None, order: list[int], size: tuple[int, int] = (4, 4)
) -> OpenWorldTest:
    """Pictures in their shuffled row: what each shows (c, d, or x for an unseen class) and how surely it is a dog."""
    n = len(names)
    files = tuple(f"{i}.png" for i in range(n))
    shown = ImageDataset(
        "set", tuple(Image.new("L", size) for _ in names), files, None, LabelSpace(()), None, ("",) * n, ("",) * n
    )
    dog = np.array(said)
    values = None if p is None else np.array(p)
    unknown = np.zeros(n, dtype=bool) if values is None else values <= 0.05
    truth = tuple({"c": "cat", "d": "dog", "x": "fox"}[name] for name in names)
    return OpenWorldTest(
        shown, truth, np.column_stack([1 - dog, dog]), values, unknown, None, None, np.array(order, dtype=np.int64)
    )


def table(*dogs: int) -> FloatArray:
    return np.column_stack([1 - np.array(dogs), np.array(dogs)]).astype(float)


def test_one_of_each_kind_comes_before_the_next_of_any() -> None:
    world = met("ccddxxc", [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.1], [0.5, 0.5, 0.04, 0.5, 0.3, 0.01, 0.5], list(range(7)))
    drawn = draw_examples(world, SPACE, [table(1, 0, 1, 1, 0)])
    files = [one.file for one in drawn]
    # the surest mistake, the unknown one that passes, the false alarm, a cell, the least sure right one, the caught one
    assert files[:5] == ["0.png", "4.png", "2.png", "3.png", "5.png"]
    assert sorted(files) == [f"{i}.png" for i in range(7)]


def test_no_picture_is_kept_larger_than_it_is_shown() -> None:
    drawn = draw_examples(met("cd", [0.9, 0.8], None, [0, 1], (600, 400)), SPACE, [table(1, 0)])
    assert [one.picture.size for one in drawn] == [(240, 160)] * 2
    assert draw_examples(met("c", [0.9], None, [0]), SPACE, [table(1)])[0].picture.size == (4, 4)


def test_votes_follow_the_pictures_through_the_shuffle() -> None:
    world = met("xdc", [0.5, 0.9, 0.1], [0.5, 0.5, 0.5], [2, 1, 0])  # the test pictures are c, d and then x
    votes = {one.true_name: one.votes for one in draw_examples(world, SPACE, [table(0, 1), table(0, 0), table(0, 0)])}
    assert votes == {"fox": (), "dog": (("cat", 2), ("dog", 1)), "cat": (("cat", 3),)}


def test_each_cell_of_the_matrix_has_a_picture_however_many_there_are() -> None:
    n = EXAMPLES_SHOWN + 10
    world = met("c" * n, [0.01] * n, None, list(range(n)))
    last = [0] * (n - 1) + [1]  # answered otherwise by one support set alone
    drawn = draw_examples(world, SPACE, [table(*([0] * n)), table(*last)])
    assert len(drawn) == EXAMPLES_SHOWN
    assert any(one.file == f"{n - 1}.png" and one.votes == (("cat", 1), ("dog", 1)) for one in drawn)
    assert all(one.unknown is None for one in drawn)


def test_a_cell_shows_the_picture_that_most_support_sets_answer_so() -> None:
    n = EXAMPLES_SHOWN + 10
    world = met("c" * n, [0.01] * n, None, list(range(n)))
    tables = [table(*[int(i == n - 1) for i in range(n)]), table(*[int(i >= n - 2) for i in range(n)])]
    drawn = draw_examples(world, SPACE, [*tables, table(*[0] * n)])
    dogs = [one.file for one in drawn if "dog" in dict(one.votes)]
    assert dogs == [f"{n - 1}.png"]
