"""The results of runs as one table: `clip-fewshot results runs/a runs/b --out results.csv`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import CommandOptions
from clip_fewshot.config import OutputOptions, option

DESCRIPTION = "The headline of few-shot runs side by side, with 95 % intervals; as CSV, Parquet, LaTeX or Markdown."
EXAMPLES = ("runs/digits-mini runs/digits-wild-mini", "runs/digits-mini --out results.tex")
TABLE_FORMS = (".csv", ".parquet", ".tex", ".md")


def parse_table(text: str) -> str:
    """The path of a table of results."""
    if Path(text).suffix not in TABLE_FORMS:
        raise ValueError(f"expected a name that ends in {', '.join(TABLE_FORMS)}, got {text!r}")
    return text


@dataclass(frozen=True, kw_only=True)
class Options(CommandOptions, OutputOptions):
    results: tuple[Path, ...] = field(
        metadata={"positional": True, "metavar": "RUN", "help": "folders of few-shot runs"}
    )
    out: str | None = option(
        None, "write the table to this .csv, .parquet, .tex or .md", parse=parse_table, metavar="PATH", group="output"
    )


def main(options: Options) -> int:
    from clip_fewshot.data.names import escape
    from clip_fewshot.report.result_tables import format_results, list_results, write_result_table
    from clip_fewshot.report.tables import format_plain
    from clip_fewshot.runtime.outputs import check_file

    out = None if options.out is None else Path(options.out)
    if out is not None:
        check_file(out, options.overwrite, options, is_own=lambda there: False)
    rows = list_results(options.results)
    if out is not None:
        write_result_table(out, rows)
    print(json.dumps({"schema": 1, "results": rows}, indent=1) if options.json else format_plain(format_results(rows)))
    if out is not None:
        print(f"written to {escape(out)}", file=sys.stderr)
    return opening.DONE
