"""The report page: one HTML file that opens anywhere, offline; without scripts too, which only filter and sort.

Everything is inside the file: style, drawings (SVG) and thumbnails (PNG or JPEG) as data URIs. A content security
policy in the page forbids the network and every script but its own one, so that a hostile class name could do nothing
even if an escape were missing. Tables scroll sideways by themselves on a phone; the page never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from clip_fewshot import plots
from clip_fewshot.data.names import number
from clip_fewshot.plots import text
from clip_fewshot.plots.methods import display_name
from clip_fewshot.plots.views import EmbeddingView, list_mistakes
from clip_fewshot.report import sections
from clip_fewshot.report.gallery import MATRIX_UP_TO, build_gallery, choose_shelves
from clip_fewshot.report.glossary import TERMS, explain, name_anchor
from clip_fewshot.report.headline import FIGURES, collect_warnings, describe_selection, headline_rows
from clip_fewshot.report.pictures import hash_source, svg_uri
from clip_fewshot.report.record import DiscoveryView, RunRecord
from clip_fewshot.report.schema import check_results
from clip_fewshot.report.verdict import draw_conclusions
from clip_fewshot.runtime.files import write_text
from clip_fewshot.runtime.outputs import shorten_home, write_results
from clip_fewshot.runtime.units import format_seconds

MISTAKES_LISTED = 20  # beside the drawing of a matrix of many classes


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
    write_text(folder / "report.html", shorten_home(render_page(results, record)))
    write_results(folder / "results.json", results)


def render_page(results: Mapping[str, Any], record: RunRecord) -> str:
    """The page as HTML text.

    Args:
        results: a dict of schema 1, already checked.
        record: pictures and arrays of the same run.

    Returns:
        A whole HTML document, the same bytes for the same input.
    """
    rows = headline_rows(results)
    scale, strips = sections.lay_out_strips(rows)
    gallery, script = build_gallery(record), '"use strict";\n' + _read("report.js")
    return _template().render(
        results=results,
        record=record,
        style=_read("page.css"),
        script=script,
        script_hash=hash_source(script),
        terms=TERMS,
        conclusions=draw_conclusions(results),
        selection=describe_selection(results),
        warnings=collect_warnings(results),
        tiles=sections.build_tiles(results),
        rows=list(zip(rows, strips, strict=True)),
        scale=scale,
        measures=FIGURES,
        figures=_figures(results, record),
        per_class=[] if record.confusion is None else sections.build_class_rows(record.confusion, record.class_names),
        matrix=record.confusion if len(record.class_names) <= MATRIX_UP_TO else None,
        mistakes=[] if record.confusion is None else list_mistakes(record.confusion, MISTAKES_LISTED),
        gallery=gallery,
        shelves=choose_shelves(gallery, record),
        clusters=[] if record.discovery is None else [sections.cluster_card(c) for c in record.discovery.clusters],
        n_flagged=0 if record.discovery is None else len(record.discovery.labels) - record.discovery.joined,
        n_joined=0 if record.discovery is None else record.discovery.joined,
        n_outliers=0 if record.discovery is None else record.discovery.n_outliers,
        facts=sections.collect_facts(results),
        search_facts=sections.collect_search_facts(results["search"]),
    )


def _figures(results: Mapping[str, Any], record: RunRecord) -> dict[str, Any]:
    """The plots of what was measured, by the name the template knows them under."""
    figures: dict[str, Any] = {
        "embeddings": [(_embedding_caption(v), plots.embedding_plot(v)) for v in record.embeddings]
    }
    if record.history:
        figures["history"] = plots.history_plot(record.history)
    if record.reliability:
        figures["reliability"] = plots.reliability_plot(record.reliability)
    if record.confusion is not None and len(record.class_names) > MATRIX_UP_TO:
        figures["confusion"] = plots.confusion_plot(record.confusion, record.class_names)
    if record.novelty is not None and results["novelty"] is not None:
        figures |= {"det": plots.det_plot(record.novelty), "densities": plots.density_plot(record.novelty)}
    found = record.discovery
    if found is not None and found.clusters and len(found.labels) > 1:
        exemplars = {cluster.number: cluster.exemplar for cluster in found.clusters}
        figures["dendrogram"] = _tree_caption(found), plots.dendrogram_plot(found.linkage, found.labels, exemplars)
    if record.shots:
        figures["shots"] = plots.shots_plot(record.shots)
    return figures


def _embedding_caption(view: EmbeddingView) -> str:
    if not len(view.texts):
        return f"{view.title}: dots are images, on their first two principal components."
    gap = plots.measure_modality_gap(view.images, view.texts)
    stars = "stars the class names as the text tower reads them"
    return f"{view.title}: dots are images, {stars}. On the unit sphere mean image and mean text lie {gap:.2f} apart."


def _tree_caption(view: DiscoveryView) -> str:
    grey = "; grey ones are in no group" if view.n_outliers else ""
    first = f"Merge tree of the flagged images, one colour per group{grey}."
    if plots.find_cut_height(view.linkage, view.labels) is not None:
        rest = ", and the grey rest" if view.n_outliers else ""
        return f"{first} Cut at the dashed line, it falls into the groups{rest}."
    if len(view.clusters) == 1 and not view.n_outliers:
        return "Merge tree of the flagged images. All are one group, so nothing is cut."
    return f"{first} No cut at one height yields these groups, so none is drawn."


def _finalize(value: Any) -> Any:
    """Applied to every value the template prints, so that no name reaches the page uncleaned."""
    return text.clean(value) if type(value) is str else value


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "fraction": text.format_fraction,
        "interval": text.format_interval,
        "seconds": format_seconds,
        "settings": text.format_settings,
        "count": number,
        "shorten": text.shorten,
        "method": display_name,
        "explain": explain,
        "anchor": name_anchor,
        "svg": lambda plot: svg_uri(plot.svg),
    }
    return environment.from_string(_read("template.html.j2"))
