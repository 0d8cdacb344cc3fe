"""One name, one meaning; public functions begin with a verb or are the noun they return. Read off the source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "clip_fewshot"
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}

# What a public function does: the first word of its name. Vague ones are left out: get, compute, do, process, handle.
VERBS = {
    *re.findall(
        r"\w+",
        """
            add advance answer append apply arrange ask assemble assign autocast broadcast build calibrate carry
            centre change check choose claim clean clip collect compare convert copy count cut decode demand descend
            describe discover draw drop embed encode enqueue escape estimate evaluate explain export extend fetch find
            finetune fit flag fold format freeze gather group hash hide hold ignore import infer ingest insert join
            judge keep lay limit list load log look main make mask match measure merge mine name normalise number open
            order parse prefetch prepare preprocess preserve pretrain print project prove put rank read recognise
            recompute reembed refit refuse refuses relink remove rename render replace replay report require resize
            resolve resume round run save say scale score search seed select serve shorten show shrink solve split strip
            suggest time tokenize train tune undo use validate walk warn watch wrap write
        """,
    ),
    *("is", "can", "needs", "reads", "has", "to"),  # questions, and conversions as to_rgb
}

# What a public function returns: the last word of its name, also before "of", "for", "at", "by", "in" and the like.
NOUNS = {
    *re.findall(
        r"\w+",
        """
            accuracy agreement alarms alpha answer arcface argument ari arms article attention aupr auroc batch
            batches bytes card chance choices clusters code contents cores cosines curve curves cut cuts data
            deviates difference digest digits distances dot dtype eer entropy entry error f1 factor facts features
            fields floor folds fpr95 frame generator gradients grid hits ids image integer interval item key kind
            kmeans labels length likelihood line logits loss mapping margin matrix members memory model name
            neighbors nmi objective offset option options panels part parts paths pictures pixels plot points prefix
            probabilities range rank ranking rate rates recall record rises root rows scores seed shots sides state
            step summary table targets test text texts thumbnail tree uri values view views weights width world
        """,
    ),
}
LINKS = {"of", "for", "at", "by", "in", "from", "without", "on", "out", "too"}
COMMAND = {"DESCRIPTION", "EXAMPLES", "Options", "main"}
AUTHORS = {"benjamini_hochberg", "storey", "sinkhorn"}  # methods known by the names of their authors


def is_good(name: str) -> bool:
    words = name.split("_")
    if words[0] in VERBS or name in AUTHORS:
        return True
    end = next((i for i, word in enumerate(words) if i and word in LINKS), len(words))
    return words[0] not in LINKS and bool({words[-1], words[end - 1]} & NOUNS)


def public_functions() -> list[tuple[str, str]]:
    """Module and name of each. Contracts are left out: each is a sentence that must hold, and the name of a failure."""
    return [
        (place, node.name)
        for place, tree in sorted(TREES.items())
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in contracts(tree)
    ]


def contracts(tree: ast.Module) -> set[str]:
    checks = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_CHECKS"]
    return {name.id for node in checks for name in ast.walk(node.value) if isinstance(name, ast.Name)}


def test_public_functions_begin_with_a_verb_or_are_the_noun_they_return() -> None:
    functions = public_functions()
    others = [f"{place}: {name}" for place, name in functions if not is_good(name)]
    share = 1 - len(others) / len(functions)
    print(f"{share:.1%} of {len(functions)} public functions; the others: {', '.join(others)}")
    assert share >= 0.95, others


def test_the_rule_for_names_refuses_participles_adverbs_and_vague_verbs() -> None:
    bad = ["joined", "kept", "strictly", "too_few", "by_size", "on_spark", "without", "get_x", "compute_y", "do_it"]
    assert not [name for name in bad if is_good(name)]


def definitions() -> dict[str, list[str]]:
    """Every class and every public constant of a module by name.

    Type variables do not count, nor do the names that make a module a command: each command has the same ones.
    A private constant may stand in two modules, because its module is its only user (Python's own rule for the
    underscore). A private class may not: messages, traces and pickles show its name.
    """
    found = defaultdict(list)
    for place, tree in TREES.items():
        form = COMMAND if place.startswith("commands/") else set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name not in form:
                found[node.name].append(f"{place}:{node.lineno}")
        for node in tree.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or "TypeVar(" in ast.unparse(node):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (name for target in targets for name in ast.walk(target)):
                stored = isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
                if stored and name.id not in form and not name.id.startswith("_"):
                    found[name.id].append(f"{place}:{node.lineno}")
    return found


def test_no_two_classes_or_constants_have_one_name() -> None:
    twice = {name: places for name, places in definitions().items() if len(places) > 1}
    assert not twice, twice


COUNTED = "pictures|images|classes|groups|shots|rows|samples|files|trials|captions|copies|pairs|support sets|layers"
COUNTED_NOUN = re.compile(rf" (?:[a-z-]+ )?(?:{COUNTED})\b")


def find_counts(tree: ast.AST) -> list[int]:
    """Lines on which a noun in the plural stands behind a number that may be 1; limits in capitals are none."""
    return [
        value.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value, text in zip(node.values, node.values[1:], strict=False)
        if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant) and COUNTED_NOUN.match(text.value)
        if ast.unparse(value.value).startswith("len(") or ast.unparse(value.format_spec or value).strip("f'\"") == ","
        if not re.fullmatch("[A-Z_]+", ast.unparse(value.value))
    ]


def test_a_count_stands_before_its_noun_by_number_which_knows_one_from_many() -> None:
    assert find_counts(ast.parse('f"{n:,} pictures", f"{len(a)} new classes"')) == [1, 1]
    assert not find_counts(ast.parse("""f"{number(n, 'picture')}, {MOST:,} files, {n:.2f} pairs" """))
    found = [f"{place}:{line}" for place, tree in sorted(TREES.items()) for line in find_counts(tree)]
    assert not found, found
