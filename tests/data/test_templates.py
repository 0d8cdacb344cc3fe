"""Templates: OpenAI's to the letter, sets by name, files, and the one place that each must have."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_fewshot.data.captions import TEMPLATES, CaptionGenerator
from clip_fewshot.data.own_templates import TEMPLATE_SETS, choose_templates
from clip_fewshot.data.templates import OPENAI_TEMPLATES, check_templates, fill_template
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.files import hash_bytes


def test_there_are_eighty_of_openai() -> None:
    assert len(set(OPENAI_TEMPLATES)) == len(OPENAI_TEMPLATES) == 80
    assert check_templates(OPENAI_TEMPLATES) == OPENAI_TEMPLATES
    assert (OPENAI_TEMPLATES[0], OPENAI_TEMPLATES[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")
    seven = "itap of a {}.|a bad photo of the {}.|a origami {}.|a photo of the large {}.|a {} in a video game."
    assert {*seven.split("|"), "art of the {}.", "a photo of the small {}."} < set(OPENAI_TEMPLATES)  # its best seven
    assert hash_bytes("\n".join(OPENAI_TEMPLATES).encode())[:16] == "4f976686fb651bb5"


def test_sets_files_and_texts_add_up_each_once(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\ufeffa drawing of a {}\r\n\r\n a photo of a {} \n", "utf-8")
    assert choose_templates(None) == ()
    assert choose_templates("one") == TEMPLATES[:1]
    assert choose_templates("ensemble") == TEMPLATES
    assert choose_templates("openai") == OPENAI_TEMPLATES
    assert choose_templates(str(file)) == ("a drawing of a {}", "a photo of a {}")
    assert choose_templates("one", ["the number {}, red", TEMPLATES[0]]) == (TEMPLATES[0], "the number {}, red")
    assert set(TEMPLATE_SETS) == {"one", "ensemble", "openai"}


@pytest.mark.parametrize("bad", ["a photo", "{} and {}", "a {name}", "{0}", ""])
def test_a_template_has_exactly_one_place(bad: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`template`: expected one \{\} in each template"):
        choose_templates(None, ["a {}", bad])
    file = tmp_path / "texts.txt"
    file.write_text(f"a {{}}\n{bad or 'b'}\n")
    with pytest.raises(UsageError, match=r"texts.txt: expected one \{\} in each template"):
        choose_templates(str(file))


def test_what_is_no_set_and_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of one, ensemble, openai, or a file with a template a line, got 'opnai'"):
        choose_templates("opnai")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match=r"empty.txt: expected one \{\} in each template, got none"):
        choose_templates(str(tmp_path / "empty.txt"))


def test_a_name_is_spoken_and_its_braces_are_text() -> None:
    assert fill_template("a {}!", "water_lily ") == "a water lily!"
    assert fill_template("a {}!", "{0}") == "a {0}!"


def test_captions_of_own_templates_are_these_alone_and_each_comes_before_any_comes_again() -> None:
    captions = CaptionGenerator(3, templates=("a {}", "the {}", "one {}"))
    assert len(captions) == 3
    six = [captions("bee") for _ in range(6)]
    assert sorted(six[:3]) == sorted(six[3:]) == ["a bee", "one bee", "the bee"]
    assert sorted(captions.bank("ant", 3)) == ["a ant", "one ant", "the ant"]
    with pytest.raises(UsageError, match="a bank of 0 to 3 captions"):
        captions.bank("ant", 4)
    with pytest.raises(UsageError, match=r"one \{\} in each template"):
        CaptionGenerator(templates=["a photo"])
