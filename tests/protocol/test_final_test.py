"""What the final test says of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.conformal.shift import Shift
from clip_fewshot.protocol.final_test import FinalTest

UNMOVED = Shift(p_value=1.0, ordinary=0.8, undone=0.8, spread=1.0, pictures=100, kept=1.0, agreement=1.0, chance=0.5)


def test_notes_of_models_stand_once_and_in_their_order() -> None:
    digits = cf.read_dataset("digits").subset(range(3))
    noted = [f"note {i}" for i in range(20)]
    models = {str(i): SimpleNamespace(note=note) for i, note in enumerate([*noted, "", *noted])}
    fits: Any = (SimpleNamespace(models=models),) * 2
    outcome = FinalTest("mlp", fits, digits, (), digits, (), np.empty((3, 10)), np.eye(10), (), (), UNMOVED)
    assert outcome.list_notes() == noted  # a set would have them in an order of each process


def test_names_that_are_one_text_to_the_model_are_said() -> None:
    digits = cf.read_dataset("digits").subset(range(3))
    texts = np.eye(10)
    apart = FinalTest("mlp", (), digits, (), digits, (), np.empty((3, 10)), texts, (), (), UNMOVED)
    assert apart.list_notes() == []
    shared = texts[[0, 1, 1, *range(3, 10)]]
    alike = FinalTest("mlp", (), digits, (), digits, (), np.empty((3, 10)), shared, (), (), UNMOVED)
    (note,) = alike.list_notes()
    one, two = digits.label_space.names[1:3]
    assert note.startswith(f"2 class names are the same text to the model: {one}, {two}; ")


def test_a_test_from_elsewhere_than_the_shots_is_said() -> None:
    digits = cf.read_dataset("digits").subset(range(3))
    moved = UNMOVED._replace(p_value=0.002)
    outcome = FinalTest("mlp", (), digits, (), digits, (), np.empty((3, 10)), np.eye(10), (), (), moved)
    assert "another camera" in outcome.list_notes()[0]
