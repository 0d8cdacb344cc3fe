"""The public names: one list, few enough to read, each with an example that runs."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import clip_fewshot as cf

STUB = Path(cf.__file__).with_suffix(".pyi")
HOMES = {
    alias.name: f"clip_fewshot.{statement.module}"
    for statement in ast.parse(STUB.read_text("utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
MOST = 60
HOUSE = Path(cf.__file__).parent
WITH_EXAMPLES = [p.relative_to(HOUSE.parent) for p in sorted(HOUSE.rglob("*.py")) if ">>> " in p.read_text("utf-8")]


def documented(name: str) -> str:
    """The docstring of a class or function; of a registry that of its module, as a dict has none."""
    value = getattr(cf, name)
    owner = value if inspect.isclass(value) or inspect.isroutine(value) else import_module(HOMES[name])
    return inspect.getdoc(owner) or ""


def described(docstring: str) -> set[str]:
    """The names before a colon under Args and Attributes."""
    blocks = re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    heads = re.findall(r"^    ([*\w, ]+): ", "\n".join(blocks), re.MULTILINE)
    return {name.strip(" *") for head in heads for name in head.split(",")}


def test_there_is_one_list_and_it_is_short() -> None:
    assert dir(cf) == cf.__all__ == sorted(HOMES)
    assert len(HOMES) <= MOST
    assert re.fullmatch(r"\d+\.\d+\.\d+", cf.__version__)


def test_a_name_that_is_not_in_it_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fine_tune"):
        cf.fine_tune  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", sorted(HOMES))
def test_each_name_has_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = documented(name).partition("Example:\n")[2]
    assert re.search(rf"\.{name}\b", examples), f"{name} has no example of its use"
    for package in re.findall(r">>> (?:from|import) (\w+)", examples):
        pytest.importorskip(package, reason=f"the example of {name} needs {package}")
    monkeypatch.chdir(tmp_path)  # some examples save a model
    test = doctest.DocTestParser().get_doctest(examples, {}, name, HOMES[name], 0)
    ended = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert ended.attempted > 1
    assert not ended.failed, capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(HOMES))
def test_each_argument_of_a_public_name_is_described(name: str) -> None:
    value = cf.ClipFewShotError if name.endswith("Error") else getattr(cf, name)  # errors take what their base takes
    asked = set() if isinstance(value, dict) else set(inspect.signature(value).parameters) - {"args", "kwargs"}
    assert asked <= described(inspect.getdoc(value) or "")


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.as_posix())
def test_the_other_examples_of_a_module_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder().find(module, globs={}):
        if test.name.rpartition(".")[2] not in HOMES:
            ended = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
            assert not ended.failed, capsys.readouterr().out
