"""The verdict: four answers in plain words, each of which follows from figures, with what to do about a bad one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clip_fewshot.data.names import number
from clip_fewshot.plots import text
from clip_fewshot.plots.methods import BASELINE_TITLES, CLOSED_FORMS, display_name

PLAIN = ("raw_pixels", "zero_shot")  # the one has no model, the other no labelled pictures: both must be beaten
UNTRAINED = {*BASELINE_TITLES, *CLOSED_FORMS}
MATTERS = 0.05  # of accuracy: an interval that holds both no difference and one of this size is too wide to tell
CHANCE = 0.5  # AUROC of a coin; as a share of the unknown that are caught, most of them
OTHER_MODEL = "Try another --model"

Found = Mapping[str, Any]  # a difference or a result as it stands in JSON


class Conclusion(NamedTuple):
    """One answer.

    Attributes:
        about: "accuracy", "sets", "unknown", "groups" or "search".
        text: the answer, in sentences.
        advice: what to do about it; "" where nothing has to be done.
    """

    about: str
    text: str
    advice: str = ""


def draw_conclusions(results: Found) -> list[Conclusion]:
    """The answers, from a dict of schema 1; what a run did not record has none."""
    advice = " ".join(_advise(results))
    told = [Conclusion("accuracy", write_verdict(results), advice), *_describe_sets(results.get("prediction_sets"))]
    told += [_judge_unknown(results), _describe_groups(results)]
    return told + ([_describe_search(results["search"])] if "moved" in results["search"] else [])


def _describe_sets(found: Found | None) -> Iterator[Conclusion]:
    """How often the classes that cannot be ruled out hold the true one, and how many they are."""
    if found is not None:
        held, asked = found["coverage"], text.format_fraction(1 - found["alpha"])
        share = f"{text.format_fraction(held['mean'])} {text.format_interval(held['ci95'])}"
        told = f"The classes that cannot be ruled out hold the true one for {share} of the test images"
        size = f"An image has {found['size']:.2f} such classes on average."
        yield Conclusion("sets", f"{told}, where {asked} was asked for{_excuse(found)}. {size}")


def _excuse(found: Found) -> str:
    """Why sets may hold the true class less often than was asked for."""
    if found["coverage"]["mean"] >= 1 - found["alpha"]:
        return ""
    near = found["coverage"]["ci95"][1] >= 1 - found["alpha"]
    return " (less by no more than chance)" if near else " (the mean over support sets is promised, and this is one)"


def write_conclusions(results: Found) -> str:
    """The same for a terminal, an answer a line, each advice on a line below its answer."""
    told = draw_conclusions(results)
    return "\n".join(f"{one.about}: {one.text}" + (f"\n    advice: {one.advice}" if one.advice else "") for one in told)


def suggest_commands(results: Found, program: str, model: Path) -> list[str]:
    """What to run next with the saved model, as a shell takes it.

    Args:
        program: how commands are started, such as clip-fewshot.
        model: folder of the saved model.
    """
    told = repr(os.fsencode(model) + b'"')[2:-2]  # the bytes in single quotes, as repr has them beside a double one
    place = shlex.quote(str(model)) if str(model).isprintable() else f"$'{told}'"
    store = f"{program} open-world init store/ {place}"
    calls_unknown = results["novelty"] or results.get("rehearsal")
    return [f"{program} predict {place} new_pictures/", *([store] if calls_unknown else [])]


def write_verdict(results: Found) -> str:
    """A few sentences: which method was chosen, what it beats, and whether the data can tell."""
    best = results["best"]
    name, test = display_name(best["approach"]), best["test"]
    images = number(test["n_test"], "sealed test image")
    reached = f"{text.format_fraction(test['mean'])} {text.format_interval(test['ci95'])} on {images}"
    return " ".join((f"{name} was chosen: {reached}.", *_compare(best, results)))


def _compare(best: Found, results: Found) -> Iterator[str]:
    """What the test set says of the choice. Of the trained approaches those are named that are better."""
    if best["approach"] in CLOSED_FORMS:
        yield "No trained approach beat it in validation by more than the noise (one standard error)."
    found = _differences(best)
    if not found and best["approach"] != "linear_probe":
        held = results["linear_probe"]
        yield f"The frozen probe has {text.format_fraction(held['mean'])} {text.format_interval(held['ci95'])}."
    untrained = _keep(found, lambda name, _: name in UNTRAINED)
    if ahead := _keep(untrained, lambda _, one: _is_ahead(one)):
        every = "every baseline, " if len(ahead) == len(untrained) > 1 else ""
        yield f"It beats {every}{_list_gains(ahead)}."
    if missed := _keep(untrained, lambda name, one: name in PLAIN and not _is_ahead(one)):
        yield f"It is not better than {_list_gains(missed)}."
    rest = _keep(found, lambda name, _: name not in PLAIN)
    if behind := _keep(rest, lambda _, one: _is_behind(one)):
        yield f"On the test images it is behind {_list_gains(behind)}."
    if level := _keep(rest, lambda name, one: name in UNTRAINED and not _is_ahead(one) and not _is_behind(one)):
        yield f"The difference to {_list_gains(level)} is within the noise."


def _advise(results: Found) -> Iterator[str]:
    """What may help where accuracy is nothing to be proud of, or cannot be told from that of others."""
    found = _keep(_differences(results["best"]), lambda name, _: name in UNTRAINED)
    missed = _keep(found, lambda name, one: name in PLAIN and not _is_ahead(one))
    if "raw_pixels" in missed:
        mini = results["config"].get("model") == "mini"
        why = ": mini has only ever seen rendered glyphs, photos has seen photographs" if mini else ""
        yield f"{OTHER_MODEL}{why}."
    if "zero_shot" in missed:
        yield "Try more --shots: the names of the classes alone say as much."
    if unclear := _keep(found, lambda _, one: one["ci95"][0] <= 0 <= one["ci95"][1] and _reach(one) > MATTERS):
        there = f"{results['best']['test']['n_test']:,}"
        enough = "; ".join(_say_enough(name, one) for name, one in unclear.items())
        yield f"{there} test pictures are too few to tell it from {enough}."


def _say_enough(name: str, found: Found) -> str:
    """How many test pictures would tell, as far as that can be said."""
    needed = found.get("n_images_to_settle")
    if needed is None:
        return f"{display_name(name)} (here more support sets, --seeds, come before more pictures)"
    return f"{display_name(name)} (about {float(f'{needed:.2g}'):,.0f} would settle a difference of this size)"


def _judge_unknown(results: Found) -> Conclusion:
    """Whether unknown pictures are told: hidden classes, or without one known classes that played the unknown."""
    found = results["novelty"] or results.get("rehearsal")
    if found is None:
        return Conclusion("unknown", "Nothing was there to calibrate a detector on.", "It takes 2 --shots or more.")
    caught, asked = found["detection_rate"], f"{found['alpha']:.1%}"
    if not results["novelty"]:
        how = f"As no class was hidden (--unseen), known ones were in turn: at {asked} false alarms"
        said = f"{how} {caught:.0%} of their pictures are caught; {_describe_area(found)}."
    elif caught is None:
        said = f"No picture is called unknown at the {asked} false alarms asked for; {_describe_area(found)}."
    else:
        hidden = number(len(results["dataset"]["unseen"]), "hidden class", "hidden classes")
        alarms = f"{found['false_alarm_rate']:.1%} of the known ones ({asked} asked for)"
        said = f"{caught:.0%} of the pictures of {hidden} are called unknown, and {alarms}; {_describe_area(found)}."
    if "auroc_ci95" in found and found["auroc_ci95"][0] <= CHANCE:
        return Conclusion(
            "unknown", f"It cannot tell unknown pictures: a coin's AUROC is .5. {said}", f"{OTHER_MODEL}."
        )
    if caught is None:
        return Conclusion("unknown", said, f"To call any so, {text.clean(found.get('refused') or 'raise --alpha')}.")
    if caught < CHANCE:
        return Conclusion(
            "unknown", f"It cannot tell most unknown pictures. {said}", f"{OTHER_MODEL}, or a higher --alpha."
        )
    return Conclusion("unknown", said)


def _describe_area(found: Found) -> str:
    interval = f" {text.format_interval(found['auroc_ci95'])}" if "auroc_ci95" in found else ""
    return f"AUROC is {text.format_fraction(found['auroc'])}{interval}"


def _describe_groups(results: Found) -> Conclusion:
    found = results["discovery"]
    if found is None:
        why = "no picture can be called unknown" if results["dataset"]["unseen"] else "no class was hidden (--unseen)"
        return Conclusion("groups", f"None were looked for: {why}.")
    what = f"the {number(found['n_flagged'], 'picture')}" if "n_flagged" in found else "what was"
    joined = f" and {found['n_joined']:,} that joined them" if found.get("n_joined") else ""
    groups = number(found["n_clusters"], "group")
    hidden = number(len(results["dataset"]["unseen"]), "class was", "classes were")
    said = f"{groups} among {what} called unknown{joined}; {hidden} hidden."
    if found["ari"] is None or not found["n_clusters"]:
        return Conclusion("groups", said)
    said += f" ARI with the true classes is {text.format_fraction(found['ari'])} (1: the same, 0: chance)."
    return Conclusion("groups", said, "" if found["ari"] >= CHANCE else "Look into a group before you name it.")


def _describe_search(search: Found) -> Conclusion:
    if search["moved"]:
        return Conclusion("search", f"It found better settings for {', '.join(map(display_name, search['moved']))}.")
    said = "The search changed nothing: every approach ends with the settings it began with."
    return Conclusion("search", said, "Fewer --trials give the same model.")


def judge_results(results: Found) -> dict[str, tuple[str, bool | None]]:
    """By figure of the first screen what it is worth in words, and whether that is good; None where it is open."""
    grades: dict[str, tuple[str, bool | None]] = {"accuracy": _grade_accuracy(results["best"])}
    if probe := results["best"].get("difference_to_probe"):
        ahead, behind = _is_ahead(probe), _is_behind(probe)
        said = "good: better" if ahead else "bad: worse" if behind else "open: within the noise"
        grades["probe"] = said, True if ahead else False if behind else None
    if novelty := results["novelty"]:
        grades["unknown"] = _grade_unknown(novelty)
    if groups := results["discovery"]:
        alike = groups["ari"] is not None and groups["n_clusters"] > 0 and groups["ari"] >= CHANCE
        worse = "bad: groups mix classes" if groups["n_clusters"] else "bad: no group was found"
        grades["groups"] = ("good: groups are much like classes" if alike else worse), alike
    return grades


def _grade_accuracy(best: Found) -> tuple[str, bool | None]:
    found = _keep(_differences(best), lambda name, _: name in UNTRAINED)
    if missed := [name for name, one in found.items() if name in PLAIN and not _is_ahead(one)]:
        return f"bad: not better than {display_name(missed[0])}", False
    if behind := [name for name, one in found.items() if _is_behind(one)]:
        return f"bad: behind {display_name(behind[0])}", False
    level = [name for name, one in found.items() if not _is_ahead(one)]
    if level or not found:
        return f"open: level with {display_name(level[0])}" if level else "open: compared with nothing", None
    return "good: better than " + ("every baseline" if len(found) > 1 else display_name(next(iter(found)))), True


def _grade_unknown(found: Found) -> tuple[str, bool | None]:
    if "auroc_ci95" in found and found["auroc_ci95"][0] <= CHANCE:
        return "bad: no better than a coin", False
    if found["detection_rate"] is None:
        return "open: calls nothing unknown", None
    if found["detection_rate"] < CHANCE:
        return "bad: misses most of the unknown", False
    if found["false_alarm_rate"] > 2 * found["alpha"]:
        return "bad: too many false alarms", False
    return "good: notices most of the unknown", True


def _differences(best: Found) -> Mapping[str, Found]:
    """By row, what the chosen method has more; an earlier release compared it with the frozen probe alone."""
    probe = best.get("difference_to_probe")
    return best.get("differences") or ({} if probe is None else {"linear_probe": probe})


def _keep(differences: Mapping[str, Found], wanted: Callable[[str, Found], bool]) -> dict[str, Found]:
    return {name: found for name, found in differences.items() if wanted(name, found)}


def _is_ahead(found: Found) -> bool:
    return bool(found["ci95"][0] > 0)


def _is_behind(found: Found) -> bool:
    return bool(found["ci95"][1] < 0)


def _reach(found: Found) -> float:
    return float(max(map(abs, found["ci95"])))


def _list_gains(differences: Mapping[str, Found]) -> str:
    """Each row with what the chosen method has more, on the same support sets and images."""
    return "; ".join(_gain(display_name(name), found) for name, found in differences.items())


def _gain(name: str, found: Found) -> str:
    wins, draws = sum(value > 0 for value in found["per_seed"]), len(found["per_seed"])
    gain = f"{text.format_signed(found['mean'])} {text.format_interval(found['ci95'])}"
    return f"{name} ({gain}, ahead on {wins} of {draws} support sets)"
