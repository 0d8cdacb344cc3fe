"""What a comparison of detectors found, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_fewshot.data.names import number
from clip_fewshot.protocol.compare_detectors import CHOSEN
from clip_fewshot.report import tables

STATISTICS = {"auroc": "AUROC", "auroc_far": "AUROC far", "aupr": "AUPR", "fpr95": "FPR95", "eer": "EER"}
MOST_ALTERNATIVES = 12  # alternatives that the text names


def describe_comparison(found: Mapping[str, Any]) -> str:
    """What was compared, and two tables: how well novel pictures are recognised, and what was decided at each alpha."""
    lines = [
        *found["notes"],
        f"{found['data']}, {found['model']}, {number(found['shots'], 'shot')} a class, "
        f"{number(found['seeds'], 'support set')}, "
        f"{found['n_known']:,} known and {found['n_novel']:,} unknown test pictures"
        + (", judged together" if found["together"] else ""),
        f"known classes: accuracy {tables.estimate_of(found['accuracy'])} of the frozen probe",
        "",
        tables.format_plain([["detector", *STATISTICS.values(), "AUROC - auto"], *map(_told, found["rows"])]),
        "",
        tables.format_plain([_head(found["rows"][0]["rates"]), *map(_decided, found["rows"])]),
        "",
    ]
    refusals = {(one["alpha"], one["refused"]) for row in found["rows"] for one in row["rates"] if one["refused"]}
    lines += [f"alpha {alpha:g} refused: {why}" for alpha, why in sorted(refusals)]
    auto = next(row for row in found["rows"] if row["detector"] == CHOSEN)
    lines += [f"auto chose {', '.join(f'{what} ({n})' for what, n in auto['chosen'].items())}"]
    lines += [f"{name} refused: {why}" for name, why in found["refused"].items()]
    offered = found["alternatives"]
    if offered:
        head = ["what auto tried on the support sets alone", "hidden classes", "broken copies"]
        lines += ["", tables.format_plain([head, *map(_tried, offered[:MOST_ALTERNATIVES])])]
        lines += [f"and {len(offered) - MOST_ALTERNATIVES} more in --json"] if len(offered) > MOST_ALTERNATIVES else []
    return "\n".join(lines)


def _told(row: Mapping[str, Any]) -> list[str]:
    difference = row["auroc_minus_auto"]
    cells = [tables.estimate_of(row[key]) for key in STATISTICS]
    if difference is None:
        return [row["detector"], *cells, "-"]
    low, high = difference["ci95"]
    return [row["detector"], *cells, f"{difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"]


def _tried(row: Mapping[str, Any]) -> list[str]:
    return [row["alternative"], f"{row['near']:.3f}", "-" if row["far"] is None else f"{row['far']:.3f}"]


def _head(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["detector", *(f"{what} at {one['alpha']:.3g}" for one in found for what in ("false alarms", "detected"))]


def _decided(row: Mapping[str, Any]) -> list[str]:
    cells = [row["detector"]]
    for one in row["rates"]:
        cells += (
            ["refused"] * 2
            if one["refused"]
            else [tables.estimate_of(one["false_alarm_rate"]), tables.estimate_of(one["detection_rate"])]
        )
    return cells
