"""What holds for every command, whatever it does: how it is found, started, explained and refused."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import defaultdict
from dataclasses import MISSING
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import clip_fewshot
from clip_fewshot.commands import COMMAND_GROUPS, COMMANDS, OPEN_WORLD, STORE_COMMANDS, main
from clip_fewshot.commands.cli.parser import flat_fields, parse
from clip_fewshot.commands.cli.values import arms_of
from tests.cli.command import drop_progress

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "sklearn", "scipy", "pandas", "PIL", "matplotlib", "optuna"}
RESEARCH = (
    "replicate",
    "coverage",
    "distillation",
    "prediction_sets",
    "text_prior",
    "text_prior_constants",
    "benchmark",
    "in_docker",
    "glyphs.command",
)
MODULES = {
    **{name: f"clip_fewshot.commands.{name}" for name in COMMANDS if name != OPEN_WORLD},
    **{f"open-world {name}": f"clip_fewshot.commands.{OPEN_WORLD}.{name}" for name in STORE_COMMANDS},
    **{f"experiments.{name}": f"experiments.{name}" for name in RESEARCH},
}
OURS = {name: module for name, module in MODULES.items() if module.startswith("clip_fewshot")}


def options(module: str) -> type[Any]:
    return import_module(module).Options  # type: ignore[no-any-return]


def names_of(module: str) -> set[str]:
    return {field.name for field, _, _ in flat_fields(options(module))}


def test_the_same_name_is_the_same_option_everywhere() -> None:
    """Same type (None aside) and same default; a required option has none, and whatever lists are is in the name."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, module in MODULES.items():
        for field, hint, _ in flat_fields(options(module)):
            found[field.name][f"type {arms_of(hint)}"].add(name)
            if field.default is not MISSING:
                found[field.name][f"default {field.default!r}"].add(name)
    for option, kinds in found.items():
        for what in ("type", "default"):
            different = {kind: sorted(names) for kind, names in kinds.items() if kind.startswith(what)}
            assert len(different) <= 1, f"--{option}: {different}"


