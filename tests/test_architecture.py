"""The import rules of the house, read off the source with ``ast``; nothing is imported to check them."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clip_fewshot"

# Ground floor first: a file imports only from what stands above it.
FLOORS = (  # noqa: SIM905
    "errors types config geometry runtime data heads losses optim evaluation backbones neighbors probes "
    "novelty conformal discovery plots features tuning few_shot open_world contrastive report protocol pipeline "
    "commands testing"
).split()

# Third-party package -> the floors that may import it.
RESERVED = {
    "sklearn": {"probes", "novelty", "conformal", "discovery", "evaluation", "data/builtin.py"}
    | {"few_shot/classifier.py", "open_world/classifier.py"},  # its base classes
    "optuna": {"few_shot"},
    "matplotlib": {"plots"},
    "jinja2": {"report"},
    "open_clip": {"backbones/open_clip.py"},
    "torchvision": set(),
    "transformers": {"backbones/pretrained_text.py"},
    "pyspark": {"contrastive/distributed/spark.py"},
    "pyarrow": {"data/parquet.py"},
    "tensorboard": {"contrastive/metrics_log.py"},
}
ARRAY_ONLY = {"novelty", "conformal", "neighbors", "discovery", "evaluation"}
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "joblib.load", "torch.jit.load", "yaml.load"}


LONGEST = 19  # files in a chain of imports; a shorter house is a better one: lower it when you can


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    """The functions of docs/import_graph.py, and the modules with what each imports."""
    functions = runpy.run_path(str(ROOT / "docs/import_graph.py"))
    return functions | {"modules": functions["module_graph"]()}


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def floor(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, int]]:
    """Every module name a file imports, at any depth, with its line. ``if TYPE_CHECKING`` counts too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} relative import"
            module = node.module or ""
            if module == "clip_fewshot":
                found += [(f"clip_fewshot.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((module, node.lineno))
    return found


def ids(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def test_every_file_stands_on_a_known_floor() -> None:
    assert {floor(p) for p in module_files()} <= {*FLOORS, "__init__", "__main__"}


@pytest.mark.parametrize("path", module_files(), ids=ids(module_files()))
def test_imports_point_down(path: Path) -> None:
    if floor(path) == "__init__":
        return
    height = len(FLOORS) if floor(path) == "__main__" else FLOORS.index(floor(path))
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "experiments":
            pytest.fail(f"{place(path)}:{line} the library imports an experiment")
        if parts[0] != "clip_fewshot" or len(parts) == 1:
            continue
        target = parts[1]
        if target == floor(path):
            continue
        assert target in FLOORS, f"{place(path)}:{line} imports {name}, which has no floor"
        assert FLOORS.index(target) < height, f"{place(path)}:{line} imports {name} from a higher floor"
        assert {floor(path), target} != {"heads", "losses"}, f"{place(path)}:{line} heads and losses meet at the logits"
        assert not (floor(path) == "backbones" and target == "data" and parts[-1] == "dataset"), (
            "a backbone knows no dataset"
        )


@pytest.mark.parametrize("path", module_files(), ids=ids(module_files()))
def test_third_party_packages_stay_where_they_belong(path: Path) -> None:
    for name, line in imported(path):
        package = name.split(".")[0]
        allowed = RESERVED.get(package)
        if allowed is not None:
            assert floor(path) in allowed or place(path) in allowed, f"{place(path)}:{line} imports {package}"
        if floor(path) in ARRAY_ONLY:
            assert package not in {"torch", "PIL"}, f"{place(path)}:{line} sees more than arrays"


@pytest.mark.parametrize("path", module_files(), ids=ids(module_files()))
def test_no_code_is_loaded_from_files(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in FORBIDDEN_CALLS, f"{place(path)}:{node.lineno} calls {name}"
            if name == "torch.load":  # of a file whose digest is checked, see SECURITY.md
                assert place(path) == "backbones/real_photos.py", f"{place(path)}:{node.lineno} calls {name}"
                assert "weights_only=True" in ast.unparse(node)
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                assert (keyword.arg, value) not in {("weights_only", False), ("allow_pickle", True)}, (
                    f"{place(path)}:{node.lineno} loads code"
                )
        assert not isinstance(node, ast.Assert), f"{place(path)}:{node.lineno} assert in library code"


def test_no_module_imports_itself_by_way_of_others(graph: dict[str, Any]) -> None:
    assert graph["circles"](graph["modules"]) == []
    assert graph["circles"](graph["module_graph"]("experiments")) == []


def test_the_longest_way_down_grows_no_longer(graph: dict[str, Any]) -> None:
    chain = graph["longest_chain"](graph["modules"])
    assert len(chain) <= LONGEST, "\n".join(chain)


def test_the_graph_counts_lazy_imports_names_in_strings_and_what_only_type_checkers_import(
    graph: dict[str, Any], tmp_path: Path
) -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from clip_fewshot.heads.mlp import MLPHead
def late():
    from clip_fewshot import pipeline
    import_module("clip_fewshot.data.read")
"""
    (tmp_path / "example.py").write_text(source)
    targets = graph["_targets"](tmp_path / "example.py", graph["module_files"]())
    assert targets == {"clip_fewshot.heads.mlp", "clip_fewshot.pipeline", "clip_fewshot.data.read"}
    assert graph["circles"]({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert graph["longest_chain"]({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]


WRITES = {"write_text", "write_bytes", "savefig", "save_file", "to_csv", "to_json", "savez", "np.save", "torch.save"}


@pytest.mark.parametrize("path", module_files(), ids=ids(module_files()))
def test_only_runtime_writes_files(path: Path) -> None:
    if place(path) in {
        "runtime/files.py",
        "runtime/row_cache.py",
        "runtime/workers.py",
    }:  # whole files, files that only grow, and pipes
        return
    tree = ast.parse(path.read_text("utf-8"))
    durable = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "clip_fewshot.runtime.files"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in durable:
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"write_text", "write_bytes"}:
            pytest.fail(f"{place(path)}:{node.lineno} writes a file by itself")
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
        if name.endswith("open") and any(set(str(m)) & set("wax+") and len(str(m)) <= 3 for m in modes):
            pytest.fail(f"{place(path)}:{node.lineno} opens a file to write")
        assert name not in WRITES, f"{place(path)}:{node.lineno} calls {name}"


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(out.stdout.split())


def test_heads_cost_torch_alone() -> None:
    loaded = loaded_after("from clip_fewshot.heads import MLPHead, ArcFaceHead")
    assert not loaded & {"sklearn", "optuna", "matplotlib", "scipy", "pandas", "PIL"}


def test_what_answers_in_words_loads_no_drawing_and_no_statistics() -> None:
    assert not loaded_after("import clip_fewshot.report.answer_tables") & {"matplotlib", "ftfy"}
    loaded = loaded_after("import clip_fewshot.protocol.zero_shot_accuracy; print(*sys.modules)")
    assert not loaded & {"matplotlib", "ftfy", "sklearn", "scipy.stats"}


def test_the_package_itself_costs_nothing() -> None:
    assert not loaded_after("import clip_fewshot") & {"torch", "sklearn", "numpy"}
