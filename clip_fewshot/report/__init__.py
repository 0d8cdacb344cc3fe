"""results.json, one self-contained report.html, and the table for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_fewshot.plots import density_panels as density_panels
from clip_fewshot.plots import det_curves as det_curves
from clip_fewshot.plots import embedding_plot as embedding_plot
from clip_fewshot.plots import modality_gap as modality_gap
from clip_fewshot.plots import shots_panels as shots_panels
from clip_fewshot.plots import spread as spread
from clip_fewshot.plots.methods import display_name as display_name
from clip_fewshot.plots.methods import ordered as ordered
from clip_fewshot.plots.views import EmbeddingView as EmbeddingView
from clip_fewshot.plots.views import NoveltyView as NoveltyView
from clip_fewshot.plots.views import ShotPoint as ShotPoint
from clip_fewshot.plots.views import TrialRow as TrialRow
from clip_fewshot.report.grid import GridCell as GridCell
from clip_fewshot.report.grid import picture_grid as picture_grid
from clip_fewshot.report.headline import headline_table as headline_table
from clip_fewshot.report.page import render_page as render_page
from clip_fewshot.report.record import ClusterView as ClusterView
from clip_fewshot.report.record import DiscoveryView as DiscoveryView
from clip_fewshot.report.record import PredictionExample as PredictionExample
from clip_fewshot.report.record import RunRecord as RunRecord
from clip_fewshot.report.schema import check_results as check_results
from clip_fewshot.runtime.files import write_json, write_text


def write_report(folder: Path, results: dict[str, Any], record: RunRecord) -> None:
    """Write ``folder/report.html`` and ``folder/results.json``.

    The page is written first: where results.json exists, the run is complete.

    Args:
        folder: created where it is missing; files of an earlier report are replaced.
        results: a dict of schema 1.
        record: pictures and arrays of the same run.

    Raises:
        ArtifactError: a field of ``results`` is missing or ill-typed; nothing is written then.
        ResourceError: the folder cannot be written to.
    """
    check_results(results)
    write_text(folder / "report.html", render_page(results, record))
    write_json(folder / "results.json", results)