def test_words_are_read_without_anything_heavy_for_only_then_a_command_can_show_a_bar() -> None:
    code = """
import shlex, sys
from importlib import import_module
from clip_fewshot.commands.cli.parser import parse
for module in sys.argv[1:]:
    command = import_module(module)
    for example in command.EXAMPLES:
        parse(command.Options, module, "", shlex.split(example))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, *OURS.values()], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY


@pytest.mark.parametrize("name", [name for name in OURS if "data" in names_of(OURS[name])])
def test_data_stands_by_its_place_or_behind_its_name(name: str) -> None:
    needed = {"finetune": ["--out", "x"], "pretrain": ["--out", "x"], "retrieve": ["--text", "x"]}.get(name, [])
    for typed in (["photos", *needed], [*needed, "photos"], [*needed, "--data", "photos"]):
        data = parse(options(OURS[name]), name, "", typed).data
        assert getattr(data, "data", data) == "photos"  # the main job keeps its options in parts


@pytest.mark.parametrize("name", OURS)
def test_each_command_has_two_examples_that_can_be_typed(name: str) -> None:
    examples = import_module(OURS[name]).EXAMPLES
    assert len(examples) == 2
    for example in examples:
        parse(options(OURS[name]), name, "", shlex.split(example))


@pytest.mark.parametrize("started", [f"experiments.{name}" for name in (*COMMANDS, *RESEARCH[:-1])])
def test_help_names_the_command_and_imports_nothing_heavy(started: str) -> None:
    """Processor time of --help depends on the machine; what it imports does not."""
    code = f"import runpy, sys\nsys.argv = ['x', '--help']\ntry: runpy.run_module({started!r}, None, '__main__', True)"
    code += "\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: python -m {started} ")
    heavy = HEAVY if started.partition(".")[2] in COMMANDS else set()  # research imports what it measures
    assert not {name.partition(".")[0] for name in done.stderr.split()} & heavy


def test_every_command_has_its_file_and_its_place_in_the_list() -> None:
    here = ROOT / "clip_fewshot/commands"
    assert {path.stem for path in here.glob("*.py")} - {"__init__"} == set(COMMANDS) - {OPEN_WORLD}
    assert {path.stem for path in (here / OPEN_WORLD).glob("*.py")} - {"__init__", "shared"} == set(STORE_COMMANDS)
    assert {path.stem for path in (ROOT / "experiments").glob("*.py")} >= set(COMMANDS)
    for path in [*here.glob("*.py"), *(here / OPEN_WORLD).glob("*.py")]:
        if path.stem not in ("__init__", "shared"):
            assert len(path.read_text("utf-8").splitlines()) <= 80, path


def clip_fewshot_says(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'clip-fewshot'; from clip_fewshot.commands import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *words], capture_output=True, text=True, env=env, **more)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_alone_it_lists_all_commands_in_groups(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for title, group in COMMAND_GROUPS.items():
        assert f"{title}:" in lines
        assert all(any(line.startswith(f"  {name.replace('_', '-')} ") for line in lines) for name in group)


def test_version_spellings_and_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clip-fewshot {clip_fewshot.__version__}\n"
    for spelling in ("zero-shot", "zero_shot"):
        with pytest.raises(SystemExit) as end:
            main([spelling, "--help"])
        assert end.value.code == 0
    capsys.readouterr()
    for typed, meant in ((["fewshot"], "few-shot"), ([OPEN_WORLD, "ingset", "store"], "ingest"), (["qqq"], "")):
        assert main(typed) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert ("did you mean" in err) == bool(meant)
        assert meant in err


def test_code_of_the_current_folder_is_imported_only_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n")
    (tmp_path / "mine.py").write_text("def build():\n    raise SystemExit('mine was built')\n")
    plain = clip_fewshot_says("zero-shot", "nowhere", "--model", "mini", cwd=tmp_path)
    assert "nothing there" in plain.stderr
    (tmp_path / "json.py").unlink()
    asked = clip_fewshot_says("zero-shot", "digits", "--model", "python:mine:build", cwd=tmp_path)
    assert drop_progress(asked.stderr) == "mine was built\n"


OF_TEXTS = {"template", "templates"}
MAKE_TEXTS = {
    "few_shot",
    "finetune",
    "zero_shot",
    "retrieve",
    "novelty",
    "modality_gap",
    "shots",
    "experiments.replicate",
    "pretrain",
    "compare",
    "embed",
}


def test_wherever_texts_are_made_of_names_templates_and_names_can_be_given() -> None:
    """The same three options, which say the same; the store's groups have words of their own in place of names."""
    having = {name for name, module in MODULES.items() if names_of(module) & OF_TEXTS}
    assert having >= MAKE_TEXTS | {"open-world discover", "open-world review"}
    said: dict[str, set[str]] = defaultdict(set)
    for name in having:
        assert names_of(MODULES[name]) >= OF_TEXTS, name
        others = {"words"}  # a list to choose names from
        assert ("class_names" in names_of(MODULES[name])) == (not others & names_of(MODULES[name])), name
        for field, _, _ in flat_fields(options(MODULES[name])):
            said[field.name].add(field.metadata.get("help", ""))
    assert all(len(said[option]) == 1 for option in (*OF_TEXTS, "class_names"))


def test_a_text_is_never_split_and_a_list_of_names_is() -> None:
    typed = ["--template", "a {}, red", "--template", "one {}"]
    for name in sorted(MAKE_TEXTS | {"open-world discover"}):
        needed = {
            "finetune": ["--out", "x"],
            "pretrain": ["pairs", "--out", "x", "--labelled", "photos"],
            "retrieve": ["--text", "x"],
            "open-world discover": ["store"],
            "embed": ["photos", "--labels"],
        }
        chosen = parse(options(MODULES[name]), name, "", [*needed.get(name, []), *typed])
        place = chosen.data if name == "few_shot" else chosen
        assert place.template == ("a {}, red", "one {}")
