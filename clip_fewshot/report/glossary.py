"""The words of the report page that not everybody knows, and how the page explains each where it stands."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from clip_fewshot.plots import text

TERMS = {
    "unknown": "Like nothing the model has learned: at most the asked-for share of known pictures look as strange.",
    "false alarms": "Pictures of known classes that are called unknown.",
    "hidden": "Not shown to the model, so that its pictures can play the unknown. The page also says unseen.",
    "sealed": "Put aside before any choice was made, and opened once, at the end. Nothing was tuned on it.",
    "support set": "The few labelled pictures that the model learns from. Each seed draws other ones.",
    "frozen probe": "Logistic regression on what the untrained model sees: the usual thing to beat.",
    "zero-shot": "The class names alone, no labelled picture.",
    "raw pixels": "Logistic regression on the pixels, without any model.",
    "95 % interval": "Where the true figure lies in 95 of 100 such experiments: it covers the choice of pictures.",
    "macro-F1": "The mean over classes of F1, so that rare classes count as much as others. 1 is best.",
    "AUROC": "How often a known picture looks less strange than an unknown one. 1 is best, .5 is a coin.",
    "EER": "Share of errors where false alarms and misses are equally frequent. 0 is best.",
    "FPR95": "Share of known pictures called unknown where 95 % of the unknown ones are found. 0 is best.",
    "ARI": "Agreement of groups with the true classes. 1 is the same, 0 is chance.",
    "NMI": "Agreement of groups with the true classes, in shared information. 1 is the same.",
    "NLL": "Mean −ln p of the true class, so that being sure and wrong costs much. 0 is best.",
    "Brier": "Mean squared distance of the probabilities from the truth. 0 is best.",
    "ECE": "Mean gap between what is promised (probability) and what is kept (accuracy). 0 is best.",
    "precision": "Of the pictures that are answered so, the share that is.",
    "recall": "Of the pictures of the class, the share that is answered so.",
    "F1": "One figure for precision and recall. 1 is best.",
    "ruled out": "A class that would be as unlikely for too few of its pictures. What is left holds the true one.",
}
_WORDS = re.compile(r"(?<![\w&-])(" + "|".join(map(re.escape, sorted(TERMS, key=len, reverse=True))) + r")(?![\w;-])")


def explain(value: str) -> Markup:
    """``value`` as HTML, where the first of each term is a link to the glossary that says on hover what it means.

    Example:
        >>> from clip_fewshot.report.glossary import explain
        >>> explain("EER < .1")[:35]
        Markup('<a class="term" href="#term-eer" da')
    """
    met: set[str] = set()

    def mark(found: re.Match[str]) -> str:
        term = found[1]
        if term in met:
            return term
        met.add(term)
        place = name_anchor(term)
        return f'<a class="term" href="#{place}" data-tip="{escape(TERMS[term])}" aria-describedby="{place}">{term}</a>'

    return Markup(_WORDS.sub(mark, str(escape(text.clean(value)))))


def name_anchor(term: str) -> str:
    """The id of a term's entry: ``term-false-alarms``."""
    return "term-" + re.sub(r"\W+", "-", term.lower())
