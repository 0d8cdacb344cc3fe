"""The main job: `clip-fewshot few-shot photos/ --trials 50`.

From a few labelled pictures to a classifier that can say "unknown", with a report.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.imports import import_quickly
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.run import command_line, describe_program
from clip_fewshot.commands.cli.shared_options import quiet_option
from clip_fewshot.config import FewShotConfig, option

DESCRIPTION = "Search, refit, test, reject the unknown and group it; write results.json, report.html and a model."
EXAMPLES = ("--trials 50", "photos/ --approaches tip-adapter,mlp --unseen 3 --detector lof --unlabelled more/")


@dataclass(frozen=True)
class Options(FewShotConfig):
    json: bool = option(False, "print JSON on standard output", group="output")
    quiet: bool = quiet_option()


def main(options: Options) -> int:
    with import_quickly():
        from clip_fewshot.pipeline import run_few_shot
        from clip_fewshot.protocol.run_folder import choose_folder, resume_config
        from clip_fewshot.report.headline import headline_table
        from clip_fewshot.report.verdict import suggest_commands

    config = FewShotConfig(options.data, options.search, options.run)
    with show_progress() as progress:
        results = run_few_shot(config, progress, command_line())
    config = resume_config(config)
    out = choose_folder(config.data, config.run.out)
    unlabelled = results.get("unlabelled", {"said": (), "warnings": ()})
    opening.warn([*results["warnings"], *unlabelled["warnings"]])
    print(json.dumps(results, indent=1, sort_keys=True) if options.json else headline_table(results))
    for command in [] if options.json else suggest_commands(results, describe_program(), out / "model"):
        print(f"next: {command}")
    for said in unlabelled["said"][:1]:
        print(f"{said}; taken out before as copies of sealed pictures: {unlabelled['sealed']:,}", file=sys.stderr)
    print(f"report: {out / 'report.html'}   model: {out / 'model'}", file=sys.stderr)
    return 0
